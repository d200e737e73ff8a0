"""Axes that a reshape cut into several, or put together again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

__all__ = ["Label", "Labels", "Part", "inverse", "regrouped"]


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


Label = int | Part | None
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
            named = None if run is None else _named(labels[i : i + run[0]], after[j : j + run[1]])
            if run is None or named is None:
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


def _named(labels: Labels, after: Sequence[Any]) -> list[Label] | None:
    """Labels of one run of axes that became another."""
    if len(labels) == 1:
        (label,) = labels
        if not isinstance(label, int):
            return None
        sizes = tuple([n for n in after if n != 1])
        parts = iter([Part(label, i, sizes) for i in range(len(sizes))])
        return [None if n == 1 else next(parts) for n in after]
    parts = [label for label in labels if label is not None]
    first = parts[0]
    if len(after) != 1 or not isinstance(first, Part):
        return None
    whole = [Part(first.axis, i, first.sizes) for i in range(len(first.sizes))]
    return [first.axis] if parts == whole else None
