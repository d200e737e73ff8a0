"""Loops that only look like a recurrent op stay loops."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest
from jax import lax
from recurrent_by_hand import (
    BIAS,
    OPS,
    STATE,
    B,
    F,
    H,
    T,
    U,
    W,
    X,
    cell,
    gates,
    loop,
    lstm,
    raised,
    sigmoid,
    tidy,
)  # fmt: skip

from helpers import array
from jaxpress.capture import trace
from jaxpress.passes import rewrite
from jaxpress.passes.rules.raise_recurrent import RAISE_LSTM, RECURRENT_RULES


def other_cell(change):
    """A loop whose step is an LSTM's but for one thing."""

    def fn(x):
        def step(state, x):
            new = change(state, x)
            return new, new[0]

        return loop(step, xs=jnp.swapaxes(x, 0, 1))

    return fn


def peephole(state, x):
    h, c = state
    return gates(x @ W + h @ U + BIAS + jnp.concatenate([c, c, 0 * c, c], -1), c)


def coupled(state, x):
    h, c = state
    _, f, g, o = jnp.split(x @ W + h @ U, 4, -1)
    c = sigmoid(f) * c + (1 - sigmoid(f)) * jnp.tanh(g)
    return sigmoid(o) * jnp.tanh(c), c


def no_output_activation(state, x):
    h, c = state
    i, f, g, o = jnp.split(x @ W + h @ U, 4, -1)
    c = sigmoid(f) * c + sigmoid(i) * jnp.tanh(g)
    return sigmoid(o) * c, c


def mixed_activations(state, x):
    h, c = state
    i, f, g, o = jnp.split(x @ W + h @ U, 4, -1)
    c = sigmoid(f) * c + sigmoid(i) * jnp.tanh(g)
    return jax.nn.hard_sigmoid(o) * jnp.tanh(c), c


def normalised(state, x):
    h, c = state
    z = h @ U
    return gates(x @ W + z / (1 + jnp.abs(z).max(-1, keepdims=True)), c)


def clipped(state, x):
    h, c = cell(state, x)
    return h, jnp.clip(c, -1, 1)


def zoneout(state, x):
    new = cell(state, x)
    return tuple(0.9 * a + 0.1 * b for a, b in zip(new, state, strict=True))


def state_dropped_out(state, x):
    h, c = state
    return cell((h * jnp.array([2.0, 0.0, 2.0, 0.0]), c), x)


def rounded(state, x):
    h, c = state
    return cell((h.astype(jnp.bfloat16).astype(jnp.float32), c), x)


def swapped_rows(state, x):
    h, c = state
    return cell((h[::-1], c), x)


def batch_turned(state, x):
    h, c = state
    square = (h[:, :B].T @ jnp.ones((B, H))) @ U
    return gates(x @ W + square, c)


def no_recurrence_in_a_gate(state, x):
    h, c = state
    return gates(x @ W + h @ U * jnp.repeat(jnp.array([1.0, 0, 1, 1]), H), c)


def old_output(state, x):
    h, c = cell(state, x)
    return h + state[0], c


LOOKALIKES = {
    f.__name__: other_cell(f)
    for f in (
        peephole, coupled, no_output_activation, mixed_activations, normalised, clipped, zoneout,
        state_dropped_out, rounded, swapped_rows, batch_turned, no_recurrence_in_a_gate, old_output,
    )
}  # fmt: skip


def masks_differ(x):
    def step(state, x):
        h, c = cell(state, x)
        on = x[:, :1] > 0
        return (jnp.where(on, h, state[0]), jnp.where(~on, c, state[1])), h

    return loop(step, xs=jnp.swapaxes(x, 0, 1))


def mask_by_feature(x):
    def step(state, x):
        on = jnp.concatenate([x, x[:, :1]], -1) > 0
        new = tuple(jnp.where(on, a, b) for a, b in zip(cell(state, x), state, strict=True))
        return new, new[0]

    return loop(step, xs=jnp.swapaxes(x, 0, 1))


def output_before_masking(x):
    def step(state, x):
        on = x[:, :1] > 0
        raw = cell(state, x)
        return tuple(jnp.where(on, a, b) for a, b in zip(raw, state, strict=True)), raw[0]

    return loop(step, xs=jnp.swapaxes(x, 0, 1))


def gates_are_results(x):
    def step(state, x):
        h, c = state
        z = x @ W + h @ U
        new = gates(z, c)
        return new, z

    return loop(step, xs=jnp.swapaxes(x, 0, 1))


def prints(x):
    def step(state, x):
        new = cell(state, x)
        jax.debug.callback(lambda h: None, new[0])
        return new, new[0]

    return loop(step, xs=jnp.swapaxes(x, 0, 1))


def draws(x):
    def step(state, inputs):
        x, key = inputs
        return cell(state, x * jax.random.bernoulli(key, 0.5, x.shape)), None

    return loop(step, xs=(jnp.swapaxes(x, 0, 1), jax.random.split(jax.random.key(0), T)))[0]


def weights_change(x):
    def step(carry, x):
        state, u = carry
        new = cell(state, x, u=u)
        return (new, u * 0.9), new[0]

    return loop(step, (STATE, U), jnp.swapaxes(x, 0, 1))


def fed_back(x):
    def step(state, x):
        new = cell(state, x + state[0][:, :F])
        return new, new[0]

    return loop(step, xs=jnp.swapaxes(x, 0, 1))


def minimal_gated_unit(x):
    def step(h, x):
        f = sigmoid(x @ W[:, :H] + h @ U[:, :H])
        n = jnp.tanh(x @ W[:, H : 2 * H] + f * (h @ U[:, H : 2 * H]))
        return (1 - f) * n + f * h, None

    return loop(step, STATE[0], jnp.swapaxes(x, 0, 1))[0]


def linear(x):
    return loop(lambda h, x: (x @ W[:, :H] + h @ U[:, :H], h), STATE[0], jnp.swapaxes(x, 0, 1))


def leaky(x):
    def step(h, x):
        return 0.5 * h + 0.5 * jnp.tanh(x @ W[:, :H] + h @ U[:, :H]), h

    return loop(step, STATE[0], jnp.swapaxes(x, 0, 1))


def square(step):
    """A loop over a state with as many examples as features."""

    def fn(x):
        rows = jnp.swapaxes(jnp.concatenate([x, x]), 0, 1)
        first = (jnp.tile(STATE[0], (2, 1)), jnp.tile(STATE[1], (2, 1)))
        return loop(lambda s, x: (step(s, x), None), first, rows)[0]

    return fn


def turned(c=lambda v: v, h=lambda v: v, gate=lambda v: v):
    def step(state, x):
        i, f, g, o = jnp.split(x @ W + h(state[0]) @ U, 4, -1)
        new = sigmoid(f) * c(state[1]) + gate(sigmoid(i)) * jnp.tanh(g)
        return sigmoid(o) * jnp.tanh(new), new

    return square(step)


def turned_gru(x):
    def step(state, x):
        h, other = state
        r, z, n = jnp.split(x @ W[:, : 3 * H], 3, -1)
        hr, hz, hn = jnp.split(h @ U[:, : 3 * H], 3, -1)
        z = sigmoid(z + hz)
        return (1 - z) * jnp.tanh(n + sigmoid(r + hr) * hn) + z * h.T, other

    return square(step)(x)


def no_input(x):
    return loop(lambda h, _: (jnp.tanh(h @ U[:, :H]), h), STATE[0], None, length=3), x


def complex_state(x):
    h = STATE[0].astype(jnp.complex64)
    step = lambda h, x: (jnp.tanh(x @ W[:, :H] + h @ U[:, :H]), h)  # noqa: E731
    return loop(step, h, jnp.swapaxes(x, 0, 1).astype(jnp.complex64))


def weights_per_example(x):
    def one(x, u):
        zero = jnp.zeros(H)
        return lax.scan(lambda s, x: (cell(s, x, u=u), s[0]), (zero, zero), x)

    return jax.vmap(one)(x, jnp.stack([U, 2 * U]))


def interleaved(state, x):
    """Its gates lie in turns, and not one after another."""
    h, c = state
    z = (x @ W + h @ U + BIAS).reshape(B, H, 4)
    i, f, g, o = (z[:, :, i] for i in range(4))
    c = sigmoid(f) * c + sigmoid(i) * jnp.tanh(g)
    return sigmoid(o) * jnp.tanh(c), c


def gates_of_features(state, x):
    """As many features as gates: only the axes tell."""
    h, c = state
    z = (x @ W + h @ U + BIAS).reshape(B, 4, H)
    i, f, g, o = (z[:, :, i] for i in range(H))
    c = sigmoid(f) * c + sigmoid(i) * jnp.tanh(g)
    return sigmoid(o) * jnp.tanh(c), c


LOOKALIKES.update(
    {
        "interleaved": other_cell(interleaved),
        "gates of features": other_cell(gates_of_features),
        "turned c": turned(c=jnp.transpose),
        "turned h": turned(h=jnp.transpose),
        "turned gate": turned(gate=jnp.transpose),
        "turned gru": turned_gru,
    }
)
LOOKALIKES.update({
    f.__name__: f
    for f in (
        masks_differ, mask_by_feature, output_before_masking, gates_are_results,
        prints, draws, weights_change, fed_back, minimal_gated_unit,
        linear, leaky, no_input, complex_state, weights_per_example,
    )
})  # fmt: skip


@pytest.mark.parametrize("name", LOOKALIKES)
def test_what_only_looks_like_a_cell_stays_a_loop(name):
    fn = LOOKALIKES[name]
    graph = tidy(trace(fn)(X))
    new = rewrite(graph, RECURRENT_RULES)
    assert not any(new.find(op) for op in OPS) and len(new.find("scan")) == 1
    assert any(rule.why_not(graph, n) for n in graph.find("scan") for rule in (RAISE_LSTM,))


def test_why_not_says_why():
    graph = tidy(trace(LOOKALIKES["clipped"])(X))
    (scan,) = graph.find("scan")
    assert "the cell state is not f * c + i * g" in str(RAISE_LSTM.why_not(graph, scan))


def test_much_memory_for_all_steps_at_once_is_refused():
    wide = array(H, 4096)

    def fn(x):
        return lstm(x, out=lambda new, old: (new[0] @ wide).sum(-1))

    assert len(raised(fn, X).find("scan")) == 1
