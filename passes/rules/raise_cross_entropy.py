"""Cross entropies from logits become ``softmax_cross_entropy`` and ``binary_cross_entropy``.

What optax and Keras give where 0 meets infinity, and where a label is out of range, is a parameter
of the op: each form is raised to the very function that it is.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from jax import lax

from jaxpress import nnops
from jaxpress.capture import Node, Value
from jaxpress.passes.pattern import State
from jaxpress.passes.rule import Match, Rule, RuleSet
from jaxpress.passes.rules.arithmetic import number_of, product_of, same_number
from jaxpress.passes.rules.loss_parts import (
    Above,
    one_minus,
    reduced_loss,
    refused_dtypes,
    signed_sum,
)
from jaxpress.passes.rules.one_hot_of import one_hot_of
from jaxpress.passes.rules.picked import picked_of
from jaxpress.passes.view import View

__all__ = ["CROSS_ENTROPY_RULES", "plain_loss"]


# What makes a mean of losses, before or after their sign is changed.
_TO_A_MEAN = frozenset({"reduce_sum", "mul", "div", "reshape", "squeeze", "convert_element_type"})


def _log_softmax(view: View, value: Value) -> Node | None:
    """The ``log_softmax`` along one axis that makes a value, if all of its elements count."""
    node = view.producer(value)
    if node is None or node.op != "log_softmax" or node.params.get("mapped"):
        return None
    alone = len(view.inputs(node)) == 1 and isinstance(node.params["axis"], int)
    return node if alone else None


class _DistributionPattern:
    """``-sum(labels * log_softmax(logits))``, also over further axes."""

    names = frozenset({"neg", "reduce_sum", "convert_element_type"})
    size = 4

    def find(self, state: State, node: Node) -> Match | None:
        view = state.view
        found = signed_sum(view, node)
        if isinstance(found, str):
            state.fail(found, node)
            return None
        for labels, log_p in (found.factors, found.factors[::-1]):
            softmax = _log_softmax(view, log_p)
            if softmax is None:
                continue
            axis = softmax.params["axis"]
            if axis + found.ndim not in found.axes:
                state.fail("the sum is not over the classes", node)
                return None
            info = {
                "axis": axis,
                "axes": found.axes,
                "ndim": found.ndim,
                "negated": found.positive,
            }
            values = {"logits": view.inputs(softmax)[0], "labels": labels}
            return Match(view, node, values, matched=(*found.nodes, softmax), info=info)
        state.fail("neither factor is a logarithm of softmax along one axis", node)
        return None


def _distribution_guard(match: Match) -> str | None:
    if match["labels"].shape != match["logits"].shape:
        return "labels are broadcast"
    maker = match.view.producer(match["labels"])
    if maker is not None and maker.op in ("softmax", "exp"):
        x = match.view.inputs(maker)[0]
        if x is match["logits"] or match.view.producer(x) in match.matched:
            return "it is an entropy: the labels are made of the logits"
    return refused_dtypes(match, ("logits", "labels"))


def _raise_distribution(logits: Any, labels: Any, *, match: Match) -> Any:
    return reduced_loss(
        nnops.softmax_cross_entropy,
        match,
        logits,
        labels,
        axis=match.info["axis"],
        zero_times_infinity="nan",
    )


# -sum(labels * log_softmax(logits)) -> softmax_cross_entropy(logits, labels)
RAISE_SOFTMAX_CROSS_ENTROPY = Rule(
    "raise_softmax_cross_entropy",
    Above(_DistributionPattern(), ("log_softmax",), ("mul",)),
    _raise_distribution,
    _distribution_guard,
    numerics="reassociates",
)


def _becomes_negative(view: View, value: Value) -> bool:
    """Whether something is made of a value by sums and numbers, and then negated."""
    while view.use_count(value) == 1 and not view.is_output(value):
        (user,) = view.users(value)
        if user.op == "neg":
            return True
        numbers = [n for v in view.inputs(user) if (n := number_of(view, v)) is not None]
        if user.op == "mul" and any(n < 0 for n in numbers):
            return True
        if user.op not in _TO_A_MEAN or (user.op in ("mul", "div") and not numbers):
            return False
        value = user.output
    return False


class _PickedPattern:
    """``-log_softmax(logits)[labels]`` or ``logsumexp(logits) - logits[labels]``.

    The former without its sign too, where a sum of it is negated.
    """

    names = frozenset({"neg", "sub", "gather", "reshape", "squeeze"})
    size = 5

    def find(self, state: State, node: Node) -> Match | None:
        view = state.view
        inputs = view.inputs(node)
        bare = node.op not in ("neg", "sub")
        if bare and not _becomes_negative(view, node.output):
            state.fail("it is no loss, but a likelihood", node)
            return None
        picked = picked_of(view, node.output if bare else inputs[-1])
        if isinstance(picked, str):
            state.fail(picked, node)
            return None
        other = view.producer(inputs[0] if node.op == "sub" else picked.x)
        axis = picked.axis - picked.x.ndim
        if node.op != "sub":
            if other is None or _log_softmax(view, picked.x) is not other:
                state.fail("what is picked from is no logarithm of softmax", node)
                return None
        elif (
            other is None
            or other.op != "logsumexp"
            or other.params.get("mapped")
            or view.inputs(other) != (picked.x,)
            or inputs[0].shape != inputs[1].shape
        ):
            state.fail("it is not taken from the log-sum-exp of the same array", node)
            return None
        if other.params["axis"] not in (axis, (axis,)):
            state.fail("it is picked along another axis than that of the classes", node)
            return None
        info = {
            "axis": axis,
            "from_end": picked.from_end,
            "out_of_range": picked.out_of_range,
            "by_logsumexp": node.op == "sub",
            "negated": bare,
        }
        values = {"logits": view.inputs(other)[0], "labels": picked.labels}
        return Match(view, node, values, matched=(other, *picked.nodes), info=info)


def _picked_guard(match: Match) -> str | None:
    if not jnp.issubdtype(match["labels"].dtype, jnp.integer):
        return f"labels are {match['labels'].dtype}"
    return refused_dtypes(match, ("logits",))


def _raise_picked(logits: Any, labels: Any, *, match: Match) -> Any:
    info = dict(match.info)
    negated = info.pop("negated")
    rows = list(logits.shape)
    del rows[info["axis"]]
    if labels.shape != tuple(rows):
        labels = lax.reshape(labels, rows)
    loss = nnops.softmax_cross_entropy(logits, labels, **info)
    if loss.shape != match.root.output.shape:
        loss = lax.expand_dims(loss, (info["axis"] + logits.ndim,))
    return -loss if negated else loss


# -log_softmax(logits)[labels] -> softmax_cross_entropy(logits, labels)
# logsumexp(logits) - logits[labels] -> softmax_cross_entropy(logits, labels, by_logsumexp=True)
RAISE_SPARSE_CROSS_ENTROPY = Rule(
    "raise_sparse_cross_entropy",
    Above(
        _PickedPattern(), ("log_softmax", "logsumexp"), ("gather", "reshape", "squeeze", "slice")
    ),
    _raise_picked,
    _picked_guard,
    numerics="reassociates",
)


def plain_loss(view: View, node: Node, reductions: tuple[str, ...] = ("none",)) -> bool:
    """Whether every element of a loss counts alike, and is not reduced but as said."""
    if node.params.get("mapped") or node.params.get("keeps"):
        return False
    present = node.params.get("operands", ())
    counted = "where" in present or "weights" in present
    ignores = node.params.get("out_of_range") == "ignore"
    return node.params["reduction"] in reductions and not counted and not ignores


class _LabelsPattern:
    """A cross entropy with distributions whose labels are something better known."""

    names = frozenset({"softmax_cross_entropy"})
    size = 2

    def find(self, state: State, node: Node) -> Match | None:
        view = state.view
        if node.params.get("mapped") or "labels" not in node.params["operands"][:2]:
            state.fail("it is mapped", node)
            return None
        logits, labels = view.inputs(node)[:2]
        if labels.shape != logits.shape:
            state.fail("its labels are class indices", node)
            return None
        if tuple(node.params["operands"]) != ("logits", "labels"):
            state.fail("some elements count more than others", node)
            return None
        if node.params.get("by_logsumexp") or node.params.get("from_end"):
            state.fail("it has parameters of class indices", node)
            return None
        return self.of_labels(state, node, logits, labels)

    def of_labels(self, state: State, node: Node, logits: Value, labels: Value) -> Match | None:
        """The match for these labels."""
        raise NotImplementedError


class _EncodedPattern(_LabelsPattern):
    """Labels that are the encoding of class indices."""

    def of_labels(self, state: State, node: Node, logits: Value, labels: Value) -> Match | None:
        found = one_hot_of(state.view, labels)
        if found is None or found.axis != node.params["axis"] + logits.ndim:
            state.fail("its labels encode no classes along its axis", node)
            return None
        if labels.dtype != logits.dtype:
            state.fail("the encoding has another dtype than logits", node)
            return None
        info = {"squeezed": found.squeezed}
        values = {"logits": logits, "labels": found.ids}
        return Match(state.view, node, values, matched=found.nodes, info=info)


def _encoded_guard(match: Match) -> str | None:
    if not jnp.issubdtype(match["labels"].dtype, jnp.integer):
        return f"labels are {match['labels'].dtype}"
    return None


def _raise_encoded(logits: Any, labels: Any, *, match: Match) -> Any:
    params = {k: v for k, v in match.root.params.items() if k != "operands"}
    if match.info["squeezed"]:
        labels = lax.squeeze(labels, (params["axis"] + logits.ndim,))
    return nnops.softmax_cross_entropy(logits, labels, **{**params, "out_of_range": "zero"})


# softmax_cross_entropy(logits, one_hot(ids)) -> softmax_cross_entropy(logits, ids)
RAISE_ENCODED_LABELS = Rule(
    "raise_encoded_labels", _EncodedPattern(), _raise_encoded, _encoded_guard
)


class _SmoothedPattern(_LabelsPattern):
    """Labels that are ``(1 - s) * labels + s / classes``."""

    names = frozenset({"softmax_cross_entropy", "binary_cross_entropy"})
    size = 3

    def of_labels(self, state: State, node: Node, logits: Value, labels: Value) -> Match | None:
        view, add = state.view, state.view.producer(labels)
        if node.params["label_smoothing"] or add is None or add.op != "add":
            state.fail("its labels are no sum, or smoothed already", node)
            return None
        several = node.op == "softmax_cross_entropy"
        classes = logits.shape[node.params["axis"]] if several else 2
        for scaled, shift in (view.inputs(add), view.inputs(add)[::-1]):
            maker, least = view.producer(scaled), number_of(view, shift)
            if maker is None or maker.op != "mul" or least is None or scaled.shape != labels.shape:
                continue
            product = product_of(view, maker)
            if product is None or product.under or len(product.over) != 1:
                continue
            found = _smoothing(product.coefficient, least, classes, labels.dtype)
            if found is None:
                state.fail("what is added is not what is taken away, shared by the classes", node)
                continue
            values = {"logits": logits, "labels": product.over[0]}
            info = {"label_smoothing": found}
            return Match(view, node, values, matched=(add, *product.nodes), info=info)
        state.fail("its labels are no sum of a number and scaled labels", node)
        return None


def _smoothing(scale: float, shift: float, classes: Any, dtype: Any) -> float | None:
    """s, where ``scale`` is 1 - s and ``shift`` s / classes: the shortest number that is."""
    if not isinstance(classes, int) or not 0 <= shift * classes <= 1:
        return None
    for digits in range(1, 10):
        s = round(shift * classes, digits)
        if (
            0 < s <= 1
            and same_number(scale, 1 - s, dtype)
            and same_number(shift, s / classes, dtype)
        ):
            return s
    return None


def _smoothed_guard(match: Match) -> str | None:
    if match["labels"].shape != match["logits"].shape:
        return "labels are broadcast"
    if match["labels"].dtype != match["logits"].dtype or match["labels"].dtype.itemsize < 4:
        return "labels have another dtype, or a narrow one"
    return None


def _raise_smoothed(logits: Any, labels: Any, *, match: Match) -> Any:
    params = {k: v for k, v in match.root.params.items() if k != "operands"}
    return getattr(nnops, match.root.op)(logits, labels, **{**params, **match.info})


# softmax_cross_entropy(logits, (1 - s) * labels + s / n)
#   -> softmax_cross_entropy(logits, labels, label_smoothing=s)
RAISE_SMOOTHED_LABELS = Rule(
    "raise_smoothed_labels",
    _SmoothedPattern(),
    _raise_smoothed,
    _smoothed_guard,
    numerics="reassociates",
)


def _log_sigmoid(view: View, value: Value) -> tuple[bool, bool, Value, list[Node]] | None:
    """``(a, b, x)`` of a value that is ``log_sigmoid(x)``, negated unless a, of -x unless b."""
    node = view.producer(value)
    if node is None or node.op not in ("log_sigmoid", "softplus") or node.params.get("mapped"):
        return None
    nodes = [node]
    # log_sigmoid(x) is -softplus(-x).
    plain = node.op == "log_sigmoid"
    positive, x = plain, view.inputs(node)[0]
    inner = view.producer(x)
    while inner is not None and inner.op == "neg":
        nodes.append(inner)
        positive, x = not positive, view.inputs(inner)[0]
        inner = view.producer(x)
    return plain, positive, x, nodes


class _BinaryPattern:
    """``-labels * log_sigmoid(logits) - (1 - labels) * log_sigmoid(-logits)``."""

    names = frozenset({"neg", "add", "sub"})
    size = 6

    def find(self, state: State, node: Node) -> Match | None:
        view = state.view
        total: Node | None = node
        nodes: list[Node] = []
        sign = 1.0
        while total is not None and total.op == "neg":
            nodes.append(total)
            sign = -sign
            total = view.producer(view.inputs(total)[0])
        if total is None or total.op not in ("add", "sub"):
            state.fail("it is no sum of two terms", node)
            return None
        nodes.append(total)
        signs = (sign, -sign if total.op == "sub" else sign)
        terms = []
        for value, factor in zip(view.inputs(total), signs, strict=True):
            maker = view.producer(value)
            product = None if maker is None or maker.op != "mul" else product_of(view, maker)
            if product is None or product.under or len(product.over) != 2:
                state.fail("its terms are no products of two arrays", node)
                return None
            terms.append((product, factor * product.coefficient))
        for yes, no in (terms, terms[::-1]):
            match = self._of_terms(view, node, yes, no, nodes)
            if match is not None:
                return match
        state.fail("its terms are no labels times logarithms of sigmoids", node)
        return None

    def _of_terms(
        self, view: View, root: Node, yes: Any, no: Any, nodes: list[Node]
    ) -> Match | None:
        """The match where ``yes`` is the term of what is, and ``no`` that of what is not."""
        (p, p_sign), (q, q_sign) = yes, no
        for labels, first in (p.over, p.over[::-1]):
            log_p = _log_sigmoid(view, first)
            if log_p is None or not log_p[1]:
                continue
            for others, second in (q.over, q.over[::-1]):
                log_q, rest = _log_sigmoid(view, second), one_minus(view, others)
                if log_q is None or log_q[1] or log_q[2] is not log_p[2] or rest is None:
                    continue
                signs = (p_sign * (1 if log_p[0] else -1), q_sign * (1 if log_q[0] else -1))
                if rest[0] is not labels or signs not in ((1, 1), (-1, -1)):
                    continue
                matched = (*nodes, *p.nodes, *q.nodes, *log_p[3], *log_q[3], rest[1])
                values = {"logits": log_p[2], "labels": labels}
                return Match(view, root, values, matched=matched, info={"negated": signs == (1, 1)})
        return None


def _binary_guard(match: Match) -> str | None:
    if {match["labels"].shape, match["logits"].shape} != {match.root.output.shape}:
        return "labels are broadcast"
    return refused_dtypes(match, ("logits", "labels"))


def _raise_binary(logits: Any, labels: Any, *, match: Match) -> Any:
    loss = nnops.binary_cross_entropy(logits, labels, zero_times_infinity="nan")
    return -loss if match.info["negated"] else loss


# -z * log_sigmoid(x) - (1 - z) * log_sigmoid(-x) -> binary_cross_entropy(x, z)
RAISE_BINARY_CROSS_ENTROPY = Rule(
    "raise_binary_cross_entropy",
    Above(_BinaryPattern(), ("log_sigmoid", "softplus"), ("mul",)),
    _raise_binary,
    _binary_guard,
    numerics="reassociates",
)

CROSS_ENTROPY_RULES = RuleSet(
    (
        RAISE_SOFTMAX_CROSS_ENTROPY,
        RAISE_SPARSE_CROSS_ENTROPY,
        RAISE_ENCODED_LABELS,
        RAISE_SMOOTHED_LABELS,
        RAISE_BINARY_CROSS_ENTROPY,
    )
)
