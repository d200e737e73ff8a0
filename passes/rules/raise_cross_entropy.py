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
from jaxpress.passes.rules.arithmetic import number_of, product_of
from jaxpress.passes.rules.kept_pieces import only_indices_shared, only_with_gradient
from jaxpress.passes.rules.loss_parts import (
    Above,
    one_minus,
    reduced_loss,
    refused_dtypes,
    signed_sum,
)
from jaxpress.passes.rules.picked import picked_of
from jaxpress.passes.view import View

__all__ = ["CROSS_ENTROPY_RULES"]


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

    Without the former's sign, or with the latter's turned round, where a sum of it is negated.
    """

    names = frozenset({"neg", "sub", "gather", "reshape", "squeeze"})
    size = 5

    def find(self, state: State, node: Node) -> Match | None:
        view = state.view
        inputs = view.inputs(node)
        by_logsumexp = node.op == "sub"
        turned = by_logsumexp and _is_logsumexp(view, inputs[1])
        likelihood = turned or node.op not in ("neg", "sub")
        if likelihood and not _becomes_negative(view, node.output):
            state.fail("it is no loss, but a likelihood", node)
            return None
        choice = node.output if likelihood and not turned else inputs[0 if turned else -1]
        picked = picked_of(view, choice)
        if isinstance(picked, str):
            state.fail(picked, node)
            return None
        other = view.producer(inputs[1 if turned else 0] if by_logsumexp else picked.x)
        axis = picked.axis - picked.x.ndim
        if not by_logsumexp:
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
            "by_logsumexp": by_logsumexp,
            "negated": likelihood,
        }
        values = {"logits": view.inputs(other)[0], "labels": picked.labels}
        return Match(view, node, values, matched=(other, *picked.nodes), info=info)


def _is_logsumexp(view: View, value: Value) -> bool:
    node = view.producer(value)
    return node is not None and node.op == "logsumexp"


def _picked_guard(match: Match) -> str | None:
    if not jnp.issubdtype(match["labels"].dtype, jnp.integer):
        return f"labels are {match['labels'].dtype}"
    return only_indices_shared(match) or refused_dtypes(match, ("logits",))


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
        if turned and not _becomes_negative(view, node.output):
            state.fail("it is no loss, but a likelihood", node)
            return None
        found = signed_sum(view, total)
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
    if labels.shape != logits.shape or labels is logits or match.root.output.shape != tuple(rows):
        return "labels are broadcast, or the logits themselves"
    return refused_dtypes(match, ("logits", "labels"))


def _raise_normalized(logits: Any, labels: Any, *, match: Match) -> Any:
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
                # A gradient needs the labels with their sign, which then is no part of the product.
                turned = view.producer(labels) if rest[0] is not labels else None
                signs = (
                    p_sign * (1 if log_p[0] else -1) * (1 if turned is None else -1),
                    q_sign * (1 if log_q[0] else -1),
                )
                plain = labels
                if turned is not None and turned.op == "neg":
                    plain = view.inputs(turned)[0]
                if rest[0] is not plain or signs not in ((1, 1), (-1, -1)):
                    continue
                of_labels = (rest[1],) if turned is None else (rest[1], turned)
                matched = (*nodes, *p.nodes, *q.nodes, *log_p[3], *log_q[3], *of_labels)
                values = {"logits": log_p[2], "labels": plain}
                return Match(view, root, values, matched=matched, info={"negated": signs == (1, 1)})
        return None


def _binary_guard(match: Match) -> str | None:
    if {match["labels"].shape, match["logits"].shape} != {match.root.output.shape}:
        return "labels are broadcast"
    return only_with_gradient(match) or refused_dtypes(match, ("logits", "labels"))


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
    shared=True,
)


class _SoftplusPattern:
    """``softplus(logits) - labels * logits``; turned round where a sum of it is negated."""

    names = frozenset({"sub"})
    size = 3

    def find(self, state: State, node: Node) -> Match | None:
        view = state.view
        makers = [view.producer(v) for v in view.inputs(node)]
        turned = makers[1] is not None and makers[1].op == "softplus"
        softplus, product = reversed(makers) if turned else makers
        if softplus is None or product is None or (softplus.op, product.op) != ("softplus", "mul"):
            state.fail("it is no difference of a softplus and a product", node)
            return None
        if turned and not _becomes_negative(view, node.output):
            state.fail("it is no loss, but a likelihood", node)
            return None
        (x,) = view.inputs(softplus)
        factors = view.inputs(product)
        if x not in factors or softplus.params.get("mapped") or factors[0] is factors[1]:
            state.fail("the product is not of labels and the same logits", node)
            return None
        values = {"logits": x, "labels": factors[factors[0] is x]}
        matched = (softplus, product)
        return Match(view, node, values, matched=matched, info={"negated": turned})


def _raise_softplus(logits: Any, labels: Any, *, match: Match) -> Any:
    loss = nnops.binary_cross_entropy(logits, labels, by_softplus=True)
    return -loss if match.info["negated"] else loss


# softplus(x) - z * x -> binary_cross_entropy(x, z, by_softplus=True)
RAISE_SOFTPLUS_CROSS_ENTROPY = Rule(
    "raise_softplus_cross_entropy",
    Above(_SoftplusPattern(), ("softplus",)),
    _raise_softplus,
    _binary_guard,
    numerics="reassociates",
    shared=True,
)

CROSS_ENTROPY_RULES = RuleSet(
    (
        RAISE_SOFTMAX_CROSS_ENTROPY,
        RAISE_SPARSE_CROSS_ENTROPY,
        RAISE_NORMALIZED_CROSS_ENTROPY,
        RAISE_SOFTPLUS_CROSS_ENTROPY,
        RAISE_BINARY_CROSS_ENTROPY,
    )
)
