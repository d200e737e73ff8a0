"""Attention, two products with a softmax between, becomes ``dot_product_attention``.

In any layout of heads and batch, with scale, bias and masks in any of the ways that libraries
write them. What masks do is kept to the letter: the number that stands for a masked logit, and so
what a row gives in which everything is masked, stays what it was. A mask that is added stays one
that is added, a ``bias``, since it lets NaN through where a boolean mask does not.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxpress.capture import Node
from jaxpress.nnops.attention_masks import large_negative
from jaxpress.passes.pattern import State
from jaxpress.passes.rule import Match, Rule, RuleSet
from jaxpress.passes.rules.attention_axes import Product, product_of, roles_of, weighted_of
from jaxpress.passes.rules.attention_build import build_match, make_attention
from jaxpress.passes.rules.attention_logits import Logits, Softmax, logits_behind
from jaxpress.passes.rules.attention_terms import Terms
from jaxpress.passes.rules.attention_weights import (
    Weights,
    masks_of,
    product_ahead,
    weights_behind,
)
from jaxpress.passes.rules.axis_parts import Part, through
from jaxpress.passes.rules.axis_tracking import REARRANGING, Axes, arrange, complete, spread

__all__ = ["ATTENTION_RULES", "RAISE_ATTENTION", "TIDY_ATTENTION"]

_NARROW = {
    "bfloat16": lax.DotAlgorithmPreset.BF16_BF16_F32,
    "float16": lax.DotAlgorithmPreset.F16_F16_F32,
}


class _AttentionPattern:
    """``softmax(where(mask, q k^T * scale + bias, fill)) v``, rooted at the second product."""

    names = frozenset({"dot_general", "softmax", "dropout"})
    size = 16

    def find(self, state: State, node: Node) -> Match | None:
        view = state.view
        if node.op != "dot_general":
            # One that another rule has just named, perhaps far from the product that uses it.
            root = product_ahead(view, node)
            if root is None:
                state.fail(f"no product uses the {node.op}, and nothing else", node)
                return None
            node = root
        for side in (0, 1):
            weights = weights_behind(view, view.inputs(node)[side])
            if weights is None:
                continue
            logits = logits_behind(state, weights.softmax.x)
            if logits is None:
                return None
            match = _match(state, node, side, weights, logits)
            if match is not None:
                nodes = (*weights.nodes, *weights.softmax.nodes, *logits.nodes, logits.product)
                match.matched = tuple(dict.fromkeys((node, *nodes)))
            return match
        state.fail("neither operand is a softmax", node)
        return None


def _match(state: State, root: Node, side: int, weights: Weights, logits: Logits) -> Match | None:
    softmax = weights.softmax
    product = product_of(state, logits.product, tuple([logits.axes[a] for a in softmax.axes]))
    if product is None:
        return None
    labels = through(weights.axes, logits.axes)
    if labels is None or any(isinstance(a, Part) for a in labels):
        state.fail("the axes of the weights are not those of the logits", root)
        return None
    weighted = weighted_of(state, root, side, labels, product)
    if weighted is None:
        return None
    operands = (product.query, product.key, weighted.value)
    if not all(jnp.issubdtype(v.dtype, jnp.floating) for v in operands):
        state.fail("queries, keys or values are no floats", root)
        return None
    first, second = logits.product.params["precision"], root.params["precision"]
    if second is None and first == _NARROW.get(product.query.dtype.name):
        first = None
    if first != second:
        state.fail("the two products have different precisions", root)
        return None
    terms = Terms(state.view, product.keys)
    for term in logits.terms:
        if not terms.add(term):
            state.fail(f"attention has no {term.kind} at such a place", root)
            return None
    if any(f.value.dtype != product.query.dtype for f in terms.factors):
        state.fail("logits are multiplied with an array of another dtype", root)
        return None
    alone = masks_of(state.view, weights, logits.axes, terms.leaves, product.keys)
    if isinstance(alone, str):
        state.fail(alone, root)
        return None
    if alone is not None:
        terms.leaves = alone
        if softmax.where is not None:
            terms.fill = None
    roles = roles_of(state, product, [b for leaf in terms.leaves for b in leaf.bands])
    params = _static(root, product, logits, softmax, terms, alone is not None)
    params["precision"] = first
    dropped = weights.dropped
    if dropped is not None:
        labels = through(dropped.axes, logits.axes)
        if labels is None:
            state.fail("weights whose axes are mixed are dropped", root)
            return None
        dropped = dropped._replace(axes=labels)
    return build_match(state, root, product, weighted, roles, terms, dropped, params)


def _static(
    root: Node, product: Product, logits: Logits, softmax: Softmax, terms: Terms, zeroed: bool
) -> dict[str, Any]:
    """The op's parameters that are dtypes, and the number that masked logits become."""
    widest = jnp.promote_types(product.query.dtype, product.key.dtype)
    widest = jnp.promote_types(widest, jnp.float32)
    logits_dtype = terms.dtype or logits.product.output.dtype
    fill = terms.fill
    # Without a fill, weights that are to be 0 would never have been anything else.
    if (
        fill is not None
        and not zeroed
        and _rounded(fill, logits_dtype) == _rounded(large_negative(logits_dtype), logits_dtype)
    ):
        fill = None
    # A product of two types is taken in the wider one.
    value_dtype = jnp.promote_types(root.inputs[0].dtype, root.inputs[1].dtype)
    softmax_dtype, out_dtype = softmax.x.dtype, root.output.dtype
    return {
        "logits_soft_cap": terms.cap,
        "mask_value": fill,
        "zero_masked": zeroed,
        "logits_dtype": None if logits_dtype == widest else jnp.dtype(logits_dtype),
        "softmax_dtype": None if softmax_dtype == logits_dtype else jnp.dtype(softmax_dtype),
        "preferred_element_type": None if out_dtype == value_dtype else jnp.dtype(out_dtype),
    }


def _rounded(number: float, dtype: Any) -> Any:
    return np.asarray(number).astype(dtype)[()]


# softmax(where(mask, q k^T * scale + bias, fill)) v -> dot_product_attention(q, k, v, bias, mask)
RAISE_ATTENTION = Rule(
    "raise_attention", _AttentionPattern(), make_attention, numerics="reassociates"
)


class _MovedPattern:
    """An attention's result whose axes are moved about in more operations than needed."""

    names = REARRANGING - {"copy"} | {"broadcast_in_dim"}
    size = 2

    def find(self, state: State, node: Node) -> Match | None:
        view = state.view
        behind = spread(view, node.output, broadcasts=False)
        maker = view.producer(behind.source)
        if maker is None or maker.op != "dot_product_attention":
            state.fail("it moves no attention's axes", node)
            return None
        if len(behind.nodes) <= _moves(behind.axes, behind.source.shape):
            state.fail("its axes are moved in as few operations as can be", node)
            return None
        # An operation with another user stays, and then nothing is won.
        info = {"axes": behind.axes}
        return Match(view, node, {"x": behind.source}, matched=behind.nodes, info=info)


def _moves(axes: Axes, shape: Any) -> int:
    """How many operations ``arrange`` takes."""
    axes = complete(axes, shape)
    used = [a for a in axes if a is not None]
    return (len(used) < len(shape)) + (used != sorted(used)) + (None in axes)


# transpose(reshape(transpose(attention))) -> the same in as few operations as can be
TIDY_ATTENTION = Rule(
    "tidy_attention", _MovedPattern(), lambda x, *, match: arrange(x, match.info["axes"])
)

ATTENTION_RULES = RuleSet((RAISE_ATTENTION, TIDY_ATTENTION))
