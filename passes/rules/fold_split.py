"""Known scales and shifts of what several linear ops make together go to these, to be folded there.

Every rule reassociates.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import jax.numpy as jnp
from jax import lax

from jaxpress import nnops
from jaxpress.capture import Node, Value
from jaxpress.passes.pattern import State
from jaxpress.passes.rule import Match, Rule, RuleSet
from jaxpress.passes.rules.fold import (
    batch_norm_scale,
    foldable_maker,
    is_foldable,
    loses_mean,
    narrowed_norm,
    norm_affine,
    norm_scale,
    scale_of,
)
from jaxpress.passes.rules.fold_padded import FOLD_PADDED_NORM
from jaxpress.passes.rules.numbers import keeps_range
from jaxpress.passes.rules.weights import (
    as_type,
    operands_of,
    spread_of,
    work_dtype,
)
from jaxpress.passes.view import View

__all__ = [
    "FOLD_PRODUCT",
    "FOLD_SPLIT",
    "FOLD_SPLIT_RULES",
    "FOLD_SUM",
    "parts_of",
    "shape_of",
    "sign_in",
]

# More parts than this are not looked at: a rule does bounded work at a node.
MAX_PARTS = 16

_SUMS = frozenset({"add", "sub"})


def _takes(
    state: State,
    part: Value,
    user: Node,
    along: Iterable[int],
    known: dict[str, Value],
    scale: Any,
    shifts: bool,
) -> bool:
    """Whether a linear op behind ``part`` can take in what runs along some of its features."""
    found = foldable_maker(state, part, user, shifts)
    if found is None:
        return False
    maker, _, features = found
    if not features.hold(along):
        return state.fail("it does not run along the features of every part", user)
    if not is_foldable(state, maker, known):
        return False
    reason = keeps_range(state.view, operands_of(state.view, maker)["w"], scale)
    return reason is None or state.fail(reason, maker)


class _NormOfParts:
    """``batch_norm(concatenate(linear, linear))``, where each can take it in.

    Also where a norm in the wider dtype of its statistics is converted back at once.
    """

    names = frozenset({"batch_norm", "convert_element_type"})
    size = 3

    def find(self, state: State, root: Node) -> Match | None:
        view = state.view
        narrowed = narrowed_norm(state, root)
        if narrowed is None:
            return None
        node, norm, _, widening = narrowed
        joined = view.producer(norm["x"])
        if joined is None or joined.op != "concatenate":
            state.fail("it norms no concatenation", node)
            return None
        if view.use_count(norm["x"]) != 1 or norm["x"].dtype != root.output.dtype:
            state.fail("what it norms is used elsewhere, or has another dtype", node)
            return None
        parts = view.inputs(joined)
        if not 2 <= len(parts) <= MAX_PARTS or len(set(parts)) != len(parts):
            state.fail("a part comes twice, or there are too many", joined)
            return None
        axis = node.params["axis"] % node.output.ndim
        statistics = {f"norm_{k}": v for k, v in norm.items() if k != "x"}
        scale = norm_scale(view, node, norm)[1]
        for part in parts:
            if not isinstance(part.shape[axis], int):
                state.fail(f"how long a part is along axis {axis} is not known", joined)
                return None
            if not _takes(state, part, joined, {axis}, statistics, scale, shifts=True):
                return None
        values = {**{f"part{i}": v for i, v in enumerate(parts)}, **statistics}
        nodes = {"joined": joined, "norm": node}
        return Match(view, root, values, nodes, (node, *widening, joined), {"axis": axis})


def _norm_operands(operands: dict[str, Any]) -> dict[str, Any]:
    return {k: operands.get(f"norm_{k}") for k in ("mean", "var", "scale", "bias")}


def _split_concatenation(*, match: Match, **operands: Any) -> Any:
    joined, axis = match.nodes["joined"], match.info["axis"]
    norm, epsilon = _norm_operands(operands), match.nodes["norm"].params["epsilon"]
    out, start, along = [], 0, int(joined.params["dimension"])
    for i in range(len(joined.inputs)):
        part = operands[f"part{i}"]
        stop = start + part.shape[axis]
        own = [
            v if v is None or along != axis else lax.slice_in_dim(v, start, stop)
            for v in norm.values()
        ]
        y = nnops.batch_norm(part, *own, axis=axis, epsilon=epsilon)
        out.append(as_type(y, match.root.output.dtype))
        start = stop
    return lax.concatenate(out, along)


# batch_norm(concatenate(conv(x), conv(y))) -> concatenate(batch_norm(conv(x)), ...)
FOLD_SPLIT = Rule("fold_split", _NormOfParts(), _split_concatenation, numerics="reassociates")


class _AffineOfSum:
    """A batch norm, or something known, of sums of linear ops.

    A shift goes to the first that can take it in, a scale to every one, so that all must; but one
    summand of a batch norm, such as a residual, may be scaled by itself, for less than to norm it.
    A norm may be in the wider dtype of its statistics, and converted back at once.
    """

    names = frozenset({"batch_norm", "convert_element_type", "mul", "div"}) | _SUMS
    size = 3

    def find(self, state: State, root: Node) -> Match | None:
        view, node, user = state.view, root, root
        outer: tuple[Node, ...] = ()
        norm: dict[str, Value] = {}
        if view.is_known(root.output):
            state.fail("it is of weights alone", root)
            return None
        if root.op in ("batch_norm", "convert_element_type"):
            narrowed = narrowed_norm(state, root)
            if narrowed is None:
                return None
            node, norm, user, widening = narrowed
            outer = (node, *widening)
            sums = [norm["x"]] if self._is_sum(view, norm["x"]) else []
            affine = norm_affine(view, node, norm)
        else:
            # A sum enters as x, or, where what is known comes first, as the second operand.
            sums = [v for v in view.inputs(node)[:2] if self._is_sum(view, v)]
            affine = _known(state, node) if sums else None
        if not sums:
            state.fail("it is of no sum", node)
            return None
        if affine is None:
            return None
        x, along, known, scale = affine
        if x not in sums or x.dtype != root.output.dtype:
            state.fail("it is of no sum, or of one in another dtype", node)
            return None
        parts = parts_of(state, x, user, broadcasts=node.op in _SUMS)
        if parts is None:
            return None
        leaves, inner = parts
        shifts, first, left = node.op not in ("mul", "div"), None, 0
        for i, (leaf, user) in enumerate(leaves):
            if leaf.shape != x.shape:  # a shift may have to be larger than that
                continue
            # One has to be shifted: whichever can be.
            taken = _takes(state, leaf, user, along, known, scale, shifts and first is None)
            if not taken and shifts and first is None and node.op == "batch_norm":
                taken = _takes(state, leaf, user, along, known, scale, shifts=False)
            elif taken and shifts and first is None:
                first = i
            left += not taken
            if left > (node.op == "batch_norm") and node.op not in _SUMS:
                return None
            if first is not None and node.op in _SUMS:
                break
        if shifts and first is None:
            state.fail("no part of the sum can be shifted", node)
            return None
        reason = self._loses(view, root, node, norm) if left and node.op == "batch_norm" else None
        if reason:
            state.fail(reason, node)
            return None
        values = {f"leaf{i}": v for i, (v, _) in enumerate(leaves)} | known
        info = {"shape": shape_of(view, x, [v for v, _ in leaves]), "first": first}
        return Match(view, root, values, {"affine": node}, (*outer, *inner), info)

    def _loses(self, view: View, root: Node, node: Node, norm: dict[str, Value]) -> str | None:
        """Why a sum that is normed in parts would lose some of the result, if it would."""
        if root is not node:
            return "a part would be scaled in the narrower type"
        scale = norm_scale(view, node, norm)[1]
        return loses_mean(view, node, norm) or keeps_range(view, node.output.dtype, scale)

    def _is_sum(self, view: View, value: Value) -> bool:
        maker = view.producer(value)
        return maker is not None and maker.op in _SUMS


def _known(state: State, node: Node) -> Any:
    """Data and something known: the data, where that varies, its operand, and the scale it is."""
    view = state.view
    a, b = view.inputs(node)
    if view.is_known(a) and node.op in ("mul", "add"):
        a, b = b, a
    if view.is_known(a) or not view.is_known(b):
        state.fail("it is with nothing that is known before the data", node)
        return None
    if b.dtype != a.dtype or a.shape != node.output.shape or b.ndim not in (0, a.ndim):
        state.fail("it broadcasts the sum", node)
        return None
    scale = scale_of(view, node, b) if node.op in ("mul", "div") else None
    return a, set(spread_of(view, b)[1]), {"other": b}, scale


def parts_of(
    state: State, total: Value, user: Node, whole: bool = False, broadcasts: bool = False
) -> tuple[list[tuple[Value, Node]], list[Node]] | None:
    """What is summed, each with the sum that takes it, and the sums; ``None`` where one stays.

    Args:
      state: the attempt to match.
      total: the sum.
      user: who takes it, for itself alone; its maker, where it is ``whole``.
      whole: whether the sum as it is will be replaced, so that anybody may use it.
      broadcasts: whether parts may be of a smaller shape, which the sum spreads out.
    """
    view = state.view
    leaves: list[tuple[Value, Node]] = []
    inner: list[Node] = []
    stack = [(total, user)]
    while stack:
        value, user = stack.pop()
        node = view.producer(value)
        own = view.use_count(value) == 1 and view.inputs(user).count(value) == 1
        own = own or (whole and value is total)
        spread = broadcasts and value.shape != total.shape
        if node is None or node.op not in _SUMS or not own or spread:
            leaves.append((value, user))
            continue
        narrow = any(v.shape != total.shape for v in view.inputs(node))
        if value.shape != total.shape or (narrow and not broadcasts):
            state.fail("a sum broadcasts", node)
            return None
        if not jnp.issubdtype(value.dtype, jnp.floating) or len(inner) == MAX_PARTS:
            state.fail("it is no sum of floats, or of too many parts", node)
            return None
        inner.append(node)
        stack.extend((v, node) for v in reversed(view.inputs(node)))
    values = [v for v, _ in leaves]
    if not inner or len(set(values)) != len(values):
        state.fail("a part comes twice, or the sum is used elsewhere", user)
        return None
    if any(map(view.is_known, values)):
        state.fail("a part is known, and folds by itself", user)
        return None
    return leaves, inner


def shape_of(view: View, value: Value, leaves: list[Value]) -> Any:
    """How leaves are summed: the place of one, or an op and what it takes."""
    if value in leaves:
        return leaves.index(value)
    node = view.producer(value)
    assert node is not None
    return (node.op, *(shape_of(view, v, leaves) for v in view.inputs(node)))


def _rebuild(shape: Any, leaves: list[Any]) -> Any:
    if isinstance(shape, int):
        return leaves[shape]
    op, a, b = shape
    apply = lax.add if op == "add" else lax.sub
    return apply(_rebuild(a, leaves), _rebuild(b, leaves))


def sign_in(shape: Any, i: int) -> int:
    """Whether leaf ``i`` is added or taken away; 0 where it is not in this sum."""
    if isinstance(shape, int):
        return int(shape == i)
    op, a, b = shape
    return sign_in(a, i) or (-1 if op == "sub" else 1) * sign_in(b, i)


def _split_sum(other: Any = None, *, match: Match, **operands: Any) -> Any:
    node, shape, first = match.nodes["affine"], match.info["shape"], match.info["first"]
    n = sum(1 for name in operands if name.startswith("leaf"))
    leaves = [operands[f"leaf{i}"] for i in range(n)]
    if node.op in ("mul", "div"):
        apply = lax.mul if node.op == "mul" else lax.div
        wide = jnp.broadcast_to(other, leaves[0].shape)
        return _rebuild(shape, [apply(leaf, wide) for leaf in leaves])
    taken_away = sign_in(shape, first) < 0
    if node.op in _SUMS:
        apply = lax.add if (node.op == "add") != taken_away else lax.sub
        leaves[first] = apply(leaves[first], jnp.broadcast_to(other, leaves[first].shape))
        return _rebuild(shape, leaves)
    norm, dtype = _norm_operands(operands), match.root.output.dtype
    axis, epsilon = node.params["axis"] % node.output.ndim, node.params["epsilon"]
    scale = as_type(batch_norm_scale(norm, epsilon, work_dtype(node)), dtype)
    wide = lax.broadcast_in_dim(scale, leaves[0].shape, (axis,))
    if taken_away:  # -(-y - mean) * s + h
        norm |= {"mean": lax.neg(norm["mean"])}
        if norm["bias"] is not None:
            norm |= {"bias": lax.neg(norm["bias"])}
    leaves = [
        as_type(nnops.batch_norm(leaf, *norm.values(), axis=axis, epsilon=epsilon), dtype)
        if i == first
        else lax.mul(leaf, wide)
        for i, leaf in enumerate(leaves)
    ]
    return _rebuild(shape, leaves)


# batch_norm(conv(x) + conv(y), mean, var, g, h) -> batch_norm(conv(x)) + conv(y) * s
# batch_norm(conv(x) + y, mean, var, g, h) -> batch_norm(conv(x)) + y * s
# (conv(x) + conv(y)) * s -> conv(x) * s + conv(y) * s;  (conv(x) + y) + t -> (conv(x) + t) + y
FOLD_SUM = Rule("fold_sum", _AffineOfSum(), _split_sum, numerics="reassociates")


class _ScaleOfProduct:
    """A product of a linear op and data, times or divided by something known: as a gate has it."""

    names = frozenset({"mul", "div"})
    size = 3

    def find(self, state: State, node: Node) -> Match | None:
        view = state.view
        affine = _known(state, node)
        if affine is None:
            return None
        x, along, known, scale = affine
        product = view.producer(x)
        if product is None or product.op != "mul" or x.dtype != node.output.dtype:
            state.fail("it is of no product, or of one in another dtype", node)
            return None
        factors = view.inputs(product)
        if view.use_count(x) != 1 or any(map(view.is_known, factors)):
            state.fail("the product is used elsewhere, or of something known", node)
            return None
        for i, factor in enumerate(factors):
            if factor.shape != x.shape:
                state.fail("the product spreads it out", product)
            elif _takes(state, factor, product, along, known, scale, shifts=False):
                values = {"linear": factor, "data": factors[1 - i]} | known
                return Match(view, node, values, {}, (product,), {"first": i == 0})
        return None


def _scale_factor(linear: Any, data: Any, other: Any, *, match: Match) -> Any:
    apply = lax.mul if match.root.op == "mul" else lax.div
    linear = apply(linear, jnp.broadcast_to(other, linear.shape))
    return lax.mul(linear, data) if match.info["first"] else lax.mul(data, linear)


# conv(x, w) * y * s -> conv(x, w) * s * y
FOLD_PRODUCT = Rule("fold_product", _ScaleOfProduct(), _scale_factor, numerics="reassociates")


FOLD_SPLIT_RULES = RuleSet((FOLD_SPLIT, FOLD_SUM, FOLD_PRODUCT, FOLD_PADDED_NORM))
