"""Gradients of grouped convolutions in forms that XLA's CPU backend is quick at.

JAX's derivative in the kernel of a convolution in groups is a convolution in groups of the batch,
which that backend computes one number at a time. A function that holds its own gradient, such as a
training step, has them as equations.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import jax.numpy as jnp
from jax import lax

from jaxpress.capture import Node
from jaxpress.nnops.kernels.batch_parts import sum_over_parts
from jaxpress.nnops.kernels.windows import along_spatial, shifted_slices, taps_in_order
from jaxpress.passes.pattern import any_value, op
from jaxpress.passes.rule import Match, Rule, RuleSet
from jaxpress.passes.rules.raise_linear import conv_of, has_strides_twice
from jaxpress.passes.view import View

__all__ = ["BATCH_GROUP_RULES", "MAX_GROUPS", "MAX_TAPS"]

# A sum over more taps, or more groups apart, make a program too large to compile quickly.
MAX_TAPS = 128
MAX_GROUPS = 64


def _is_in_groups(view: View, node: Node) -> bool:
    x, w = view.inputs(node)
    floats = all(jnp.issubdtype(v.dtype, jnp.inexact) for v in (x, w, node.output))
    return node.params["batch_group_count"] > 1 and floats and x.dtype == w.dtype


def _is_depthwise(match: Match) -> str | None:
    node = match.root
    numbers, groups = node.params["dimension_numbers"], node.params["batch_group_count"]
    taps = [node.output.shape[i] for i in numbers.out_spec[2:]]
    images, features = match["x"].shape[numbers.lhs_spec[0]], node.output.shape[numbers.out_spec[1]]
    sizes = (*match["x"].shape, *match["w"].shape, *taps)
    if not all(isinstance(n, int) and n > 0 for n in sizes):
        return "a dimension is symbolic or 0"
    if (images, features) != (groups, groups):
        return f"its {groups} groups have {images} entries and {features} features in all"
    if math.prod(taps) > MAX_TAPS:
        return f"it has {math.prod(taps)} taps, and more than {MAX_TAPS} are too many to spell out"
    return None


def _shifted(x: Any, w: Any, *, match: Match) -> Any:
    """For every tap, what it saw times the cotangent, summed over all but the channels.

    ``w`` is the cotangent, and its spatial dimensions those that slide are summed over.
    """
    params, out = match.root.params, match.root.output
    numbers = params["dimension_numbers"]
    lhs, rhs = numbers.lhs_spec, numbers.rhs_spec

    along = functools.partial(along_spatial, numbers)
    pads = along(params["padding"], (0, 0))
    inside = along([d - 1 for d in params["lhs_dilation"]], 0)
    edges = [(low, high, n) for (low, high), n in zip(pads, inside, strict=True)]
    # The cotangent's axes in the order of x's.
    to = [0] * x.ndim
    for source, target in zip(rhs, lhs, strict=True):
        to[target] = source
    taps = along([out.shape[i] for i in numbers.out_spec[2:]], 1)
    rest = [i for i in range(x.ndim) if i != lhs[0]]
    sum_dtype = jnp.promote_types(out.dtype, jnp.float32)

    def of_some(x: Any, g: Any) -> Any:
        seen = lax.optimization_barrier(lax.pad(x, jnp.zeros((), x.dtype), edges))
        slices = shifted_slices(
            seen,
            taps,
            along(params["rhs_dilation"], 1),
            along(params["window_strides"], 1),
            g.shape,
        )
        wide = g.astype(sum_dtype)
        return jnp.stack([jnp.sum(s.astype(sum_dtype) * wide, rest) for s in slices])

    g = lax.transpose(w, to)
    total = sum_over_parts(of_some, (x, lhs[1]), (g, lhs[1]))
    rows = of_some(x, g) if total is None else total
    # Taps come in the order of x's axes, and the channels last; the batch is one.
    batch, features, *_ = numbers.out_spec
    source = [*taps_in_order(numbers, numbers.out_spec), features, batch]
    rows = rows.reshape([out.shape[i] for i in source]).astype(out.dtype)
    return lax.transpose(rows, [source.index(i) for i in range(x.ndim)])


def _split(x: Any, w: Any, *, match: Match) -> Any:
    """One convolution for each group."""
    params = match.root.params
    numbers, groups = params["dimension_numbers"], params["batch_group_count"]
    at, to = numbers.lhs_spec[0], numbers.rhs_spec[0]
    parts = zip(
        lax.split(x, [x.shape[at] // groups] * groups, at),
        lax.split(w, [w.shape[to] // groups] * groups, to),
        strict=True,
    )
    made = [conv_of(a, b, params) for a, b in parts]
    return lax.concatenate(made, numbers.out_spec[1])


def _can_be_split(match: Match) -> str | None:
    params = match.root.params
    groups = params["batch_group_count"]
    if groups > MAX_GROUPS:
        return f"it has {groups} groups, and more than {MAX_GROUPS} are too many to spell out"
    if has_strides_twice(params):
        return "it has strides on both sides"
    return None


IN_GROUPS = op("conv_general_dilated", any_value("x"), any_value("w"), where=_is_in_groups)

BATCH_GROUP_RULES = RuleSet(
    (
        Rule("shift_batch_groups", IN_GROUPS, _shifted, _is_depthwise, numerics="reassociates"),
        Rule("split_batch_groups", IN_GROUPS, _split, _can_be_split, numerics="reassociates"),
    )
)
