"""Values that differ from device to device inside of ``shard_map``, beside those that do not."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax

from jaxpress.capture import compat

__all__ = ["OF_SEVERAL_AXES", "varying_alike", "varying_axes"]

# Operations whose operands may vary along axes of their own: those with bodies, and casts and
# exchanges between devices.
OF_SEVERAL_AXES = (
    compat.JIT_NAMES
    | compat.CALL_NAMES
    | compat.REMAT_NAMES
    | compat.CUSTOM_JVP_NAMES
    | compat.CUSTOM_VJP_NAMES
    | {"scan", "while", "cond", "shard_map", "custom_linear_solve", "custom_vmap_call"}
    | {"pvary", "pbroadcast", "psum", "psum2", "psum_invariant", "pmax", "pmin", "ppermute"}
    | {"all_gather", "all_gather_invariant", "all_gather_reduced", "all_to_all", "reduce_scatter"}
    | {"reduced_vary_cast", "unreduced_psum", "unreduced_reduce_scatter", "preduced"}
)


def varying_axes(aval: Any) -> frozenset[Any]:
    """The axes of a ``shard_map`` along which a value differs from device to device."""
    return getattr(getattr(aval, "mat", None), "varying", None) or frozenset()


def varying_alike(op: str, inputs: Sequence[Any]) -> Sequence[Any]:
    """Operands as an operation takes them: those that are the same on all devices are cast.

    JAX's own functions do so before they bind. Outside of ``shard_map`` nothing varies.
    """
    if op in OF_SEVERAL_AXES or not any(varying_axes(getattr(x, "aval", None)) for x in inputs):
        return inputs
    axes = [varying_axes(jax.typeof(x)) for x in inputs]
    union = frozenset().union(*axes)
    if all(a == union for a in axes):
        return inputs
    return [
        x if a == union else jax.lax.pcast(x, tuple(sorted(union - a)), to="varying")
        for x, a in zip(inputs, axes, strict=True)
    ]
