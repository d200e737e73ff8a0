"""Patterns that lie across the boundary of a call to ``jit``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from jaxpress.capture import Graph, Node
from jaxpress.capture.template import inline_calls, is_plain_call
from jaxpress.passes.record import Rewrite
from jaxpress.passes.rule import RuleSet

__all__ = ["open_calls"]

# A body that many calls share is not spelled out for each of them beyond this.
_MOST_NODES, _MOST_TIMES = 20_000, 8


def open_calls(
    graph: Graph, rules: RuleSet, attempt: Callable[[Graph, RuleSet], list[Rewrite]]
) -> Graph:
    """``graph`` with those calls spelled out whose boundary a rule's match crosses.

    Args:
      graph: the graph.
      rules: what is going to be applied to it.
      attempt: what a sweep would do, without doing it.
    """
    calls = [node for node in graph.nodes if is_plain_call(node)]
    if not calls:
        return graph
    whole, own = _sizes(graph)
    if whole > _MOST_NODES + _MOST_TIMES * own:
        return graph
    owners: dict[Node, Node] = {}
    places: dict[Node, frozenset[Node | None]] = {}
    crossed: set[Node] = set()
    inside: Counter[Node] = Counter()
    for rewrite in attempt(inline_calls(graph, owners=owners), rules):
        met: frozenset[Node | None] = frozenset().union(
            *(places.get(node, {owners.get(node)}) for node in rewrite.before)
        )
        places.update(dict.fromkeys(rewrite.after, met))
        if len(met) > 1:
            crossed.update(call for call in met if call is not None)
        inside.update(call for call in met if call is not None)
    alone: dict[int, int] = {}
    for call, count in inside.items():
        (body,) = call.subgraphs
        if id(body) not in alone:
            alone[id(body)] = len(attempt(inline_calls(body), rules))
        # What is in the body alone, but only for what it is called with, such as a scalar.
        if count > alone[id(body)]:
            crossed.add(call)
    return inline_calls(graph, only=crossed) if crossed else graph


def _sizes(graph: Graph) -> tuple[int, int]:
    """How many nodes there are with all calls spelled out, and how many different ones."""
    memo: dict[int, int] = {}
    own = 0

    def whole(g: Graph) -> int:
        nonlocal own
        if id(g) not in memo:
            memo[id(g)] = 0
            own += len(g.nodes)
            memo[id(g)] = len(g.nodes) + sum(
                whole(node.subgraphs[0]) for node in g.nodes if is_plain_call(node)
            )
        return memo[id(g)]

    return whole(graph), own
