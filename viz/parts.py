"""The parts that a picture is made of: operations in nested groups, built when looked at.

A part is drawn either closed, as one box, or open, as a cluster of its children. Nothing below
a closed part is ever built, so a picture's cost follows what it shows, not what it hides.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import groupby

from jaxpress.capture import compat
from jaxpress.capture.graph import Node
from jaxpress.viz.labels import call_name
from jaxpress.viz.scopes import family_prefixes, split_scope
from jaxpress.viz.site import Binding, Site
from jaxpress.viz.style import family_of
from jaxpress.viz.text import clean

__all__ = ["Part", "body_sites", "is_small_call", "parts_of_site"]

SMALL_CALL = 8


@dataclass(eq=False)
class Part:
    """One operation or one group of them.

    Attributes:
      kind: ``"op"``, ``"scope"``, ``"call"`` (a nested function that runs once), ``"control"``
        (a loop or a branch), ``"body"`` (one body of those), ``"repeat"``, ``"chain"``
        or ``"chunk"``.
      name: what it is called in the picture.
      caption: the scopes around it that hold nothing else.
      site: where its nodes are.
      nodes: the nodes of ``site`` that it covers, in the graph's order.
      times: how many equal blocks it stands for.
      copies: for a repeat, the nodes of the further blocks, each list parallel to ``nodes``.
      make: builds the children; ``None`` for an operation.
      sites: for a call or a control node, the sites of its bodies once built.
    """

    kind: str
    name: str
    site: Site
    nodes: tuple[Node, ...]
    caption: str = ""
    times: int = 1
    copies: tuple[tuple[Node, ...], ...] = ()
    make: Callable[[], list[Part]] | None = None
    sites: tuple[Site, ...] = ()
    reduced: dict[object, list[Part]] = field(default_factory=dict)
    _children: list[Part] | None = None

    @property
    def node(self) -> Node:
        """The one node of an operation, a call or a control part."""
        return self.nodes[0]

    @property
    def opens(self) -> bool:
        """Whether there is anything inside to look at."""
        return self.make is not None

    def children(self) -> list[Part]:
        """What is inside, before any folding."""
        if self._children is None:
            self._children = self.make() if self.make is not None else []
        return self._children


def parts_of_site(site: Site) -> list[Part]:
    """The parts at the top of a whole graph or body."""
    # What is written into other boxes has no part, and does not cut a scope in two.
    nodes = [n for n in site.graph.nodes if not site.is_inline(n)]
    paths = {node: split_scope(node.scope) for node in nodes}
    return _group(site, nodes, paths, 0)


def _group(
    site: Site, nodes: Sequence[Node], paths: dict[Node, tuple[str, ...]], level: int
) -> list[Part]:
    """The parts of ``nodes``, which agree on the first ``level`` components of their paths."""

    def component(node: Node) -> str | None:
        path = paths[node]
        return path[level] if len(path) > level else None

    runs = [(name, list(run)) for name, run in groupby(nodes, component)]
    made = [(name or "", _run(site, name, run, paths, level)) for name, run in runs]
    return _blocks(site, made)


def _blocks(site: Site, made: list[tuple[str, list[Part]]]) -> list[Part]:
    """Siblings whose names say that they are one block become one scope, at every level."""
    parts: list[Part] = []
    blocks = family_prefixes([name for name, _ in made])
    for block, members in groupby(zip(blocks, made, strict=True), lambda pair: pair[0]):
        inner = [named for _, named in members]
        if not block:
            parts += [part for _, found in inner for part in found]
            continue
        covered = tuple(n for _, found in inner for part in found for n in part.nodes)
        parts.append(Part("scope", block, site, covered, make=partial(_blocks, site, inner)))
    return parts


def _run(
    site: Site,
    name: str | None,
    run: list[Node],
    paths: dict[Node, tuple[str, ...]],
    level: int,
) -> list[Part]:
    if name is None:
        return [_single(site, node) for node in run]

    def make() -> list[Part]:
        return _group(site, run, paths, level + 1)

    return [Part("scope", name, site, tuple(run), make=make)]


def _single(site: Site, node: Node) -> Part:
    """An operation, or the group that its bodies make."""
    if not node.subgraphs or is_small_call(node):
        return Part("op", clean(node.op, 40), site, (node,))
    sites = body_sites(site, node)
    if sites is None:
        return Part("op", clean(node.op, 40), site, (node,))
    if len(sites) == 1 and not any(b.role for b in sites[0].bindings.values()):
        make = lambda: parts_of_site(sites[0])  # noqa: E731
        return Part("call", call_name(node), site, (node,), make=make, sites=sites)
    if node.op == "scan":
        name = f"scan × {clean(node.params.get('length', '?'), 12)}"
        if node.params.get("reverse"):
            name += " (reverse)"
        make = lambda: parts_of_site(sites[0])  # noqa: E731
        return Part("control", name, site, (node,), make=make, sites=sites)

    def bodies() -> list[Part]:
        return [
            Part(
                "body",
                _body_name(body.graph.name),
                body,
                tuple(body.graph.nodes),
                make=lambda body=body: parts_of_site(body),
            )
            for body in sites
        ]

    return Part("control", clean(node.op, 40), site, (node,), make=bodies, sites=sites)


def _body_name(where: str) -> str:
    names = {"cond_jaxpr": "condition", "body_jaxpr": "body"}
    return names.get(where) or clean(where.replace("branches[", "branch ").rstrip("]"), 40)


def is_small_call(node: Node) -> bool:
    """Whether a nested function is a few cheap operations, best drawn as one box.

    Activation functions and the like of ``jnp.where`` are.
    """
    bodies = node.subgraphs
    if len(bodies) != 1 or node.op in ("scan", "while", "cond") or not _is_call(node):
        return False
    counts = bodies[0].count()
    kinds = {family_of(op) for op in counts}
    cheap = kinds <= {"elementwise", "move", "activation", "control"}
    loops = {"scan", "while", "cond"} & set(counts)
    return sum(counts.values()) <= SMALL_CALL and cheap and not loops


def _is_alias(node: Node) -> bool:
    """Whether the only body takes as many operands and gives as many results as the node."""
    bodies = node.subgraphs
    return (
        len(bodies) == 1
        and len(bodies[0].inputs) == len(node.inputs)
        and len(bodies[0].outputs) == len(node.outputs)
    )


def _is_call(node: Node) -> bool:
    """Whether the node runs its body once, on its own operands.

    A body on other shapes is a formula for one element (``reduce``), or what one device does.
    """
    if not _is_alias(node):
        return False
    inner = node.subgraphs[0].inputs
    same = all(a.shape == b.shape for a, b in zip(inner, node.inputs, strict=True))
    return same or node.op == "shard_map"


def body_sites(site: Site, node: Node) -> tuple[Site, ...] | None:
    """The sites of a node's bodies, bound to its operands; ``None`` where it cannot be told how."""
    bodies = node.subgraphs
    outer = [(site, v) for v in node.inputs]
    if node.op == "scan" and _is_alias(node):
        body = bodies[0]
        consts, carry = compat.scan_counts(node.params)
        bindings = {}
        for i, v in enumerate(body.inputs):
            role = "" if i < consts else "carry" if i < consts + carry else "slice"
            again = body.outputs[i - consts] if role == "carry" else None
            bindings[v] = Binding((outer[i],), role, again)
        return (Site(body, bindings),)
    if node.op == "while" and len(bodies) == 2:
        by_name = {body.name: body for body in bodies}
        cond, body = by_name.get("cond_jaxpr"), by_name.get("body_jaxpr")
        if cond is None or body is None:
            return None
        n_cond, n_body = node.params["cond_nconsts"], node.params["body_nconsts"]
        start = outer[n_cond + n_body :]
        bindings = {
            v: Binding((o,))
            for v, o in zip(body.inputs, outer[n_cond : n_cond + n_body], strict=False)
        }
        for i, v in enumerate(body.inputs[n_body:]):
            bindings[v] = Binding((start[i],), "carry", body.outputs[i])
        loop = Site(body, bindings)
        tested = {v: Binding((o,)) for v, o in zip(cond.inputs, outer[:n_cond], strict=False)}
        for v, carried in zip(cond.inputs[n_cond:], body.inputs[n_body:], strict=True):
            tested[v] = Binding(((loop, carried),))
        return (Site(cond, tested), loop)
    if node.op == "cond" and all(len(b.inputs) == len(outer) - 1 for b in bodies):
        return tuple(
            Site(b, {v: Binding((o,)) for v, o in zip(b.inputs, outer[1:], strict=True)})
            for b in bodies
        )
    if _is_call(node):
        body = bodies[0]
        return (Site(body, {v: Binding((o,)) for v, o in zip(body.inputs, outer, strict=True)}),)
    return None
