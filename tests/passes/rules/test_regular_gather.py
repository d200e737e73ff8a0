"""Gathers at regular steps become slices and broadcasts; all others stay."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from helpers import array, assert_applies, assert_refuses
from jaxpress.capture import trace
from jaxpress.passes import default, inline
from jaxpress.passes.rules.regular_gather import REGULAR_GATHER

X = array(2, 4, 6, 3)
CLOSED = jnp.array([2, 1, 0])


def resized(*shape):
    return lambda x: jax.image.resize(x, shape, "nearest")


@pytest.mark.parametrize(
    ("fn", "left"),
    [
        (resized(2, 8, 12, 3), {"broadcast_in_dim": 2, "reshape": 2}),
        (resized(2, 12, 6, 3), {"broadcast_in_dim": 1, "reshape": 1}),
        (resized(2, 2, 3, 3), {"slice": 2}),
        (lambda x: x[:, jnp.arange(0, 4, 2)], {"slice": 1}),
        (lambda x: x[..., jnp.arange(2, -1, -1)], {"rev": 1}),
        (lambda x: x[:, jnp.arange(3, -1, -2)], {"slice": 1, "rev": 1}),
        (lambda x: jnp.take(x, 1, axis=2), {"slice": 1, "squeeze": 1}),
        (lambda x: jnp.take(x, jnp.arange(8) // 2, axis=1), {"broadcast_in_dim": 1, "reshape": 1}),
        (lambda x: x[:, jnp.arange(3)[:, None], jnp.arange(6)[None] // 3], {"slice": 2}),
        (lambda x: x[:, jnp.arange(2)[None], jnp.arange(6)[:, None]], {"slice": 1, "transpose": 1}),
        (lambda x: x[jnp.arange(2), :, 5], {"slice": 1, "squeeze": 1}),
        (lambda x: jnp.take(x, jnp.arange(4) * 0, axis=1), {"slice": 1, "broadcast_in_dim": 1}),
    ],
)
def test_regular(fn, left) -> None:
    new = assert_applies(REGULAR_GATHER, inline(trace(fn)(X)), X)
    assert not new.find("gather")
    assert left.items() <= new.count().items()


@pytest.mark.parametrize(
    "fn",
    [
        resized(2, 6, 6, 3),  # 0, 1, 1, 2, 3, 3
        lambda x: x[:, jnp.arange(4), jnp.arange(4)],  # a diagonal
        lambda x: jnp.take(x, jnp.arange(6), axis=1),  # out of the axis: filled in
        lambda x: jnp.take(x, jnp.arange(6), axis=1, mode="clip"),
        lambda x: x[:, jnp.arange(4) ** 2 % 4],
        lambda x: x[..., CLOSED],
        lambda x: x[:, jnp.abs(lax.stop_gradient(x[0, 0, :2, 0])).astype(int)],
        lambda x: jnp.arange(6.0)[jnp.arange(0, 6, 2)] + x[0, 0, 0],
        lambda x: jax.vmap(lambda v, i: v[i])(x, jnp.arange(2)),
    ],
)
def test_others_stay(fn) -> None:
    assert_refuses(REGULAR_GATHER, inline(trace(fn)(X)), X)


def test_in_a_loop_under_vmap_and_in_gradients() -> None:
    def fn(x):
        up = jax.vmap(lambda v: jax.image.resize(v, (8, 12, 3), "nearest"))
        return lax.scan(lambda h, _: (up(jnp.sin(h))[:, ::2, ::2], None), x, None, 2)[0]

    new, _ = default.run(trace(fn)(X))
    assert not new.find("gather")
    value, gradient = jax.value_and_grad(lambda x: jnp.sum(new(x) ** 2))(X)
    want, slope = jax.value_and_grad(lambda x: jnp.sum(fn(x) ** 2))(X)
    np.testing.assert_allclose(value, want, rtol=1e-6)
    np.testing.assert_allclose(gradient, slope, rtol=1e-5, atol=1e-6)
