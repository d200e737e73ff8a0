"""Logarithms of means of exponentials: that of JAX, by hand, and what is none."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxpress as jp
from helpers import array, assert_close

X = array(3, 4, 5)
lse = jax.nn.logsumexp


def ops_of(fn):
    fast = jp.optimize(fn)
    assert_close(fast(X), fn(X))
    return fast.graph(X).count()


@pytest.mark.parametrize(
    "fn",
    [
        lambda x: jax.nn.logmeanexp(x, -1),
        lambda x: jax.nn.logmeanexp(x, (0, 2), keepdims=True),
        lambda x: jax.nn.logmeanexp(x),
        lambda x: lse(x, 0) - np.log(3),
        lambda x: -jnp.log(5.0) + lse(x, -1),
        lambda x: jax.vmap(lambda v: lse(v) - jnp.log(v.size))(x),
    ],
)
def test_a_mean(fn) -> None:
    assert ops_of(fn) == {"logmeanexp": 1}


@pytest.mark.parametrize(
    "fn",
    [
        lambda x: lse(x, 0) - jnp.log(4),
        lambda x: lse(x, 0) + jnp.log(3),
        lambda x: jnp.log(3) - lse(x, 0),
        lambda x: (y := lse(x, 0)) - jnp.log(3) * y,
        lambda x: lse(x, 0) - jnp.log(jnp.full((2, 1, 1), 3.0)),
        lambda x: lse(x, -1, where=x > -9) - jnp.log(5),
    ],
)
def test_what_is_none(fn) -> None:
    assert "logmeanexp" not in ops_of(fn)


def test_infinities_and_gradients() -> None:
    x = X.at[0, 0].set(-jnp.inf).at[1, 1, 0].set(jnp.inf).at[2, 1, 0].set(jnp.nan)
    fn = lambda x: jax.nn.logmeanexp(x, -1)  # noqa: E731
    for a, b in zip(*(_both(f, x) for f in (jp.optimize(fn), fn)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)


def _both(fn, x):
    y, back = jax.vjp(fn, x)
    return y, *back(jnp.ones_like(y))
