"""Transposes around ``conv`` and ``dot_general`` become a matter of how these name their axes."""

from __future__ import annotations

from typing import Any

from jax import lax

from jaxpress.capture import Node
from jaxpress.nnops.conv_geometry import layout, specs
from jaxpress.passes.pattern import State
from jaxpress.passes.rule import Match, Rule, RuleSet
from jaxpress.passes.rules.weights import operands_of, rebind
from jaxpress.passes.view import View

__all__ = ["FUSE_LAYOUT_RULES"]


def _transpose_before(view: View, value: Any) -> tuple[Node, list[int]] | None:
    node = view.producer(value)
    if node is None or node.op != "transpose":
        return None
    return node, [int(p) for p in node.params["permutation"]]


class _TransposeBeforeConv:
    names = frozenset({"conv"})
    size = 2

    def find(self, state: State, node: Node) -> Match | None:
        view = state.view
        operands = operands_of(view, node)
        found = _transpose_before(view, operands["x"])
        if found is None or node.params.get("mapped"):
            state.fail("its input is not made by transpose, or it is mapped", node)
            return None
        transpose, order = found
        numbers = specs(node.params["dimension_numbers"])
        lhs = tuple(order[axis] for axis in numbers.lhs_spec)
        operands["x"] = view.inputs(transpose)[0]
        info = {"lhs": lhs, "out": tuple(numbers.out_spec)}
        return Match(view, node, operands, {"conv": node}, (transpose,), info)


class _TransposeAfterConv:
    names = frozenset({"transpose"})
    size = 2

    def find(self, state: State, node: Node) -> Match | None:
        view = state.view
        value = view.inputs(node)[0]
        conv = view.producer(value)
        if conv is None or conv.op != "conv" or conv.params.get("mapped"):
            state.fail("what it transposes is not made by a plain conv", node)
            return None
        operands = operands_of(view, conv)
        if "residual" in operands:
            state.fail("the residual would have to be transposed too", conv)
            return None
        order = [int(p) for p in node.params["permutation"]]
        numbers = specs(conv.params["dimension_numbers"])
        out = tuple(order.index(axis) for axis in numbers.out_spec)
        info = {"lhs": tuple(numbers.lhs_spec), "out": out}
        return Match(view, node, operands, {"conv": conv}, (conv,), info)


def _conv(*, match: Match, **operands: Any) -> Any:
    conv = match.nodes["conv"]
    rhs = specs(conv.params["dimension_numbers"]).rhs_spec
    numbers = lax.ConvDimensionNumbers(match.info["lhs"], rhs, match.info["out"])
    numbers = layout(numbers, operands["x"], operands["w"])
    return rebind(conv, operands, dimension_numbers=numbers)


# conv(transpose(x), w) -> conv(x, w), which reads other dimension_numbers
FUSE_TRANSPOSE_BEFORE_CONV = Rule(
    "fuse_transpose_before_conv", _TransposeBeforeConv(), _conv, numerics="reassociates"
)

# transpose(conv(x, w)) -> conv(x, w), which writes other dimension_numbers
FUSE_TRANSPOSE_AFTER_CONV = Rule(
    "fuse_transpose_after_conv", _TransposeAfterConv(), _conv, numerics="reassociates"
)


def _free(ndim: int, *taken: Any) -> list[int]:
    used = {int(a) for group in taken for a in group}
    return [a for a in range(ndim) if a not in used]


def _as_ints(numbers: Any) -> list[list[int]]:
    (left, right), (left_batch, right_batch) = numbers
    return [[int(a) for a in axes] for axes in (left, right, left_batch, right_batch)]


class _TransposeBeforeDot:
    """One operand is transposed, and its free axes stay in their order, so the result does."""

    names = frozenset({"dot_general"})
    size = 2

    def find(self, state: State, node: Node) -> Match | None:
        view = state.view
        if node.params.get("out_sharding") is not None:
            state.fail("it says how its result is sharded", node)
            return None
        groups = _as_ints(node.params["dimension_numbers"])
        for i, name in enumerate(("a", "b")):
            value = view.inputs(node)[i]
            found = _transpose_before(view, value)
            if found is None or view.inputs(node).count(value) != 1:
                continue
            transpose, order = found
            free = [order[a] for a in _free(value.ndim, groups[i], groups[i + 2])]
            if free != sorted(free):
                state.fail("the result would have its axes in another order", node)
                continue
            for k in (i, i + 2):
                groups[k] = [order[a] for a in groups[k]]
            operands: dict[str, Any] = dict(zip("ab", view.inputs(node), strict=True))
            operands[name] = view.inputs(transpose)[0]
            info = {"groups": tuple(map(tuple, groups))}
            return Match(view, node, operands, {"dot": node}, (transpose,), info)
        return None


class _TransposeAfterDot:
    """The batch axes still lead, and the operands' free axes stay in their order, or swap sides."""

    names = frozenset({"transpose"})
    size = 2

    def find(self, state: State, node: Node) -> Match | None:
        view = state.view
        dot = view.producer(view.inputs(node)[0])
        if dot is None or dot.op != "dot_general" or dot.params.get("out_sharding") is not None:
            state.fail("what it transposes is not made by a plain dot_general", node)
            return None
        a, b = view.inputs(dot)
        left, right, left_batch, right_batch = _as_ints(dot.params["dimension_numbers"])
        n = len(left_batch)
        middle = n + len(_free(a.ndim, left, left_batch))
        order = [int(p) for p in node.params["permutation"]]
        batch, rest = order[:n], order[n:]
        swapped = [*range(middle, dot.output.ndim), *range(n, middle)]
        if sorted(batch) != list(range(n)) or rest not in (sorted(rest), swapped):
            state.fail("no dot_general has its axes in that order", node)
            return None
        left_batch, right_batch = ([axes[p] for p in batch] for axes in (left_batch, right_batch))
        groups = [left, right, left_batch, right_batch]
        operands = {"a": a, "b": b}
        if rest != sorted(rest):
            if a.dtype != b.dtype or not isinstance(dot.params["precision"], tuple | None):
                state.fail("it treats its operands differently", dot)
                return None
            operands, groups = {"a": b, "b": a}, [right, left, right_batch, left_batch]
        info = {"groups": tuple(map(tuple, groups)), "swapped": rest != sorted(rest)}
        return Match(view, node, operands, {"dot": dot}, (dot,), info)


def _dot(a: Any, b: Any, *, match: Match) -> Any:
    params = match.nodes["dot"].params
    left, right, left_batch, right_batch = match.info["groups"]
    precision = params["precision"]
    if match.info.get("swapped") and isinstance(precision, tuple):
        precision = precision[::-1]
    return lax.dot_general(
        a,
        b,
        ((left, right), (left_batch, right_batch)),
        precision=precision,
        preferred_element_type=params["preferred_element_type"],
    )


# dot_general(transpose(a), b) -> dot_general(a, b), which contracts other axes
FUSE_TRANSPOSE_BEFORE_DOT = Rule(
    "fuse_transpose_before_dot", _TransposeBeforeDot(), _dot, numerics="reassociates"
)

# transpose(dot_general(a, b)) -> dot_general(b, a)
FUSE_TRANSPOSE_AFTER_DOT = Rule(
    "fuse_transpose_after_dot", _TransposeAfterDot(), _dot, numerics="reassociates"
)

FUSE_LAYOUT_RULES = RuleSet(
    (
        FUSE_TRANSPOSE_BEFORE_CONV,
        FUSE_TRANSPOSE_AFTER_CONV,
        FUSE_TRANSPOSE_BEFORE_DOT,
        FUSE_TRANSPOSE_AFTER_DOT,
    )
)
