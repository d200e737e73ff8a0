"""Arithmetic on the weights of ``conv`` and ``dense``, as folding needs it."""

from __future__ import annotations

from typing import Any

from jax import lax

from jaxpress import nnops
from jaxpress.capture import Node, Value
from jaxpress.nnops.conv_geometry import specs
from jaxpress.passes.view import View, channel_base

__all__ = [
    "LINEAR_OPS",
    "channel_vector",
    "features",
    "features_axis",
    "operands_of",
    "rebind",
    "scale_features",
    "static_params",
]

LINEAR_OPS = ("conv", "dense")


def operands_of(view: View, node: Node) -> dict[str, Value]:
    """A ``conv``'s or ``dense``'s operands by name."""
    return nnops.registry()[node.op].operands(view.inputs(node), node.params)


def static_params(node: Node) -> dict[str, Any]:
    """Its parameters, but for the list of operands, which ``rebind`` makes anew."""
    return {k: v for k, v in node.params.items() if k != "operands"}


def rebind(node: Node, operands: dict[str, Any], **changes: Any) -> Any:
    """The same op on other operands, with some parameters changed."""
    return nnops.registry()[node.op].rebind(operands, **{**static_params(node), **changes})


def features_axis(node: Node) -> int:
    """The axis of the result along which the bias runs."""
    if node.op == "dense":
        return node.output.ndim - 1
    return specs(node.params["dimension_numbers"]).out_spec[1]


def features(node: Node) -> Any:
    """How many features the result has."""
    return node.output.shape[features_axis(node)]


def scale_features(node: Node, w: Any, scale: Any) -> Any:
    """``w`` with each feature's weights multiplied; ``scale`` has shape (features,)."""
    axis = w.ndim - 1 if node.op == "dense" else specs(node.params["dimension_numbers"]).rhs_spec[0]
    shape = [1] * w.ndim
    shape[axis] = w.shape[axis]
    wide = lax.mul(lax.convert_element_type(w, scale.dtype), lax.reshape(scale, shape))
    return lax.convert_element_type(wide, w.dtype)


def channel_vector(view: View, value: Value, node: Node) -> Value | None:
    """What ``value`` is a broadcast of, if it varies along ``node``'s features alone.

    The result has one element, or as many as there are features, in any shape.
    """
    if value.ndim not in (0, node.output.ndim):
        return None
    found = channel_base(view, value)
    if found is None:
        return None
    base, axis = found
    if axis is not None and axis != features_axis(node):
        return None
    return base


def as_vector(v: Any, n: Any, dtype: Any) -> Any:
    """``v``, of one element or ``n``, as an array of shape (n,)."""
    x = lax.convert_element_type(v, dtype)
    if x.size == 1:
        return lax.broadcast_in_dim(lax.reshape(x, (1,)), (n,), (0,))
    return lax.reshape(x, (n,))
