"""Which axes hold the elements of which, through steps that reshape, transpose, repeat and pool.

An axis is a row of factors, the slowest first: reshapes split and join rows, as where blocks of
channels become pixels. What runs along some axes before the steps runs along those with the same
factors after them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from jax import lax

from jaxpress.capture import Node
from jaxpress.passes.rules.steps import MOVES, REPEAT, kept_by_pooling, leaves_axis
from jaxpress.passes.rules.weights import as_type, bias_axes, placed
from jaxpress.passes.view import View

__all__ = ["Features", "Row", "Tracked", "carry", "features_of", "is_carried", "track"]


class Factor(NamedTuple):
    """A part of an axis, by a number of its own."""

    number: int
    size: Any


Row = tuple[Factor, ...]


class Tracked(NamedTuple):
    """The factors of each axis before some steps and after them."""

    before: tuple[Row, ...]
    after: tuple[Row, ...]


class _Tracker:
    """Factors on their way through steps."""

    def __init__(self, shape: Sequence[Any]):
        self.count = 0
        self.parts: dict[int, Row] = {}  # what a factor has been split into
        self.rows = [self.new(n) for n in shape]
        self.first = list(self.rows)

    def new(self, size: Any) -> Row:
        """An axis of which nothing is known."""
        if isinstance(size, int) and size == 1:
            return ()
        self.count += 1
        return (Factor(self.count, size),)

    def whole(self, row: Row) -> Row:
        """The row, with what its factors have been split into."""
        out: list[Factor] = []
        for factor in row:
            out += (
                self.whole(self.parts[factor.number]) if factor.number in self.parts else [factor]
            )
        return tuple(out)

    def split(self, factor: Factor, sizes: Sequence[Any]) -> Row:
        self.parts[factor.number] = tuple([f for n in sizes for f in self.new(n)])
        return self.parts[factor.number]

    def regroup(self, before: Sequence[Any], after: Sequence[Any]) -> None:
        """Follow a reshape. Of axes that mix factors nothing is known any more."""
        if tuple(before) == tuple(after):
            return
        rows, out = [self.whole(row) for row in self.rows], []
        i = j = 0
        while j < len(after):
            run = _run(before[i:], after[j:])
            if run is None:
                out += [self.new(n) for n in after[j:]]
                break
            sizes = after[j : j + run[1]]
            dealt = self.dealt([f for row in rows[i : i + run[0]] for f in row], sizes)
            out += [self.new(n) for n in sizes] if dealt is None else dealt
            i, j = i + run[0], j + run[1]
        self.rows = out

    def dealt(self, factors: list[Factor], sizes: Sequence[Any]) -> list[Row] | None:
        """Factors, some of them split, in rows of these sizes."""
        if len(sizes) < 2:
            return [tuple(factors) for _ in sizes]
        if len(factors) == 1:
            rest = iter(self.split(factors[0], sizes))
            return [() if isinstance(n, int) and n == 1 else (next(rest),) for n in sizes]
        if not all(isinstance(n, int) for n in (*sizes, *(f.size for f in factors))):
            return None
        left, out = factors[::-1], []
        for size in sizes:
            row: list[Factor] = []
            while size != 1:
                if not left:
                    return None
                factor = left.pop()
                if size % factor.size == 0:
                    row.append(factor)
                    size //= factor.size
                elif factor.size % size == 0:
                    slow, fast = self.split(factor, (size, factor.size // size))
                    row.append(slow)
                    left.append(fast)
                    size = 1
                else:
                    return None
            out.append(tuple(row))
        return out


def _run(before: Sequence[Any], after: Sequence[Any]) -> tuple[int, int] | None:
    """How many of the first axes on either side have as many elements, as few as do."""
    if any(isinstance(n, int) and n == 0 for n in (*before, *after)):
        return None  # any axes have as many
    if before and before[0] == 1:
        return 1, 0
    if after and after[0] == 1:
        return 0, 1
    for total in range(2, len(before) + len(after) + 1):
        for i in range(max(1, total - len(after)), min(total - 1, len(before)) + 1):
            if math.prod(before[:i]) == math.prod(after[: total - i]):
                return i, total - i
    return None


def track(view: View, steps: Iterable[Node], shape: Sequence[Any]) -> Tracked:
    """The factors of axes before and after steps.

    Args:
      view: the graph.
      steps: what runs, in order; of those that ``steps.py`` names.
      shape: of what enters the first.
    """
    tracker = _Tracker(shape)
    for node in steps:
        before, after = view.inputs(node)[0].shape, node.output.shape
        if node.op == "transpose":
            tracker.rows = [tracker.rows[int(p)] for p in node.params["permutation"]]
        elif node.op in REPEAT:
            rows = [tracker.new(n) for n in after]
            for i, a in enumerate(node.params["broadcast_dimensions"]):
                if before[i] == after[int(a)]:
                    rows[int(a)] = tracker.rows[i]
            tracker.rows = rows
        elif node.op in MOVES:
            tracker.regroup(before, after)
        else:
            kept = range(len(before)) if len(after) == len(before) else kept_by_pooling(node)
            tracker.rows = [
                tracker.rows[a] if leaves_axis(node, a) else tracker.new(n)
                for a, n in zip(kept, after, strict=True)
            ]
    first, last = ([tracker.whole(r) for r in rows] for rows in (tracker.first, tracker.rows))
    return Tracked(tuple(first), tuple(last))


def is_carried(sources: Iterable[Row], targets: Iterable[Row]) -> bool:
    """Whether what runs along the factors of some axes runs along those of others alone."""
    return {f for row in sources for f in row} <= {f for row in targets for f in row}


def carry(x: Any, sources: Sequence[Row], targets: Sequence[Row], dtype: Any) -> Any:
    """The elements of ``x``, which runs along some axes, along others that have their factors.

    Args:
      x: an array, or a number.
      sources: the rows of the axes that it runs along, in order.
      targets: the rows of the axes that the result runs along, and repeats where they have more.
      dtype: the result's.
    """
    given = [f for row in sources for f in row]
    wanted = [f for row in targets for f in row]
    x = as_type(x, dtype)
    sizes = tuple([f.size for f in given])
    if x.shape != sizes:  # a reshape of a number to itself would be an operation
        x = lax.reshape(x, sizes)
    places = [wanted.index(f) for f in given]
    x = placed(x, places, [f.size for f in wanted])
    shape = tuple([math.prod(f.size for f in row) for row in targets])
    return x if x.shape == shape else lax.reshape(x, shape)


class Features(NamedTuple):
    """Where the features of a linear op come out of the steps behind it.

    Attributes:
      own: the factors of each axis of its bias.
      result: those of each axis of what comes out.
    """

    own: tuple[Row, ...]
    result: tuple[Row, ...]

    def hold(self, axes: Iterable[int]) -> bool:
        """Whether axes of the result run along features alone."""
        return is_carried([self.result[a] for a in axes], self.own)

    def vector(self, x: Any, axes: Iterable[int], dtype: Any) -> Any:
        """What runs along axes of the result, in the shape of a bias."""
        return carry(x, [self.result[a] for a in axes], self.own, dtype)


def features_of(view: View, linear: Node, steps: Iterable[Node]) -> Features:
    """The features of a linear op behind steps."""
    tracked = track(view, steps, linear.output.shape)
    return Features(tuple([tracked.before[a] for a in bias_axes(linear)]), tracked.after)
