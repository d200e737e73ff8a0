"""Arithmetic on the weights of ``conv``, ``dense`` and ``einsum_dense``, as folding needs it.

Weights are computed with ``lax`` alone: the operators of ``jax.numpy`` are jitted one by one, and
traced for each new shape, which would take longer than all the rest of a rewrite.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
from jax import lax

from jaxpress import nnops
from jaxpress.capture import Literal, Node, Value
from jaxpress.nnops.conv_geometry import specs
from jaxpress.nnops.einsum_equation import Equation, parse_equation
from jaxpress.passes.view import View, broadcast_operand

__all__ = [
    "FUSED_OPS",
    "LINEAR_OPS",
    "along",
    "as_type",
    "as_vector",
    "bias_axes",
    "bias_shape",
    "input_axes",
    "operands_of",
    "placed",
    "rebind",
    "scale_inputs",
    "scale_outputs",
    "shift_through",
    "spread_channels",
    "spread_of",
    "work_dtype",
]

LINEAR_OPS = frozenset({"conv", "dense", "einsum_dense"})
# The table of attend is an embedding's as well, most often: scaling it would double the memory.
FUSED_OPS = LINEAR_OPS | {"attend"}

_SAME_ELEMENTS = frozenset({"reshape", "squeeze", "expand_dims", "copy"})
_DENSE, _ATTEND = Equation("a", "ab", "b"), Equation("a", "ba", "b")


def operands_of(view: View, node: Node) -> dict[str, Value]:
    """A named op's operands by name."""
    return nnops.registry()[node.op].operands(view.inputs(node), node.params)


def rebind(node: Node, operands: dict[str, Any], **changes: Any) -> Any:
    """The same op on other operands, with some parameters changed."""
    # The list of operands is made anew.
    params = {k: v for k, v in node.params.items() if k != "operands"}
    return nnops.registry()[node.op].rebind(operands, **{**params, **changes})


def work_dtype(node: Node) -> Any:
    """What a node's weights are computed in: float32 at least."""
    return jnp.promote_types(node.output.dtype, jnp.float32)


def as_type(x: Any, dtype: Any) -> Any:
    """``x`` in another dtype."""
    return lax.convert_element_type(x, dtype)


# Which axes belong to which.


def _equation(node: Node) -> Equation:
    if node.op in ("dense", "attend"):
        return _DENSE if node.op == "dense" else _ATTEND
    return parse_equation(node.params["equation"])


def bias_axes(node: Node) -> tuple[int, ...]:
    """The axes of the result along which a bias runs, rising."""
    if node.op == "conv":
        return (specs(node.params["dimension_numbers"]).out_spec[1],)
    n = node.output.ndim
    return tuple(n + axis for axis in _equation(node).bias_axes)


def bias_shape(node: Node) -> tuple[Any, ...]:
    """The shape of a bias."""
    return tuple(node.output.shape[axis] for axis in bias_axes(node))


def input_axes(node: Node, x: Value) -> tuple[int, ...]:
    """The axes that ``x`` shares with the weights (a convolution's window aside), rising."""
    if node.op == "conv":
        return (specs(node.params["dimension_numbers"]).lhs_spec[1],)
    equation = _equation(node)
    lead = x.ndim - len(equation.x)
    return tuple(lead + i for i, c in enumerate(equation.x) if c in equation.w)


# What multiplies or shifts data becomes part of the weights.


def scale_outputs(node: Node, w: Any, scale: Any) -> Any:
    """``w`` such that the result is multiplied by ``scale``, of the shape of a bias."""
    if node.op == "conv":
        axes = [specs(node.params["dimension_numbers"]).rhs_spec[0]]
    else:
        equation = _equation(node)
        axes = [equation.w.index(c) for c in equation.bias]
    return _times(w, scale, axes)


def scale_inputs(node: Node, w: Any, scale: Any) -> Any:
    """``w`` such that it does what scaling x would; ``scale`` runs along ``input_axes``."""
    if node.op == "conv":
        spread, axes = _by_group(node, w, scale)
        return _times(w, spread, axes)
    equation = _equation(node)
    return _times(w, scale, [equation.w.index(c) for c in equation.x if c in equation.w])


def spread_channels(node: Node, w: Any, vector: Any) -> Any:
    """A convolution's ``w`` in the dtype of a vector along x's channels, times that."""
    spread, axes = _by_group(node, w, vector)
    return _times(as_type(w, vector.dtype), spread, axes)


def shift_through(node: Node, w: Any, shift: Any) -> Any:
    """What the result gains where x is larger by ``shift``, along ``input_axes``: like a bias.

    For a convolution, only where its window is always full.
    """
    w = as_type(w, shift.dtype)
    if node.op == "conv":
        features = specs(node.params["dimension_numbers"]).rhs_spec[0]
        rest = [i for i in range(w.ndim) if i != features]
        return jnp.sum(spread_channels(node, w, shift), axis=tuple(rest))
    equation = _equation(node)
    labels = [c for c in equation.x if c in equation.w]
    sums, batch = equation.contracted, equation.batch
    out = lax.dot_general(
        shift,
        w,
        (
            ([labels.index(c) for c in sums], [equation.w.index(c) for c in sums]),
            ([labels.index(c) for c in batch], [equation.w.index(c) for c in batch]),
        ),
        precision=lax.Precision.HIGHEST,
    )
    order = batch + "".join(c for c in equation.w if c not in equation.x)
    return lax.transpose(out, [order.index(c) for c in equation.bias])


def _times(w: Any, factor: Any, axes: Sequence[int]) -> Any:
    """``w * factor``, whose axes are ``axes`` of w in this order, in the wider dtype and back."""
    spread = placed(factor, axes, w.shape)
    return as_type(lax.mul(as_type(w, factor.dtype), spread), w.dtype)


def _by_group(node: Node, w: Any, vector: Any) -> tuple[Any, list[int]]:
    """A vector along a conv's channels as (features, channels of a group), and w's axes of both."""
    numbers, groups = specs(node.params["dimension_numbers"]), node.params["groups"]
    features, inner = numbers.rhs_spec[:2]
    each = (groups, w.shape[features] // groups, w.shape[inner])
    spread = lax.broadcast_in_dim(lax.reshape(vector, (groups, each[2])), each, (0, 2))
    return lax.reshape(spread, (w.shape[features], w.shape[inner])), [features, inner]


# What a value is a broadcast of.


def spread_of(view: View, value: Value) -> tuple[Value, tuple[int, ...]]:
    """The barest value that ``value`` repeats, and the axes of ``value`` along which it varies.

    Returns:
      ``(base, axes)``: ``base`` holds, in order, the elements of ``value`` along ``axes`` (rising),
      and ``value`` repeats them along every other axis.
    """
    axes: list[int] = list(range(value.ndim))
    while True:
        found = broadcast_operand(view, value)
        if found is not None:
            operand, dims = found
            axes = [axes[d] for d in dims]
        else:
            node = view.producer(value)
            if node is None or node.op not in _SAME_ELEMENTS:
                break
            operand = view.inputs(node)[0]
            wide = [(axis, n) for axis, n in zip(axes, value.shape, strict=True) if n != 1]
            if [n for n in operand.shape if n != 1] != [n for _, n in wide]:
                break
            # Axes of length 1 belong nowhere in particular.
            left = iter(axis for axis, _ in wide)
            axes = [next(left) if n != 1 else -1 for n in operand.shape]
        if isinstance(operand, Literal) and operand.ndim:
            break
        value = operand
    return value, tuple(axis for axis, n in zip(axes, value.shape, strict=True) if n != 1)


def along(base: Any, varies: Sequence[int], axes: Sequence[int], shape: Any, dtype: Any) -> Any:
    """The elements of ``spread_of`` as an array that runs along ``axes``.

    Args:
      base: an array, or a number.
      varies: the axes that its elements are of; some of ``axes``.
      axes: what the result's axes are, in any order.
      shape: the result's.
      dtype: likewise.
    """
    x = as_type(base, dtype)
    places = [axes.index(a) for a in varies]
    bare = tuple(shape[p] for p in places)
    if x.shape != bare:  # a reshape of a number to itself would be an operation
        x = lax.reshape(x, bare)
    return placed(x, places, shape)


def placed(x: Any, places: Sequence[int], shape: Sequence[Any]) -> Any:
    """``x`` over all of ``shape``, its axis ``i`` at ``places[i]``."""
    x = lax.transpose(x, sorted(range(len(places)), key=lambda i: places[i]))
    return lax.broadcast_in_dim(x, tuple(shape), sorted(places))


def as_vector(v: Any, n: Any, dtype: Any) -> Any:
    """``v``, of one element or ``n``, as an array of shape (n,)."""
    x = as_type(v, dtype)
    if math.prod(x.shape) == 1:
        return lax.broadcast_in_dim(lax.reshape(x, (1,)), (n,), (0,))
    return lax.reshape(x, (n,))
