"""Attentions of one head each, written one after the other, become one with all the heads.

A list of heads, each with projections of its own, is what textbooks have. Their queries, keys and
values are joined where that costs nothing at a call: they are pieces of one array already, or
products of one input with weights that are known.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

import jax.numpy as jnp
from jax import lax

from jaxpress.capture import Node, Value
from jaxpress.passes.match import MadeOnce
from jaxpress.passes.pattern import State
from jaxpress.passes.rule import Match, Rule, RuleSet
from jaxpress.passes.rules.axis_tracking import Axes, arrange, spread
from jaxpress.passes.rules.joined_heads import Join, Joining, are_one, joined
from jaxpress.passes.rules.weights import operands_of, rebind
from jaxpress.passes.view import View

__all__ = ["FUSE_HEADS_RULES"]

_ATTENTION = "dot_product_attention"
_PROJECTED = ("query", "key", "value")


@dataclass(eq=False)
class _Plan(MadeOnce):
    """The attention that several become.

    Attributes:
      node: one of them.
      heads: how many there are.
      joined: queries, keys and values: each a name for all, or how it is joined.
      others: biases and masks: a name for all, or one for each head.
      order: for each axis of what is asked, that of the result; several where they are one.
    """

    node: Node
    heads: int
    joined: dict[str, str | Join]
    others: dict[str, tuple[str, ...]]
    order: Axes


def _head(view: View, value: Value) -> tuple[Node, Axes, tuple[Node, ...]] | None:
    """The attention of one head that ``value`` rearranges, its axes, and what rearranges it."""
    behind = spread(view, value, broadcasts=False)
    node = view.producer(behind.source)
    if node is None or node.op != _ATTENTION or "mapped" in node.params:
        return None
    return (node, behind.axes, behind.nodes) if behind.source.shape[-2] == 1 else None


def _plan(
    state: State, root: Node, values: Sequence[Value]
) -> tuple[_Plan, Joining, list[Node]] | None:
    """One attention for all, ``order`` still that of one head's result."""
    view = state.view
    found = [_head(view, v) for v in values]
    heads = [h for h in found if h is not None]
    if len(heads) < len(found) or len({n for n, *_ in heads}) < len(heads) or len(heads) < 2:
        state.fail("it does not take attentions of one head each", root)
        return None
    first, axes, _ = heads[0]
    operands = [operands_of(view, n) for n, *_ in heads]
    if any(n.params != first.params or a != axes or n.ctx != first.ctx for n, a, _ in heads) or any(
        o.keys() != operands[0].keys() or o[k].aval != v.aval
        for o in operands
        for k, v in operands[0].items()
    ):
        state.fail("the attentions differ in more than their arrays", root)
        return None
    if "dropout_key" in operands[0]:
        state.fail("each head draws what it drops", root)
        return None
    joining = Joining(view)
    plan = _Plan(first, len(heads), {}, {}, axes)
    for name in operands[0]:
        own = [o[name] for o in operands]
        one = all(are_one(view, v, own[0]) for v in own)
        if name not in _PROJECTED:
            if not one and (name not in ("bias", "mask") or own[0].ndim < 3):
                state.fail(f"each head has {name} of its own", root)
                return None
            plan.others[name] = tuple([joining.name(v) for v in (own[:1] if one else own)])
            continue
        distinct = _in_groups(view, own) if name != "query" else own
        joint = joining.name(own[0]) if one else joining.join(distinct)
        if joint is None:
            state.fail(f"what makes each head's {name} cannot be joined", root)
            return None
        plan.joined[name] = joint
        if not one:
            # Heads of one group may have spread one array each for itself.
            joining.nodes += [n for v in own for n in spread(view, v, broadcasts=False).nodes]
    query, key, value = (n.heads if isinstance(n, Join) else 1 for n in plan.joined.values())
    if len({key, value} - {1}) > 1 or query == key == value == 1:
        state.fail("keys and values are shared by different heads", root)
        return None
    nodes = [n for n, *_ in heads] + [m for _, _, moves in heads for m in moves]
    return plan, joining, [*nodes, *joining.nodes]


def _in_groups(view: View, values: list[Value]) -> list[Value]:
    """Each value once, if all come equally often and one after the other."""
    distinct: list[Value] = []
    places = []
    for v in values:
        at = next((i for i, known in enumerate(distinct) if are_one(view, v, known)), None)
        distinct += [v] if at is None else []
        places.append(len(distinct) - 1 if at is None else at)
    times = len(values) // len(distinct)
    return distinct if places == [i // times for i in range(len(values))] else values


def _attend(plan: _Plan, arrays: dict[str, Any]) -> Any:
    """The attention, (..., T, N, H)."""
    operands: dict[str, Any] = {}
    for name, how in plan.joined.items():
        if isinstance(how, str):
            operands[name] = arrays[how]
        else:
            operands[name] = joined(how, arrays, single=True)
    groups = max(operands[name].shape[-2] for name in ("key", "value"))
    for name, x in operands.items():
        n = plan.heads if name == "query" else groups
        if x.shape[-2] != n:
            operands[name] = jnp.broadcast_to(x, (*x.shape[:-2], n, x.shape[-1]))
    for name, names in plan.others.items():
        own = [arrays[n] for n in names]
        operands[name] = own[0] if len(own) == 1 else lax.concatenate(own, own[0].ndim - 3)
    return rebind(plan.node, operands)


class _JoinedHeads:
    """``concatenate`` or ``stack`` of attentions."""

    names = frozenset({"concatenate", "stack"})
    size = 6

    def find(self, state: State, node: Node) -> Match | None:
        view = state.view
        found = _plan(state, node, view.inputs(node))
        if found is None:
            return None
        plan, joining, nodes = found
        last = view.inputs(nodes[0])[0].ndim - 1
        order = [None if a == last - 1 else a for a in plan.order]
        at = int(node.params["axis" if node.op == "stack" else "dimension"])
        if node.op == "stack" or order[at] == last:
            order.insert(at, last - 1)
        elif order[at] is None:
            order[at] = last - 1
        else:
            state.fail("it joins them along an axis that is neither heads nor features", node)
            return None
        plan.order = tuple(order)
        return Match(view, node, joining.values, matched=nodes, info={"plan": plan})


def _fuse(*, match: Match, **arrays: Any) -> Any:
    plan = match.info["plan"]
    y = arrange(_attend(plan, arrays), plan.order)
    shape = match.root.output.shape
    return y if y.shape == shape else lax.reshape(y, shape)


# concatenate(attention(q1, k1, v1), attention(q2, k2, v2)) -> attention([q1, q2], [k1, k2], ...)
FUSE_HEADS = Rule("fuse_heads", _JoinedHeads(), _fuse, numerics="reassociates")


class _SummedHeads:
    """``dense`` of an attention, its residual another one, and so on."""

    names = frozenset({"dense"})
    size = 7

    def find(self, state: State, node: Node) -> Match | None:
        view = state.view
        if "residual" not in node.params["operands"]:
            state.fail("it adds to nothing", node)
            return None
        chain: list[Node] = []
        rest: Value | None = None
        maker: Node | None = node
        while maker is not None and self._fits(view, maker, node):
            chain.append(maker)
            rest = operands_of(view, maker).get("residual")
            maker = None if rest is None else view.producer(rest)
            if maker is not None and view.use_count(maker.output) != 1:
                break
        if len(chain) < 2:
            state.fail("it sums no several heads", node)
            return None
        chain = chain[::-1]
        operands = [operands_of(view, n) for n in chain]
        found = _plan(state, node, [o["x"] for o in operands])
        if found is None:
            return None
        plan, joining, nodes = found
        last = view.inputs(nodes[0])[0].ndim - 1
        if plan.order[-1] != last:
            state.fail("the features of heads are not summed", node)
            return None
        order = [None if a == last - 1 else a for a in plan.order]
        plan.order = (*order[:-1], last - 1, last)
        info = {
            "plan": plan,
            "weights": tuple([joining.name(o["w"]) for o in operands]),
            "biases": tuple([joining.name(o["b"]) for o in operands if "b" in o]),
            "residual": None if rest is None else joining.name(rest),
        }
        nodes += [n for n in chain if n is not node]
        return Match(view, node, joining.values, {"dense": node}, nodes, info)

    def _fits(self, view: View, node: Node, root: Node) -> bool:
        if node.op != "dense" or "mapped" in node.params or node.output.aval != root.output.aval:
            return False
        if node is not root and node.params["activation"] is not None:
            return False
        apart = ("operands", "activation")
        if any(node.params[k] != v for k, v in root.params.items() if k not in apart):
            return False
        operands = operands_of(view, node)
        known = all(view.is_known(operands[k]) for k in ("w", "b") if k in operands)
        return known and _head(view, operands["x"]) is not None


def _fuse_sum(*, match: Match, **arrays: Any) -> Any:
    info = match.info
    y = arrange(_attend(info["plan"], arrays), info["plan"].order)
    operands = {
        "x": lax.reshape(y, (*y.shape[:-2], y.shape[-2] * y.shape[-1])),
        "w": lax.concatenate([arrays[w] for w in info["weights"]], 0),
    }
    if info["biases"]:
        operands["b"] = reduce(lax.add, [arrays[b] for b in info["biases"]])
    if info["residual"] is not None:
        operands["residual"] = arrays[info["residual"]]
    return rebind(match.nodes["dense"], operands)


# dense(attention(q1, k1, v1), w1) + dense(attention(q2, k2, v2), w2)
# -> dense(attention([q1, q2], [k1, k2], [v1, v2]), [w1, w2])
FUSE_SUMMED_HEADS = Rule("fuse_summed_heads", _SummedHeads(), _fuse_sum, numerics="reassociates")

FUSE_HEADS_RULES = RuleSet((FUSE_HEADS, FUSE_SUMMED_HEADS))
