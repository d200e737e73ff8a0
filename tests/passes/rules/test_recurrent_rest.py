"""Loops that carry more than one cell: each layer runs by itself, what is left stays a loop."""

from __future__ import annotations

from functools import partial

import haiku as hk
import jax
import jax.numpy as jnp
import pytest
from recurrent_by_hand import BIAS, OPS, STATE, H, W, X, cell, loop, raised
from recurrent_frameworks import haiku

from helpers import array, assert_close

KINDS = (*OPS, "scan")
UP = array(H, 4 * H, seed=9, high=0.7, low=-0.7)


def layers(x, **options):
    """Two layers, with arithmetic between them and a projection of what comes out."""

    def step(states, x):
        first, second = states
        first = cell(first, x)
        second = cell(second, jnp.sin(first[0]) + first[1], w=UP)
        return (first, second), (second[0] @ W[:, :H].T, first[0])

    return loop(step, (STATE, STATE), jnp.swapaxes(x, 0, 1), **options)


def side_by_side(x):
    def step(states, x):
        one, other = (cell(state, x, b=b) for state, b in zip(states, (BIAS, -BIAS), strict=True))
        return (one, other), one[0] + other[1]

    return loop(step, (STATE, STATE), jnp.swapaxes(x, 0, 1))


def a_total(x):
    def step(carry, x):
        state, total, i = carry
        new = cell(state, x)
        return (new, total * i + new[0].sum() + state[1], i + 1), new[0]

    return loop(step, (STATE, STATE[0], 0), jnp.swapaxes(x, 0, 1))


def a_key(x):
    def step(carry, x):
        state, key = carry
        key, own = jax.random.split(key)
        new = cell(state, x)
        return (new, key), new[0] + jax.random.normal(own, new[0].shape)

    return loop(step, (STATE, jax.random.key(0)), jnp.swapaxes(x, 0, 1))


def a_buffer(x):
    def step(i, carry):
        *state, out = carry
        h, c = cell(tuple(state), x[:, i])
        return h, c, out.at[:, i].set(h)

    return jax.lax.fori_loop(0, x.shape[1], step, (*STATE, jnp.zeros((*x.shape[:2], H))))


def before_masking(x):
    def step(states, row):
        x, on = row
        first, second = (jax.tree.map(lambda a: a, s) for s in states)
        new = cell(first, x)
        second = cell(second, new[0], w=UP)
        first = tuple(jnp.where(on, a, b) for a, b in zip(new, first, strict=True))
        return (first, second), second[0]

    xs = jnp.swapaxes(x, 0, 1)
    return loop(step, (STATE, STATE), (xs, xs[..., :1] > 0))


def feedback(x):
    def step(states, x):
        first, second = states
        first = cell(first, x + second[0][:, :3])
        return (first, cell(second, first[0], w=UP)), first[0]

    return loop(step, (STATE, STATE), jnp.swapaxes(x, 0, 1))


LOOPS = {
    "two layers": (layers, {"lstm": 2}),
    "two layers, from the end": (partial(layers, reverse=True, unroll=2), {"lstm": 2}),
    "side by side": (side_by_side, {"lstm": 2}),
    "a total": (a_total, {"lstm": 1, "scan": 1}),
    "a key": (a_key, {"lstm": 1, "scan": 1}),
    "a buffer": (a_buffer, {"lstm": 1}),
    "haiku": (
        haiku(lambda: hk.DeepRNN([hk.LSTM(H), jnp.tanh, hk.GRU(3), hk.VanillaRNN(2)]))[0],
        {"lstm": 1, "gru": 1, "rnn": 1},
    ),
    # The result at steps that are masked is not what the op gives.
    "before masking": (before_masking, {"scan": 1}),
    "feedback": (feedback, {"scan": 1}),
}  # fmt: skip


@pytest.mark.parametrize("name", LOOPS)
def test_layers_in_one_loop(name) -> None:
    fn, ops = LOOPS[name]
    new = raised(fn, X)
    counts = new.count()
    assert {k: counts[k] for k in KINDS if counts[k]} == ops

    def loss(f, x):
        return sum(jnp.sum(jnp.sin(y)) for y in jax.tree.leaves(f(x)) if jnp.size(y) > 1)

    values = lambda f: f(X)  # noqa: E731
    if name != "a key":
        values = lambda f: (f(X), jax.grad(partial(loss, f))(X))  # noqa: E731
        assert_close(*jax.jit(lambda: (values(new), values(fn)))(), tolerance=1e-5)
    else:
        got, want = (f(X) for f in (new, fn))
        assert (jax.random.key_data(got[0][1]) == jax.random.key_data(want[0][1])).all()
        assert_close((got[0][0], got[1]), (want[0][0], want[1]))


def test_layers_that_nobody_asks_for_are_left_out() -> None:
    new = raised(lambda x: layers(x)[1][1], X)
    assert new.count()["lstm"] == 1 and not new.find("scan")
