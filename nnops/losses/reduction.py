"""What all losses share: which elements count, how much, and how they become one number."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax.numpy as jnp

from jaxpress.nnops.define import define
from jaxpress.nnops.errors import OpError, OpTypeError
from jaxpress.nnops.opdef import OpDef
from jaxpress.nnops.transforms import general_batch

__all__ = ["call_loss", "check_product", "define_loss", "require_shape"]

REDUCTIONS = ("none", "mean", "sum")
PRODUCTS = ("zero", "nan")


def define_loss(
    name: str,
    per_element: Callable[..., Any],
    *,
    operands: Sequence[str],
    shape: Callable[..., tuple[Any, ...]],
    spread: Callable[..., Any],
    floats: Sequence[str] | None = None,
    optional: Sequence[str] = (),
    defaults: Mapping[str, Any] | None = None,
    normalize: Callable[[dict[str, Any]], dict[str, Any]] = lambda params: params,
    keeps: bool = False,
) -> OpDef:
    """Defines a loss: losses of elements, then ``where``, ``weights`` and ``reduction``.

    Args:
        name: the op's name.
        per_element: ``per_element(**operands, **params) -> losses | (losses, counted)`` in the
            dtype of its operands; ``counted`` is False where an element is to be left out.
        operands: names of the operands that must be given.
        shape: ``shape(given, params) -> the losses' shape``; raises where operands do not fit.
        spread: ``spread(where, params) -> where``, to broadcast against each float operand.
        floats: the operands that are real numbers, whatever their dtype; all of ``operands`` if
            None. Of the others, those that are integers are left as they are.
        optional: names of further operands.
        defaults: static parameters; ``reduction`` is added.
        normalize: static parameters in canonical form.
        keeps: as of `jaxpress.nnops.define`.

    Returns:
        The definition.
    """
    floats = tuple(operands if floats is None else floats)

    def reference(*, reduction: str, **rest: Any) -> Any:
        given = {k: rest.pop(k) for k in op.names if rest.get(k) is not None}
        params = {k: v for k, v in rest.items() if k not in op.names}
        everything = dict(given)
        where, weights = given.pop("where", None), given.pop("weights", None)
        inexact = [k for k, v in given.items() if jnp.issubdtype(v.dtype, jnp.inexact)]
        casts = [k for k in given if k in floats or k in inexact]
        real = [given[k] for k in casts if given[k].dtype != bool]
        real += [] if weights is None else [weights]
        if any(jnp.issubdtype(v.dtype, jnp.complexfloating) for v in real):
            raise OpTypeError(name, "an operand is complex", given, "give real numbers")
        _check_counting(name, shape(given, params), everything)
        out_dtype = jnp.result_type(*real, float)
        # Sums in low precision are mostly rounding.
        work_dtype = jnp.promote_types(out_dtype, jnp.float32)
        for key in floats:
            if key in given:
                value = given[key].astype(work_dtype)
                # Ahead of the formula too, so that no NaN reaches a gradient from what is left out.
                given[key] = value if where is None else jnp.where(spread(where, params), value, 0)
        losses = per_element(**given, **params)
        counted = where
        if isinstance(losses, tuple):
            losses, counted = losses
            counted = counted if where is None else counted & where
        return _reduce(losses, counted, weights, reduction).astype(out_dtype)

    def canonical(params: dict[str, Any]) -> dict[str, Any]:
        if params["reduction"] not in REDUCTIONS:
            raise OpError(
                name, f"reduction is {params['reduction']!r}", mend=f"give one of {REDUCTIONS}"
            )
        return normalize(params)

    op = define(
        name,
        reference,
        operands=operands,
        optional=(*optional, "where", "weights"),
        defaults={**(defaults or {}), "reduction": "none"},
        normalize=canonical,
        batch=_batch,
        keeps=keeps,
    )
    return op


def _reduce(losses: Any, counted: Any, weights: Any, reduction: str) -> Any:
    if counted is not None:
        losses = jnp.where(counted, losses, 0)
    if weights is not None:
        weights = weights.astype(losses.dtype)
        if counted is not None:
            weights = jnp.where(counted, weights, 0)
        losses = losses * weights
    if reduction == "none":
        return losses
    total = losses.sum()
    if reduction == "sum":
        return total
    if weights is not None:
        count = weights.sum()
    elif counted is not None:
        count = counted.sum(dtype=losses.dtype)
    else:
        return total if 0 in losses.shape else losses.mean()
    nothing = count == 0
    return jnp.where(nothing, 0, total / jnp.where(nothing, 1, count))


def _check_counting(name: str, shape: tuple[Any, ...], given: Mapping[str, Any]) -> None:
    if "where" in given:
        where = given["where"]
        if where.dtype != bool:
            raise OpTypeError(
                name,
                f"where is {where.dtype}",
                given,
                "give booleans, True for what counts, or call it weights",
            )
        require_shape(name, "where", given, shape)
    if "weights" in given:
        require_shape(name, "weights", given, shape)


def require_shape(
    name: str, operand: str, given: Mapping[str, Any], shape: tuple[Any, ...]
) -> None:
    """One of the operands ``given`` has exactly this shape: nothing is broadcast.

    Raises:
        OpError: it has another.
    """
    has = tuple(given[operand].shape)
    if has != tuple(shape):
        raise OpError(
            name,
            f"{operand} has shape {has}, and {tuple(shape)} is needed",
            given,
            f"broadcast or reshape {operand} to {tuple(shape)}",
        )


def check_product(name: str, params: Mapping[str, Any]) -> None:
    """Checks ``zero_times_infinity``.

    Raises:
        OpError: it is unknown.
    """
    chosen = params["zero_times_infinity"]
    if chosen not in PRODUCTS:
        raise OpError(name, f"zero_times_infinity is {chosen!r}", mend=f"give one of {PRODUCTS}")


def _batch(op: OpDef, args: Any, axes: Any, params: dict[str, Any]) -> Any:
    # Losses count axes from the end, and only a reduction would mix what leads.
    plain = "mapped" not in params and params["reduction"] == "none"
    if plain and all(a is not None for a in axes):
        args = [jnp.moveaxis(x, a, 0) for x, a in zip(args, axes, strict=True)]
        return op.primitive.bind(*args, **params), 0
    return general_batch(op, args, axes, params)


def call_loss(op: OpDef, operands: Mapping[str, Any], **params: Any) -> Any:
    """Binds a loss to anything array-like.

    Raises:
        OpError: a required operand is None, or the operands do not fit.
    """
    return op.rebind({k: jnp.asarray(v) for k, v in operands.items() if v is not None}, **params)
