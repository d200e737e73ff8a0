"""Activations made of straight pieces (or nearly), each a named op.

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
    "hard_sigmoid",
    "hard_silu",
    "hard_swish",
    "hard_tanh",
    "leaky_relu",
    "relu",
    "relu6",
    "relu_squared",
    "sparse_plus",
    "sparse_sigmoid",
]


_RELU = elementwise("relu", jax.nn.relu)


@eagerly_jitted
def relu(x: Any) -> jax.Array:
    """Rectified linear unit.

    ``max(x, 0)``

    The derivative at 0 is 0.

    Args:
        x: any shape; integers as in jax.nn.

    Returns:
        An array of ``x``'s shape.

    Source: jax.nn.relu.

    Example:
        >>> from jaxpress import nnops
        >>> nnops.relu([-1.0, 0.0, 1.0]).tolist()
        [0.0, 0.0, 1.0]
    """
    return apply(_RELU, x)


register("relu", relu, jax.nn.relu)


_RELU6 = elementwise("relu6", jax.nn.relu6)


@eagerly_jitted
def relu6(x: Any) -> jax.Array:
    """Rectified linear unit, capped at 6.

    ``min(max(x, 0), 6)``

    The derivative at 0 and at 6 is 0.

    Args:
        x: any shape; integers as in jax.nn.

    Returns:
        An array of ``x``'s shape.

    Source: jax.nn.relu6.

    Example:
        >>> from jaxpress import nnops
        >>> nnops.relu6(8.0).tolist()
        6.0
    """
    return apply(_RELU6, x)


register("relu6", relu6, jax.nn.relu6)


def _relu_squared(x: Any) -> Any:
    return jnp.square(jax.nn.relu(x))


_RELU_SQUARED = elementwise("relu_squared", _relu_squared)


@eagerly_jitted
def relu_squared(x: Any) -> jax.Array:
    """Squared rectified linear unit.

    ``max(x, 0)**2``

    Args:
        x: any shape; integers as in jax.nn.relu.

    Returns:
        An array of ``x``'s shape.

    Source: So et al., 2021, arXiv:2109.08668.

    Example:
        >>> from jaxpress import nnops
        >>> nnops.relu_squared(3.0).tolist()
        9.0
    """
    return apply(_RELU_SQUARED, x)


register("relu_squared", relu_squared, _relu_squared)


_LEAKY_RELU = elementwise("leaky_relu", jax.nn.leaky_relu, {"negative_slope": 0.01})


@eagerly_jitted
def leaky_relu(x: Any, negative_slope: float = 0.01) -> jax.Array:
    """Leaky rectified linear unit.

    ``x where x >= 0, negative_slope * x elsewhere``

    Args:
        x: any shape; integers as in jax.nn.
        negative_slope: slope left of zero, a Python number.

    Returns:
        An array of ``x``'s shape.

    Raises:
        OpTypeError: ``negative_slope`` is no static number.

    Source: jax.nn.leaky_relu.

    Example:
        >>> from jaxpress import nnops
        >>> nnops.leaky_relu([-1.0, 0.0, 1.0]).round(2).tolist()
        [-0.009999999776482582, 0.0, 1.0]
        >>> nnops.leaky_relu(-2.0, negative_slope=0.5).tolist()
        -1.0
    """
    return apply(_LEAKY_RELU, x, negative_slope=negative_slope)


register("leaky_relu", leaky_relu, jax.nn.leaky_relu, {"negative_slope": 0.01})


_HARD_TANH = elementwise("hard_tanh", jax.nn.hard_tanh)


@eagerly_jitted
def hard_tanh(x: Any) -> jax.Array:
    """Piecewise linear tanh.

    ``min(max(x, -1), 1)``

    Args:
        x: any shape; integers as in jax.nn.

    Returns:
        An array of ``x``'s shape.

    Source: jax.nn.hard_tanh.

    Example:
        >>> from jaxpress import nnops
        >>> nnops.hard_tanh(2.0).tolist()
        1.0
    """
    return apply(_HARD_TANH, x)


register("hard_tanh", hard_tanh, jax.nn.hard_tanh)


_HARD_SIGMOID = elementwise("hard_sigmoid", jax.nn.hard_sigmoid)


@eagerly_jitted
def hard_sigmoid(x: Any) -> jax.Array:
    """Piecewise linear sigmoid.

    ``relu6(x + 3) / 6``

    Args:
        x: any shape; integers as in jax.nn.

    Returns:
        An array of ``x``'s shape.

    Source: jax.nn.hard_sigmoid.

    Example:
        >>> from jaxpress import nnops
        >>> nnops.hard_sigmoid(0.0).tolist()
        0.5
    """
    return apply(_HARD_SIGMOID, x)


register("hard_sigmoid", hard_sigmoid, jax.nn.hard_sigmoid)


_HARD_SILU = elementwise("hard_silu", jax.nn.hard_silu)


@eagerly_jitted
def hard_silu(x: Any) -> jax.Array:
    """Piecewise silu, also called hard swish.

    ``x * relu6(x + 3) / 6``

    Args:
        x: any shape; integers as in jax.nn.

    Returns:
        An array of ``x``'s shape.

    Source: jax.nn.hard_silu (Howard et al., 2019, arXiv:1905.02244).

    Example:
        >>> from jaxpress import nnops
        >>> nnops.hard_silu(3.0).tolist()
        3.0
    """
    return apply(_HARD_SILU, x)


register("hard_silu", hard_silu, jax.nn.hard_silu, aliases=("hard_swish",))

hard_swish = hard_silu


_SPARSE_PLUS = elementwise("sparse_plus", jax.nn.sparse_plus)


@eagerly_jitted
def sparse_plus(x: Any) -> jax.Array:
    """Sparse plus: a softplus that reaches zero and the diagonal.

    ``0 where x <= -1, (x + 1)**2 / 4 where -1 < x < 1, x where x >= 1``

    Args:
        x: any shape; integers as in jax.nn.

    Returns:
        An array of ``x``'s shape.

    Source: jax.nn.sparse_plus (Martins and Astudillo, 2016, arXiv:1602.02068).

    Example:
        >>> from jaxpress import nnops
        >>> nnops.sparse_plus(1.0).tolist()
        1.0
    """
    return apply(_SPARSE_PLUS, x)


register("sparse_plus", sparse_plus, jax.nn.sparse_plus)


_SPARSE_SIGMOID = elementwise("sparse_sigmoid", jax.nn.sparse_sigmoid)


@eagerly_jitted
def sparse_sigmoid(x: Any) -> jax.Array:
    """Sparse sigmoid, the derivative of sparse plus.

    ``min(max((x + 1) / 2, 0), 1)``

    Args:
        x: any shape; integers as in jax.nn.

    Returns:
        An array of ``x``'s shape.

    Source: jax.nn.sparse_sigmoid (Martins and Astudillo, 2016, arXiv:1602.02068).

    Example:
        >>> from jaxpress import nnops
        >>> nnops.sparse_sigmoid(0.0).tolist()
        0.5
    """
    return apply(_SPARSE_SIGMOID, x)


register("sparse_sigmoid", sparse_sigmoid, jax.nn.sparse_sigmoid)
