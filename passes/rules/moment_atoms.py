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
    "PART_MEAN",
    "PART_SQUARE",
    "SQUARE",
    "SQUARE_ONCE",
    "VARIANCE",
    "Clipped",
    "Root",
    "X",
    "bare_root",
    "close",
    "inverse",
    "is_close",
    "is_plain",
    "moment_of",
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
      placement: where epsilon stands, as in ``l2_normalize``.
    """

    kind: str
    epsilon: float
    placement: str = "root"


@dataclass(frozen=True)
class Clipped:
    """The atom ``max(..., epsilon**2)`` of the variance, the mean square or the sum of squares."""

    kind: str
    epsilon: float


IS_MEAN = Polynomial.atom(MEAN)
IS_SQUARE = Polynomial.atom(SQUARE)
SQUARE_ONCE = frozenset({(SQUARE, 1)})
MEAN_TWICE = frozenset({(MEAN, 2)})
VARIANCE = IS_SQUARE - IS_MEAN * IS_MEAN


def is_plain(p: Polynomial) -> bool:
    """Whether it is made of parameters and numbers alone."""
    return all(isinstance(a, Value) for m in p.terms for a, _ in m)


def inverse(p: Polynomial) -> Polynomial | None:
    """``1 / p`` of a single term, or of a root plus epsilon."""
    epsilon = p.terms.get(ONE, 0.0)
    if len(p.terms) == 2 and epsilon > 0:
        bare = bare_root(Polynomial({m: c for m, c in p.terms.items() if m != ONE}), 1)
        if bare is not None:
            # 1 / (c * root + e) is 1 / (root + e / c) / c.
            kind, c = bare
            return Polynomial({frozenset({(Root(kind, epsilon / c, "sum"), -1)}): 1 / c})
    return p.inverse()


def bare_root(p: Polynomial, power: int) -> tuple[str, float] | None:
    """What the root in ``c * root**power`` is of, and ``c``, where no epsilon is in it."""
    if len(p.terms) != 1:
        return None
    ((monomial, c),) = p.terms.items()
    atoms = list(monomial)
    if c <= 0 or len(atoms) != 1 or atoms[0][1] != power:
        return None
    root = atoms[0][0]
    bare = isinstance(root, Root) and root.placement == "root" and root.epsilon == 0
    return (root.kind, c) if bare else None


def is_close(a: float, b: float) -> bool:
    """Whether two numbers are equal as far as float32 can tell."""
    return abs(a - b) <= 4 * float(np.finfo(np.float32).eps) * abs(b)


def close(p: Polynomial, q: Polynomial) -> bool:
    """Whether two polynomials are equal as far as float32 can tell."""
    return p.terms.keys() == q.terms.keys() and all(
        is_close(c, q.terms[m]) for m, c in p.terms.items()
    )


def moment_of(p: Polynomial, count: int) -> tuple[str, float, float] | None:
    """``(kind, c, e)`` of ``c * (moment + e)``, where sums are over ``count`` elements.

    The variance of a sample, which is divided by ``count - 1``, is a multiple of the variance.
    """
    terms = dict(p.terms)
    square = terms.pop(SQUARE_ONCE, 0.0)
    mean = terms.pop(MEAN_TWICE, 0.0)
    epsilon = terms.pop(ONE, 0.0)
    if terms or square <= 0 or epsilon < 0:
        return None
    if is_close(mean, -square):
        return ("variance", 1.0, epsilon) if is_close(square, 1) else (
            "variance", square, epsilon / square
        )  # fmt: skip
    if mean == 0 and is_close(square, 1):
        return "mean square", 1.0, epsilon
    if mean == 0 and is_close(square, count):
        return "norm", 1.0, epsilon
    return None


def root_of(p: Polynomial, count: int) -> Polynomial | None:
    """The square root of ``p``, where sums are over ``count`` elements."""
    if len(p.terms) == 1:
        ((monomial, c),) = p.terms.items()
        atoms = list(monomial)
        if len(atoms) == 1 and isinstance(atoms[0][0], Clipped) and atoms[0][1] == 1 and c > 0:
            root = Root(atoms[0][0].kind, atoms[0][0].epsilon, "max")
            return Polynomial({frozenset({(root, 1)}): math.sqrt(c)})
    found = moment_of(p, count)
    if found is None:
        return None
    kind, c, epsilon = found
    return Polynomial({frozenset({(Root(kind, epsilon), 1)}): math.sqrt(c)})
