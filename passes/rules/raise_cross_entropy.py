"""Cross entropies from logits become ``softmax_cross_entropy`` and ``binary_cross_entropy``.

What optax and Keras give where 0 meets infinity, and where a label is out of range, is a parameter
of the op: each form is raised to the very function that it is.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import lax

from jaxpress import nnops
from jaxpress.capture import Node, Value
from jaxpress.passes.pattern import State
from jaxpress.passes.rule import Match, Rule, RuleSet
from jaxpress.passes.rules.arithmetic import stretches
from jaxpress.passes.rules.kept_pieces import only_indices_shared
from jaxpress.passes.rules.loss_parts import (
    Above,
    becomes_negative,
    reduced_loss,
    refused_dtypes,
    signed_sum,
)
from jaxpress.passes.rules.picked import picked_of
from jaxpress.passes.rules.shifted_exp import below_spread, place_of
from jaxpress.passes.view import View

__all__ = ["CROSS_ENTROPY_RULES"]


class _LogP(NamedTuple):
    """The logarithms of probabilities.

    Attributes:
      logits: what they are of.
      axis: of the classes, counted from the end.
      by_logsumexp: how they are computed, as the loss has it.
      nodes: the operations.
    """

    logits: Value
    axis: int
    by_logsumexp: bool | str
    nodes: tuple[Node, ...]


def _log_p(view: View, value: Value) -> _LogP | None:
    """``log_softmax(x)`` or ``x - logsumexp(x)`` along one axis, if all of its elements count."""
    node = view.producer(value)
    if node is not None and node.op == "sub":
        return _minus_logsumexp(view, node)
    if node is None or node.op != "log_softmax" or node.params.get("mapped"):
        return None
    axis = node.params["axis"]
    if len(view.inputs(node)) != 1 or not isinstance(axis, int):
        return None
    return _LogP(view.inputs(node)[0], axis, False, (node,))


def _minus_logsumexp(view: View, sub: Node) -> _LogP | None:
    x, subtracted = view.inputs(sub)
    place, spread = below_spread(view, place_of(subtracted))
    lse = view.producer(place.value)
    if lse is None or lse.op != "logsumexp" or view.inputs(lse) != (x,) or lse.params.get("mapped"):
        return None
    axis = lse.params["axis"]
    if not isinstance(axis, int) or x.shape != sub.output.shape:
        return None
    kept = [i for i in range(x.ndim) if i != axis + x.ndim and x.shape[i] != 1]
    labels = zip(place.labels, place.value.shape, strict=True)
    if [i for i, n in labels if n != 1] != kept:
        return None
    return _LogP(x, axis, "each", (sub, *spread, lse))


class _DistributionPattern:
    """``-sum(labels * log_softmax(logits))``, also over further axes."""

    names = frozenset({"neg", "reduce_sum", "convert_element_type"})
    size = 4

    def find(self, state: State, node: Node) -> Match | None:
        view = state.view
        found = signed_sum(view, node, repeats=True)
        if isinstance(found, str):
            state.fail(found, node)
            return None
        for labels, log_p in (found.factors, found.factors[::-1]):
            score = _log_p(view, log_p)
            if score is None:
                continue
            axis = score.axis
            if axis + found.ndim not in found.axes:
                state.fail("the sum is not over the classes", node)
                return None
            info = {
                "axis": axis,
                "axes": found.axes,
                "ndim": found.ndim,
                "negated": found.positive,
                "by_logsumexp": score.by_logsumexp,
            }
            values = {"logits": score.logits, "labels": labels}
            return Match(view, node, values, matched=(*found.nodes, *score.nodes), info=info)
        state.fail("neither factor is a logarithm of softmax along one axis", node)
        return None


def _distribution_guard(match: Match) -> str | None:
    labels, logits, axis = match["labels"], match["logits"], match.info["axis"]
    if match.info["ndim"] != logits.ndim or not stretches(labels.shape, logits.shape):
        return "logits are broadcast, of which the softmax is computed once"
    if labels.shape[axis] != logits.shape[axis]:
        return "labels are broadcast along the classes"
    maker = match.view.producer(match["labels"])
    if maker is not None and maker.op in ("softmax", "exp"):
        x = match.view.inputs(maker)[0]
        if x is match["logits"] or match.view.producer(x) in match.matched:
            return "it is an entropy: the labels are made of the logits"
    return refused_dtypes(match, ("logits", "labels"))


def _raise_distribution(logits: Any, labels: Any, *, match: Match) -> Any:
    labels = jnp.broadcast_to(labels, logits.shape)
    return reduced_loss(
        nnops.softmax_cross_entropy,
        match,
        logits,
        labels,
        axis=match.info["axis"],
        by_logsumexp=match.info["by_logsumexp"],
        zero_times_infinity="nan",
    )


# -sum(labels * (x - logsumexp(x))) -> softmax_cross_entropy(x, labels, by_logsumexp="each")
# -sum(labels * log_softmax(logits)) -> softmax_cross_entropy(logits, labels)
RAISE_SOFTMAX_CROSS_ENTROPY = Rule(
    "raise_softmax_cross_entropy",
    Above(
        _DistributionPattern(),
        ("log_softmax", "logsumexp"),
        ("mul", "sub", "reshape", "broadcast_in_dim"),
    ),
    _raise_distribution,
    _distribution_guard,
    numerics="reassociates",
)


class _PickedPattern:
    """``-log_softmax(logits)[labels]`` or ``logsumexp(logits) - logits[labels]``.

    Without the former's sign, or with the latter's turned round, where a sum of it is negated.
    """

    names = frozenset({"neg", "sub", "gather", "reshape", "squeeze", "slice", "cond"})
    size = 5

    def find(self, state: State, node: Node) -> Match | None:
        view = state.view
        inputs = view.inputs(node)
        by_logsumexp = node.op == "sub"
        turned = by_logsumexp and _is_logsumexp(view, inputs[1])
        likelihood = turned or node.op not in ("neg", "sub")
        if likelihood and not becomes_negative(view, node.output):
            state.fail("it is no loss, but a likelihood", node)
            return None
        choice = node.output if likelihood and not turned else inputs[0 if turned else -1]
        picked = picked_of(view, choice)
        if isinstance(picked, str):
            state.fail(picked, node)
            return None
        axis = picked.axis - picked.x.ndim
        if by_logsumexp:
            lse = view.producer(inputs[1 if turned else 0])
            if picked.is_diagonal and lse is not None and lse.params.get("axis") == -2:
                axis = -2
            if (
                lse is None
                or lse.op != "logsumexp"
                or lse.params.get("mapped")
                or view.inputs(lse) != (picked.x,)
                or inputs[0].shape != inputs[1].shape
            ):
                state.fail("it is not taken from the log-sum-exp of the same array", node)
                return None
            at = lse.params["axis"]
            score = _LogP(picked.x, at[0] if at == (axis,) else at, True, (lse,))
        else:
            score = _log_p(view, picked.x)
        if score is None:
            state.fail("what is picked from is no logarithm of softmax", node)
            return None
        if picked.is_diagonal and not by_logsumexp:
            axis = score.axis
        if score.axis != axis:
            state.fail("it is picked along another axis than that of the classes", node)
            return None
        info = {
            "axis": axis,
            "from_end": picked.from_end,
            "out_of_range": picked.out_of_range,
            "by_logsumexp": score.by_logsumexp,
            "negated": likelihood,
            "alike": picked.alike,
            "number": picked.number,
        }
        values = {"logits": score.logits}
        if picked.labels is not None:
            values["labels"] = picked.labels
        return Match(view, node, values, matched=(*score.nodes, *picked.nodes), info=info)


def _is_logsumexp(view: View, value: Value) -> bool:
    node = view.producer(value)
    return node is not None and node.op == "logsumexp"


def _picked_guard(match: Match) -> str | None:
    labels = match.get("labels")
    if labels is not None and not jnp.issubdtype(labels.dtype, jnp.integer):
        return f"labels are {labels.dtype}"
    return only_indices_shared(match) or refused_dtypes(match, ("logits",))


def _raise_picked(*, match: Match, logits: Any, labels: Any = None) -> Any:
    info = dict(match.info)
    negated, alike, number = (info.pop(k) for k in ("negated", "alike", "number"))
    rows = list(logits.shape)
    at = info["axis"] % logits.ndim
    del rows[at]
    if labels is None:
        labels = jnp.arange(*rows) if number is None else lax.full(rows, number, jnp.int32)
    if labels.shape != tuple(rows):
        few = [a - (a > at) for a in alike]
        labels = lax.reshape(labels, [1 if i in few else n for i, n in enumerate(rows)])
        labels = jnp.broadcast_to(labels, rows)
    loss = nnops.softmax_cross_entropy(logits, labels, **info)
    if loss.shape != match.root.output.shape:
        loss = lax.expand_dims(loss, (info["axis"] + logits.ndim,))
    return -loss if negated else loss


# -log_softmax(logits)[labels] -> softmax_cross_entropy(logits, labels)
# logsumexp(logits) - logits[labels] -> softmax_cross_entropy(logits, labels, by_logsumexp=True)
RAISE_SPARSE_CROSS_ENTROPY = Rule(
    "raise_sparse_cross_entropy",
    Above(
        _PickedPattern(),
        ("log_softmax", "logsumexp"),
        ("gather", "reshape", "squeeze", "slice", "cond", "sub", "broadcast_in_dim"),
    ),
    _raise_picked,
    _picked_guard,
    numerics="reassociates",
    shared=True,
)


class _NormalizedPattern:
    """``logsumexp(logits) - sum(labels * logits)``; turned round where a sum of it is negated."""

    names = frozenset({"sub"})
    size = 5

    def find(self, state: State, node: Node) -> Match | None:
        view = state.view
        normalizer, expected = view.inputs(node)
        turned = _is_logsumexp(view, expected)
        if turned:
            normalizer, expected = expected, normalizer
        lse, total = view.producer(normalizer), view.producer(expected)
        if lse is None or lse.op != "logsumexp" or len(view.inputs(lse)) != 1 or total is None:
            state.fail("it is not taken from a log-sum-exp", node)
            return None
        if turned and not becomes_negative(view, node.output):
            state.fail("it is no loss, but a likelihood", node)
            return None
        found = signed_sum(view, total, repeats=True)
        (x,) = view.inputs(lse)
        if isinstance(found, str) or not found.positive or x not in found.factors:
            state.fail("what is taken away is no sum of labels times the same logits", node)
            return None
        axis = lse.params["axis"]
        if not isinstance(axis, int) or found.axes != (axis + x.ndim,) or lse.params.get("mapped"):
            state.fail("the sums are over different axes", node)
            return None
        labels = found.factors[found.factors[0] is x]
        info = {"axis": axis, "negated": turned}
        values = {"logits": x, "labels": labels}
        return Match(view, node, values, matched=(lse, *found.nodes), info=info)


def _normalized_guard(match: Match) -> str | None:
    logits, labels, axis = match["logits"], match["labels"], match.info["axis"]
    rows = list(logits.shape)
    del rows[axis]
    fits = stretches(labels.shape, logits.shape) and labels.shape[axis] == logits.shape[axis]
    if not fits or labels is logits or match.root.output.shape != tuple(rows):
        return "logits or classes are broadcast, or the labels are the logits themselves"
    return refused_dtypes(match, ("logits", "labels"))


def _raise_normalized(logits: Any, labels: Any, *, match: Match) -> Any:
    labels = jnp.broadcast_to(labels, logits.shape)
    loss = nnops.softmax_cross_entropy(
        logits,
        labels,
        axis=match.info["axis"],
        by_logsumexp=True,
        zero_times_infinity="nan",
    )
    return -loss if match.info["negated"] else loss


# logsumexp(x) - sum(labels * x) -> softmax_cross_entropy(x, labels, by_logsumexp=True)
RAISE_NORMALIZED_CROSS_ENTROPY = Rule(
    "raise_normalized_cross_entropy",
    Above(_NormalizedPattern(), ("logsumexp",)),
    _raise_normalized,
    _normalized_guard,
    numerics="reassociates",
)


CROSS_ENTROPY_RULES = RuleSet(
    (
        RAISE_SOFTMAX_CROSS_ENTROPY,
        RAISE_SPARSE_CROSS_ENTROPY,
        RAISE_NORMALIZED_CROSS_ENTROPY,
    )
)
