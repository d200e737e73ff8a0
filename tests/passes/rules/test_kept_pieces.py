"""Losses that are traced together with their gradient keep their names, and it its bits."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from helpers import array, assert_refuses, rewritten
from jaxpress import passes
from jaxpress.capture import trace
from jaxpress.passes.rules.raise_error_loss import ERROR_LOSS_RULES
from jaxpress.passes.rules.raise_softmax import SOFTMAX_RULES

X, T = array(4, 5), jax.nn.softmax(array(4, 5, seed=3))
IDS = jnp.array([0, 4, 7, -1])  # one out of range, one from the end
BEFORE = passes.Pipeline(passes.default.passes[:4])


def by_hand(x):
    e = jnp.exp(x - jnp.max(x, -1, keepdims=True))
    return (e / jnp.sum(e, -1, keepdims=True) * T).sum()


def z_loss(x):
    normalizer = jax.nn.logsumexp(x, -1)
    picked = jnp.take_along_axis(x, IDS[:, None], -1)[:, 0]
    return (normalizer - picked + 1e-4 * normalizer**2).mean()


FUNCTIONS = {
    "softmax": lambda x: (jax.nn.softmax(x) * T).sum(),
    "softmax by hand": by_hand,
    "log_softmax": lambda x: jnp.sin(jax.nn.log_softmax(x)).sum(),
    "logsumexp": lambda x: jnp.sin(jax.nn.logsumexp(x, -1)).sum(),
    "softplus": lambda x: (jax.nn.softplus(x) * T).sum(),
    "relu6": lambda x: (jax.nn.relu6(x) * T).sum(),
    "softmax_cross_entropy": lambda x: optax.softmax_cross_entropy(x, T).mean(),
    "softmax_cross_entropy of ids": lambda x: optax.softmax_cross_entropy_with_integer_labels(
        x, IDS
    ).sum(),
    "softmax_cross_entropy picked": lambda x: (
        -jnp.take_along_axis(jax.nn.log_softmax(x), IDS[:, None], -1).mean()
    ),
    "softmax_cross_entropy and z-loss": lambda x: z_loss(x),
    "binary_cross_entropy": lambda x: optax.sigmoid_binary_cross_entropy(x, T).mean(),
    "mean_squared_error": lambda x: optax.squared_error(x, T).mean(),
    "mean_absolute_error": lambda x: jnp.abs(x - T).mean(),
    "huber": lambda x: optax.huber_loss(x, T).mean(),
}


def one_by_one(graph, x):
    """The results of operations that are not compiled together, which would round them anew."""
    closed = graph.to_jaxpr()
    return jax.core.eval_jaxpr(closed.jaxpr, closed.consts, x)


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("special", [False, True])
def test_a_value_beside_its_gradient(name, special) -> None:
    x = X
    if special:
        x = x.at[0, 0].set(jnp.inf).at[1, 1].set(-jnp.inf).at[2].set(-jnp.inf).at[3, 3].set(jnp.nan)
    fn = jax.value_and_grad(FUNCTIONS[name])
    new, _ = rewritten(BEFORE, fn, x)
    assert new.count()[name.split()[0]] >= 1
    (value, gradient), wanted = one_by_one(new, x), one_by_one(passes.cleanup(trace(fn)(x)), x)
    np.testing.assert_allclose(value, wanted[0], rtol=1e-6)
    np.testing.assert_array_equal(gradient, wanted[1])


def test_a_squared_normaliser_stays_beside_the_loss() -> None:
    new, _ = rewritten(BEFORE, z_loss, X)
    assert new.count()["softmax_cross_entropy"] == new.count()["logsumexp"] == 1
    np.testing.assert_allclose(new(X), z_loss(X), rtol=1e-6)


def test_a_gradient_of_a_gradient() -> None:
    def fn(x):
        return jax.grad(FUNCTIONS["softmax_cross_entropy of ids"])(x)[0, 1]

    new, _ = rewritten(BEFORE, jax.value_and_grad(fn), X)
    np.testing.assert_allclose(new(X)[1], jax.grad(fn)(X), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    "fn",
    [
        # A piece is a result, or is used otherwise.
        lambda x, t: (((x - t) ** 2).sum(), x - t),
        lambda x, t: ((x - t) ** 2).sum() + jnp.sin(x - t).sum(),
        lambda x, t: ((x - t) ** 2).sum() + (3.0 * (x - t)).sum(),
    ],
)
def test_other_users_of_an_error(fn) -> None:
    assert_refuses(ERROR_LOSS_RULES, passes.cleanup(trace(fn)(X, T)), X, T)


def test_a_maximum_of_other_axes() -> None:
    """XLA would not see that the op begins with the same equations."""

    def fn(x):
        return (jax.vmap(jax.nn.softmax, 1, 0)(x) * X).sum()

    x = array(5, 4)
    graph = passes.cleanup(trace(jax.value_and_grad(fn))(x))
    with_gradient = passes.rewrite(graph, SOFTMAX_RULES).count()
    assert "softmax" not in with_gradient, with_gradient
    assert passes.rewrite(passes.cleanup(trace(fn)(x)), SOFTMAX_RULES).count()["softmax"] == 1


def _parts(x):
    e = jnp.exp(x - jax.lax.stop_gradient(jnp.max(x, -1, keepdims=True)))
    return e, jnp.sum(e, -1, keepdims=True)


@pytest.mark.parametrize(
    "fn",
    [
        lambda e, s, t: (e / s, e * t),
        lambda e, s, t: (e / s, t / s, e * t),
        lambda e, s, t: (e / s, e * jnp.sin(s)),
        lambda e, s, t: (e / s, (t / s) * e, jnp.sin(s)),
    ],
)
def test_other_users_of_exponentials(fn) -> None:
    def whole(x, t):
        return fn(*_parts(x), t)

    assert_refuses(SOFTMAX_RULES, passes.cleanup(trace(whole)(X, T)), X, T)
