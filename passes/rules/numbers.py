"""What is known of the numbers behind weights, and whether folding by them keeps what it should.

Closed-over arrays have numbers when rules are applied; declared weights have none, and are trusted.
"""

from __future__ import annotations

import math
import weakref
from typing import Any

import numpy as np

from jaxpress.capture import Literal, Value, compat
from jaxpress.passes.view import View

__all__ = [
    "MAX_PRODUCT",
    "keeps_digits",
    "keeps_gain",
    "keeps_product",
    "keeps_range",
    "numbers_of",
]

_MAX_SIZE = 1 << 16
# The same where all weights are looked at.
_MAX_WEIGHTS = 1 << 26
# The same for products, and for how many operations these take.
MAX_PRODUCT, _MAX_OPERATIONS = 1 << 24, 1 << 30
_MAX_DEPTH = 12

# Scales beyond these powers of two are refused, whatever the weights: bfloat16 ranges like float32.
_WIDE, _HALF = 40, 8
# How large float16 weights may become, and how small the largest of them.
_LARGEST, _SMALLEST = 2.0**14, 2.0**-13

# By how much a shift may exceed what it leaves: these many times the rounding error, at the most.
_FACTOR, _NARROW_FACTOR = 64, 4
# The same where nothing tells what it leaves.
_UNSCALED = 256

# What was looked up, by graph: a weight is asked for again and again.
_MEMO: weakref.WeakKeyDictionary[View, dict[Any, Any]] = weakref.WeakKeyDictionary()

_FUNCTIONS = {
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "div": np.divide,
    "max": np.maximum,
    "min": np.minimum,
    "neg": np.negative,
    "abs": np.abs,
    "sqrt": np.sqrt,
    "rsqrt": lambda x: 1 / np.sqrt(x),
    "square": np.square,
    "exp": np.exp,
}


def numbers_of(view: View, value: Value, limit: int = _MAX_SIZE) -> np.ndarray | None:
    """The elements of a known value in float64, of any shape that broadcasts to its own.

    Args:
      view: the graph.
      value: what to look up.
      limit: how many elements it may have.

    Returns:
      ``None`` where they are not known yet, are too many, or come from an operation that is not
      looked through.
    """
    with np.errstate(all="ignore"):
        return _numbers(view, value, limit, 0, _MEMO.setdefault(view, {}))


def _numbers(
    view: View, value: Value, limit: int, depth: int, memo: dict[Any, Any]
) -> np.ndarray | None:
    """As ``numbers_of``. What a value is never changes while its graph is rewritten."""
    if isinstance(value, Literal):
        return _array(value.val)
    x, looked_from = memo.get((value, limit), (None, _MAX_DEPTH + 2))
    if x is None and depth < looked_from:  # from nearer than before, more can be seen
        x = _compute(view, value, limit, depth, memo)
        if x is None or x.size <= _MAX_SIZE:
            memo[value, limit] = x, depth
    return x


def _compute(
    view: View, value: Value, limit: int, depth: int, memo: dict[Any, Any]
) -> np.ndarray | None:
    held = view.constant_value(value)
    if held is not None:
        if compat.is_tracer(held) or np.size(held) > limit:
            return None
        return _array(held)
    node = view.producer(value)
    if node is None or depth > _MAX_DEPTH:
        return None
    inputs = [_numbers(view, v, limit, depth + 1, memo) for v in view.inputs(node)]
    if not inputs or any(x is None for x in inputs):
        return None
    x = inputs[0]
    assert x is not None
    if node.op in ("convert_element_type", "copy"):
        return x
    if node.op in ("reshape", "squeeze", "expand_dims"):
        concrete = all(isinstance(n, int) for n in value.shape)
        return x.reshape(value.shape) if concrete and x.size == np.prod(value.shape) else None
    if node.op == "broadcast_in_dim":
        if x.ndim != view.inputs(node)[0].ndim:
            return None
        shape = [1] * value.ndim
        for axis, n in zip(node.params["broadcast_dimensions"], x.shape, strict=True):
            shape[axis] = n
        return x.reshape(shape)
    if node.op == "integer_pow":
        return x ** float(node.params["y"])
    return _FUNCTIONS[node.op](*inputs) if node.op in _FUNCTIONS else None


def _array(x: Any) -> np.ndarray | None:
    try:
        x = np.asarray(x)
        return None if np.iscomplexobj(x) else x.astype(np.float64)
    except (TypeError, ValueError):  # random keys, and arrays that are spread over machines
        return None


def keeps_range(view: View, w: Any, scale: np.ndarray | None) -> str | None:
    """Why weights times ``scale`` would leave the range of their dtype; ``None`` if they do not.

    A scale that is infinite turns the zeros of weights into no number at all, and a product that
    overflows or vanishes is lost even where the result would have been ordinary.

    Args:
      view: the graph.
      w: the weights, or only their dtype.
      scale: the numbers; ``None`` where they are not known.
    """
    half = getattr(w, "dtype", w) == np.float16
    if scale is not None:
        size = np.abs(scale[scale != 0])
        if not np.all(np.isfinite(scale)):
            return "a scale is not finite"
        bits = _HALF if half else _WIDE
        if size.size and (size.max() > 2.0**bits or size.min() < 2.0**-bits):
            return f"scales reach from {size.min():.1e} to {size.max():.1e}"
    if not half or not isinstance(w, Value):
        return None
    numbers = numbers_of(view, w, limit=_MAX_WEIGHTS)
    if numbers is None or scale is None or not size.size:
        return None
    largest = float(np.max(np.abs(numbers), initial=0.0))
    if largest * size.max() > _LARGEST or 0 < largest * size.min() < _SMALLEST:
        return f"{w.dtype} would not hold the weights"
    return None


def keeps_gain(view: View, w: Value, features: Any, shift: np.ndarray | None) -> str | None:
    """Why a bias could not hold what weights make of a shift; ``None`` if it can.

    Args:
      view: the graph.
      w: the weights.
      features: how many there are, or their shape.
      shift: the numbers; ``None`` where they are not known.
    """
    if shift is None:
        return None
    if not np.all(np.isfinite(shift)):
        return "a shift is not finite"
    largest = float(np.max(np.abs(shift), initial=0.0))
    if largest > 2.0**_WIDE:
        return f"shifts reach to {largest:.1e}"
    numbers = None
    if w.dtype == np.float16:
        numbers = numbers_of(view, w, limit=_MAX_WEIGHTS)
    if numbers is not None and numbers.size:
        # The most that one feature could sum up.
        terms = numbers.size / np.prod(features)
        if largest * float(np.max(np.abs(numbers))) * terms > _LARGEST:
            return f"{w.dtype} might not hold the bias"
    return None


def keeps_product(
    first: np.ndarray | None, second: np.ndarray | None, dtype: Any, rows: np.ndarray | None = None
) -> str | None:
    """Why the product of two weights would leave the range of their dtype; ``None`` if not.

    Args:
      first: numbers of shape (n, between); ``None`` where they are not known.
      second: numbers of shape (between, m).
      dtype: of the weights.
      rows: further rows of ``first``: a bias.
    """
    if first is None or second is None:
        return None
    if rows is not None:
        first = np.concatenate([first, rows.reshape(-1, first.shape[1])])
    sizes = [float(np.max(np.abs(x), initial=0.0)) for x in (first, second)]
    if not np.all(np.isfinite(sizes)):
        return "a weight is not finite"
    if not 2.0**-_WIDE <= math.prod(sizes) <= 2.0**_WIDE and math.prod(sizes):
        return f"weights reach to {sizes[0]:.1e} and {sizes[1]:.1e}"
    if dtype != np.float16:
        return None
    if first.size * second.shape[1] > _MAX_OPERATIONS:
        return f"how large the product in {np.dtype(dtype)} would be is too much to look at"
    largest = float(np.max(np.abs(first.astype("float32") @ second.astype("float32")), initial=0.0))
    if largest > _LARGEST or 0 < largest < _SMALLEST:
        return f"{np.dtype(dtype)} would not hold the product"
    return None


def keeps_digits(dtype: Any, shift: np.ndarray | None, scaled: bool = True) -> str | None:
    """Why a shift must stay: folded, it would be taken from a sum whose digits it fills.

    ``(x - mean) / std`` is computed from a small difference; ``x @ (w / std) - mean @ (w / std)``
    is a difference of large sums where the mean is far from zero, seen from the deviation.

    Args:
      dtype: of the data.
      shift: what is added, in units of what the result is about as large as.
      scaled: whether those units are known; else the shift as it is.
    """
    if shift is None:
        return None
    narrow = np.dtype(dtype).itemsize < 4
    bound = _NARROW_FACTOR if narrow else _FACTOR if scaled else _UNSCALED
    largest = float(np.max(np.abs(shift), initial=0.0))
    if not largest <= bound:
        return f"it shifts by {largest:.3g} times what is left: the sum would lose digits"
    return None
