"""Labels of cross entropies: encodings become class indices, and smoothed ones a parameter."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from jax import lax

from jaxpress import nnops
from jaxpress.capture import Node, Value
from jaxpress.passes.pattern import State
from jaxpress.passes.rule import Match, Rule, RuleSet
from jaxpress.passes.rules.arithmetic import number_of, product_of, same_number
from jaxpress.passes.rules.one_hot_of import one_hot_of

__all__ = ["LABEL_RULES"]


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
    return nnops.softmax_cross_entropy(
        logits, labels, **{**params, "out_of_range": "zero", "from_end": False}
    )


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
        if node.params.get("by_logsumexp"):
            state.fail("it is computed in a way that takes no smoothing", node)
            return None
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

LABEL_RULES = RuleSet((RAISE_ENCODED_LABELS, RAISE_SMOOTHED_LABELS))
