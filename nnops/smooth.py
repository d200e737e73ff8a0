"""Smooth activations, each a named op.

The gradients, at kinks too, are those of the jax.nn functions of the same names.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from jaxpress.nnops.activation_spec import register
from jaxpress.nnops.eager import eagerly_jitted
from jaxpress.nnops.elementwise import apply, elementwise

__all__ = [
    "celu",
    "elu",
    "gelu",
    "log_sigmoid",
    "mish",
    "quick_gelu",
    "selu",
    "sigmoid",
    "silu",
    "soft_sign",
    "softplus",
    "squareplus",
    "swish",
]


_ELU = elementwise("elu", jax.nn.elu, {"alpha": 1.0})


@eagerly_jitted
def elu(x: Any, alpha: float = 1.0) -> jax.Array:
    """Exponential linear unit.

    ``x where x > 0, alpha * (exp(x) - 1) elsewhere``

    Args:
        x: any shape; integers as in jax.nn.
        alpha: limit to the left is ``-alpha``; a Python number.

    Returns:
        An array of ``x``'s shape.

    Raises:
        OpTypeError: ``alpha`` is no static number.

    Source: jax.nn.elu (Clevert et al., 2015, arXiv:1511.07289).

    Example:
        >>> from jaxpress import nnops
        >>> [round(float(y), 3) for y in nnops.elu([-1.0, 0.0, 1.0])]
        [-0.632, 0.0, 1.0]
    """
    return apply(_ELU, x, alpha=alpha)


register("elu", elu, jax.nn.elu, {"alpha": 1.0})


_CELU = elementwise("celu", jax.nn.celu, {"alpha": 1.0})


@eagerly_jitted
def celu(x: Any, alpha: float = 1.0) -> jax.Array:
    """Continuously differentiable exponential linear unit.

    ``max(x, 0) + min(alpha * (exp(x / alpha) - 1), 0)``

    Args:
        x: any shape; integers as in jax.nn.
        alpha: limit to the left is ``-alpha``; a Python number.

    Returns:
        An array of ``x``'s shape.

    Raises:
        OpTypeError: ``alpha`` is no static number.

    Source: jax.nn.celu (Barron, 2017, arXiv:1704.07483).

    Example:
        >>> from jaxpress import nnops
        >>> nnops.celu(2.0).tolist()
        2.0
    """
    return apply(_CELU, x, alpha=alpha)


register("celu", celu, jax.nn.celu, {"alpha": 1.0})


_SELU = elementwise("selu", jax.nn.selu)


@eagerly_jitted
def selu(x: Any) -> jax.Array:
    """Scaled exponential linear unit.

    ``1.0507 * elu(x, 1.6733)``

    Args:
        x: any shape; integers as in jax.nn.

    Returns:
        An array of ``x``'s shape.

    Source: jax.nn.selu (Klambauer et al., 2017, arXiv:1706.02515).

    Example:
        >>> from jaxpress import nnops
        >>> nnops.selu(0.0).tolist()
        0.0
    """
    return apply(_SELU, x)


register("selu", selu, jax.nn.selu)


_GELU = elementwise("gelu", jax.nn.gelu, {"approximate": True})


@eagerly_jitted
def gelu(x: Any, approximate: bool = True) -> jax.Array:
    """Gaussian error linear unit.

    ``x * (1 + erf(x / sqrt(2))) / 2``

    With ``approximate``: ``x * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 * x**3))) / 2``.

    Args:
        x: any shape; integers as in jax.nn.
        approximate: the tanh formula instead of erf; a Python bool.

    Returns:
        An array of ``x``'s shape.

    Raises:
        OpTypeError: ``approximate`` is no static number.

    Source: jax.nn.gelu (Hendrycks and Gimpel, 2016, arXiv:1606.08415).

    Example:
        >>> from jaxpress import nnops
        >>> [round(float(y), 3) for y in nnops.gelu([0.0, 1.0, 2.0])]
        [0.0, 0.841, 1.955]
        >>> [round(float(y), 3) for y in nnops.gelu([0.0, 1.0, 2.0], approximate=False)]
        [0.0, 0.841, 1.954]
    """
    return apply(_GELU, x, approximate=approximate)


register("gelu", gelu, jax.nn.gelu, {"approximate": True})


def _quick_gelu(x: Any) -> Any:
    return x * jax.nn.sigmoid(1.702 * x)


_QUICK_GELU = elementwise("quick_gelu", _quick_gelu)


@eagerly_jitted
def quick_gelu(x: Any) -> jax.Array:
    """Gelu's approximation by a sigmoid.

    ``x * sigmoid(1.702 * x)``

    Args:
        x: any shape; integers become floats.

    Returns:
        An array of ``x``'s shape.

    Source: Hendrycks and Gimpel, 2016, arXiv:1606.08415, section 2.

    Example:
        >>> from jaxpress import nnops
        >>> [round(float(y), 3) for y in nnops.quick_gelu([0.0, 1.0, 2.0])]
        [0.0, 0.846, 1.936]
    """
    return apply(_QUICK_GELU, x)


register("quick_gelu", quick_gelu, _quick_gelu)


_SIGMOID = elementwise("sigmoid", jax.nn.sigmoid)


@eagerly_jitted
def sigmoid(x: Any) -> jax.Array:
    """Logistic function.

    ``1 / (1 + exp(-x))``

    Args:
        x: any shape; integers as in jax.nn.

    Returns:
        An array of ``x``'s shape.

    Source: jax.nn.sigmoid.

    Example:
        >>> from jaxpress import nnops
        >>> [round(float(y), 3) for y in nnops.sigmoid([-1.0, 0.0, 1.0])]
        [0.269, 0.5, 0.731]
    """
    return apply(_SIGMOID, x)


register("sigmoid", sigmoid, jax.nn.sigmoid)


_SILU = elementwise("silu", jax.nn.silu)


@eagerly_jitted
def silu(x: Any) -> jax.Array:
    """Sigmoid-weighted linear unit, also called swish.

    ``x * sigmoid(x)``

    Args:
        x: any shape; integers as in jax.nn.

    Returns:
        An array of ``x``'s shape.

    Source: jax.nn.silu (Elfwing et al., 2017, arXiv:1702.03118).

    Example:
        >>> from jaxpress import nnops
        >>> nnops.silu(0.0).tolist()
        0.0
    """
    return apply(_SILU, x)


register("silu", silu, jax.nn.silu, aliases=("swish",))

swish = silu


_SOFTPLUS = elementwise("softplus", jax.nn.softplus)


@eagerly_jitted
def softplus(x: Any) -> jax.Array:
    """Softplus.

    ``log(1 + exp(x))``

    Args:
        x: any shape; integers as in jax.nn.

    Returns:
        An array of ``x``'s shape.

    Source: jax.nn.softplus.

    Example:
        >>> from jaxpress import nnops
        >>> [round(float(y), 3) for y in nnops.softplus([-1.0, 0.0, 1.0])]
        [0.313, 0.693, 1.313]
    """
    return apply(_SOFTPLUS, x)


register("softplus", softplus, jax.nn.softplus)


_SOFT_SIGN = elementwise("soft_sign", jax.nn.soft_sign)


@eagerly_jitted
def soft_sign(x: Any) -> jax.Array:
    """Soft sign.

    ``x / (1 + |x|)``

    Args:
        x: any shape; integers as in jax.nn.

    Returns:
        An array of ``x``'s shape.

    Source: jax.nn.soft_sign.

    Example:
        >>> from jaxpress import nnops
        >>> nnops.soft_sign([-1.0, 0.0, 1.0]).tolist()
        [-0.5, 0.0, 0.5]
    """
    return apply(_SOFT_SIGN, x)


register("soft_sign", soft_sign, jax.nn.soft_sign)


_LOG_SIGMOID = elementwise("log_sigmoid", jax.nn.log_sigmoid)


@eagerly_jitted
def log_sigmoid(x: Any) -> jax.Array:
    """Logarithm of the logistic function.

    ``-softplus(-x)``

    Args:
        x: any shape; integers as in jax.nn.

    Returns:
        An array of ``x``'s shape.

    Source: jax.nn.log_sigmoid.

    Example:
        >>> from jaxpress import nnops
        >>> [round(float(y), 3) for y in nnops.log_sigmoid([-1.0, 0.0, 1.0])]
        [-1.313, -0.693, -0.313]
    """
    return apply(_LOG_SIGMOID, x)


register("log_sigmoid", log_sigmoid, jax.nn.log_sigmoid)


_MISH = elementwise("mish", jax.nn.mish)


@eagerly_jitted
def mish(x: Any) -> jax.Array:
    """Mish.

    ``x * tanh(softplus(x))``

    Args:
        x: any shape; integers as in jax.nn.

    Returns:
        An array of ``x``'s shape.

    Source: jax.nn.mish (Misra, 2019, arXiv:1908.08681).

    Example:
        >>> from jaxpress import nnops
        >>> nnops.mish(0.0).tolist()
        0.0
    """
    return apply(_MISH, x)


register("mish", mish, jax.nn.mish)


def _squareplus(x: Any, b: float) -> Any:
    # jax.nn's default is an integer: to integers, it adds nothing that is wider.
    whole = b == 4 and not jnp.issubdtype(x.dtype, jnp.inexact)
    return jax.nn.squareplus(x, 4 if whole else b)


_SQUAREPLUS = elementwise("squareplus", _squareplus, {"b": 4.0}, keeps=True)


@eagerly_jitted
def squareplus(x: Any, b: float = 4.0) -> jax.Array:
    """Squareplus.

    ``(x + sqrt(x**2 + b)) / 2``

    Args:
        x: any shape; integers as in jax.nn.
        b: smoothness, a Python number.

    Returns:
        An array of ``x``'s shape.

    Raises:
        OpTypeError: ``b`` is no static number.

    Source: jax.nn.squareplus (Barron, 2021, arXiv:2112.11687).

    Example:
        >>> from jaxpress import nnops
        >>> nnops.squareplus(0.0).tolist()
        1.0
    """
    return apply(_SQUAREPLUS, x, b=b)


register("squareplus", squareplus, jax.nn.squareplus, {"b": 4.0})
