"""What a box says about one operation: its title, and the lines below it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

from jaxpress.capture.graph import Node, short_dtype
from jaxpress.viz.style import family_of
from jaxpress.viz.text import clean, shape_text

__all__ = ["call_name", "count_line", "node_title", "operand_role"]

# What the weights of an operation are called there, by operand position.
_ROLES: dict[str, tuple[str, ...]] = {
    "conv_general_dilated": ("x", "w"),
    "conv": ("x", "w", "b", "residual"),
    "dense": ("x", "w", "b", "residual"),
    "batch_norm": ("x", "mean", "var", "scale", "bias"),
    "batch_norm_train": ("x", "mean", "var", "scale", "bias"),
    "layer_norm": ("x", "scale", "bias"),
    "rms_norm": ("x", "scale"),
    "group_norm": ("x", "scale", "bias"),
    "embedding": ("ids", "table"),
    "lstm": ("x", "h0", "c0", "w_ih", "w_hh", "b"),
    "gru": ("x", "h0", "w_ih", "w_hh", "b"),
}
_SIGNS = {
    "add": "+", "add_any": "+", "sub": "−", "mul": "×", "div": "÷", "pow": "^",
    "gt": ">", "lt": "<", "ge": "≥", "le": "≤", "eq": "=", "ne": "≠",
}  # fmt: skip


def operand_role(node: Node, index: int) -> str:
    """What operand ``index`` is to ``node`` (``"w"``, ``"scale"``, ...); ``""`` if unknown."""
    roles = node.params.get("operands") or _ROLES.get(node.op, ())
    return clean(roles[index], 20) if index < len(roles) else ""


def node_title(node: Node, inline: dict[int, str]) -> str:
    """The operation's name and the few parameters that a reader looks for.

    Args:
      node: the operation.
      inline: scalar operands to be shown in place, by operand position.

    Returns:
      For example ``"conv 3×3 /2"``, ``"reduce_sum over 1, 2"`` or ``"mul × 0.5"``.
    """
    special = _TITLES.get(node.op)
    extra = special(node) if special is not None else ""
    if not extra and inline and len(node.inputs) <= 4:
        extra = _inline(node, inline)
    return f"{clean(node.op, 40)} {extra}".strip()


def _inline(node: Node, inline: dict[int, str]) -> str:
    sign = _SIGNS.get(node.op)
    if sign and len(node.inputs) == 2 and len(inline) == 1:
        ((index, text),) = inline.items()
        return f"{sign} {text}" if index == 1 else f"{text} {sign} ·"
    return f"({', '.join(inline.get(i, '·') for i in range(len(node.inputs)))})"


def _sizes(values: Iterable[Any] | None) -> str:
    """``(2, 2)`` as ``"2"``, ``(1, 2)`` as ``"1×2"``."""
    values = tuple(values or ())
    return clean(values[0], 12) if len(set(values)) == 1 else shape_text(values)


def _strides(values: Iterable[Any] | int | None) -> str:
    values = (values,) if isinstance(values, int) else tuple(values or ())
    return "" if all(v == 1 for v in values) else f" /{_sizes(values)}"


def _conv(node: Node) -> str:
    params, x, w = node.params, node.inputs[0], node.inputs[1]
    numbers = params.get("dimension_numbers")
    if numbers is not None and hasattr(numbers, "rhs_spec"):
        window = tuple(w.shape[i] for i in numbers.rhs_spec[2:])
        in_features = x.shape[numbers.lhs_spec[1]]
    elif isinstance(numbers, tuple | list) and len(numbers) == 3 and isinstance(numbers[1], str):
        window = tuple(n for n, c in zip(w.shape, numbers[1], strict=False) if c not in "IO")
        in_features = x.shape[numbers[0].index("C")]
    else:
        window, in_features = tuple(w.shape[:-2]), x.shape[-1]
    words = [shape_text(window)] if window else []
    strides = _strides(params.get("window_strides", params.get("strides")))
    words += [strides.strip()] if strides else []
    groups = params.get("feature_group_count", params.get("groups", 1))
    if groups != 1:
        depthwise = groups == in_features
        words.append("depthwise" if depthwise else f"{groups} groups")
    dilation = params.get("rhs_dilation", params.get("dilation"))
    dilation = (dilation,) if isinstance(dilation, int) else tuple(dilation or ())
    if any(d != 1 for d in dilation):
        words.append(f"dilated {_sizes(dilation)}")
    spread = tuple(params.get("lhs_dilation") or ())
    if params.get("transposed") or any(d != 1 for d in spread):
        words.append("transposed")
    return " ".join(words)


def _window(node: Node) -> str:
    params = node.params
    window = params.get("window_dimensions", params.get("window_shape", ()))
    strides = params.get("window_strides", params.get("strides"))
    strides = (strides,) * len(window) if isinstance(strides, int) else tuple(strides or ())
    # An axis that is neither pooled nor strided says nothing.
    kept = [i for i, n in enumerate(window) if n != 1 or (i < len(strides) and strides[i] != 1)]
    if not kept:
        return shape_text(window)
    picked = tuple(strides[i] for i in kept if i < len(strides))
    return shape_text(window[i] for i in kept) + _strides(picked)


def _listed(word: str, key: str) -> Callable[[Node], str]:
    def extra(node: Node) -> str:
        values = node.params.get(key)
        values = (values,) if isinstance(values, int) else tuple(values or ())
        return f"{word} {', '.join(clean(v, 12) for v in values)}".strip() if values else ""

    return extra


def _dtype(node: Node) -> str:
    return f"to {short_dtype(node.params['new_dtype'])}"


_TITLES: dict[str, Callable[[Node], str]] = {
    "conv": _conv,
    "conv_general_dilated": _conv,
    "reduce_window": _window,
    "reduce_window_max": _window,
    "reduce_window_min": _window,
    "reduce_window_sum": _window,
    "max_pool": _window,
    "avg_pool": _window,
    "convert_element_type": _dtype,
    "transpose": _listed("", "permutation"),
    "concatenate": _listed("along", "dimension"),
    "split": _listed("along", "axis"),
    "argmax": _listed("over", "axes"),
    "argmin": _listed("over", "axes"),
    "cumsum": _listed("along", "axis"),
    "integer_pow": _listed("^", "y"),
    **{
        f"reduce_{kind}": _listed("over", "axes")
        for kind in ("sum", "max", "min", "prod", "and", "or", "xor")
    },
}


def call_name(node: Node) -> str:
    """What a call of a nested function is called: the function's own name where it has one.

    >>> import jax
    >>> from jaxpress.capture import trace
    >>> call_name(trace(lambda x: jax.nn.silu(x))(1.0).nodes[0])
    'silu'
    """
    name = node.params.get("name")
    if not name:
        for graph in node.subgraphs:
            if len(graph.nodes) == 1 and graph.nodes[0].subgraphs:
                name = graph.nodes[0].params.get("name")
    if not name or name in ("<lambda>", "<unnamed function>"):
        return clean(node.op, 40)
    return clean(str(name).strip("_") or name, 40)


def count_line(counts: Counter[str]) -> str:
    """``"12 ops: 2 conv, 1 batch_norm, …"``: the weightiest kinds first.

    Ops that only move data, and the calls around nested bodies, are named last.
    """
    total = sum(counts.values())
    order = {"matmul": 0, "attention": 0, "norm": 1, "pool": 1, "activation": 2, "random": 2}
    last = {"move": 6, "control": 7}

    def weight(item: tuple[str, int]) -> tuple[int, int, str]:
        family = family_of(item[0])
        return order.get(family, last.get(family, 3)), -item[1], item[0]

    ranked = sorted(counts.items(), key=weight)
    shown = [f"{n} {clean(op, 24)}" for op, n in ranked[:3]]
    more = ", …" if len(ranked) > 3 else ""
    noun = "op" if total == 1 else "ops"
    return f"{total} {noun}{': ' if shown else ''}{', '.join(shown)}{more}"
