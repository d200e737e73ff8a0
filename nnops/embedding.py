"""Embedding lookup, and its transpose ``attend``, as named ops.

What happens to ids that are outside of the table is a parameter, so that the choice of each
library has a name.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.core import ShapedArray

from jaxpress.nnops.define import define
from jaxpress.nnops.dense import fold_leading
from jaxpress.nnops.eager import eagerly_jitted
from jaxpress.nnops.errors import OpError, OpTypeError
from jaxpress.nnops.fused import as_arrays, canonical_precision, define_fused, fused_call
from jaxpress.nnops.opdef import OpDef
from jaxpress.nnops.settings import static_value
from jaxpress.nnops.transforms import general_batch

__all__ = ["attend", "embedding"]

_MODES = {
    "fill": lax.GatherScatterMode.FILL_OR_DROP,
    "clip": lax.GatherScatterMode.CLIP,
    "promise_in_bounds": lax.GatherScatterMode.PROMISE_IN_BOUNDS,
    "wrap": lax.GatherScatterMode.PROMISE_IN_BOUNDS,
    "one_hot": None,
}
# Where negative ids count from the end of the table, as jax.numpy.take has it.
_FROM_END = {"fill": True, "promise_in_bounds": True}


def _check(ids: Any, table: Any) -> None:
    operands = {"ids": ids, "table": table}
    if not jnp.issubdtype(ids.dtype, jnp.integer):
        raise OpTypeError(
            "embedding", f"ids are {ids.dtype}", operands, "give integers: ids.astype(jnp.int32)"
        )
    if table.ndim < 2:
        raise OpError(
            "embedding",
            f"table has {table.ndim} axes",
            operands,
            "give a table of shape (vocabulary, features)",
        )


def _reference(
    ids: Any,
    table: Any,
    *,
    mode: str,
    fill_value: float | None,
    from_end: bool,
    precision: Any,
) -> Any:
    _check(ids, table)
    rows, features = table.shape[0], table.shape[1:]
    if mode == "one_hot":
        hot = jax.nn.one_hot(ids, rows, dtype=table.dtype)
        # As ``hot @ table``, whatever precision is configured when this is traced.
        return lax.dot_general(
            hot,
            table,
            (((ids.ndim,), (0,)), ((), ())),
            precision=lax.Precision.DEFAULT if precision is None else precision,
        )
    if rows == 0:
        if ids.size:
            raise OpError(
                "embedding",
                "the table is empty",
                {"ids": ids, "table": table},
                "give a table of at least one row",
            )
        return jnp.zeros((*ids.shape, *features), table.dtype)
    if jnp.iinfo(ids.dtype).bits < 32:
        ids = lax.convert_element_type(ids, jnp.int32)
    if mode == "wrap":
        ids = jnp.mod(ids, jnp.asarray(rows, ids.dtype))
    elif from_end and jnp.issubdtype(ids.dtype, jnp.signedinteger):
        ids = jnp.where(ids < 0, ids + jnp.asarray(rows, ids.dtype), ids)
    sharding = jax.typeof(ids).sharding
    if not sharding.mesh.empty and sharding.mesh.are_all_axes_explicit:
        # There the type of a gather's result is for the caller to say.
        spec = (*sharding.spec, *jax.typeof(table).sharding.spec[1:])
        return table.at[ids].get(
            mode=_MODES[mode],
            fill_value=fill_value,
            wrap_negative_indices=False,
            out_sharding=jax.sharding.PartitionSpec(*spec),
        )
    return lax.gather(
        table,
        lax.expand_dims(ids, [ids.ndim]),
        lax.GatherDimensionNumbers(
            offset_dims=tuple(range(ids.ndim, ids.ndim + len(features))),
            collapsed_slice_dims=(0,),
            start_index_map=(0,),
        ),
        slice_sizes=(1, *features),
        mode=_MODES[mode],
        fill_value=fill_value,
    )


def _normalize(params: dict[str, Any]) -> dict[str, Any]:
    mode, fill_value, from_end = params["mode"], params["fill_value"], params["from_end"]
    if mode not in _MODES:
        raise OpError("embedding", f"mode is {mode!r}", mend=f"give one of {sorted(_MODES)}")
    if fill_value is not None and mode != "fill":
        raise OpError(
            "embedding",
            f"mode {mode!r} fills nothing in",
            mend='give mode="fill", or no fill_value',
        )
    if fill_value is not None:
        fill_value = static_value("embedding", "fill_value", fill_value, 0.0)
        # NaN is what None means for floats; and it would not be equal to itself.
        fill_value = None if math.isnan(fill_value) else fill_value
    if from_end is None or mode in ("wrap", "one_hot"):
        from_end = _FROM_END.get(mode, False)
    precision = canonical_precision(params["precision"], "embedding")
    return {
        "mode": mode,
        "fill_value": fill_value,
        "from_end": static_value("embedding", "from_end", from_end, False),
        "precision": precision if mode == "one_hot" else None,
    }


def _infer(avals: Any, params: Mapping[str, Any]) -> Any:
    del params
    ids, table = avals
    _check(ids, table)
    if table.shape[0] == 0 or not jnp.issubdtype(table.dtype, jnp.floating):
        return None
    return ShapedArray((*ids.shape, *table.shape[1:]), table.dtype)


def _batch(op: OpDef, args: Any, axes: Any, params: dict[str, Any]) -> Any:
    (ids, table), (at_ids, at_table) = args, axes
    if at_table is not None or "mapped" in params:
        return general_batch(op, args, axes, params)
    return op.primitive.bind(jnp.moveaxis(ids, at_ids, 0), table, **params), 0


_EMBEDDING = define(
    "embedding",
    _reference,
    operands=("ids", "table"),
    defaults={"mode": "fill", "fill_value": None, "from_end": None, "precision": None},
    normalize=_normalize,
    batch=_batch,
    infer=_infer,
)


@eagerly_jitted
def embedding(
    ids: Any,
    table: Any,
    *,
    mode: str = "fill",
    fill_value: float | None = None,
    from_end: bool | None = None,
    precision: Any = None,
) -> jax.Array:
    """Embedding lookup: a row of a table for each id.

    ``table[ids]``

    What happens to an id outside of the table:

    ======================= ================================================================
    ``mode``                a row that does not exist
    ======================= ================================================================
    ``"fill"``              is ``fill_value``, NaN if that is None; it has no gradient
    ``"clip"``              is the nearest row, which gets the gradient
    ``"wrap"``              is the row ``id % rows``
    ``"promise_in_bounds"`` is the nearest row as things are, without a gradient; nobody
                            should rely on it
    ``"one_hot"``           is zero: the product of ``one_hot(ids)`` with the table, so a
                            NaN anywhere in the table is a NaN everywhere in the result
    ======================= ================================================================

    Flax (Linen and NNX) and Keras use ``"fill"``, as jax.numpy.take does; Equinox and Haiku index
    the table, which is ``"promise_in_bounds"``, and Haiku has ``"one_hot"`` too.

    Args:
        ids: integers of any shape.
        table: (rows, features), or (rows, ...) for features of several axes.
        mode: see above.
        fill_value: what ``"fill"`` fills in; None is NaN for floats, and for integers the least.
        from_end: whether ids from -rows to -1 count from the end of the table; by default so for
            ``"fill"`` and ``"promise_in_bounds"``, as jax.numpy has it.
        precision: of the product that ``"one_hot"`` is, as in jax.lax.dot_general.

    Returns:
        (..., features), ids' shape first, of the table's dtype.

    Raises:
        OpError: the table has fewer than two axes, or no rows; the mode is unknown.
        OpTypeError: ids are no integers.

    Source: jax.numpy.take, flax.linen.Embed, keras.layers.Embedding, equinox.nn.Embedding,
    haiku.Embed.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxpress import nnops
        >>> table = jnp.array([[1.0, 2.0], [3.0, 4.0]])
        >>> nnops.embedding(jnp.array([1, 0, -1]), table).tolist()
        [[3.0, 4.0], [1.0, 2.0], [3.0, 4.0]]
        >>> nnops.embedding(jnp.array([5]), table).tolist()
        [[nan, nan]]
    """
    if ids is None or table is None:
        raise OpError("embedding", "ids or table is missing", mend="give both")
    ids, table = jnp.asarray(ids), jnp.asarray(table)
    return _EMBEDDING.rebind(
        {"ids": ids, "table": table},
        mode=mode,
        fill_value=fill_value,
        from_end=from_end,
        precision=precision,
    )


def _attend(x: Any, w: Any, *, precision: Any, preferred_element_type: Any) -> Any:
    return lax.dot_general(
        x,
        w,
        (((x.ndim - 1,), (1,)), ((), ())),
        precision=precision,
        preferred_element_type=preferred_element_type,
    )


def _check_attend(x: Any, w: Any, params: Mapping[str, Any]) -> None:
    del params
    if x.ndim < 1 or w.ndim != 2 or x.shape[-1] != w.shape[1]:
        raise OpError(
            "attend",
            f"x has shape {x.shape} and the table {w.shape}",
            {"x": x, "table": w},
            "x is (..., features) and the table is (rows, features), as for embedding",
        )


_ATTEND = define_fused(
    "attend",
    _attend,
    defaults={"precision": None, "preferred_element_type": None},
    kernels=(),
    normalize=lambda params: params,
    check=_check_attend,
    features_axis=lambda params: -1,
    fold=fold_leading,
)


@eagerly_jitted
def attend(
    x: Any,
    table: Any,
    b: Any = None,
    *,
    activation: Any = None,
    precision: Any = None,
    preferred_element_type: Any = None,
) -> jax.Array:
    """Scores of every row of an embedding table: the tied output layer of a language model.

    ``activation(x @ table.T + b)``

    Args:
        x: (..., features), any leading dimensions.
        table: (rows, features), as `embedding` takes it.
        b: (rows,), or None.
        activation: None, a name such as ``"tanh"``, or a name with parameters.
        precision: as in jax.lax.dot_general.
        preferred_element_type: dtype of the product, as in jax.lax.dot_general.

    Returns:
        (..., rows). Operands of different dtypes are promoted as jax.numpy does.

    Raises:
        OpError: shapes do not fit.
        OpTypeError: the activation is of no known kind.

    Source: flax.linen.Embed.attend (Press and Wolf, 2016, arXiv:1608.05859).

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxpress import nnops
        >>> table = jnp.array([[1.0, 2.0], [3.0, 4.0], [0.0, 1.0]])
        >>> nnops.attend(jnp.array([1.0, 1.0]), table).tolist()
        [3.0, 7.0, 1.0]
    """
    operands = as_arrays("attend", x, table, b, None)
    params = {
        "activation": activation,
        "precision": precision,
        "preferred_element_type": preferred_element_type,
    }
    return fused_call(_ATTEND, operands, params)
