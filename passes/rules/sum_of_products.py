"""A product with axes that both operands share, summed along them, contracts them instead.

What each of several heads or experts adds to a sum is such a product, under ``vmap`` or ``einsum``.
"""

from __future__ import annotations

from typing import Any

from jax import lax

from jaxpress.capture import Node
from jaxpress.passes.pattern import State
from jaxpress.passes.rule import Match, Rule
from jaxpress.passes.rules.cleanup_moves import is_plain

__all__ = ["SUM_OF_PRODUCTS"]


class _SumOverBatch:
    names = frozenset({"reduce_sum"})
    size = 2

    def find(self, state: State, node: Node) -> Match | None:
        view = state.view
        value = view.inputs(node)[0]
        dot = view.producer(value)
        if dot is None or dot.op != "dot_general" or node.params.get("out_sharding") is not None:
            state.fail("what it sums is no product", node)
            return None
        a, b = view.inputs(dot)
        (contracted, batch) = dot.params["dimension_numbers"]
        summed = [int(axis) for axis in node.params["axes"]]
        if not summed or max(summed) >= len(batch[0]):
            state.fail("it sums along axes of one operand", node)
            return None
        if dot.params.get("out_sharding") is not None or not is_plain(a, b, value):
            state.fail("sizes are not known, or it is sharded", node)
            return None
        if value.dtype.itemsize < 4:
            state.fail("the sum was to be taken of rounded products", node)
            return None
        numbers = [
            (
                (*map(int, along), *(int(shared[i]) for i in summed)),
                tuple([int(axis) for i, axis in enumerate(shared) if i not in summed]),
            )
            for along, shared in zip(contracted, batch, strict=True)
        ]
        info = {"numbers": tuple(zip(*numbers, strict=True))}
        return Match(view, node, {"a": a, "b": b}, {"dot": dot}, (dot,), info)


def _contracted(a: Any, b: Any, *, match: Match) -> Any:
    params = match.nodes["dot"].params
    return lax.dot_general(
        a,
        b,
        match.info["numbers"],
        precision=params["precision"],
        preferred_element_type=params["preferred_element_type"],
    )


# sum(dot_general(a, b, batch=n), n) -> dot_general(a, b), which contracts n
SUM_OF_PRODUCTS = Rule("sum_of_products", _SumOverBatch(), _contracted, numerics="reassociates")
