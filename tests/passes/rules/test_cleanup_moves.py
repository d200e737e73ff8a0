"""Slices, joins, pads and broadcasts in a row: the same elements, bit for bit."""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from helpers import array, assert_applies, assert_refuses, rewritten
from jaxpress.passes.rules.cleanup_moves import MOVE_RULES
from jaxpress.testing import assert_rewrites

X, Y = array(6, 5), array(4, 5)
RULES = {rule.name: rule for rule in MOVE_RULES}


def same(name, fn, *args, left, times=1):
    """The rule applies, keeps every bit, and leaves these operations."""
    new = assert_applies(RULES[name], fn, *args, times=times, tolerance=0.0)
    assert {op: n for op, n in new.count().items() if n} == left
    assert RULES[name].numerics == "exact"


def test_slices_of_slices() -> None:
    starts, limits, strides = (0, 1, 3), (3, 5, 6), (1, 2)
    count = 0
    for (a, b, s), (c, d, t) in itertools.product(
        itertools.product(starts, limits, strides), repeat=2
    ):
        if a > b or c > d or d > len(range(a, b, s)):
            continue
        count += 1

        def fn(x, a=a, b=b, s=s, c=c, d=d, t=t):
            return lax.slice(lax.slice(x, (a, 1), (b, 4), (s, 1)), (c, 0), (d, 2), (t, 1))

        new = jax.eval_shape(fn, X)
        got = assert_rewrites_once("slice_chain", fn, X)
        assert got.shape == new.shape
        np.testing.assert_array_equal(got, np.asarray(X)[a:b:s, 1:4][c:d:t, 0:2])
    assert count > 20


def assert_rewrites_once(name, fn, *args):
    new, rules = rewritten(RULES[name], fn, *args)
    assert rules == [name] and new.count() == {"slice": 1}
    return new(*args)


def test_a_slice_of_everything() -> None:
    same("slice_chain", lambda x: lax.slice(lax.sin(x), (0, 0), (6, 5)), X, left={"sin": 1})


def test_a_slice_of_one_part() -> None:
    def fn(start, limit, stride=1):
        return lambda x, y: lax.slice_in_dim(lax.concatenate([x, y, x], 0), start, limit, stride)

    same("slice_chain", fn(1, 5, 2), X, Y, left={"slice": 1})
    same("slice_chain", fn(7, 9), X, Y, left={"slice": 1})
    same("slice_chain", fn(6, 10), X, Y, left={})
    same("slice_chain", fn(10, 16), X, Y, left={})
    for start, limit in ((5, 7), (0, 16), (9, 11)):
        if (start, limit) != (0, 16):
            assert_refuses(RULES["slice_chain"], fn(start, limit), X, Y)


def test_a_slice_of_one_part_along_another_axis() -> None:
    def fn(x, y):
        return lax.slice(lax.concatenate([x, y], 0), (0, 1), (6, 3))

    same("slice_chain", fn, X, Y, left={"slice": 1})
    assert_refuses(
        RULES["slice_chain"], lambda x, y: lax.slice(lax.concatenate([x, y], 0), (0, 1), (7, 3)),
        X, Y,
    )  # fmt: skip


def test_joining_what_was_cut() -> None:
    def halves(x):
        y = lax.sin(x)
        return lax.concatenate([y[:2], y[2:4], y[4:]], 0)

    same("joined_slices", halves, X, left={"sin": 1})

    def part(x):
        y = lax.sin(x)
        return lax.concatenate([y[:, 1:2], y[:, 2:4]], 1)

    same("joined_slices", part, X, left={"sin": 1, "slice": 1})

    def split(x):
        return jnp.concatenate(jnp.split(lax.sin(x), 3), 0)

    assert assert_applies(RULES["joined_slices"], split, X, times=1).count() == {"sin": 1}
    same("joined_slices", lambda x: lax.concatenate_p.bind(lax.sin(x), dimension=0), X,
         left={"sin": 1})  # fmt: skip


@pytest.mark.parametrize(
    "fn",
    [
        lambda x: lax.concatenate([x[3:], x[:3]], 0),
        lambda x: lax.concatenate([x[:3], x[2:]], 0),
        lambda x: lax.concatenate([x[:2], x[3:]], 0),
        lambda x: lax.concatenate([x[0:6:2], x[1:6:2]], 0),
        lambda x: lax.concatenate([x[:3], x[3:]], 1),
        lambda x: lax.concatenate([x[:3, :2], x[3:, 1:3]], 0),
        lambda x: lax.concatenate([x[:3], lax.sin(x)[3:]], 0),
        lambda x: lax.concatenate([x[:3], -x[3:]], 0),
        lambda x: jnp.concatenate(jnp.split(x, 3)[::-1], 0),
        lambda x: jnp.concatenate(jnp.split(x, 3)[:2], 0),
        lambda x: jnp.concatenate(jnp.split(x, 3, 0), 1),
        lambda x: lax.concatenate([x, x], 0),
    ],
)
def test_joins_of_other_things_stay(fn) -> None:
    assert_refuses(RULES["joined_slices"], fn, X)


def test_splitting_what_was_joined() -> None:
    def fn(x, y):
        return lax.split(lax.concatenate([lax.sin(x), y], 0), (6, 4), 0)

    same("split_of_joined", fn, X, Y, left={"sin": 1})
    for sizes in ((4, 6), (6, 2, 2)):
        assert_refuses(
            RULES["split_of_joined"],
            lambda x, y, s=sizes: lax.split(lax.concatenate([x, y], 0), s, 0), X, Y,
        )  # fmt: skip


def pad(x, value, *edges):
    return lax.pad(x, jnp.float32(value), edges)


def test_padding() -> None:
    none = (0, 0, 0)
    same("drop_pad", lambda x: pad(lax.sin(x), 1.0, none, none), X, left={"sin": 1})
    same("pad_twice", lambda x: pad(pad(x, 2.0, (1, 0, 0), none), 2.0, (0, 2, 0), (1, 1, 0)), X,
         left={"pad": 1})  # fmt: skip
    for fn in (
        lambda x: pad(pad(x, 2.0, (1, 0, 0), none), 3.0, (1, 0, 0), none),
        lambda x: pad(pad(x, 0.0, (1, 0, 0), none), -0.0, (1, 0, 0), none),
        lambda x: pad(pad(x, 2.0, (1, 1, 0), none), 2.0, (-1, 0, 0), none),
        lambda x: pad(pad(x, 2.0, (1, 0, 1), none), 2.0, (1, 0, 0), none),
        lambda x: pad(pad(x, 2.0, (1, 0, 0), none), 2.0, (1, 0, 1), none),
        lambda x: (lambda y: (pad(y, 2.0, (1, 0, 0), none), y))(pad(x, 2.0, (1, 0, 0), none)),
        lambda x: pad(x, 2.0, (0, 0, 1), none),
    ):
        assert_refuses(RULES["pad_twice"], fn, X)
        assert_refuses(RULES["drop_pad"], fn, X)


def test_writing_everything() -> None:
    """As Flax NNX keeps its statistics."""
    same("drop_scatter", lambda x, y: x.at[...].set(lax.sin(y)), X, X, left={"sin": 1})
    for fn in (
        lambda x: x.at[...].add(x * 2),
        lambda x: x.at[0:5].set(x[1:] * 2),
        lambda x: x.at[jnp.array([1, 2])].set(x[:2]),
        lambda x: x.at[1].set(x[0]),
    ):
        assert_refuses(RULES["drop_scatter"], fn, X)


def test_turning_round_twice() -> None:
    same("reverse_twice", lambda x: lax.rev(lax.rev(lax.sin(x), (0, 1)), (1, 0)), X,
         left={"sin": 1})  # fmt: skip
    same("reverse_twice", lambda x: lax.rev(lax.rev(lax.sin(x), (0,)).T[None], (2,)), X,
         left={"sin": 1, "transpose": 1, "broadcast_in_dim": 1})  # fmt: skip
    for fn in (
        lambda x: lax.rev(lax.rev(x, (0,)), (1,)),
        lambda x: lax.rev(lax.rev(x, (0,)).T, (0,)),
        lambda x: lax.rev(lax.rev(x, (0,)).reshape(-1), (0,)),
    ):
        assert_refuses(RULES["reverse_twice"], fn, X)


def test_broadcasts_of_broadcasts() -> None:
    def fn(x):
        return lax.broadcast_in_dim(
            lax.broadcast_in_dim(x, (5, 1, 3), (0,)), (2, 5, 4, 3), (1, 2, 3)
        )

    same("broadcast_twice", fn, X[0], left={"broadcast_in_dim": 1})
    assert_rewrites(RULES["broadcast_twice"], fn, X[0], times=1)
    assert_refuses(
        RULES["broadcast_twice"],
        lambda x: lax.broadcast_in_dim(
            lax.sin(lax.broadcast_in_dim(x, (5, 2), (0,))), (3, 5, 2), (1, 2)
        ),
        X[0],
    )


def test_shared_values_are_looked_through_and_stay() -> None:
    def fn(x, y):
        joined = lax.concatenate([x, y], 0)
        return joined[:6] * 2, joined

    new = assert_applies(RULES["slice_chain"], fn, X, Y, times=1, tolerance=0.0)
    assert new.count() == {"concatenate": 1, "mul": 1}


def test_symbolic_sizes_and_arrays_of_no_size() -> None:
    (n,) = jax.export.symbolic_shape("n")
    shape = jax.ShapeDtypeStruct((n, 5), jnp.float32)
    assert_refuses(MOVE_RULES, lambda x: lax.slice_in_dim(x[:, 1:], 1, 3, axis=1), shape)
    empty = lambda x: lax.concatenate([x[:0], x[:4]], 0)  # noqa: E731
    assert_applies(MOVE_RULES, empty, X, gradients=False, tolerance=0.0)
    assert_applies(MOVE_RULES, lambda x: x[1:][1:][0:0], X[:2], gradients=False, tolerance=0.0)
