"""Pieces of one array that are stacked are that array, and pieces of pieces are pieces of it."""

from __future__ import annotations

import jax.numpy as jnp
import pytest
from jax import lax

from helpers import array, assert_applies, assert_optimizes, assert_refuses
from jaxpress import passes
from jaxpress.passes.rules.cleanup_moves import SLICE_CHAIN
from jaxpress.passes.rules.slice_tidying import PIECE_OF_PIECE, SLICE_TIDYING, STACKED_SLICES

X = array(3, 6, 4)


@pytest.mark.parametrize("axis", [0, 1, 2, 3])
@pytest.mark.parametrize(
    "pieces",
    [
        lambda x: jnp.split(x, 3, 1),
        lambda x: jnp.split(x, 3, 1)[1:],
        lambda x: [x[:, 1:3], x[:, 3:5]],
        lambda x: [x[1:, i : i + 2, 1:] for i in (0, 2, 4)],
        lambda x: [x[:, :1], x[:, 1:2]],
    ],
)
def test_a_stack_of_neighbours(pieces, axis) -> None:
    new = assert_applies(STACKED_SLICES, lambda x: jnp.stack(pieces(x), axis), X, times=1)
    assert not new.find("stack") and len(new.find("slice")) <= 1


@pytest.mark.parametrize(
    ("fn", "because"),
    [
        (lambda x: jnp.stack([x[:, 2:4], x[:, :2]]), "neighbours"),
        (lambda x: jnp.stack([x[:, :2], x[:, :2]]), "side by side"),
        (lambda x: jnp.stack([x[:, 0:2], x[:, 2:4], x[:, 2:4]]), "neighbours"),
        (lambda x: jnp.stack([x[:, 0:4:2], x[:, 4:6]]), "neighbours"),
        (lambda x: jnp.stack([x[:2, :2], x[1:, 2:4]]), "side by side"),
        (lambda x: jnp.stack([x[:, :2], jnp.sin(x)[:, 2:4]]), "several arrays"),
        (lambda x: jnp.stack([x[:, :2], -x[:, 2:4]]), "not pieces"),
        (lambda x: jnp.stack([x[:, :2]]), "but one"),
    ],
)
def test_other_stacks_stay(fn, because) -> None:
    assert_refuses(STACKED_SLICES, fn, X, because=because)


def test_pieces_of_pieces() -> None:
    def fn(x):
        first, second = lax.split(x, (2, 4), axis=1)
        a, b = lax.split(second, (1, 3), axis=1)
        c, d = lax.split(x[:, 1::2], (1, 3), axis=2)
        return first, a, b[:, 1:, ::2], c, d[:0], second[:, 1:2]

    new = assert_applies(SLICE_TIDYING + SLICE_CHAIN, fn, X)
    assert all(new.producer(v).inputs == new.inputs for v in new.outputs)
    assert_refuses(PIECE_OF_PIECE, lambda x: x[1:][1:], X)
    assert_refuses(PIECE_OF_PIECE, lambda x: lax.split(jnp.sin(x), (2, 4), axis=1), X)


def test_parallel_ops_of_which_one_is_split() -> None:
    v, w = array(4, 6), array(4, 4, seed=1)

    def fn(x):
        a, b, c = jnp.split(x @ v, 3, -1)
        return a * jnp.sin(b) + c, jnp.stack(jnp.split(x @ w, 2, -1))

    assert_optimizes(
        passes.default,
        fn,
        X,
        ops={"dense": 1, "slice": 4, "sin": 1, "mul": 1, "add": 1, "reshape": 1, "transpose": 1},
    )
