"""Initializers of parameters: each is called as ``init(key, shape, dtype)``.

Those of `jax.nn.initializers` are given as they are, with its spelling of every argument; here are
also the names by which other libraries know them, and what it lacks. For dense kernels (in, out)
and convolution kernels HWIO the defaults of ``in_axis`` and ``out_axis`` are right.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import jax
import jax.numpy as jnp
from jax.nn import initializers as of_jax

from jaxpress.nnops.errors import OpError

__all__ = [
    "Initializer",
    "constant",
    "delta_orthogonal",
    "glorot_normal",
    "glorot_uniform",
    "he_normal",
    "he_uniform",
    "kaiming_normal",
    "kaiming_uniform",
    "lecun_normal",
    "lecun_uniform",
    "normal",
    "ones",
    "orthogonal",
    "truncated_normal",
    "uniform",
    "variance_scaling",
    "xavier_normal",
    "xavier_uniform",
    "zeros",
]


class Initializer(Protocol):
    """``init(key, shape, dtype) -> array``."""

    def __call__(self, key: Any, shape: Sequence[int], dtype: Any = ...) -> jax.Array:
        """Draws an array."""
        ...


variance_scaling = of_jax.variance_scaling
glorot_uniform = xavier_uniform = of_jax.glorot_uniform
glorot_normal = xavier_normal = of_jax.glorot_normal
he_uniform = kaiming_uniform = of_jax.he_uniform
he_normal = kaiming_normal = of_jax.he_normal
lecun_uniform = of_jax.lecun_uniform
lecun_normal = of_jax.lecun_normal
constant = of_jax.constant


def normal(stddev: float = 1e-2, dtype: Any = None, *, mean: float = 0.0) -> Initializer:
    """Numbers from a normal distribution.

    ``mean + stddev * z``, z standard normal.

    Args:
        stddev: standard deviation, not negative.
        dtype: unless the call says another; JAX's default float if None.
        mean: of the distribution.

    Returns:
        ``init(key, shape, dtype)``.

    Raises:
        OpError: stddev is negative.

    Source: jax.nn.initializers.normal.

    Example:
        >>> import jax
        >>> from jaxpress import nnops
        >>> nnops.initializers.normal(stddev=0.5)(jax.random.key(0), (2, 3)).shape
        (2, 3)
    """
    _not_negative("normal", "stddev", stddev)
    return _moved(of_jax.normal(stddev, **_given(dtype)), mean)


def truncated_normal(
    stddev: float = 1e-2,
    dtype: Any = None,
    lower: float = -2.0,
    upper: float = 2.0,
    *,
    mean: float = 0.0,
) -> Initializer:
    """Numbers from a normal distribution, drawn again beyond some standard deviations.

    ``mean + stddev * z``, z standard normal and from ``lower`` to ``upper``. The standard deviation
    of the result is smaller than ``stddev``: 0.88 of it for the defaults.

    Args:
        stddev: standard deviation before truncation, not negative.
        dtype: unless the call says another; JAX's default float if None.
        lower: least z.
        upper: largest z.
        mean: of the distribution before truncation.

    Returns:
        ``init(key, shape, dtype)``.

    Raises:
        OpError: stddev is negative, or lower is not below upper.

    Source: jax.nn.initializers.truncated_normal.

    Example:
        >>> import jax
        >>> from jaxpress import nnops
        >>> x = nnops.initializers.truncated_normal(stddev=1.0)(jax.random.key(0), (99,))
        >>> bool(abs(x).max() <= 2)
        True
    """
    _not_negative("truncated_normal", "stddev", stddev)
    _ordered("truncated_normal", lower=lower, upper=upper)
    return _moved(of_jax.truncated_normal(stddev, lower=lower, upper=upper, **_given(dtype)), mean)


def orthogonal(scale: float = 1.0, column_axis: int = -1, dtype: Any = None) -> Initializer:
    """Matrices with orthogonal rows or columns, whichever are fewer.

    ``q @ q.T == scale**2 * identity`` for q of fewer rows than columns, drawn uniformly.

    Args:
        scale: length of the rows or columns.
        column_axis: the axis that counts columns; all others count rows.
        dtype: unless the call says another; JAX's default float if None.

    Returns:
        ``init(key, shape, dtype)``; in half precision, drawn in float32 and rounded.

    Source: jax.nn.initializers.orthogonal; Saxe et al., 2013, arXiv:1312.6120.

    Example:
        >>> import jax
        >>> from jaxpress import nnops
        >>> q = nnops.initializers.orthogonal()(jax.random.key(0), (3, 3))
        >>> (q @ q.T).round(3).diagonal().tolist()
        [1.0, 1.0, 1.0]
    """
    return _in_float32(of_jax.orthogonal(scale, column_axis), dtype)


def delta_orthogonal(scale: float = 1.0, column_axis: int = -1, dtype: Any = None) -> Initializer:
    """Convolution kernels that are orthogonal in the middle, and 0 elsewhere.

    Args:
        scale: length of the rows.
        column_axis: the axis of features.
        dtype: unless the call says another; JAX's default float if None.

    Returns:
        ``init(key, shape, dtype)`` for 3 to 5 dimensions; in half precision, drawn in float32 and
        rounded.

    Raises:
        ValueError: (when called) there are more input features than output features, or the window
            is no square of odd size.

    Source: jax.nn.initializers.delta_orthogonal; Xiao et al., 2018, arXiv:1806.05393.

    Example:
        >>> import jax
        >>> from jaxpress import nnops
        >>> w = nnops.initializers.delta_orthogonal()(jax.random.key(0), (3, 3, 2, 4))
        >>> bool((w[0] == 0).all())
        True
    """
    return _in_float32(of_jax.delta_orthogonal(scale, column_axis), dtype)


def uniform(minval: float, maxval: float, dtype: Any = None) -> Initializer:
    """Numbers from a uniform distribution.

    ``minval <= x < maxval``

    Args:
        minval: least value.
        maxval: above all values.
        dtype: unless the call says another; JAX's default float if None.

    Returns:
        ``init(key, shape, dtype)``.

    Raises:
        OpError: minval is not below maxval.

    Source: jax.random.uniform; jax.nn.initializers.uniform starts at 0 always.

    Example:
        >>> import jax
        >>> from jaxpress import nnops
        >>> x = nnops.initializers.uniform(-1.0, 1.0)(jax.random.key(0), (99,))
        >>> bool(abs(x).max() <= 1)
        True
    """
    _ordered("uniform", minval=minval, maxval=maxval)
    default = _given(dtype).get("dtype", float)

    def init(key: Any, shape: Sequence[int], dtype: Any = default) -> jax.Array:
        return jax.random.uniform(key, tuple(shape), dtype, minval, maxval)

    return init


def zeros(key: Any = None, shape: Sequence[int] | None = None, dtype: Any = float) -> Any:
    """All zeros.

    Args:
        key: not used.
        shape: of the result; without it, the initializer itself is returned, so that both
            ``zeros`` and ``zeros()`` are initializers.
        dtype: of the result.

    Returns:
        An array, or ``init(key, shape, dtype)``.

    Source: jax.nn.initializers.zeros.

    Example:
        >>> from jaxpress import nnops
        >>> nnops.initializers.zeros()(None, (2,)).tolist()
        [0.0, 0.0]
    """
    return zeros if shape is None else jnp.zeros(tuple(shape), dtype)


def ones(key: Any = None, shape: Sequence[int] | None = None, dtype: Any = float) -> Any:
    """All ones.

    Args:
        key: not used.
        shape: of the result; without it, the initializer itself is returned, so that both
            ``ones`` and ``ones()`` are initializers.
        dtype: of the result.

    Returns:
        An array, or ``init(key, shape, dtype)``.

    Source: jax.nn.initializers.ones.

    Example:
        >>> from jaxpress import nnops
        >>> nnops.initializers.ones(None, (2,)).tolist()
        [1.0, 1.0]
    """
    return ones if shape is None else jnp.ones(tuple(shape), dtype)


def _given(dtype: Any) -> dict[str, Any]:
    return {} if dtype is None else {"dtype": dtype}


def _in_float32(init: Any, default: Any) -> Initializer:
    """``init`` for dtypes that its factorisation knows not: drawn in float32, and rounded."""
    default = float if default is None else default

    def wide(key: Any, shape: Sequence[int], dtype: Any = default) -> jax.Array:
        dtype = jax.dtypes.canonicalize_dtype(dtype)
        return init(key, tuple(shape), jnp.promote_types(dtype, jnp.float32)).astype(dtype)

    return wide


def _moved(init: Any, mean: float) -> Initializer:
    """``init`` with ``mean`` added; itself where that is 0."""
    if mean == 0:
        return init

    def moved(key: Any, shape: Sequence[int], *dtype: Any, **named: Any) -> jax.Array:
        return init(key, shape, *dtype, **named) + mean

    return moved


def _not_negative(name: str, what: str, value: float) -> None:
    if not value >= 0:
        raise OpError(name, f"{what} is {value}", mend="give a number that is not negative")


def _ordered(name: str, **bounds: float) -> None:
    (low, least), (high, most) = bounds.items()
    if not least < most:
        raise OpError(name, f"{low} is {least}, and {high} {most}", mend=f"give {low} < {high}")
