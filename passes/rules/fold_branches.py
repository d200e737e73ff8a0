"""Linear ops of one input that are summed become one, whose weights are the sum of theirs.

So does a batch norm of that input, or the input times a known scale, as the weights of a diagonal,
and two dense ops in a row, which an adapter of low rank is. The rule reassociates:
``x @ v + x @ w`` and ``x @ (v + w)`` are equal, and rounded differently.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jax import lax

from jaxpress.capture import Node, Value
from jaxpress.nnops.conv_geometry import specs
from jaxpress.passes.pattern import State
from jaxpress.passes.rule import Match, Rule
from jaxpress.passes.rules.diagonal_weights import Places, diagonal_of, padded
from jaxpress.passes.rules.fold import (
    is_foldable,
    loses_mean,
    norm_of,
    norm_scale,
    scale_of,
)
from jaxpress.passes.rules.fold_chain import product_loses
from jaxpress.passes.rules.fold_split import parts_of, shape_of, sign_in
from jaxpress.passes.rules.numbers import MAX_PRODUCT, keeps_range, numbers_of
from jaxpress.passes.rules.steps import linear_maker
from jaxpress.passes.rules.weights import (
    as_type,
    bias_axes,
    input_axes,
    operands_of,
    rebind,
    spread_of,
    work_dtype,
)
from jaxpress.passes.view import View

__all__ = ["FOLD_BRANCHES"]

# What a convolution's taps may differ in, and still lie on another's.
_SLIDING = frozenset({"operands", "padding", "dilation"})

# What one tap of a kernel can do to a place by itself.
_DIAGONAL = frozenset({"batch_norm", "mul", "div"})

_EXACTLY = lax.Precision.HIGHEST


class _Branch(NamedTuple):
    """What is summed.

    Attributes:
      place: which of the summands it is.
      node: what makes it: a linear op, a ``batch_norm``, or a product with something known.
      operands: the node's operands by name; those of a dense op before it begin with ``first_``,
        and what is known is ``vector``.
      before: that dense op, if x is what it takes.
    """

    place: int
    node: Node
    operands: dict[str, Value]
    before: Node | None = None


class _SumOfBranches:
    """A sum of which two parts are linear in one value, with known weights."""

    names = frozenset({"add", "sub"})
    size = 3

    def find(self, state: State, node: Node) -> Match | None:
        if state.view.is_known(node.output):
            state.fail("it is of weights alone", node)
            return None
        parts = parts_of(state, node.output, node, whole=True)
        if parts is None:
            return None
        leaves, inner = parts
        found = [_branch(state, i, v, user) for i, (v, user) in enumerate(leaves)]
        branches = [b for b in found if b is not None]
        diagonal = [b for b in branches if b.node.op in _DIAGONAL]
        linear = [b for b in branches if b.node.op not in _DIAGONAL]
        for i, main in enumerate(linear):
            for other in (*linear[:i], *linear[i + 1 :], *diagonal):
                if other.operands["x"] is not main.operands["x"]:
                    other = _from_before(state, other)
                if other.operands["x"] is not main.operands["x"]:
                    state.fail("the parts are of different values", node)
                    continue
                places = _places(state, main, other)
                if places is not None:
                    return self._match(state.view, node, leaves, inner, main, other, places)
        if not linear:
            state.fail("no part is made by a linear op with known weights", node)
        return None

    def _match(
        self,
        view: View,
        node: Node,
        leaves: Sequence[tuple[Value, Node]],
        inner: list[Node],
        main: _Branch,
        other: _Branch,
        places: Places,
    ) -> Match:
        taken = (main.place, other.place)
        values = {f"leaf{i}": v for i, (v, _) in enumerate(leaves) if i not in taken}
        values |= {f"main_{k}": v for k, v in main.operands.items() if k != "x"}
        values |= {f"other_{k}": v for k, v in other.operands.items() if k != "x"}
        values["x"] = main.operands["x"]
        if "vector" in other.operands:
            values["other_vector"] = spread_of(view, other.operands["vector"])[0]
        shape = shape_of(view, node.output, [v for v, _ in leaves])
        info = {
            "places": places,
            "taken": tuple(sign_in(shape, i) for i in taken),
            "left": {i: sign_in(shape, i) for i in range(len(leaves)) if i not in taken},
        }
        nodes = {"main": main.node, "other": other.node}
        before = () if other.before is None else (other.before,)
        matched = (*inner, main.node, other.node, *before)
        return Match(view, node, values, nodes, matched, info, like=main.node)


def _branch(state: State, place: int, value: Value, user: Node) -> _Branch | None:
    node = state.view.producer(value)
    if node is None or node.op not in _DIAGONAL:
        return _linear(state, place, value, user)
    if state.view.use_count(value) != 1:
        state.fail(lambda: f"{value!r} is used elsewhere as well", user)
        return None
    return (_norm if node.op == "batch_norm" else _product)(state, place, node)


def _linear(state: State, place: int, value: Value, user: Node) -> _Branch | None:
    """The linear op that makes ``value``, if it can become a part of another."""
    found = linear_maker(state, value, user)
    if found is None:
        return None
    operands = operands_of(state.view, found[0])
    if "residual" in operands or list(operands.values()).count(operands["x"]) != 1:
        state.fail("it adds a residual, or its input is another operand too", found[0])
        return None
    return _Branch(place, found[0], operands) if is_foldable(state, found[0], {}) else None


def _from_before(state: State, branch: _Branch) -> _Branch:
    """A dense op together with the one that makes its input for it alone, if both can be one."""
    view, node = state.view, branch.node
    found = linear_maker(state, branch.operands["x"], node) if node.op == "dense" else None
    if found is None or found[0].op != "dense" or not is_foldable(state, found[0], {}):
        return branch
    maker = found[0]
    first = operands_of(view, maker)
    types = {v.dtype for v in (first["x"], first["w"], branch.operands["w"], node.output)}
    if "residual" in first or len(types) != 1:
        state.fail("it adds a residual, or the two have other dtypes", maker)
        return branch
    if maker.params["precision"] != node.params["precision"] or product_loses(view, maker, node):
        state.fail("the two have other precisions, or weights that cannot be multiplied", maker)
        return branch
    operands = branch.operands | {f"first_{k}": v for k, v in first.items() if k != "x"}
    return branch._replace(operands=operands | {"x": first["x"]}, before=maker)


def _norm(state: State, place: int, node: Node) -> _Branch | None:
    """A ``batch_norm`` of known statistics."""
    norm = norm_of(state, node)
    if norm is None or not all(state.view.is_known(v) for k, v in norm.items() if k != "x"):
        state.fail("its statistics depend on the data", node)
        return None
    return _Branch(place, node, norm)


def _product(state: State, place: int, node: Node) -> _Branch | None:
    """Data times something known, or divided by it."""
    view = state.view
    x, other = view.inputs(node)
    if node.op == "mul" and view.is_known(x):
        x, other = other, x
    if view.is_known(x) or not view.is_known(other):
        state.fail("it is no product with something known", node)
        return None
    if other.ndim not in (0, x.ndim) or other.dtype != x.dtype:
        state.fail("it broadcasts what it scales", node)
        return None
    return _Branch(place, node, {"x": x, "vector": other})


def _places(state: State, main: _Branch, other: _Branch) -> Places | None:
    """Where the other's taps come to lie on those of ``main``: (low, high, interior) padding."""
    view = state.view
    if {main.node.output.dtype, main.operands["w"].dtype} != {other.node.output.dtype}:
        state.fail("the parts have other dtypes", other.node)
        return None
    w = _numbers(view, main)
    if other.node.op in _DIAGONAL:
        places = _places_of_diagonal(state, main, other)
        if other.node.op == "batch_norm":
            added, reason = (
                norm_scale(view, other.node, other.operands)[1],
                loses_mean(view, other.node, other.operands),
            )
        else:
            added, reason = scale_of(view, other.node, other.operands["vector"]), None
        reason = keeps_range(view, main.operands["w"], added) or reason
    else:
        places = _places_of_linear(state, main, other)
        reason, added = None, _numbers(view, other)
    if places is None:
        return None
    reason = reason or _overflows(main.operands["w"].dtype, w, added)
    if reason:
        state.fail(reason, main.node)
        return None
    return places


def _numbers(view: View, branch: _Branch) -> np.ndarray | None:
    return numbers_of(view, branch.operands["w"], MAX_PRODUCT)


def _overflows(dtype: Any, *parts: np.ndarray | None) -> str | None:
    """Why the sum of weights may be out of range where the sum of results is not."""
    most = sum(float(np.max(np.abs(p), initial=0.0)) for p in parts if p is not None)
    largest = float(np.finfo(dtype).max) if np.dtype(dtype).kind == "f" else 2.0**127
    return None if most < largest / 4 else f"the sum of the weights reaches to {most:.1e}"


def _places_of_diagonal(state: State, main: _Branch, other: _Branch) -> Places | None:
    """Where the diagonal lies: in the one tap that sees the place that it makes."""
    node, x = main.node, main.operands["x"]
    features, channels = bias_axes(node), input_axes(node, x)
    if other.node.op == "batch_norm":
        varies: tuple[int, ...] = (other.node.params["axis"] % x.ndim,)
    else:
        varies = spread_of(state.view, other.operands["vector"])[1]
    if node.op == "einsum_dense" or features != channels or not set(varies) <= set(features):
        state.fail("features and channels are other axes, or the norm is along another", node)
        return None
    if x.shape != node.output.shape or x.dtype != node.output.dtype:
        state.fail("the op makes another shape or dtype than it takes", node)
        return None
    if node.op != "conv":
        return ()
    params = node.params
    if params["transposed"] or any(s != 1 for s in params["strides"]):
        state.fail("the op does not see each place once", node)
        return None
    if specs(params["dimension_numbers"]).lhs_spec != specs(params["dimension_numbers"]).out_spec:
        state.fail("the op changes the layout", node)
        return None
    return _embedded(state, main, [1] * (x.ndim - 2), [1] * (x.ndim - 2), [0] * (x.ndim - 2))


def _places_of_linear(state: State, main: _Branch, other: _Branch) -> Places | None:
    node, params = main.node, main.node.params
    free = _SLIDING if node.op == "conv" and not params["transposed"] else {"operands"}
    if node.op != other.node.op or any(
        params.get(k) != v for k, v in other.node.params.items() if k not in free
    ):
        state.fail(lambda: f"{other.node.op} has other parameters", other.node)
        return None
    w, u = main.operands["w"], other.operands["w"]
    if free != _SLIDING:
        rows = w.shape[:1] if other.before is not None else u.shape[:1]
        return () if w.shape == (*rows, *u.shape[1:]) else _other_taps(state, other.node)
    taps = [u.shape[a] for a in specs(params["dimension_numbers"]).rhs_spec[2:]]
    starts = [low for low, _ in other.node.params["padding"]]
    return _embedded(state, main, taps, other.node.params["dilation"], starts)


def _embedded(state: State, main: _Branch, taps: Any, dilation: Any, starts: Any) -> Places | None:
    """Where taps of a kernel that pads by ``starts`` lie among those of the main convolution."""
    node = main.node
    spec = specs(node.params["dimension_numbers"]).rhs_spec
    out = []
    for axis, n, step, start, (low, _), wide in zip(
        spec[2:], taps, dilation, starts, node.params["padding"], node.params["dilation"],
        strict=True,
    ):  # fmt: skip
        own = main.operands["w"].shape[axis]
        if not all(isinstance(v, int) for v in (own, n, start, low)) or n < 1:
            return _other_taps(state, node)
        first, rest = divmod(low - start, wide)
        apart = step // wide if n > 1 else 1
        if rest or (n > 1 and step % wide) or not 0 <= first <= own - 1 - (n - 1) * apart:
            return _other_taps(state, node)
        out.append((first, own - 1 - (n - 1) * apart - first, apart - 1))
    return tuple(out)


def _other_taps(state: State, node: Node) -> None:
    state.fail("the taps of neither kernel are among the other's", node)


def _sum(*, match: Match, x: Any, **operands: Any) -> Any:
    main, other, info = match.nodes["main"], match.nodes["other"], match.info
    dtype, signs = work_dtype(main), info["taken"]
    w, b = operands["main_w"], operands.get("main_b")
    more = {k[6:]: v for k, v in operands.items() if k.startswith("other_")}
    if other.op in _DIAGONAL:
        u, c = diagonal_of(main, other, more, info["places"], w)
    else:
        u, c = _spread(match, more, w, dtype)
    terms = {"w": (as_type(w, dtype), u)}
    if b is not None or c is not None:
        terms["b"] = (None if b is None else as_type(b, dtype), c)
    new: dict[str, Any] = {"x": x}
    for name, (first, second) in terms.items():
        total = _signed(_signed(None, signs[0], first), signs[1], second)
        new[name] = as_type(total, w.dtype if name == "w" else main.output.dtype)
    y = rebind(main, new)
    for i, sign in info["left"].items():
        y = (lax.add if sign > 0 else lax.sub)(y, operands[f"leaf{i}"])
    return y


def _signed(total: Any, sign: int, term: Any) -> Any:
    """``total + sign * term``, either of which may be missing."""
    if term is None:
        return total
    if total is None:
        return term if sign > 0 else lax.neg(term)
    return lax.add(total, term) if sign > 0 else lax.sub(total, term)


def _spread(match: Match, other: dict[str, Any], w: Any, dtype: Any) -> tuple[Any, Any]:
    """The other op's kernel, in the shape of the main one, and its bias."""
    b = other.get("b")
    u = as_type(other["w"], dtype)
    if "first_w" in other:
        if other.get("first_b") is not None:
            more = lax.dot(as_type(other["first_b"], dtype), u, precision=_EXACTLY)
            b = more if b is None else lax.add(as_type(b, dtype), more)
        u = lax.dot(as_type(other["first_w"], dtype), u, precision=_EXACTLY)
    if match.info["places"] and u.shape != w.shape:
        spec = specs(match.nodes["main"].params["dimension_numbers"]).rhs_spec
        u = padded(u, match.info["places"], spec)
    return u, None if b is None else as_type(b, dtype)


# conv(x, v, a) + conv(x, w, b) -> conv(x, v + w, a + b);
#   dense(x, v) + dense(dense(x, u), w) -> dense(x, v + u @ w);
#   conv(x, w, b) + batch_norm(x) -> conv(x, w + diagonal(s), b + t);
#   conv(x, w) + x * s -> conv(x, w + diagonal(s))
FOLD_BRANCHES = Rule("fold_branches", _SumOfBranches(), _sum, numerics="reassociates")
