"""Which inputs of a body are weights: known before the data, as those of the whole function are.

A ``scan`` over layers is given their weights as stacked arrays, and its body sees one layer's at a
time. What is known of the operands is known of the body's inputs, so rules may fold there as they
do outside, and ``hoist`` carries the work out of the loop.
"""

from __future__ import annotations

from collections.abc import Sequence

from jaxpress.capture import Graph, Literal, Node, Value, compat

__all__ = ["LOOPS_AND_BRANCHES", "BodyInput", "body_inputs", "known_values", "mark_known"]

# Those from which ``hoist`` carries what is known out again.
LOOPS_AND_BRANCHES = frozenset({"scan", "while", "cond"}) | compat.REMAT_NAMES


class BodyInput:
    """Where an input of a body comes from.

    Attributes:
      operand: the node's operand, by place.
      kind: ``"const"`` (the same whenever the body runs), ``"carry"``, or ``"xs"`` (one row of the
        operand).
    """

    __slots__ = ("kind", "operand")

    def __init__(self, operand: int, kind: str):
        self.operand = operand
        self.kind = kind


def body_inputs(node: Node) -> list[list[BodyInput]]:
    """For each body of a loop, branch or ``remat``, where its inputs come from.

    What a loop carries and never changes counts as a constant.
    """
    n, bodies = len(node.inputs), node.subgraphs
    if node.op == "scan":
        consts, carry = compat.scan_counts(node.params)
        (body,) = bodies
        kinds = ["const"] * consts + ["carry"] * carry + ["xs"] * (n - consts - carry)
        found = [BodyInput(i, kind) for i, kind in enumerate(kinds)]
        _keep_what_stays(body, found[consts : consts + carry], consts)
        return [found]
    if node.op == "while":
        conds, consts = node.params["cond_nconsts"], node.params["body_nconsts"]
        carried = [BodyInput(i, "carry") for i in range(conds + consts, n)]
        _keep_what_stays(bodies[1], carried, consts)
        return [
            [*(BodyInput(i, "const") for i in range(conds)), *carried],
            [*(BodyInput(i, "const") for i in range(conds, conds + consts)), *carried],
        ]
    first = 1 if node.op == "cond" else 0
    return [[BodyInput(i, "const") for i in range(first, n)] for _ in bodies]


def _keep_what_stays(body: Graph, carried: Sequence[BodyInput], first: int) -> None:
    for i, source in enumerate(carried):
        if body.outputs[i] is body.inputs[first + i]:
            source.kind = "const"


def known_values(graph: Graph) -> set[Value]:
    """Everything that depends on weights and literals alone."""
    known: set[Value] = {*graph.constants, *graph.weight_inputs, *graph.prepared}
    for node in graph.nodes:
        if not node.effects and all(v in known or isinstance(v, Literal) for v in node.inputs):
            known.update(node.outputs)
    return known


def mark_known(graph: Graph, memo: dict | None = None) -> Graph:
    """``graph`` with ``weight_inputs`` set on the bodies of its loops and branches, at all depths.

    Returns:
      The same graph where there is nothing to mark.
    """
    if not any(node._bodies is not None for node in graph.nodes):
        return graph
    memo = {} if memo is None else memo
    known: set[Value] | None = None
    exchanged: dict[Node, Node] = {}
    for node in graph.nodes:
        if node._bodies is None or node.op not in LOOPS_AND_BRANCHES:
            continue
        if known is None:
            known = known_values(graph)
        bodies = []
        for body, sources in zip(node.subgraphs, body_inputs(node), strict=True):
            marks = frozenset(
                v
                for v, source in zip(body.inputs, sources, strict=True)
                if source.kind != "carry" and _is_known(node.inputs[source.operand], known)
            )
            key = id(body), marks
            if key not in memo:
                marked = (
                    body if marks == body.weight_inputs else body.with_parts(weight_inputs=marks)
                )
                # The body is kept beside, so that its identity is not given to another.
                memo[key] = mark_known(marked, memo), body
            bodies.append(memo[key][0])
        if any(a is not b for a, b in zip(bodies, node.subgraphs, strict=True)):
            exchanged[node] = node.with_subgraphs(bodies)
    if not exchanged:
        return graph
    return graph.with_parts(nodes=[exchanged.get(node, node) for node in graph.nodes])


def _is_known(value: Value, known: set[Value]) -> bool:
    # A literal says nothing about weights: a body that is given one is as it was.
    return value in known
