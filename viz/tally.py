"""How many operations of each kind a group holds, as a reader would count them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from jaxpress.capture.graph import Graph, Node
from jaxpress.viz.labels import call_name
from jaxpress.viz.parts import is_small_call
from jaxpress.viz.site import Site

__all__ = ["Tally", "with_inline"]

_RUNS_MORE = ("scan", "while", "cond")


class Tally:
    """Counts operations; a body that many nodes share is looked at once.

    A call is not counted but what it runs is, and a small function such as an activation counts
    as one operation of its name. So the numbers are those of boxes, were all of them drawn.
    """

    def __init__(self) -> None:
        self._graphs: dict[Graph, Counter[str]] = {}

    def nodes(self, nodes: Iterable[Node]) -> Counter[str]:
        """How often each operation occurs in ``nodes`` and their bodies."""
        counts: Counter[str] = Counter()
        for node in nodes:
            bodies = node.subgraphs
            if bodies and is_small_call(node):
                counts[call_name(node)] += 1
                continue
            if not bodies or node.op in _RUNS_MORE:
                counts[node.op] += 1
            for body in bodies:
                counts.update(self.graph(body))
        return counts

    def graph(self, graph: Graph) -> Counter[str]:
        """How often each operation occurs in a graph and the bodies in it."""
        if graph not in self._graphs:
            self._graphs[graph] = self.nodes(graph.nodes)
        return self._graphs[graph]


def with_inline(site: Site, nodes: Sequence[Node]) -> list[Node]:
    """``nodes``, and those that are written into them because they only touch weights."""
    found = dict.fromkeys(nodes)
    waiting = list(nodes)
    while waiting:
        for value in waiting.pop().inputs:
            producer = site.graph.producer(value)
            if producer is not None and producer not in found and site.is_inline(producer):
                found[producer] = None
                waiting.append(producer)
    return list(found)
