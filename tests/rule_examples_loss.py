"""The examples of the rules that raise losses."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from rule_functions import Case, X, Y

from helpers import array
from jaxpress import nnops

__all__ = ["LOSSES"]

IDS = jnp.asarray([1, 3, 0])
P = jax.nn.softmax(Y)


def binary(x, z, other=1.0):
    return -z * nnops.log_sigmoid(x) - (other - z) * nnops.log_sigmoid(-x)


def clipped(a, b, delta=0.5, slope=0.5):
    size = jnp.abs(a - b)
    low = jnp.minimum(size, delta)
    return 0.5 * low**2 + slope * (size - low)


LOSSES: dict[str, Case] = {
    "raise_softmax_cross_entropy": Case(
        lambda x, q: -(q * nnops.log_softmax(x)).sum(-1),
        (X, P),
        lambda x, q: -(q * nnops.log_softmax(x, 0)).sum(-1),
    ),
    "raise_sparse_cross_entropy": Case(
        lambda x, y: -jnp.take_along_axis(nnops.log_softmax(x), y[:, None], 1)[:, 0],
        (X, IDS),
        # Two classes of each row, and a likelihood.
        lambda x, y: (
            -jnp.take_along_axis(nnops.log_softmax(x), jnp.stack([y, y], 1), 1)[:, 0],
            jnp.take_along_axis(nnops.log_softmax(x * 2), y[:, None], 1)[:, 0] * x[:, 0],
        ),
        tidied=True,
    ),
    "raise_normalized_cross_entropy": Case(
        lambda x, q: nnops.logsumexp(x, -1) - (q * x).sum(-1),
        (X, P),
        lambda x, q: nnops.logsumexp(x, -1) - (q * jnp.sin(x)).sum(-1),
    ),
    "raise_softplus_cross_entropy": Case(
        lambda x, z: nnops.softplus(x) - z * x,
        (X, P),
        lambda x, z: nnops.softplus(x) - z * jnp.sin(x),
    ),
    "raise_stable_cross_entropy": Case(
        lambda x, z: jnp.maximum(x, 0) - x * z + jnp.log1p(jnp.exp(-jnp.abs(x))),
        (X, P),
        lambda x, z: jnp.maximum(x, 0) - x * z + jnp.log1p(jnp.exp(-jnp.abs(z))),
        gradients=False,
    ),
    "raise_encoded_labels": Case(
        lambda x, y: nnops.softmax_cross_entropy(x, nnops.one_hot(y, 4)),
        (X, IDS),
        lambda x, y: nnops.softmax_cross_entropy(x, nnops.one_hot(y, 3, axis=0)),
        (array(3, 4), jnp.asarray([1, 2, 0, 1])),
    ),
    "raise_smoothed_labels": Case(
        lambda x, q: nnops.softmax_cross_entropy(x, 0.9 * q + 0.1 / 4),
        (X, P),
        lambda x, q: nnops.softmax_cross_entropy(x, 0.9 * q + 0.1 / 3),
    ),
    "raise_binary_cross_entropy": Case(
        binary, (X, jax.nn.sigmoid(Y)), lambda x, z: binary(x, z, 2.0), tidied=True
    ),
    "raise_squared_error": Case(
        lambda a, b: ((a - b) ** 2).sum(-1),
        (X, Y),
        # A variance, a penalty that only grows, and the second moment of an optimiser.
        lambda a, b: (
            ((a - a.mean(-1, keepdims=True)) ** 2).sum(-1),
            (a**2).sum(),
            0.1 * (a * 2 - b) ** 2 + 0.9 * b,
        ),
    ),
    "raise_absolute_error": Case(
        lambda a, b: jnp.abs(a - b).sum(-1),
        (X, Y),
        lambda a, b: (jnp.abs(a - b[:1]).sum(-1), jnp.exp(-jnp.abs(a - b))),
    ),
    "raise_huber": Case(clipped, (X, Y), lambda a, b: clipped(a, b, slope=0.75)),
    "raise_kl_divergence": Case(
        lambda x, p: (p * (jnp.where(p == 0, 0, jnp.log(p)) - x)).sum(-1),
        (X, P),
        lambda x, p: (p * (jnp.where(p == 0, 1, jnp.log(p)) - x)).sum(-1),
        tidied=True,
    ),
    "raise_cosine_by_lengths": Case(
        lambda a, b: (a * b).sum(-1) / (jnp.linalg.norm(a, axis=-1) * jnp.linalg.norm(b, axis=-1)),
        (X, Y),
        lambda a, b: (a * b).sum(-1) / (jnp.linalg.norm(a, axis=-1) + jnp.linalg.norm(b, axis=-1)),
    ),
    "raise_cosine_similarity": Case(
        lambda a, b: (nnops.l2_normalize(a) * nnops.l2_normalize(b)).sum(-1),
        (X, Y),
        lambda a, b: (nnops.l2_normalize(a) * nnops.l2_normalize(b, epsilon=1e-3)).sum(-1),
    ),
    "raise_cosine_distance": Case(
        lambda a, b: 1 - nnops.cosine_similarity(a, b),
        (X, Y),
        lambda a, b: 2 - nnops.cosine_similarity(a, b),
    ),
    "reduce_loss": Case(
        lambda a, b: nnops.mean_squared_error(a, b).mean(),
        (X, Y),
        lambda a, b: nnops.mean_squared_error(a, b, weights=jnp.abs(a)).mean(),
    ),
}
