"""How much of a graph is shown: which groups are opened, and what is folded.

The first of these that fits on the page is taken:

1. everything;
2. everything, with chains of cheap operations folded;
3. the same, with equal blocks in a row folded into one;
4. the same, opened as deep as fits, with long stretches cut into pieces.
"""

from __future__ import annotations

import dataclasses

from jaxpress.capture.graph import Graph
from jaxpress.viz.fold import Keys, fold_chains, fold_repeats, split_long
from jaxpress.viz.parts import Part, parts_of_site
from jaxpress.viz.site import Site

__all__ = ["DEFAULT_BOXES", "MAX_BOXES", "Plan", "make_plan"]

DEFAULT_BOXES = 80  # what a page holds, and an eye
MAX_BOXES = 1000  # what a layout engine does within seconds, for a depth that is asked for

_PLAIN, _CHAINS, _REPEATS, _SPLIT = range(4)


@dataclasses.dataclass(eq=False)
class Plan:
    """The parts of a graph, and how deep to open them.

    Attributes:
      root: the whole graph.
      limit: how many boxes there may be.
      level: which of the foldings are in force.
      depth: how many levels of groups are open.
    """

    root: Part
    limit: int
    keys: Keys
    level: int = _PLAIN
    depth: int = 0

    def children(self, part: Part) -> list[Part]:
        """The parts inside ``part`` that are shown if it is open."""
        if self.level not in part.reduced:
            part.reduced[self.level] = self._reduce(part)
        return part.reduced[self.level]

    def _reduce(self, part: Part) -> list[Part]:
        parts = part.children()
        while part is self.root and len(parts) == 1 and parts[0].kind == "scope":
            # All of it lies in one scope, which needs no frame around the page.
            parts = parts[0].children()
        if part.kind != "control":
            if self.level >= _CHAINS:
                parts = fold_chains(parts)
            if self.level >= _REPEATS and part.kind != "repeat":
                parts = fold_repeats(parts, self.keys)
            if self.level >= _SPLIT:
                parts = split_long(parts, self.limit)
        return [self._unwrap(p) for p in parts]

    def _unwrap(self, part: Part) -> Part:
        """A scope that holds one thing alone is written on it, and needs no frame."""
        captions = []
        while part.kind == "scope" and len(inner := self.children(part)) == 1:
            captions += [part.name, inner[0].caption]
            part = inner[0]
        captions = [c for c in captions if c]
        return dataclasses.replace(part, caption="/".join(captions)) if captions else part

    def boxes(self, part: Part, depth: int, limit: int) -> int:
        """How many boxes ``part`` takes when ``depth`` levels are open; counting ends at limit."""
        if depth <= 0 or not part.opens:
            return 1
        total = 0
        for child in self.children(part):
            total += self.boxes(child, depth - 1, limit - total)
            if total > limit:
                break
        return max(total, 1)

    def _full_depth(self) -> int:
        """The least depth at which everything is open, or more than fits is shown."""
        depth, before = 1, self.boxes(self.root, 1, self.limit)
        while before <= self.limit:
            if not self._closed_at(self.root, depth):
                return depth
            depth += 1
            before = self.boxes(self.root, depth, self.limit)
        return depth

    def _closed_at(self, part: Part, depth: int) -> bool:
        """Whether a group is still closed when ``depth`` levels are open."""
        if not part.opens:
            return False
        return depth <= 0 or any(self._closed_at(c, depth - 1) for c in self.children(part))


def make_plan(
    graph: Graph,
    *,
    depth: int | None = None,
    max_nodes: int | None = None,
    weights: frozenset[str] | None = None,
    folded: bool = False,
) -> Plan:
    """Decide what a picture of ``graph`` shows.

    Args:
      graph: a function's graph.
      depth: how many levels of groups to open; ``None`` to open as many as fit.
      max_nodes: how many boxes fit; ``None`` for a page's worth, or for what can be laid out
        where ``depth`` is given.
      weights: names of the arguments that are weights; ``None`` to tell by names and use.
      folded: whether to fold what can be folded even where everything would fit.
    """
    site = Site(graph, weight_names=weights, top=True)
    root = Part("scope", graph.name, site, graph.nodes, make=lambda: parts_of_site(site))
    limit = max_nodes or (DEFAULT_BOXES if depth is None else MAX_BOXES)
    plan = Plan(root, limit, Keys())
    for level in (_REPEATS, _SPLIT) if folded else (_PLAIN, _CHAINS, _REPEATS, _SPLIT):
        plan.level = level
        plan.depth = plan._full_depth() if depth is None else depth
        if plan.boxes(root, plan.depth, limit) <= limit:
            return plan
    # One level of the last kind fits, up to what a control node's bodies add.
    while plan.depth > 0 and plan.boxes(root, plan.depth, limit) > limit:
        plan.depth -= 1
    return plan
