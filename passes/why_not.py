"""Why a rule does not apply: the nearest miss."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from jaxpress.capture import Graph, Node, PassError
from jaxpress.capture.edit import Editor
from jaxpress.capture.template import inline_calls
from jaxpress.passes.pattern_base import State

if TYPE_CHECKING:
    from jaxpress.passes.rule import Rule

__all__ = ["WhyNot", "nearest"]

# A part of a pattern is shown by what it starts with.
_LONGEST = 60


class WhyNot:
    """Why a rule does not apply at a node: the nearest miss.

    Prints as a sentence; false where the rule does apply.

    Attributes:
      rule: the rule's name.
      node: the node that was asked about, or where the pattern came nearest; ``None`` if the graph
        has no operation that the rule could start at.
      reason: which condition failed; empty where the rule does apply.
      at: the node where it failed, if it was another one.
      part: the part of the pattern that did not fit, as an expression; empty where it is a guard
        that refused, or the pattern is a program.
    """

    def __init__(
        self,
        rule: str,
        node: Node | None,
        reason: str,
        at: Node | None = None,
        part: Any = None,
    ):
        self.rule = rule
        self.node = node
        self.reason = reason
        self.at = at
        text = "" if part is None else str(part)
        self.part = text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."

    def __bool__(self) -> bool:
        return bool(self.reason)

    def __str__(self) -> str:
        if not self.reason:
            return f"{self.rule} applies to {self.node!r}"
        place = self.at or self.node
        to = "" if self.node is None else f" to {self.node!r}"
        line = "" if place is None else f"  # {place.source or 'no source line'}"
        part = f" (at {self.part} of the pattern)" if self.part else ""
        return f"{self.rule} does not apply{to}: {self.reason}{part}{line}"

    __repr__ = __str__


def nearest(rule: Rule, graph: Graph, node: Node | None) -> WhyNot:
    """What ``rule.why_not(graph, node)`` gives."""
    if not isinstance(graph, Graph):
        raise PassError(f"why_not takes a Graph, got {graph!r:.60}; jaxpress.trace makes one")
    wanted = ", ".join(sorted(rule.names))
    if node is not None:
        holder = next((body for body in _bodies(graph) if node in body.nodes), None)
        if holder is None:
            raise PassError(f"{node!r} is not in the graph {graph.name!r}")
        if node.op not in rule.names:
            return WhyNot(rule.name, node, f"it starts at {wanted}, not at {node.op}")
        found = _at(rule, Editor(holder), node)
        if found[1]:
            # As the engine does, look into the calls around it too.
            flat = inline_calls(holder)
            same = flat.producer(node.output) if flat is not holder else None
            if same is not None:
                found = max(found, _at(rule, Editor(flat), same), key=_nearness)
        return found[1]
    best: tuple[Any, WhyNot] | None = None
    for body in _bodies(graph):
        flat = inline_calls(body)
        editor = Editor(flat)
        for candidate in flat.nodes:
            if candidate.op in rule.names:
                found = _at(rule, editor, candidate)
                if not found[1]:
                    return found[1]
                if best is None or found[0] > best[0]:
                    best = found
    if best is None:
        return WhyNot(rule.name, None, f"it starts at {wanted}, and there is none")
    return best[1]


def _nearness(found: tuple[Any, WhyNot]) -> Any:
    return (not found[1], found[0])


def _at(rule: Rule, editor: Editor, node: Node) -> tuple[Any, WhyNot]:
    state = State(editor, explain=True)
    if rule.match(editor, node, state) is not None:
        return (), WhyNot(rule.name, node, "")
    nearness, reason, at = state.miss
    return nearness, WhyNot(rule.name, node, reason, at, state.missed_part)


def _bodies(graph: Graph) -> Iterator[Graph]:
    """The graph and all bodies in it, each once."""
    seen: set[int] = set()
    stack = [graph]
    while stack:
        body = stack.pop()
        if id(body) in seen:
            continue
        seen.add(id(body))
        yield body
        for node in body.nodes:
            stack.extend(node.subgraphs)
