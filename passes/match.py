"""Where a rule applies: what a pattern covers and captures there, and what forbids the rewrite."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from jaxpress.capture import Node, Value
from jaxpress.capture.edit import Editor
from jaxpress.capture.order import makers_after
from jaxpress.passes.pattern_base import State
from jaxpress.passes.view import View

__all__ = ["MadeOnce", "Match", "inner_values_are_private", "is_replaceable", "is_whole"]


class MadeOnce:
    """A base for what a match hands to its replacement, made anew for each match.

    A trace that is remembered by it would never be found again: it has no hash.
    """

    __hash__ = None  # type: ignore[assignment]


class Match:
    """A place where a rule applies.

    Attributes:
      root: the node that the rule starts at.
      outputs: the values that are replaced: the root's results, or, for a pattern of several
        results, one value for each of them.
      values: captured values by name; ``match["x"]`` reads one.
      lists: captured values of repeated operands by name.
      nodes: captured nodes by name.
      matched: every node that the pattern covers, the root first.
      info: hashable facts that a programmed pattern found, such as an axis.
      like: whose line and scope the new nodes take: the root's, unless what is made of it is
        rather one of the others, as a convolution is that takes in an activation.
    """

    __slots__ = ("info", "like", "lists", "matched", "nodes", "outputs", "root", "values", "view")

    def __init__(
        self,
        view: View,
        root: Node,
        values: dict[str, Value],
        nodes: dict[str, Node] | None = None,
        matched: Iterable[Node] = (),
        info: dict[str, Any] | None = None,
        *,
        outputs: Iterable[Value] | None = None,
        lists: dict[str, tuple[Value, ...]] | None = None,
        like: Node | None = None,
    ):
        self.view = view
        self.root = root
        self.outputs = root.outputs if outputs is None else tuple(outputs)
        self.values = values
        self.lists = lists or {}
        self.nodes = nodes or {}
        self.matched = tuple(dict.fromkeys((root, *matched)))
        self.info = info or {}
        self.like = root if like is None else like

    def __getitem__(self, name: str) -> Value:
        return self.values[name]

    def get(self, name: str) -> Value | None:
        """A captured value that may be missing."""
        return self.values.get(name)

    def operands(self) -> Iterator[Value]:
        """Every captured value."""
        yield from self.values.values()
        for several in self.lists.values():
            yield from several

    def makers(self) -> list[Node]:
        """The nodes that make what is replaced, each once, the root first."""
        if self.outputs is self.root.outputs:
            return [self.root]
        made = (self.view.producer(v) for v in self.outputs)
        return list(dict.fromkeys(node for node in (self.root, *made) if node is not None))


def is_whole(node: Node, state: State) -> bool:
    """Whether the results of a node are those that its op has outside of a derivative.

    Patterns and replacements know these alone; see ``jaxpress.nnops.keeping``.
    """
    if "keeps" in node.params:
        return state.fail(lambda: f"a derivative needs further results of {node.op}", node)
    return True


def is_replaceable(match: Match, state: State) -> bool:
    """Whether all that is needed of the nodes that are replaced is given another value."""
    makers = match.makers()
    for node in makers:
        if node.effects:
            return state.fail(lambda node=node: f"{node.op} has an effect", node, complete=True)
        if match.outputs is match.root.outputs:
            continue
        for v in node.outputs:
            if match.view.use_count(v) and not any(v is out for out in match.outputs):
                return state.fail(
                    lambda v=v: f"{v!r} is used, and not replaced", node, complete=True
                )
    if len(makers) == 1:
        return True
    editor = match.view
    if not isinstance(editor, Editor):
        return state.fail("several results are replaced in a graph that is being edited only")
    anchor = min(makers, key=editor.order.__getitem__)
    if makers_after(editor, match.operands(), anchor, makers) is None:
        reason = "one of its results is needed for what another is made from"
        return state.fail(reason, anchor, complete=True)
    return True


def inner_values_are_private(match: Match, state: State) -> bool:
    """Whether no value that the rewrite swallows is needed elsewhere.

    Values that depend on weights alone do not count: computing them again costs nothing per call.
    """
    view, covered = match.view, set(match.matched)
    for node in match.matched:
        if node is match.root:
            continue
        for v in node.outputs:
            if view.is_known(v) or any(v is out for out in match.outputs):
                continue
            others = [user for user in view.users(v) if user not in covered]
            if others or view.is_output(v):
                who = others[0].op if others else "an output"
                state.fail(
                    lambda v=v, who=who: f"{v!r} is used by {who} as well", node, complete=True
                )
                return False
    return True
