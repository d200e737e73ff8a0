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

# Which operand holds the weights.
WEIGHTS = {"dense": "w", "conv": "w", "einsum_dense": "w", "attend": "w", "embedding": "table"}

# A mask goes the way that its weights go.
MOVES = frozenset(
    {"reshape", "squeeze", "expand_dims", "transpose", "copy", "slice", "rev", "broadcast_in_dim"}
)
WAYS = MOVES | {"convert_element_type"}

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

    def origin(self, value: Value) -> tuple[Scope, Value]:
        """Where ``value`` comes from if it was only moved: an argument, a constant, or a result."""
        scope: Scope = self
        while True:
            node = scope.editor.producer(value)
            if node is not None and node.op in WAYS and len(scope.editor.inputs(node)) == 1:
                value = scope.editor.inputs(node)[0]
            elif value in scope.given and scope.parent is not None:
                value, scope = scope.given[value][1], scope.parent
            else:
                return scope, value


class Sites:
    """The chosen nodes, and the names of what their weights come from."""

    def __init__(self) -> None:
        self.nodes: set[Node] = set()
        self.names: dict[Value, str] = {}


def find_sites(graph: Graph, chosen: Callable[[Node, str], bool]) -> Sites:
    """The nodes with floating-point weights that ``chosen`` chooses, those in bodies included."""
    sites = Sites()
    taken: dict[str, Value] = {}

    def visit(scope: Scope) -> None:
        for node in scope.editor.nodes():
            for child in children_of(scope, node):
                visit(child)
            operand = WEIGHTS.get(node.op)
            if operand is None:
                continue
            home, base = scope.origin(operands_of(scope.editor, node)[operand])
            name = sites.names.get(base) or _name_of(home, base, node, operand, taken)
            if base.dtype is None or not jnp.issubdtype(base.dtype, jnp.inexact):
                continue
            if chosen(node, name):
                taken[name] = base
                sites.names[base] = name
                sites.nodes.add(node)

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
