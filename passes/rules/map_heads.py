"""A loop over the weights of attention's heads, one head in each round, takes all heads at once.

``lax.map`` over data may be there to save memory, and stays. Over weights that are known it is one
way to write heads; that the result of all heads at once is not large is asked nevertheless.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from jaxpress.capture import Graph, Literal, Node, Value, compat, trace
from jaxpress.capture.evaluate import evaluate
from jaxpress.passes.cleanup import eliminate_dead_code, inline
from jaxpress.passes.engine import rewrite
from jaxpress.passes.match import MadeOnce
from jaxpress.passes.pattern import State
from jaxpress.passes.rule import Match, Rule
from jaxpress.passes.rules.cleanup_moves import is_plain
from jaxpress.passes.rules.raise_attention import ATTENTION_RULES
from jaxpress.passes.rules.sum_of_products import SUM_OF_PRODUCTS
from jaxpress.passes.view import GraphView

__all__ = ["MAP_HEADS"]

_MAX_HEADS = 128
# No array of all heads may have more elements than this.
_MAX_ELEMENTS = 1 << 24

_attends: weakref.WeakKeyDictionary[Graph, bool] = weakref.WeakKeyDictionary()


def _has_attention(body: Graph) -> bool:
    if body not in _attends:
        products = [n for n in body.walk() if n.op in ("dot_general", "dense")]
        raised = rewrite(inline(body), ATTENTION_RULES) if len(products) > 1 else body
        _attends[body] = bool(raised.find("dot_product_attention"))
    return _attends[body]


@dataclass(eq=False)
class _Plan(MadeOnce):
    """A body and, for each of what it carries, what is added in each round; None: it stays."""

    body: Graph
    added: list[Value | None]


class _LoopOverHeads:
    names = frozenset({"scan"})
    size = 5

    def find(self, state: State, node: Node) -> Match | None:
        view, length = state.view, node.params["length"]
        (body,) = node.subgraphs
        consts, carry = compat.scan_counts(node.params)
        inputs = view.inputs(node)
        rows = inputs[consts + carry :]
        if not rows or not all(view.is_known(v) for v in rows):
            state.fail("it runs over other things than known weights", node)
            return None
        if not is_plain(*inputs):
            state.fail("its sizes are not known, or it is sharded", node)
            return None
        if not isinstance(length, int) or not 1 < length <= _MAX_HEADS:
            state.fail(f"it has {length} rounds", node)
            return None
        if node.effects or any(n.effects or n.op.startswith("random_") for n in body.walk()):
            state.fail("its body draws random numbers, or has effects", node)
            return None
        sizes = [_elements(v) for n in body.nodes for v in n.outputs]
        if length * max(sizes, default=0) > _MAX_ELEMENTS:
            state.fail("all heads at once would take much memory", node)
            return None
        inside = GraphView(body)
        slots = zip(body.inputs[consts:], body.outputs[:carry], strict=False)
        added = [_added(inside, old, new) for old, new in slots]
        if any(isinstance(found, str) for found in added):
            state.fail("what it carries is no sum over its rounds", node)
            return None
        if not _has_attention(body):
            state.fail("there is no attention in its body", node)
            return None
        plan = _Plan(body, [v if isinstance(v, Value) else None for v in added])
        values = {f"x{i}": v for i, v in enumerate(inputs)}
        return Match(view, node, values, info={"plan": plan})


def _elements(value: Value) -> Any:
    sizes = getattr(value, "shape", ())
    # Sizes that are not known may be any.
    known = all(isinstance(n, int) for n in sizes)
    return math.prod(sizes) if known else _MAX_ELEMENTS


def _added(view: GraphView, old: Value, new: Value) -> Value | str | None:
    """What a round adds to what is carried; ``None`` where that stays as it is."""
    if new is old:
        return None
    node = view.producer(new)
    if node is None or node.op != "add" or view.users(old) != (node,) or view.is_output(old):
        return "it does more than adding"
    given = [v for v in view.graph.outputs if v is new]
    if not jnp.issubdtype(new.dtype, jnp.floating) or len(given) > 1 or view.users(new):
        return "the sum is used on the way"
    others = [v for v in node.inputs if v is not old]
    fits = len(others) == 1 and not isinstance(others[0], Literal)
    return others[0] if fits and others[0].shape == new.shape else "it adds something else"


def _all_at_once(*, match: Match, **given: Any) -> Any:
    plan: _Plan = match.info["plan"]
    arrays = [jnp.asarray(given[f"x{i}"], v.dtype) for i, v in enumerate(plan.body.inputs)]
    # Sums are looked for before anything else names the products that they are of.
    types = [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in arrays]
    mapped = trace(lambda *xs: _mapped(plan, match.root, xs))(*types)
    return evaluate(rewrite(inline(mapped), SUM_OF_PRODUCTS), arrays)


def _mapped(plan: _Plan, node: Node, arrays: Sequence[Any]) -> Any:
    body = plan.body
    consts, carry = compat.scan_counts(node.params)
    steady = [i for i, v in enumerate(plan.added) if v is None]
    fixed = [*range(consts), *(consts + i for i in steady)]
    taken = [*fixed, *range(consts + carry, len(arrays))]
    sums = [v for v in plan.added if v is not None]
    # What the round's sums are added to is no input any more.
    graph = eliminate_dead_code(body.with_parts(outputs=(*sums, *body.outputs[carry:])))
    graph = graph.with_parts(inputs=tuple([body.inputs[i] for i in taken]))
    axes = tuple([None if i < consts + carry else 0 for i in taken])
    made = jax.vmap(lambda *xs: evaluate(graph, xs), in_axes=axes)(*(arrays[i] for i in taken))
    parts = iter(made[: len(sums)])
    carried = []
    for first, value in zip(arrays[consts : consts + carry], plan.added, strict=True):
        carried.append(first if value is None else first + jnp.sum(next(parts), 0, first.dtype))
    return [*carried, *made[len(sums) :]]


# lax.map(head, (wq, wk, wv)) -> vmap(head)(wq, wk, wv)
MAP_HEADS = Rule("map_heads", _LoopOverHeads(), _all_at_once, numerics="reassociates")
