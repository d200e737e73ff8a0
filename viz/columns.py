"""A long picture is set in columns, like a long text."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

from jaxpress.viz.model import Box, Cluster, Edge, Picture

__all__ = ["box_rows", "split_columns"]

Member = Box | Cluster

LONG = 24  # rows that one column may have
MIN_ROWS = 9  # a column shorter than this is not worth an edge across the page
MAX_COLUMNS = 6
MAX_CROSSING = 4  # edges between two columns that an eye can follow
PAGE = 1.15  # the page's height over its width that is aimed at


def split_columns(picture: Picture) -> list[list[Member]]:
    """The picture's members in one or more columns, in order.

    A frame that does not fit is cut, and its rest says that it continues. An argument moves to
    the column where it is first used.

    Returns:
      The columns; a single one for a picture that is not long.
    """
    boxes = list(picture.boxes())
    rows = box_rows(boxes, picture.edges)
    wanted = _columns_wanted(boxes, rows)
    if wanted < 2:
        return [list(picture.members)]
    starts = _cuts(picture, boxes, rows, wanted)
    if not starts:
        return [list(picture.members)]
    column = {box.id: sum(s <= i for s in starts) for i, box in enumerate(boxes)}
    for box in boxes:
        if box.kind == "input":
            uses = [column[e.target] for e in picture.edges if e.source == box.id]
            column[box.id] = min(uses, default=0)
    return [
        members for c in range(len(starts) + 1) if (members := _only(picture.members, column, c))
    ]


def box_rows(boxes: Sequence[Box], edges: Sequence[Edge]) -> dict[str, int]:
    """The row of each box: one below the lowest box that it takes something from."""
    place = {box.id: i for i, box in enumerate(boxes)}
    rows = dict.fromkeys(place, 0)
    into: dict[str, list[str]] = {}
    for edge in edges:
        if edge.kind == "data" and place[edge.source] < place[edge.target]:
            into.setdefault(edge.target, []).append(edge.source)
    for box in boxes:
        rows[box.id] = 1 + max((rows[s] for s in into.get(box.id, ())), default=-1)
    return rows


def _height(box: Box) -> float:
    return 1.0 + 0.45 * len(box.lines) + 0.4 * bool(box.caption)


def _columns_wanted(boxes: Sequence[Box], rows: dict[str, int]) -> int:
    """How many columns make the page about as high as ``PAGE`` times its width."""
    widths: dict[int, float] = {}
    heights: dict[int, float] = {}
    for box in boxes:
        row = rows[box.id]
        letters = max(map(len, (box.title, box.caption, *box.lines)))
        widths[row] = widths.get(row, 0.0) + 0.8 + 0.16 * letters
        heights[row] = max(heights.get(row, 0.0), _height(box))
    if len(heights) <= LONG:
        return 1
    height = sum(heights.values())
    # Most rows, rather than the widest: a few long rows do not make a wide page.
    width = sorted(widths.values())[int(0.8 * len(widths))]
    wanted = round(math.sqrt(height / (PAGE * width)))
    return max(2, min(wanted, MAX_COLUMNS, len(heights) // MIN_ROWS))


def _cuts(picture: Picture, boxes: Sequence[Box], rows: dict[str, int], columns: int) -> list[int]:
    """Where the second and later columns start, as positions in ``boxes``.

    A cut near an even share is taken where few edges cross and frames stay whole.
    """
    place = {box.id: i for i, box in enumerate(boxes)}
    crossing = [0] * (len(boxes) + 1)
    for edge in picture.edges:
        a, b = sorted((place[edge.source], place[edge.target]))
        if boxes[a].kind != "input":
            for i in range(a + 1, b + 1):
                crossing[i] += 1
    nesting = _nesting(picture)
    height: list[float] = [0.0]
    filled: dict[int, float] = {}
    for box in boxes:
        row = rows[box.id]
        before = filled.get(row, 0.0)
        filled[row] = max(before, _height(box))
        height.append(height[-1] + filled[row] - before)
    share = height[-1] / columns
    starts: list[int] = []
    for c in range(1, columns):

        def cost(i: int, c: int = c) -> tuple[float, int]:
            off = abs(height[i] - c * share) / share
            return 12 * off * off + crossing[i] + 1.5 * nesting[i], i

        near = [
            i
            for i in range(starts[-1] + 2 if starts else 2, len(boxes) - 1)
            if abs(height[i] - c * share) < 0.45 * share
            and crossing[i] <= MAX_CROSSING
            and boxes[i].kind != "output"
        ]
        if near:
            starts.append(min(near, key=cost))
    return starts


def _nesting(picture: Picture) -> list[int]:
    """How many frames a cut before each box would go through."""
    found: list[int] = []

    def walk(members: Sequence[Member], depth: int) -> None:
        for i, member in enumerate(members):
            if isinstance(member, Box):
                found.append(depth if i else max(depth - 1, 0))
            else:
                start = len(found)
                walk(member.members, depth + 1)
                if start < len(found):
                    # Before a frame's first box one is still outside of it.
                    found[start] = depth if i else max(depth - 1, 0)

    walk(picture.members, 0)
    return found


def _only(members: Sequence[Member], column: dict[str, int], wanted: int) -> list[Member]:
    """The members of one column; frames that began in an earlier one say so."""
    kept: list[Member] = []
    for member in members:
        if isinstance(member, Box):
            if column[member.id] == wanted:
                kept.append(member)
            continue
        inner = _only(member.members, column, wanted)
        if not inner:
            continue
        earlier = any(column[b.id] < wanted for b in member.boxes())
        label = f"{member.label} (continued)" if earlier else member.label
        suffix = f"_{wanted}" if earlier else ""
        kept.append(
            dataclasses.replace(member, id=member.id + suffix, label=label, members=tuple(inner))
        )
    return kept
