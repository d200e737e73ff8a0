"""Entries taken at regular steps, or each several times, need no ``gather``.

Nearest-neighbour resizing is written with indices that are counted out, and so are many slices. A
gather is slow where a slice or a broadcast is free, and the gradient of one is a scatter.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from jax import lax

from jaxpress.capture import Node
from jaxpress.passes.pattern import State
from jaxpress.passes.rule import Match, Rule, RuleSet
from jaxpress.passes.rules.cleanup_moves import is_plain
from jaxpress.passes.rules.known_indices import counted

__all__ = ["REGULAR_GATHER"]


class _Steps(NamedTuple):
    """Indices ``start, start + step, ...``, ``size`` of them, and each ``times`` times."""

    start: int
    step: int
    size: int
    times: int


def _steps(indices: np.ndarray, size: int) -> _Steps | None:
    """What steps indices go in; ``None`` if in none, or out of the axis."""
    if not indices.size or indices.min() < 0 or indices.max() >= size:
        return None
    changes = np.flatnonzero(np.diff(indices))
    times = int(changes[0]) + 1 if changes.size else indices.size
    if indices.size % times:
        return None
    base = indices[::times]
    step = int(base[1] - base[0]) if base.size > 1 else 1
    if (np.repeat(base[0] + step * np.arange(base.size), times) != indices).any():
        return None
    return _Steps(int(base[0]), step, base.size, times)


class _RegularGatherPattern:
    """A gather whose indices are counted out, and go in equal steps along each axis."""

    names = frozenset({"gather"})
    size = 1

    def find(self, state: State, node: Node) -> Match | None:
        view = state.view
        x, starts = view.inputs(node)[:2]
        numbers, sizes = node.params["dimension_numbers"], tuple(node.params["slice_sizes"])
        taken = tuple(int(a) for a in numbers.start_index_map)
        reason = None
        if view.is_known(x):
            reason = "what it takes from is known before the data"
        elif not is_plain(x, node.output):
            reason = "its sizes are not known, or it is sharded"
        elif tuple(getattr(numbers, "operand_batching_dims", ())):
            reason = "every batch has indices of its own"
        elif sorted(taken) != sorted(numbers.collapsed_slice_dims) or any(
            n != (1 if a in taken else x.shape[a]) for a, n in enumerate(sizes)
        ):
            reason = "it does not take single entries of some axes, and all of the others"
        indices = None if reason else counted(view, starts)
        if indices is None:
            state.fail(reason or "its indices are not counted out by the program", node)
            return None
        found = _along_axes(indices, taken, x.shape)
        if found is None:
            state.fail("its indices do not go in equal steps along axes of their own", node)
            return None
        return Match(view, node, {"x": x}, info={"steps": found[0], "axes": found[1]})


def _along_axes(
    indices: np.ndarray, taken: tuple[int, ...], shape: Any
) -> tuple[dict[int, _Steps], dict[int, int]] | None:
    """The steps along each axis of x, and which axis of the indices each one becomes."""
    batch = indices.shape[:-1]
    varies = []
    for j in range(len(taken)):
        column = indices[..., j]
        along = [a for a in range(len(batch)) if (column != column.take([0], a)).any()]
        if len(along) > 1 or not column.size:
            return None
        varies.append(along[0] if along else None)
    axes: dict[int, int] = {taken[j]: a for j, a in enumerate(varies) if a is not None}
    free = [a for a in range(len(batch)) if a not in axes.values()]
    still = [axis for axis, a in zip(taken, varies, strict=True) if a is None]
    if len(set(axes.values())) < len(axes) or len(free) > len(still):
        return None
    # Along an axis where no index changes the same entries come again.
    axes |= dict(zip(still, free, strict=False))
    steps = {}
    for j, axis in enumerate(taken):
        along = axes.get(axis)
        where = tuple(slice(None) if a == along else 0 for a in range(len(batch)))
        found = _steps(np.atleast_1d(indices[(*where, j)]).astype(np.int64), shape[axis])
        if found is None:
            return None
        steps[axis] = found
    return steps, axes


def _take(x: Any, axis: int, steps: _Steps) -> Any:
    start, step, size, times = steps
    last = start + step * (size - 1)
    if (start, step, size) != (0, 1, x.shape[axis]):
        x = lax.slice_in_dim(x, min(start, last), max(start, last) + 1, abs(step), axis)
    if step < 0:
        x = lax.rev(x, (axis,))
    if times == 1:
        return x
    split = (*x.shape[: axis + 1], times, *x.shape[axis + 1 :])
    x = lax.broadcast_in_dim(x, split, [a for a in range(len(split)) if a != axis + 1])
    return lax.reshape(x, (*split[:axis], math.prod(split[axis : axis + 2]), *split[axis + 2 :]))


def _regular(x: Any, *, match: Match) -> Any:
    steps, axes = match.info["steps"], match.info["axes"]
    for axis, one in steps.items():
        x = _take(x, axis, one)
    offset = tuple(int(d) for d in match.root.params["dimension_numbers"].offset_dims)
    ndim = match.root.output.ndim
    batch = [d for d in range(ndim) if d not in offset]
    rows = iter(offset)
    places, gone = [], []
    for axis in range(x.ndim):
        if axis in axes:
            places.append(batch[axes[axis]])
        elif axis in steps:
            gone.append(axis)
        else:
            places.append(next(rows))
    x = lax.squeeze(x, gone) if gone else x
    order = sorted(range(ndim), key=places.__getitem__)
    return x if order == list(range(ndim)) else lax.transpose(x, order)


# x[:, arange(0, n, 2)] -> x[:, ::2]; x[:, [0, 0, 1, 1]] -> repeat(x, 2), as resizing has it
REGULAR_GATHER = RuleSet(
    (Rule("regular_gather", _RegularGatherPattern(), _regular, numerics="reassociates"),)
)
