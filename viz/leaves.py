"""Many arguments or results of one structure share a box."""

from __future__ import annotations

import re
from collections.abc import Sequence

__all__ = ["leaf_groups"]

MAX_LEAVES = 6  # more than these are grouped by the structure they lie in
MAX_PARTS = 12  # a structure of more parts than these is one box

_STEP = re.compile(r"\[[^\]]*\]|\.[A-Za-z_]\w*")


def leaf_groups(names: Sequence[str]) -> list[tuple[str, list[int]]]:
    """Which leaves share a box, as ``(name, positions)`` in order.

    A structure of more than six leaves is split at its first key, and what is still large is
    one box.

    >>> leaf_groups(["x", *(f"state[{i}]" for i in range(9))])
    [('x', [0]), ('state', [1, 2, 3, 4, 5, 6, 7, 8, 9])]
    """
    if len(names) <= MAX_LEAVES:
        return [(name, [i]) for i, name in enumerate(names)]
    paths = [_steps(name) for name in names]
    groups = _split(paths, list(range(len(names))), 1)
    if len(groups) == 1:
        # All of it is one structure: its own parts say more than its name.
        depth = 2
        while len(groups) == 1 and depth <= max(map(len, paths)):
            groups = _split(paths, list(range(len(names))), depth)
            depth += 1
    if len(groups) > MAX_PARTS:
        groups = _split(paths, list(range(len(names))), 1)
    return [("".join(key), held) for key, held in groups.items()]


def _steps(name: str) -> tuple[str, ...]:
    found = list(_STEP.finditer(name))
    if not found or "".join(m.group() for m in found) != name[found[0].start() :]:
        return (name,)
    return (name[: found[0].start()], *(m.group() for m in found))


def _split(
    paths: Sequence[tuple[str, ...]], indices: Sequence[int], depth: int
) -> dict[tuple[str, ...], list[int]]:
    groups: dict[tuple[str, ...], list[int]] = {}
    for i in indices:
        groups.setdefault(paths[i][:depth], []).append(i)
    return groups
