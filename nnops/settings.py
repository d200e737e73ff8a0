"""Settings of ops, that is, what is no operand, as the plain Python values that they have to be."""

from __future__ import annotations

import operator
from typing import Any

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
        return kind(value)
    except (TypeError, ValueError) as error:  # JAX's concretization errors are TypeErrors
        wanted = "True or False" if kind is bool else "a Python number"
        raise OpTypeError(
            op,
            f"{what} is {value!r}, which is no static {'flag' if kind is bool else 'number'}",
            mend=f"give {wanted}; for one that is traced, call the jax.nn function",
        ) from error


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
    """A parameter as a dtype; None stays None.

    Raises:
        OpTypeError: it names none.
    """
    if value is None:
        return None
    try:
        return jnp.dtype(value)
    except TypeError as error:
        raise OpTypeError(
            op, f"{what} is {value!r}", mend="give a dtype such as jnp.float32, or None"
        ) from error
