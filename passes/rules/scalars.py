"""Numbers that a program computes from what is written in it, such as a variance's ``n - ddof``."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from typing import Any

import numpy as np

from jaxpress.capture import Value
from jaxpress.passes.view import View, scalar_value

__all__ = ["number"]

_MAX_DEPTH = 6
_MAX_AXES = 8
_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "add": operator.add,
    "sub": operator.sub,
    "mul": operator.mul,
    "neg": operator.neg,
    "max": max,
    "min": min,
    "gt": operator.gt,
    "ge": operator.ge,
    "lt": operator.lt,
    "le": operator.le,
    "eq": operator.eq,
    "ne": operator.ne,
    "select_n": lambda which, a, b: b if which else a,
    "square": lambda a: a * a,
    "div": lambda a, b: a / b if b else math.nan,
    "sqrt": lambda a: math.sqrt(a) if a >= 0 else math.nan,
    "rsqrt": lambda a: 1 / math.sqrt(a) if a > 0 else math.nan,
    "log": lambda a: math.log(a) if a > 0 else math.nan,
    "pow": lambda a, b: a**b if a > 0 else math.nan,
}


def number(view: View, value: Value, depth: int = 0) -> float | None:
    """The number that ``value`` is everywhere; ``None`` if the program does not say.

    Arithmetic of scalars is computed, and rounded to their dtypes. Of a float32 that is written,
    such as 0.001, what was meant is given: the shortest decimal.
    """
    found = scalar_value(view, value)
    if found is not None:
        return _as_written(found, value)
    if value.ndim or depth > _MAX_DEPTH:
        return None
    node = view.producer(value)
    if node is None:
        return None
    if node.op == "reduce_prod":
        return _size(view, view.inputs(node)[0])
    if node.op in ("convert_element_type", "copy"):
        inner = number(view, view.inputs(node)[0], depth + 1)
        return None if inner is None else _rounded(inner, value)
    if node.op not in _FUNCTIONS:
        return None
    operands = [number(view, v, depth + 1) for v in view.inputs(node)]
    if any(x is None or x != x for x in operands):
        return None
    out = _FUNCTIONS[node.op](*operands)
    return None if out != out else _rounded(float(out), value)


def _size(view: View, value: Value) -> float | None:
    """The product of a constant vector of whole numbers, as Keras keeps a shape."""
    array = view.constant_value(value)
    if array is None or value.ndim != 1 or value.shape[0] > _MAX_AXES:
        return None
    if not np.issubdtype(value.dtype, np.integer):
        return None
    return float(math.prod(int(n) for n in np.asarray(array)))


def _as_written(found: Any, value: Value) -> float | None:
    if value.dtype == np.float32:
        return float(str(np.float32(found)))
    return None if np.iscomplexobj(found) else float(found)


def _rounded(x: float, value: Value) -> float | None:
    return _as_written(np.asarray(x).astype(value.dtype)[()], value)
