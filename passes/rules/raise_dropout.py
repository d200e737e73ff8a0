"""Dropout, however it was written, becomes ``dropout``.

Where the key can be found, the op draws from it and gives the very same mask. Where it cannot (the
mask is used twice, as in a gradient, or drawn in another way) the op takes the mask itself.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxpress import nnops
from jaxpress.capture import Node, Value
from jaxpress.passes.pattern import State
from jaxpress.passes.rule import Match, Rule, RuleSet
from jaxpress.passes.rules.random_masks import RANDOM_OPS, Draw, draw_of, is_random
from jaxpress.passes.view import View, scalar_value

__all__ = ["DROPOUT_RULES", "dropout_rules"]


class _Dropout(NamedTuple):
    """``x / share`` where ``mask``, 0 elsewhere: what a pattern found."""

    x: Value
    mask: Value
    share: Any
    form: str
    exact: bool
    nodes: tuple[Node, ...]


def _selected(view: View, node: Node) -> _Dropout | None:
    """``where(mask, x / share, 0)``, or divided after it."""
    nodes: list[Node] = []
    share: Any = None
    exact = True
    if node.op in ("div", "mul"):
        found = _scaled(view, node)
        inner = None if found is None else view.producer(found[0])
        if found is None or inner is None:
            return None
        share, exact = found[1:]
        node = inner
        nodes.append(node)
    if node.op != "select_n" or len(node.inputs) != 3:
        return None
    mask, zero, x = view.inputs(node)
    if scalar_value(view, zero) != 0 or mask.dtype != np.dtype(bool):
        return None
    if share is None:
        div = view.producer(x)
        found = None if div is None else _scaled(view, div)
        if div is None or found is None:
            return None
        x, share, exact = found
        # One quotient may serve two draws: it then stays for the other.
        if view.use_count(div.output) == 1:
            nodes.append(div)
    return _Dropout(x, mask, share, "select", exact, tuple(nodes))


def _multiplied(view: View, node: Node) -> _Dropout | None:
    """``mask * x / share``, in any order."""
    nodes: list[Node] = []
    share: Any = None
    exact = True
    found = _scaled(view, node)
    if found is not None:
        inner = view.producer(found[0])
        if inner is None or inner.op != "mul":
            return None
        share, exact = found[1:]
        node = inner
        nodes.append(node)
    if node.op != "mul":
        return None
    for gate, x in (view.inputs(node), view.inputs(node)[::-1]):
        factor = _mask_factor(view, gate)
        if factor is None or x.shape != node.output.shape:
            continue
        mask, own, more = factor
        if own is None and share is None:
            div = view.producer(x)
            scaled = None if div is None else _scaled(view, div)
            if div is None or scaled is None:
                continue
            x, own, more = scaled[0], scaled[1], (*more, div)
            exact = False  # a quotient that overflows times 0 is no number
        if (own is None) == (share is None):
            continue
        exact = exact and own is None
        return _Dropout(x, mask, share if own is None else own, "multiply", exact, (*nodes, *more))
    return None


def _scaled(view: View, node: Node) -> tuple[Value, Any, bool] | None:
    """What is divided by a number, the number, and whether it is a true quotient."""
    if node.op not in ("div", "mul"):
        return None
    a, b = view.inputs(node)
    number = scalar_value(view, b)
    if node.op == "div":
        return None if number is None else (a, number, True)
    if number is None:
        a, b, number = b, a, scalar_value(view, a)
    if number is None or number == 0 or not jnp.issubdtype(node.output.dtype, jnp.floating):
        return None
    return a, np.asarray(1 / np.float64(number), number.dtype)[()], False


def _mask_factor(view: View, value: Value) -> tuple[Value, Any, tuple[Node, ...]] | None:
    """The mask behind a factor of zeros and ones, and what it is divided by, if it is."""
    node = view.producer(value)
    share, nodes = None, []
    if node is not None and _only_strengthens(node):
        nodes.append(node)
        node = view.producer(view.inputs(node)[0])
    scaled = None if node is None else _scaled(view, node)
    if node is not None and scaled is not None:
        share = scaled[1]
        nodes.append(node)
        node = view.producer(scaled[0])
    if node is None or node.op != "convert_element_type":
        return None
    mask = view.inputs(node)[0]
    if mask.dtype != np.dtype(bool):
        return None
    return mask, share, (*nodes, node)


def _only_strengthens(node: Node) -> bool:
    """Whether a conversion changes no more than that a type is weak."""
    return node.op == "convert_element_type" and node.inputs[0].dtype == node.output.dtype


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
        view = state.view
        if not jnp.issubdtype(node.output.dtype, jnp.floating):
            state.fail("it is of no floating-point array", node)
            return None
        found = _selected(view, node) or _multiplied(view, node)
        if found is None or found.exact != self.exact:
            state.fail("it is no masked array over a number", node)
            return None
        x = found.x
        if x.shape != node.output.shape or x.dtype != node.output.dtype or view.is_known(x):
            state.fail("it changes the shape or dtype, or is of weights", node)
            return None
        if not 0 < float(found.share) < 1:
            state.fail(f"it is divided by {found.share}, which is no share", node)
            return None
        if not self.keyed:
            return _masked(state, node, found)
        draw = draw_of(view, found.mask)
        rate = None if draw is None else _rate(draw.keep, found.share)
        axes = None if draw is None else _axes(draw, found.mask, x)
        if draw is None or rate is None or axes is None:
            state.fail("its mask is not drawn by bernoulli with that share", node)
            return None
        info = {"rate": rate, "form": found.form, "draw": draw.keep.dtype.name, **axes}
        values = {"x": x, "key": draw.key}
        return Match(view, node, values, matched=(*found.nodes, *draw.nodes), info=info)


def _masked(state: State, node: Node, found: _Dropout) -> Match | None:
    view = state.view
    rate = _rate(found.share, found.share)
    if rate is None or found.mask.ndim != found.x.ndim or not is_random(view, found.mask):
        state.fail("its mask is not random", node)
        return None
    info = {"rate": rate, "form": found.form}
    values = {"x": found.x, "keep": found.mask}
    return Match(view, node, values, matched=found.nodes, info=info)


def _rate(keep: Any, share: Any) -> float | None:
    """The shortest rate with ``1 - rate`` both the probability and what is divided by."""
    for digits in range(1, 18):
        rate = float(f"{1 - float(keep):.{digits}g}")
        kept = 1.0 - rate
        if np.asarray(kept, keep.dtype) == keep and np.asarray(kept, share.dtype) == share:
            return rate
    return None


def _axes(draw: Draw, mask: Value, x: Value) -> dict[str, Any] | None:
    """How the draw's axes stand to those of ``x``.

    ``over``: axes of x that a vmap ran over, and whether it ran over keys too; ``broadcast_dims``:
    of the others, those along which one draw serves.
    """
    if mask.ndim != x.ndim:
        return None
    keys = draw.key.ndim
    over = [(axis, True) for axis in draw.axes[:keys]]
    own = draw.axes[keys:]
    over += [(axis, False) for axis in range(x.ndim) if axis not in draw.axes]
    if any(x.shape[axis] != n for axis, n in zip(draw.axes[:keys], draw.shape, strict=False)):
        return None
    shared = []
    for axis, n in zip(own, draw.shape[keys:], strict=True):
        if n != x.shape[axis]:
            if n != 1:
                return None
            shared.append(axis)
    inner = [axis for axis in range(x.ndim) if axis in own]
    dims = tuple(inner.index(axis) - len(inner) for axis in shared)
    return {"over": tuple(over), "broadcast_dims": dims}


def _raise_keyed(x: Any, key: Any, *, match: Match) -> Any:
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
    return jnp.moveaxis(fn(jnp.moveaxis(x, places, front), key), front, places)


def _raise_masked(x: Any, keep: Any, *, match: Match) -> Any:
    info = match.info
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
