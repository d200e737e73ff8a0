"""Loops that count their rounds, and take or write the row of an array that has that number.

``fori_loop`` with ``ws[i]`` in its body is ``scan`` over the rows of ``ws``; and what it writes to
``out.at[i].set(y)`` are the rows that ``scan`` stacks. Said so, rules see the weights of a layer or
the input of a step where they saw a lookup by an index, and a derivative needs no scatter into the
whole array in each round. Every rule here is exact.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxpress.capture import Graph, Node, Value, compat
from jaxpress.capture.evaluate import evaluate
from jaxpress.passes.known import body_inputs
from jaxpress.passes.match import MadeOnce
from jaxpress.passes.pattern import State
from jaxpress.passes.rule import Match, Rule, RuleSet
from jaxpress.passes.rules.counted_rows import read_of, step_of, written_by
from jaxpress.passes.rules.counted_while import COUNTED_WHILE
from jaxpress.passes.rules.known_indices import counted, counted_over
from jaxpress.passes.view import GraphView, View

__all__ = ["COUNTED_LOOP_RULES"]

_MAX_ROUNDS = 1 << 12
_OPTIONS = ("length", "reverse", "unroll", "_split_transpose")
_BY_INDEX = frozenset({"dynamic_slice", "gather", "dynamic_update_slice", "scatter"})


class _Rows(NamedTuple):
    """A row that is taken or written in each round.

    Attributes:
      array: the operand of the loop that it is taken of, or the place of what is carried.
      value: the row, in the body.
      axis: along which rows are counted.
      keeps: whether ``value`` has that axis, with size 1.
      start, step: which one is the first, and how far it is to the next.
      part: for other axes, where what is taken of each row starts, and how long it is.
    """

    array: int
    value: Value
    axis: int
    keeps: bool
    start: int
    step: int
    part: tuple[tuple[int, int, int], ...]


@dataclass(eq=False)
class _Plan(MadeOnce):
    """What becomes of a loop.

    Attributes:
      body: without what is replaced; its inputs are still the old ones.
      reads, writes: the rows.
      counters: counters that nothing is left to ask, and what each ends at.
    """

    body: Graph
    reads: list[_Rows]
    writes: list[_Rows]
    counters: dict[int, Any]


class _RowsByNumber:
    names = frozenset({"scan"})
    size = 3

    def find(self, state: State, node: Node) -> Match | None:
        view, length = state.view, node.params["length"]
        (body,) = node.subgraphs
        if not isinstance(length, int) or not 0 < length <= _MAX_ROUNDS:
            state.fail(f"it has {length} rounds", node)
            return None
        by_index = [n for n in body.nodes if n.op in _BY_INDEX]
        if not by_index or node.effects or any(n.effects for n in body.nodes):
            state.fail("its body takes nothing by an index, or has effects", node)
            return None
        inside = GraphView(body)
        rounds, ends = _rounds(view, node, body)
        (sources,) = body_inputs(node)
        steady = {
            v: s.operand for v, s in zip(body.inputs, sources, strict=True) if s.kind == "const"
        }
        reads, writes, gone = [], [], set()
        consts, carry = compat.scan_counts(node.params)
        slots = {v: i for i, v in enumerate(body.inputs[consts : consts + carry])}
        for n in by_index if rounds else ():
            index = _lookup(inside, n, steady, slots, rounds)
            if index is None:
                continue
            gone.add(n)
            (reads if index.value is n.output else writes).append(index)
        if not gone:
            state.fail("no index in its body counts its rounds", node)
            return None
        outputs = list(body.outputs)
        for write in writes:
            outputs[write.array] = write.value
        body, counters = _without(body, gone, outputs, consts, ends)
        values = {f"x{i}": v for i, v in enumerate(view.inputs(node))}
        return Match(view, node, values, info={"plan": _Plan(body, reads, writes, counters)})


def _rounds(view: View, node: Node, body: Graph) -> tuple[dict[Value, Any], dict[int, Any]]:
    """Whole numbers of the body that are known in each round, in the order of rows, and counters.

    Returns:
      The numbers; and what each carried one ends at.
    """
    consts, carry = compat.scan_counts(node.params)
    operands, length = view.inputs(node), node.params["length"]
    inside = GraphView(body)
    rounds: dict[Value, Any] = {}
    ends: dict[int, Any] = {}
    order = slice(None, None, -1 if node.params["reverse"] else 1)
    for i, v in enumerate(body.inputs):
        dtype = getattr(v, "dtype", None)
        if v.shape != () or dtype is None or not np.issubdtype(dtype, np.integer):
            continue
        if i >= consts + carry:
            if (row := counted(view, operands[i])) is not None:
                rounds[v] = row
        elif i >= consts:
            step = step_of(inside, v, body.outputs[i - consts])
            first = counted(view, operands[i])
            if step is not None and first is not None:
                with np.errstate(all="ignore"):
                    count = np.asarray(first).astype(dtype) + np.arange(length + 1) * step
                if count.astype(dtype).tolist() == count.tolist():
                    rounds[v] = count[:-1].astype(dtype)[order]
                    ends[i - consts] = count[-1].astype(dtype)
    return rounds, ends


def _lookup(
    view: GraphView,
    node: Node,
    steady: Mapping[Value, int],
    slots: Mapping[Value, int],
    rounds: Mapping[Value, Any],
) -> _Rows | None:
    """The rows that a node takes or writes, if their numbers are known and a step apart."""
    array = view.inputs(node)[0]
    reads = node.op in ("dynamic_slice", "gather")
    if array not in (steady if reads else slots):
        return None
    found = read_of(view, node) if reads else written_by(view, node)
    if found is None or (not reads and not _is_only_written(view, node, slots[array])):
        return None
    moving: list[tuple[int, np.ndarray]] = []
    part = []
    for axis, (start, size) in found.places.items():
        index = counted_over(view, start, rounds)
        if index is None:
            return None
        index = index.astype(np.int64)
        if index.min() < 0 or index.max() > array.shape[axis] - size:
            return None
        if index.ndim and ((size == 1 and index.size == 1) or (index != index[0]).any()):
            moving.append((axis, index))
            if size != 1:
                return None
        else:
            part.append((axis, int(index.flat[0]), size))
    if len(moving) != 1:
        return None
    ((axis, index),) = moving
    step = int(index[1] - index[0]) if index.size > 1 else 1
    if not step or (np.diff(index) != step).any() or not (reads or abs(step) == 1):
        return None
    place = steady[array] if reads else slots[array]
    return _Rows(place, found.row, axis, found.keeps, int(index[0]), step, tuple(part))


def _is_only_written(view: GraphView, node: Node, slot: int) -> bool:
    """Whether nothing looks at a carried array until the loop is over."""
    array, made = node.inputs[0], node.output
    after = view.users(made)
    if len(after) == 1 and not view.is_output(made) and after[0].op == "convert_element_type":
        # To the same type, but a weak one.
        if after[0].output.dtype != made.dtype:
            return False
        made, after = after[0].output, view.users(after[0].output)
    places = [i for i, v in enumerate(view.graph.outputs) if v is made]
    used = view.is_output(array) or view.users(array) != (node,)
    return places == [slot] and not after and not used and node.inputs.count(array) == 1


def _without(
    body: Graph, gone: set[Node], outputs: list[Value], consts: int, ends: Mapping[int, Any]
) -> tuple[Graph, dict[int, Any]]:
    """The body without some nodes, and without counters that nothing asks any more."""
    counters, asked = dict(ends), True
    while asked:
        wanted = [v for i, v in enumerate(outputs) if i not in counters]
        needed, kept = set(wanted), []
        for node in reversed(body.nodes):
            if node not in gone and any(v in needed for v in node.outputs):
                kept.append(node)
                needed.update(node.inputs)
        asked = [i for i in counters if body.inputs[consts + i] in needed]
        for i in asked:
            del counters[i]
    constants = {v: x for v, x in body.constant_values.items() if v in needed}
    inputs = [*body.inputs, *(n.output for n in body.nodes if n in gone)]
    inputs = [v for v in inputs if v in needed or v in body.inputs]
    return Graph(body.name, inputs, kept[::-1], wanted, constants), counters


def _over_rows(*, match: Match, **given: Any) -> Any:
    plan: _Plan = match.info["plan"]
    params, node = match.root.params, match.root
    consts, carry = compat.scan_counts(params)
    (old,) = node.subgraphs
    arrays = [jnp.asarray(given[f"x{i}"], v.dtype) for i, v in enumerate(old.inputs)]
    length = params["length"]
    written = {w.array: w for w in plan.writes}
    stays = [i for i in range(carry) if i not in plan.counters and i not in written]
    at = {v: i for i, v in enumerate(old.inputs)}
    needed = {v for n in plan.body.nodes for v in n.inputs} | set(plan.body.outputs)
    fixed = {v: arrays[at[v]] for v in old.inputs[:consts] if v in needed}
    # What is carried and stays as it is may be an array of rows: it has no more to be carried.
    first = [arrays[consts + i] for i in stays]
    moving = {v: arrays[at[v]] for v in old.inputs[consts + carry :] if v in needed}
    reads = [r for r in plan.reads if r.value in needed]
    rows = [_rows(arrays[r.array], r, length) for r in reads]
    names = [i for i in range(carry) if i not in plan.counters]

    def step(carried: Any, xs: Any) -> Any:
        own, taken = xs
        values = dict(zip(moving, own, strict=True)) | fixed
        values |= {old.inputs[consts + i]: x for i, x in zip(stays, carried, strict=True)}
        for read, row in zip(reads, taken, strict=True):
            values[read.value] = jnp.expand_dims(row, read.axis) if read.keeps else row
        graph = plan.body
        inputs = [v for v in graph.inputs if v in values]
        graph = Graph(graph.name, inputs, graph.nodes, graph.outputs, graph.constant_values)
        outs = evaluate(graph, [values[v] for v in inputs])
        new = dict(zip(names, outs, strict=False))
        made = [jnp.squeeze(new[i], w.axis) if w.keeps else new[i] for i, w in written.items()]
        return [new[i] for i in stays], (made, outs[len(names) :])

    options = {k: params[k] for k in _OPTIONS if k in params}
    last, (made, ys) = lax.scan(step, first, (list(moving.values()), rows), **options)
    results: dict[int, Any] = dict(zip(stays, last, strict=True))
    for write, block in zip(written.values(), made, strict=True):
        results[write.array] = _written(arrays[consts + write.array], block, write)
    for slot, end in plan.counters.items():
        results[slot] = jnp.asarray(end, old.inputs[consts + slot].dtype)
    return [*(results[i] for i in range(carry)), *ys]


def _rows(array: Any, read: _Rows, length: int) -> Any:
    """The rows that are taken, one for each round, in front."""
    for axis, start, size in read.part:
        array = lax.slice_in_dim(array, start, start + size, axis=axis)
    last = read.start + read.step * (length - 1)
    low, high = min(read.start, last), max(read.start, last) + 1
    if (low, high, abs(read.step)) != (0, array.shape[read.axis], 1):
        array = lax.slice_in_dim(array, low, high, abs(read.step), read.axis)
    array = lax.rev(array, (read.axis,)) if read.step < 0 else array
    return jnp.moveaxis(array, read.axis, 0) if read.axis else array


def _written(array: Any, block: Any, write: _Rows) -> Any:
    """What was carried, once all rows are written."""
    length = block.shape[0]
    block = lax.rev(block, (0,)) if write.step < 0 else block
    block = jnp.moveaxis(block, 0, write.axis) if write.axis else block
    if length == array.shape[write.axis]:
        return block
    start = min(write.start, write.start + write.step * (length - 1))
    return lax.dynamic_update_slice_in_dim(array, block, start, write.axis)


# fori_loop(0, n, lambda i, x: f(ws[i], x), x) -> scan(lambda x, w: (f(w, x), None), x, ws)
ROWS_BY_NUMBER = Rule("rows_by_number", _RowsByNumber(), _over_rows)


COUNTED_LOOP_RULES = RuleSet((ROWS_BY_NUMBER, COUNTED_WHILE))
