"""Cross entropies from logits: softmax over classes, and sigmoid for yes or no."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxpress.nnops.eager import eagerly_jitted
from jaxpress.nnops.errors import OpError, OpTypeError
from jaxpress.nnops.losses.reduction import (
    call_loss,
    check_product,
    define_loss,
    require_shape,
)
from jaxpress.nnops.settings import static_value
from jaxpress.nnops.softmax import axes_from_end

__all__ = ["binary_cross_entropy", "sigmoid_binary_cross_entropy", "softmax_cross_entropy"]

OUT_OF_RANGE = ("nan", "ignore", "clip", "promise_in_bounds", "zero")


def _without(shape: tuple[Any, ...], axis: int) -> tuple[Any, ...]:
    at = axis % len(shape)
    return (*shape[:at], *shape[at + 1 :])


def _softmax_shape(given: Mapping[str, Any], params: Mapping[str, Any]) -> tuple[Any, ...]:
    logits, labels, axis = given["logits"], given["labels"], params["axis"]
    if not -logits.ndim <= axis < 0:
        raise OpError("softmax_cross_entropy", f"axis {axis} does not exist", given, "name another")
    each = _without(logits.shape, axis)
    fits = labels.shape == (logits.shape if labels.ndim == logits.ndim else each)
    if not fits:
        raise OpError(
            "softmax_cross_entropy",
            f"labels have shape {labels.shape}, and logits {logits.shape} with classes along axis "
            f"{axis}",
            given,
            f"give class indices of shape {each}, or distributions of shape {logits.shape}",
        )
    if labels.ndim < logits.ndim and not jnp.issubdtype(labels.dtype, jnp.integer):
        raise OpTypeError(
            "softmax_cross_entropy",
            f"labels have the shape of class indices, and are {labels.dtype}",
            given,
            "give integers",
        )
    return each


def _picked(scores: Any, labels: Any, axis: int) -> Any:
    """The elements at ``labels``; at the nearest class where one is out of range."""
    classes = scores.shape[axis]
    labels = jnp.expand_dims(jnp.clip(labels, 0, classes - 1), axis)
    mesh = jax.typeof(scores).sharding.mesh
    explicit = jax.sharding.AxisType.Explicit in mesh.axis_types
    if not explicit and 0 not in scores.shape:
        taken = jnp.take_along_axis(scores, labels, axis, mode="promise_in_bounds")
        return jnp.squeeze(taken, axis)
    # A comparison, not a gather, since classes may be sharded; much slower on the CPU.
    index = lax.expand_dims(
        lax.iota(labels.dtype, classes), [i for i in range(scores.ndim) if i != axis % scores.ndim]
    )
    return jnp.where(labels == index, scores, 0).sum(axis)


def _log_probabilities(logits: Any, labels: Any, axis: int) -> Any:
    """``log_softmax`` at the labels, where nobody wants it at the other classes."""
    # To the last digit: what jax.nn.log_softmax does, but the classes are picked first.
    top = lax.stop_gradient(jnp.max(logits, axis, initial=-jnp.inf, keepdims=True))
    total = jnp.exp(logits - top).sum(axis)
    return (_picked(logits, labels, axis) - jnp.squeeze(top, axis)) - jnp.log(total)


def _softmax_losses(
    logits: Any,
    labels: Any,
    *,
    axis: int,
    label_smoothing: float,
    out_of_range: str,
    from_end: bool,
    by_logsumexp: bool | str,
    zero_times_infinity: str,
) -> Any:
    classes = logits.shape[axis]
    each, by_logsumexp = by_logsumexp == "each", by_logsumexp is True
    if labels.ndim < logits.ndim:
        labels = labels.astype(jnp.promote_types(labels.dtype, jnp.int32))
        if from_end:
            labels = jnp.where(labels < 0, labels + classes, labels)
        if out_of_range == "zero":
            labels = jax.nn.one_hot(labels, classes, axis=axis, dtype=logits.dtype)
    of_all = each or labels.ndim == logits.ndim or label_smoothing
    scores = logits
    if each:
        scores = logits - jax.nn.logsumexp(logits, axis, keepdims=True)
    elif of_all and not by_logsumexp:
        scores = jax.nn.log_softmax(logits, axis)
    if labels.ndim == logits.ndim:
        q = labels.astype(logits.dtype)  # integers too
        if label_smoothing:
            q = (1 - label_smoothing) * q + label_smoothing / classes
        if zero_times_infinity == "zero":
            # What cannot happen and has no probability costs nothing: 0 log 0 = 0.
            scores = jnp.where((q == 0) & jnp.isneginf(scores), 0, scores)
        expected = (q * scores).sum(axis)
        return jax.nn.logsumexp(logits, axis) - expected if by_logsumexp else -expected
    valid = (labels >= 0) & (labels < classes)
    if of_all or by_logsumexp:
        picked = _picked(scores, labels, axis)
    else:
        picked = _log_probabilities(logits, labels, axis)
    if out_of_range == "promise_in_bounds":
        picked = jnp.where(valid, picked, lax.stop_gradient(picked))
    if by_logsumexp and out_of_range == "nan":
        picked = jnp.where(valid, picked, jnp.nan)
    losses = jax.nn.logsumexp(logits, axis) - picked if by_logsumexp else -picked
    if label_smoothing:
        losses = (1 - label_smoothing) * losses - label_smoothing * scores.mean(axis)
    if out_of_range == "nan" and not by_logsumexp:
        losses = jnp.where(valid, losses, jnp.nan)
    if out_of_range == "ignore":
        return jnp.where(valid, losses, 0), valid
    return losses


def _smoothing(name: str, params: dict[str, Any]) -> dict[str, Any]:
    smoothing = static_value(name, "label_smoothing", params["label_smoothing"], 0.0)
    if not 0 <= smoothing <= 1:
        raise OpError(name, f"label_smoothing is {smoothing}", mend="give a number from 0 to 1")
    return {**params, "label_smoothing": smoothing}


def _normalize_softmax(params: dict[str, Any]) -> dict[str, Any]:
    if params["out_of_range"] not in OUT_OF_RANGE:
        raise OpError(
            "softmax_cross_entropy",
            f"out_of_range is {params['out_of_range']!r}",
            mend=f"give one of {OUT_OF_RANGE}",
        )
    check_product("softmax_cross_entropy", params)
    params = _smoothing("softmax_cross_entropy", params)
    flags: dict[str, bool | str] = {k: bool(params[k]) for k in ("from_end", "by_logsumexp")}
    if isinstance(params["by_logsumexp"], str):
        if params["by_logsumexp"] != "each":
            raise OpError(
                "softmax_cross_entropy",
                f"by_logsumexp is {params['by_logsumexp']!r}",
                mend="give True, False or 'each'",
            )
        flags["by_logsumexp"] = "each"
    if flags["by_logsumexp"] and params["label_smoothing"]:
        raise OpError(
            "softmax_cross_entropy",
            "by_logsumexp takes no label_smoothing",
            mend="leave one of them out",
        )
    return {**params, **flags}


_SOFTMAX = define_loss(
    "softmax_cross_entropy",
    _softmax_losses,
    operands=("logits", "labels"),
    floats=("logits",),
    shape=_softmax_shape,
    spread=lambda where, params: jnp.expand_dims(where, params["axis"]),
    defaults={
        "axis": -1,
        "label_smoothing": 0.0,
        "out_of_range": "nan",
        "from_end": False,
        "by_logsumexp": False,
        "zero_times_infinity": "zero",
    },
    normalize=_normalize_softmax,
)


@eagerly_jitted
def softmax_cross_entropy(
    logits: Any,
    labels: Any,
    *,
    axis: int = -1,
    where: Any = None,
    weights: Any = None,
    label_smoothing: float = 0.0,
    out_of_range: str = "nan",
    from_end: bool = False,
    by_logsumexp: bool | str = False,
    zero_times_infinity: str = "zero",
    reduction: str = "none",
) -> jax.Array:
    """Cross entropy of softmax.

    ``-sum(q * log(softmax(logits)))`` over ``axis``, where q is 1 at the label and 0 elsewhere, or
    the labels themselves if they are distributions; smoothed, ``(1 - s) * q + s / classes``.

    Args:
        logits: any shape with the classes along ``axis``.
        labels: class indices, integers of logits' shape without ``axis``; or distributions, of
            logits' shape.
        axis: of the classes.
        where: booleans of the losses' shape; False leaves an element out, whatever it holds.
        weights: of the losses' shape, not negative.
        label_smoothing: s, from 0 to 1, a Python number.
        out_of_range: what a class index that is negative or too large gives: ``"nan"``;
            ``"ignore"`` to leave the element out; ``"clip"`` for the nearest class;
            ``"promise_in_bounds"`` for the same, through which no gradient goes, as in ``x[i]``;
            ``"zero"`` for no class at all, as jax.nn.one_hot has it.
        from_end: whether negative class indices count from the end, as they do in NumPy.
        by_logsumexp: computes ``logsumexp(logits) - sum(q * logits)``, of class indices as optax
            does: the same if q's sum is 1. Less exact for large logits; and it is infinity, not
            NaN, where another class has an infinite logit, and has a gradient where an index is
            out of range. ``"each"`` computes ``-sum(q * (logits - logsumexp(logits)))``, as people
            write it by hand: at an infinite logit its gradient is NaN for that class alone.
        zero_times_infinity: what a probability of 0 adds at a logit of minus infinity: ``"zero"``,
            since what cannot happen costs nothing; or ``"nan"``, the product, as in optax. Of
            class indices, only with ``out_of_range="zero"``.
        reduction: ``"none"``; ``"sum"``; or ``"mean"``, the sum over what counts, divided by the
            sum of its weights (each 1 without ``weights``), and 0 if nothing counts.

    Returns:
        Logits' shape without ``axis``, or a scalar; in the dtype to which the float operands
        promote, computed in float32 at least. What is left out is 0.

    Raises:
        OpError: shapes do not fit (nothing is broadcast), or a parameter is unknown.
        OpTypeError: class indices or ``where`` have another type.

    Source: optax.softmax_cross_entropy, and its kin with integer labels; Szegedy et al., 2015,
    arXiv:1512.00567, for the smoothing.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxpress import nnops
        >>> loss = nnops.softmax_cross_entropy(jnp.zeros((2, 4)), jnp.array([1, 3]))
        >>> loss.round(3).tolist()  # log(4)
        [1.3860000371932983, 1.3860000371932983]
    """
    logits = jnp.asarray(logits)
    if logits.ndim < 1:
        raise OpError("softmax_cross_entropy", "logits has no axes", {"logits": logits}, "add one")
    return call_loss(
        _SOFTMAX,
        {"logits": logits, "labels": labels, "where": where, "weights": weights},
        axis=axes_from_end("softmax_cross_entropy", logits, operator.index(axis)),
        label_smoothing=label_smoothing,
        out_of_range=out_of_range,
        from_end=from_end,
        by_logsumexp=by_logsumexp,
        zero_times_infinity=zero_times_infinity,
        reduction=reduction,
    )


def _binary_shape(given: Mapping[str, Any], params: Mapping[str, Any]) -> tuple[Any, ...]:
    del params
    require_shape("binary_cross_entropy", "labels", given, given["logits"].shape)
    return given["logits"].shape


def _binary_losses(
    logits: Any,
    labels: Any,
    *,
    label_smoothing: float,
    by_softplus: bool,
    zero_times_infinity: str,
) -> Any:
    if label_smoothing:
        labels = (1 - label_smoothing) * labels + label_smoothing / 2
    if by_softplus:
        return jax.nn.softplus(logits) - labels * logits
    if zero_times_infinity == "nan":
        no = (1 - labels) * jax.nn.log_sigmoid(-logits)
        return -labels * jax.nn.log_sigmoid(logits) - no
    # max(x, 0) - x * labels + log(1 + exp(-|x|)), with the derivative of softplus at 0, and
    # without 0 * inf where a label and an infinite logit agree.
    positive = logits >= 0
    slope = jnp.where(positive, 1 - labels, -labels)
    line = slope * jnp.where((slope == 0) & jnp.isinf(logits), 0, logits)
    return line + jnp.log1p(jnp.exp(-jnp.where(positive, logits, -logits)))


def _normalize_binary(params: dict[str, Any]) -> dict[str, Any]:
    check_product("binary_cross_entropy", params)
    params = _smoothing("binary_cross_entropy", params)
    return {**params, "by_softplus": bool(params["by_softplus"])}


_BINARY = define_loss(
    "binary_cross_entropy",
    _binary_losses,
    operands=("logits", "labels"),
    shape=_binary_shape,
    spread=lambda where, params: where,
    defaults={"label_smoothing": 0.0, "by_softplus": False, "zero_times_infinity": "zero"},
    normalize=_normalize_binary,
)


@eagerly_jitted
def binary_cross_entropy(
    logits: Any,
    labels: Any,
    *,
    where: Any = None,
    weights: Any = None,
    label_smoothing: float = 0.0,
    by_softplus: bool = False,
    zero_times_infinity: str = "zero",
    reduction: str = "none",
) -> jax.Array:
    """Cross entropy of sigmoid, for each element alone.

    ``-labels * log(sigmoid(logits)) - (1 - labels) * log(1 - sigmoid(logits))``

    Args:
        logits: any shape.
        labels: logits' shape, from 0 to 1; booleans and integers too.
        where: booleans of logits' shape; False leaves an element out, whatever it holds.
        weights: of logits' shape, not negative.
        label_smoothing: s in ``(1 - s) * labels + s / 2``, from 0 to 1, a Python number.
        by_softplus: computes ``softplus(logits) - labels * logits``: less exact for large logits,
            and NaN where one is infinite and should cost nothing.
        zero_times_infinity: what an infinite logit costs that agrees with its label: ``"zero"``,
            or ``"nan"``, the product, as in optax.
        reduction: ``"none"``; ``"sum"``; or ``"mean"``, the sum over what counts, divided by the
            sum of its weights (each 1 without ``weights``), and 0 if nothing counts.

    Returns:
        Logits' shape, or a scalar; in the dtype to which the float operands promote, computed in
        float32 at least. What is left out is 0.

    Raises:
        OpError: shapes do not fit (nothing is broadcast), or a parameter is unknown.
        OpTypeError: ``where`` is not boolean.

    Source: optax.sigmoid_binary_cross_entropy.

    Example:
        >>> from jaxpress import nnops
        >>> nnops.binary_cross_entropy([100.0, -100.0], [1, 1]).tolist()
        [0.0, 100.0]
    """
    operands = {"logits": logits, "labels": labels, "where": where, "weights": weights}
    return call_loss(
        _BINARY,
        operands,
        label_smoothing=label_smoothing,
        by_softplus=by_softplus,
        zero_times_infinity=zero_times_infinity,
        reduction=reduction,
    )


sigmoid_binary_cross_entropy = binary_cross_entropy
