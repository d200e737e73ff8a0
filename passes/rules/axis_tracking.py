"""Where the axes of an array come from, through operations that only rearrange it."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from jax import lax

from jaxpress.capture import Literal, Node, Value
from jaxpress.passes.view import View

__all__ = ["REARRANGING", "Spread", "arrange", "axes_before", "complete", "constant", "spread"]

REARRANGING = frozenset({"transpose", "reshape", "squeeze", "expand_dims", "copy"})
_MAX_STEPS = 16

Axes = tuple[int | None, ...]


class Spread(NamedTuple):
    """A value as a rearrangement of another.

    Attributes:
      source: the other value.
      axes: for each axis of the value, the axis of ``source`` along which it runs; ``None`` where
        it is the same all along.
      nodes: the operations in between, the last one first.
    """

    source: Value
    axes: Axes
    nodes: tuple[Node, ...]


def spread(
    view: View,
    value: Value,
    *,
    broadcasts: bool = True,
    also: Callable[[Node], Value | None] | None = None,
) -> Spread:
    """What ``value`` is a rearrangement of, as far back as that goes.

    Args:
      view: the graph.
      value: what to look behind.
      broadcasts: whether to look behind one entry that is repeated, too.
      also: gives the operand of further elementwise nodes to look behind, ``None`` for others.
    """
    axes: Axes = tuple(range(value.ndim))
    nodes: list[Node] = []
    for _ in range(_MAX_STEPS):
        node = view.producer(value)
        if node is None:
            break
        behind: Value | None = None
        before = axes_before(view, node)
        if before is not None:
            behind = view.inputs(node)[0]
            if not broadcasts and not _keeps_all(node, before):
                break
        elif also is not None:
            behind = also(node)
            before = tuple(range(node.output.ndim))
            if behind is not None and behind.shape != node.output.shape:
                behind = None
        if behind is None or before is None:
            break
        axes = tuple([None if a is None else before[a] for a in axes])
        value = behind
        nodes.append(node)
    return Spread(value, axes, tuple(nodes))


def _keeps_all(node: Node, before: Axes) -> bool:
    shape = node.output.shape
    return all(a is not None or d == 1 for a, d in zip(before, shape, strict=True))


def axes_before(view: View, node: Node) -> Axes | None:
    """For each axis of the node's result, that of its operand; ``None`` for other operations."""
    inputs = view.inputs(node)
    if len(inputs) != 1:
        return None
    before, after = inputs[0].shape, node.output.shape
    match node.op:
        case "transpose":
            return tuple(int(a) for a in node.params["permutation"])
        case "broadcast_in_dim":
            axes: list[int | None] = [None] * len(after)
            for i, a in enumerate(node.params["broadcast_dimensions"]):
                if before[i] == after[a]:
                    axes[int(a)] = i
            return tuple(axes)
        case "copy":
            return tuple(range(len(after)))
        case "squeeze":
            gone = {int(a) % len(before) for a in node.params["dimensions"]}
            return tuple(a for a in range(len(before)) if a not in gone)
        case "reshape" | "expand_dims":
            if node.params.get("dimensions") is not None and node.op == "reshape":
                return None
            return _aligned(before, after)
    return None


def _aligned(before: Any, after: Any) -> Axes | None:
    """Axes of ``after`` in ``before``, if they differ by axes of size 1 alone."""
    axes: list[int | None] = []
    i = 0
    for d in after:
        # Any axis of size 1 is as good as another: its one index is 0.
        while i < len(before) and before[i] != d and before[i] == 1:
            i += 1
        if i < len(before) and before[i] == d:
            axes.append(i)
            i += 1
        elif d == 1:
            axes.append(None)
        else:
            return None
    return tuple(axes) if all(d == 1 for d in before[i:]) else None


def complete(order: Axes, shape: Any) -> Axes:
    """``order`` with axes of size 1 that it leaves out in place of new ones."""
    rest = [a for a in range(len(shape)) if a not in order]
    if not rest or None not in order:
        return order
    spare = iter(rest)
    return tuple([next(spare, None) if a is None else a for a in order])


def arrange(x: Any, order: Axes) -> Any:
    """``x`` with its axes in this order; ``None`` is a new one, and those left out have size 1."""
    order = complete(order, x.shape)
    used = [a for a in order if a is not None]
    rest = [a for a in range(x.ndim) if a not in used]
    if rest:
        x = lax.squeeze(x, rest)
        place = {a: i for i, a in enumerate(sorted(used))}
        used = [place[a] for a in used]
    if used != list(range(len(used))):
        x = lax.transpose(x, used)
    new = [i for i, a in enumerate(order) if a is None]
    return lax.expand_dims(x, new) if new else x


_UNARY: dict[str, Callable[[Any], Any]] = {
    "sqrt": np.sqrt,
    "rsqrt": lambda x: 1 / np.sqrt(x),
    "neg": operator.neg,
    "abs": abs,
    "square": lambda x: x * x,
    "copy": lambda x: x,
    "stop_gradient": lambda x: x,
}
_BINARY: dict[str, Callable[[Any, Any], Any]] = {
    "add": operator.add,
    "sub": operator.sub,
    "mul": operator.mul,
    "div": operator.truediv,
    "max": max,
    "min": min,
    "pow": operator.pow,
}


def constant(view: View, value: Value, depth: int = 8) -> Any:
    """The number that ``value`` is everywhere, worked out from literals; ``None`` if it is none.

    As a number of ``value``'s dtype, rounded at every step as the operations would.
    """
    dtype = value.dtype
    if isinstance(value, Literal):
        if np.shape(value.val) != () or dtype is None:
            return None
        return np.asarray(value.val).astype(dtype)[()]
    node = view.producer(value)
    if node is None or depth == 0 or len(node.outputs) != 1:
        return None
    inputs = view.inputs(node)
    fn: Callable[..., Any] | None
    if len(inputs) == 1 and (
        node.op in REARRANGING or node.op in ("broadcast_in_dim", "convert_element_type")
    ):
        fn = _UNARY["copy"]
    elif len(inputs) == 1 and node.op == "integer_pow":
        fn = lambda x: x ** int(node.params["y"])  # noqa: E731
    else:
        fn = {1: _UNARY, 2: _BINARY}.get(len(inputs), {}).get(node.op)
    if fn is None or (not np.issubdtype(_kind(dtype), np.number) and dtype != np.bool_):
        return None
    numbers = []
    for v in inputs:
        number = constant(view, v, depth - 1)
        if number is None:
            return None
        numbers.append(number)
    try:
        with np.errstate(all="ignore"):
            wide = [float(n) if _is_float(n) else int(n) for n in numbers]
            return np.asarray(fn(*wide)).astype(dtype)[()]
    except (ArithmeticError, TypeError, ValueError):
        return None


def _kind(dtype: Any) -> Any:
    # ml_dtypes' narrow floats are not among NumPy's own numbers.
    return np.float32 if str(dtype).startswith(("bfloat16", "float8")) else dtype


def _is_float(number: Any) -> bool:
    return np.issubdtype(_kind(np.asarray(number).dtype), np.floating)
