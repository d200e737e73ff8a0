"""Connectionist temporal classification: the loss of a sequence without an alignment."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxpress.nnops.eager import eagerly_jitted
from jaxpress.nnops.errors import OpError, OpTypeError
from jaxpress.nnops.losses.reduction import call_loss, define_loss, require_shape

__all__ = ["ctc_loss"]

# Stands for log(0): finite, so that differences of two such are no NaN.
LOG_ZERO = -1e30


def _shape(given: Mapping[str, Any], params: Mapping[str, Any]) -> tuple[Any, ...]:
    logits, labels = given["logits"], given["labels"]
    if logits.ndim < 2 or labels.ndim != logits.ndim - 1 or labels.shape[:-1] != logits.shape[:-2]:
        raise OpError(
            "ctc_loss",
            f"logits have shape {logits.shape}, and labels {labels.shape}",
            given,
            "logits are (..., steps, classes) and labels (..., length), with the same leading axes",
        )
    classes, blank = logits.shape[-1], params["blank"]
    if not -classes <= blank < classes:
        raise OpError("ctc_loss", f"blank is {blank}", given, f"name one of {classes} classes")
    for name in ("labels", "logit_lengths", "label_lengths"):
        if name in given and not jnp.issubdtype(given[name].dtype, jnp.integer):
            raise OpTypeError("ctc_loss", f"{name} is {given[name].dtype}", given, "give integers")
        if name in given and name != "labels":
            require_shape("ctc_loss", name, given, logits.shape[:-2])
    return logits.shape[:-2]


def _losses(
    logits: Any, labels: Any, logit_lengths: Any = None, label_lengths: Any = None, *, blank: int
) -> Any:
    steps, classes = logits.shape[-2:]
    length = labels.shape[-1]
    blank %= classes
    labels = labels.astype(jnp.int32)
    known = (labels >= 0) & (labels < classes)
    labels = jnp.where(known, labels, blank)
    if label_lengths is not None:
        known |= lax.iota(jnp.int32, length) >= jnp.expand_dims(label_lengths, -1)
    # Between the labels, before and after them, there may be blanks: 2 * length + 1 states.
    around = (1, 0, 0) if length == 0 else (1, 1, 1)
    states = _padded(labels, blank, around)
    # The blank between two labels may be left out where they differ.
    may_skip = (states != blank) & (states != _padded(states, blank, (2, -2, 0)))
    log_p = jax.nn.log_softmax(logits, -1)
    emitted = jnp.take_along_axis(log_p, jnp.expand_dims(states, -2), -1, mode="clip")
    emitted = jnp.maximum(emitted, LOG_ZERO)

    def step(alpha: Any, given: Any) -> Any:
        now, scores = given
        once, twice = (_padded(alpha, LOG_ZERO, (n, -n, 0)) for n in (1, 2))
        ways = jnp.stack([alpha, once, jnp.where(may_skip, twice, LOG_ZERO)])
        after = jax.nn.logsumexp(ways, 0) + scores
        if logit_lengths is None:
            return after, None
        return jnp.where(jnp.expand_dims(now < logit_lengths, -1), after, alpha), None

    at = lax.iota(jnp.int32, 2 * length + 1)
    # Ahead of the first step, one stands before the first blank. (Of the sum, the type matters.)
    alpha = jnp.where(at == 0, 0.0, LOG_ZERO).astype(log_p.dtype) + jnp.zeros_like(emitted.sum(-2))
    alpha, _ = lax.scan(step, alpha, (lax.iota(jnp.int32, steps), jnp.moveaxis(emitted, -2, 0)))
    # Done in the last label or in the blank behind it.
    behind = 2 * (length if label_lengths is None else jnp.expand_dims(label_lengths, -1))
    final = jnp.where((at == behind) | (at == behind - 1), alpha, LOG_ZERO)
    losses = -jax.nn.logsumexp(final, -1)
    losses = jnp.where(losses > -LOG_ZERO / 10, jnp.inf, losses)
    fits = known.all(-1)
    for lengths, most in ((logit_lengths, steps), (label_lengths, length)):
        if lengths is not None:
            fits &= (lengths >= 0) & (lengths <= most)
    return jnp.where(fits, losses, jnp.nan)


def _padded(x: Any, value: Any, last: tuple[int, int, int]) -> Any:
    """``x`` with its last axis padded before, behind and in between; in JAX's own terms."""
    return lax.pad(x, jnp.asarray(value, x.dtype), [(0, 0, 0)] * (x.ndim - 1) + [last])


_CTC = define_loss(
    "ctc_loss",
    _losses,
    operands=("logits", "labels"),
    optional=("logit_lengths", "label_lengths"),
    floats=("logits",),
    shape=_shape,
    spread=lambda where, params: jnp.expand_dims(where, (-2, -1)),
    defaults={"blank": 0},
    keeps=True,
)


@eagerly_jitted
def ctc_loss(
    logits: Any,
    labels: Any,
    *,
    logit_lengths: Any = None,
    label_lengths: Any = None,
    blank: int = 0,
    where: Any = None,
    weights: Any = None,
    reduction: str = "none",
) -> jax.Array:
    """Connectionist temporal classification, in nats.

    ``-log(p)``, where p is the probability of all alignments that give the labels: sequences of one
    class at each step, of which repetitions are merged and then blanks dropped.

    Args:
        logits: (..., steps, classes).
        labels: (..., length), class indices; what lies behind ``label_lengths`` is not read.
        logit_lengths: (...), integers, or None for all steps.
        label_lengths: (...), integers, or None for all labels.
        blank: the class that stands for no label, a Python integer.
        where: booleans (...); False leaves a sequence out, whatever it holds.
        weights: (...), not negative.
        reduction: ``"none"``; ``"sum"``; or ``"mean"``, the sum over the sequences that count,
            divided by the sum of their weights (each 1 without ``weights``), and 0 if none counts.
            Losses are not divided by the labels' lengths.

    Returns:
        (...), or a scalar; in the dtype to which logits and weights promote, computed in float32 at
        least. Infinity, with a gradient of 0, where no alignment exists; NaN where a label or a
        length is out of range.

    Raises:
        OpError: shapes do not fit (nothing is broadcast), or a parameter is unknown.
        OpTypeError: labels or lengths are no integers, or ``where`` is not boolean.

    Source: Graves et al., 2006, doi:10.1145/1143844.1143891; torch.nn.functional.ctc_loss.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxpress import nnops
        >>> loss = nnops.ctc_loss(jnp.zeros((2, 2)), jnp.array([1]))  # 3 of 4 paths read 1
        >>> round(float(jnp.exp(-loss)), 6)
        0.75
    """
    operands = {
        "logits": logits,
        "labels": labels,
        "logit_lengths": logit_lengths,
        "label_lengths": label_lengths,
        "where": where,
        "weights": weights,
    }
    return call_loss(_CTC, operands, blank=operator.index(blank), reduction=reduction)
