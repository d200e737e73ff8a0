"""What the recurrent ops share: one definition makes the sequence op and the op of one step.

A sequence op is one primitive with the loop inside. The input projection of all steps is one
product ahead of the loop. Its derivative is written by hand: the op itself gives the value and
what the derivative needs of each step, so that no step is computed twice, the name survives
``grad``, and the gradient of each matrix of weights is one product over all steps.

Axes are (..., time, features): batch dimensions of any number lead.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.core import ShapedArray

from jaxpress.nnops.activation_spec import to_activation
from jaxpress.nnops.define import define
from jaxpress.nnops.errors import OpError, OpTypeError
from jaxpress.nnops.fused import canonical_precision
from jaxpress.nnops.opdef import OpDef
from jaxpress.nnops.recurrent_shapes import check_operands, check_type, types_of
from jaxpress.nnops.recurrent_tangent import has_slope, tangents_of
from jaxpress.nnops.settings import static_value
from jaxpress.nnops.transforms import general_batch, is_zero, kept_jvp, zero_like

__all__ = ["Recurrence", "bind_cell", "bind_sequence", "define_recurrence"]

MASKED_OUTPUTS = ("zero", "hold")


@dataclass(frozen=True)
class Recurrence:
    """One kind of recurrent cell.

    Attributes:
        name: of the sequence op; that of one step ends in ``_cell``.
        states: ``("h",)`` or ``("h", "c")``; the first is the output.
        gates: how many blocks of hidden columns the weights have.
        biases: names of the bias operands.
        defaults: static parameters; each that ends in ``activation`` names an activation.
        prepare: ``(operands, params) -> weights`` that ``step`` reads, ahead of the loop.
        input_bias: ``(operands, params) -> array | None``, added to the input projection.
        step: ``(z, state, weights, params) -> (state, kept)``, where ``z`` is the projected input
            and ``kept`` (an array, or None) what the derivative needs.
        kept: how many blocks of hidden columns ``kept`` has, by the parameters.
        tangent: see `jaxpress.nnops.recurrent_tangent`.
    """

    name: str
    states: tuple[str, ...]
    gates: int
    biases: tuple[str, ...]
    defaults: Mapping[str, Any]
    prepare: Callable[..., Any]
    input_bias: Callable[..., Any]
    step: Callable[..., Any]
    kept: Callable[[Mapping[str, Any]], int]
    tangent: Callable[..., Any]


def define_recurrence(kind: Recurrence) -> tuple[OpDef, OpDef]:
    """Defines the sequence op and the op of one step.

    Args:
        kind: the cell.

    Returns:
        Both definitions. The sequence's operands are x, each state with a 0 to its name, w_hh,
        and w_ih, the biases and mask where present; those of one step x, the states, and so on.
    """
    common = {**kind.defaults, "precision": None}
    sequence = define(
        kind.name,
        functools.partial(_sequence, kind),
        operands=("x", *(f"{s}0" for s in kind.states), "w_hh"),
        optional=("w_ih", *kind.biases, "mask"),
        defaults={
            **common,
            "reverse": False,
            "masked_output": "zero",
            "unroll": 1,
            "residuals": False,
        },
        normalize=functools.partial(_normalize, kind.name),
        jvp=functools.partial(_jvp, kind),
        batch=_batch,
        keeps=True,
        multiple_results=True,
        infer=functools.partial(_infer_sequence, kind),
    )
    cell = define(
        f"{kind.name}_cell",
        functools.partial(_cell, kind),
        operands=("x", *kind.states, "w_hh"),
        optional=("w_ih", *kind.biases),
        defaults=common,
        normalize=functools.partial(_normalize, f"{kind.name}_cell"),
        batch=_batch,
        multiple_results=True,
        infer=functools.partial(_infer_cell, kind),
    )
    return sequence, cell


def _normalize(op: str, params: dict[str, Any]) -> dict[str, Any]:
    params = dict(params)
    for key in params:
        if key.endswith("activation"):
            params[key] = to_activation(params[key], op)
        elif key in ("reverse", "residuals", "reset_after"):
            params[key] = static_value(op, key, params[key], False)
    params["precision"] = canonical_precision(params["precision"], op)
    masked = params.get("masked_output", "zero")
    if masked not in MASKED_OUTPUTS:
        raise OpError(op, f"masked_output is {masked!r}", mend=f"give one of {MASKED_OUTPUTS}")
    unroll = params.get("unroll", 1)
    if isinstance(unroll, bool) or not isinstance(unroll, int) or unroll < 1:
        raise OpTypeError(op, f"unroll is {unroll!r}", mend="give a whole number above 0")
    return params


def _with_precision(fn: Callable[..., Any]) -> Callable[..., Any]:
    """What a precision of None means was settled when the op was bound."""

    @functools.wraps(fn)
    def call(kind: Recurrence, **given: Any) -> Any:
        config: Any = jax.config
        if config.jax_default_matmul_precision is None:
            return fn(kind, **given)
        with jax.default_matmul_precision(None):  # type: ignore[arg-type]
            return fn(kind, **given)

    return call


def _split(kind: Recurrence, given: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Operands and parameters, which a reference is given together."""
    names = {"x", "w_hh", "w_ih", "mask", *kind.biases}
    names |= {*kind.states, *(f"{s}0" for s in kind.states)}
    operands = {k: v for k, v in given.items() if k in names and v is not None}
    return operands, {k: v for k, v in given.items() if k not in names}


def _projected(kind: Recurrence, operands: Mapping[str, Any], params: Mapping[str, Any]) -> Any:
    """``x @ w_ih + b``; x itself without ``w_ih``."""
    z = operands["x"]
    if "w_ih" in operands:
        z = jnp.matmul(z, operands["w_ih"], precision=params["precision"])
    bias = kind.input_bias(operands, params)
    return z if bias is None else z + bias


def _cast(kind: Recurrence, operands: dict[str, Any], suffix: str) -> dict[str, Any]:
    work, state = types_of(operands, kind.states, suffix)
    states = {s + suffix for s in kind.states}
    return {
        k: v if k == "mask" else v.astype(state if k in states else work)
        for k, v in operands.items()
    }


@_with_precision
def _sequence(kind: Recurrence, **given: Any) -> Any:
    operands, params = _split(kind, given)
    check_operands(kind, operands, sequence=True)
    operands = _cast(kind, operands, "0")
    operands["x"] = jnp.moveaxis(operands["x"], -2, 0)
    z = _projected(kind, operands, params)
    weights = kind.prepare(operands, params)
    mask = operands.get("mask")
    if mask is not None:
        mask = jnp.moveaxis(mask, -1, 0)[..., None]

    def step(state: Any, inputs: Any) -> Any:
        z_t, live = inputs
        new, kept = kind.step(z_t, state, weights, params)
        y = new[0]
        if live is not None:
            new = tuple(jnp.where(live, a, b) for a, b in zip(new, state, strict=True))
            y = new[0] if params["masked_output"] == "hold" else jnp.where(live, y, 0)
        if not params["residuals"]:
            return new, (y,)
        return new, (y, *new[1:], *(() if kept is None else (kept,)))

    first = tuple(operands[f"{s}0"] for s in kind.states)
    if not jax.typeof(z).sharding.mesh.empty and z.shape[0]:
        first = _typed_as(first, step(first, jax.tree.map(lambda a: a[0], (z, mask)))[0])
    last, (y, *more) = lax.scan(
        step, first, (z, mask), reverse=params["reverse"], unroll=params["unroll"]
    )
    return [jnp.moveaxis(y, 0, -2), *last, *(jnp.moveaxis(v, 0, -2) for v in more)]


def _typed_as(state: Any, after: Any) -> Any:
    """The state, varying along the same axes of a mesh as the state after a step does.

    A loop asks that both are of one type. Values stay: nothing is read from ``after``.
    """
    return tuple(
        lax.select(jnp.zeros_like(b, bool), b, a) for a, b in zip(state, after, strict=True)
    )


@_with_precision
def _cell(kind: Recurrence, **given: Any) -> Any:
    operands, params = _split(kind, given)
    check_operands(kind, operands, sequence=False)
    operands = _cast(kind, operands, "")
    z = _projected(kind, operands, params)
    state = tuple(operands[s] for s in kind.states)
    return list(kind.step(z, state, kind.prepare(operands, params), params)[0])


def _infer_sequence(kind: Recurrence, avals: Any, params: Mapping[str, Any]) -> Any:
    operands = dict(zip(params["operands"], avals, strict=True))
    check_operands(kind, operands, sequence=True)
    work, state = types_of(operands, kind.states, "0")
    lead, time, hidden = operands["x"].shape[:-2], operands["x"].shape[-2], _hidden(operands)

    def over_time(width: Any, dtype: Any) -> Any:
        return ShapedArray((*lead, time, width), dtype)

    last = [ShapedArray((*lead, hidden), state) for _ in kind.states]
    out = [over_time(hidden, state), *last]
    if params["residuals"]:
        out += [over_time(hidden, state) for _ in kind.states[1:]]
        if kind.kept(params):
            out.append(over_time(kind.kept(params) * hidden, work))
    return out


def _infer_cell(kind: Recurrence, avals: Any, params: Mapping[str, Any]) -> Any:
    operands = dict(zip(params["operands"], avals, strict=True))
    check_operands(kind, operands, sequence=False)
    state = types_of(operands, kind.states, "")[1]
    shape = (*operands["x"].shape[:-1], _hidden(operands))
    return [ShapedArray(shape, state) for _ in kind.states]


def _hidden(operands: Mapping[str, Any]) -> Any:
    return operands["w_hh"].shape[0]


def _batch(op: OpDef, args: Any, axes: Any, params: dict[str, Any]) -> Any:
    """A mapped axis of the data becomes a leading dimension; one of the weights goes on record."""
    at = op.operands(axes, params)
    of_weights = any(v is not None for k, v in at.items() if k.startswith(("w_", "b")))
    # States alone: then the input projection serves every entry.
    if "mapped" in params or of_weights or at["x"] is None:
        return general_batch(op, args, axes, params)
    given = op.operands(args, params)
    size = given["x"].shape[at["x"]]
    moved = {
        k: v
        if k.startswith(("w_", "b"))
        else jnp.broadcast_to(v, (size, *v.shape))
        if at[k] is None
        else jnp.moveaxis(v, at[k], 0)
        for k, v in given.items()
    }
    out = op.rebind(moved, **params)
    return out, [0] * len(out)


def _jvp(kind: Recurrence, op: OpDef, primals: Any, tangents: Any, params: dict[str, Any]) -> Any:
    live = [i for i, t in enumerate(tangents) if not is_zero(t)]
    plain = not params["residuals"] and has_slope(params)
    if not live or not plain or any(tangents[i].dtype == jax.dtypes.float0 for i in live):
        return kept_jvp(op, primals, tangents, params)
    static = dict(params)
    levels = static.pop("mapped", ())
    names = op.present(params)

    def one(primals: Any, given: Any) -> Any:
        operands = dict(zip(names, primals, strict=True))
        d_operands = {names[i]: t for i, t in zip(live, given, strict=True)}
        # As it is computed, for the state at each step; what is masked in the output follows.
        wanted = {**static, "residuals": True, "masked_output": "hold"}
        full = op.rebind(operands, **wanted)
        outs, d_outs = tangents_of(kind, operands, d_operands, full, static)
        return tuple(outs), tuple(d_outs)

    for axes in levels:
        one = jax.vmap(one, in_axes=(axes, tuple(axes[i] for i in live)))
    outs, d_outs = one(tuple(primals), tuple(tangents[i] for i in live))
    if not jnp.issubdtype(outs[0].dtype, jnp.inexact):
        return list(outs), [zero_like(o) for o in outs]
    return list(outs), list(d_outs)


def bind_sequence(
    kind: Recurrence, op: OpDef, operands: dict[str, Any], lengths: Any, params: dict[str, Any]
) -> list[Any]:
    """Binds a sequence op to operands as people give them.

    States that are None are zeros, and ``lengths`` become the mask.

    Raises:
        OpError: operands are missing or do not fit.
        OpTypeError: an operand or parameter has a type that the op cannot take.
    """
    given = {k: jnp.asarray(v) for k, v in operands.items() if v is not None}
    for name in ("x", "w_hh"):
        if name not in given:
            raise OpError(kind.name, f"{name} is missing", given, f"give {name}")
    x = given["x"]
    if lengths is not None:
        given["mask"] = _mask_of(kind, x, jnp.asarray(lengths), given)
    check_type(kind.name, given)
    for s in kind.states:
        if f"{s}0" not in given:
            given[f"{s}0"] = _zeros(kind, given)
    return op.rebind(given, **params)


def bind_cell(
    kind: Recurrence, op: OpDef, operands: dict[str, Any], params: dict[str, Any]
) -> list[Any]:
    """Binds the op of one step to operands as people give them.

    Raises:
        OpError: operands are missing or do not fit.
        OpTypeError: an operand or parameter has a type that the op cannot take.
    """
    given = {k: jnp.asarray(v) for k, v in operands.items() if v is not None}
    for name in ("x", *kind.states, "w_hh"):
        if name not in given:
            raise OpError(op.name, f"{name} is missing", given, f"give {name}")
    check_type(op.name, given)
    return op.rebind(given, **params)


def _mask_of(kind: Recurrence, x: Any, lengths: Any, given: Mapping[str, Any]) -> Any:
    if "mask" in given:
        raise OpError(kind.name, "both lengths and mask are given", given, "give one of them")
    if not jnp.issubdtype(lengths.dtype, jnp.integer):
        raise OpTypeError(
            kind.name, f"lengths are {lengths.dtype}", {"lengths": lengths}, "give integers"
        )
    if x.ndim < 2 or lengths.shape != x.shape[:-2]:
        raise OpError(
            kind.name,
            f"lengths have shape {lengths.shape}, and x has batch dimensions {x.shape[:-2]}",
            {"x": x, "lengths": lengths},
            "give one length for each sequence",
        )
    return jnp.arange(x.shape[-2]) < lengths[..., None]


def _zeros(kind: Recurrence, given: Mapping[str, Any]) -> Any:
    check_operands(kind, given, sequence=True)
    x, hidden = given["x"], _hidden(given)
    dtype = types_of(given, kind.states, "0")[0]
    shape = (*x.shape[:-2], hidden)
    mesh = jax.typeof(x).sharding.mesh
    if mesh.empty or not x.shape[-2]:
        return jnp.zeros(shape, dtype)
    # Sharded along the batch as x is.
    return jnp.broadcast_to(lax.full_like(x[..., 0, :1], 0, dtype), shape)
