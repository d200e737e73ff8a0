"""Softmax, however it was written out, becomes ``softmax``."""

from __future__ import annotations

from typing import Any

from jax import lax

from jaxpress import nnops
from jaxpress.capture import Node, Value
from jaxpress.passes.pattern import State
from jaxpress.passes.rule import Match, Rule, RuleSet
from jaxpress.passes.rules.cleanup_moves import is_plain
from jaxpress.passes.rules.shifted_exp import (
    Place,
    axes_from_end,
    below_spread,
    exponentials_of,
    masked_by,
    only_among_themselves,
    place_of,
)
from jaxpress.passes.view import View, scalar_value

__all__ = ["SOFTMAX_RULES", "softmax_at"]


class _SoftmaxPattern:
    """``exp(x - max(x)) / sum(exp(x - max(x)))``.

    Args:
      by_hand: the maximum has a gradient (which comes to nothing), or the sum's inverse is
        multiplied with; as ``jax.nn.softmax`` does not have it.
    """

    names = frozenset({"div", "mul", "select_n"})
    size = 7

    def __init__(self, by_hand: bool):
        self.by_hand = by_hand

    def find(self, state: State, node: Node) -> Match | None:
        view = state.view
        quotient, where = node, None
        if node.op == "select_n":
            masked = masked_by(view, node, 0.0)
            maker = None if masked is None else view.producer(masked[1])
            if masked is None or maker is None:
                state.fail("it does not leave elements out", node)
                return None
            where, quotient = masked[0], maker
        for e, total, steps in _quotients(view, quotient):
            if steps and not self.by_hand:
                state.fail("it multiplies with the inverse", quotient)
                continue
            found = exponentials_of(view, total)
            if isinstance(found, str):
                state.fail(found, quotient)
                continue
            if found.exp.output is not e:
                state.fail("the denominator is not the sum of the numerator", quotient)
                continue
            if found.where is not where:
                state.fail("it leaves out other elements than its sum does", node)
                continue
            if found.largest.finite:
                state.fail("infinities are exchanged", found.shifted)
                continue
            if self.by_hand == (found.largest.stopped and not steps):
                state.fail("the maximum has a gradient", found.shifted)
                continue
            values = {"x": found.x, **({} if where is None else {"where": where})}
            info = {"axis": axes_from_end(found.axes, found.x.ndim)}
            matched = (quotient, *steps, *found.nodes)
            return Match(view, node, values, matched=matched, info=info)
        state.fail("it is no quotient of an exponential and a sum", node)
        return None


def _quotients(view: View, node: Node) -> list[tuple[Value, Place, list[Node]]]:
    """Every way to read a node as ``e / total``, with what else is in between."""
    if node.op == "div":
        e, total = view.inputs(node)
        return [(e, place_of(total), [])] if e.ndim == total.ndim else []
    if node.op != "mul":
        return []
    found = []
    for e, inverse in (view.inputs(node), view.inputs(node)[::-1]):
        # The inverse is of one number a row, and spread out after.
        place, spread = below_spread(view, place_of(inverse))
        maker = view.producer(place.value)
        if maker is None or e.ndim != inverse.ndim:
            continue
        inputs = view.inputs(maker)
        is_inverse = (maker.op == "integer_pow" and maker.params["y"] == -1) or (
            maker.op == "div" and scalar_value(view, inputs[0]) == 1
        )
        if is_inverse and inputs[-1].shape == place.value.shape:
            found.append((e, place._replace(value=inputs[-1]), [*spread, maker]))
    return found


def _guard(match: Match) -> str | None:
    return _changes(match) or only_among_themselves(match)


def _changes(match: Match) -> str | None:
    x, y = match["x"], match.root.output
    return "it changes the shape or dtype" if x.shape != y.shape or x.dtype != y.dtype else None


def softmax_at(view: View, node: Node) -> Match | None:
    """The softmax that a node ends, in any spelling; who else uses its pieces is not looked at."""
    if node.op in _PATTERNS[0].names:
        for pattern in _PATTERNS:
            match = pattern.find(State(view), node)
            if match is not None and _changes(match) is None:
                return match
    return None


def _raise(x: Any, where: Any = None, *, match: Match) -> Any:
    return nnops.softmax(x, axis=match.info["axis"], where=where)


_PATTERNS = (_SoftmaxPattern(by_hand=False), _SoftmaxPattern(by_hand=True))

# exp(x - max(x)) / sum(exp(x - max(x))) -> softmax(x)
RAISE_SOFTMAX = Rule("raise_softmax", _PATTERNS[0], _raise, _guard, shared=True)

# The same where the maximum has a gradient, or with 1 / sum: its derivative is rounded differently.
RAISE_SOFTMAX_BY_HAND = Rule(
    "raise_softmax_by_hand",
    _PATTERNS[1],
    _raise,
    _guard,
    numerics="reassociates",
    shared=True,
)


class _ReshapedSoftmax:
    """Attention weights that get back the axes that they had before a mask was added.

    As shifted windows have it: masks are of windows, and the weights of images and windows.
    """

    names = frozenset({"reshape"})
    size = 2

    def find(self, state: State, node: Node) -> Match | None:
        view = state.view
        softmax = view.producer(view.inputs(node)[0])
        if softmax is None or softmax.op != "softmax" or softmax.params.get("mapped"):
            state.fail("it is of no softmax", node)
            return None
        x, *where = view.inputs(softmax)
        y = node.output
        if where or softmax.params["axis"] != -1 or node.params.get("dimensions") is not None:
            state.fail("some elements are left out, or it is along another axis", softmax)
            return None
        if not y.ndim or x.shape[-1:] != y.shape[-1:] or not is_plain(x, y):
            state.fail("it changes the axis of the softmax", node)
            return None
        users = view.users(y)
        if view.is_output(y) or not users or any(user.op != "dot_general" for user in users):
            state.fail("they are no weights of a sum", node)
            return None
        return Match(view, node, {"x": x}, matched=(softmax,))


# reshape(softmax(x)) -> softmax(reshape(x)), in front of a product
RESHAPED_SOFTMAX = Rule(
    "reshaped_softmax",
    _ReshapedSoftmax(),
    lambda x, *, match: nnops.softmax(lax.reshape(x, match.root.output.shape)),
)

SOFTMAX_RULES = RuleSet((RAISE_SOFTMAX, RAISE_SOFTMAX_BY_HAND, RESHAPED_SOFTMAX))
