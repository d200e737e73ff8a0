"""Recurrences over sequences that were reversed."""

from __future__ import annotations

import jax.numpy as jnp
import pytest
from recurrent_by_hand import BIAS, STATE, H, U, W, X, cell, loop, tidy

from helpers import assert_optimizes, assert_refuses, quick_compiles
from jaxpress import nnops
from jaxpress.capture import trace
from jaxpress.passes import inference
from jaxpress.passes.rules.recurrent_reverse import TURN_RECURRENCE


@pytest.fixture(autouse=True, scope="module")
def compiled_quickly():
    with quick_compiles():
        yield


def step(state, x):
    state = cell(state, x)
    return state, state[0]


def backwards(x):
    """The second direction, time first, as it is written by hand; its last state is used too."""
    (h, _), y = loop(step, STATE, jnp.flip(x.swapaxes(0, 1), 0))
    return y[::-1].swapaxes(0, 1), h


def last_state(x):
    return loop(step, STATE, jnp.flip(x, 1).swapaxes(0, 1))[0]


def after_a_move(x):
    return loop(step, STATE, x[:, ::-1].swapaxes(0, 1))[1].swapaxes(0, 1)[:, ::-1]


def twice_turned(x):
    """A loop that runs backwards over a reversed sequence runs forwards."""
    return loop(step, STATE, jnp.flip(x.swapaxes(0, 1), 0), reverse=True)[1][::-1]


@pytest.mark.parametrize(
    "fn, reverse",
    [(backwards, True), (last_state, True), (after_a_move, True), (twice_turned, False)],
)
def test_the_sequence_itself_is_read_backwards(fn, reverse) -> None:
    new = assert_optimizes(inference, fn, X, absent=("rev", "scan"))
    (node,) = new.find("lstm")
    assert node.params["reverse"] is reverse


def run(x, **options):
    return nnops.lstm(x, *STATE, W, U, BIAS, **options)[0]


@pytest.mark.parametrize(
    "fn, because",
    [
        (lambda x: jnp.flip(run(x), 1), "not reversed"),
        (lambda x: run(jnp.flip(x, 1)), "used as they come"),
        (lambda x: jnp.sin(jnp.flip(run(jnp.flip(x, 1)), 2)), "used as they come"),
        (lambda x: (y := run(jnp.flip(x, 1))) + jnp.flip(y, 1), "used as they come"),
        (lambda x: jnp.flip(run(jnp.flip(x, 1)).reshape(-1, H), 0), "used as they come"),
        (lambda x: jnp.flip(run(jnp.flip(x, 2)), 1), "another axis"),
        (lambda x: jnp.flip(run(jnp.flip(x, (1, 2))), 1), "another axis"),
        (lambda x: jnp.flip(run(jnp.flip(x, 1), lengths=jnp.array([2, 3])), 1), "leaves out"),
    ],
)
def test_other_ways_round_stay(fn, because) -> None:
    graph = tidy(trace(fn)(X))
    assert_refuses(TURN_RECURRENCE, lambda x: graph(x), X, because=because)
