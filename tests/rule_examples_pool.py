"""Examples and lookalikes of the rules for pooling and dropout, for ``rule_examples.py``."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax
from rule_functions import IMAGE, Case, X

from jaxpress import nnops

__all__ = ["POOLING"]

KEY = jax.random.key(7)


def window(x, start, function, **options):
    return lax.reduce_window(x, start, function, (1, 2, 2, 1), (1, 2, 2, 1), "VALID", **options)


def draw(x):
    return jax.random.bernoulli(KEY, 0.7, x.shape)


def drawn(x, key):
    return jax.random.bernoulli(key, 0.7, x.shape)


def shared_draw(x, drop):
    """Dropout of two arrays by one mask, which is then an operand."""
    mask = draw(x)
    return drop(mask, x), drop(mask, x * x)


POOLING: dict[str, Case] = {
    "raise_min_pool": Case(
        lambda x: window(x, jnp.inf, lax.min),
        (IMAGE,),
        lambda x: window(x, jnp.inf, lax.min, base_dilation=(1, 2, 1, 1)),
    ),
    "raise_negated_max_pool": Case(
        lambda x: -nnops.max_pool(-x, (2, 2)), (IMAGE,), lambda x: -nnops.max_pool(x, (2, 2))
    ),
    "raise_moved_avg_pool": Case(
        lambda x: window(x, 0.0, lax.add).transpose(0, 3, 1, 2) / 4.0,
        (IMAGE,),
        lambda x: window(x, 0.0, lax.add).transpose(0, 3, 1, 2) / 5.0,
    ),
    "raise_sampled_sum": Case(
        lambda x: lax.reduce_window(x, 0.0, lax.add, (1,) * 4, (1, 2, 2, 1), "VALID"),
        (IMAGE,),
        lambda x: window(x, 0.0, lax.add),
    ),
    "raise_global_avg_pool": Case(
        lambda x: x.mean((1, 2)), (IMAGE,), lambda x: x.sum((1, 2)) / 35.0
    ),
    "raise_scaled_sum": Case(
        lambda x: x.sum((1, 2)) * (1 / 36), (IMAGE,), lambda x: x.sum((1, 2)) * (1 / 35)
    ),
    "raise_global_max_pool": Case(
        lambda x: x.max((1, 2)), (IMAGE,), lambda x: x - x.max((1, 2), keepdims=True)
    ),
    "keep_pooled_axes": Case(
        lambda x: nnops.global_avg_pool(x)[:, None, None, :],
        (IMAGE,),
        lambda x: nnops.global_avg_pool(x)[:, :, None, None],
    ),
    "raise_split_mean": Case(
        lambda x: x.reshape(2, 3, 2, 3, 2, 3).mean((2, 4)),
        (IMAGE,),
        lambda x: x.reshape(2, 3, 2, 3, 2, 3).mean((1, 3)),
    ),
    "squeeze_sum": Case(lambda x: x[:, :1].sum(1), (X,), lambda x: x.sum(1)),
    "fuse_pool_layout": Case(
        lambda x: nnops.max_pool(x.transpose(0, 2, 3, 1), (2, 2)).transpose(0, 3, 1, 2),
        (IMAGE,),
        lambda x: nnops.max_pool(x.transpose(0, 2, 3, 1), (2, 2)) * 2,
    ),
    "merge_pools": Case(
        lambda x: nnops.avg_pool(nnops.avg_pool(x, (2, 1)), (1, 2)),
        (IMAGE,),
        lambda x: nnops.avg_pool(nnops.avg_pool(x, (2, 1)), (2, 1)),
    ),
    "raise_dropout": Case(
        lambda x, key: jnp.where(drawn(x, key), x / 0.7, 0),
        (X, KEY),
        lambda x, key: jnp.where(drawn(x, key), x / 1.7, 0),
        tidied=True,
    ),
    "raise_scaled_dropout": Case(
        lambda x, key: x * (drawn(x, key) / 0.7),
        (X, KEY),
        lambda x, key: x * (drawn(x, key) / 1.7),
        tidied=True,
    ),
    "raise_scaled_mask": Case(
        lambda x, key: x / 0.7 * jnp.floor(0.7 + jax.random.uniform(key, (3, 1))),
        (X, KEY),
        lambda x, key: x / 0.7 * jnp.floor(0.7 + 2 * jax.random.uniform(key, (3, 1))),
        tidied=True,
    ),
    "raise_masked_dropout": Case(
        lambda x: shared_draw(x, lambda mask, v: jnp.where(mask, v / 0.7, 0)),
        (X,),
        lambda x: jnp.where(x > 0, x / 0.7, 0),
        tidied=True,
    ),
}
