"""Position encodings: rotary (of queries and keys) and sinusoidal (added to embeddings)."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxpress.nnops.define import define
from jaxpress.nnops.eager import eagerly_jitted
from jaxpress.nnops.errors import OpError, OpTypeError
from jaxpress.nnops.opdef import OpDef
from jaxpress.nnops.settings import integer, static_value
from jaxpress.nnops.transforms import general_batch, leading_batch

__all__ = ["rotary_embedding", "rotary_tables", "sinusoidal_encoding"]

BASE = 10000.0


def _rotated(x: Any, interleaved: bool) -> Any:
    """Each pair (a, b) as (-b, a); pairs are neighbours, or half the features apart."""
    if interleaved:
        pairs = x.reshape(*x.shape[:-1], x.shape[-1] // 2, 2)
        return jnp.stack([-pairs[..., 1], pairs[..., 0]], -1).reshape(x.shape)
    half = x.shape[-1] // 2
    return jnp.concatenate([-x[..., half:], x[..., :half]], -1)


def _rotary(x: Any, cos: Any, sin: Any, *, interleaved: bool) -> Any:
    _check_tables(x, cos, sin)
    features = cos.shape[-1]
    part = x if features == x.shape[-1] else x[..., :features]
    dtype = jnp.result_type(x, cos, sin)
    y = part.astype(dtype) * cos + _rotated(part.astype(dtype), interleaved) * sin
    if part is x:
        return y
    return jnp.concatenate([y, x[..., features:].astype(dtype)], -1)


def _check_tables(x: Any, cos: Any, sin: Any) -> None:
    given = {"x": x, "cos": cos, "sin": sin}
    if cos.shape != sin.shape:
        raise OpError("rotary_embedding", "cos and sin differ", given, "make them one shape")
    fits = cos.ndim == x.ndim and all(
        d in (1, f) for d, f in zip(cos.shape[:-1], x.shape[:-1], strict=True)
    )
    if not fits:
        raise OpError(
            "rotary_embedding",
            f"tables of shape {cos.shape} do not fit",
            given,
            "x is (..., T, N, H); cos and sin are (T, R), (..., T, R), or (..., T, N, R) with "
            "dimensions of 1",
        )
    if cos.shape[-1] % 2 or cos.shape[-1] > x.shape[-1]:
        raise OpError(
            "rotary_embedding",
            f"tables have {cos.shape[-1]} features",
            given,
            f"give an even number, {x.shape[-1]} at most; each angle occurs twice",
        )


def _rotary_batch(op: OpDef, args: Any, axes: Any, params: dict[str, Any]) -> Any:
    if "mapped" in params or axes[0] is None:
        return general_batch(op, args, axes, params)
    # Tables stretch along dimensions of 1, so a leading one changes nothing.
    x, *tables = [
        lax.expand_dims(a, (0,)) if axis is None else jnp.moveaxis(a, axis, 0)
        for a, axis in zip(args, axes, strict=True)
    ]
    if (axes[1] is None) != (axes[2] is None):  # both tables are of one shape
        tables = [jnp.broadcast_to(t, (x.shape[0], *t.shape[1:])) for t in tables]
    return op.primitive.bind(x, *tables, **params), 0


_ROTARY = define(
    "rotary_embedding",
    _rotary,
    operands=("x", "cos", "sin"),
    defaults={"interleaved": False},
    batch=_rotary_batch,
)


@eagerly_jitted
def rotary_embedding(x: Any, cos: Any, sin: Any, *, interleaved: bool = False) -> jax.Array:
    """Rotary position embedding: every pair of features is turned by the position's angle.

    ``x * cos + rotated(x) * sin``, where ``rotated`` makes (-b, a) of each pair (a, b)

    Args:
        x: queries or keys, (..., T, N, H).
        cos: cosines of the angles, of shape (T, R), (..., T, R), or (..., T, N, R) with any
            dimension 1; R is even, H at most, and features from R on pass as they are. Each angle
            occurs twice, where its pair is; `rotary_tables` makes them.
        sin: sines of the angles, likewise.
        interleaved: pairs are neighbours (2i, 2i + 1); otherwise (i, i + R / 2), half-split.

    Returns:
        An array of x's shape, in the dtype to which all operands promote.

    Raises:
        OpError: shapes do not fit, or R is odd or greater than H.
        OpTypeError: an operand is no floating-point array.

    Source: Su et al., 2021, arXiv:2104.09864.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxpress import nnops
        >>> cos, sin = nnops.rotary_tables(jnp.arange(2), 4)
        >>> nnops.rotary_embedding(jnp.ones((2, 1, 4)), cos, sin)[0, 0].tolist()
        [1.0, 1.0, 1.0, 1.0]
    """
    x, cos, sin = jnp.asarray(x), jnp.asarray(cos), jnp.asarray(sin)
    given = {"x": x, "cos": cos, "sin": sin}
    if not all(jnp.issubdtype(v.dtype, jnp.floating) for v in given.values()):
        raise OpTypeError("rotary_embedding", "operands are no floats", given, "give floats")
    cos, sin = (_with_heads(table, x) for table in (cos, sin))
    _check_tables(x, cos, sin)
    flag = static_value("rotary_embedding", "interleaved", interleaved, False)
    return _ROTARY.rebind({"x": x, "cos": cos, "sin": sin}, interleaved=flag)


def _with_heads(table: Any, x: Any) -> Any:
    """(T, R) and (..., T, R) as (..., T, 1, R)."""
    if table.ndim == x.ndim or table.ndim not in (2, x.ndim - 1):
        return table
    table = jnp.expand_dims(table, -2)
    return lax.expand_dims(table, tuple(range(x.ndim - table.ndim)))


def _tables(positions: Any, *, features: int, base: float, interleaved: bool) -> Any:
    angles = _angles(positions, features, base)
    if interleaved:
        angles = jnp.repeat(angles, 2, axis=-1)
    else:
        angles = jnp.concatenate([angles, angles], -1)
    return jnp.cos(angles), jnp.sin(angles)


_TABLES = define(
    "rotary_tables",
    _tables,
    operands=("positions",),
    defaults={"features": 0, "base": BASE, "interleaved": False},
    multiple_results=True,
    batch=leading_batch,
)


@eagerly_jitted
def rotary_tables(
    positions: Any, features: int, *, base: float = BASE, interleaved: bool = False
) -> tuple[jax.Array, jax.Array]:
    """Cosines and sines for `rotary_embedding`.

    ``angle[..., i] = position * base ** (-2 i / features)`` for the i-th pair

    Args:
        positions: integers or floats of any shape, such as ``jnp.arange(T)``.
        features: R, how many features are turned; even.
        base: of the wavelengths.
        interleaved: as in `rotary_embedding`.

    Returns:
        ``(cos, sin)``, each ``(*positions.shape, features)``, float32 at least.

    Raises:
        OpError: features is odd or not positive.
        OpTypeError: base is no Python number.

    Source: Su et al., 2021, arXiv:2104.09864.

    Example:
        >>> from jaxpress import nnops
        >>> cos, sin = nnops.rotary_tables([0, 1], 2)
        >>> cos.shape, float(sin[0, 0])
        ((2, 2), 0.0)
    """
    positions = jnp.asarray(positions)
    params = _encoding("rotary_tables", features, base, interleaved, False)
    cos, sin = _TABLES.rebind({"positions": positions}, **params)
    return cos, sin


def _encoding(op: str, features: Any, base: Any, flag: Any, usual: bool) -> dict[str, Any]:
    """The parameters of an op that encodes positions."""
    features = integer(op, "features", features)
    if features <= 0 or features % 2:
        raise OpError(op, f"features is {features}", mend="give an even number of features")
    return {
        "features": features,
        "base": static_value(op, "base", base, BASE),
        "interleaved": static_value(op, "interleaved", flag, usual),
    }


def _angles(positions: Any, features: int, base: float) -> Any:
    dtype = jnp.promote_types(positions.dtype, jnp.float32)
    exponents = jnp.arange(features // 2, dtype=dtype) * (-2.0 / features)
    return positions.astype(dtype)[..., None] * jnp.asarray(base, dtype) ** exponents


def _sinusoidal(positions: Any, *, features: int, base: float, interleaved: bool) -> Any:
    angles = _angles(positions, features, base)
    sin, cos = jnp.sin(angles), jnp.cos(angles)
    if interleaved:
        return jnp.stack([sin, cos], -1).reshape(*positions.shape, features)
    return jnp.concatenate([sin, cos], -1)


_SINUSOIDAL = define(
    "sinusoidal_encoding",
    _sinusoidal,
    operands=("positions",),
    defaults={"features": 0, "base": BASE, "interleaved": True},
    batch=leading_batch,
)


@eagerly_jitted
def sinusoidal_encoding(
    positions: Any, features: int, *, base: float = BASE, interleaved: bool = True
) -> jax.Array:
    """Sinusoidal position encoding, to be added to embeddings.

    ``y[..., 2i] = sin(position * base ** (-2 i / features))``, and ``y[..., 2i + 1]`` the cosine

    Args:
        positions: integers or floats of any shape, such as ``jnp.arange(T)``.
        features: even; how many numbers encode a position.
        base: of the wavelengths, a Python number.
        interleaved: sines and cosines by turns; otherwise all sines, then all cosines.

    Returns:
        ``(*positions.shape, features)``, float32 at least.

    Raises:
        OpError: features is odd or not positive.
        OpTypeError: base is no Python number.

    Source: Vaswani et al., 2017, arXiv:1706.03762.

    Example:
        >>> from jaxpress import nnops
        >>> nnops.sinusoidal_encoding([0, 1], 4)[0].tolist()
        [0.0, 1.0, 0.0, 1.0]
    """
    positions = jnp.asarray(positions)
    params = _encoding("sinusoidal_encoding", features, base, interleaved, True)
    return _SINUSOIDAL.rebind({"positions": positions}, **params)
