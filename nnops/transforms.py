"""How a named op is differentiated, transposed and batched unless it has a rule of its own.

Every rule takes the op's definition, two lists that run along its operands, and its parameters.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax.interpreters import ad

from jaxpress.nnops.keeping import kept
from jaxpress.nnops.opdef import REFERENCE, OpDef

__all__ = [
    "general_batch",
    "general_jvp",
    "is_zero",
    "keeping_batch",
    "keeping_jvp",
    "kept_jvp",
    "leading_batch",
    "linear_jvp",
    "same_batch",
    "transpose",
    "zero_like",
]


def is_zero(tangent: Any) -> bool:
    """Whether ``tangent`` is JAX's symbolic zero."""
    return type(tangent) is ad.Zero


def zero_like(primal: Any) -> Any:
    """The symbolic zero tangent of ``primal``."""
    return ad.Zero(jax.typeof(primal).to_tangent_aval())


def general_jvp(op: OpDef, primals: Any, tangents: Any, params: dict[str, Any]) -> Any:
    """The op itself for the value, ``jax.jvp`` of its reference for the tangent."""
    fn = op.implementation({**params, "kernel": REFERENCE})
    return _jvp_of(op.primitive, fn, primals, tangents, params)


def kept_jvp(op: OpDef, primals: Any, tangents: Any, params: dict[str, Any]) -> Any:
    """The op with further results for the value, a linear function of these for the tangent."""
    live = tuple(i for i, t in enumerate(tangents) if not _is_nothing(t))
    if not live or params.get("kernel", REFERENCE) != REFERENCE:
        return general_jvp(op, primals, tangents, params)
    params = {**params, "keeps": live}
    plan = kept(op, [jax.typeof(p) for p in primals], params)
    outs, tangent = plan.read(primals, op.keeping.bind(*primals, **params))
    douts = _own(outs, tangent(*(tangents[i] for i in live)))
    return (outs, douts) if op.primitive.multiple_results else (outs[0], douts[0])


def keeping_jvp(op: OpDef, primals: Any, tangents: Any, params: dict[str, Any]) -> Any:
    """The derivative of an op with further results: of a derivative, that is."""
    return _jvp_of(op.keeping, op.implementation(params), primals, tangents, params)


def _jvp_of(primitive: Any, fn: Any, primals: Any, tangents: Any, params: dict[str, Any]) -> Any:
    out = primitive.bind(*primals, **params)
    live = [i for i, t in enumerate(tangents) if not is_zero(t)]
    outs = out if primitive.multiple_results else [out]
    douts = [zero_like(o) for o in outs]
    if live:

        def of_live(*arrays: Any) -> Any:
            full = list(primals)
            for i, array in zip(live, arrays, strict=True):
                full[i] = array
            return fn(*full)

        _, given = jax.jvp(of_live, [primals[i] for i in live], [tangents[i] for i in live])
        douts = _own(outs, given if primitive.multiple_results else [given])
    return (outs, douts) if primitive.multiple_results else (out, douts[0])


def _own(outs: Any, given: Any) -> list[Any]:
    """Tangents of integers are float0 arrays outside, symbolic zeros inside a rule."""
    return [zero_like(o) if _is_nothing(g) else g for o, g in zip(outs, given, strict=True)]


def _is_nothing(tangent: Any) -> bool:
    return is_zero(tangent) or tangent.dtype == jax.dtypes.float0


def linear_jvp(op: OpDef, primals: Any, tangents: Any, params: dict[str, Any]) -> Any:
    """For an op that is linear in all its operands together: the op itself for both."""
    out = op.primitive.bind(*primals, **params)
    if all(is_zero(t) for t in tangents):
        return out, zero_like(out)
    return out, op.primitive.bind(*map(ad.instantiate_zeros, tangents), **params)


def general_batch(op: OpDef, args: Any, axes: Any, params: dict[str, Any]) -> Any:
    """The same primitive with the mapped axes on record, so that the name survives ``vmap``."""
    params = dict(params)
    levels = (*params.pop("mapped", ()), tuple(axes))
    out = op.primitive.bind(*args, mapped=levels, **params)
    return out, [0] * len(out) if op.primitive.multiple_results else 0


def keeping_batch(op: OpDef, args: Any, axes: Any, params: dict[str, Any]) -> Any:
    """`general_batch` of an op with further results."""
    params = dict(params)
    levels = (*params.pop("keeps_mapped", ()), tuple(axes))
    out = op.keeping.bind(*args, keeps_mapped=levels, **params)
    return out, [0] * len(out)


def same_batch(op: OpDef, args: Any, axes: Any, params: dict[str, Any]) -> Any:
    """For elementwise ops of one operand: the same primitive, the axis where it was."""
    return op.primitive.bind(*args, **params), axes[0]


def leading_batch(op: OpDef, args: Any, axes: Any, params: dict[str, Any]) -> Any:
    """For ops of one operand that count axes from the end: the mapped axis goes to the front."""
    out = op.primitive.bind(jnp.moveaxis(args[0], axes[0], 0), **params)
    return out, [0] * len(out) if op.primitive.multiple_results else 0


def transpose(op: OpDef, cotangent: Any, args: Any, params: dict[str, Any]) -> list[Any]:
    """``jax.linear_transpose`` of the chosen kernel in the operands that are undefined."""
    unknown = [i for i, a in enumerate(args) if ad.is_undefined_primal(a)]
    out: list[Any] = [None] * len(args)
    cotangents = cotangent if op.primitive.multiple_results else [cotangent]
    if all(map(is_zero, cotangents)):
        for i in unknown:
            out[i] = ad.Zero(args[i].aval)
        return out
    if len(unknown) == 1:
        own = _own_transpose(op, unknown[0], cotangent, args, params)
        if own is not None:
            out[unknown[0]] = own
            return out
    fn = op.implementation(params)

    def of_unknown(*arrays: Any) -> Any:
        full = list(args)
        for i, array in zip(unknown, arrays, strict=True):
            full[i] = array
        outs = fn(*full)
        return tuple(outs) if op.primitive.multiple_results else (outs,)

    # Of the chosen kernel, so that a gradient is as fast as the value.
    back = jax.linear_transpose(of_unknown, *(args[i].aval for i in unknown))
    given = back(tuple(map(ad.instantiate_zeros, cotangents)))
    for i, c in zip(unknown, given, strict=True):
        out[i] = c
    return out


def _own_transpose(op: OpDef, place: int, cotangent: Any, args: Any, params: Any) -> Any:
    """The transpose that the chosen kernel brings for one operand; None where it has none."""
    if "mapped" in params or "keeps" in params:
        return None
    kernel = op.kernels[params.get("kernel", REFERENCE)]
    names = op.present(params)
    own = kernel.transposes.get(names[place])
    if own is None:
        return None
    static = {k: v for k, v in params.items() if k not in ("operands", "kernel")}
    operands = dict(zip(names, args, strict=True))
    operands[names[place]] = args[place].aval
    return own(cotangent, **operands, **static)
