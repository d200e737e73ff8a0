"""An LSTM as people write it by hand, and what tests of recognising one share."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax

from helpers import array, assert_close
from jaxpress.capture import trace
from jaxpress.passes import default, rewrite
from jaxpress.passes.rules.raise_recurrent import RECURRENT_RULES

B, T, F, H = 2, 3, 3, 4
X = array(B, T, F, seed=7)
OPS = ("lstm", "gru", "rnn")
tidy = default[:3]


def raised(fn, *args):
    """The graph after the rules, and after a second time, which must change nothing."""
    new = rewrite(tidy(trace(fn)(*args)), RECURRENT_RULES).validate()
    record: list = []
    rewrite(new, RECURRENT_RULES, record=record)
    assert not record, record[0]
    return new


def assert_raised(fn, *args, op, tolerance=2e-6, **params):
    """One named op, no loop, equal values; gives the node."""
    new = raised(fn, *args)
    counts = new.count()
    assert {k: counts[k] for k in (*OPS, "scan", "while") if counts[k]} == {op: 1}, f"\n{new}"
    got, want = jax.jit(lambda *a: (new(*a), fn(*a)))(*args)
    assert_close(got, want, tolerance)
    (node,) = new.find(op)
    assert {k: node.params[k] for k in params} == params
    return node


W = array(F, 4 * H, high=0.7, low=-0.7)
U = array(H, 4 * H, seed=3, high=0.7, low=-0.7)
BIAS = array(4 * H, seed=4)
STATE = (array(B, H, seed=5), array(B, H, seed=6))
XS = jnp.swapaxes(X, 0, 1)
sigmoid = jax.nn.sigmoid


def gates(z, c, order="ifgo", forget_bias=0.0):
    part = dict(zip(order, jnp.split(z, 4, -1), strict=True))
    c = sigmoid(part["f"] + forget_bias) * c + sigmoid(part["i"]) * jnp.tanh(part["g"])
    return sigmoid(part["o"]) * jnp.tanh(c), c


def cell(state, x, w=W, u=U, b=BIAS, **options):
    h, c = state
    return gates(x @ w + h @ u + b, c, **options)


def loop(step, state=STATE, xs=XS, **options):
    return lax.scan(step, state, xs, **options)


def lstm(x, *, u=U, out=lambda new, old: new[0], **options):
    """``nn`` by hand: what each step gives may be chosen."""

    def step(state, x):
        new = cell(state, x, u=u)
        return new, out(new, state)

    return loop(step, xs=jnp.swapaxes(x, 0, 1), **options)
