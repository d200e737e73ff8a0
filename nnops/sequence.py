"""Sequences of different lengths, as named ops: their mask, reversal and shift."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.core import Tracer

from jaxpress.nnops.define import define
from jaxpress.nnops.eager import eagerly_jitted
from jaxpress.nnops.errors import OpError, OpTypeError, explained
from jaxpress.nnops.opdef import OpDef
from jaxpress.nnops.settings import integer, static_value
from jaxpress.nnops.transforms import general_batch

__all__ = ["reverse_sequence", "sequence_mask", "shift"]


def _positions(dtype: Any, shape: Any, axis: int) -> Any:
    """Index along an axis, in a dtype that holds every position."""
    return lax.broadcasted_iota(jnp.promote_types(dtype, jnp.int32), shape, axis)


def _mask(lengths: Any, *, maxlen: Any) -> Any:
    index = _positions(lengths.dtype, (*lengths.shape, maxlen), lengths.ndim)
    return index < lengths[..., None].astype(index.dtype)


def _mask_batch(op: OpDef, args: Any, axes: Any, params: dict[str, Any]) -> Any:
    return op.primitive.bind(jnp.moveaxis(args[0], axes[0], 0), **params), 0


_SEQUENCE_MASK = define(
    "sequence_mask", _mask, operands=("lengths",), defaults={"maxlen": 0}, batch=_mask_batch
)


@explained
def sequence_mask(lengths: Any, maxlen: int | None = None) -> jax.Array:
    """Mask of the positions that belong to sequences of these lengths.

    ``mask[..., i] = i < lengths[...]``

    Args:
        lengths: integers of any shape.
        maxlen: how many positions; the greatest length if left out, which must be known then.

    Returns:
        bool ``(*lengths.shape, maxlen)``.

    Raises:
        OpError: maxlen is negative, or left out for lengths that are traced.
        OpTypeError: lengths are no integers.

    Source: tf.sequence_mask.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxpress import nnops
        >>> nnops.sequence_mask(jnp.array([1, 3])).astype(int).tolist()
        [[1, 0, 0], [1, 1, 1]]
    """
    return _mask_up_to(lengths, _greatest(lengths) if maxlen is None else maxlen)


def _greatest(lengths: Any) -> int:
    lengths = _as_lengths("sequence_mask", lengths, {})
    if isinstance(lengths, Tracer):
        raise OpError(
            "sequence_mask",
            "maxlen is left out, and lengths are traced",
            {"lengths": lengths},
            "give maxlen, a Python number: shapes must be known",
        )
    return int(np.max(np.asarray(lengths), initial=0))


@eagerly_jitted
def _mask_up_to(lengths: Any, maxlen: int) -> jax.Array:
    lengths = _as_lengths("sequence_mask", lengths, {})
    if isinstance(maxlen, float | str) or maxlen < 0:
        raise OpError("sequence_mask", f"maxlen is {maxlen!r}", mend="give an integer, 0 or more")
    return _SEQUENCE_MASK.rebind({"lengths": lengths}, maxlen=maxlen)


def _as_lengths(op: str, lengths: Any, others: dict[str, Any]) -> Any:
    lengths = jnp.asarray(lengths)
    if not jnp.issubdtype(lengths.dtype, jnp.integer):
        raise OpTypeError(
            op,
            f"lengths have dtype {lengths.dtype}",
            {**others, "lengths": lengths},
            "give integers",
        )
    return lengths


def _reverse(x: Any, lengths: Any, *, time_axis: int, batch_axis: int) -> Any:
    moved = jnp.moveaxis(x, (batch_axis, time_axis), (0, 1))
    index = _positions(lengths.dtype, moved.shape[:2], 1)
    length = jnp.minimum(lengths.astype(index.dtype), moved.shape[1])[:, None]
    # A sum, not a choice between the two, whose types differ where the batch is sharded.
    source = index + jnp.where(index < length, length - 1 - 2 * index, 0)
    source = source.reshape(*source.shape, *[1] * (moved.ndim - 2))
    out = jnp.take_along_axis(moved, source, axis=1, mode="promise_in_bounds")
    return jnp.moveaxis(out, (0, 1), (batch_axis, time_axis))


_REVERSE = define(
    "reverse_sequence",
    _reverse,
    operands=("x", "lengths"),
    defaults={"time_axis": -1, "batch_axis": -2},
)


@eagerly_jitted
def reverse_sequence(x: Any, lengths: Any, *, time_axis: int = 1, batch_axis: int = 0) -> jax.Array:
    """Every sequence of a batch from back to front; padding behind it stays where it is.

    ``y[b, i] = x[b, lengths[b] - 1 - i]`` for ``i < lengths[b]``, ``x[b, i]`` from there on

    Args:
        x: an array with a batch axis and a time axis.
        lengths: integers (B,); those beyond the time axis's size mean all of it.
        time_axis: along which sequences run.
        batch_axis: along which they lie side by side.

    Returns:
        An array of x's shape and dtype.

    Raises:
        OpError: an axis does not exist, both are one, or lengths are not (B,).
        OpTypeError: lengths are no integers.

    Source: tf.reverse_sequence; flax.linen.recurrent.flip_sequences.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxpress import nnops
        >>> nnops.reverse_sequence(jnp.array([[1, 2, 3, 0]]), jnp.array([3])).tolist()
        [[3, 2, 1, 0]]
    """
    x = jnp.asarray(x)
    lengths = _as_lengths("reverse_sequence", lengths, {"x": x})
    given = {"x": x, "lengths": lengths}
    axes = []
    for name, value in (("time_axis", time_axis), ("batch_axis", batch_axis)):
        axis = integer("reverse_sequence", name, value)
        if not -x.ndim <= axis < x.ndim:
            raise OpError("reverse_sequence", f"there is no axis {axis}", given, "name another")
        axes.append(axis % x.ndim - x.ndim)
    time, batch = axes
    if time == batch:
        raise OpError("reverse_sequence", "time and batch are one axis", given, "name two axes")
    if lengths.shape != (x.shape[batch],):
        raise OpError(
            "reverse_sequence",
            f"lengths have shape {lengths.shape}",
            given,
            f"give one for each of {x.shape[batch]} sequences",
        )
    return _REVERSE.rebind(given, time_axis=time, batch_axis=batch)


def _shift(x: Any, *, steps: int, axis: int, fill: Any) -> Any:
    config = [(0, 0, 0)] * x.ndim
    config[axis] = (steps, -steps, 0)
    return lax.pad(x, jnp.asarray(fill, x.dtype), config)


def _shift_batch(op: OpDef, args: Any, axes: Any, params: dict[str, Any]) -> Any:
    if "mapped" in params:
        return general_batch(op, args, axes, params)
    # The axis counts from the end, so a leading dimension changes nothing.
    return op.primitive.bind(jnp.moveaxis(args[0], axes[0], 0), **params), 0


_SHIFT = define("shift", _shift, defaults={"steps": 1, "axis": -1, "fill": 0}, batch=_shift_batch)


@eagerly_jitted
def shift(x: Any, steps: int = 1, *, axis: int = 1, fill: float = 0) -> jax.Array:
    """The array moved along an axis, with ``fill`` where nothing comes from.

    ``y[..., i] = x[..., i - steps]``, ``fill`` where there is no such entry

    With one step, what a decoder is given: at each position the token before it.

    Args:
        x: an array with at least one axis.
        steps: how far, an integer; negative moves towards the front.
        axis: along which.
        fill: a Python number, such as the start token's id.

    Returns:
        An array of x's shape and dtype.

    Raises:
        OpError: the axis does not exist.
        OpTypeError: fill is no number, or not one of x's kind.

    Source: T5's shift right, Raffel et al., 2020, arXiv:1910.10683.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxpress import nnops
        >>> nnops.shift(jnp.array([[5, 6, 7]])).tolist()
        [[0, 5, 6]]
    """
    x = jnp.asarray(x)
    steps, axis = integer("shift", "steps", steps), integer("shift", "axis", axis)
    if not -x.ndim <= axis < x.ndim:
        raise OpError("shift", f"there is no axis {axis}", {"x": x}, "name another axis")
    try:
        if isinstance(fill, complex) and not jnp.issubdtype(x.dtype, jnp.complexfloating):
            raise TypeError(fill)
        number = np.asarray(fill).astype(x.dtype)
        if number.shape != () or number != fill:
            raise ValueError(fill)
        plain = number.item()
        hash(plain)
    except (TypeError, ValueError) as error:
        raise OpTypeError(
            "shift", f"fill is {fill!r}", {"x": x}, f"give a Python number that {x.dtype} holds"
        ) from error
    at = axis % x.ndim - x.ndim
    # No further than there are entries: all of them are fill then.
    size = x.shape[at]
    if isinstance(size, int):
        steps = max(-size, min(size, steps))
    if isinstance(plain, float):
        plain = static_value("shift", "fill", plain, 0.0)
    return _SHIFT.rebind({"x": x}, steps=steps, axis=at, fill=plain)
