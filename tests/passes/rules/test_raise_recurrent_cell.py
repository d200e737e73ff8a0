"""Single steps of an LSTM or GRU become the named ops of one step; what looks like one does not."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest
from recurrent_by_hand import BIAS, B, F, H, T, U, W, X, cell, gates, sigmoid, tidy
from recurrent_frameworks import STEPS

from helpers import array, assert_close
from jaxpress.capture import trace
from jaxpress.passes import rewrite
from jaxpress.passes.rules.raise_recurrent_cell import (
    RAISE_GRU_CELL,
    RAISE_LSTM_CELL,
    RECURRENT_CELL_RULES,
)

H0, C0 = array(B, H, seed=5), array(B, H, seed=6)
STATE = (H0, C0)


def raised(fn, *args):
    graph = tidy(trace(fn)(*args))
    new = rewrite(graph, RECURRENT_CELL_RULES).validate()
    record: list = []
    rewrite(new, RECURRENT_CELL_RULES, record=record)
    assert not record, record[0]
    got, want = jax.jit(lambda *a: (new(*a), fn(*a)))(*args)
    assert_close(got, want, 2e-6)
    counts = new.count()
    return {k: counts[k] for k in ("lstm_cell", "gru_cell", "scan", "while") if counts[k]}


@pytest.mark.parametrize("name", STEPS)
def test_steps_of_every_library(name):
    make, ops = STEPS[name]
    fn, args = make()
    assert raised(fn, *args) == ops


def test_both_states_may_be_used_wherever():
    def fn(x, h, c):
        first = cell((h, c), x)
        second = cell(first, jnp.tanh(x + first[1][:, :F]))
        return first[1] * 2, second, first[0]

    assert raised(fn, X[:, 0], *STATE) == {"lstm_cell": 2}


def test_the_output_gate_may_be_computed_last():
    def fn(x, h, c, us, uo):
        i, f, g = jnp.split(x @ W[:, : 3 * H] + h @ us, 3, -1)
        c = sigmoid(f) * c + sigmoid(i) * jnp.tanh(g)
        early = c.sum()
        o = x @ W[:, 3 * H :] + h @ jnp.transpose(uo)
        return early, sigmoid(o) * jnp.tanh(c), c

    assert raised(fn, X[:, 0], *STATE, U[:, : 3 * H], U[:, 3 * H :].T) == {"lstm_cell": 1}


def test_a_loop_that_attends_keeps_its_cell_by_name():
    memory = array(B, 5, H)

    def fn(x):
        def step(carry, x):
            (h, c), context = carry
            h, c = cell((h, c), jnp.concatenate([x, context[:, :1]], -1), w=array(F + 1, 4 * H))
            score = jax.nn.softmax(jnp.einsum("bh,bth->bt", h, memory))
            return ((h, c), jnp.einsum("bt,bth->bh", score, memory)), h

        return jax.lax.scan(step, (STATE, H0), jnp.swapaxes(x, 0, 1))

    assert raised(fn, X) == {"lstm_cell": 1, "scan": 1}


def test_in_a_while_loop():
    def fn(x, n):
        state = jax.lax.fori_loop(0, n, lambda i, s: cell(s, x), STATE)
        return state[0]

    assert raised(fn, X[:, 0], 3) == {"lstm_cell": 1, "while": 1}


def test_the_trace_of_one_step_serves_all_alike():
    def fn(x, h, c):
        state = (h, c)
        for t in range(T):
            state = cell(state, x[:, t])
        return state

    graph = tidy(trace(fn)(X, *STATE))
    record: list = []
    new = rewrite(graph, RECURRENT_CELL_RULES, record=record)
    assert [r.rule for r in record] == ["raise_lstm_cell"] * T
    inputs = [{v.name for v in node.inputs} for node in new.find("lstm_cell")]
    assert all(inputs[0] & other for other in inputs[1:])


def gate_is_needed(x, h, c):
    z = x @ W + h @ U
    return gates(z, c), jax.nn.sigmoid(z[:, :H])


def product_is_needed(x, h, c):
    z = h @ U
    return gates(x @ W + z, c), z


def no_state(x, h, c):
    return gates(x @ W, c)


def highway(x, h, c):
    z = sigmoid(h @ U[:, :H])
    return z * jnp.tanh(h @ U[:, H : 2 * H]) + (1 - z) * h


def mixture(x, h, c):
    z = sigmoid(x @ W[:, :H] + h @ U[:, :H])
    return z * c + (1 - z) * h


def three_gates_of_two_states(x, h, c):
    i, f, g, o = (x @ W[:, k * H : (k + 1) * H] for k in range(4))
    i, f, o = i + h @ U[:, :H], f + c @ U[:, :H], o + h @ U[:, :H]
    c = sigmoid(f) * c + sigmoid(i) * jnp.tanh(g)
    return sigmoid(o) * jnp.tanh(c), c


def another_gate(x, h, c):
    z = x @ W[:, :H] + h @ U[:, :H]
    r, u, n = sigmoid(z), sigmoid(-z * 2), x @ W[:, H : 2 * H]
    return (1 - u) * jnp.tanh(n + jnp.tanh(r) * (h @ U[:, H : 2 * H])) + u * h


LOOKALIKES = {
    f.__name__: f
    for f in (
        gate_is_needed, product_is_needed, no_state, highway, mixture, three_gates_of_two_states,
        another_gate,
    )
}  # fmt: skip


@pytest.mark.parametrize("name", LOOKALIKES)
def test_what_only_looks_like_a_cell_stays(name):
    assert raised(LOOKALIKES[name], X[:, 0], *STATE) == {}


def test_integers_and_scalars_are_passed_by():
    def fn(n, x):
        return n * n + (1 - n) * n, x * 2 + jnp.float32(1) * jnp.tanh(jnp.float32(2) * 3 + 4 * 5)

    assert raised(fn, jnp.arange(3), jnp.float32(2)) == {}


def test_why_not_says_why():
    graph = tidy(trace(highway)(X[:, 0], *STATE))
    assert "no reset gate enters the candidate" in str(RAISE_GRU_CELL.why_not(graph))
    graph = tidy(trace(no_state)(X[:, 0], *STATE))
    assert "not sums of products with x and with h" in str(RAISE_LSTM_CELL.why_not(graph))


def test_biases_are_needed_for_neither():
    assert raised(lambda x, h, c: cell((h, c), x, b=0.0), X[:, 0], *STATE) == {"lstm_cell": 1}
    assert raised(lambda x, h, c: cell((h, c), x, b=BIAS), X[0, 0], H0[0], C0[0]) == {
        "lstm_cell": 1
    }
