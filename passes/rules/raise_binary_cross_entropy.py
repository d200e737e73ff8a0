"""Cross entropies of single logits become ``binary_cross_entropy``."""

from __future__ import annotations

from typing import Any

from jaxpress import nnops
from jaxpress.capture import Node, Value
from jaxpress.passes.pattern import AnyOf, State, any_value, op
from jaxpress.passes.rule import Match, Rule, RuleSet
from jaxpress.passes.rules.arithmetic import product_of
from jaxpress.passes.rules.kept_pieces import only_with_gradient
from jaxpress.passes.rules.loss_parts import Above, becomes_negative, one_minus, refused_dtypes
from jaxpress.passes.rules.reduce_loss import REDUCE_LOSS
from jaxpress.passes.view import View

__all__ = ["BINARY_CROSS_ENTROPY_RULES", "STABLE_CROSS_ENTROPY_RULES"]


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
        if turned and not becomes_negative(view, node.output):
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

_LOGITS = any_value("logits")
_POSITIVE = AnyOf(op("max", _LOGITS, 0.0), op("relu", _LOGITS))

# max(x, 0) - x * z + log1p(exp(-abs(x))) -> binary_cross_entropy(x, z, by_softplus=True)
RAISE_STABLE_CROSS_ENTROPY = Rule(
    "raise_stable_cross_entropy",
    op(
        "add",
        op("sub", _POSITIVE, op("mul", _LOGITS, any_value("labels"))),
        op("log1p", op("exp", op("neg", op("abs", _LOGITS)))),
    ),
    lambda logits, labels: nnops.binary_cross_entropy(logits, labels, by_softplus=True),
    _binary_guard,
    numerics="reassociates",
)

BINARY_CROSS_ENTROPY_RULES = RuleSet((RAISE_SOFTPLUS_CROSS_ENTROPY, RAISE_BINARY_CROSS_ENTROPY))
# Its derivative at 0 is another, so that it is for results that nobody differentiates. The sum or
# mean of it comes after, as in the rules that stand with the other losses.
STABLE_CROSS_ENTROPY_RULES = RuleSet((RAISE_STABLE_CROSS_ENTROPY, REDUCE_LOSS))
