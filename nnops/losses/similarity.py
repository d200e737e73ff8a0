"""Losses of a vector against a vector: Kullback-Leibler divergence and the angle between them."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxpress.nnops.eager import eagerly_jitted
from jaxpress.nnops.errors import OpError
from jaxpress.nnops.losses.reduction import (
    call_loss,
    check_product,
    define_loss,
    require_shape,
)
from jaxpress.nnops.moments import inverse_root
from jaxpress.nnops.normalize import PLACEMENTS, l2_reference
from jaxpress.nnops.opdef import OpDef
from jaxpress.nnops.settings import static_value
from jaxpress.nnops.softmax import axes_from_end

__all__ = ["cosine_distance", "cosine_similarity", "kl_divergence"]

EPSILON = 1e-8


def _define(
    name: str,
    losses: Callable[..., Any],
    first: str,
    defaults: Mapping[str, Any],
    normalize: Callable[[dict[str, Any]], dict[str, Any]],
) -> OpDef:
    def shape(given: Mapping[str, Any], params: Mapping[str, Any]) -> tuple[Any, ...]:
        x, axis = given[first], params["axis"]
        if not -x.ndim <= axis < 0:
            raise OpError(name, f"axis {axis} does not exist", given, "name another")
        require_shape(name, "targets", given, x.shape)
        at = axis % x.ndim
        return (*x.shape[:at], *x.shape[at + 1 :])

    return define_loss(
        name,
        losses,
        operands=(first, "targets"),
        shape=shape,
        spread=lambda where, params: jnp.expand_dims(where, params["axis"]),
        defaults={"axis": -1, **defaults},
        normalize=normalize,
    )


def _kl_losses(
    log_predictions: Any, targets: Any, *, axis: int, log_targets: bool, zero_times_infinity: str
) -> Any:
    if zero_times_infinity == "nan":
        log_p = targets if log_targets else jnp.where(targets == 0, 0, jnp.log(targets))
        p = jnp.exp(targets) if log_targets else targets
        return (p * (log_p - log_predictions)).sum(axis)
    if log_targets:
        # exp(-inf) = 0, and 0 log 0 = 0.
        gap = jnp.where(jnp.isneginf(targets), 0, targets - log_predictions)
        return (jnp.exp(targets) * gap).sum(axis)
    nothing = targets == 0
    log_p = jnp.log(jnp.where(nothing, 1, targets))
    log_q = jnp.where(nothing & jnp.isneginf(log_predictions), 0, log_predictions)
    return (targets * (log_p - log_q)).sum(axis)


def _cosine(
    predictions: Any,
    targets: Any,
    *,
    axis: int,
    epsilon: float,
    placement: str | None,
    dot_first: bool,
) -> Any:
    if dot_first and placement is not None:
        dot = (predictions * targets).sum(axis)
        for x in (predictions, targets):
            dot = dot * inverse_root((x * x).sum(axis), epsilon, placement)
        return dot
    if placement is not None:
        unit, other = (
            l2_reference(x, axis=axis, epsilon=epsilon, placement=placement)
            for x in (predictions, targets)
        )
        return (unit * other).sum(axis)

    def one_over_norm(x: Any) -> Any:
        return lax.rsqrt(jnp.maximum((x * x).sum(axis), epsilon**2))

    return (predictions * targets).sum(axis) * one_over_norm(predictions) * one_over_norm(targets)


def _normalize_cosine(params: dict[str, Any]) -> dict[str, Any]:
    epsilon = static_value("cosine_similarity", "epsilon", params["epsilon"], EPSILON)
    placement = params["placement"]
    if placement not in (None, *PLACEMENTS):
        raise OpError(
            "cosine_similarity",
            f"placement is {placement!r}",
            mend=f"give None or one of {PLACEMENTS}",
        )
    if not (epsilon > 0 or (placement is not None and epsilon == 0)):
        raise OpError("cosine_similarity", f"epsilon is {epsilon}", mend="give a positive number")
    first = static_value("cosine_similarity", "dot_first", params["dot_first"], False)
    return {**params, "epsilon": epsilon, "dot_first": first}


def _normalize_kl(params: dict[str, Any]) -> dict[str, Any]:
    check_product("kl_divergence", params)
    return {**params, "log_targets": bool(params["log_targets"])}


_KL = _define(
    "kl_divergence",
    _kl_losses,
    "log_predictions",
    {"log_targets": False, "zero_times_infinity": "zero"},
    _normalize_kl,
)
_COSINE = {"epsilon": EPSILON, "placement": None, "dot_first": False}
_SIMILARITY = _define("cosine_similarity", _cosine, "predictions", _COSINE, _normalize_cosine)
_DISTANCE = _define(
    "cosine_distance",
    lambda *args, **kwargs: 1 - _cosine(*args, **kwargs),
    "predictions",
    _COSINE,
    _normalize_cosine,
)


def _call(op: OpDef, operands: dict[str, Any], axis: int, **params: Any) -> Any:
    first = op.names[0]
    operands[first] = x = jnp.asarray(operands[first])
    if x.ndim < 1:
        raise OpError(op.name, f"{first} has no axes", {first: x}, "add one")
    return call_loss(op, operands, axis=axes_from_end(op.name, x, operator.index(axis)), **params)


@eagerly_jitted
def kl_divergence(
    log_predictions: Any,
    targets: Any,
    *,
    axis: int = -1,
    log_targets: bool = False,
    zero_times_infinity: str = "zero",
    where: Any = None,
    weights: Any = None,
    reduction: str = "none",
) -> jax.Array:
    """Kullback-Leibler divergence of targets from predictions, in nats.

    ``sum(p * (log(p) - log_predictions))`` over ``axis``, where p is ``targets``, or
    ``exp(targets)`` if they are logarithms; ``0 * log(0)`` is 0.

    Args:
        log_predictions: logarithms of probabilities, any shape, the outcomes along ``axis``.
        targets: the same shape, probabilities (or logarithms, see ``log_targets``).
        axis: of the outcomes.
        log_targets: whether targets are logarithms.
        zero_times_infinity: what an outcome of probability 0 adds where its prediction is 0 too:
            ``"zero"``; or ``"nan"``, the product, as in optax, which then also has no derivative
            by a target of 0.
        where: booleans of the losses' shape; False leaves an element out, whatever it holds.
        weights: of the losses' shape, not negative.
        reduction: ``"none"``; ``"sum"``; or ``"mean"``, the sum over what counts, divided by the
            sum of its weights (each 1 without ``weights``), and 0 if nothing counts.

    Returns:
        The operands' shape without ``axis``, or a scalar; in the dtype to which the operands
        promote, computed in float32 at least. What is left out is 0.

    Raises:
        OpError: shapes do not fit (nothing is broadcast), or a parameter is unknown.
        OpTypeError: ``where`` is not boolean.

    Source: Kullback and Leibler, 1951, doi:10.1214/aoms/1177729694; optax.kl_divergence.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxpress import nnops
        >>> float(nnops.kl_divergence(jnp.log(jnp.array([0.5, 0.5])), jnp.array([1.0, 0.0])))
        0.6931471824645996
    """
    operands = {
        "log_predictions": log_predictions,
        "targets": targets,
        "where": where,
        "weights": weights,
    }
    return _call(
        _KL,
        operands,
        axis,
        log_targets=log_targets,
        zero_times_infinity=zero_times_infinity,
        reduction=reduction,
    )


@eagerly_jitted
def cosine_similarity(
    predictions: Any,
    targets: Any,
    *,
    axis: int = -1,
    epsilon: float = 1e-8,
    placement: str | None = None,
    dot_first: bool = False,
    where: Any = None,
    weights: Any = None,
    reduction: str = "none",
) -> jax.Array:
    """Cosine of the angle between two vectors; 1 for the same direction.

    ``sum(a * b) / (max(norm(a), epsilon) * max(norm(b), epsilon))`` over ``axis``

    Args:
        predictions: any shape, the vectors along ``axis``.
        targets: the same shape.
        axis: of the vectors.
        epsilon: least norm, a positive Python number; with a placement perhaps 0.
        placement: None as above; or where epsilon stands in `l2_normalize`, which both vectors then
            go through first: slower, and without overflow where the product of two large ones has.
        dot_first: whether with a placement too the product is taken of the vectors as they are.
        where: booleans of the losses' shape; False leaves an element out, whatever it holds.
        weights: of the losses' shape, not negative.
        reduction: ``"none"``; ``"sum"``; or ``"mean"``, the sum over what counts, divided by the
            sum of its weights (each 1 without ``weights``), and 0 if nothing counts.

    Returns:
        The operands' shape without ``axis``, or a scalar; in the dtype to which the operands
        promote, computed in float32 at least. What is left out is 0.

    Raises:
        OpError: shapes do not fit (nothing is broadcast), or a parameter is unknown.
        OpTypeError: ``where`` is not boolean, or epsilon no static number.

    Source: optax.cosine_similarity.

    Example:
        >>> from jaxpress import nnops
        >>> float(nnops.cosine_similarity([1.0, 0.0], [4.0, 0.0]))
        1.0
    """
    operands = {"predictions": predictions, "targets": targets, "where": where, "weights": weights}
    how = {"epsilon": epsilon, "placement": placement, "dot_first": dot_first}
    return _call(_SIMILARITY, operands, axis, **how, reduction=reduction)


@eagerly_jitted
def cosine_distance(
    predictions: Any,
    targets: Any,
    *,
    axis: int = -1,
    epsilon: float = 1e-8,
    placement: str | None = None,
    dot_first: bool = False,
    where: Any = None,
    weights: Any = None,
    reduction: str = "none",
) -> jax.Array:
    """One minus the cosine of the angle between two vectors.

    ``1 - cosine_similarity(predictions, targets)``, for each vector, ahead of weights and
    reduction.

    Args:
        predictions: any shape, the vectors along ``axis``.
        targets: the same shape.
        axis: of the vectors.
        epsilon: least norm, a positive Python number; with a placement perhaps 0.
        placement: None as above; or where epsilon stands in `l2_normalize`, which both vectors then
            go through first: slower, and without overflow where the product of two large ones has.
        dot_first: whether with a placement too the product is taken of the vectors as they are.
        where: booleans of the losses' shape; False leaves an element out, whatever it holds.
        weights: of the losses' shape, not negative.
        reduction: ``"none"``; ``"sum"``; or ``"mean"``, the sum over what counts, divided by the
            sum of its weights (each 1 without ``weights``), and 0 if nothing counts.

    Returns:
        The operands' shape without ``axis``, or a scalar; in the dtype to which the operands
        promote, computed in float32 at least. What is left out is 0.

    Raises:
        OpError: shapes do not fit (nothing is broadcast), or a parameter is unknown.
        OpTypeError: ``where`` is not boolean, or epsilon no static number.

    Source: optax.cosine_distance.

    Example:
        >>> from jaxpress import nnops
        >>> float(nnops.cosine_distance([1.0, 0.0], [0.0, 3.0]))
        1.0
    """
    operands = {"predictions": predictions, "targets": targets, "where": where, "weights": weights}
    how = {"epsilon": epsilon, "placement": placement, "dot_first": dot_first}
    return _call(_DISTANCE, operands, axis, **how, reduction=reduction)
