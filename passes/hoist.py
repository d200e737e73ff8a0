"""Work that is the same in every round of a loop moves in front of it.

What then depends on weights alone goes on to the prologue, and runs once. Three things move:

- out of ``scan`` and ``while``: whatever depends on the loop's constants alone;
- out of ``scan``: whatever depends on rows of known stacked arrays, computed for all rows at once;
- out of ``cond`` and ``remat``: whatever depends on weights alone.

A value that has moved lives as long as the loop runs. So what is larger than all that it is made
from, and large, stays where it is; so do numbers, which cost less than the operand they would be.
Random draws and effects stay too. A loop that never runs has its constant work done nevertheless.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import jax

from jaxpress.capture import Graph, Literal, Node, Value, compat
from jaxpress.capture.edit import Editor
from jaxpress.capture.evaluate import evaluate
from jaxpress.capture.flops import nbytes
from jaxpress.capture.template import Template
from jaxpress.passes.engine import map_bodies, rewrite
from jaxpress.passes.known import LOOPS_AND_BRANCHES, body_inputs, known_values, mark_known
from jaxpress.passes.more_inputs import with_more_inputs
from jaxpress.passes.record import Rewrite
from jaxpress.passes.rules.cleanup import CLEANUP_RULES

__all__ = ["hoist"]

MAX_GROWTH_BYTES = 1 << 20

# Drawn where they are drawn; and barriers, which say where something is computed.
_KEPT = ("random_", "threefry", "rng_", "philox", "optimization_barrier")
# Free where they are used.
_SPREADING = frozenset({"broadcast_in_dim", "reshape", "squeeze", "expand_dims", "iota", "copy"})
_LOOPS = frozenset({"scan", "while"})


def hoist(
    graph: Graph, max_growth: int = MAX_GROWTH_BYTES, record: list[Rewrite] | None = None
) -> Graph:
    """Work that is the same in every round of a loop moves in front of the loop.

    What has moved meets what was there, such as a transpose another one, and is tidied with it.

    Args:
      graph: the graph; closed-over constants and ``weight_inputs`` are what is known.
      max_growth: a value of more bytes than this that is larger than all it is made from stays.
      record: a list to which the rewrites that tidy are added.

    Returns:
      A new graph, or the same where nothing moved.
    """
    marked = mark_known(graph)
    new = _hoist(marked, max_growth, {})
    if new is marked:
        return graph
    return rewrite(new, CLEANUP_RULES, pass_name="hoist", record=record)


def _hoist(graph: Graph, max_growth: int, memo: dict[int, Any]) -> Graph:
    # Inner loops first: what leaves them may leave the outer ones too.
    graph = map_bodies(graph, lambda body: _hoist(body, max_growth, memo), memo)
    loops = [n for n in graph.nodes if n.op in LOOPS_AND_BRANCHES and n._bodies is not None]
    if not loops:
        return graph
    editor = Editor(graph)
    moved = [_out_of(editor, node, max_growth) for node in loops]
    return editor.finish() if any(moved) else graph


class _Choice(NamedTuple):
    """What leaves a body.

    Attributes:
      values: what is computed outside and handed in.
      nodes: the nodes that compute them, in order.
      gone: the nodes that the body loses.
    """

    values: list[Value]
    nodes: list[Node]
    gone: set[Node]


def _out_of(editor: Editor, node: Node, max_growth: int) -> bool:
    """Move what can move in front of ``node``; whether anything did."""
    # References cannot be handed on. A scan is traced anew, and an effect would happen twice.
    if any(map(compat.is_of_an_operand, node.effects)) or (node.op == "scan" and node.effects):
        return False
    operands = editor.inputs(node)
    moved = False
    bodies: list[Graph] = []
    handed: list[list[tuple[Value, Value]]] = []  # for each body: its new input, what is given
    rows: list[tuple[Value, Value]] = []
    for body, sources in zip(node.subgraphs, body_inputs(node), strict=True):
        fixed = {
            v: operands[source.operand]
            for v, source in zip(body.inputs, sources, strict=True)
            if source.kind == "const" and (node.op in _LOOPS or v in body.weight_inputs)
        }
        choice = _choose(body, body.nodes, fixed, max_growth)
        pairs: list[tuple[Value, Value]] = []
        if choice.values:
            piece, taken = _piece(body, choice, fixed)
            given, _ = editor.splice(
                Template(piece), [fixed[v] for v in taken], node, None, (node,)
            )
            pairs = list(zip(choice.values, given, strict=True))
        left = [n for n in body.nodes if n not in choice.gone] if pairs else list(body.nodes)
        if node.op == "scan":
            whole = {
                v: operands[source.operand]
                for v, source in zip(body.inputs, sources, strict=True)
                if source.kind == "xs" and v in body.weight_inputs
            }
            rows, left = _rows(
                editor, node, body, left, {**fixed, **dict(pairs)}, whole, max_growth
            )
        if pairs or rows:
            moved = True
            body = body.with_parts(nodes=_live(left, body.outputs))
        bodies.append(body)
        handed.append(pairs)
    if moved:
        with_more_inputs(editor, node, bodies, handed, rows)
    return moved


def _rows(
    editor: Editor,
    node: Node,
    body: Graph,
    nodes: Sequence[Node],
    fixed: dict[Value, Value],
    whole: dict[Value, Value],
    max_growth: int,
) -> tuple[list[tuple[Value, Value]], list[Node]]:
    """What a scan's body makes of rows of known arrays, for all rows at once."""
    known = known_values(body)
    constants = {v: x for v, x in fixed.items() if v in known}
    plain = [n for n in nodes if n._bodies is None]
    choice = _choose(body, plain, whole, max_growth, beside=constants, users=nodes)
    if not choice.values:
        return [], list(nodes)
    piece, taken = _piece(body, choice, {**constants, **whole})
    axes = tuple(0 if v in whole else None for v in taken)

    def run(*arrays: Any) -> list[Any]:
        return jax.vmap(lambda *row: evaluate(piece, row), in_axes=axes)(*arrays)

    operands = [whole.get(v) or constants[v] for v in taken]
    given = editor.emit(run, operands, before=node, origin=(node,), cache=False)
    pairs = list(zip(choice.values, given, strict=True))
    return pairs, [n for n in nodes if n not in choice.gone]


def _choose(
    body: Graph,
    nodes: Sequence[Node],
    fixed: Iterable[Value],
    max_growth: int,
    *,
    beside: Iterable[Value] = (),
    users: Sequence[Node] | None = None,
) -> _Choice:
    """Which of ``nodes`` can leave a body.

    Args:
      body: the body.
      nodes: some of its nodes.
      fixed: values from which what leaves has to be made, partly at least.
      max_growth: as in ``hoist``.
      beside: other values that are known outside.
      users: all nodes that are left, which need what leaves.
    """
    made: set[Value] = set(fixed)
    known = {*made, *beside, *body.constants}
    movable: set[Node] = set()
    for node in nodes:
        if _may_move(node) and all(v in known or isinstance(v, Literal) for v in node.inputs):
            known.update(node.outputs)
            movable.add(node)
            if any(v in made for v in node.inputs):
                made.update(node.outputs)
    makers = {v: node for node in movable for v in node.outputs}
    users = nodes if users is None else users
    needed = {v for v in body.outputs if v in makers}
    for node in users:
        if node not in movable:
            needed.update(v for v in node.inputs if v in makers)
    staying: set[Node] = set()
    for node in reversed(nodes):
        if node not in movable or not any(v in needed for v in node.outputs):
            continue
        if not any(v in made for v in node.outputs) or _stays(node, max_growth):
            staying.add(node)
            needed.update(v for v in node.inputs if v in makers)
    values = [
        v
        for node in nodes
        if node in movable and node not in staying
        for v in node.outputs
        if v in needed
    ]
    wanted = set(values)
    outside: list[Node] = []
    for node in reversed(nodes):
        if node in movable and any(v in wanted for v in node.outputs):
            outside.append(node)
            wanted.update(node.inputs)
    return _Choice(values, outside[::-1], movable - staying)


def _may_move(node: Node) -> bool:
    return not node.effects and not node.op.startswith(_KEPT)


def _stays(node: Node, max_growth: int) -> bool:
    """Whether a node is better computed where it is used."""
    grown, made_from = sum(map(nbytes, node.outputs)), sum(map(nbytes, node.inputs))
    if node._bodies is None and all(not v.shape for v in node.outputs):
        return all(not v.shape for v in node.inputs)
    if node.op in _SPREADING:
        return True
    return grown > made_from and grown > max_growth


def _piece(body: Graph, choice: _Choice, fixed: Iterable[Value]) -> tuple[Graph, list[Value]]:
    """What leaves a body as a graph of its own, and the body's values that it takes."""
    used = {v for node in choice.nodes for v in node.inputs}
    taken = [v for v in fixed if v in used]
    constants = {v: x for v, x in body.constant_values.items() if v in used}
    return Graph("hoisted", taken, choice.nodes, choice.values, constants), taken


def _live(nodes: Sequence[Node], outputs: Sequence[Value]) -> list[Node]:
    needed = set(outputs)
    kept = []
    for node in reversed(nodes):
        if node.effects or any(v in needed for v in node.outputs):
            kept.append(node)
            needed.update(node.inputs)
    return kept[::-1]
