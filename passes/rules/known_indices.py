"""Indices that the program itself counts out: numbers of an iota, and of arithmetic on it.

Arrays that are closed over are data of the model, and not looked into.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxpress.capture import Literal, Node, Value
from jaxpress.passes.view import View

__all__ = ["counted", "counted_over"]

_MAX_SIZE = 1 << 12
_MAX_DEPTH = 24
# How far from a step of floor a number has to be, if not on it: no rounding carries it over.
_FROM_EDGE = 1e-3

_ELEMENTWISE: dict[str, Any] = {
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "max": np.maximum,
    "min": np.minimum,
    "neg": np.negative,
    "sign": np.sign,
    "lt": np.less,
    "le": np.less_equal,
    "gt": np.greater,
    "ge": np.greater_equal,
    "eq": np.equal,
    "ne": np.not_equal,
    "and": operator.and_,
    "or": operator.or_,
    "not": np.invert,
}


def counted(view: View, value: Value) -> np.ndarray | None:
    """The numbers behind ``value``, in its own dtype, if the program counts them out.

    Args:
      view: the graph.
      value: whole numbers, truth values or floats, at most 4096 of them.

    Returns:
      ``None`` where they come from data or weights, from an operation that is not looked through,
      or from a rounding that could go either way.
    """
    with np.errstate(all="ignore"):
        found = _counted(view, value, 0, {}, wide=False)
        again = None if found is None else _counted(view, value, 0, {}, wide=True)
    # Floats may be rounded in another way where operations are fused: it has to make no difference.
    if found is None or again is None or not np.array_equal(again, found):
        return None
    return found


def counted_over(
    view: View, value: Value, rounds: Mapping[Value, np.ndarray], depth: int = _MAX_DEPTH
) -> np.ndarray | None:
    """The whole number ``value``, a scalar of a loop's body, in each of its rounds.

    Args:
      view: the body.
      value: a scalar.
      rounds: scalars of which that is known.
      depth: how far to look.

    Returns:
      As many numbers as there are rounds, or one, where it is the same in all of them; ``None``
      where it depends on other things.
    """
    dtype = value.dtype
    if value.shape or dtype is None or np.dtype(dtype).kind not in "iub" or not depth:
        return None
    if isinstance(value, Literal):
        return np.asarray(value.val, dtype)
    if value in rounds:
        return rounds[value]
    node = view.producer(value)
    if node is None or node.op == "iota" or node.op == "concatenate":
        return None
    inputs = [counted_over(view, v, rounds, depth - 1) for v in view.inputs(node)]
    known = [x for x in inputs if x is not None]
    if len(known) < len(inputs):
        return None
    if node.op in ("broadcast_in_dim", "reshape", "squeeze"):
        return known[0]
    with np.errstate(all="ignore"):
        found = _of(node, known, dtype)
    return None if found is None else found.astype(dtype)


def _counted(
    view: View,
    value: Value,
    depth: int,
    memo: dict[Value, np.ndarray | None],
    *,
    wide: bool,
) -> np.ndarray | None:
    """As ``counted``; ``wide`` computes floats in float64."""
    shape = value.shape
    plain = all(isinstance(n, int) for n in shape) and value.dtype in (
        *(np.dtype(t) for t in ("bool", "int8", "uint8", "int16", "uint16", "int32", "uint32")),
        *(np.dtype(t) for t in ("int64", "uint64", "float32", "float64")),
    )
    if not plain or depth > _MAX_DEPTH or np.prod(shape) > _MAX_SIZE:
        return None
    dtype = np.float64 if wide and np.issubdtype(value.dtype, np.floating) else value.dtype
    if isinstance(value, Literal):
        return np.asarray(value.val, value.dtype).astype(dtype)
    if value in memo:
        return memo[value]
    memo[value] = None
    node = view.producer(value)
    if node is None:
        return None
    inputs = [_counted(view, v, depth + 1, memo, wide=wide) for v in view.inputs(node)]
    known = [x for x in inputs if x is not None]
    found = _of(node, known, dtype) if len(known) == len(inputs) else None
    if found is not None:
        memo[value] = found = np.broadcast_to(found.astype(dtype), shape)
    return found


def _of(node: Node, inputs: list[np.ndarray], dtype: Any) -> np.ndarray | None:
    op, params, out = node.op, node.params, node.output
    if op == "iota":
        axis = int(params["dimension"])
        counts = np.arange(out.shape[axis], dtype=dtype)
        return counts.reshape([-1 if a == axis else 1 for a in range(out.ndim)])
    if not inputs:
        return None
    x = inputs[0]
    if op in _ELEMENTWISE:
        return np.asarray(_ELEMENTWISE[op](*inputs))
    if op in ("div", "rem"):
        return _divided(op, *inputs)
    if op == "floor":
        off = np.abs(x - np.round(x))
        return None if ((off > 0) & (off < _FROM_EDGE)).any() else np.floor(x)
    if op == "convert_element_type":
        to_whole = x.dtype.kind == "f" and out.dtype.kind != "f"
        return None if to_whole and (x != np.round(x)).any() else x.astype(dtype)
    if op == "select_n" and x.dtype == bool and len(inputs) == 3:
        return np.where(x, inputs[2], inputs[1])
    if op == "clamp":
        return np.minimum(np.maximum(inputs[1], x), inputs[2])
    if op in ("squeeze", "expand_dims") or (op == "reshape" and params["dimensions"] is None):
        return x.reshape(out.shape)
    if op == "broadcast_in_dim" and len(inputs) == 1:
        shape = [1] * out.ndim
        for axis, n in zip(params["broadcast_dimensions"], x.shape, strict=True):
            shape[axis] = n
        return np.broadcast_to(x.reshape(shape), out.shape)
    if op == "concatenate":
        return np.concatenate(inputs, int(params["dimension"]))
    return x if op == "copy" else None


def _divided(op: str, x: np.ndarray, y: np.ndarray) -> np.ndarray | None:
    if x.dtype.kind == "f":
        return x / y if op == "div" else None
    if (y == 0).any():
        return None
    # Rounded towards zero, as XLA does.
    quotient = np.abs(x) // np.abs(y) * np.sign(x) * np.sign(y)
    return quotient if op == "div" else x - quotient * y
