"""A ``scan`` whose body is a recurrent cell: what it is made of, and the named op in its place."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax.numpy as jnp
from jax import lax

from jaxpress import nnops
from jaxpress.capture import Node, Value
from jaxpress.passes.rules.recurrent_cells import Cell, find_lstm, find_rnn
from jaxpress.passes.rules.recurrent_gru import find_gru
from jaxpress.passes.rules.recurrent_loop import Loop, replay
from jaxpress.passes.rules.recurrent_named import find_named
from jaxpress.passes.rules.recurrent_operands import data_of, operands_for, weights_of
from jaxpress.passes.rules.recurrent_polynomial import Unfit, through
from jaxpress.passes.rules.recurrent_refs import Ref
from jaxpress.passes.rules.recurrent_rest import run_rest, state_groups, states_beside
from jaxpress.passes.view import scalar_value

__all__ = ["Recurrent", "find_recurrent", "run_recurrent"]

# What is computed from the results step by step may be this many times as large as they are.
_MAX_BESIDES = 8


@dataclass(frozen=True)
class Mask:
    """Steps that count: where ``value`` is true, or is not."""

    value: Value
    positive: bool


@dataclass(frozen=True, eq=False)
class Recurrent:
    """A ``scan`` that is a recurrent op, and some arithmetic on its inputs and results.

    Attributes:
        loop: the scan's parts.
        cell: the cell in its body.
        slots: where h (and c) stand among the carried values.
        raw: the new h (and c) before masking.
        mask: which steps count; None for all.
        zeroed: values of the body that are h, and zero at steps that do not count.
    """

    loop: Loop
    cell: Cell
    slots: tuple[int, ...]
    raw: tuple[Value, ...]
    mask: Mask | None
    zeroed: tuple[Value, ...]


def find_recurrent(node: Node) -> Recurrent:
    """The recurrent op that a ``scan`` is.

    Raises:
        Unfit: it is none.
    """
    loop = Loop(node)
    reasons = []
    for group in state_groups(loop):
        try:
            return _of_group(loop, group)
        except Unfit as reason:
            reasons.append(str(reason))
    raise Unfit("; ".join(dict.fromkeys(reasons)) or "it carries nothing that changes by itself")


def _of_group(loop: Loop, states: tuple[int, ...]) -> Recurrent:
    """The recurrent op that computes these states, which need no others."""
    if len(states) not in (1, 2):
        raise Unfit(f"it carries {len(states)} arrays that change together")
    olds = [loop.carry[i] for i in states]
    masked = [_unmasked(loop, v, loop.carry_out[i]) for v, i in zip(olds, states, strict=True)]
    masks = {m for _, m in masked}
    if len(masks) != 1:
        raise Unfit("its states are masked in different ways")
    (mask,) = masks
    news = [new for new, _ in masked]
    if any(v.ndim < 1 for v in olds):
        raise Unfit("a state is a scalar")
    tries: list[tuple[Callable[[], Cell], tuple[int, ...]]]
    if len(olds) == 2:
        tries = [
            (partial(find_lstm, loop.reader(), news[h], news[c], olds[h], olds[c]), (h, c))
            for h, c in ((0, 1), (1, 0))
        ]
        orders = [(0, 1), (1, 0)]
    else:
        finders = (find_gru, find_rnn)
        tries = [(partial(find, loop.reader(), news[0], olds[0]), (0,)) for find in finders]
        orders = [(0,)]
    for order in orders:
        new, old = (tuple(values[i] for i in order) for values in (news, olds))
        tries.append((partial(find_named, loop.reader(), new, old), order))
    reasons = []
    for attempt, order in tries:
        try:
            cell = attempt()
        except Unfit as reason:
            reasons.append(str(reason))
            continue
        raw = tuple(news[i] for i in order)
        found = Recurrent(
            loop,
            cell,
            tuple(states[i] for i in order),
            raw,
            mask,
            _zeroed(loop, raw[0], mask),
        )
        _check_inputs(found)
        return found
    raise Unfit("; ".join(dict.fromkeys(reasons)))


def _unmasked(loop: Loop, old: Value, out: Value) -> tuple[Value, Mask | None]:
    """The new state before masking, and the mask."""
    node = loop.view.producer(out)
    if node is None or node.op != "select_n" or len(node.inputs) != 3:
        return out, None
    predicate, off, on = loop.view.inputs(node)
    if (off is old) == (on is old) or not _is_by_row(loop, predicate):
        return out, None
    return (on, Mask(predicate, True)) if off is old else (off, Mask(predicate, False))


def _is_by_row(loop: Loop, predicate: Value) -> bool:
    """Whether it is boolean, free of the state, and the same for all features."""
    if predicate.dtype != jnp.bool_ or not loop.is_free(predicate):
        return False
    if not predicate.ndim:
        return True
    value, at = predicate, predicate.ndim - 1
    while value.shape[at] != 1:
        node = loop.view.producer(value)
        if node is None or node.op != "broadcast_in_dim":
            return False
        dims = [int(d) for d in node.params["broadcast_dimensions"]]
        if at not in dims:
            return True
        value, at = loop.view.inputs(node)[0], dims.index(at)
    return True


def _zeroed(loop: Loop, h: Value, mask: Mask | None) -> tuple[Value, ...]:
    """``where(mask, h, 0)``, where it is computed."""
    if mask is None:
        return ()
    found = []
    for node in loop.view.users(mask.value):
        inputs = loop.view.inputs(node)
        if node.op == "select_n" and len(inputs) == 3 and inputs[0] is mask.value:
            on, off = (inputs[2], inputs[1]) if mask.positive else (inputs[1], inputs[2])
            if on is h and scalar_value(loop.view, off) == 0:
                found.append(node.output)
    return tuple(found)


def _check_inputs(found: Recurrent) -> None:
    loop, cell = found.loop, found.cell
    refs = data_of(cell)
    if not refs:
        raise Unfit("it takes no input")
    rank = cell.h.ndim
    if any(len(ref.axes) != rank for ref in refs):
        raise Unfit("its input has other batch dimensions than its state")
    nodes = loop.reach([ref.value for ref in refs], ())
    inputs = sum(_elements(ref.value) for ref in refs) + _elements(cell.h) * len(cell.gates)
    loop.check_size([n for n in nodes if not loop.is_steady(n.output)], _MAX_BESIDES * inputs)


def _elements(value: Value) -> int:
    n = 1
    for d in value.shape:
        n *= d if isinstance(d, int) else 1
    return n


def _known_results(found: Recurrent) -> dict[Value, str]:
    """The values of the body that the op's results give, and which result it is."""
    loop, view = found.loop, found.loop.view
    known: dict[Value, str] = {}
    for name, slot, raw in zip(("y", "cells"), found.slots, found.raw, strict=False):
        known[loop.carry_out[slot]] = name
        known[loop.carry[slot]] = f"{name} before"
        if found.mask is None:
            known[raw] = name
            if through(view, raw).dtype == raw.dtype:
                known[through(view, raw)] = name
    known.update((v, "zeroed") for v in found.zeroed)
    return known


def _besides(
    found: Recurrent, known: Mapping[Value, str], ys: list[Value], beside: tuple[int, ...]
) -> list[Node]:
    """The nodes that compute ``ys`` and the states beside the op's from its results."""
    loop = found.loop
    wanted = [*ys, *(loop.carry_out[i] for i in beside)]
    return loop.reach(wanted, known, [loop.carry[i] for i in beside])


def unfit_results(found: Recurrent, used: list[int]) -> str | None:
    """Why the results that are used cannot be given; None if they can.

    Args:
        found: the op.
        used: which outputs of the scan are.
    """
    loop = found.loop
    n = len(loop.carry)
    ys = [loop.ys[i - n] for i in used if i >= n]
    known = _known_results(found)
    rest = [v for v in ys if v not in known]
    try:
        beside = states_beside(loop, found.slots, known, used)
        nodes = _besides(found, known, rest, beside)
        if not loop.within(found.raw).isdisjoint(nodes):
            return "what the cell computes on the way is a result too"
        results = sum(_elements(v) for v in ys) + _elements(found.cell.h)
        if not beside:
            loop.check_size(nodes, _MAX_BESIDES * results)
    except Unfit as reason:
        return str(reason)
    return None


def run_recurrent(
    node: Node,
    found: Recurrent,
    cell: Cell,
    arrays: list[Any],
    outside: Mapping[Value, Any],
    used: list[int],
) -> list[Any]:
    """The named op in place of the scan, and what else it computes.

    Args:
        node: the scan.
        found: what it is.
        cell: its cell, perhaps with an input projection that was ahead of the loop.
        arrays: its operands.
        outside: arrays of the cell that are not of the body.
        used: which of its outputs are used; the others are zeros.
    """
    loop = found.loop
    n_consts, n_carry = len(loop.consts), len(loop.carry)
    consts, first, xs = (
        arrays[:n_consts],
        arrays[n_consts : n_consts + n_carry],
        arrays[n_consts + n_carry :],
    )
    length, reverse = int(node.params["length"]), bool(node.params["reverse"])
    steady = {
        **dict(zip(loop.consts, consts, strict=True)),
        **{loop.carry[i]: first[i] for i in loop.kept},
    }
    moving = dict(zip(loop.xs, xs, strict=True))
    for counter in loop.counters:
        start = first[counter.slot]
        count = lax.iota(start.dtype, length)
        count = count[::-1] if reverse else count
        moving[loop.carry[counter.slot]] = start + counter.step * count

    mask = [] if found.mask is None else [found.mask.value]
    wanted = [ref.value for ref in data_of(cell) if ref.value not in outside] + mask
    weights = replay(loop, [v for v in weights_of(cell) if v not in outside], steady, {})
    weights.update(outside)
    still = replay(loop, [v for v in wanted if loop.is_steady(v)], steady, {})
    over_time = replay(loop, [v for v in wanted if not loop.is_steady(v)], steady, moving)
    batch = cell.h.shape[:-1]

    def columns(ref: Ref) -> Any:
        if ref.value in outside:
            x = lax.transpose(outside[ref.value], ref.axes)
        elif ref.value in over_time:
            x = over_time[ref.value]
            x = lax.transpose(x, (*(a + 1 for a in ref.axes[:-1]), 0, ref.features + 1))
        else:
            x = lax.transpose(still[ref.value], ref.axes)[..., None, :]
        x = x if (ref.lo, ref.hi) == (0, x.shape[-1]) else x[..., ref.lo : ref.hi]
        shape = (*batch, length, x.shape[-1])
        return x if x.shape == shape else jnp.broadcast_to(x, shape)

    operands = operands_for(cell, weights.__getitem__, columns)
    for name, slot in zip("hc", found.slots, strict=False):
        operands[f"{name}0"] = first[slot]
    params: dict[str, Any] = {**dict(cell.params), "reverse": reverse}
    kept = [loop.ys[i - n_carry] for i in used if i >= n_carry]
    known = _known_results(found)
    rest = [v for v in kept if v not in known]
    beside = states_beside(loop, found.slots, known, used)
    asked = {known[v] for v in (*kept, *(loop.carry_out[i] for i in beside)) if v in known}
    nodes = _besides(found, known, rest, beside)
    asked |= {known[v] for n in nodes for v in n.inputs if v in known}
    if found.mask is not None:
        value = found.mask.value
        on = _mask_over_time(over_time.get(value), still.get(value), batch, length)
        operands["mask"] = on if found.mask.positive else ~on
        hold = bool(asked - {"zeroed"})
        params["masked_output"] = "hold" if hold else "zero"
    cells = any(name.startswith("cells") for name in asked)
    out = nnops.registry()[cell.kind].rebind(operands, **params, residuals=cells)
    y, *last = out
    results: dict[str, Any] = {"y": y}
    if cells:
        results["cells"] = last[len(found.slots)]
    if found.mask is not None:
        hold = params["masked_output"] == "hold"
        results["zeroed"] = jnp.where(operands["mask"][..., None], y, 0) if hold else y
    sequences = {k: jnp.moveaxis(v, -2, 0) for k, v in results.items()}
    for name, slot in zip(("y", "cells"), found.slots, strict=False):
        if f"{name} before" in asked:
            sequences[f"{name} before"] = _before(first[slot], sequences[name], reverse)
    given = {v: sequences[name] for v, name in known.items() if name in sequences}
    moving.update(given)
    finals = dict(zip(found.slots, last, strict=False))
    if beside:
        lasts, more = run_rest(node, loop, beside, rest, first, steady, moving)
        finals.update(lasts)
        more.update(given)
    else:
        more = replay(loop, kept, steady, moving)
    outs = []
    for i, v in enumerate(node.outputs):
        if i not in used:
            outs.append(jnp.zeros(v.shape, v.dtype))
        elif i >= n_carry:
            y = loop.ys[i - n_carry]
            outs.append(_spread(more[y], y, length))
        elif i in finals:
            outs.append(finals[i])
        elif i in loop.kept:
            outs.append(first[i])
        else:
            (step,) = [c.step for c in loop.counters if c.slot == i]
            outs.append(first[i] + jnp.asarray(step * length, v.dtype))
    return outs


def _spread(array: Any, value: Value, length: int) -> Any:
    """A result over time; one that is the same at each step is repeated."""
    shape = (length, *value.shape)
    return array if jnp.shape(array) == shape else jnp.broadcast_to(array, shape)


def _before(first: Any, after: Any, reverse: bool) -> Any:
    """The states before each step."""
    first = first[None].astype(after.dtype)
    if reverse:
        return jnp.concatenate([after[1:], first]) if after.shape[0] else after
    return jnp.concatenate([first, after[:-1]]) if after.shape[0] else after


def _mask_over_time(moving: Any, still: Any, batch: tuple[Any, ...], length: int) -> Any:
    """The mask as (..., time)."""
    mask = moving if moving is not None else still[None]
    if mask.ndim == 1:
        return jnp.broadcast_to(mask, (*batch, length))
    mask = jnp.moveaxis(mask[..., 0], 0, -1)
    return jnp.broadcast_to(mask, (*batch, length))
