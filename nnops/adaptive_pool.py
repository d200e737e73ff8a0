"""Average pooling to a given size, as a named op."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxpress.nnops.define import define
from jaxpress.nnops.eager import eagerly_jitted
from jaxpress.nnops.errors import OpError, OpTypeError
from jaxpress.nnops.opdef import OpDef

__all__ = ["adaptive_avg_pool"]

WINDOWS = ("overlapping", "split")


def _edges(size: int, out: int, windows: str) -> tuple[np.ndarray, np.ndarray]:
    """First entry of each window, and how many entries it has."""
    i = np.arange(out)
    if windows == "overlapping":
        start, stop = i * size // out, -(-(i + 1) * size // out)
    else:  # the first few are longer by one, as numpy.array_split has it
        short, longer = divmod(size, out)
        start = i * short + np.minimum(i, longer)
        stop = start + short + (i < longer)
    return start, stop - start


def _adaptive(x: Any, *, output_shape: tuple[int | None, ...], windows: str) -> Any:
    counts: Any = np.ones((), np.float32)
    kind = x.dtype if jnp.issubdtype(x.dtype, jnp.inexact) else jnp.float32
    total = x.astype(jnp.promote_types(kind, jnp.float32))
    for axis, out in enumerate(output_shape):
        if out is None:
            continue
        size = x.shape[axis]
        along = [1] * x.ndim
        along[axis] = out
        start, count = _edges(size, out, windows)
        counts = counts * count.reshape(along).astype(np.float32)
        if size % out == 0:
            shape = (*total.shape[:axis], out, size // out, *total.shape[axis + 1 :])
            total = total.reshape(shape).sum(axis + 1)
            continue
        # Windows of the longest, with what is beyond each left out.
        taps = np.arange(count.max())
        at = np.minimum(start[:, None] + taps, size - 1)
        inside = (taps < count[:, None]).reshape(*along[: axis + 1], -1, *along[axis + 1 :])
        total = jnp.sum(jnp.take(total, at, axis), axis + 1, where=inside)
    return (total / counts.astype(total.dtype)).astype(kind)


def _batch(op: OpDef, args: Any, axes: Any, params: dict[str, Any]) -> Any:
    params = {**params, "output_shape": (None, *params["output_shape"])}
    return op.primitive.bind(jnp.moveaxis(args[0], axes[0], 0), **params), 0


_ADAPTIVE = define(
    "adaptive_avg_pool",
    _adaptive,
    defaults={"output_shape": (), "windows": WINDOWS[0]},
    normalize=lambda params: {**params, "output_shape": tuple(params["output_shape"])},
    batch=_batch,
    linear=True,
)


@eagerly_jitted
def adaptive_avg_pool(
    x: Any, output_shape: int | Sequence[int | None], *, windows: str = "overlapping"
) -> jax.Array:
    """Mean over windows that are chosen so that the result has a given size.

    ``y[i] = mean(x[floor(i * n / m) : ceil((i + 1) * n / m)])``, from n entries to m

    Args:
        x: (batch, spatial..., channels); or any shape, with an output size for every axis.
        output_shape: an int for all spatial axes, one int for each of them, or one for every axis
            of x, None for axes that stay as they are.
        windows: ``"overlapping"``, the formula above, as torch has it; or ``"split"``, as Equinox
            has it: x is cut like numpy.array_split does. Both are the same where m divides n.

    Returns:
        x's rank, with the given sizes, in x's dtype; of integers, floats. Sums are in float32 at
        least.

    Raises:
        OpError: the sizes do not fit x, or are larger than x's, or windows is neither.
        OpTypeError: a size is no integer.

    Source: torch.nn.functional.adaptive_avg_pool2d, equinox.nn.AdaptiveAvgPool2d.

    Example:
        >>> from jaxpress import nnops
        >>> x = [[[1.0], [2.0], [3.0], [4.0], [5.0]]]
        >>> nnops.adaptive_avg_pool(x, 2).tolist()
        [[[2.0], [4.0]]]
        >>> nnops.adaptive_avg_pool(x, 2, windows="split").tolist()
        [[[2.0], [4.5]]]
    """
    x = jnp.asarray(x)
    spatial = x.ndim - 2
    several = isinstance(output_shape, Iterable)
    given = tuple(output_shape) if several else (output_shape,) * max(spatial, 0)
    mend = (
        "give one size for each spatial axis of x (batch, spatial..., channels), or for each axis"
    )
    if len(given) not in (spatial, x.ndim) or not given:
        raise OpError("adaptive_avg_pool", f"output_shape is {output_shape!r}", {"x": x}, mend)
    try:
        sizes = [None if n is None else operator.index(n) for n in given]
    except TypeError as error:
        what = f"output_shape is {output_shape!r}"
        raise OpTypeError("adaptive_avg_pool", what, {"x": x}, "give integers, or None") from error
    if len(sizes) == spatial:
        sizes = [None, *sizes, None]
    for n, m in zip(x.shape, sizes, strict=True):
        if m is not None and not 0 < m <= n:
            raise OpError(
                "adaptive_avg_pool",
                f"an axis of {n} entries cannot become one of {m}",
                {"x": x},
                "give sizes from 1 to x's",
            )
    if windows not in WINDOWS:
        raise OpError("adaptive_avg_pool", f"windows is {windows!r}", mend=f"one of {WINDOWS}")
    return _ADAPTIVE.rebind({"x": x}, output_shape=tuple(sizes), windows=windows)
