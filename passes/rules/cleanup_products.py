"""Products of matrices that sum over nothing are multiplications.

``einsum("bhqk,h->bhqk", weights, mask)``, ``outer`` and the like reach a graph as ``dot_general``;
written as the multiplication that it is, it can be seen to do nothing, or to be a scale.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from jax import lax

from jaxpress.capture import Node
from jaxpress.passes.pattern import State
from jaxpress.passes.rule import Match, Rule
from jaxpress.passes.rules.cleanup_moves import is_plain
from jaxpress.passes.rules.weights import placed

__all__ = ["PRODUCT_OF_PAIRS"]


class _ProductOfPairs:
    names = frozenset({"dot_general"})
    size = 1

    def find(self, state: State, node: Node) -> Match | None:
        lhs, rhs = state.view.inputs(node)
        (contracting, _), _ = node.params["dimension_numbers"]
        if contracting:
            state.fail("it sums over an axis", node)
            return None
        if not is_plain(lhs, rhs, node.output) or node.params.get("out_sharding") is not None:
            state.fail("its sizes are not known, or it is sharded", node)
            return None
        if not all(_widens(v.dtype, node.output.dtype) for v in (lhs, rhs)):
            state.fail("its result is of a narrower type than its operands", node)
            return None
        return Match(state.view, node, {"lhs": lhs, "rhs": rhs})


def _widens(dtype: Any, to: Any) -> bool:
    """Whether JAX converts ``dtype`` to the product's type before it multiplies, and loses nothing.

    Integers beside floats are rounded to the product's type, by ``dot_general`` as well.
    """
    if jnp.issubdtype(to, jnp.inexact) and not jnp.issubdtype(dtype, jnp.inexact):
        return True
    return jnp.promote_types(dtype, to) == to


def _multiply(lhs: Any, rhs: Any, *, match: Match) -> Any:
    _, (lhs_batch, rhs_batch) = match.root.params["dimension_numbers"]
    shape, dtype = match.root.output.shape, match.root.output.dtype
    lhs, rhs = lax.convert_element_type(lhs, dtype), lax.convert_element_type(rhs, dtype)
    count = len(lhs_batch)
    # The result's axes: those of the batch, then the left side's own, then the right side's.
    own = iter(range(count, len(shape)))
    places = [
        [batch.index(i) if i in batch else next(own) for i in range(len(match[name].shape))]
        for name, batch in (("lhs", tuple(lhs_batch)), ("rhs", tuple(rhs_batch)))
    ]
    return lax.mul(*(placed(x, at, shape) for x, at in zip((lhs, rhs), places, strict=True)))


# einsum("bhqk,h->bhqk", x, s) -> x * s.  A product's one term is what a multiplication gives, and
# its precision says how sums are made.
PRODUCT_OF_PAIRS = Rule("product_of_pairs", _ProductOfPairs(), _multiply)
