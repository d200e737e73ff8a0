"""GRUs and simple networks by hand: every way to write the mixture, both places of the reset."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest
from jax import lax
from recurrent_by_hand import STATE, B, F, H, T, X, assert_raised, raised, sigmoid

from helpers import array
from jaxpress import nnops

W, U = array(F, 3 * H, seed=8), array(H, 3 * H, seed=9)
BIAS, INSIDE = array(3 * H, seed=10), array(H, seed=11)

MIXTURES = {
    "(1 - z) * n + z * h": lambda z, n, h: (1 - z) * n + z * h,
    "z * h + n * (1 - z)": lambda z, n, h: z * h + n * (1 - z),
    "n + z * (h - n)": lambda z, n, h: n + z * (h - n),
    "n - z * (n - h)": lambda z, n, h: n - z * (n - h),
    "n - z * n + z * h": lambda z, n, h: n - z * n + z * h,
    "z * n + (1 - z) * h": lambda z, n, h: z * n + (1 - z) * h,
    "h + z * (n - h)": lambda z, n, h: h + z * (n - h),
    "(1.0 - z) * h + z * n, negated": lambda z, n, h: -(-z * n - (1.0 - z) * h),
}


def after(h, x, mix):
    x_r, x_z, x_n = jnp.split(x @ W + BIAS, 3, -1)
    h_r, h_z, h_n = jnp.split(h @ U, 3, -1)
    r, z = sigmoid(x_r + h_r), sigmoid(x_z + h_z)
    return mix(z, jnp.tanh(x_n + (h_n + INSIDE) * r), h)


def before(h, x, mix):
    rz = sigmoid(x @ W[:, : 2 * H] + h @ U[:, : 2 * H] + BIAS[: 2 * H])
    r, z = rz[:, :H], rz[:, H:]
    joined = jnp.concatenate([x, h * r], -1)
    n = jnp.tanh(joined @ jnp.concatenate([W[:, 2 * H :], U[:, 2 * H :]]) + BIAS[2 * H :])
    return mix(z, n, h)


def loop(step):
    return lambda x: lax.scan(lambda h, x: (step(h, x),) * 2, STATE[0], jnp.swapaxes(x, 0, 1))


@pytest.mark.parametrize("name", MIXTURES)
def test_every_way_to_write_the_mixture(name):
    node = assert_raised(loop(lambda h, x: after(h, x, MIXTURES[name])), X, op="gru")
    assert node.params["reset_after"]


@pytest.mark.parametrize("name", ["(1 - z) * n + z * h", "h + z * (n - h)"])
def test_reset_before_the_product(name):
    node = assert_raised(loop(lambda h, x: before(h, x, MIXTURES[name])), X, op="gru")
    assert not node.params["reset_after"]


@pytest.mark.parametrize(
    "dtype, tolerance", [("float64", 1e-13), ("bfloat16", 3e-2), ("float16", 4e-3)]
)
def test_other_dtypes(dtype, tolerance):
    with jax.enable_x64(True):
        arrays = [v.astype(dtype) for v in (X, STATE[0], W, U, BIAS, INSIDE)]

        def fn(x, h, w, u, b, inside):
            def step(h, x):
                x_r, x_z, x_n = jnp.split(x @ w + b, 3, -1)
                h_r, h_z, h_n = jnp.split(h @ u, 3, -1)
                r, z = sigmoid(x_r + h_r), sigmoid(x_z + h_z)
                h = (1 - z) * jnp.tanh(x_n + r * (h_n + inside)) + z * h
                return h, h

            return lax.scan(step, h, jnp.swapaxes(x, 0, 1))

        node = assert_raised(fn, *arrays, op="gru", tolerance=tolerance)
        assert node.output.dtype == dtype


def test_one_hidden_feature_and_one_input():
    w, u, b = array(1, 3), array(1, 3, seed=1), array(3, seed=2)

    def step(h, x):
        r, z, n = jnp.split(x @ w + b, 3, -1)
        a, c, d = jnp.split(h @ u, 3, -1)
        r, z = sigmoid(r + a), sigmoid(z + c)
        h = (1 - z) * jnp.tanh(n + r * d) + z * h
        return h, h

    fn = lambda x: lax.scan(step, jnp.ones((B, 1)), jnp.swapaxes(x, 0, 1))  # noqa: E731
    assert_raised(fn, X[..., :1], op="gru")


SIMPLE = {
    "tanh": (jnp.tanh, "tanh"),
    "relu": (jax.nn.relu, "relu"),
    "leaky relu": (lambda x: jax.nn.leaky_relu(x, 0.2), ("leaky_relu", {"negative_slope": 0.2})),
    "silu": (jax.nn.silu, "silu"),
    "sigmoid": (jax.nn.sigmoid, "sigmoid"),
    "a named op": (nnops.relu, "relu"),
}


@pytest.mark.parametrize("name", SIMPLE)
def test_simple_networks_with_any_activation(name):
    fn, activation = SIMPLE[name]
    step = lambda h, x: fn(h @ U[:, :H] + x @ W[:, :H] + INSIDE)  # noqa: E731
    node = assert_raised(loop(step), X, op="rnn")
    assert node.params["activation"] == nnops.to_activation(activation)


def test_a_maximum_with_zero_is_no_relu_to_its_gradient():
    fn = loop(lambda h, x: jnp.maximum(h @ U[:, :H] + x @ W[:, :H], 0))
    assert not raised(fn, X).find("rnn")


def test_weights_are_negated_once_where_z_is_the_other_way_round():
    new = raised(loop(lambda h, x: after(h, x, MIXTURES["h + z * (n - h)"])), X)
    assert new.count()["neg"] == 3 and T == 3  # of w_ih, w_hh and b; not at each step
