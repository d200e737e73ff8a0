"""Chains of layers, and layers without parameters."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpress import nnops
from jaxpress.nnops.layers import Function

KEY = jax.random.key(0)


def test_pools():
    x = jax.random.normal(KEY, (1, 6, 6, 2))
    got = nnops.MaxPool((2, 2), strides=[2, 2])(x)
    np.testing.assert_array_equal(got, nnops.max_pool(x, (2, 2), (2, 2)))
    got = nnops.AvgPool((3, 3), padding="SAME", count_include_pad=False)(x)
    want = nnops.avg_pool(x, (3, 3), None, "SAME", count_include_pad=False)
    np.testing.assert_array_equal(got, want)


def test_dropout():
    x = jnp.ones((8, 8))
    layer = nnops.Dropout(0.25, broadcast_dims=[0])
    want = nnops.dropout(x, KEY, rate=0.25, broadcast_dims=(0,))
    np.testing.assert_array_equal(layer(x, KEY), want)
    np.testing.assert_array_equal(layer(x, training=False), x)


def test_a_chain_gives_y_or_y_and_layers():
    dense, norm = nnops.Dense.init(KEY, 3, 4), nnops.BatchNorm.init(None, 4)
    x = jax.random.normal(KEY, (5, 3))
    chain = nnops.Sequential([dense, nnops.relu])
    assert not chain.stateful
    np.testing.assert_array_equal(chain(x), nnops.relu(dense(x)))
    chain = nnops.Sequential([nnops.Sequential([dense, norm]), lambda x: x * 2])
    assert chain.stateful
    y, after = jax.jit(lambda chain, x: chain(x))(chain, x)
    want, moved = norm(dense(x))
    np.testing.assert_allclose(y, 2 * want, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(after[0][1].mean, moved.mean, rtol=1e-6)
    assert jax.tree.structure(after) == jax.tree.structure(chain)
    y, after = chain(x, training=False)
    np.testing.assert_allclose(y, 2 * norm(dense(x), training=False)[0], rtol=1e-6)
    np.testing.assert_array_equal(after[0][1].mean, norm.mean)


def test_each_layer_draws_with_a_key_of_its_own():
    chain = nnops.Sequential([nnops.Dropout(0.5), nnops.Dropout(0.5)])
    y = chain(jnp.ones(4000), key=KEY)
    assert set(y.tolist()) == {0.0, 4.0}
    assert abs((y > 0).mean() - 0.25) < 0.05
    with pytest.raises(nnops.OpError, match="key"):
        chain(jnp.ones(3))
    first, second = nnops.Sequential.init(KEY, *[lambda k: nnops.Dense.init(k, 3, 3)] * 2)
    assert not jnp.allclose(first.w, second.w)


def test_a_chain_is_a_sequence():
    chain = nnops.Sequential([nnops.relu, nnops.Dropout(0.5), nnops.tanh])
    assert len(chain) == 3
    assert isinstance(chain[0], Function) and chain[0].fn is nnops.relu
    assert isinstance(chain[:2], nnops.Sequential) and len(chain[:2]) == 2


def test_pytrees_of_other_libraries_stay_what_they_are():
    equinox = pytest.importorskip("equinox")
    linear = equinox.nn.Linear(3, 2, key=KEY)
    chain = nnops.Sequential([linear, nnops.relu])
    grads = jax.grad(lambda c: c(jnp.ones(3)).sum())(chain)
    assert grads[0].weight.shape == (2, 3)


def test_what_cannot_be_hashed():
    class Unhashable:
        __hash__ = None

        def __call__(self, x):
            return x

    with pytest.raises(nnops.OpTypeError, match="hash"):
        nnops.Sequential([Unhashable()])
