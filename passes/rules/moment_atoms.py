"""What polynomials in an array's moments are made of, besides the graph's own values."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from jaxpress.capture import Value
from jaxpress.passes.rules.polynomial import ONE, Polynomial

__all__ = [
    "IS_MEAN",
    "IS_SQUARE",
    "MEAN",
    "MEAN_TWICE",
    "NORM",
    "PART_MEAN",
    "PART_SQUARE",
    "SQUARE",
    "SQUARE_ONCE",
    "VARIANCE",
    "Clipped",
    "Root",
    "X",
    "close",
    "inverse",
    "is_close",
    "is_plain",
    "root_of",
]


class _Symbol:
    """An atom of the polynomials that is no value of the graph."""

    def __init__(self, name: str):
        self.name = name

    def __repr__(self) -> str:
        return self.name


X, MEAN, SQUARE = _Symbol("x"), _Symbol("mean(x)"), _Symbol("mean(x**2)")
# Likewise, over some of the axes: an outer sum completes them.
PART_MEAN, PART_SQUARE = _Symbol("mean of a part"), _Symbol("mean square of a part")


@dataclass(frozen=True)
class Root:
    """The atom ``sqrt(...)`` of the variance, the mean square or the sum of squares.

    Attributes:
      kind: ``"variance"``, ``"mean square"`` or ``"norm"``.
      epsilon: what is added to it, or what it is compared with.
      placement: as in ``l2_normalize``; ``"root"`` for the others too.
    """

    kind: str
    epsilon: float
    placement: str = "root"


@dataclass(frozen=True)
class Clipped:
    """The atom ``max(sum(x**2), epsilon)``."""

    epsilon: float


IS_MEAN = Polynomial.atom(MEAN)
IS_SQUARE = Polynomial.atom(SQUARE)
SQUARE_ONCE = frozenset({(SQUARE, 1)})
MEAN_TWICE = frozenset({(MEAN, 2)})
VARIANCE = IS_SQUARE - IS_MEAN * IS_MEAN
NORM = Root("norm", 0.0)


def is_plain(p: Polynomial) -> bool:
    """Whether it is made of parameters and numbers alone."""
    return all(isinstance(a, Value) for m in p.terms for a, _ in m)


def inverse(p: Polynomial) -> Polynomial | None:
    """``1 / p`` of a single term, or of ``norm + epsilon``."""
    if len(p.terms) == 2 and p.terms.get(frozenset({(NORM, 1)})) == 1 and p.terms.get(ONE, 0) > 0:
        return Polynomial.atom(Root("norm", p.terms[ONE], "sum"), -1)
    return p.inverse()


def is_close(a: float, b: float) -> bool:
    """Whether two numbers are equal as far as float32 can tell."""
    return abs(a - b) <= 4 * float(np.finfo(np.float32).eps) * abs(b)


def close(p: Polynomial, q: Polynomial) -> bool:
    """Whether two polynomials are equal as far as float32 can tell."""
    return p.terms.keys() == q.terms.keys() and all(
        is_close(c, q.terms[m]) for m, c in p.terms.items()
    )


def root_of(p: Polynomial, count: int) -> Root | None:
    """What the square root of ``p`` is, where sums are over ``count`` elements."""
    terms = dict(p.terms)
    if len(terms) == 1:
        ((monomial, c),) = terms.items()
        atoms = list(monomial)
        if len(atoms) == 1 and isinstance(atoms[0][0], Clipped) and c == 1:
            return Root("norm", math.sqrt(atoms[0][0].epsilon), "max")
    square = terms.pop(SQUARE_ONCE, 0.0)
    mean = terms.pop(MEAN_TWICE, 0.0)
    epsilon = terms.pop(ONE, 0.0)
    if terms or square <= 0 or epsilon < 0:
        return None
    if is_close(square, 1) and is_close(mean, -1):
        return Root("variance", epsilon)
    if mean == 0 and is_close(square, 1):
        return Root("mean square", epsilon)
    if mean == 0 and is_close(square, count):
        return Root("norm", epsilon)
    return None
