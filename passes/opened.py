"""Ops that were made of other ops: which parts they have become, and what to call these."""

from __future__ import annotations

from collections.abc import Iterable

from jaxpress import nnops
from jaxpress.capture import Graph, Node

__all__ = ["composites", "is_part_of", "parts_hint"]


def composites() -> frozenset[str]:
    """The ops of which no node is left once a graph is raised."""
    return frozenset(name for name, op in nnops.registry().items() if op.made_of_ops)


def opened_into(node: Node) -> set[str]:
    """The composites that a node was made from, however many rewrites ago."""
    found: set[str] = set()
    names = composites()
    seen = {node}
    stack = [node]
    while stack:
        for old in stack.pop().origin:
            if old.op in names:
                found.add(old.op)
            elif old not in seen:
                seen.add(old)
                stack.append(old)
    return found


def is_part_of(node: Node, composite: str) -> bool:
    """Whether a node was made from an op of this name, one of ``composites()``."""
    return composite in opened_into(node)


def parts_hint(graph: Graph, ops: Iterable[str]) -> str:
    """For a message: the composites that were in a graph, and those of their parts to choose from.

    Args:
      graph: a raised graph.
      ops: the named ops that can be chosen.
    """
    parts: dict[str, set[str]] = {}
    wanted = frozenset(ops)
    for node in graph.walk():
        if node.op in wanted:
            for name in opened_into(node):
                parts.setdefault(name, set()).add(node.op)
    return "".join(
        f"; {name} has become its parts: choose {' or '.join(map(repr, (name, *sorted(found))))}"
        for name, found in sorted(parts.items())
    )
