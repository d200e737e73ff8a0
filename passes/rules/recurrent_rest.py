"""What a ``scan`` carries beside a recurrent cell, such as the cells of further layers.

States that depend on each other form a group. A group that depends on no other can run by itself
for all steps; what is left is a ``scan`` that is given its results.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from jax import lax

from jaxpress.capture import Graph, Node, Value, compat
from jaxpress.capture.evaluate import evaluate
from jaxpress.passes.rules.recurrent_loop import Loop

__all__ = ["run_rest", "state_groups", "states_beside"]

_OPTIONS = ("length", "reverse", "unroll", "_split_transpose")


def state_groups(loop: Loop) -> list[tuple[int, ...]]:
    """The groups of states that depend on no other group's, by their places."""
    depends = {i: _states_behind(loop, loop.carry_out[i]) for i in loop.states}
    changed = True
    while changed:
        changed = False
        for behind in depends.values():
            more = set().union(*(depends[j] for j in behind)) if behind else set()
            if not more <= behind:
                behind |= more
                changed = True
    groups = []
    for i in loop.states:
        group = tuple(j for j in loop.states if j == i or (j in depends[i] and i in depends[j]))
        if depends[i] <= set(group) and group not in groups:
            groups.append(group)
    return groups


def _states_behind(loop: Loop, value: Value) -> set[int]:
    """The states that a value is computed from in one step."""
    places = {loop.carry[i]: i for i in loop.states}
    nodes = loop.within([value])
    read = {value, *(v for node in nodes for v in node.inputs)}
    return {places[v] for v in read if v in places}


def states_beside(
    loop: Loop, slots: Collection[int], known: Mapping[Value, Any], used: Sequence[int]
) -> tuple[int, ...]:
    """The states but those in ``slots`` without which the results cannot be computed.

    Args:
        loop: the loop.
        slots: places of the states that run by themselves.
        known: values of the body that those give.
        used: which outputs of the scan are used.
    """
    n = len(loop.carry)
    others = {loop.carry[i]: i for i in loop.states if i not in slots}
    needed = {i for i in used if i in others.values()}
    ys = [loop.ys[i - n] for i in used if i >= n]
    while others:
        wanted = [*ys, *(loop.carry_out[i] for i in needed)]
        nodes = loop.reach(wanted, known, others)
        read = {*wanted, *(v for node in nodes for v in node.inputs)}
        more = {others[v] for v in read if v in others and v not in known}
        if more <= needed:
            break
        needed |= more
    return tuple(sorted(needed))


def run_rest(
    node: Node,
    loop: Loop,
    slots: Sequence[int],
    ys: Sequence[Value],
    first: Sequence[Any],
    steady: Mapping[Value, Any],
    moving: Mapping[Value, Any],
) -> tuple[dict[int, Any], dict[Value, Any]]:
    """A ``scan`` of what is left.

    Args:
        node: the ``scan`` that it was part of.
        loop: its parts.
        slots: places of the states that are left.
        ys: values of the body that are wanted of each step.
        first: the first values of everything that is carried.
        steady: arrays that are the same at each step.
        moving: arrays over time, which leads; results of what ran before among them.

    Returns:
        The last states by their places, and the values over time.
    """
    carried = [loop.carry[i] for i in slots]
    wanted = [*(loop.carry_out[i] for i in slots), *ys]
    nodes = loop.reach(wanted, {**steady, **moving}, carried)
    used = {v for n in nodes for v in n.inputs} | set(wanted)
    fixed = [v for v in steady if v in used]
    rows = [v for v in moving if v in used]
    constants = {v: a for v, a in loop.body.constant_values.items() if v in used}
    constants = {v: a for v, a in constants.items() if v not in steady and v not in moving}
    graph = Graph("rest", [*fixed, *carried, *rows], nodes, wanted, constants)

    def typed(arrays: Sequence[Any]) -> list[Any]:
        return [compat.with_weak_type(x, v.aval) for x, v in zip(arrays, carried, strict=True)]

    def step(states: Any, row: Any) -> Any:
        outs = evaluate(graph, [*(steady[v] for v in fixed), *states, *row])
        return typed(outs[: len(slots)]), outs[len(slots) :]

    options = {k: node.params[k] for k in _OPTIONS if k in node.params}
    init = typed([first[i] for i in slots])
    last, made = lax.scan(step, init, [moving[v] for v in rows], **options)
    return dict(zip(slots, last, strict=True)), dict(zip(ys, made, strict=True))
