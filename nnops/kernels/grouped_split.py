"""Convolution in groups as one convolution for each group.

XLA's CPU backend has a fast convolution, and a slow one for several groups: taken apart, they run
two to five times as fast.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
from jax import lax

from jaxpress.nnops.conv_core import conv_core
from jaxpress.nnops.conv_geometry import specs
from jaxpress.nnops.opdef import Kernel

__all__ = ["GROUPED_SPLIT", "grouped_split"]


def applies(params: Mapping[str, Any], operands: Mapping[str, Any]) -> bool:
    """Several groups of floats."""
    return params["groups"] > 1 and all(
        jnp.issubdtype(v.dtype, jnp.inexact) for v in operands.values()
    )


def grouped_split(x: Any, w: Any, **params: Any) -> Any:
    """The core of conv where `applies`.

    Args:
        x: the input.
        w: the kernel.
        **params: conv's static parameters.

    Returns:
        The convolution, in conv's layout and dtype.
    """
    numbers, groups = specs(params["dimension_numbers"]), params["groups"]
    sizes = x.shape[numbers.lhs_spec[1]] // groups, w.shape[numbers.rhs_spec[0]] // groups
    parts = zip(
        lax.split(x, [sizes[0]] * groups, numbers.lhs_spec[1]),
        lax.split(w, [sizes[1]] * groups, numbers.rhs_spec[0]),
        strict=True,
    )
    alone = {**params, "groups": 1}
    return lax.concatenate([conv_core(a, b, **alone) for a, b in parts], numbers.out_spec[1])


GROUPED_SPLIT = Kernel("grouped_split", grouped_split, applies)
