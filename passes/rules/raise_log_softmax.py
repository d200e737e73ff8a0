"""Logarithms of softmax and of sums of exponentials become ``log_softmax`` and ``logsumexp``."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from jaxpress import nnops
from jaxpress.capture import Node
from jaxpress.passes.pattern import State
from jaxpress.passes.rule import Match, Rule, RuleSet
from jaxpress.passes.rules.raise_logmeanexp import RAISE_LOGMEANEXP
from jaxpress.passes.rules.shifted_exp import (
    Exponentials,
    Place,
    axes_from_end,
    below_spread,
    exponentials_of,
    masked_by,
    only_among_themselves,
    place_of,
)
from jaxpress.passes.view import View

__all__ = ["LOG_SOFTMAX_RULES", "log_softmax_at"]

Nodes = tuple[Node, ...]


def _log_of(view: View, place: Place) -> tuple[Exponentials | str, Nodes]:
    """The sum of exponentials that a value is the logarithm of, and what takes it."""
    place, spread = below_spread(view, place)
    log = view.producer(place.value)
    if log is None or log.op != "log":
        return "there is no logarithm", ()
    nodes, total = (*spread, log), view.inputs(log)[0]
    size = view.producer(total)
    if size is not None and size.op == "abs":
        nodes, total = (*nodes, size), view.inputs(size)[0]
    return exponentials_of(view, place._replace(value=total)), nodes


def _log_plus_max(view: View, place: Place) -> tuple[Exponentials | str, Nodes]:
    """The same for ``log(sum(exp(x - max(x)))) + max(x)``."""
    place, spread = below_spread(view, place)
    add = view.producer(place.value)
    if add is None or add.op != "add":
        return "there is no sum of a logarithm and a maximum", ()
    reason = "neither operand of a sum is the logarithm of a sum of exponentials"
    for log, largest in (view.inputs(add), view.inputs(add)[::-1]):
        if log.shape != add.output.shape or largest.shape != add.output.shape:
            continue
        found, nodes = _log_of(view, place._replace(value=log))
        if isinstance(found, str):
            continue
        added = found.is_largest(view, place._replace(value=largest))
        if added is None:
            reason = "what is added is not the largest that was taken away"
            continue
        return found, (*spread, add, *nodes, *added.passed)
    return reason, ()


class _LogSoftmaxPattern:
    """``(x - max(x)) - log(sum(exp(x - max(x))))``.

    Args:
      by_hand: the maximum has a gradient (which comes to nothing), or it is added to the logarithm
        before that is taken away.
      exchanged: 0 may stand for a maximum that is not finite, as ``jax.nn.logsumexp`` has it: of a
        row with infinity the others are minus infinity then, where log_softmax has NaN.
    """

    names = frozenset({"sub", "select_n"})

    def __init__(self, by_hand: bool, exchanged: bool = False):
        self.by_hand = by_hand
        self.exchanged = exchanged
        # Larger than the logsumexp in it.
        self.size = 10 if by_hand else 7

    def find(self, state: State, node: Node) -> Match | None:
        view = state.view
        sub, where = node, None
        if node.op == "select_n":
            masked = masked_by(view, node, float("-inf"))
            maker = None if masked is None else view.producer(masked[1])
            if masked is None or maker is None or maker.op != "sub":
                state.fail("it does not leave elements out of a difference", node)
                return None
            where, sub = masked[0], maker
        x, subtracted = view.inputs(sub)
        if x.ndim != subtracted.ndim or x.shape != node.output.shape:
            state.fail("it is broadcast", sub)
            return None
        place = place_of(subtracted)
        found, nodes = _log_of(view, place)
        added = isinstance(found, str) and self.by_hand
        if added:
            found, nodes = _log_plus_max(view, place)
        if isinstance(found, str):
            state.fail(found, sub)
            return None
        reason = None
        if x is not (view.inputs(found.shifted)[0] if added else found.shifted.output):
            reason = "what the logarithm is taken from is another array"
        elif found.largest.finite and not (added and self.exchanged):
            reason = "infinities are exchanged"
        elif found.where is not where or (added and where is not None):
            reason = "it leaves out other elements than its sum does"
        elif self.by_hand == (found.largest.stopped and not added):
            reason = "the maximum has a gradient"
        if reason is not None:
            state.fail(reason, sub)
            return None
        values = {"x": found.x, **({} if where is None else {"where": where})}
        info = {"axis": axes_from_end(found.axes, found.x.ndim)}
        return Match(view, node, values, matched=(sub, *nodes, *found.nodes), info=info)


def _guard(match: Match) -> str | None:
    return _changes(match) or only_among_themselves(match)


def _changes(match: Match) -> str | None:
    x, y = match["x"], match.root.output
    if x.shape != y.shape or x.dtype != y.dtype or not jnp.issubdtype(x.dtype, jnp.floating):
        return "it changes the shape or dtype, or is of complex numbers"
    return None


def log_softmax_at(view: View, node: Node) -> Match | None:
    """The log_softmax that a node ends, in any spelling; who else uses its pieces is not asked.

    Also where infinities are exchanged: an attention is NaN at them either way.
    """
    if node.op in _PATTERNS[0].names:
        for pattern in (*_PATTERNS, _EXCHANGED):
            match = pattern.find(State(view), node)
            if match is not None and _changes(match) is None:
                return match
    return None


def _raise(x: Any, where: Any = None, *, match: Match) -> Any:
    return nnops.log_softmax(x, axis=match.info["axis"], where=where)


_EXCHANGED = _LogSoftmaxPattern(by_hand=True, exchanged=True)
_PATTERNS = (_LogSoftmaxPattern(by_hand=False), _LogSoftmaxPattern(by_hand=True))

# x - max(x) - log(sum(exp(x - max(x)))) -> log_softmax(x)
RAISE_LOG_SOFTMAX = Rule("raise_log_softmax", _PATTERNS[0], _raise, _guard, shared=True)

# x - (log(sum(exp(x - max(x)))) + max(x)) -> log_softmax(x)
RAISE_LOG_SOFTMAX_BY_HAND = Rule(
    "raise_log_softmax_by_hand",
    _PATTERNS[1],
    _raise,
    _guard,
    numerics="reassociates",
    shared=True,
)


class _LogSumExpPattern:
    """``log(sum(exp(x - max(x)))) + max(x)``, with 0 for a maximum that is not finite.

    Without that exchange it is another function: NaN where the sum is infinite or zero.
    """

    names = frozenset({"add"})
    size = 8

    def find(self, state: State, node: Node) -> Match | None:
        view = state.view
        found, nodes = _log_plus_max(view, place_of(node.output))
        if isinstance(found, str):
            state.fail(found, node)
            return None
        if not found.largest.finite or not found.largest.stopped:
            state.fail("it is NaN where the sum is infinite, or its maximum has a gradient", node)
            return None
        kept = node.output.ndim == found.x.ndim
        values = {"x": found.x, **({} if found.where is None else {"where": found.where})}
        axes = axes_from_end(found.axes, found.x.ndim)
        info = {"axis": axes, "keepdims": kept and bool(found.axes)}
        return Match(view, node, values, matched=(*nodes, *found.nodes), info=info)


def _log_sum_exp_guard(match: Match) -> str | None:
    x, y, info = match["x"], match.root.output, match.info
    if x.dtype != y.dtype or not jnp.issubdtype(x.dtype, jnp.floating):
        return "it changes the dtype, or is of complex numbers"
    axes = info["axis"] if isinstance(info["axis"], tuple) else (info["axis"],)
    gone = {a + x.ndim for a in axes}
    kept = [n for i, n in enumerate(x.shape) if i not in gone]
    if info["keepdims"]:
        kept = [1 if i in gone else n for i, n in enumerate(x.shape)]
    if list(y.shape) != kept:
        return "the result is broadcast"
    return only_among_themselves(match)


def _raise_log_sum_exp(x: Any, where: Any = None, *, match: Match) -> Any:
    info = match.info
    return nnops.logsumexp(x, axis=info["axis"], keepdims=info["keepdims"], where=where)


# log(sum(exp(x - max(x)))) + max(x) -> logsumexp(x)
RAISE_LOGSUMEXP = Rule(
    "raise_logsumexp",
    _LogSumExpPattern(),
    _raise_log_sum_exp,
    _log_sum_exp_guard,
    shared=True,
)


class _ExpOfLogSoftmaxPattern:
    """``exp(log_softmax(x))``, as Keras writes a softmax along several axes."""

    names = frozenset({"exp"})
    size = 2

    def find(self, state: State, node: Node) -> Match | None:
        log = state.view.producer(state.view.inputs(node)[0])
        if log is None or log.op != "log_softmax" or "mapped" in log.params:
            state.fail("it is of no log_softmax", node)
            return None
        x, *where = state.view.inputs(log)
        values = {"x": x, **({"where": where[0]} if where else {})}
        return Match(state.view, node, values, matched=(log,), info={"axis": log.params["axis"]})


def _softmax(x: Any, where: Any = None, *, match: Match) -> Any:
    return nnops.softmax(x, axis=match.info["axis"], where=where)


# exp(log_softmax(x)) -> softmax(x)
EXP_OF_LOG_SOFTMAX = Rule(
    "exp_of_log_softmax", _ExpOfLogSoftmaxPattern(), _softmax, numerics="reassociates"
)

LOG_SOFTMAX_RULES = RuleSet(
    (
        RAISE_LOG_SOFTMAX,
        RAISE_LOG_SOFTMAX_BY_HAND,
        RAISE_LOGSUMEXP,
        RAISE_LOGMEANEXP,
        EXP_OF_LOG_SOFTMAX,
    )
)
