"""The attention layer against that of Flax, with the same parameters."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen

from jaxpress import nnops

KEY = jax.random.key(0)
X, Y = jax.random.normal(KEY, (2, 5, 6)), jax.random.normal(jax.random.key(1), (2, 3, 6))


def _theirs(ours, *inputs, **kwargs):
    params = {
        name: {"kernel": getattr(ours, f"w_{name}"), "bias": getattr(ours, f"b_{name}")}
        for name in ("query", "key", "value", "out")
    }
    return linen.MultiHeadDotProductAttention(2).apply({"params": params}, *inputs, **kwargs)


def test_flax():
    ours = nnops.MultiHeadAttention.init(KEY, 6, 2, bias_init=nnops.initializers.normal(1.0))
    np.testing.assert_allclose(ours(X), _theirs(ours, X), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(ours(X, Y), _theirs(ours, X, Y), rtol=1e-4, atol=1e-5)
    present = jnp.array([[True, True, False], [True, False, False]])
    want = _theirs(ours, X, Y, mask=present[:, None, None])
    np.testing.assert_allclose(ours(X, Y, key_padding_mask=present), want, rtol=1e-4, atol=1e-5)


def test_settings():
    causal = nnops.MultiHeadAttention.init(KEY, 6, 2, is_causal=True)
    want = _theirs(causal, X, mask=jnp.tril(jnp.ones((5, 5), bool)))
    np.testing.assert_allclose(causal(X), want, rtol=1e-4, atol=1e-5)
    whole = causal(X, is_causal=False)
    np.testing.assert_allclose(whole, _theirs(causal, X), rtol=1e-4, atol=1e-5)
    shared = nnops.MultiHeadAttention.init(
        KEY, 6, 4, features=3, head_features=2, kv_heads=2, kv_features=7, use_bias=False
    )
    shapes = [w.shape for w in jax.tree.leaves(shared)]
    assert shapes == [(6, 4, 2), (7, 2, 2), (7, 2, 2), (4, 2, 3)]
    assert shared(X, jnp.ones((2, 3, 7))).shape == (2, 5, 3)


def test_dropout_in_training_alone():
    layer = nnops.MultiHeadAttention.init(KEY, 6, 2, dropout_rate=0.5)
    plain = nnops.MultiHeadAttention.init(KEY, 6, 2)
    np.testing.assert_array_equal(layer(X, training=False), plain(X))
    one, other = (layer(X, dropout_key=jax.random.key(i)) for i in (0, 1))
    assert not jnp.allclose(one, other)
    chain = nnops.Sequential([layer])
    assert not jnp.allclose(chain(X, key=KEY), plain(X))
    np.testing.assert_array_equal(chain(X, training=False), plain(X))
