"""Settings of ops, that is, what is no operand, as the plain Python values that they have to be."""

from __future__ import annotations

import math
import operator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxpress.nnops.errors import OpTypeError

__all__ = ["data_type", "integer", "static_value"]


def static_value(op: str, what: str, value: Any, default: Any) -> Any:
    """A parameter as a plain Python bool or float, by the type of its default.

    Raises:
        OpTypeError: it is an array or tracer of unknown value, no number, or no truth value.
    """
    kind = type(default)
    try:
        # Any object has a truth value, and text may be a number: neither is what was meant.
        if isinstance(value, str | bytes) or (kind is bool and not _is_flag(value)):
            raise TypeError(value)
        return _NEGATIVE_ZERO if _is_negative_zero(number := kind(value)) else number
    except (TypeError, ValueError) as error:  # JAX's concretization errors are TypeErrors
        wanted = "True or False" if kind is bool else "a Python number"
        raise OpTypeError(
            op,
            f"{what} is {value!r}, which is no static {'flag' if kind is bool else 'number'}",
            mend=f"give {wanted}; for one that is traced, call the jax.nn function",
        ) from error


class _NegativeZero(float):
    """-0.0, and not equal to 0.0: of parameters that are equal, JAX keeps one program for both."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _NegativeZero)

    def __ne__(self, other: object) -> bool:
        return not isinstance(other, _NegativeZero)

    def __hash__(self) -> int:
        return hash(_NegativeZero)

    def __reduce__(self) -> tuple[Any, ...]:
        return _NegativeZero, (-0.0,)


_NEGATIVE_ZERO = _NegativeZero(-0.0)


def _is_negative_zero(number: float) -> bool:
    return number == 0 and math.copysign(1, number) < 0


def _is_flag(value: Any) -> bool:
    if isinstance(value, bool | np.bool_):
        return True
    dtype = np.dtype(int) if isinstance(value, int) else getattr(value, "dtype", None)
    return dtype is not None and (dtype == np.bool_ or jnp.issubdtype(dtype, jnp.integer))


def integer(op: str, what: str, value: Any) -> int:
    """A parameter as a Python integer.

    Raises:
        OpTypeError: it is none.
    """
    try:
        return operator.index(value)
    except TypeError as error:
        raise OpTypeError(op, f"{what} is {value!r}", mend=f"give {what} as an integer") from error


def data_type(op: str, what: str, value: Any) -> Any:
    """A parameter as a dtype that arrays have: float32 for float64 without x64; None stays None.

    Raises:
        OpTypeError: it names none.
    """
    if value is None:
        return None
    try:
        return jax.dtypes.canonicalize_dtype(jnp.dtype(value))
    except TypeError as error:
        raise OpTypeError(
            op, f"{what} is {value!r}", mend="give a dtype such as jnp.float32, or None"
        ) from error
