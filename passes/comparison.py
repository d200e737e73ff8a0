"""How far one run of a graph is from another: what verification and bisection share."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxpress.capture import ArgumentError, Graph
from jaxpress.capture.float64 import evaluate_in_float64

__all__ = [
    "OutputError",
    "as_numpy",
    "check_tolerance",
    "compare_arrays",
    "run_in_float64",
    "tolerance_of",
]

# Largest error, relative to the largest entry, that is put down to rounding. An error of up to
# three times the original's own is accepted too.
_TOLERANCES = {"float64": 1e-12, "float32": 2e-5, "float16": 2e-2, "bfloat16": 1e-1}
_FACTOR = 3.0
_ZERO = 1e-12
_NO_DIGIT = 0.1


@dataclass(frozen=True)
class OutputError:
    """How far one output is from the reference, and whether that is all right.

    Attributes:
      path: which output, such as ``"result['logits']"`` or ``"gradient of x"``.
      shape, dtype: of the original's output.
      error: the optimised function's largest error, relative to the largest entry.
      original_error: that of ``jax.jit(fn)``, by the same measure.
      tolerance: what was allowed.
      problem: what is wrong; empty where nothing is.
    """

    path: str
    shape: tuple[int, ...]
    dtype: str
    error: float
    original_error: float
    tolerance: float
    problem: str = ""

    @property
    def passed(self) -> bool:
        """Whether the output is within its tolerance."""
        return not self.problem


def tolerance_of(dtype: Any) -> float:
    """The largest relative error that is put down to rounding in ``dtype``; 0 for integers."""
    name = np.dtype(dtype).name
    if name.startswith("complex"):
        name = f"float{int(name[7:]) // 2}"
    if name not in _TOLERANCES and jnp.issubdtype(dtype, jnp.floating):
        return 2.0 * float(jnp.finfo(dtype).eps)
    return _TOLERANCES.get(name, 0.0)


def check_tolerance(tolerance: Any) -> None:
    """Whether something is a largest error, or ``None``.

    Raises:
      ArgumentError: it is not.
    """
    number = isinstance(tolerance, int | float | np.number) and not isinstance(tolerance, bool)
    if tolerance is not None and not (number and tolerance >= 0):
        raise ArgumentError(f"tolerance is {tolerance!r}; give a number from 0, or None")


def as_numpy(x: Any) -> np.ndarray:
    """An output as a NumPy array, of the type it has for JAX; random keys as their bits."""
    if not isinstance(x, jax.Array):  # a number of Python's, or an array of NumPy's
        x = jnp.asarray(x)
    if jnp.issubdtype(getattr(x, "dtype", np.float32), jax.dtypes.prng_key):
        x = jax.random.key_data(x)
    return np.asarray(x)


def run_in_float64(
    graph: Graph, flat: Sequence[Any], want: Sequence[np.ndarray]
) -> tuple[list[np.ndarray], str]:
    """What a graph's results are measured against, and why that is ``want`` where it has to be.

    Warns where an operation exists in one precision only, so that the original's own results are
    all there is.

    Args:
      graph: the original.
      flat: its inputs.
      want: its outputs in its own precision.

    Returns:
      The outputs of a run in float64, and an empty text; or ``want``, and the reason.
    """
    try:
        return evaluate_in_float64(graph, flat), ""
    except (TypeError, ValueError, NotImplementedError) as error:
        said = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        warnings.warn(
            f"{graph.name} cannot be run in float64 ({said}), so it is compared with jax.jit of "
            "itself, which rounds as well",
            stacklevel=4,
        )
        return list(want), said


def compare_arrays(
    path: str,
    want: np.ndarray,
    got: np.ndarray,
    exact: np.ndarray,
    tolerance: float | None,
    beside: float = 0.0,
) -> OutputError:
    """How far ``got`` is from ``want``, both measured against a run in more precision.

    Args:
      path: what the output is called.
      want: the original's output.
      got: what should be the same.
      exact: the same output of a run in float64.
      tolerance: the largest relative error; by the dtype if left out. Three times ``want``'s own
        is accepted too.
      beside: the largest entry of results that are sums of the same terms, such as the gradients
        of one function. What is nothing but float64's own rounding beside it, and of which the
        original has no digit, is zero: it is measured by the size of what cancelled.
    """
    dtype = want.dtype.name
    allowed = tolerance_of(want.dtype) if tolerance is None else tolerance

    def result(error: float, original: float, problem: str) -> OutputError:
        limit = max(allowed, _FACTOR * original)
        if not problem and not error <= limit:
            problem = f"error {error:.1e} is above {limit:.1e}"
        return OutputError(path, want.shape, dtype, error, original, limit, problem)

    if got.shape != want.shape or got.dtype != want.dtype:
        problem = f"is {got.dtype}{list(got.shape)} instead of {dtype}{list(want.shape)}"
        return result(float("inf"), 0.0, problem)
    if tolerance_of(want.dtype) == 0.0:
        same = bool(np.array_equal(want, got))
        return result(0.0 if same else float("inf"), 0.0, "" if same else "is not equal")
    wide = np.complex128 if want.dtype.kind == "c" else np.float64
    want, got, exact = want.astype(wide), got.astype(wide), exact.astype(wide)
    finite = np.isfinite(want)
    odd = ~finite
    if not np.array_equal(want[odd], got[odd], equal_nan=True):
        return result(float("inf"), 0.0, "NaN or infinity in other places")
    # What overflows in the dtype, and not in float64, has been compared just now.
    finite &= np.isfinite(exact)
    if not finite.any():
        return result(0.0, 0.0, "")
    scale = float(np.max(np.abs(exact[finite]))) or 1.0
    error = np.abs(got[finite] - exact[finite]) / scale
    original = np.abs(want[finite] - exact[finite]) / scale
    if scale < _ZERO * beside and np.max(original) > _NO_DIGIT:
        error, original = error * (scale / beside), original * (scale / beside)
    return result(float(np.max(error)), float(np.max(original)), "")
