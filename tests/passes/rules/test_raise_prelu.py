"""Leaky relus with learned slopes, of every framework, become prelu; others stay."""

from __future__ import annotations

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from zoo_keras import import_keras

from helpers import array, rewritten
from jaxpress import passes
from jaxpress.testing import assert_equivalent

X = array(2, 3, 4).at[0, 0, 0].set(0.0)
SLOPES = jnp.asarray([0.1, 0.2, 0.3, 0.4])


def keras_prelu(shared):
    keras = import_keras()
    layer = keras.layers.PReLU(shared_axes=shared)
    layer.build(X.shape)
    weights = [array(*v.shape, low=0.1, high=0.9) for v in layer.trainable_variables]
    return (lambda w, x: layer.stateless_call(w, [], x)[0]), weights


def nnx_prelu():
    definition, state = nnx.split(nnx.PReLU())
    return (lambda s, x: nnx.merge(definition, s)(x)), state


FRAMEWORKS = {
    "linen": lambda: (nn.PReLU().apply, {"params": {"negative_slope": SLOPES[1]}}),
    "nnx": nnx_prelu,
    "equinox": lambda: (lambda m, x: m(x), eqx.nn.PReLU(SLOPES)),
    "equinox, one": lambda: (lambda m, x: m(x), eqx.nn.PReLU(SLOPES[1])),
    "keras": lambda: keras_prelu(None),
    "keras, shared": lambda: keras_prelu([1]),
    "by hand": lambda: (lambda s, x: jnp.where(x > 0, x, s * x), SLOPES),
    "by hand, turned": lambda: (lambda s, x: jnp.where(x <= 0, x * s[:, None], x), SLOPES[:3]),
    "by hand, relus": lambda: (lambda s, x: jax.nn.relu(x) - s * jax.nn.relu(-x), SLOPES),
}  # fmt: skip


@pytest.mark.parametrize("name", FRAMEWORKS)
def test_slopes_that_are_arguments_or_closed_over(name) -> None:
    fn, weights = FRAMEWORKS[name]()
    for pipeline in (passes.default, passes.inference):
        new = rewritten(pipeline, fn, weights, X)[0]
        assert new.count()["prelu"] == 1
        assert not set(new.count()) & {"select_n", "relu", "mul"}
    new = new_default(fn, weights, X)
    assert_equivalent(fn, new, weights, X, vmap=False)
    assert_same_gradients(lambda x: fn(weights, x), lambda x: new(weights, x), X)  # at 0 as well
    closed = rewritten(passes.default, jax.vmap(lambda x: fn(weights, x)), jnp.stack([X, X]))[0]
    assert closed.count()["prelu"] == 1 or closed.count()["leaky_relu"] == 1


def assert_same_gradients(f, g, x):
    a, b = (jax.grad(lambda x, h=h: h(x).sum())(x) for h in (f, g))
    np.testing.assert_allclose(a, b, rtol=1e-6)


def new_default(fn, *args):
    return rewritten(passes.default, fn, *args)[0]


def test_numbers_with_another_derivative_at_zero() -> None:
    for fn, at_zero in (
        (lambda x: jnp.where(x > 0, x, 0.1 * x), "slope"),
        (lambda x: jax.nn.relu(x) - 0.1 * jax.nn.relu(-x), 0.0),
    ):
        new = new_default(fn, X)
        (node,) = new.find("prelu")
        assert node.params["derivative_at_zero"] == at_zero
        zeros = jnp.zeros(2)
        assert_same_gradients(fn, new_default(fn, zeros), zeros)
        assert rewritten(passes.inference, fn, X)[0].count() == {"leaky_relu": 1}


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_in_low_precision(dtype) -> None:
    x, s = X.astype(dtype), SLOPES.astype(dtype)
    new = new_default(lambda s, x: jnp.where(x >= 0, x, s * x), s, x)
    assert new.count()["prelu"] == 1
    np.testing.assert_array_equal(new(s, x), jnp.where(x >= 0, x, s * x))


@pytest.mark.parametrize(
    "fn",
    [
        lambda s, x: jnp.where(x >= 0, s * x, x),
        lambda s, x: jnp.where(x >= 0, x, s * s * x),
        lambda s, x: jnp.where(x >= 0, x, jnp.sin(x) * x),
        lambda s, x: jnp.where(x >= 0.5, x, s * x),
        lambda s, x: jnp.where(x >= 0, x, s + x),
        lambda s, x: jnp.where(x >= s, x, s * x),
        lambda s, x: jnp.where(x == 0, x, s * x),
        lambda s, x: jax.nn.relu(x) + s * jax.nn.relu(-x),
        lambda s, x: jax.nn.relu(x) - s * jax.nn.relu(x),
        lambda s, x: jax.nn.relu(x) - s * jax.nn.relu(-2 * x),
        lambda s, x: jax.nn.relu6(x) - s * jax.nn.relu(-x),
    ],
)
def test_lookalikes_stay(fn) -> None:
    new = new_default(fn, SLOPES, X)
    assert not {"prelu", "leaky_relu"} & set(new.count())
    np.testing.assert_allclose(new(SLOPES, X), jax.jit(fn)(SLOPES, X), rtol=1e-6)


def test_an_inner_value_with_another_user_and_integers() -> None:
    def fn(s, x):
        y = s * x
        return jnp.where(x >= 0, x, y), y

    assert "prelu" not in new_default(fn, SLOPES, X).count()
    ints = jnp.arange(-3, 3)
    assert "prelu" not in new_default(lambda x: jnp.where(x >= 0, x, 2 * x), ints).count()
