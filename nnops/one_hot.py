"""One-hot encoding as a named op."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax import dtypes

from jaxpress.nnops.define import define
from jaxpress.nnops.eager import eagerly_jitted
from jaxpress.nnops.errors import OpError
from jaxpress.nnops.settings import data_type, integer
from jaxpress.nnops.transforms import leading_batch

__all__ = ["one_hot"]


def _reference(x: Any, *, num_classes: Any, dtype: Any, axis: int) -> Any:
    return jax.nn.one_hot(x, num_classes, dtype=dtype, axis=axis)


def _normalize(params: dict[str, Any]) -> dict[str, Any]:
    return {**params, "dtype": jnp.dtype(params["dtype"])}


_ONE_HOT = define(
    "one_hot",
    _reference,
    defaults={"num_classes": 1, "dtype": "float32", "axis": -1},
    normalize=_normalize,
    batch=leading_batch,
)


@eagerly_jitted
def one_hot(x: Any, num_classes: int, *, dtype: Any = None, axis: int = -1) -> jax.Array:
    """One-hot encoding.

    ``y[..., i] = 1 if x[...] == i else 0``

    Args:
        x: class indices, of any shape.
        num_classes: how many classes there are; an index that is none of theirs gives zeros.
        dtype: the result's; JAX's default float if None.
        axis: where in the result the classes run.

    Returns:
        x's shape with one more axis of size ``num_classes``.

    Raises:
        OpError: the axis does not exist, or there are fewer than zero classes.

    Source: jax.nn.one_hot.

    Example:
        >>> from jaxpress import nnops
        >>> nnops.one_hot([2, 0, 5], 3).tolist()
        [[0.0, 0.0, 1.0], [1.0, 0.0, 0.0], [0.0, 0.0, 0.0]]
    """
    x = jnp.asarray(x)
    ndim = x.ndim + 1
    at = integer("one_hot", "axis", axis)
    if not -ndim <= at < ndim:
        raise OpError("one_hot", f"axis is {axis}", {"x": x}, f"give an axis of the {ndim} axes")
    if not jax.export.is_symbolic_dim(num_classes):
        num_classes = integer("one_hot", "num_classes", num_classes)
        if num_classes < 0:
            raise OpError("one_hot", f"num_classes is {num_classes}", {"x": x}, "give 0 or more")
    dtype = dtypes.canonicalize_dtype(data_type("one_hot", "dtype", dtype) or float)
    return _ONE_HOT.rebind(
        {"x": x}, num_classes=num_classes, dtype=dtype, axis=at - ndim if at >= 0 else at
    )
