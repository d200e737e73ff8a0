"""Where the weights of linear ops and embeddings come from, through bodies and what moves them."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax.numpy as jnp

from jaxpress.capture import Graph, Node, PassError, Value
from jaxpress.capture.edit import Editor
from jaxpress.passes.known import LOOPS_AND_BRANCHES, BodyInput, body_inputs
from jaxpress.passes.rules.weights import operands_of

__all__ = [
    "MOVES",
    "WAYS",
    "WEIGHTS",
    "Scope",
    "Sites",
    "Where",
    "children_of",
    "chooser",
    "find_sites",
]

# Which operands hold the weights.
WEIGHTS = {
    **dict.fromkeys(("dense", "conv", "einsum_dense", "attend"), ("w",)),
    "embedding": ("table",),
    **{f"{op}{step}": ("w_ih", "w_hh") for op in ("lstm", "gru", "rnn") for step in ("", "_cell")},
}

# A mask goes the way that its weights go.
MOVES = frozenset(
    {"reshape", "squeeze", "expand_dims", "transpose", "copy", "slice", "rev", "broadcast_in_dim"}
    | {"split"}
)
WAYS = MOVES | {"convert_element_type", "neg"}
JOIN = "concatenate"

Where = str | Callable[[Node], Any] | Iterable[Any] | None


def chooser(where: Where) -> Callable[[Node, str], bool]:
    """What ``insert_weight_masks`` takes as ``where``, as a predicate of a node and a name."""
    if where is None:
        return lambda node, name: True
    if isinstance(where, str):
        return lambda node, name: (
            node.op == where or any(fnmatch.fnmatchcase(s, where) for s in (node.scope, name))
        )
    if callable(where):
        return lambda node, name: bool(where(node))
    if not isinstance(where, Iterable):
        raise PassError(f"where is {where!r}; give a name, a pattern or a predicate")
    several = [chooser(part) for part in where]
    return lambda node, name: any(chooser(node, name) for chooser in several)


class Scope:
    """A graph that is looked at or edited, and what its inputs are given if it is a body."""

    def __init__(
        self,
        graph: Graph,
        parent: Scope | None = None,
        node: Node | None = None,
        sources: Iterable[BodyInput] = (),
    ):
        self.editor = Editor(graph)
        self.parent = parent
        self.given: dict[Value, tuple[str, Value]] = {}
        if parent is not None and node is not None:
            operands = parent.editor.inputs(node)
            self.given = {
                v: (s.kind, operands[s.operand])
                for v, s in zip(graph.inputs, sources, strict=True)
                if s.kind != "carry"
            }
        # Masks, or other values from outside, that this body needs as further inputs: what they
        # stand for, with whether it is one row of that.
        self.needed: dict[tuple[str, Value], Value] = {}

    def origins(self, value: Value) -> dict[Value, Scope]:
        """What ``value`` was moved and joined from: arguments, constants, or results of others."""
        found: dict[Value, Scope] = {}
        stack: list[tuple[Scope, Value]] = [(self, value)]
        seen: set[Value] = set()
        while stack:
            scope, value = stack.pop()
            if value in seen:
                continue
            seen.add(value)
            inputs = scope.sources(value)
            if inputs:
                stack.extend((scope, v) for v in reversed(inputs))
            elif value in scope.given and scope.parent is not None:
                stack.append((scope.parent, scope.given[value][1]))
            else:
                found[value] = scope
        return found

    def sources(self, value: Value) -> tuple[Value, ...]:
        """What ``value`` is moved or joined from in this very body."""
        node = self.editor.producer(value)
        if node is None:
            return ()
        inputs = self.editor.inputs(node)
        moved = node.op in WAYS and len(inputs) == 1
        return inputs if moved or node.op == JOIN else ()


class Sites:
    """The chosen nodes, and the names of what their weights come from.

    Attributes:
      nodes: the chosen operands of each.
      names: of what these are moved and joined from.
      partly: those operands of which only some parts are chosen.
    """

    def __init__(self) -> None:
        self.nodes: dict[Node, tuple[str, ...]] = {}
        self.names: dict[Value, str] = {}
        self.partly: list[tuple[Node, str]] = []


def find_sites(graph: Graph, chosen: Callable[[Node, str], bool]) -> Sites:
    """The nodes with floating-point weights that ``chosen`` chooses, those in bodies included."""
    sites = Sites()
    taken: dict[str, Value] = {}

    def visit(scope: Scope) -> None:
        for node in scope.editor.nodes():
            for child in children_of(scope, node):
                visit(child)
            if node.op not in WEIGHTS:
                continue
            operands = operands_of(scope.editor, node)
            here = [name for name in WEIGHTS[node.op] if name in operands]
            found = {name: look(scope, node, name, operands[name]) for name in here}
            if any(found.values()):
                sites.nodes[node] = tuple(name for name in here if found[name])

    def look(scope: Scope, node: Node, operand: str, w: Value) -> bool:
        """Whether some of an operand's parts are chosen."""
        all_of_them, some = True, False
        for base, home in scope.origins(w).items():
            if base.dtype is None or not jnp.issubdtype(base.dtype, jnp.inexact):
                continue
            name = sites.names.get(base) or _name_of(home, base, node, operand, taken)
            if chosen(node, name):
                taken[name], sites.names[base], some = base, name, True
            else:
                all_of_them = False
        if some and not all_of_them:
            sites.partly.append((node, operand))
        return some

    visit(Scope(graph))
    return sites


def children_of(scope: Scope, node: Node) -> list[Scope]:
    """The bodies of a loop, branch or ``remat``; others are never looked into."""
    if node._bodies is None or node.op not in LOOPS_AND_BRANCHES:
        return []
    return [
        Scope(body, scope, node, sources)
        for body, sources in zip(node.subgraphs, body_inputs(node), strict=True)
    ]


def _name_of(home: Scope, base: Value, node: Node, operand: str, taken: Mapping[str, Value]) -> str:
    """An argument's own name; for others the scope in which they are used."""
    is_argument = home.parent is None and base in home.editor.graph.inputs
    name = base.name if is_argument or not node.scope else f"{node.scope}/{operand}"
    unique, n = name, 2
    while unique in taken and taken[unique] is not base:
        unique, n = f"{name}#{n}", n + 1
    return unique
