"""Axes that a reshape cut into several, or put together again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

__all__ = ["Joined", "Label", "Labels", "Part", "inverse", "regrouped", "through"]


class Part(NamedTuple):
    """One of the axes that a single axis was cut into.

    Attributes:
      axis: the label of the axis that was cut.
      index: which of its parts this is, the slowest one first.
      sizes: of all its parts.
    """

    axis: int
    index: int
    sizes: tuple[Any, ...]


class Joined(NamedTuple):
    """Several axes that became one.

    Attributes:
      axes: their labels, the slowest one first.
      sizes: of each.
    """

    axes: tuple[int, ...]
    sizes: tuple[Any, ...]


Label = int | Part | Joined | None
Labels = tuple[Label, ...]


def inverse(axes: Sequence[int | None], labels: Labels, shape: Sequence[Any]) -> Labels:
    """Labels of a source's axes, from those of what was made of it; ``None`` has size 1.

    Args:
      axes: for each axis of what was made, the source's, or ``None``.
      labels: of its axes.
      shape: the source's.
    """
    out: list[Label] = [None] * len(shape)
    for label, axis in zip(labels, axes, strict=True):
        if axis is not None and shape[axis] != 1:
            out[axis] = label
    return tuple(out)


def through(labels: Labels, before: Labels) -> Labels | None:
    """Labels that name axes which have labels themselves; ``None`` where both cut or join.

    Args:
      labels: of axes, each a place in ``before`` or made of such.
      before: the labels at those places.
    """
    out: list[Label] = []
    for label in labels:
        if label is None or isinstance(label, int):
            out.append(None if label is None else before[label])
            continue
        if isinstance(label, Part):
            whole = before[label.axis]
            if isinstance(whole, int):
                out.append(label._replace(axis=whole))
            elif isinstance(whole, Joined) and whole.sizes == label.sizes:
                out.append(whole.axes[label.index])
            else:
                return None
            continue
        whole = [before[a] for a in label.axes]
        joined = _joined(whole, label.sizes)
        if joined is None:
            return None
        out.append(joined)
    return tuple(out)


def regrouped(labels: Labels, before: Sequence[Any], after: Sequence[Any]) -> Labels | None:
    """The labels of an array's axes after a reshape; ``None`` where it mixes axes.

    Args:
      labels: of its axes before; ``None`` has size 1.
      before: its shape before.
      after: its shape after.
    """
    out: list[Label] = []
    i = j = 0
    while i < len(before) or j < len(after):
        if i < len(before) and j < len(after) and before[i] == after[j]:
            out.append(labels[i])
            i, j = i + 1, j + 1
        elif i < len(before) and before[i] == 1:
            i += 1
        elif j < len(after) and after[j] == 1:
            out.append(None)
            j += 1
        else:
            run = _run(before[i:], after[j:])
            if run is None:
                return None
            these = slice(i, i + run[0])
            named = _named(labels[these], before[these], after[j : j + run[1]])
            if named is None:
                return None
            out += named
            i, j = i + run[0], j + run[1]
    return tuple(out)


def _run(before: Sequence[Any], after: Sequence[Any]) -> tuple[int, int] | None:
    """How many of the first axes on either side hold equally many entries."""
    if not before or not after:
        return None
    i = j = 1
    left, right = before[0], after[0]
    while left != right:
        # Sizes that are symbols have no order.
        if not isinstance(left, int) or not isinstance(right, int) or 0 in (left, right):
            return None
        if left < right:
            if i == len(before):
                return None
            left, i = left * before[i], i + 1
        else:
            if j == len(after):
                return None
            right, j = right * after[j], j + 1
    return i, j


def _named(labels: Labels, before: Sequence[Any], after: Sequence[Any]) -> list[Label] | None:
    """Labels of one run of axes that became another."""
    if len(labels) == 1:
        (label,) = labels
        sizes = tuple([n for n in after if n != 1])
        parts: Iterator[Label]
        if isinstance(label, Joined):
            parts = iter(label.axes if sizes == label.sizes else ())
        elif isinstance(label, int):
            parts = iter([Part(label, i, sizes) for i in range(len(sizes))])
        else:
            return None
        named: list[Label] = [None if n == 1 else next(parts, None) for n in after]
        return named if named.count(None) == len(after) - len(sizes) else None
    several = [label for label, n in zip(labels, before, strict=True) if n != 1]
    if len(after) != 1:
        return None
    joined = _joined(several, tuple([n for n in before if n != 1]))
    return None if joined is None else [joined]


def _joined(labels: Sequence[Label], sizes: tuple[Any, ...]) -> Label:
    """The label of axes that become one; ``None`` where they have none together."""
    axes = tuple([label for label in labels if isinstance(label, int)])
    if len(axes) == len(labels):
        return Joined(axes, sizes)
    first = labels[0]
    if not isinstance(first, Part):
        return None
    whole = [Part(first.axis, i, first.sizes) for i in range(len(first.sizes))]
    return first.axis if list(labels) == whole else None
