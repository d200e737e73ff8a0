"""Masks taken apart: every part is found, and what it says of positions is true."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

from helpers import array
from jaxpress.capture import trace
from jaxpress.capture.edit import Editor
from jaxpress.passes import inline
from jaxpress.passes.rules.attention_bands import positions_of, take_apart

T, S = 4, 5
ROW, COLUMN = np.mgrid[:T, :S]
FLAG = array(T, S) > 0


def parts(fn, *args, negated=False):
    """The parts of a mask (queries, keys), its axes called 7 and 8."""
    graph = inline(trace(fn)(*args))
    return graph, take_apart(Editor(graph), graph.outputs[0], (7, 8), negated, (8,))


def q():
    return jnp.arange(T)[:, None]


def k():
    return jnp.arange(S)[None, :]


@pytest.mark.parametrize(
    "fn",
    [
        lambda: q() >= k(),
        lambda: q() > k(),
        lambda: k() <= q() + 2,
        lambda: q() - 1 < k(),
        lambda: (q() - k() >= 1) & (q() - k() < 3),
        lambda: jnp.abs(q() - k()) <= 1,
        lambda: jnp.abs(k() - q()) < 2,
        lambda: q() == k(),
        lambda: jnp.tril(jnp.ones((T, S), bool), -1),
        lambda: ~jnp.triu(jnp.ones((T, S), bool), 2),
        lambda: jnp.cumsum(jnp.ones((T, S), jnp.int32), 0) >= k() + 1,
        lambda: (jnp.tril(jnp.ones((T, S))) != 0) & True,
        lambda: jnp.where(q() >= k(), jnp.ones((T, S)), 0.0) == 1.0,
        lambda: ((q() >= k()).astype(jnp.int32) * (q() < k() + 2).astype(jnp.int32)) > 0.5,
    ],
)
@pytest.mark.parametrize("negated", [False, True])
def test_bands_are_what_the_mask_is(fn, negated) -> None:
    _, leaves = parts(fn, negated=negated)
    want = np.broadcast_to(np.asarray(fn()) != negated, (T, S))
    if negated and not all(leaf.bands for leaf in leaves):
        # The opposite of several conditions stays one mask.
        assert len(leaves) == 1 and leaves[0].negated
        return
    assert all(leaf.bands for leaf in leaves)
    got = np.ones((T, S), bool)
    for leaf in leaves:
        for band in leaf.bands:
            assert band.query == 7
            got &= True if band.left is None else band.left >= ROW - COLUMN
            got &= True if band.right is None else band.right >= COLUMN - ROW
    np.testing.assert_array_equal(got, want)


def test_other_parts_are_left_over() -> None:
    graph, leaves = parts(lambda m, n: (q() >= k()) & m & ~n & True, FLAG, FLAG)
    named = {leaf.value.name: leaf for leaf in leaves if not leaf.bands}
    assert set(named) == {"m", "n"} and not named["m"].negated and named["n"].negated
    assert [len(leaf.bands) for leaf in leaves if leaf.bands] == [1]
    assert graph.inputs[0] is named["m"].value and named["m"].axes == (7, 8)


def test_axes_follow_what_stretches() -> None:
    _, (leaf,) = parts(lambda n: jnp.broadcast_to(n[None, :], (T, S)), jnp.ones(S, bool))
    assert leaf.axes == (8,)


@pytest.mark.parametrize(
    "fn",
    [
        lambda: 2 * q() >= k(),
        lambda: q() >= 2,
        lambda: q() % 2 >= k(),
        lambda: (q() >= k()) | (q() == 0),
        lambda: q().astype(jnp.float32) >= k().astype(jnp.float32),
        lambda: q() * 0 + 3 > k() * 0,
        lambda: q() != k(),
    ],
)
def test_other_comparisons_say_nothing_of_bands(fn) -> None:
    _, leaves = parts(fn)
    assert all(not leaf.bands for leaf in leaves)


def test_positions_are_sums_of_indices() -> None:
    def found(fn):
        graph = inline(trace(fn)())
        return positions_of(Editor(graph), graph.outputs[0])

    assert found(lambda: q() - k() + 3) == ({0: 1, 1: -1}, 3)
    assert found(lambda: jnp.arange(T).astype(jnp.int8)) is None  # may wrap around
    assert found(lambda: jnp.arange(1)[None]) == ({}, 0)
    assert found(lambda: jnp.cumsum(jnp.ones(T, jnp.int32))) == ({0: 1}, 1)
    assert found(lambda: jnp.cumsum(jnp.ones(T, jnp.int32))[::-1]) is None
