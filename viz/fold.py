"""Fewer boxes for the same story: chains, repeated blocks and runs of a source line.

Each function takes the parts of one group, in order, and gives a shorter list of parts that
covers the same nodes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import groupby
from typing import Any

from jaxpress.capture.graph import Graph, Literal, Node
from jaxpress.capture.provenance import Source
from jaxpress.viz.parts import Part, is_small_call
from jaxpress.viz.scopes import stem
from jaxpress.viz.site import DATA, Site
from jaxpress.viz.style import family_of
from jaxpress.viz.text import clean, param_text

__all__ = ["Keys", "fold_chains", "fold_repeats", "split_long"]

MIN_CHAIN = 3
MAX_PERIOD = 12
MIN_SAVED = 3
LONG = 100_000  # letters: nothing is cut where two things are compared


def fold_chains(parts: Sequence[Part]) -> list[Part]:
    """Cheap operations that feed only one another become one box.

    A tree of them with one way out is folded, so that the picture stays free of cycles.
    """
    home: dict[Node, int] = {p.node: i for i, p in enumerate(parts) if _is_cheap(p)}
    exits = list(range(len(parts)))
    # Later parts first: where a part's only user ends up is known before the part is looked at.
    for i in range(len(parts) - 1, -1, -1):
        part = parts[i]
        if part.node not in home or home[part.node] != i:
            continue
        graph = part.site.graph
        users = {user for v in part.node.outputs for user in graph.users(v)}
        kept = any(v is out for v in part.node.outputs for out in graph.outputs)
        if len(users) == 1 and not kept:
            target = home.get(next(iter(users)))
            if target is not None:
                exits[i] = exits[target]
    members: dict[int, list[int]] = {}
    for i, last in enumerate(exits):
        members.setdefault(last, []).append(i)
    folded = []
    for i, part in enumerate(parts):
        group = members.get(i)
        if group is None:
            continue
        if len(group) < MIN_CHAIN:
            folded += [parts[j] for j in group]
            continue
        nodes = tuple(parts[j].node for j in group)
        folded.append(Part("chain", f"{len(nodes)} {_what(nodes)}", part.site, nodes))
    return folded


def _what(nodes: Sequence[Node]) -> str:
    moving = [not n.subgraphs and family_of(n.op) == "move" for n in nodes]
    if all(moving):
        return "data movement"
    return "small ops" if any(moving) else "elementwise"


def _is_cheap(part: Part) -> bool:
    if part.kind != "op" or part.node.effects:
        return False
    if part.node.op.startswith(("gather", "scatter")):
        return False  # an embedding's lookup, for instance
    return is_small_call(part.node) or family_of(part.node.op) in ("elementwise", "move")


class Keys:
    """Small numbers that are equal for equal nodes, bodies and parts; one per picture.

    A body that is shared is looked at once.
    """

    def __init__(self) -> None:
        self._numbers: dict[Any, int] = {}
        self._nodes: dict[Node, int] = {}
        self._graphs: dict[Graph, int] = {}

    def _number(self, key: Any) -> int:
        return self._numbers.setdefault(key, len(self._numbers))

    def part(self, part: Part) -> int:
        """What two parts must share before it is worth comparing their wiring."""
        name = stem(part.name) if part.kind != "op" else ""
        return self._number((part.kind, name, part.times, tuple(map(self.node, part.nodes))))

    def node(self, node: Node) -> int:
        """Equal for the same operation on the same shapes, whatever its operands are."""
        if node not in self._nodes:
            bodies = tuple(self.graph(g) for g in node.subgraphs)
            params = tuple(
                (k, param_text(v, LONG)) for k, v in sorted(node.params.items()) if k != "name"
            )
            shapes = tuple((v.shape, str(v.dtype)) for v in (*node.inputs, *node.outputs))
            self._nodes[node] = self._number((node.op, params, shapes, bodies))
        return self._nodes[node]

    def graph(self, graph: Graph) -> int:
        """Equal for bodies that do the same."""
        if graph not in self._graphs:
            place: dict[Any, Any] = {v: i for i, v in enumerate(graph.inputs)}
            for i, node in enumerate(graph.nodes):
                place.update((v, (i, j)) for j, v in enumerate(node.outputs))
            wires = tuple(tuple(place.get(v, v.name) for v in node.inputs) for node in graph.nodes)
            outs = tuple(place.get(v, v.name) for v in graph.outputs)
            nodes = tuple(map(self.node, graph.nodes))
            self._graphs[graph] = self._number((nodes, wires, outs))
        return self._graphs[graph]


def fold_repeats(parts: Sequence[Part], keys: Keys) -> list[Part]:
    """Equal blocks in a row become one block with a count.

    Blocks are equal when their operations, parameters, shapes and inner wiring are, and their
    names differ in numbers alone.
    """
    marks = [keys.part(p) for p in parts]
    folded: list[Part] = []
    i = 0
    while i < len(parts):
        best = (0, 0, 0)
        for period in range(1, min(MAX_PERIOD, (len(parts) - i) // 2) + 1):
            times = 1
            while marks[i + times * period : i + (times + 1) * period] == marks[i : i + period]:
                times += 1
            saved = (times - 1) * sum(map(_weight, parts[i : i + period]))
            if times > 1 and saved > best[0]:
                best = (saved, period, times)
        saved, period, times = best
        if saved >= MIN_SAVED:
            times = _equal_wiring(parts[i:], period, times)
        if saved < MIN_SAVED or times < 2:
            folded.append(parts[i])
            i += 1
            continue
        folded.append(_repeat(parts[i : i + period * times], period, times))
        i += period * times
    return folded


def _weight(part: Part) -> int:
    """What not drawing a part again saves; a group is never small."""
    return max(len(part.nodes), MIN_SAVED) if part.opens else len(part.nodes)


def _repeat(parts: Sequence[Part], period: int, times: int) -> Part:
    first = list(parts[:period])
    blocks = [
        tuple(n for p in parts[k * period : (k + 1) * period] for n in p.nodes)
        for k in range(times)
    ]
    name = ""
    if period == 1 and first[0].kind != "op":
        one, last = first[0].name, parts[-1].name
        name = one if one == last else f"{one} … {last}"
    make: Callable[[], list[Part]] = lambda: first  # noqa: E731
    return Part(
        "repeat", name, first[0].site, blocks[0], times=times, copies=tuple(blocks[1:]), make=make
    )


def _equal_wiring(parts: Sequence[Part], period: int, times: int) -> int:
    """How many of the blocks, from the first on, are wired like the first."""

    def wiring(k: int) -> Any:
        block = parts[k * period : (k + 1) * period]
        return _wiring(block[0].site, [n for p in block for n in p.nodes])

    first = wiring(0)
    for k in range(1, times):
        if wiring(k) != first:
            return k
    return times


def _wiring(site: Site, nodes: Sequence[Node]) -> tuple[Any, ...]:
    place = {v: (i, j) for i, n in enumerate(nodes) for j, v in enumerate(n.outputs)}
    codes = []
    for node in nodes:
        for value in node.inputs:
            kind, text = site.of(value).kind, ""
            if isinstance(value, Literal):
                text = param_text(value.val, LONG)
            codes.append(place.get(value) if kind == DATA and value in place else (kind, text))
    return tuple(codes)


def split_long(parts: list[Part], limit: int) -> list[Part]:
    """At most ``limit`` parts, but at least two: runs of a source line, then runs of any kind.

    Models without scopes (NNX, closures) are split where the user's own lines change.
    """
    for key in (_line, _function):
        if len(parts) <= limit:
            return parts
        runs = [(name, list(run)) for name, run in groupby(parts, key)]
        if 1 < len(runs) < len(parts):
            parts = [_chunk(name, run) for name, run in runs]
    if len(parts) <= limit:
        return parts
    # A tree of even pieces, so that no page of it is longer than the others.
    pieces = max(2, min(limit, math.isqrt(len(parts))))
    size = math.ceil(len(parts) / pieces)
    return [_chunk("", parts[i : i + size]) for i in range(0, len(parts), size)]


def _chunk(name: str, parts: list[Part]) -> Part:
    if len(parts) == 1:
        return parts[0]
    nodes = tuple(n for p in parts for n in p.nodes)
    return Part("chunk", name, parts[0].site, nodes, make=lambda: parts)


def _line(part: Part) -> str:
    source = part.node.source
    return clean(f"{_file(source)}:{source.line} ({_own_name(source)})") if source else ""


def _function(part: Part) -> str:
    source = part.node.source
    return clean(f"{_file(source)} ({_own_name(source)})") if source else ""


def _file(source: Source) -> str:
    return source.file.rpartition("/")[2]


def _own_name(source: Source) -> str:
    """The function's name without those of the functions around it."""
    return source.function.rpartition("<locals>.")[2]
