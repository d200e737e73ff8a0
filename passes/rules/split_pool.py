"""Pooling that is written with reshapes and transposes, as adaptive pooling is.

A mean over parts of axes is an ``avg_pool`` whose windows do not overlap; a transpose before a pool
that another one after it undoes is a matter of which axes the pool runs over.
"""

from __future__ import annotations

import math
from typing import Any

import jax.numpy as jnp
from jax import lax

from jaxpress import nnops
from jaxpress.capture import Node
from jaxpress.passes.pattern import State, any_value, op
from jaxpress.passes.rule import Match, Rule, RuleSet
from jaxpress.passes.rules.arithmetic import number_of
from jaxpress.passes.view import View

__all__ = ["SPLIT_POOL_RULES"]

_POOLS = frozenset({"max_pool", "min_pool", "avg_pool"})
# Parameters with one entry for each axis.
_PER_AXIS = ("window_shape", "strides", "padding", "dilation")


class _SplitMeanPattern:
    """``mean(reshape(x))`` over the inner parts of axes that the reshape splits."""

    names = frozenset({"div"})
    size = 3

    def find(self, state: State, node: Node) -> Match | None:
        view = state.view
        total, number = view.inputs(node)
        reduce = view.producer(total)
        operands = () if reduce is None else view.inputs(reduce)  # iota, for one, has none
        split = view.producer(operands[0]) if operands else None
        if reduce is None or reduce.op != "reduce_sum" or split is None or split.op != "reshape":
            state.fail("it is no sum of a reshape by a number", node)
            return None
        x = view.inputs(split)[0]
        if not jnp.issubdtype(x.dtype, jnp.floating) or x.dtype.itemsize < 4 or view.is_known(x):
            state.fail(f"it is of no data in float32 or float64, but of {x.dtype}", node)
            return None
        axes = {int(a) for a in reduce.params["axes"]}
        sizes = split.output.shape
        windows = _windows(x.shape, sizes, axes)
        count = math.prod(sizes[a] for a in axes) if windows else 0
        size = number_of(view, number)
        if windows is None or size != count or count == 1:
            state.fail("it is no mean over the inner parts of axes that are split", node)
            return None
        info = {"windows": windows}
        return Match(view, node, {"x": x}, matched=(reduce, split), info=info)


def _windows(shape: Any, split: Any, inner: set[int]) -> tuple[int, ...] | None:
    """How many entries of each axis of ``shape`` are averaged; ``None`` if it is something else."""
    if not all(isinstance(n, int) and n > 0 for n in (*shape, *split)):
        return None
    windows, j = [], 0
    for n in shape:
        if j < len(split) and j not in inner and split[j] == n:
            # Followed by an inner part of one entry it would be split in two: 9 -> (9, 1).
            windows.append(1)
            j += 1
        elif j + 1 < len(split) and j + 1 in inner and j not in inner:
            if split[j] * split[j + 1] != n:
                return None
            windows.append(split[j + 1])
            j += 2
        else:
            return None
    return tuple(windows) if j == len(split) else None


def _split_mean(x: Any, *, match: Match) -> Any:
    windows = match.info["windows"]
    whole = tuple(i for i, (n, w) in enumerate(zip(x.shape, windows, strict=True)) if n == w != 1)
    if math.prod(windows) == math.prod(x.shape[i] for i in whole):
        return nnops.global_avg_pool(x, whole, keepdims=True)
    return nnops.avg_pool(x, windows, windows)


# mean of the inner parts of axes that reshape splits -> avg_pool(x)
RAISE_SPLIT_MEAN = Rule(
    "raise_split_mean", _SplitMeanPattern(), _split_mean, numerics="reassociates"
)


def _sums_one_entry(view: View, node: Node) -> bool:
    x = view.inputs(node)[0]
    return jnp.issubdtype(x.dtype, jnp.floating) and all(
        x.shape[a] == 1 for a in node.params["axes"]
    )


# sum(x) over axes of size 1 -> squeeze(x). Not exact: the sum of minus zero is zero.
SQUEEZE_SUM = Rule(
    "squeeze_sum",
    op("reduce_sum", any_value("x"), where=_sums_one_entry),
    lambda x, *, match: lax.squeeze(x, match.root.params["axes"]),
    numerics="reassociates",
)


class _SandwichPattern:
    """A pool of moved data that is moved on: transposed twice, or with a unit axis for a while."""

    names = frozenset({"transpose", "squeeze"})
    size = 3

    def find(self, state: State, node: Node) -> Match | None:
        view = state.view
        pool = view.producer(view.inputs(node)[0])
        if pool is None or pool.op not in (*_POOLS, "global_avg_pool", "global_max_pool"):
            state.fail("what it moves is no pool", node)
            return None
        before = view.producer(view.inputs(pool)[0])
        if before is None or not _undoes(view, before, node, pool):
            state.fail("the pool is of nothing that it undoes", node)
            return None
        values = {"x": view.inputs(before)[0]}
        return Match(view, node, values, {"pool": pool, "before": before}, (pool, before))


def _undoes(view: View, before: Node, after: Node, pool: Node) -> bool:
    if pool.params.get("keepdims") is False:
        return False
    if after.op == "transpose":
        return before.op == "transpose"
    # A unit axis comes and goes.
    dims = {int(d) for d in after.params["dimensions"]}
    if before.op not in ("broadcast_in_dim", "reshape", "expand_dims") or pool.op not in _POOLS:
        return False
    wide, x = before.output, view.inputs(before)[0]
    kept = [n for i, n in enumerate(wide.shape) if i not in dims]
    if len(view.inputs(before)) != 1 or kept != list(x.shape):
        return False
    places = [i for i in range(wide.ndim) if i not in dims]
    if before.op == "broadcast_in_dim" and list(before.params["broadcast_dimensions"]) != places:
        return False
    return all(
        wide.shape[d] == pool.params["window_shape"][d] == 1 and pool.params["padding"][d] == (0, 0)
        for d in dims
    )


def _inside(x: Any, *, match: Match) -> Any:
    pool, before, root = match.nodes["pool"], match.nodes["before"], match.root
    params = dict(pool.params)
    if root.op == "squeeze":
        dims = {int(d) for d in root.params["dimensions"]}
        for key in _PER_AXIS:
            params[key] = tuple(v for i, v in enumerate(params[key]) if i not in dims)
        return nnops.registry()[pool.op].rebind({"x": x}, **params)
    order = [int(p) for p in before.params["permutation"]]
    if pool.op in _POOLS:
        for key in _PER_AXIS:
            params[key] = tuple(params[key][order.index(i)] for i in range(x.ndim))
    else:
        params["axis"] = tuple(sorted(order[a] - x.ndim for a in params["axis"]))
    y = nnops.registry()[pool.op].rebind({"x": x}, **params)
    then = [order[int(p)] for p in root.params["permutation"]]
    return y if then == sorted(then) else lax.transpose(y, then)


# transpose(pool(transpose(x))) -> transpose(pool(x)), over other axes, or pool(x)
FUSE_POOL_LAYOUT = Rule("fuse_pool_layout", _SandwichPattern(), _inside, numerics="reassociates")


class _TwoPoolsPattern:
    """A mean over windows of some axes, and one of the result over windows of others."""

    names = frozenset({"avg_pool", "global_avg_pool"})
    size = 2

    def find(self, state: State, node: Node) -> Match | None:
        view = state.view
        inner = view.producer(view.inputs(node)[0])
        if inner is None or inner.op != node.op:
            state.fail("what it pools is no pool of its kind", node)
            return None
        if not (_is_plain(node) and _is_plain(inner)) or any(
            a != 1 and b != 1 for a, b in zip(_extent(node), _extent(inner), strict=True)
        ):
            state.fail("both run over one axis, or pad, or drop axes", node)
            return None
        if not jnp.issubdtype(view.inputs(inner)[0].dtype, jnp.floating):
            state.fail("sums of integers wrap round", node)  # and of more, sooner
            return None
        values = {"x": view.inputs(inner)[0]}
        return Match(view, node, values, {"inner": inner}, (inner,))


def _is_plain(node: Node) -> bool:
    params = node.params
    if node.op == "global_avg_pool":
        return bool(params["keepdims"])
    pads = all(p == (0, 0) for p in params["padding"])
    return pads and all(d == 1 for d in params["dilation"]) and params.get("mapped") is None


def _extent(node: Node) -> tuple[int, ...]:
    """What is not 1 for the axes that a pool runs over."""
    ndim = node.inputs[0].ndim
    if node.op == "global_avg_pool":
        axes = {a % ndim for a in node.params["axis"]}
        return tuple(2 if i in axes else 1 for i in range(ndim))
    params = node.params
    pairs = zip(params["window_shape"], params["strides"], strict=True)
    return tuple(max(pair) for pair in pairs)


def _merged(x: Any, *, match: Match) -> Any:
    outer, inner = match.root.params, match.nodes["inner"].params
    if match.root.op == "global_avg_pool":
        axes = tuple(sorted((*outer["axis"], *inner["axis"])))
        return nnops.global_avg_pool(x, axes, keepdims=True)
    windows, strides = (
        tuple(a * b for a, b in zip(outer[key], inner[key], strict=True))
        for key in ("window_shape", "strides")
    )
    return nnops.avg_pool(x, windows, strides)


# avg_pool(avg_pool(x)) over different axes -> avg_pool(x)
MERGE_POOLS = Rule("merge_pools", _TwoPoolsPattern(), _merged, numerics="reassociates")

SPLIT_POOL_RULES = RuleSet((RAISE_SPLIT_MEAN, SQUEEZE_SUM, FUSE_POOL_LAYOUT, MERGE_POOLS))
