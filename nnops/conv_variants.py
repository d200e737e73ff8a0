"""Depthwise, separable and transposed convolutions: `conv` as people know it by other names.

Of a depthwise or a transposed one a graph shows ``conv``, with ``groups`` or ``transposed``. A
separable one is an op of its own, until `raise_ops` puts its two convolutions in its place.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxpress.nnops.activation_spec import to_activation
from jaxpress.nnops.conv import conv
from jaxpress.nnops.conv_geometry import layout, per_dimension, resolve_padding, specs
from jaxpress.nnops.define import define
from jaxpress.nnops.eager import eagerly_jitted
from jaxpress.nnops.errors import OpError
from jaxpress.nnops.fused import canonical_precision
from jaxpress.nnops.settings import integer, static_value

__all__ = ["conv_transpose", "depthwise_conv", "separable_conv"]


@eagerly_jitted
def depthwise_conv(
    x: Any,
    w: Any,
    b: Any = None,
    *,
    strides: Any = 1,
    padding: Any = "SAME",
    dilation: Any = 1,
    dimension_numbers: Any = None,
    activation: Any = None,
    precision: Any = None,
) -> jax.Array:
    """Convolution of each channel by itself.

    ``activation(conv(x, w, groups=channels) + b)``

    Args:
        x: (batch, spatial..., channels), unless ``dimension_numbers`` say otherwise.
        w: (spatial..., 1, channels * multiplier); the features of a channel lie side by side.
            Keras' (spatial..., channels, multiplier) is this after a reshape.
        b: (channels * multiplier,), or None.
        strides: as in conv.
        padding: as in conv.
        dilation: as in conv.
        dimension_numbers: as in conv.
        activation: as in conv.
        precision: as in conv.

    Returns:
        (batch, spatial..., channels * multiplier).

    Raises:
        OpError: as conv does.

    Source: jax.lax.conv_general_dilated with feature_group_count.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxpress import nnops
        >>> nnops.depthwise_conv(jnp.ones((1, 8, 8, 3)), jnp.ones((3, 3, 1, 6))).shape
        (1, 8, 8, 6)
    """
    x, w = jnp.asarray(x), jnp.asarray(w)
    numbers = layout(dimension_numbers, x, w)
    channels = x.shape[specs(numbers).lhs_spec[1]]
    return conv(
        x,
        w,
        b,
        strides=strides,
        padding=padding,
        dilation=dilation,
        groups=channels,
        dimension_numbers=numbers,
        activation=activation,
        precision=precision,
    )


def _separable(x: Any, depthwise: Any, pointwise: Any, b: Any = None, **params: Any) -> Any:
    activation = params.pop("activation")
    middle = depthwise_conv(x, depthwise, **params)
    # The first one's result has the layout of results; the second takes that of inputs.
    numbers = params["dimension_numbers"]
    given, _, made = specs(numbers)
    if given != made:
        order = [0] * x.ndim
        for position, source in zip(given, made, strict=True):
            order[position] = source
        middle = lax.transpose(middle, order)
    return conv(
        middle,
        pointwise,
        b,
        padding="VALID",
        dimension_numbers=numbers,
        activation=activation,
        precision=params["precision"],
    )


def _normalize(params: dict[str, Any]) -> dict[str, Any]:
    return {
        **params,
        "activation": to_activation(params["activation"], "separable_conv"),
        "precision": canonical_precision(params["precision"], "separable_conv"),
    }


_SEPARABLE_CONV = define(
    "separable_conv",
    _separable,
    operands=("x", "depthwise", "pointwise"),
    optional=("b",),
    defaults={"activation": None, "precision": None},
    normalize=_normalize,
    made_of_ops=True,
)


@eagerly_jitted
def separable_conv(
    x: Any,
    depthwise: Any,
    pointwise: Any,
    b: Any = None,
    *,
    strides: Any = 1,
    padding: Any = "SAME",
    dilation: Any = 1,
    dimension_numbers: Any = None,
    activation: Any = None,
    precision: Any = None,
) -> jax.Array:
    """Depthwise convolution, then one of a single position.

    ``activation(conv(depthwise_conv(x, depthwise), pointwise) + b)``

    Args:
        x: (batch, spatial..., channels), unless ``dimension_numbers`` say otherwise.
        depthwise: (spatial..., 1, channels * multiplier), as in depthwise_conv.
        pointwise: (1..., channels * multiplier, features).
        b: (features,), or None.
        strides: of the depthwise convolution, as in conv.
        padding: of the depthwise convolution, as in conv.
        dilation: of the depthwise convolution, as in conv.
        dimension_numbers: of both, as in conv.
        activation: as in conv.
        precision: as in conv.

    Returns:
        (batch, spatial..., features).

    Raises:
        OpError: as conv does, or pointwise covers more than one position.

    Source: Chollet, 2016, arXiv:1610.02357.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxpress import nnops
        >>> depthwise, pointwise = jnp.ones((3, 3, 1, 3)), jnp.ones((1, 1, 3, 16))
        >>> nnops.separable_conv(jnp.ones((1, 8, 8, 3)), depthwise, pointwise).shape
        (1, 8, 8, 16)
    """
    op = "separable_conv"
    x, depthwise, pointwise = map(jnp.asarray, (x, depthwise, pointwise))
    numbers = layout(dimension_numbers, x, pointwise)
    layout(numbers, x, depthwise)
    if any(pointwise.shape[i] != 1 for i in specs(numbers).rhs_spec[2:]):
        raise OpError(
            op,
            "pointwise covers more than one position",
            {"x": x, "pointwise": pointwise},
            "its spatial dimensions are all 1",
        )
    strides = per_dimension("strides", strides, x.ndim - 2, op)
    dilation = per_dimension("dilation", dilation, x.ndim - 2, op)
    b = None if b is None else jnp.asarray(b)
    return _SEPARABLE_CONV.rebind(
        {"x": x, "depthwise": depthwise, "pointwise": pointwise, "b": b},
        strides=strides,
        padding=resolve_padding(padding, x, depthwise, numbers, strides, dilation, False),
        dilation=dilation,
        dimension_numbers=numbers,
        activation=activation,
        precision=precision,
    )


@eagerly_jitted
def conv_transpose(
    x: Any,
    w: Any,
    b: Any = None,
    *,
    strides: Any = 1,
    padding: Any = "SAME",
    output_padding: Any = 0,
    dilation: Any = 1,
    dimension_numbers: Any = None,
    transpose_kernel: bool = False,
    activation: Any = None,
    precision: Any = None,
) -> jax.Array:
    """Transposed convolution: what a strided one does to its gradient.

    ``activation(conv(x dilated by strides, w) + b)``

    Args:
        x: (batch, spatial..., channels), unless ``dimension_numbers`` say otherwise.
        w: (spatial..., channels, features); with ``transpose_kernel`` (spatial..., features,
            channels).
        b: (features,), or None.
        strides: how much larger the result is; an int, or one for each spatial dimension.
        padding: ``"SAME"`` (the result has strides times x's size), ``"VALID"``, or numbers that
            pad the dilated input, all as in jax.lax.conv_transpose. torch's ``padding=p`` is
            ``dilation * (size - 1) - p`` here.
        output_padding: added at the end of the dilated input, as in torch; an int, or one for each
            spatial dimension.
        dilation: of the kernel; an int, or one for each spatial dimension.
        dimension_numbers: as in conv.
        transpose_kernel: turn the kernel round in space and swap its features, so that this is
            the very transpose of a convolution with the same kernel, as Keras and torch have it.
        activation: as in conv.
        precision: as in conv.

    Returns:
        (batch, spatial..., features).

    Raises:
        OpError: as conv does.
        OpTypeError: a parameter is no integer.

    Source: jax.lax.conv_transpose.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxpress import nnops
        >>> x, w = jnp.ones((1, 4, 4, 3)), jnp.ones((3, 3, 3, 16))
        >>> nnops.conv_transpose(x, w, strides=2).shape
        (1, 8, 8, 16)
    """
    x, w = jnp.asarray(x), jnp.asarray(w)
    numbers = layout(dimension_numbers, x, w)
    rank = x.ndim - 2
    if static_value("conv_transpose", "transpose_kernel", transpose_kernel, False):
        out, inner, *spatial = specs(numbers).rhs_spec
        w = jnp.swapaxes(lax.rev(w, spatial), out, inner)
    strides = per_dimension("strides", strides, rank, "conv_transpose")
    dilation = per_dimension("dilation", dilation, rank, "conv_transpose")
    pairs = resolve_padding(padding, x, w, numbers, strides, dilation, True)
    several = isinstance(output_padding, Iterable)
    extra = tuple(output_padding) if several else (output_padding,) * rank
    extra = [integer("conv_transpose", "output_padding", e) for e in extra]
    if len(extra) != rank or min(extra) < 0:
        raise OpError(
            "conv_transpose",
            f"output_padding is {output_padding!r}",
            {"x": x, "w": w},
            f"give one, or {rank}, integers from 0",
        )
    return conv(
        x,
        w,
        b,
        strides=strides,
        padding=[(low, high + e) for (low, high), e in zip(pairs, extra, strict=True)],
        dilation=dilation,
        dimension_numbers=numbers,
        transposed=True,
        activation=activation,
        precision=precision,
    )
