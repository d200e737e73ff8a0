"""Linear ops in a row, and scales or shifts in a row, become one where their weights are known.

Every rule reassociates: ``(x @ v) @ w`` and ``x @ (v @ w)`` are equal, and rounded differently.
"""

from __future__ import annotations

import math
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxpress.capture import Node, Value
from jaxpress.nnops.conv_geometry import specs
from jaxpress.passes.pattern import State
from jaxpress.passes.rule import Match, Rule, RuleSet
from jaxpress.passes.rules.fold import is_foldable
from jaxpress.passes.rules.numbers import MAX_PRODUCT, keeps_product, keeps_range, numbers_of
from jaxpress.passes.rules.steps import linear_maker
from jaxpress.passes.rules.weights import (
    along,
    as_type,
    operands_of,
    rebind,
    shift_through,
    spread_of,
    work_dtype,
)
from jaxpress.passes.view import View, scalar_value

__all__ = ["FOLD_CHAIN_RULES", "product_loses"]

_EXACTLY = lax.Precision.HIGHEST
# Each of several users asks about all: no more than these, and the cost stays linear in the graph.
MAX_USERS = 8


class _LinearAfterLinear:
    """``linear(linear(x, v), w)`` without an activation between, where one is cheaper than two.

    Where several take what the first makes, such as the projections of an attention, it is folded
    into each of them if it can be folded into all.
    """

    size = 2

    def __init__(self, op: str):
        self.names = frozenset({op})

    def find(self, state: State, node: Node) -> Match | None:
        view = state.view
        value = operands_of(view, node)["x"]
        found = linear_maker(state, value, node, shared=True)
        if found is None:
            return None
        maker, alone = found[0], view.use_count(value) == 1
        if maker.op != node.op:
            state.fail(f"what comes before is another op than {node.op}", maker)
            return None
        users = [node]
        if not alone:
            users = sorted(view.users(value), key=lambda user: user is not node)
            others = view.use_count(value) != len(users) or any(u.op != maker.op for u in users)
            if others or len(users) > MAX_USERS:
                state.fail(lambda: f"{value!r} is used elsewhere as well", maker)
                return None
        more = -self.operations(view, maker)
        for user in users:
            if not self._folds(state, maker, user):
                return None
            more += self.product_operations(view, maker, user) - self.operations(view, user)
        if more >= 0:
            state.fail("one product would take as many operations as the two", node)
            return None
        first = operands_of(view, maker)
        weights = {f"first_{k}": v for k, v in first.items() if k != "x"}
        values = {**operands_of(view, node), **weights, "x": first["x"]}
        # The last to be folded takes the first with it.
        return Match(view, node, values, {"first": maker}, (maker,) if alone else ())

    def _folds(self, state: State, maker: Node, node: Node) -> bool:
        """Whether the algebra allows it."""
        view = state.view
        if node.params.get("mapped"):
            return state.fail(f"{node.op} is mapped over several weights", node)
        first, second = operands_of(view, maker), operands_of(view, node)
        if "residual" in first or second["x"] is not maker.output:
            return state.fail("what comes before adds a residual, or is no data", maker)
        if not (is_foldable(state, node, {}) and is_foldable(state, maker, {})):
            return False
        types = {v.dtype for v in (first["x"], first["w"], second["x"], second["w"], node.output)}
        if len(types) != 1 or maker.params["precision"] != node.params["precision"]:
            return state.fail("the two have other dtypes or precisions", node)
        reason = self.refuses(maker, node, first, second)
        reason = reason or self.loses(view, maker, node, first, second)
        return not reason or state.fail(reason, node)

    def refuses(self, maker: Node, node: Node, first: Any, second: Any) -> str | None:
        """Why the two cannot be one, if they cannot."""
        return None

    def operations(self, view: View, node: Node) -> int:
        """How many products of two numbers a node takes, up to a factor that all share."""
        raise NotImplementedError

    def product_operations(self, view: View, maker: Node, node: Node) -> int:
        """Those of the one that the two become."""
        raise NotImplementedError

    def loses(self, view: View, maker: Node, node: Node, first: Any, second: Any) -> str | None:
        """Why the product of the two weights would lose some of the result, if it would."""
        both = []
        for operands in (first, second):
            numbers = numbers_of(view, operands["w"], MAX_PRODUCT)
            if numbers is None:
                return None
            both.append(np.broadcast_to(numbers, operands["w"].shape))
        places = self.between(maker, node)
        v, w = (
            np.moveaxis(x, a, 0).reshape(x.shape[a], -1) for x, a in zip(both, places, strict=True)
        )
        bias = numbers_of(view, first["b"]) if "b" in first else None
        if bias is not None:
            bias = np.broadcast_to(bias, first["b"].shape)
        return keeps_product(v.T, w, second["w"].dtype, bias)

    def between(self, maker: Node, node: Node) -> tuple[int, int]:
        """The axes of the two weights that are summed over between them."""
        raise NotImplementedError


class _DenseAfterDense(_LinearAfterLinear):
    def operations(self, view: View, node: Node) -> int:
        return math.prod(operands_of(view, node)["w"].shape)

    def product_operations(self, view: View, maker: Node, node: Node) -> int:
        first, second = (operands_of(view, n)["w"] for n in (maker, node))
        return first.shape[0] * second.shape[1]

    def between(self, maker: Node, node: Node) -> tuple[int, int]:
        return 1, 0


def _dense(*, match: Match, **operands: Any) -> Any:
    v, b = operands.pop("first_w"), operands.pop("first_b", None)
    w, dtype = operands["w"], work_dtype(match.root)
    wide = as_type(w, dtype)
    if b is not None:
        operands["b"] = _plus(operands.get("b"), shift_through(match.root, w, as_type(b, dtype)), w)
    operands["w"] = as_type(lax.dot(as_type(v, dtype), wide, precision=_EXACTLY), w.dtype)
    return rebind(match.root, operands)


def _plus(b: Any, more: Any, like: Any) -> Any:
    """``b + more``, b perhaps missing."""
    return as_type(more if b is None else lax.add(as_type(b, more.dtype), more), like.dtype)


def product_loses(view: View, first: Node, second: Node) -> str | None:
    """Why the weights of two dense ops in a row cannot be multiplied, if they cannot."""
    operands = [operands_of(view, node) for node in (first, second)]
    return _DenseAfterDense("dense").loses(view, first, second, *operands)


# dense(dense(x, v, a), w, b) -> dense(x, v @ w, a @ w + b)
FOLD_DENSE_CHAIN = Rule(
    "fold_dense_chain", _DenseAfterDense("dense"), _dense, numerics="reassociates"
)


class _ConvAfterConv(_LinearAfterLinear):
    """One of the two looks at one place at a time, and neither has groups."""

    def refuses(self, maker: Node, node: Node, first: Any, second: Any) -> str | None:
        a, b = maker.params, node.params
        if a["groups"] != 1 or b["groups"] != 1 or a["transposed"] or b["transposed"]:
            return "one has groups or is transposed"
        numbers = [specs(p["dimension_numbers"]) for p in (a, b)]
        if numbers[0].out_spec != numbers[1].lhs_spec:
            return "the second reads another layout than the first makes"
        sizes = [
            [w.shape[i] for i in n.rhs_spec[2:]]
            for w, n in zip((first["w"], second["w"]), numbers, strict=True)
        ]
        if not all(isinstance(n, int) for size in (*sizes, maker.output.shape) for n in size):
            return "a size is not known"
        taps = [math.prod(size) for size in sizes]
        if _pointwise_first(maker, node, taps, "b" in first) is None:
            return "neither looks at one place at a time, or it pads around that"
        return None

    def operations(self, view: View, node: Node) -> int:
        numbers = specs(node.params["dimension_numbers"])
        places = math.prod(node.output.shape[i] for i in numbers.out_spec[2:])
        return places * math.prod(operands_of(view, node)["w"].shape)

    def product_operations(self, view: View, maker: Node, node: Node) -> int:
        layouts = [specs(n.params["dimension_numbers"]) for n in (maker, node)]
        shapes = [operands_of(view, n)["w"].shape for n in (maker, node)]
        taps = max(
            math.prod(shape[i] for i in n.rhs_spec[2:])
            for shape, n in zip(shapes, layouts, strict=True)
        )
        places = math.prod(node.output.shape[i] for i in layouts[1].out_spec[2:])
        inner, out = shapes[0][layouts[0].rhs_spec[1]], shapes[1][layouts[1].rhs_spec[0]]
        return places * taps * inner * out

    def between(self, maker: Node, node: Node) -> tuple[int, int]:
        first, second = (specs(n.params["dimension_numbers"]).rhs_spec for n in (maker, node))
        return first[0], second[1]


def _pointwise_first(maker: Node, node: Node, taps: list[int], bias: bool) -> bool | None:
    """Which of two convolutions the product has the kernel of: True for the second's.

    Zeros that are padded around a kernel of size 1 would have to be the other's results.
    """
    padded = [any(p != 0 for pair in n.params["padding"] for p in pair) for n in (maker, node)]
    if taps[1] == 1 and not padded[1]:
        return False
    plain = all(s == 1 for s in maker.params["strides"]) and not padded[0]
    if taps[0] == 1 and plain and not (padded[1] and bias):
        return True
    return None


def _conv(*, match: Match, **operands: Any) -> Any:
    node, maker = match.root, match.nodes["first"]
    v, b = operands.pop("first_w"), operands.pop("first_b", None)
    w, dtype = operands["w"], work_dtype(match.root)
    numbers = [specs(n.params["dimension_numbers"]) for n in (maker, node)]
    # As (features, channels, taps): one of the two has one tap.
    (v3, size_v), (w3, size_w) = (
        _as_features_channels_taps(as_type(x, dtype), tuple(n.rhs_spec))
        for x, n in zip((v, w), numbers, strict=True)
    )
    if b is not None:
        more = lax.dot(jnp.sum(w3, 2), as_type(b, dtype), precision=_EXACTLY)
        operands["b"] = _plus(operands.get("b"), more, w)
    product = jnp.einsum("omt,mis->oits", w3, v3, precision=_EXACTLY)
    pointwise_first = _pointwise_first(maker, node, [v3.shape[2], w3.shape[2]], b is not None)
    size = size_w if pointwise_first else size_v
    shape = (product.shape[0], product.shape[1], *size)
    spec = numbers[1].rhs_spec
    order = [spec.index(i) for i in range(len(spec))]
    operands["w"] = as_type(lax.transpose(lax.reshape(product, shape), order), w.dtype)
    a = maker.params
    strides = [s * t for s, t in zip(a["strides"], node.params["strides"], strict=True)]
    kept = node.params if pointwise_first else a
    layouts = [n.params["dimension_numbers"] for n in (maker, node)]
    if all(isinstance(layout, tuple) and isinstance(layout[0], str) for layout in layouts):
        layout: Any = (layouts[0][0], layouts[1][1], layouts[1][2])
    else:
        layout = lax.ConvDimensionNumbers(numbers[0].lhs_spec, spec, numbers[1].out_spec)
    return rebind(
        node,
        operands,
        strides=strides,
        padding=kept["padding"],
        dilation=kept["dilation"],
        dimension_numbers=layout,
    )


def _as_features_channels_taps(w: Any, spec: tuple[int, ...]) -> tuple[Any, tuple[int, ...]]:
    w = lax.transpose(w, spec)
    return lax.reshape(w, (*w.shape[:2], math.prod(w.shape[2:]))), w.shape[2:]


# conv(conv(x, v, a), w, b) -> conv(x, v @ w, a @ w + b), one of them with a kernel of size 1
FOLD_CONV_CHAIN = Rule("fold_conv_chain", _ConvAfterConv("conv"), _conv, numerics="reassociates")


class _TwoInARow:
    """``x * s * t`` or ``x + s + t``, where s and t are known and run along the same axes."""

    size = 2

    def __init__(self, *names: str):
        self.names = frozenset(names)

    def find(self, state: State, node: Node) -> Match | None:
        view = state.view
        outer = self._split(state, node)
        inner = None if outer is None else view.producer(outer[0])
        if outer is None or inner is None or inner.op not in self.names:
            state.fail("what comes before is no such operation with something known", node)
            return None
        found = self._split(state, inner)
        if found is None or not jnp.issubdtype(node.output.dtype, jnp.floating):
            state.fail("it is no operation of floats with something known", inner)
            return None
        (x, s), t = found, outer[1]
        shapes = {v.shape for v in (x, outer[0], node.output)}
        parts = [spread_of(view, v) for v in (s, t)]
        axes = max((axes for _, axes in parts), key=len)
        if len(shapes) != 1 or any(v.ndim not in (0, x.ndim) for v in (s, t)):
            state.fail("it broadcasts", node)
            return None
        if not all(set(varies) <= set(axes) for _, varies in parts):
            state.fail("the two run along different axes", node)
            return None
        if not axes and all(scalar_value(view, v) is not None for v in (s, t)):
            state.fail("two numbers in the program say what they mean", node)
            return None
        reason = _overflows(view, node.output.dtype, (inner.op, s), (node.op, t))
        if reason:
            state.fail(reason, node)
            return None
        values = {"x": x, "s": parts[0][0], "t": parts[1][0]}
        info = {"axes": axes, "s": parts[0][1], "t": parts[1][1]}
        return Match(view, node, values, {"inner": inner}, (inner,), info)

    def _split(self, state: State, node: Node) -> tuple[Any, Any] | None:
        """``(data, known)``."""
        a, b = state.view.inputs(node)
        if state.view.is_known(b) and not state.view.is_known(a):
            return a, b
        commutes = node.op in ("mul", "add")
        if commutes and state.view.is_known(a) and not state.view.is_known(b):
            return b, a
        state.fail("not one of its operands alone is known before the data", node)
        return None


def _overflows(view: View, dtype: Any, *steps: tuple[str, Value]) -> str | None:
    """Why the two together may be out of range where one after the other is not."""
    largest = 0.0
    for op, value in steps:
        numbers = numbers_of(view, value)
        if numbers is None:
            continue
        if op in ("mul", "div"):
            reason = keeps_range(view, dtype, numbers)
            if reason:
                return reason
        largest += float(np.max(np.abs(numbers), initial=0.0))
    return None if largest < float(jnp.finfo(dtype).max) else "their sum overflows"


def _merge(x: Any, s: Any, t: Any, *, match: Match) -> Any:
    axes = match.info["axes"]
    shape = tuple(x.shape[a] for a in axes)
    dtype = jnp.promote_types(x.dtype, jnp.float32)
    s, t = (along(v, match.info[k], axes, shape, dtype) for k, v in (("s", s), ("t", t)))
    ops = match.nodes["inner"].op, match.root.op
    if ops[0] in ("mul", "div"):
        s, t = (
            lax.div(lax.full_like(v, 1), v) if op == "div" else v
            for op, v in zip(ops, (s, t), strict=True)
        )
        both, apply = lax.mul(s, t), lax.mul
    else:
        s, t = (lax.neg(v) if op == "sub" else v for op, v in zip(ops, (s, t), strict=True))
        both, apply = lax.add(s, t), lax.add
    return apply(x, lax.broadcast_in_dim(as_type(both, x.dtype), x.shape, axes))


# x * s * t -> x * (s * t);  x / s / t likewise
MERGE_SCALES = Rule("merge_scales", _TwoInARow("mul", "div"), _merge, numerics="reassociates")

# x + s + t -> x + (s + t);  x - s - t likewise
MERGE_SHIFTS = Rule("merge_shifts", _TwoInARow("add", "sub"), _merge, numerics="reassociates")

FOLD_CHAIN_RULES = RuleSet((FOLD_DENSE_CHAIN, FOLD_CONV_CHAIN, MERGE_SCALES, MERGE_SHIFTS))
