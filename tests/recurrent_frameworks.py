"""Recurrent layers of each library: a function with its weights closed over, and its arguments."""

from __future__ import annotations

import os
from functools import partial

import equinox as eqx
import flax.linen as nn
import haiku as hk
import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax
from recurrent_by_hand import B, F, H, T, X

from helpers import array

LENGTHS = jnp.array([3, 2])


def linen(cell, of_cell=None, **options):
    """``nn.RNN`` of a cell, by its name and options."""
    model = nn.RNN(getattr(nn, cell)(H, **of_cell or {}), **options)
    params = model.init(jax.random.key(0), X)
    return partial(model.apply, params), (X,)


def linen_lengths(cell, **options):
    fn, args = linen(cell, **options)
    return (lambda x, n: fn(x, seq_lengths=n)), (*args, LENGTHS)


def linen_bidirectional():
    model = nn.Bidirectional(nn.RNN(nn.LSTMCell(H)), nn.RNN(nn.GRUCell(H)))
    params = model.init(jax.random.key(0), X)
    return partial(model.apply, params), (X,)


def flax_nnx(cell, call=None, **options):
    """The weights are arguments: NNX counts random keys even here."""
    graph, state = nnx.split(nnx.RNN(getattr(nnx, cell)(F, H, rngs=nnx.Rngs(0)), **options))
    return (lambda state, x: nnx.merge(graph, state)(x, **call or {})), (state, X)


def equinox(cell, mapped=True, **options):
    made = getattr(eqx.nn, cell)(F, H, key=jax.random.key(0), **options)

    def run(xs):
        zeros = jnp.zeros(H)

        def step(state, x):
            state = made(x, state)
            return state, state[0] if cell == "LSTMCell" else state

        return lax.scan(step, (zeros, zeros) if cell == "LSTMCell" else zeros, xs)

    return (jax.vmap(run), (X,)) if mapped else (run, (X[0],))


def haiku(core, unroll="dynamic_unroll"):
    def run(x):
        made = core()
        return getattr(hk, unroll)(made, jnp.swapaxes(x, 0, 1), made.initial_state(B))

    transformed = hk.without_apply_rng(hk.transform(run))
    params = transformed.init(jax.random.key(0), X)
    # Biases start as zeros, and would hide where they go.
    params = jax.tree.map(lambda v: v + array(*v.shape, high=0.5), params)
    return partial(transformed.apply, params), (X,)


def keras(layer, masked=False, **options):
    os.environ["KERAS_BACKEND"] = "jax"
    import keras as k

    made = getattr(k.layers, layer)(H, bias_initializer="normal", **options)
    made.build(X.shape)
    if not masked:
        return (lambda x: made(x)), (X,)
    # A mask with a hole, and an end that is left out.
    return (lambda x, mask: made(x, mask=mask)), (X, jnp.array([[True, False, True], [True] * 3]))


SEQUENCES = {
    "linen LSTM": (partial(linen, "LSTMCell"), "lstm"),
    "linen fused LSTM": (partial(linen, "OptimizedLSTMCell"), "lstm"),
    "linen GRU": (partial(linen, "GRUCell"), "gru"),
    "linen simple": (partial(linen, "SimpleCell"), "rnn"),
    "linen simple, relu": (
        partial(linen, "SimpleCell", of_cell={"activation_fn": nn.relu}), "rnn",
    ),
    "linen LSTM, time first, state": (
        partial(linen, "LSTMCell", time_major=True, return_carry=True), "lstm",
    ),
    "linen LSTM, lengths, state": (partial(linen_lengths, "LSTMCell", return_carry=True), "lstm"),
    "linen GRU, lengths, reverse": (
        partial(linen_lengths, "GRUCell", reverse=True, keep_order=True), "gru",
    ),
    "nnx LSTM": (partial(flax_nnx, "LSTMCell"), "lstm"),
    "nnx fused LSTM": (partial(flax_nnx, "OptimizedLSTMCell"), "lstm"),
    "nnx GRU": (partial(flax_nnx, "GRUCell"), "gru"),
    "nnx simple": (partial(flax_nnx, "SimpleCell"), "rnn"),
    "nnx GRU, lengths, reverse, state": (
        partial(
            flax_nnx, "GRUCell", {"seq_lengths": LENGTHS}, reverse=True, keep_order=True,
            return_carry=True,
        ),
        "gru",
    ),
    "equinox LSTM": (partial(equinox, "LSTMCell"), "lstm"),
    "equinox LSTM, one sequence, no bias": (
        partial(equinox, "LSTMCell", mapped=False, use_bias=False), "lstm",
    ),
    "equinox LSTM, no bias": (partial(equinox, "LSTMCell", use_bias=False), "lstm"),
    "equinox GRU": (partial(equinox, "GRUCell"), "gru"),
    "equinox GRU, no bias": (partial(equinox, "GRUCell", use_bias=False), "gru"),
    "equinox GRU, one sequence, no bias": (
        partial(equinox, "GRUCell", mapped=False, use_bias=False), "gru",
    ),
    "haiku LSTM": (partial(haiku, lambda: hk.LSTM(H)), "lstm"),
    "haiku GRU": (partial(haiku, lambda: hk.GRU(H)), "gru"),
    "haiku simple": (partial(haiku, lambda: hk.VanillaRNN(H)), "rnn"),
    "keras LSTM": (partial(keras, "LSTM", return_sequences=True), "lstm"),
    "keras LSTM, backwards, state": (
        partial(keras, "LSTM", go_backwards=True, return_state=True), "lstm",
    ),
    "keras LSTM, relu": (
        partial(keras, "LSTM", activation="relu", recurrent_activation="hard_sigmoid"), "lstm",
    ),
    "keras LSTM, mask": (partial(keras, "LSTM", masked=True, return_sequences=True), "lstm"),
    "keras LSTM, mask, zeros": (
        partial(keras, "LSTM", masked=True, return_sequences=True, zero_output_for_mask=True),
        "lstm",
    ),
    "keras GRU": (partial(keras, "GRU"), "gru"),
    "keras GRU, no bias": (partial(keras, "GRU", use_bias=False), "gru"),
    "keras GRU, reset before": (partial(keras, "GRU", reset_after=False), "gru"),
    "keras GRU, mask": (partial(keras, "GRU", masked=True, return_sequences=True), "gru"),
    "keras simple": (partial(keras, "SimpleRNN"), "rnn"),
}  # fmt: skip


def step_of_linen(cell):
    model = getattr(nn, cell)(H)
    state = (array(B, H), array(B, H, seed=2)) if "LSTM" in cell else array(B, H)
    params = model.init(jax.random.key(0), state, X[:, 0])
    return model.apply, (params, state, X[:, 0])


def step_of_equinox(cell, **options):
    made = getattr(eqx.nn, cell)(F, H, key=jax.random.key(0), **options)
    state = (array(B, H), array(B, H, seed=2)) if "LSTM" in cell else array(B, H)
    arrays, rest = eqx.partition(made, eqx.is_array)
    return (lambda a, x, s: jax.vmap(eqx.combine(a, rest))(x, s)), (arrays, X[:, 0], state)


# Single steps, loops written out, and cells beside others in a loop: with how many there are.
STEPS = {
    "linen LSTM": (partial(step_of_linen, "LSTMCell"), {"lstm_cell": 1}),
    "linen fused LSTM": (partial(step_of_linen, "OptimizedLSTMCell"), {"lstm_cell": 1}),
    "linen GRU": (partial(step_of_linen, "GRUCell"), {"gru_cell": 1}),
    "equinox LSTM": (partial(step_of_equinox, "LSTMCell"), {"lstm_cell": 1}),
    "equinox GRU": (partial(step_of_equinox, "GRUCell"), {"gru_cell": 1}),
    "equinox LSTM, no bias": (
        partial(step_of_equinox, "LSTMCell", use_bias=False), {"lstm_cell": 1},
    ),
    "equinox GRU, no bias": (
        partial(step_of_equinox, "GRUCell", use_bias=False), {"gru_cell": 1},
    ),
    "haiku LSTM, written out": (
        partial(haiku, lambda: hk.LSTM(H), "static_unroll"), {"lstm_cell": T},
    ),
    "haiku GRU, written out": (
        partial(haiku, lambda: hk.GRU(H), "static_unroll"), {"gru_cell": T},
    ),
    "keras LSTM, written out": (partial(keras, "LSTM", unroll=True), {"lstm_cell": T}),
    "keras GRU, written out": (partial(keras, "GRU", unroll=True), {"gru_cell": T}),
    "keras GRU, reset before, written out": (
        partial(keras, "GRU", unroll=True, reset_after=False), {"gru_cell": T},
    ),
    "haiku, two cores in one loop": (
        partial(haiku, lambda: hk.DeepRNN([hk.LSTM(H), hk.GRU(H)])),
        {"lstm_cell": 1, "gru_cell": 1, "scan": 1},
    ),
}  # fmt: skip
