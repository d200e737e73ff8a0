"""Recurrent layers: the functions with the layer's parameters, and Flax's with the same."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen

from jaxpress import nnops

KEY = jax.random.key(0)
X = jax.random.normal(KEY, (2, 4, 3))


def test_lstm():
    ours = nnops.LSTM.init(KEY, 3, 5, bias_init=nnops.initializers.normal(1.0))
    y, (h, c) = ours(X)
    params = {}
    gates = (jnp.split(v, 4, axis=-1) for v in (ours.w_ih, ours.w_hh, ours.b))
    for gate, w_ih, w_hh, b in zip("ifgo", *gates, strict=True):
        params[f"i{gate}"] = {"kernel": w_ih}
        params[f"h{gate}"] = {"kernel": w_hh, "bias": b}
    cell = linen.OptimizedLSTMCell(5)
    (want_c, want_h), want = linen.RNN(cell, return_carry=True).apply(
        {"params": {"cell": params}}, X
    )
    for got, wanted in ((y, want), (h, want_h), (c, want_c)):
        np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-5)
    # Each gate's recurrent matrix is orthogonal.
    first = ours.w_hh[:, :5]
    np.testing.assert_allclose(first @ first.T, np.eye(5), atol=1e-5)
    h0, c0 = jnp.ones((2, 5)), jnp.ones((2, 5))
    lengths = jnp.array([4, 2])
    got = ours(X, h0, c0, lengths=lengths)
    want = nnops.lstm(X, h0, c0, ours.w_ih, ours.w_hh, ours.b, lengths=lengths)
    for g, w in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_array_equal(g, w)


def test_gru():
    drawn = nnops.initializers.normal(1.0)
    for settings in ({}, {"reverse": True}, {"reset_after": False}):
        ours = nnops.GRU.init(KEY, 3, 5, bias_init=drawn, **settings)
        assert (ours.b_hh is None) == ("reset_after" in settings)
        y, h = ours(X)
        want_y, want_h = nnops.gru(X, None, ours.w_ih, ours.w_hh, ours.b, ours.b_hh, **settings)
        np.testing.assert_array_equal(y, want_y)
        np.testing.assert_array_equal(h, want_h)
    bare = nnops.GRU.init(KEY, 3, 5, use_bias=False)
    assert bare.b is None and bare.b_hh is None


def test_rnn():
    ours = nnops.RNN.init(KEY, 3, 5, bias_init=nnops.initializers.normal(1.0))
    params = {"i": {"kernel": ours.w_ih, "bias": ours.b}, "h": {"kernel": ours.w_hh}}
    want_h, want = linen.RNN(linen.SimpleCell(5), return_carry=True).apply(
        {"params": {"cell": params}}, X
    )
    for got, wanted in zip(ours(X), (want, want_h), strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(ours.w_hh @ ours.w_hh.T, np.eye(5), atol=1e-5)
    bare = nnops.RNN.init(KEY, 3, 5, use_bias=False, reverse=True, activation="relu")
    lengths = jnp.array([4, 2])
    got = bare(X, jnp.ones((2, 5)), lengths=lengths)
    want = nnops.rnn(
        *(X, jnp.ones((2, 5)), bare.w_ih, bare.w_hh),
        lengths=lengths,
        reverse=True,
        activation="relu",
    )
    for g, w in zip(got, want, strict=True):
        np.testing.assert_array_equal(g, w)


def test_in_a_chain_the_output_goes_on():
    lstm, dense = nnops.LSTM.init(KEY, 3, 5), nnops.Dense.init(KEY, 5, 2)
    np.testing.assert_array_equal(nnops.Sequential([lstm, dense])(X), dense(lstm(X)[0]))
