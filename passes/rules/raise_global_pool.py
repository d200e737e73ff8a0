"""Means and maxima over all positions become ``global_avg_pool`` and ``global_max_pool``.

Positions are axes between the batch and the channels, or behind both. A mean over others is a
mean, and one that is taken away from its own array belongs to a norm.
"""

from __future__ import annotations

import math
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxpress import nnops
from jaxpress.capture import Node, Value
from jaxpress.passes.pattern import State
from jaxpress.passes.rule import Match, Rule, RuleSet
from jaxpress.passes.rules.arithmetic import number_of
from jaxpress.passes.view import View

__all__ = ["GLOBAL_POOL_RULES"]

_RESHAPES = frozenset({"broadcast_in_dim", "reshape", "expand_dims", "squeeze"})


class _MeanPattern:
    """``sum(x) / n``, in float32 where x is narrower, with the axes kept or not."""

    size = 2

    def __init__(self, op: str):
        self.op = op
        self.names = frozenset({op, "convert_element_type"})

    def find(self, state: State, node: Node) -> Match | None:
        view = state.view
        root, matched = node, []
        narrow = node.op == "convert_element_type"
        if narrow:
            inner = view.producer(view.inputs(node)[0])
            if inner is None or inner.op != self.op:
                state.fail("what it converts is no quotient", node)
                return None
            node = inner
            matched.append(node)
        found = _scaled_sum(view, node)
        if found is None:
            state.fail("it is no sum by a number", node)
            return None
        total, between, number = found
        x = view.inputs(total)[0]
        axes = tuple(int(a) for a in total.params["axes"])
        sizes = [x.shape[a] for a in axes]
        if not sizes or not all(isinstance(n, int) for n in sizes):
            state.fail("it sums no axes, or ones of unknown size", total)
            return None
        count = math.prod(sizes)
        if not count:
            state.fail("it sums nothing", total)
            return None
        wanted = np.asarray(count if node.op == "div" else 1 / count, node.output.dtype)
        if np.asarray(number, node.output.dtype) != wanted:
            state.fail(f"it is no mean: it has {number}, and sums {count}", node)
            return None
        matched += [total, *between]
        if narrow:
            widen = view.producer(x)
            if widen is None or widen.op != "convert_element_type" or x.dtype != jnp.float32:
                state.fail("what it sums is not widened to float32", total)
                return None
            x = view.inputs(widen)[0]
            matched.append(widen)
            if x.dtype != root.output.dtype or x.dtype.itemsize >= 4:
                state.fail("it changes the dtype", root)
                return None
        elif x.dtype.itemsize < 4:
            state.fail("the sum is in low precision", total)
            return None
        return _match(state, root, x, axes, matched)


def _scaled_sum(view: View, node: Node) -> tuple[Node, list[Node], float] | None:
    """The sum behind a quotient or product with a number."""
    a, b = view.inputs(node)
    for total, other in ((a, b), (b, a)) if node.op == "mul" else ((a, b),):
        number = number_of(view, other)
        if number is None:
            continue
        maker, between = view.producer(total), []
        if maker is not None and maker.op in _RESHAPES:
            between.append(maker)
            maker = view.producer(view.inputs(maker)[0])
        if maker is not None and maker.op == "reduce_sum":
            return maker, between, number
    return None


class _MaxPattern:
    """``max(x)``."""

    names = frozenset({"reduce_max"})
    size = 1

    def find(self, state: State, node: Node) -> Match | None:
        view = state.view
        users = view.users(node.output)
        if any(u.op in ("max", "stop_gradient", "sub", "is_finite") for u in users):
            state.fail("it is the largest number that a softmax takes away", node)
            return None
        axes = tuple(int(a) for a in node.params["axes"])
        return _match(state, node, view.inputs(node)[0], axes, [])


class _KeptPattern:
    """Global pooling, and a reshape that puts the axes back."""

    names = _RESHAPES
    size = 2

    def find(self, state: State, node: Node) -> Match | None:
        view = state.view
        pool = view.producer(view.inputs(node)[0])
        if pool is None or pool.op not in ("global_avg_pool", "global_max_pool"):
            state.fail("what it reshapes is no global pooling", node)
            return None
        x = view.inputs(pool)[0]
        axes = tuple(a % x.ndim for a in pool.params["axis"])
        kept = tuple(i for i in range(x.ndim) if i not in axes)
        if pool.params["keepdims"] or node.output.shape != _kept(x, axes):
            state.fail("it does not put back the axes that were pooled over", node)
            return None
        if node.op == "broadcast_in_dim" and tuple(node.params["broadcast_dimensions"]) != kept:
            state.fail("it puts the others elsewhere", node)
            return None
        return Match(view, node, {"x": x}, {"pool": pool}, (pool,))


def _keep(x: Any, *, match: Match) -> Any:
    pool = match.nodes["pool"]
    fn = nnops.global_avg_pool if pool.op == "global_avg_pool" else nnops.global_max_pool
    return fn(x, pool.params["axis"], keepdims=True)


def _kept(x: Value, axes: tuple[int, ...]) -> tuple[Any, ...]:
    return tuple(1 if i in axes else n for i, n in enumerate(x.shape))


def _match(
    state: State, root: Node, x: Value, axes: tuple[int, ...], matched: list[Node]
) -> Match | None:
    view = state.view
    if not jnp.issubdtype(x.dtype, jnp.floating) or view.is_known(x):
        state.fail("it is of no floating-point data", root)
        return None
    shape = root.output.shape
    keepdims = shape == _kept(x, axes)
    if not keepdims and shape != tuple(n for i, n in enumerate(x.shape) if i not in axes):
        state.fail("its result has another shape", root)
        return None
    if not _are_positions(axes, x.ndim):
        state.fail(f"axes {axes} are no positions between or behind batch and channels", root)
        return None
    if _is_statistic(view, root, x):
        state.fail("it is a statistic of a norm", root)
        return None
    info = {"axis": tuple(sorted(a - x.ndim for a in axes)), "keepdims": keepdims}
    return Match(view, root, {"x": x}, matched=matched, info=info)


def _are_positions(axes: tuple[int, ...], ndim: int) -> bool:
    """Between the batch and the channels, or behind them both where there are several."""
    first, last = min(axes), max(axes)
    if last - first + 1 != len(axes) or first < 1:
        return False
    return last == ndim - 2 or (last == ndim - 1 and first >= 2 and len(axes) > 1)


def _is_statistic(view: View, root: Node, x: Value) -> bool:
    maker = view.producer(x)
    if maker is not None and (
        maker.op in ("square", "integer_pow")
        or (maker.op == "mul" and view.inputs(maker)[0] is view.inputs(maker)[1])
    ):
        return True
    users = list(view.users(root.output))
    for u in list(users):
        if u.op in _RESHAPES:
            users.extend(view.users(u.output))
    return any(u.op == "sub" and x in view.inputs(u) for u in users)


def _raise_avg(x: Any, *, match: Match) -> Any:
    return nnops.global_avg_pool(x, match.info["axis"], keepdims=match.info["keepdims"])


def _raise_max(x: Any, *, match: Match) -> Any:
    return nnops.global_max_pool(x, match.info["axis"], keepdims=match.info["keepdims"])


# sum(x) / n over positions -> global_avg_pool(x)
RAISE_GLOBAL_AVG_POOL = Rule("raise_global_avg_pool", _MeanPattern("div"), _raise_avg)

# sum(x) * (1 / n) over positions -> global_avg_pool(x)
RAISE_SCALED_SUM = Rule(
    "raise_scaled_sum", _MeanPattern("mul"), _raise_avg, numerics="reassociates"
)

# max(x) over positions -> global_max_pool(x)
RAISE_GLOBAL_MAX_POOL = Rule("raise_global_max_pool", _MaxPattern(), _raise_max)

# reshape(global_avg_pool(x)) -> global_avg_pool(x, keepdims=True)
KEEP_POOLED_AXES = Rule("keep_pooled_axes", _KeptPattern(), _keep)

GLOBAL_POOL_RULES = RuleSet(
    (RAISE_GLOBAL_AVG_POOL, RAISE_SCALED_SUM, RAISE_GLOBAL_MAX_POOL, KEEP_POOLED_AXES)
)
