"""Logarithms of sums and differences of exponentials, as named ops that do not overflow."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, overload

import jax
import jax.numpy as jnp

from jaxpress.nnops.define import define
from jaxpress.nnops.eager import eagerly_jitted
from jaxpress.nnops.elementwise import apply, elementwise
from jaxpress.nnops.errors import OpError
from jaxpress.nnops.opdef import OpDef
from jaxpress.nnops.settings import static_value
from jaxpress.nnops.softmax import axes_from_end
from jaxpress.nnops.transforms import general_batch, leading_batch

__all__ = ["log1mexp", "logmeanexp", "logsumexp"]


# No activation: it has values for x > 0 alone.
_LOG1MEXP = elementwise("log1mexp", jax.nn.log1mexp)


@eagerly_jitted
def log1mexp(x: Any) -> jax.Array:
    """Logarithm of one minus an exponential.

    ``log(1 - exp(-x))``

    Args:
        x: any shape, above 0 (NaN below).

    Returns:
        An array of ``x``'s shape, below 0.

    Source: jax.nn.log1mexp (Maechler, "Accurately computing ``log(1 - exp(-|a|))``").

    Example:
        >>> from jaxpress import nnops
        >>> round(float(nnops.log1mexp(1.0)), 3)
        -0.459
    """
    return apply(_LOG1MEXP, x)


def _batch(op: OpDef, args: Any, axes: Any, params: dict[str, Any]) -> Any:
    one = len(args) == 1 and "mapped" not in params
    return (leading_batch if one else general_batch)(op, args, axes, params)


def _sumexp(x: Any, b: Any = None, where: Any = None, *, axis: Any, keepdims: bool) -> Any:
    return jax.nn.logsumexp(x, axis, b=b, keepdims=keepdims, where=where)


def _signed(x: Any, b: Any = None, where: Any = None, *, axis: Any, keepdims: bool) -> Any:
    return jax.nn.logsumexp(x, axis, b=b, keepdims=keepdims, return_sign=True, where=where)


def _meanexp(x: Any, where: Any = None, *, axis: Any, keepdims: bool) -> Any:
    return jax.nn.logmeanexp(x, axis, keepdims=keepdims, where=where)


_DEFAULTS = {"axis": -1, "keepdims": False}
_LOGSUMEXP, _LOGMEANEXP = (
    define(
        name,
        reference,
        optional=optional,
        defaults=_DEFAULTS,
        batch=_batch,
    )
    for name, reference, optional in (
        ("logsumexp", _sumexp, ("b", "where")),
        ("logmeanexp", _meanexp, ("where",)),
    )
)
_SIGNED_LOGSUMEXP = define(
    "signed_logsumexp",
    _signed,
    optional=("b", "where"),
    defaults=_DEFAULTS,
    multiple_results=True,
)


def _operands(op: str, x: Any, **others: Any) -> dict[str, Any]:
    operands = {"x": jnp.asarray(x)}
    operands |= {k: jnp.asarray(v) for k, v in others.items() if v is not None}
    shape = operands["x"].shape
    for name, value in operands.items():
        # Against x alone: what would widen x is a mistake.
        if not _fits(value.shape, shape):
            raise OpError(
                op, f"{name} does not fit x", operands, f"give {name} x's shape, or ones in it"
            )
    return operands


def _fits(shape: Sequence[Any], wanted: Sequence[Any]) -> bool:
    if len(shape) > len(wanted):
        return False
    tail = wanted[len(wanted) - len(shape) :]
    return all(n in (1, m) for n, m in zip(shape, tail, strict=True))


@overload
def logsumexp(
    x: Any,
    axis: int | Sequence[int] | None = None,
    *,
    b: Any = None,
    keepdims: bool = False,
    return_sign: Literal[False] = False,
    where: Any = None,
) -> jax.Array: ...


@overload
def logsumexp(
    x: Any,
    axis: int | Sequence[int] | None = None,
    *,
    b: Any = None,
    keepdims: bool = False,
    return_sign: Literal[True],
    where: Any = None,
) -> tuple[jax.Array, jax.Array]: ...


@eagerly_jitted
def logsumexp(
    x: Any,
    axis: int | Sequence[int] | None = None,
    *,
    b: Any = None,
    keepdims: bool = False,
    return_sign: bool = False,
    where: Any = None,
) -> jax.Array | tuple[jax.Array, jax.Array]:
    """Logarithm of a sum of exponentials.

    ``log(sum(b * exp(x)))``, the sum over ``axis``.

    Args:
        x: any shape; integers become floats.
        axis: one axis, several, or None for all.
        b: weights of the terms, of a shape that broadcasts to x's; None for 1.
        keepdims: leave summed axes in the result with size 1.
        return_sign: return ``(log(abs(sum)), sign(sum))``; a graph shows ``signed_logsumexp``.
        where: booleans of a shape that broadcasts to x's: the terms that count; None for all.

    Returns:
        x's shape without the summed axes; with ``return_sign`` two arrays of it. ``-inf`` where
        nothing is summed, and NaN for the logarithm of a negative sum unless ``return_sign``.

    Raises:
        OpError: an axis does not exist or comes twice, or b or where does not fit x.

    Source: jax.nn.logsumexp.

    Example:
        >>> from jaxpress import nnops
        >>> round(float(nnops.logsumexp([1000.0, 1000.0])), 3)
        1000.693
        >>> size, sign = nnops.logsumexp([0.0, 0.0], b=[1.0, -3.0], return_sign=True)
        >>> round(float(size), 3), float(sign)
        (0.693, -1.0)
    """
    operands = _operands("logsumexp", x, b=b, where=where)
    params = {
        "axis": axes_from_end("logsumexp", operands["x"], axis),
        "keepdims": static_value("logsumexp", "keepdims", keepdims, False),
    }
    if static_value("logsumexp", "return_sign", return_sign, False):
        size, sign = _SIGNED_LOGSUMEXP.rebind(operands, **params)
        return size, sign
    return _LOGSUMEXP.rebind(operands, **params)


@eagerly_jitted
def logmeanexp(
    x: Any, axis: int | Sequence[int] | None = None, *, keepdims: bool = False, where: Any = None
) -> jax.Array:
    """Logarithm of a mean of exponentials.

    ``log(mean(exp(x)))``, the mean over ``axis``.

    Args:
        x: any shape; integers become floats.
        axis: one axis, several, or None for all.
        keepdims: leave the axes in the result with size 1.
        where: booleans of a shape that broadcasts to x's: the terms that count; None for all.

    Returns:
        x's shape without those axes.

    Raises:
        OpError: an axis does not exist or comes twice, or where does not fit x.

    Source: jax.nn.logmeanexp.

    Example:
        >>> from jaxpress import nnops
        >>> round(float(nnops.logmeanexp([5.0, 5.0])), 3)
        5.0
    """
    operands = _operands("logmeanexp", x, where=where)
    axes = axes_from_end("logmeanexp", operands["x"], axis)
    return _LOGMEANEXP.rebind(
        operands, axis=axes, keepdims=static_value("logmeanexp", "keepdims", keepdims, False)
    )
