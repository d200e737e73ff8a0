"""Gated activations of two arrays, as the feed-forward layers of transformers have them."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxpress.nnops.define import define
from jaxpress.nnops.eager import eagerly_jitted
from jaxpress.nnops.errors import OpError
from jaxpress.nnops.opdef import OpDef
from jaxpress.nnops.settings import static_value

__all__ = ["geglu", "swiglu"]


def _swiglu(gate: Any, up: Any) -> Any:
    return jax.nn.silu(gate) * up


def _geglu(gate: Any, up: Any, *, approximate: bool) -> Any:
    return jax.nn.gelu(gate, approximate=approximate) * up


def _infer(avals: Any, params: Any) -> Any:
    del params
    gate, up = avals
    same = gate.shape == up.shape and gate.dtype == up.dtype
    return gate if same and jnp.issubdtype(gate.dtype, jnp.floating) else None


def _batch(op: OpDef, args: Any, axes: Any, params: dict[str, Any]) -> Any:
    """The same op of both operands with the mapped axis in front."""
    size = next(a.shape[i] for a, i in zip(args, axes, strict=True) if i is not None)
    if axes[0] == axes[1]:
        return op.primitive.bind(*args, **params), axes[0]
    full = [
        lax.broadcast(a, (size,)) if i is None else jnp.moveaxis(a, i, 0)
        for a, i in zip(args, axes, strict=True)
    ]
    return op.primitive.bind(*full, **params), 0


_SWIGLU = define("swiglu", _swiglu, operands=("gate", "up"), batch=_batch, infer=_infer)
_GEGLU = define(
    "geglu",
    _geglu,
    operands=("gate", "up"),
    defaults={"approximate": True},
    batch=_batch,
    infer=_infer,
)


def _pair(op: str, gate: Any, up: Any) -> dict[str, Any]:
    gate, up = jnp.asarray(gate), jnp.asarray(up)
    if gate.shape != up.shape:
        raise OpError(
            op,
            f"gate has shape {gate.shape}, and up has {up.shape}",
            {"gate": gate, "up": up},
            "give both the same shape; of one array, give the halves: jnp.split(x, 2, axis=-1)",
        )
    dtype = jnp.result_type(gate, up)
    # A cast to the dtype that it has would make a weak type strong.
    return {k: v if v.dtype == dtype else v.astype(dtype) for k, v in (("gate", gate), ("up", up))}


@eagerly_jitted
def swiglu(gate: Any, up: Any) -> jax.Array:
    """A product whose one factor went through silu.

    ``silu(gate) * up``

    Args:
        gate: any shape; what goes through silu.
        up: of gate's shape.

    Returns:
        An array of gate's shape, in the dtype to which both are promoted.

    Raises:
        OpError: the shapes differ; neither is broadcast.

    Source: Shazeer, 2020, arXiv:2002.05202, the gate alone, without the projections.

    Example:
        >>> from jaxpress import nnops
        >>> [round(float(y), 3) for y in nnops.swiglu([0.0, 1.0], [5.0, 2.0])]
        [0.0, 1.462]
    """
    return _SWIGLU.rebind(_pair("swiglu", gate, up))


@eagerly_jitted
def geglu(gate: Any, up: Any, approximate: bool = True) -> jax.Array:
    """A product whose one factor went through gelu.

    ``gelu(gate) * up``

    Args:
        gate: any shape; what goes through gelu.
        up: of gate's shape.
        approximate: gelu by tanh instead of erf; a Python bool.

    Returns:
        An array of gate's shape, in the dtype to which both are promoted.

    Raises:
        OpError: the shapes differ; neither is broadcast.
        OpTypeError: ``approximate`` is no static bool.

    Source: Shazeer, 2020, arXiv:2002.05202, the gate alone, without the projections.

    Example:
        >>> from jaxpress import nnops
        >>> [round(float(y), 3) for y in nnops.geglu([0.0, 1.0], [5.0, 2.0])]
        [0.0, 1.682]
    """
    approximate = static_value("geglu", "approximate", approximate, True)
    return _GEGLU.rebind(_pair("geglu", gate, up), approximate=approximate)
