"""What depends on weights alone moves into the prologue, which runs once per set of weights."""

from __future__ import annotations

import math

from jax.export import is_symbolic_dim

from jaxpress.capture import Graph, Literal, Node, Value, compat

__all__ = ["fold_constants"]

# Cheap to compute where they are used, since XLA fuses them: not kept where that takes more memory.
_SPREADING = frozenset({"broadcast_in_dim", "reshape", "squeeze", "expand_dims", "iota", "copy"})
MAX_GROWTH_BYTES = 1 << 20


def fold_constants(graph: Graph, max_growth: int = MAX_GROWTH_BYTES) -> Graph:
    """Split off everything that is known before the data, as the graph's prologue.

    Args:
      graph: the graph; closed-over constants and ``weight_inputs`` are what is known.
      max_growth: a value of more bytes than this that is larger than all it is made from is
        computed where it is needed instead of being kept.

    Returns:
      A graph whose ``prologue`` makes the values that its nodes use; ``graph`` itself if there is
      nothing to move.
    """
    known: set[Value] = {*graph.constants, *graph.weight_inputs, *graph.prepared}
    movable: set[Node] = set()
    for node in graph.nodes:
        # What is traced inside shard_map cannot run outside it.
        if node.effects or compat.in_shard_map(node.ctx):
            continue
        if all(v in known or isinstance(v, Literal) for v in node.inputs):
            if _has_symbols(node):
                continue  # as many steps, or as large, as the data say
            known.update(node.outputs)
            movable.add(node)
    if not movable:
        return graph

    makers = {v: node for node in movable for v in node.outputs}

    # Which known nodes stay: those whose results are needed and that only spread out what they
    # are made from. Walking backwards, a node that stays makes its operands needed.
    needed: set[Value] = {v for v in graph.outputs if v in makers}
    for node in graph.nodes:
        if node not in movable:
            needed.update(v for v in node.inputs if v in makers)
    staying: set[Node] = set()
    for node in reversed(graph.nodes):
        if node not in movable or not any(v in needed for v in node.outputs):
            continue
        grown = sum(map(_bytes, node.outputs))
        made_from = sum(map(_bytes, node.inputs))
        # A spreading node that only gives another shape is kept too, while a copy costs little.
        spreads = node.op in _SPREADING and grown > made_from
        copies = node.op in _SPREADING or grown > made_from
        if spreads or (copies and grown > max_growth):
            staying.add(node)
            needed.update(v for v in node.inputs if v in makers)
    prepared = [
        v
        for node in graph.nodes
        if node in movable and node not in staying
        for v in node.outputs
        if v in needed
    ]
    if not prepared and not any(node in movable - staying for node in graph.nodes):
        return graph
    prologue_nodes = _needed_for(prepared, [n for n in graph.nodes if n in movable])
    if graph.prologue is not None:
        prologue_nodes = [*graph.prologue.nodes, *prologue_nodes]
        used = _uses_of(graph, movable - staying)
        prepared = [*(v for v in graph.prologue.outputs if v in used), *prepared]
    used_by_prologue = {v for node in prologue_nodes for v in node.inputs}
    all_constants = dict(graph.constant_values)
    if graph.prologue is not None:
        all_constants = {**graph.prologue.constant_values, **all_constants}
    prologue = Graph(
        "prologue",
        [v for v in graph.inputs if v in used_by_prologue],
        prologue_nodes,
        prepared,
        {v: a for v, a in all_constants.items() if v in used_by_prologue},
        next_id=graph.next_id,
    )
    nodes = [node for node in graph.nodes if node not in movable or node in staying]
    live = {v for node in nodes for v in node.inputs} | set(graph.outputs)
    constants = {v: a for v, a in graph.constant_values.items() if v in live}
    if not prepared:
        return graph.with_parts(nodes=nodes, constants=constants)
    return graph.with_parts(nodes=nodes, constants=constants, prologue=prologue)


def _uses_of(graph: Graph, moved: set[Node]) -> set[Value]:
    used = {v for node in graph.nodes if node not in moved for v in node.inputs}
    return used | set(graph.outputs)


def _needed_for(values: list[Value], nodes: list[Node]) -> list[Node]:
    """Of ``nodes``, in their order, those that ``values`` need."""
    needed = set(values)
    kept = []
    for node in reversed(nodes):
        if any(v in needed for v in node.outputs):
            kept.append(node)
            needed.update(node.inputs)
    kept.reverse()
    return kept


def _has_symbols(node: Node) -> bool:
    """Whether a node depends on a symbolic dimension, which no operand shows."""
    if node.op == "dim_as_value":
        return True
    sizes = (*(d for v in node.outputs for d in v.shape), *node.params.values())
    if any(is_symbolic_dim(d) for d in sizes if not isinstance(d, int)):
        return True
    return any(_has_symbols(inner) for body in node.subgraphs for inner in body.nodes)


def _bytes(value: Value) -> int:
    """A value's size; 0 for what has none, such as a literal."""
    if isinstance(value, Literal):
        return 0
    return math.prod(value.shape) * getattr(value.dtype, "itemsize", 0)
