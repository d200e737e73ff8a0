"""Losses of numbers against numbers: squared, absolute, and Huber's mixture."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jaxpress.nnops.eager import eagerly_jitted
from jaxpress.nnops.errors import OpError
from jaxpress.nnops.losses.reduction import call_loss, define_loss, require_shape
from jaxpress.nnops.opdef import OpDef
from jaxpress.nnops.settings import static_value

__all__ = ["huber", "huber_loss", "mean_absolute_error", "mean_squared_error"]


def _define(name: str, of_error: Any, **kwargs: Any) -> OpDef:
    def shape(given: Mapping[str, Any], params: Mapping[str, Any]) -> tuple[Any, ...]:
        del params
        require_shape(name, "targets", given, given["predictions"].shape)
        return given["predictions"].shape

    return define_loss(
        name,
        lambda predictions, targets, **params: of_error(predictions - targets, **params),
        operands=("predictions", "targets"),
        shape=shape,
        spread=lambda where, params: where,
        **kwargs,
    )


SLOPES = ("delta", "nan")


def _huber_losses(error: Any, *, delta: float, slope_at_infinity: str) -> Any:
    if slope_at_infinity == "nan":
        size = jnp.abs(error)
        return jnp.where(size <= delta, 0.5 * jnp.square(error), delta * size - 0.5 * delta**2)
    # In this form, and without jnp.clip, an infinite error has the gradient delta, not NaN.
    inner = jnp.where(error > delta, delta, jnp.where(error < -delta, -delta, error))
    return inner * (error - 0.5 * inner)


def _normalize_huber(params: dict[str, Any]) -> dict[str, Any]:
    delta = static_value("huber", "delta", params["delta"], 1.0)
    if not delta > 0:
        raise OpError("huber", f"delta is {delta}", mend="give a positive number")
    slope = params["slope_at_infinity"]
    if slope not in SLOPES:
        raise OpError("huber", f"slope_at_infinity is {slope!r}", mend=f"give one of {SLOPES}")
    return {**params, "delta": delta}


_SQUARED = _define("mean_squared_error", jnp.square)
_ABSOLUTE = _define("mean_absolute_error", jnp.abs)
_HUBER = _define(
    "huber",
    _huber_losses,
    defaults={"delta": 1.0, "slope_at_infinity": "delta"},
    normalize=_normalize_huber,
)


@eagerly_jitted
def mean_squared_error(
    predictions: Any,
    targets: Any,
    *,
    where: Any = None,
    weights: Any = None,
    reduction: str = "none",
) -> jax.Array:
    """Squared error, and its mean with ``reduction="mean"``.

    ``(predictions - targets)**2``

    Args:
        predictions: any shape.
        targets: the same shape.
        where: booleans of that shape; False leaves an element out, whatever it holds.
        weights: of that shape, not negative.
        reduction: ``"none"``; ``"sum"``; or ``"mean"``, the sum over what counts, divided by the
            sum of its weights (each 1 without ``weights``), and 0 if nothing counts.

    Returns:
        That shape, or a scalar; in the dtype to which the operands promote, computed in float32 at
        least. What is left out is 0.

    Raises:
        OpError: shapes do not fit (nothing is broadcast), or the reduction is unknown.
        OpTypeError: ``where`` is not boolean.

    Source: optax.squared_error.

    Example:
        >>> from jaxpress import nnops
        >>> float(nnops.mean_squared_error([1.0, 2.0], [0.0, 4.0], reduction="mean"))
        2.5
    """
    operands = {"predictions": predictions, "targets": targets, "where": where, "weights": weights}
    return call_loss(_SQUARED, operands, reduction=reduction)


@eagerly_jitted
def mean_absolute_error(
    predictions: Any,
    targets: Any,
    *,
    where: Any = None,
    weights: Any = None,
    reduction: str = "none",
) -> jax.Array:
    """Absolute error, and its mean with ``reduction="mean"``.

    ``|predictions - targets|``; where they are equal, its derivative is 1, that of jnp.abs.

    Args:
        predictions: any shape.
        targets: the same shape.
        where: booleans of that shape; False leaves an element out, whatever it holds.
        weights: of that shape, not negative.
        reduction: ``"none"``; ``"sum"``; or ``"mean"``, the sum over what counts, divided by the
            sum of its weights (each 1 without ``weights``), and 0 if nothing counts.

    Returns:
        That shape, or a scalar; in the dtype to which the operands promote, computed in float32 at
        least. What is left out is 0.

    Raises:
        OpError: shapes do not fit (nothing is broadcast), or the reduction is unknown.
        OpTypeError: ``where`` is not boolean.

    Source: torch.nn.functional.l1_loss.

    Example:
        >>> from jaxpress import nnops
        >>> nnops.mean_absolute_error([1.0, 2.0], [0.0, 4.0]).tolist()
        [1.0, 2.0]
    """
    operands = {"predictions": predictions, "targets": targets, "where": where, "weights": weights}
    return call_loss(_ABSOLUTE, operands, reduction=reduction)


@eagerly_jitted
def huber(
    predictions: Any,
    targets: Any,
    *,
    delta: float = 1.0,
    slope_at_infinity: str = "delta",
    where: Any = None,
    weights: Any = None,
    reduction: str = "none",
) -> jax.Array:
    """Huber's loss: squared for small errors, linear for large ones.

    ``0.5 * e**2`` where ``|e| <= delta``, else ``delta * (|e| - 0.5 * delta)``, with
    ``e = predictions - targets``

    Args:
        predictions: any shape.
        targets: the same shape.
        delta: where the two parts meet, a positive Python number.
        slope_at_infinity: the derivative of an infinite error: ``"delta"``; or ``"nan"``, that of
            the two parts behind jnp.where, as in Keras.
        where: booleans of that shape; False leaves an element out, whatever it holds.
        weights: of that shape, not negative.
        reduction: ``"none"``; ``"sum"``; or ``"mean"``, the sum over what counts, divided by the
            sum of its weights (each 1 without ``weights``), and 0 if nothing counts.

    Returns:
        That shape, or a scalar; in the dtype to which the operands promote, computed in float32 at
        least. What is left out is 0.

    Raises:
        OpError: shapes do not fit (nothing is broadcast), or a parameter is unknown.
        OpTypeError: ``where`` is not boolean, or delta no static number.

    Source: Huber, 1964, doi:10.1214/aoms/1177703732; optax.huber_loss.

    Example:
        >>> from jaxpress import nnops
        >>> nnops.huber([0.5, 3.0], [0.0, 0.0]).tolist()
        [0.125, 2.5]
    """
    operands = {"predictions": predictions, "targets": targets, "where": where, "weights": weights}
    return call_loss(
        _HUBER, operands, delta=delta, slope_at_infinity=slope_at_infinity, reduction=reduction
    )


# What optax and PyTorch call it.
huber_loss = huber
