"""Where the weights of linear ops and embeddings come from, through bodies and what moves them."""

from __future__ import annotations

import fnmatch
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax.numpy as jnp

from jaxpress.capture import Graph, Literal, Node, PassError, Value
from jaxpress.capture.edit import Editor
from jaxpress.passes.derivatives import runs_backwards, runs_forwards
from jaxpress.passes.known import LOOPS_AND_BRANCHES, BodyInput, body_inputs
from jaxpress.passes.opened import composites, is_part_of
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
_LINEAR = frozenset({"dense", "conv", "einsum_dense", "attend", "embedding"})
_PRODUCTS = WEIGHTS.keys() | {"dot_general", "conv_general_dilated", "scatter-add", "scatter_add"}

Where = str | Callable[[Node], Any] | Iterable[Any] | None


def chooser(where: Where) -> Callable[[Node, str], bool]:
    """What ``insert_weight_masks`` takes as ``where``, as a predicate of a node and a name."""
    if where is None:
        return lambda node, name: True
    if isinstance(where, str):
        whole = where in composites()
        return lambda node, name: (
            node.op == where
            or any(fnmatch.fnmatchcase(s, where) for s in (node.scope, name))
            or (whole and is_part_of(node, where))
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
        self.backwards: bool = parent is not None and node is not None and parent.is_backwards(node)
        self.forwards: bool = parent is not None and node is not None and parent.is_forwards(node)
        self.transforms: str = (
            "" if parent is None or node is None else (f"{parent.transforms}/{node.scope}")
        )
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

    def is_backwards(self, node: Node) -> bool:
        """Whether a node of this body is part of a gradient."""
        return self.backwards or runs_backwards(node)

    def is_forwards(self, node: Node) -> bool:
        """Whether a node of this body is part of something that is differentiated."""
        return self.forwards or runs_forwards(node)

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
      shapes: those that their gradients have, in a sorted order.
      gradients: products in a gradient that may be that of a chosen weight, or with its tangent.
    """

    def __init__(self) -> None:
        self.nodes: dict[Node, tuple[str, ...]] = {}
        self.names: dict[Value, str] = {}
        self.partly: list[tuple[Node, str]] = []
        self.gradients: list[Node] = []
        self.shapes: set[tuple[Any, ...]] = set()


def find_sites(graph: Graph, chosen: Callable[[Node, str], bool]) -> Sites:
    """The nodes with floating-point weights that ``chosen`` chooses, those in bodies included.

    In a gradient, these are the products with weights that are chosen before it; cotangents and
    activations are nobody's weights.
    """
    sites = Sites()
    taken: dict[str, Value] = {}
    forwards: list[tuple[Scope, Node]] = []

    def visit(scope: Scope) -> None:
        for node in scope.editor.nodes():
            for child in children_of(scope, node):
                visit(child)
            if scope.is_forwards(node) and node.op in _PRODUCTS:
                forwards.append((scope, node))
            if scope.is_backwards(node) and node.op in _PRODUCTS and look_back(scope, node):
                sites.gradients.append(node)
                continue
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
            if scope.is_backwards(node) and base not in sites.names:
                return False  # cotangents and activations
            name = sites.names.get(base) or _name_of(home, base, node, operand, taken)
            if chosen(node, name):
                taken[name], sites.names[base], some = base, name, True
                # In a loop's body there is a row of them, or a part.
                shapes = (base.shape, base.shape[1:], w.shape)
                sites.shapes.update(map(sorted_shape, shapes))
            else:
                all_of_them = False
        if some and not all_of_them:
            sites.partly.append((node, operand))
        return some

    def look_back(scope: Scope, node: Node) -> bool:
        """Whether a product in a gradient may be that of a chosen weight, or have its own."""
        bases = {b: s for v in scope.editor.inputs(node) for b, s in scope.origins(v).items()}
        if any(base in sites.names for base in bases):
            return False
        made = sorted_shape(node.outputs[0].shape)
        # One for each of several results has axes more.
        many = "vmap(" in node.scope or "vmap(" in scope.transforms
        if made in sites.shapes or (many and any(_holds(made, s) for s in sites.shapes)):
            return True
        # What comes from outside and is in no product before may be data, or weights.
        return any(
            home.editor.producer(base) is None and chosen(node, base.name)
            for base, home in bases.items()
            if not isinstance(base, Literal)
        )

    visit(Scope(graph))
    if not any(scope.is_backwards(node) for scope, node in forwards):
        sites.gradients.extend(_with_tangents(forwards, sites))
    return sites


def _with_tangents(products: list[tuple[Scope, Node]], sites: Sites) -> list[Node]:
    """Products with what may be the tangent of a chosen weight, where JAX ran forwards only.

    The tangent of ``x @ w`` is ``x @ dw + dx @ w``, on the same line. Another weight there is told
    apart from ``dw`` by the tangent of its own data, with which it is multiplied as well.
    """
    lines: dict[Any, list[tuple[Node, dict[Value, frozenset[Value]]]]] = {}
    for scope, node in products:
        roots = {v: frozenset(scope.origins(v)) for v in scope.editor.inputs(node)}
        lines.setdefault(node.source, []).append((node, roots))
    found = []
    for line in lines.values():
        uses = Counter(v for _, roots in line for v in roots)
        for chosen, own in line:
            if chosen not in sites.nodes:
                continue
            if chosen.op not in _LINEAR:
                found.append(chosen)  # its tangent is made of too much
                continue
            known = frozenset().union(*own.values())
            weights = known.intersection(sites.names)
            for node, roots in line:
                rest = [v for v, r in roots.items() if not r & known]
                same = any(r & weights for r in roots.values())
                if rest and not same and max(uses[v] for v in rest) == 1:
                    found.append(node)
    return found


def sorted_shape(shape: Iterable[Any]) -> tuple[Any, ...]:
    """A shape in whatever order its axes stand; axes of size 1 play no part."""
    return tuple(sorted((n for n in shape if n != 1), key=str))


def _holds(shape: tuple[Any, ...], part: tuple[Any, ...]) -> bool:
    """Whether a sorted shape has all axes of another one."""
    return not Counter(part) - Counter(shape)


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
