"""Divergences of distributions, and angles between vectors, become the losses that they are."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxpress import nnops
from jaxpress.capture import Node, Value
from jaxpress.passes.pattern import State
from jaxpress.passes.rule import Match, Rule, RuleSet
from jaxpress.passes.rules.loss_parts import (
    Above,
    Summed,
    plain_loss,
    reduced_loss,
    refused_dtypes,
    signed_sum,
)
from jaxpress.passes.rules.raise_cosine import RAISE_COSINE_BY_LENGTHS
from jaxpress.passes.rules.scalars import number
from jaxpress.passes.view import View

__all__ = ["DIVERGENCE_RULES"]

# Numbers between this and its inverse have quotients that are numbers too.
_LEAST = 1e-12


class _DivergencePattern:
    """``sum(p * (log(p) - q))``, with 0 for log(0) or of logarithms; q are logarithms.

    Or ``sum(p * log(p / exp(q)))`` of what is clipped, so that there is no 0.
    """

    names = frozenset({"reduce_sum", "convert_element_type"})
    size = 4

    def find(self, state: State, node: Node) -> Match | None:
        view = state.view
        found = signed_sum(view, node)
        if isinstance(found, str) or not found.positive or not found.axes:
            state.fail(found if isinstance(found, str) else "it is no positive sum", node)
            return None
        for targets, gap in (found.factors, found.factors[::-1]):
            sub = view.producer(gap)
            if sub is not None and sub.op == "log":
                match = _of_quotient(view, node, found, targets, sub)
                if match is not None:
                    return match
            if sub is None or sub.op != "sub":
                continue
            log_p, log_q = view.inputs(sub)
            maker = view.producer(targets)
            logs: tuple[Node, ...] | None = None
            if maker is not None and _is_exponential(view, maker, log_p):
                targets, logs = log_p, (maker,)
            else:
                logs = _logarithm_of(view, log_p, targets)
            if logs is None:
                continue
            info = _where(found, log_targets=targets is log_p, logs=True)
            values = {"log_predictions": log_q, "targets": targets}
            matched = (*found.nodes, sub, *logs)
            return Match(view, node, values, matched=matched, info=info)
        state.fail("it is no sum of probabilities times differences of their logarithms", node)
        return None


def _is_exponential(view: View, node: Node, log_p: Value) -> bool:
    """Whether a node makes ``exp(log_p)``, or softmax where log_p is its logarithm."""
    if node.op == "exp":
        return view.inputs(node)[0] is log_p
    log = view.producer(log_p)
    return (
        node.op == "softmax"
        and log is not None
        and log.op == "log_softmax"
        and view.inputs(node) == view.inputs(log)
        and len(view.inputs(node)) == 1
        and node.params["axis"] == log.params["axis"]
        and not node.params.get("mapped")
        and not log.params.get("mapped")
    )


def _where(found: Summed, *, log_targets: bool, logs: bool) -> dict[str, Any]:
    # The last of the axes is that of the outcomes, as people write them.
    return {
        "axis": found.axes[-1] - found.ndim,
        "axes": found.axes,
        "ndim": found.ndim,
        "negated": False,
        "log_targets": log_targets,
        "logs": logs,
    }


def _of_quotient(view: View, root: Node, found: Summed, targets: Value, log: Node) -> Match | None:
    """The match of ``targets * log(targets / predictions)``, both in bounds."""
    quotient = view.producer(view.inputs(log)[0])
    if quotient is None or quotient.op != "div" or log.params.get("accuracy") is not None:
        return None
    p, q = view.inputs(quotient)
    if p is not targets or p.shape != q.shape:
        return None
    (low, high), (least, _) = _bounds(view, p), _bounds(view, q)
    # The quotient neither overflows nor is it 0 / 0.
    if not (low > _LEAST and least > _LEAST and high < 1 / _LEAST):
        return None
    values = {"log_predictions": q, "targets": p}
    info = _where(found, log_targets=False, logs=False)
    return Match(view, root, values, matched=(*found.nodes, log, quotient), info=info)


def _bounds(view: View, value: Value) -> tuple[float, float]:
    """Between which numbers a value is clipped."""
    low, high = -np.inf, np.inf
    node = view.producer(value)
    while node is not None and node.op in ("max", "min"):
        inputs = view.inputs(node)
        numbers = [number(view, v) for v in inputs]
        if (numbers[0] is None) == (numbers[1] is None):
            break
        bound = numbers[0] if numbers[0] is not None else numbers[1]
        assert bound is not None
        low, high = (max(low, bound), high) if node.op == "max" else (low, min(high, bound))
        node = view.producer(inputs[numbers[0] is not None])
    # min(max(x, low), high) with high below low is high.
    return min(low, high), high


def _logarithm_of(view: View, value: Value, p: Value) -> tuple[Node, ...] | None:
    """The operations of ``where(p == 0, 0, log(p))``."""
    select = view.producer(value)
    if select is None or select.op != "select_n":
        return None
    inputs = view.inputs(select)
    check, log = view.producer(inputs[0]), view.producer(inputs[1])
    if len(inputs) != 3 or check is None or log is None or (check.op, log.op) != ("eq", "log"):
        return None
    zero = any(v is p and number(view, w) == 0 for v, w in _both_ways(view.inputs(check)))
    if not zero or view.inputs(log)[0] is not p or number(view, inputs[2]) != 0:
        return None
    return (select, check, log) if log.params.get("accuracy") is None else None


def _both_ways(pair: tuple[Value, ...]) -> tuple[tuple[Value, ...], ...]:
    return pair, pair[::-1]


def _divergence_guard(match: Match) -> str | None:
    if match["log_predictions"].shape != match["targets"].shape:
        return "one of them is broadcast"
    return refused_dtypes(match, ("log_predictions", "targets"))


def _raise_divergence(log_predictions: Any, targets: Any, *, match: Match) -> Any:
    if not match.info["logs"]:
        log_predictions = jnp.log(log_predictions)
    return reduced_loss(
        nnops.kl_divergence,
        match,
        log_predictions,
        targets,
        axis=match.info["axis"],
        log_targets=match.info["log_targets"],
        zero_times_infinity="nan",
    )


# sum(p * (where(p == 0, 0, log(p)) - log_q)) -> kl_divergence(log_q, p)
# sum(p * log(p / q)) -> kl_divergence(log(q), p), of what is clipped
# sum(exp(log_p) * (log_p - log_q)) -> kl_divergence(log_q, log_p, log_targets=True), also with
# softmax(x) for the exponential of log_softmax(x)
RAISE_KL_DIVERGENCE = Rule(
    "raise_kl_divergence",
    Above(_DivergencePattern(), ("log_softmax", "softmax"), ("sub", "mul"), roots=True),
    _raise_divergence,
    _divergence_guard,
    numerics="reassociates",
)


class _CosinePattern:
    """``sum(l2_normalize(a) * l2_normalize(b))``."""

    names = frozenset({"neg", "reduce_sum", "convert_element_type"})
    size = 4

    def find(self, state: State, node: Node) -> Match | None:
        view = state.view
        found = signed_sum(view, node)
        if isinstance(found, str):
            state.fail(found, node)
            return None
        a, b = (view.producer(v) for v in found.factors)
        if a is None or b is None or a is b or {a.op, b.op} != {"l2_normalize"}:
            state.fail("it is no product of two vectors of length 1", node)
            return None
        if a.params != b.params or a.params.get("mapped"):
            state.fail("they are brought to length 1 in different ways", node)
            return None
        axis = a.params["axis"]
        axis = axis[0] if isinstance(axis, tuple) and len(axis) == 1 else axis
        if not isinstance(axis, int) or axis + found.ndim not in found.axes:
            state.fail("the sum is not over the one axis of the vectors", node)
            return None
        info = {
            "axis": axis,
            "axes": found.axes,
            "ndim": found.ndim,
            "negated": not found.positive,
            "epsilon": a.params["epsilon"],
            "placement": a.params["placement"],
        }
        values = {"predictions": view.inputs(a)[0], "targets": view.inputs(b)[0]}
        return Match(view, node, values, matched=(*found.nodes, a, b), info=info)


def _cosine_guard(match: Match) -> str | None:
    if match["predictions"].shape != match["targets"].shape:
        return "one of them is broadcast"
    return refused_dtypes(match, ("predictions", "targets"))


def _raise_cosine(predictions: Any, targets: Any, *, match: Match) -> Any:
    info = match.info
    return reduced_loss(
        nnops.cosine_similarity,
        match,
        predictions,
        targets,
        axis=info["axis"],
        epsilon=info["epsilon"],
        placement=info["placement"],
    )


# sum(l2_normalize(a) * l2_normalize(b)) -> cosine_similarity(a, b)
RAISE_COSINE_SIMILARITY = Rule(
    "raise_cosine_similarity",
    Above(_CosinePattern(), ("l2_normalize",), ("mul",)),
    _raise_cosine,
    _cosine_guard,
    numerics="reassociates",
)


class _DistancePattern:
    """``1 - cosine_similarity(a, b)``."""

    names = frozenset({"sub"})
    size = 2

    def find(self, state: State, node: Node) -> Match | None:
        view = state.view
        one, value = view.inputs(node)
        cosine = view.producer(value)
        if cosine is None or cosine.op != "cosine_similarity" or not plain_loss(view, cosine):
            state.fail("what is taken away is no cosine of each vector", node)
            return None
        if number(view, one) != 1 or value.shape != node.output.shape:
            state.fail("it is not taken from 1", node)
            return None
        a, b = view.inputs(cosine)
        values = {"predictions": a, "targets": b}
        return Match(view, node, values, {"cosine": cosine}, (cosine,))


def _raise_cosine_distance(predictions: Any, targets: Any, *, match: Match) -> Any:
    params = match.nodes["cosine"].params
    return nnops.cosine_distance(
        predictions,
        targets,
        **{name: params[name] for name in ("axis", "epsilon", "placement", "dot_first")},
    )


# 1 - cosine_similarity(a, b) -> cosine_distance(a, b)
RAISE_COSINE_DISTANCE = Rule(
    "raise_cosine_distance",
    _DistancePattern(),
    _raise_cosine_distance,
    lambda match: refused_dtypes(match, ("predictions", "targets")),
    numerics="reassociates",
)

DIVERGENCE_RULES = RuleSet(
    (
        RAISE_KL_DIVERGENCE,
        RAISE_COSINE_SIMILARITY,
        RAISE_COSINE_BY_LENGTHS,
        RAISE_COSINE_DISTANCE,
    )
)
