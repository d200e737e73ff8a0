"""Dropout, however it was written, becomes ``dropout``.

Where the key can be found, the op draws from it and gives the very same mask. Where it cannot (the
mask is used twice, as in a gradient, or drawn in another way) the op takes the mask itself.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxpress import nnops
from jaxpress.capture import Node, Value
from jaxpress.passes.pattern import State
from jaxpress.passes.rule import Match, Rule, RuleSet
from jaxpress.passes.rules.dropout_gates import Gate, gate_of, scaled_by
from jaxpress.passes.rules.random_masks import RANDOM_OPS, Draw
from jaxpress.passes.view import View, scalar_value

__all__ = ["DROPOUT_RULES", "dropout_rules"]


class _Dropout(NamedTuple):
    """``x / share`` where ``gate``, 0 elsewhere: what a pattern found.

    ``x`` is None for ones; ``turned`` is how its axes stand in the result.
    """

    x: Value | None
    gate: Gate
    share: Any
    form: str
    exact: bool
    nodes: tuple[Node, ...]
    turned: tuple[int, ...] | None = None


def _found(view: View, node: Node) -> Iterator[_Dropout]:
    """The ways to read a node as a dropout."""
    for find in (_selected, _multiplied, _drawn):
        found = find(view, node)
        if found is not None and found.gate.share is None:
            yield found


def _selected(view: View, node: Node) -> _Dropout | None:
    """``where(mask, x / share, 0)``, or divided after it; or ``where(mask, 1 / share, 0)``."""
    outer: tuple[Node, ...] = ()
    share: Any = None
    exact = True
    if node.op in ("div", "mul"):
        found = scaled_by(view, node)
        inner = None if found is None else view.producer(found[0])
        if found is None or inner is None:
            return None
        share, exact = found[1:]
        node, outer = inner, (inner,)
    if node.op != "select_n" or len(node.inputs) != 3:
        return None
    mask, off, on = view.inputs(node)
    gate = None if mask.dtype != np.dtype(bool) else gate_of(view, mask)
    if gate is None:
        return None
    if scalar_value(view, off) != 0:
        off, on, gate = on, off, gate._replace(negated=not gate.negated)
    if scalar_value(view, off) != 0:
        return None
    x, nodes = on, (*outer, *gate.nodes)
    if share is not None:
        return _Dropout(x, gate, share, "select", exact, nodes)
    number = scalar_value(view, x)
    if number is not None and number > 0:
        share = np.asarray(1 / np.float64(number), x.dtype)[()]
        return _Dropout(None, gate, share, "select", False, nodes) if gate.keeps(share) else None
    return _divided_before(view, _Dropout(x, gate, None, "select", exact, nodes))


def _divided_before(view: View, found: _Dropout) -> _Dropout | None:
    """With ``x / share`` taken apart, where that is what is dropped; transposed, under vmap."""
    assert found.x is not None
    maker, nodes, turned = view.producer(found.x), found.nodes, None
    if maker is not None and maker.op == "transpose":
        nodes += (maker,) if view.use_count(maker.output) == 1 else ()
        turned = tuple(int(p) for p in maker.params["permutation"])
        maker = view.producer(view.inputs(maker)[0])
    scaled = None if maker is None else scaled_by(view, maker)
    if maker is None or scaled is None:
        return None
    x, share, true = scaled
    # One quotient may serve two draws: it then stays for the other.
    nodes += (maker,) if view.use_count(maker.output) == 1 else ()
    return found._replace(x=x, share=share, exact=found.exact and true, nodes=nodes, turned=turned)


def _multiplied(view: View, node: Node) -> _Dropout | None:
    """``mask * x / share``, in any order."""
    outer: tuple[Node, ...] = ()
    share: Any = None
    exact = True
    found = scaled_by(view, node)
    if found is not None:
        inner = view.producer(found[0])
        if inner is None or inner.op != "mul":
            return None
        share, exact = found[1:]
        node, outer = inner, (inner,)
    if node.op != "mul":
        return None
    for factor, x in (view.inputs(node), view.inputs(node)[::-1]):
        gate = gate_of(view, factor)
        if gate is None or x.shape != node.output.shape:
            continue
        nodes, own = (*outer, *gate.nodes), gate.share
        gate = gate._replace(share=None)
        if own is not None and share is None:
            return _Dropout(x, gate, own, "multiply", False, nodes)
        if own is not None:
            continue
        if share is not None:
            return _Dropout(x, gate, share, "multiply", exact, nodes)
        # A quotient that overflows times 0 is no number.
        before = _divided_before(view, _Dropout(x, gate, None, "multiply", False, nodes))
        if before is not None:
            return before
    return None


def _drawn(view: View, node: Node) -> _Dropout | None:
    """``mask / share`` alone: what several arrays, or the steps of a loop, are multiplied with."""
    gate = gate_of(view, node.output) if scaled_by(view, node) is not None else None
    if gate is None or gate.share is None or not gate.keeps(gate.share):
        return None
    return _Dropout(
        None, gate._replace(share=None), gate.share, "multiply", gate.exact, gate.nodes[1:]
    )


class _DropoutPattern:
    """One way to write dropout.

    Args:
      keyed: the key is found and the mask has no other use, so that the op can draw itself.
      exact: it is computed in the op's own order.
    """

    def __init__(self, keyed: bool, exact: bool):
        self.keyed = keyed
        self.exact = exact
        self.names = frozenset({"select_n", "div", "mul"})
        self.size = 14 if keyed else 3

    def find(self, state: State, node: Node) -> Match | None:
        if not jnp.issubdtype(node.output.dtype, jnp.floating):
            state.fail("it is of no floating-point array", node)
            return None
        for found in _found(state.view, node):
            if found.exact == self.exact:
                return self._of(state, node, found)
        state.fail("it is no masked array over a number", node)
        return None

    def _of(self, state: State, node: Node, found: _Dropout) -> Match | None:
        view, x, gate = state.view, found.x, found.gate
        shape = tuple(node.output.shape)
        if x is not None and found.turned is not None:
            fits = tuple(x.shape[i] for i in found.turned) == shape
        else:
            fits = x is None or tuple(x.shape) == shape
        if not fits or (x is not None and x.dtype != node.output.dtype):
            state.fail("it changes the shape or dtype", node)
            return None
        if not 0 < float(found.share) < 1:
            state.fail(f"it is divided by {found.share}, which is no share", node)
            return None
        if gate.negated and not gate.keeps(found.share):
            state.fail("what is true in its mask is dropped, with another share", node)
            return None
        values: dict[str, Value] = {} if x is None else {"x": x}
        info: dict[str, Any] = {"form": found.form, "turned": found.turned}
        if x is None:
            info["ones"] = shape, np.dtype(node.output.dtype).name
        if not self.keyed:
            rate = _rate(found.share, found.share)
            if rate is None:
                return None
            info.update(rate=rate, axes=gate.axes, negated=gate.negated)
            # Others may need the mask, and the quotients: those stay for them.
            return Match(view, node, {**values, "keep": gate.mask}, info=info)
        draw = gate.draw
        plain = draw is not None and not gate.negated and gate.mask.dtype == np.dtype(bool)
        rate = _rate(draw.keep, found.share) if draw is not None and plain else None
        axes = None if draw is None else _axes(draw, gate.axes, shape)
        if draw is None or rate is None or axes is None:
            state.fail("its mask is not drawn by bernoulli with that share", node)
            return None
        info.update(rate=rate, draw=draw.keep.dtype.name, **axes)
        matched = (*found.nodes, *draw.nodes)
        return Match(view, node, {**values, "key": draw.key}, matched=matched, info=info)


def _rate(keep: Any, share: Any) -> float | None:
    """The shortest rate with ``1 - rate`` both the probability and what is divided by."""
    for digits in range(1, 18):
        rate = float(f"{1 - float(keep):.{digits}g}")
        kept = 1.0 - rate
        if np.asarray(kept, keep.dtype) == keep and np.asarray(kept, share.dtype) == share:
            return rate
    return None


def _axes(
    draw: Draw, axes: tuple[int | None, ...], shape: tuple[Any, ...]
) -> dict[str, Any] | None:
    """How the draw's axes stand to those of the result.

    ``over``: axes of it that a vmap ran over, and whether it ran over keys too; ``broadcast_dims``:
    of the others, those along which one draw serves.
    """
    places = [axis for axis in axes if axis is not None]
    if len(places) != len(draw.shape):
        return None
    keys = draw.key.ndim
    own = places[keys:]
    over = [(axis, True) for axis in places[:keys]]
    over += [(axis, False) for axis in range(len(shape)) if axis not in places]
    if own != sorted(own):
        return None
    if any(shape[axis] != n for axis, n in zip(places[:keys], draw.shape, strict=False)):
        return None
    shared = []
    for axis, n in zip(own, draw.shape[keys:], strict=True):
        if n != shape[axis]:
            if n != 1:
                return None
            shared.append(axis)
    dims = tuple(own.index(axis) - len(own) for axis in shared)
    return {"over": tuple(over), "broadcast_dims": dims}


def _operand(x: Any, info: dict[str, Any]) -> Any:
    if "ones" in info:
        shape, dtype = info["ones"]
        return jnp.ones(shape, dtype)
    return x if info["turned"] is None else jnp.transpose(x, info["turned"])


def _raise_keyed(*, match: Match, key: Any, x: Any = None) -> Any:
    info = match.info
    params = {k: info[k] for k in ("rate", "form", "draw", "broadcast_dims")}

    def fn(x: Any, key: Any) -> Any:
        return nnops.registry()["dropout"].rebind({"x": x, "key": key}, **params)

    # Innermost last: the keys' axes are in order, the others have no key to map.
    over: Sequence[tuple[int, bool]] = info["over"]
    for _, keyed in reversed(over):
        fn = jax.vmap(fn, in_axes=(0, 0 if keyed else None))
    places = [axis for axis, _ in over]
    front = list(range(len(places)))
    return jnp.moveaxis(fn(jnp.moveaxis(_operand(x, info), places, front), key), front, places)


def _raise_masked(*, match: Match, keep: Any, x: Any = None) -> Any:
    info = match.info
    x = _operand(x, info)
    keep = keep if keep.dtype == bool else keep != 0
    keep = ~keep if info["negated"] else keep
    axes = info["axes"]
    if axes != tuple(range(x.ndim)):
        keep = jnp.squeeze(keep, [i for i, axis in enumerate(axes) if axis is None])
        places = [axis for axis in axes if axis is not None]
        order = sorted(range(len(places)), key=places.__getitem__)
        keep = jnp.transpose(keep, order)
        keep = jnp.expand_dims(keep, [i for i in range(x.ndim) if i not in places])
    return nnops.registry()["dropout"].rebind(
        {"x": x, "keep": keep}, rate=info["rate"], form=info["form"]
    )


# where(bernoulli(key), x / share, 0) -> dropout(x, key);  bernoulli(key) * x / share likewise
RAISE_DROPOUT = Rule("raise_dropout", _DropoutPattern(True, True), _raise_keyed)

# x * (bernoulli(key) / share) -> dropout(x, key)
RAISE_SCALED_DROPOUT = Rule(
    "raise_scaled_dropout", _DropoutPattern(True, False), _raise_keyed, numerics="reassociates"
)

# where(mask, x / share, 0) -> dropout(x, keep=mask), of a random mask
RAISE_MASKED_DROPOUT = Rule("raise_masked_dropout", _DropoutPattern(False, True), _raise_masked)

# x * (mask / share) -> dropout(x, keep=mask), of a random mask
RAISE_SCALED_MASK = Rule(
    "raise_scaled_mask", _DropoutPattern(False, False), _raise_masked, numerics="reassociates"
)

DROPOUT_RULES = RuleSet(
    (RAISE_DROPOUT, RAISE_SCALED_DROPOUT, RAISE_MASKED_DROPOUT, RAISE_SCALED_MASK)
)


def dropout_rules(ops: Collection[str] | None = None) -> RuleSet:
    """The rules for dropout; none for the op names of a graph that draws nothing."""
    draws = ops is None or any(op.startswith(RANDOM_OPS) for op in ops)
    return DROPOUT_RULES if draws else RuleSet()
