"""What a graph costs: operations, bytes moved, parameters, and how much lives at once.

The numbers describe the graph as it is written. XLA fuses neighbouring nodes, so that it moves
fewer bytes and keeps less alive; the operations stay about the same.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from jaxpress.capture import compat
from jaxpress.capture.evaluate import last_uses
from jaxpress.capture.flops import has_rule, is_symbolic, known, nbytes, own_flops, size
from jaxpress.capture.from_jaxpr import graph_of_jaxpr
from jaxpress.capture.graph import Graph, Node

__all__ = ["GraphCost", "NodeCost", "graph_cost"]

WHILE = "a while loop counts as one turn"
BRANCHES = "a cond counts as its most expensive branch"
SYMBOLIC = "a symbolic dimension counts as 1"
UNKNOWN = "not counted"

# These read only what they pick from their first operand.
PICKS = frozenset({"slice", "dynamic_slice", "gather", "get"})
# Their bodies run while the results are being filled.
LOOPS = frozenset({"scan", "while"})
# Their bodies combine two elements.
APPLIES_BODY = frozenset({"reduce", "reduce_window", "select_and_scatter"})


@dataclass(frozen=True, slots=True)
class NodeCost:
    """What one node costs, its bodies included.

    Attributes:
      flops: operations; see ``jaxpress.capture.flops`` for what counts as one.
      bytes_read: bytes of its operands; for a slice or a gather, of what it picks.
      bytes_written: bytes of its results.
      notes: in what the numbers are not exact.
    """

    flops: int = 0
    bytes_read: int = 0
    bytes_written: int = 0
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class GraphCost:
    """What one run of a graph costs. The prologue, which runs once, is counted apart.

    Attributes:
      flops: operations of all nodes.
      bytes_read: bytes that the nodes read, each operand once a node.
      bytes_written: bytes that the nodes write.
      parameter_bytes: the constants, those of bodies and of the prologue included, and the inputs
        that were declared to be weights.
      peak_live_bytes: the most that is alive at once when the nodes run in order: inputs and
        constants all the time, everything else from where it is made to its last use.
      per_node: the cost of each node of the graph, its bodies included; they sum up to the totals.
      flops_by_op: operations by op name, those in bodies as often as they run.
      notes: in what the numbers are not exact.
      prologue: the prologue's own cost, if there is one.
    """

    flops: int
    bytes_read: int
    bytes_written: int
    parameter_bytes: int
    peak_live_bytes: int
    per_node: Mapping[Node, NodeCost] = field(repr=False)
    flops_by_op: Mapping[str, int] = field(repr=False)
    notes: tuple[str, ...] = ()
    prologue: GraphCost | None = field(default=None, repr=False)

    def __str__(self) -> str:
        parts = (
            f"{amount(self.flops)}FLOP",
            f"reads {amount(self.bytes_read)}B",
            f"writes {amount(self.bytes_written)}B",
            f"parameters {amount(self.parameter_bytes)}B",
            f"peak live {amount(self.peak_live_bytes)}B",
        )
        return ", ".join(parts) + "".join(f"\n({note})" for note in self.notes)


def amount(n: float) -> str:
    """A number in three digits with a unit to put a letter after: ``"3.54 M"``, ``"12 "``.

    >>> amount(3_538_984), amount(12)
    ('3.54 M', '12 ')
    """
    for unit in ("", "k", "M", "G", "T"):
        if abs(n) < 999.5:
            return f"{n:.3g} {unit}"
        n /= 1000
    return f"{n:.3g} P"


def graph_cost(graph: Graph) -> GraphCost:
    """Count what one run of ``graph`` costs.

    A ``scan`` counts as often as it is long, a ``cond`` as its most expensive branch, a ``while``
    as one turn, a ``shard_map`` on all of its devices together. A named op counts as its reference.
    Where something is only estimated, the result's ``notes`` say so.

    >>> import jax.numpy as jnp
    >>> from jaxpress.capture import trace
    >>> cost = graph_cost(trace(jnp.dot)(jnp.ones((2, 3)), jnp.ones((3, 4))))
    >>> cost.flops, cost.bytes_read, cost.bytes_written
    (48, 72, 32)
    """
    return _Counting().graph(graph).cost


@dataclass(frozen=True)
class _Counted:
    """A graph's cost, with what is needed to count a graph that it is a body of."""

    cost: GraphCost
    constants: dict[int, int]  # bytes by the array's identity: a shared array counts once
    scratch: int  # peak bytes above inputs and constants


class _Counting:
    """One count; a body that several nodes share is counted once and added up."""

    def __init__(self) -> None:
        self._counted: dict[int, _Counted] = {}

    def graph(self, graph: Graph) -> _Counted:
        found = self._counted.get(id(graph))
        if found is None:
            found = self._counted[id(graph)] = self._count(graph)
        return found

    def _count(self, graph: Graph) -> _Counted:
        prologue = self.graph(graph.prologue) if graph.prologue is not None else None
        constants = {id(a): nbytes(v) for v, a in graph.constant_values.items()}
        if prologue is not None:
            constants.update(prologue.constants)
        notes: dict[str, None] = {}
        if any(map(is_symbolic, (*graph.inputs, *graph.constants))):
            notes[SYMBOLIC] = None
        per_node: dict[Node, NodeCost] = {}
        by_op: Counter[str] = Counter()
        needs = []
        for node in graph.nodes:
            cost, inside, need = self.node(node, constants)
            per_node[node] = cost
            by_op.update(inside)
            notes.update(dict.fromkeys(cost.notes))
            needs.append(need)
        scratch = _most_alive(graph, needs)
        kept = sum(constants.values()) + sum(map(nbytes, {*graph.inputs, *graph.prepared}))
        cost = GraphCost(
            flops=sum(c.flops for c in per_node.values()),
            bytes_read=sum(c.bytes_read for c in per_node.values()),
            bytes_written=sum(c.bytes_written for c in per_node.values()),
            parameter_bytes=sum(constants.values()) + sum(map(nbytes, graph.weight_inputs)),
            peak_live_bytes=kept + scratch,
            per_node=MappingProxyType(per_node),
            flops_by_op=MappingProxyType(dict(by_op)),
            notes=tuple(notes),
            prologue=prologue.cost if prologue is not None else None,
        )
        return _Counted(cost, constants, scratch)

    def node(self, node: Node, constants: dict[int, int]) -> tuple[NodeCost, dict[str, int], int]:
        """A node's cost, its operations by op name, and the bytes it needs while it runs."""
        made = sum(map(nbytes, node.outputs))
        if node.subgraphs and not has_rule(node.op):
            return self._with_bodies(node, made, constants)
        read = sum(map(nbytes, dict.fromkeys(node.inputs)))
        if node.op in PICKS and node.inputs:
            read = made + read - nbytes(node.inputs[0])
        notes = (SYMBOLIC,) if any(map(is_symbolic, node.outputs)) else ()
        flops = own_flops(node)
        if flops is None:
            inside = reference_cost(node)
            if inside is None:
                flops, notes = 0, (*notes, f"{UNKNOWN}: {node.op}")
            else:
                flops, notes = inside.flops, tuple(dict.fromkeys((*notes, *inside.notes)))
        return NodeCost(flops, read, made, notes), {node.op: flops}, made

    def _with_bodies(
        self, node: Node, made: int, constants: dict[int, int]
    ) -> tuple[NodeCost, dict[str, int], int]:
        bodies = [self.graph(body) for body in node.subgraphs]
        for body in bodies:
            constants.update(body.constants)
        times, notes = _runs(node, [body.cost.flops for body in bodies])
        ran = [(body.cost, n) for body, n in zip(bodies, times, strict=True) if n]
        by_op: Counter[str] = Counter()
        for cost, n in ran:
            notes = (*notes, *cost.notes)
            by_op.update({op: flops * n for op, flops in cost.flops_by_op.items()})
        read = sum(cost.bytes_read * n for cost, n in ran)
        written = sum(cost.bytes_written * n for cost, n in ran)
        if node.op in APPLIES_BODY:  # the body is a formula for one element, not for an array
            read, written = sum(map(nbytes, dict.fromkeys(node.inputs))), made
        scratch = max((body.scratch for body in bodies), default=0)
        need = made + scratch if node.op in LOOPS else max(made, scratch)
        total = sum(cost.flops * n for cost, n in ran)
        if node.op in APPLIES_BODY:
            by_op = Counter({node.op: total})
        cost = NodeCost(total, read, written, tuple(dict.fromkeys(notes)))
        return cost, dict(by_op), need


def _runs(node: Node, flops: list[int]) -> tuple[list[int], tuple[str, ...]]:
    """How often each of a node's bodies runs, and what is not exact in that."""
    op, params = node.op, node.params
    if op == "scan":
        if not isinstance(params["length"], int):
            return [1], (SYMBOLIC,)
        return [params["length"]], ()
    if op == "while":
        return [1] * len(flops), (WHILE,)
    if op == "cond":
        dearest = max(range(len(flops)), key=flops.__getitem__)
        return [int(i == dearest) for i in range(len(flops))], (BRANCHES,)
    if op == "shard_map":
        axes = params.get("newly_manual_axes") or params.get("manual_axes") or ()
        sizes = dict(params["mesh"].shape)
        return [math.prod(sizes[a] for a in axes)], ()
    if op == "custom_linear_solve":
        solve = f"jaxprs[{params['jaxprs']._fields.index('solve')}]"
        return [int(body.name == solve) for body in node.subgraphs], ()
    if op == "reduce":
        return [sum(size(v) for v in node.inputs[: len(node.inputs) // 2])] * len(flops), ()
    if op == "reduce_window":
        window = math.prod(params["window_dimensions"])
        return [size(node.outputs[0]) * window] * len(flops), ()
    if op == "select_and_scatter":
        return [size(node.inputs[0]) * math.prod(params["window_dimensions"])] * len(flops), ()
    if op == "pallas_call":
        grid = getattr(params.get("grid_mapping"), "grid", ())
        return [math.prod(known(n) for n in grid)] * len(flops), ()
    # jit, remat, composite, ...; and of a function with a derivative rule, the function.
    return [1] + [0] * (len(flops) - 1), ()


def _most_alive(graph: Graph, needs: list[int]) -> int:
    """The most bytes alive at once, besides inputs and constants."""
    always = {*graph.inputs, *graph.constants, *graph.prepared}
    live = most = 0
    for node, need, dying in zip(graph.nodes, needs, last_uses(graph), strict=True):
        most = max(most, live + need)
        live += sum(map(nbytes, node.outputs))
        live -= sum(nbytes(v) for v in dying if v not in always)
    return most


# A named op's reference is traced once for each way in which the op is used.
_references: dict[Any, GraphCost | None] = {}
_MAX_REFERENCES = 4096


def reference_cost(node: Node) -> GraphCost | None:
    """The cost of what a primitive computes, where that is a function that JAX can trace.

    Whichever kernel the node has chosen, the op's reference is what is counted, so that the costs
    of a graph before and after the choice compare. ``None`` where there is nothing to trace.
    """
    avals = tuple(v.aval for v in node.inputs)
    try:
        key = (node.primitive, avals, tuple(sorted(node.params.items())), compat.context_key())
        if key in _references:
            return _references[key]
    except TypeError:  # unhashable, or parameters that cannot be put in order
        key = None
    closed = compat.trace_primitive(node.primitive, avals, node.params)
    found = graph_cost(graph_of_jaxpr(closed, node.op)) if closed is not None else None
    if key is not None:
        if len(_references) >= _MAX_REFERENCES:
            _references.clear()
        _references[key] = found
    return found
