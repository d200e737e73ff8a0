"""Axes cut into parts, and put together again."""

from __future__ import annotations

import jax.export
import pytest

from jaxpress.passes.rules.axis_parts import Joined, Part, inverse, regrouped, through

A, B = (Part(7, i, (2, 3)) for i in range(2))
C = Joined((7, 8), (6, 4))


@pytest.mark.parametrize(
    "labels, before, after, wanted",
    [
        ((7, 8), (6, 4), (2, 3, 4), (A, B, 8)),
        ((8, 7), (4, 6), (1, 4, 2, 1, 3, 1), (None, 8, A, None, B, None)),
        ((A, B, 8), (2, 3, 4), (6, 4), (7, 8)),
        ((A, None, B), (2, 1, 3), (6,), (7,)),
        ((7, None, 8), (6, 1, 4), (6, 4), (7, 8)),
        ((7, 8), (6, 4), (6, 4), (7, 8)),
        # Put together otherwise than they were cut, in another order, or not at all.
        ((B, A, 8), (3, 2, 4), (6, 4), None),
        ((A, B, 8), (2, 3, 4), (2, 12), None),
        ((7, 8), (6, 4), (3, 8), None),
        # Several become one, and are cut again.
        ((7, 8), (6, 4), (24,), (C,)),
        ((7, 5, 8, 9), (6, 1, 4, 3), (24, 3), (C, 9)),
        ((C, 9), (24, 3), (6, 1, 4, 3), (7, None, 8, 9)),
        ((C,), (24,), (4, 6), None),
        ((C, 9), (24, 3), (72,), None),
        ((7, B), (6, 3), (18,), None),
        ((A, 8), (2, 3), (6,), None),
        ((A, 8), (2, 4), (2, 2, 4, 1), None),
        ((Part(7, 0, (6, 2)), 8), (6, 4), (2, 3, 4), None),
        ((7,), (0,), (0, 3), None),
    ],
)
def test_labels_after_a_reshape(labels, before, after, wanted) -> None:
    assert regrouped(labels, before, after) == wanted


def test_sizes_that_are_symbols_stay_what_they_are() -> None:
    n, m = jax.export.symbolic_shape("n, m")
    assert regrouped((7, 8), (n, 6), (n, 2, 3)) == (7, Part(8, 0, (2, 3)), Part(8, 1, (2, 3)))
    assert regrouped((7, 8), (n * m, 6), (n, m, 6)) is None


def test_labels_of_labels() -> None:
    cut, joined = (Part(0, i, (6, 4)) for i in range(2)), Joined((1, 0), (6, 4))
    assert through((1, None, 0), (7, A)) == (A, None, 7)
    assert through(tuple(cut), (C,)) == (7, 8)
    assert through((A._replace(axis=1), joined), (8, 7)) == (A, C)
    assert through((Joined((0, 1), (2, 3)), None), (A, B)) == (7, None)
    # Joined in another order than it was cut, cut otherwise, joined of parts, cut twice.
    assert through((Joined((1, 0), (3, 2)),), (A, B)) is None
    assert through((Part(0, 0, (4, 6)),), (C,)) is None
    assert through((joined,), (A, 7)) is None
    assert through((Part(0, 0, (2, 1)),), (A,)) is None


def test_labels_of_a_source() -> None:
    assert inverse((1, None, 0), (7, 8, A), (2, 5, 1)) == (A, 7, None)
    # An axis of size 1 runs along none.
    assert inverse((0, 1), (7, 8), (1, 5)) == (None, 8)
