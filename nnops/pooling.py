"""Max, min and average pooling as named ops, over any axes.

The primitives hold windows of full rank, one entry for each axis of x, so they say exactly what
``lax.reduce_window`` does in any layout: ``max_pool`` is its maximum, ``min_pool`` its minimum,
``avg_pool`` its sum divided by the count.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxpress.nnops.conv_geometry import explicit_padding, per_dimension
from jaxpress.nnops.define import define
from jaxpress.nnops.eager import eagerly_jitted
from jaxpress.nnops.errors import OpError, OpTypeError
from jaxpress.nnops.kernels import pool_windows
from jaxpress.nnops.kernels.windows import shifted_slices, window_positions
from jaxpress.nnops.opdef import Kernel, OpDef
from jaxpress.nnops.settings import static_value
from jaxpress.nnops.transforms import general_jvp, is_zero

__all__ = ["avg_pool", "max_pool", "min_pool"]

Reduce = Callable[..., Any]


def _reduce_window(x: Any, unit: Any, combine: Any, params: Any) -> Any:
    return lax.reduce_window(
        x,
        unit,
        combine,
        params["window_shape"],
        params["strides"],
        params["padding"],
        window_dilation=params["dilation"],
    )


def _max_with(reduce: Reduce) -> Callable[..., Any]:
    def max_pool(x: Any, **params: Any) -> Any:
        _check("max_pool", x, params)
        return reduce(x, _limit("max_pool", x, least=True), lax.max, params)

    return max_pool


def _min_pool(x: Any, **params: Any) -> Any:
    _check("min_pool", x, params)
    return _reduce_window(x, _limit("min_pool", x, least=False), lax.min, params)


def _limit(op: str, x: Any, *, least: bool) -> Any:
    """The least or largest value, as NumPy's: lax must see it to know the reduction."""
    if jnp.issubdtype(x.dtype, jnp.floating):
        return np.array(-np.inf if least else np.inf, x.dtype)
    if x.dtype == jnp.bool_:
        return np.array(not least)
    if not jnp.issubdtype(x.dtype, jnp.integer):
        raise OpTypeError(op, f"x is {x.dtype}", {"x": x}, "give numbers with an order")
    info = jnp.iinfo(x.dtype)
    return np.array(info.min if least else info.max, x.dtype)


def _avg_with(reduce: Reduce) -> Callable[..., Any]:
    def avg_pool(x: Any, *, count_include_pad: bool, **params: Any) -> Any:
        _check("avg_pool", x, params)
        total_type = x.dtype
        if reduce is not _reduce_window and jnp.issubdtype(x.dtype, jnp.floating):
            total_type = jnp.promote_types(x.dtype, jnp.float32)
        total = reduce(x.astype(total_type), np.zeros((), total_type), lax.add, params)
        if count_include_pad or all(p == (0, 0) for p in params["padding"]):
            return (total.astype(x.dtype) if total_type != x.dtype else total) / math.prod(
                params["window_shape"]
            )
        return total.astype(x.dtype) / _counts(x, params)

    return avg_pool


def _counts(x: Any, params: Any) -> Any:
    """How many entries of x each window holds: the product of what it holds along each axis."""
    dtype = x.dtype if jnp.issubdtype(x.dtype, jnp.inexact) else jnp.float32
    counts: Any = np.ones((), dtype)
    for axis in range(x.ndim):
        pair = params["padding"][axis]
        if pair == (0, 0):
            counts = counts * params["window_shape"][axis]
            continue
        along = lax.reduce_window(
            jnp.ones(x.shape[axis], jnp.float32),
            np.zeros((), np.float32),
            lax.add,
            (params["window_shape"][axis],),
            (params["strides"][axis],),
            (pair,),
            window_dilation=(params["dilation"][axis],),
        )
        counts = counts * lax.expand_dims(along, [i for i in range(x.ndim) if i != axis])
    return jnp.asarray(counts, dtype)


def _check(op: str, x: Any, params: Any) -> None:
    lengths = {k: len(params[k]) for k in ("window_shape", "strides", "padding", "dilation")}
    if any(n != x.ndim for n in lengths.values()):
        raise OpError(
            op,
            f"x has {x.ndim} axes, and the parameters have {lengths}",
            {"x": x},
            "give one entry for each axis of x",
        )


def _batch(op: OpDef, args: Any, axes: Any, params: dict[str, Any]) -> Any:
    params = {
        **params,
        "window_shape": (1, *params["window_shape"]),
        "strides": (1, *params["strides"]),
        "padding": ((0, 0), *params["padding"]),
        "dilation": (1, *params["dilation"]),
    }
    return op.primitive.bind(jnp.moveaxis(args[0], axes[0], 0), **params), 0


def _jvp(wins: Reduce, op: OpDef, primals: Any, tangents: Any, params: dict[str, Any]) -> Any:
    """The general rule; and where taps are apart, of which JAX has no gradient, tap by tap.

    As XLA has it where they are not: an entry stays chosen while it wins against the next, so that
    of equals the first counts.
    """
    (x,), (dx,) = primals, tangents
    inexact = jnp.issubdtype(x.dtype, jnp.inexact)
    if is_zero(dx) or not inexact or all(d == 1 for d in params["dilation"]):
        return general_jvp(op, primals, tangents, params)
    window, strides = params["window_shape"], params["strides"]
    dilation, pads = params["dilation"], params["padding"]
    counts = [
        window_positions(*of) for of in zip(x.shape, window, strides, dilation, pads, strict=True)
    ]
    unit = _limit(op.name, x, least=wins is lax.ge)
    config = [(low, high, 0) for low, high in pads]
    seen, d_seen = (
        list(shifted_slices(lax.pad(v, fill, config), window, strides, dilation, counts))
        for v, fill in ((x, unit), (dx, np.zeros((), dx.dtype)))
    )
    best, tangent = seen[0], d_seen[0]
    for value, d_value in zip(seen[1:], d_seen[1:], strict=True):
        stays = wins(best, value)
        best = lax.select(stays, best, value)
        tangent = lax.select(stays, tangent, d_value)
    return op.primitive.bind(x, **params), tangent


def _normalize(params: dict[str, Any]) -> dict[str, Any]:
    return {
        **params,
        "window_shape": tuple(params["window_shape"]),
        "strides": tuple(params["strides"]),
        "padding": tuple((low, high) for low, high in params["padding"]),
        "dilation": tuple(params["dilation"]),
    }


def _kernels(pool_with: Callable[[Reduce], Callable[..., Any]]) -> list[Kernel]:
    return [
        Kernel("shifted", pool_with(pool_windows.shifted), pool_windows.shifted_applies),
        Kernel("separable", pool_with(pool_windows.separable), pool_windows.separable_applies),
    ]


_MAX_POOL = define(
    "max_pool",
    _max_with(_reduce_window),
    kernels=_kernels(_max_with),
    normalize=_normalize,
    jvp=partial(_jvp, lax.ge),
    batch=_batch,
)
_MIN_POOL = define(
    "min_pool", _min_pool, normalize=_normalize, jvp=partial(_jvp, lax.le), batch=_batch
)
_AVG_POOL = define(
    "avg_pool",
    _avg_with(_reduce_window),
    defaults={"count_include_pad": True},
    kernels=_kernels(_avg_with),
    normalize=_normalize,
    batch=_batch,
    linear=True,
)


def _full_rank(
    op: str, x: Any, window_shape: Any, strides: Any, padding: Any, dilation: Any
) -> dict[str, Any]:
    """The parameters as the primitive holds them, one entry for each axis of x."""
    spatial = x.ndim - 2
    given = len(tuple(window_shape)) if isinstance(window_shape, Iterable) else spatial
    if given not in (spatial, x.ndim) or given < 1:
        raise OpError(
            op,
            f"window_shape is {window_shape!r}, and x has {x.ndim} axes",
            {"x": x},
            "give one size for each spatial axis of x (batch, spatial..., channels), "
            "or one for every axis",
        )
    window = per_dimension("window_shape", window_shape, given, op)
    strides = per_dimension("strides", 1 if strides is None else strides, given, op)
    dilation = per_dimension("dilation", dilation, given, op)
    whole = given == x.ndim
    if isinstance(padding, str):
        if padding.upper() not in ("SAME", "SAME_LOWER", "VALID"):
            raise OpError(op, f"padding is {padding!r}", {"x": x}, "give SAME, VALID or pairs")
        sizes = x.shape if whole else x.shape[1:-1]
        extents = [(k - 1) * d + 1 for k, d in zip(window, dilation, strict=True)]
        pads: Any = lax.padtype_to_pads(sizes, extents, strides, padding.upper())
    else:
        pads = explicit_padding(padding, given, op)
    if not whole:
        window, strides, dilation = ((1, *v, 1) for v in (window, strides, dilation))
        pads = ((0, 0), *pads, (0, 0))
    return {"window_shape": window, "strides": strides, "padding": pads, "dilation": dilation}


@eagerly_jitted
def max_pool(
    x: Any,
    window_shape: int | Sequence[int],
    strides: int | Sequence[int] | None = None,
    padding: str | int | Sequence[Any] = "VALID",
    *,
    dilation: Any = 1,
) -> jax.Array:
    """Maximum over a sliding window.

    ``y[i] = max over taps k of x[i * strides + k * dilation]``

    Args:
        x: (batch, spatial..., channels); or any shape, with a window for every axis.
        window_shape: an int for all spatial axes, one int for each of them, or one for every axis
            of x (then strides, padding and dilation run along every axis too, so that any layout
            can be said: ``(1, 1, 3, 3)`` pools channels first).
        strides: None (1, as in Flax), an int, or one for each axis that window_shape names.
        padding: ``"SAME"``, ``"SAME_LOWER"``, ``"VALID"``, an int, or for each axis an int or a
            pair. Padding never wins: it is the least value of the dtype.
        dilation: distance of neighbouring taps; an int, or one for each axis.

    Returns:
        An array of x's rank and dtype.

    Raises:
        OpError: the parameters do not fit x's rank.
        OpTypeError: a parameter is no integer.

    Source: jax.lax.reduce_window with jax.lax.max, its gradient included; with dilation, of which
    JAX has no gradient, that of torch.nn.functional.max_pool2d.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxpress import nnops
        >>> nnops.max_pool(jnp.ones((1, 8, 8, 3)), 2, 2).shape
        (1, 4, 4, 3)
    """
    x = jnp.asarray(x)
    params = _full_rank("max_pool", x, window_shape, strides, padding, dilation)
    return _MAX_POOL.rebind({"x": x}, **params)


@eagerly_jitted
def min_pool(
    x: Any,
    window_shape: int | Sequence[int],
    strides: int | Sequence[int] | None = None,
    padding: str | int | Sequence[Any] = "VALID",
    *,
    dilation: Any = 1,
) -> jax.Array:
    """Minimum over a sliding window.

    ``y[i] = min over taps k of x[i * strides + k * dilation]``

    Args:
        x: (batch, spatial..., channels); or any shape, with a window for every axis.
        window_shape: as in max_pool.
        strides: as in max_pool.
        padding: as in max_pool. Padding never wins: it is the largest value of the dtype.
        dilation: distance of neighbouring taps; an int, or one for each axis.

    Returns:
        An array of x's rank and dtype.

    Raises:
        OpError: the parameters do not fit x's rank.
        OpTypeError: a parameter is no integer.

    Source: jax.lax.reduce_window with jax.lax.min, its gradient included; with dilation, as in
    max_pool.

    Example:
        >>> from jaxpress import nnops
        >>> nnops.min_pool([[[3.0], [1.0], [2.0], [5.0]]], 2, 2).tolist()
        [[[1.0], [2.0]]]
    """
    x = jnp.asarray(x)
    params = _full_rank("min_pool", x, window_shape, strides, padding, dilation)
    return _MIN_POOL.rebind({"x": x}, **params)


@eagerly_jitted
def avg_pool(
    x: Any,
    window_shape: int | Sequence[int],
    strides: int | Sequence[int] | None = None,
    padding: str | int | Sequence[Any] = "VALID",
    *,
    count_include_pad: bool = True,
    dilation: Any = 1,
) -> jax.Array:
    """Mean over a sliding window.

    ``y[i] = sum over taps k of x[i * strides + k * dilation] / count``

    Args:
        x: (batch, spatial..., channels); or any shape, with a window for every axis.
        window_shape: an int for all spatial axes, one int for each of them, or one for every axis
            of x (then strides, padding and dilation run along every axis too).
        strides: None (1, as in Flax), an int, or one for each axis that window_shape names.
        padding: ``"SAME"``, ``"SAME_LOWER"``, ``"VALID"``, an int, or for each axis an int or a
            pair; with zeros.
        count_include_pad: count is the window's size; otherwise the entries of x in the window.
        dilation: distance of neighbouring taps; an int, or one for each axis.

    Returns:
        An array of x's rank and dtype; of integers, floats.

    Raises:
        OpError: the parameters do not fit x's rank.
        OpTypeError: a parameter is no integer.

    Source: jax.lax.reduce_window with jax.lax.add, divided by the count.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxpress import nnops
        >>> nnops.avg_pool(jnp.ones((1, 8, 8, 3)), 3, padding="SAME").shape
        (1, 8, 8, 3)
    """
    x = jnp.asarray(x)
    params = _full_rank("avg_pool", x, window_shape, strides, padding, dilation)
    flag = static_value("avg_pool", "count_include_pad", count_include_pad, True)
    return _AVG_POOL.rebind({"x": x}, count_include_pad=flag, **params)
