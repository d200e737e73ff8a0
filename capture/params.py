"""A node's parameters as short text: what a reader looks for, the same in every run."""

from __future__ import annotations

import enum
import re
from collections.abc import Callable, Mapping, Set
from typing import Any

import numpy as np

from jaxpress.capture import compat
from jaxpress.capture.avals import short_aval, short_dtype
from jaxpress.capture.graph import Node

__all__ = ["one_line", "param_texts", "short"]

_MAX = 60
_ADDRESS = re.compile(r" (?:object )?at 0x[0-9a-fA-F]+")

# JAX's own bookkeeping: how the operands of an equation are laid out, trees, derivative rules.
_HIDDEN = frozenset(
    """
    args_info body_nconsts bwd computation cond_nconsts const_lengths ctx_mesh debug_info
    differentiated effect ft_in ft_out fwd_jaxpr_thunk has_placeholders in_tree
    indices_are_sorted jvp_jaxpr_fun keep_unused linear np_printoptions num_carry num_consts
    operands out_tree out_trees prevent_cse result_avals symbolic_zeros tree update_consts
    """.split()  # noqa: SIM905
)
# What a parameter is when nobody asked for anything.
_USUAL: dict[str, tuple[Any, ...]] = {
    "batch_group_count": (1,),
    "dropout_form": ("select",),
    "dropout_rate": (0.0,),
    "feature_group_count": (1,),
    "form": ("select",),
    "groups": (1,),
    "inline": ("Inline.NEVER", "Inline.AUTO"),
    "is_stable": (True,),
    "kernel": ("reference",),
    "num_keys": (1,),
    "unroll": (1,),
}
_ONES = ("strides", "dilation")  # all ones: nothing is skipped
_DTYPES = ("dtype", "index_dtype", "new_dtype", "out_dtype", "preferred_element_type")
_ZEROS = ("padding", "padding_config")


def param_texts(node: Node) -> dict[str, str]:
    """The parameters worth a look, by name, in alphabetical order.

    Left out are bodies, JAX's bookkeeping, and whatever is as it is when nobody asks: ``None``,
    ``False``, strides of one, no padding, a dtype that the result shows.

    >>> import jax.numpy as jnp
    >>> from jaxpress.capture import trace
    >>> param_texts(trace(lambda x: jnp.sum(x, 1))(jnp.ones((2, 3))).nodes[0])
    {'axes': '(1,)'}
    """
    special = _SPECIAL.get(node.op)
    params = special(node) if special is not None else node.params
    texts = {}
    for key in sorted(params):
        value = params[key]
        if key in _HIDDEN or key.startswith("_") or _says_nothing(node, key, value):
            continue
        texts[key] = one_line(short(value), _MAX)
    return texts


def _says_nothing(node: Node, key: str, value: Any) -> bool:
    if value is None or value is False or compat.is_body(value):
        return True
    if isinstance(value, Mapping | Set) and not value:
        return True
    if isinstance(value, tuple | list):
        if not value or all(_says_nothing(node, "", item) for item in value):
            return True
        flat = [x for item in value for x in (item if isinstance(item, tuple | list) else (item,))]
        if key.endswith(_ONES) and all(x == 1 for x in flat):
            return True
        if key in _ZEROS and all(x == 0 for x in flat):
            return True
    if key == "dimension_numbers" and isinstance(value, tuple) and isinstance(value[0], str):
        spatial = value[0][1:-1]
        return value == (f"N{spatial}C", f"{spatial}IO", f"N{spatial}C")
    if key in _USUAL and (value in _USUAL[key] or str(value) in _USUAL[key]):
        return True
    if key.endswith(_ONES) and isinstance(value, int):
        return value == 1
    if key == "placement":  # of a norm's epsilon
        return value == ("max" if node.op == "l2_normalize" else "root")
    if key in _DTYPES:
        return bool(node.outputs) and value == node.outputs[0].dtype
    if key in ("shape", "new_sizes", "sizes"):
        return bool(node.outputs) and value == node.outputs[0].shape
    if type(value).__name__ == "UnspecifiedValue":
        return True
    return getattr(value, "empty", None) is True  # no mesh


def short(value: Any) -> str:
    """``value`` as text without what differs from run to run, such as a memory address."""
    if isinstance(value, str):
        return value
    if isinstance(value, enum.Enum):
        return value.name
    names = getattr(value, "_fields", None)
    if isinstance(value, tuple) and names is not None:
        inner = ", ".join(f"{k}={short(v)}" for k, v in zip(names, value, strict=True))
        return f"{type(value).__name__}({inner})"
    if isinstance(value, tuple | list):
        inner = ", ".join(map(short, value))
        return f"({inner},)" if len(value) == 1 else f"({inner})"
    if isinstance(value, Set):
        return "{" + ", ".join(sorted(map(short, value))) + "}"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{short(k)}: {short(v)}" for k, v in value.items()) + "}"
    if compat.is_body(value):
        return "(body)"
    if isinstance(value, np.dtype):
        return short_dtype(value)
    if isinstance(value, np.ndarray | np.generic) or hasattr(value, "__array__"):
        return str(value) if np.ndim(value) == 0 else short_aval(value)
    if callable(value) and (hasattr(value, "__name__") or type(value).__repr__ is object.__repr__):
        return str(getattr(value, "__name__", None) or type(value).__name__)
    return _ADDRESS.sub("", str(value))


def one_line(text: str, limit: int | None = None) -> str:
    """``text`` on one printable line, cut at ``limit`` characters."""
    if not text.isprintable():
        text = "".join(c if c.isprintable() else " " if c == "\n" else repr(c)[1:-1] for c in text)
    return text if limit is None or len(text) <= limit else text[: limit - 3] + "..."


def _dot(node: Node) -> dict[str, Any]:
    params = dict(node.params)
    contract, batch = params.pop("dimension_numbers")
    return {**params, "contract": contract, **({"batch": batch} if any(batch) else {})}


def _conv(node: Node) -> dict[str, Any]:
    """The layout as letters: ``NHWC,HWIO,NHWC``."""
    params = dict(node.params)
    numbers = params.pop("dimension_numbers")
    texts = []
    for spec, letters in zip(numbers, ("NC", "OI", "NC"), strict=True):
        spatial = "DHW"[-(len(spec) - 2) :] if len(spec) <= 5 else "0123456789"
        place = dict(zip(spec, letters + spatial, strict=False))
        texts.append("".join(place.get(i, "?") for i in range(len(spec))))
    return {**params, "layout": ",".join(texts)}


def _scan(node: Node) -> dict[str, Any]:
    consts, carry = compat.scan_counts(node.params)
    return {**node.params, "consts": consts or None, "carry": carry or None}


def _jit(node: Node) -> dict[str, Any]:
    """The function's name, and what is asked of the call."""
    params = dict(node.params)
    if (
        not str(params.get("inline")).startswith("Inline.FORCE")
        and params.get("inline") is not True
    ):
        params["inline"] = None
    return params


_SPECIAL: dict[str, Callable[[Node], dict[str, Any]]] = {
    "dot_general": _dot,
    "conv_general_dilated": _conv,
    "scan": _scan,
    **dict.fromkeys(compat.JIT_NAMES, _jit),
}
