"""Dropout and stochastic depth as a named op with an explicit key.

The op takes what to keep in one of two ways: a random key, from which it draws, or the mask
itself. Its derivative draws once and hands the mask to both the value and the tangent, so that the
name survives ``grad`` and nothing is drawn twice.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxpress.nnops.define import define
from jaxpress.nnops.eager import eagerly_jitted
from jaxpress.nnops.errors import OpError, OpTypeError, explained
from jaxpress.nnops.opdef import OpDef, ops
from jaxpress.nnops.settings import integer, static_value
from jaxpress.nnops.transforms import general_batch, is_zero, zero_like

__all__ = ["drop_path", "dropout", "random_key", "stochastic_depth"]

# Where a dropped entry becomes 0 whatever it was, or is multiplied with 0 (so that NaN stays NaN).
FORMS = ("select", "multiply")


def _mask_shape(x: Any, broadcast_dims: Sequence[int]) -> tuple[Any, ...]:
    at = {d % x.ndim for d in broadcast_dims}
    return tuple(1 if i in at else n for i, n in enumerate(x.shape))


def _draw(key: Any, x: Any, params: Mapping[str, Any]) -> Any:
    # A probability with a dtype: what is drawn depends on how precise it is.
    probability = np.asarray(1.0 - params["rate"], params["draw"])
    return jax.random.bernoulli(key, probability, _mask_shape(x, params["broadcast_dims"]))


def _dropout(op: str, x: Any, key: Any = None, keep: Any = None, **params: Any) -> Any:
    if (key is None) == (keep is None):
        operands = {"x": x, "key": key, "keep": keep}
        raise OpError(op, "it takes a key or a mask", operands, "give one of them")
    keep = _draw(key, x, params) if keep is None else keep
    share = 1.0 - params["rate"]
    if params["form"] == "multiply":
        return keep * x / share
    return jnp.where(keep, x / share, jnp.zeros((), x.dtype))


def _jvp(op: OpDef, primals: Any, tangents: Any, params: dict[str, Any]) -> Any:
    given = op.operands(primals, params)
    if "keep" not in given:
        given = {"x": given["x"], "keep": _mask_over_levels(op, primals, params)}
        params = _with_mask(params)
    y = op.rebind(given, **params)
    dx = tangents[0]
    if is_zero(dx) or not jnp.issubdtype(primals[0].dtype, jnp.inexact):
        return y, zero_like(y)
    return y, op.rebind({**given, "x": dx}, **params)


def _mask_over_levels(op: OpDef, primals: Any, params: Mapping[str, Any]) -> Any:
    """What ``(x, key)`` keeps: under the recorded vmaps, those of the key lead the mask."""

    def fn(x: Any, key: Any) -> Any:
        return _draw(key, x, params)

    for axes in params.get("mapped", ()):
        fn = jax.vmap(fn, in_axes=axes, out_axes=None if axes[1] is None else 0)
    return fn(*primals)


def _with_mask(params: dict[str, Any]) -> dict[str, Any]:
    """The parameters with ``keep`` in the place of ``key``."""
    params = {**params, "operands": ("x", "keep")}
    if "mapped" in params:
        params["mapped"] = tuple((x, None if key is None else 0) for x, key in params["mapped"])
    return params


def _normalize(params: dict[str, Any]) -> dict[str, Any]:
    return {**params, "broadcast_dims": tuple(params["broadcast_dims"])}


# The same arithmetic under the two names by which people know it.
for _name in ("dropout", "stochastic_depth"):
    define(
        _name,
        partial(_dropout, _name),
        optional=("key", "keep"),
        defaults={"rate": 0.0, "broadcast_dims": (), "form": FORMS[0], "draw": "float32"},
        normalize=_normalize,
        jvp=_jvp,
        batch=general_batch,
    )


def _checked(
    op: str,
    x: Any,
    key: Any,
    rate: float,
    deterministic: bool,
    broadcast_dims: int | Sequence[int],
) -> jax.Array:
    x = jnp.asarray(x)
    rate = static_value(op, "rate", rate, 0.0) + 0.0  # -0.0 is another number here
    if not 0.0 <= rate <= 1.0:
        raise OpError(op, f"rate is {rate}", {"x": x}, "give a number from 0 to 1")
    if not isinstance(broadcast_dims, Sequence):
        broadcast_dims = (broadcast_dims,)
    dims = [integer(op, "broadcast_dims", d) for d in broadcast_dims]
    if any(not -x.ndim <= d < x.ndim for d in dims):
        raise OpError(op, f"broadcast_dims are {dims}", {"x": x}, f"give axes below {x.ndim}")
    if static_value(op, "deterministic", deterministic, False) or rate == 0.0:
        return x
    key = random_key(op, key, {"x": x})
    if rate == 1.0:  # dividing by 0 would make gradients NaN
        return jnp.zeros_like(x)
    # Counted from the end, so that leading batch dimensions change nothing.
    dims = tuple(sorted({d % x.ndim - x.ndim for d in dims}))
    draw = jax.dtypes.canonicalize_dtype(float).name
    return ops[op].rebind({"x": x, "key": key}, rate=rate, broadcast_dims=dims, draw=draw)


def _drop(
    x: Any, key: Any, rate: float, deterministic: bool, broadcast_dims: int | Sequence[int]
) -> jax.Array:
    return _checked("dropout", x, key, rate, deterministic, broadcast_dims)


def _drop_branch(x: Any, key: Any, rate: float, deterministic: bool, mode: str) -> jax.Array:
    x, op = jnp.asarray(x), "stochastic_depth"
    if mode not in ("row", "batch") or x.ndim < 1:
        mend = "give 'row' or 'batch', x with axes"
        raise OpError(op, f"mode is {mode!r}", {"x": x}, mend)
    shared = range(1 if mode == "row" else 0, x.ndim)
    return _checked(op, x, key, rate, deterministic, tuple(shared))


_drop.__name__, _drop_branch.__name__ = "dropout", "stochastic_depth"
# Where nothing is drawn, x itself is the result, and not another array.
_as_it_is, _as_it_is_branch = explained(_drop), explained(_drop_branch)
_drawn, _drawn_branch = eagerly_jitted(_drop), eagerly_jitted(_drop_branch)


def _draws(rate: Any, deterministic: Any) -> bool:
    return deterministic is False and type(rate) is float and rate > 0


def dropout(
    x: Any,
    key: Any,
    *,
    rate: float,
    deterministic: bool = False,
    broadcast_dims: int | Sequence[int] = (),
) -> jax.Array:
    """Inverted dropout: random entries become 0, and the others larger, so that the mean stays.

    ``x / (1 - rate) where drawn with probability 1 - rate, 0 elsewhere``

    Args:
        x: any shape.
        key: a random key, typed (jax.random.key) or raw (jax.random.PRNGKey). The same key draws
            the same: give each call one of its own (jax.random.split). None will do where nothing
            is drawn.
        rate: share of the entries that become 0, a Python number from 0 to 1.
        deterministic: return x as it is, as when a model is not trained.
        broadcast_dims: axes along which entries share their fate, as in Flax.

    Returns:
        An array of x's shape and dtype; of integers, floats.

    Raises:
        OpError: rate is not from 0 to 1, an axis does not exist, or the key is missing or not one.
        OpTypeError: rate or deterministic is no static number, or the key is no key.

    Source: Srivastava et al., 2014; draws as flax.linen.Dropout does with the same key.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from jaxpress import nnops
        >>> y = nnops.dropout(jnp.ones(1000), jax.random.key(0), rate=0.2)
        >>> sorted(set(y.tolist())), abs(float(y.mean()) - 1) < 0.1
        ([0.0, 1.25], True)
        >>> nnops.dropout(3.0, None, rate=0.2, deterministic=True).tolist()
        3.0
    """
    run = _drawn if _draws(rate, deterministic) else _as_it_is
    return run(x, key, rate, deterministic, broadcast_dims)


def stochastic_depth(
    x: Any, key: Any, *, rate: float, deterministic: bool = False, mode: str = "row"
) -> jax.Array:
    """Dropout of whole residual branches; also called drop path.

    ``x / (1 - rate) where drawn with probability 1 - rate, 0 elsewhere``, one draw for each sample

    Args:
        x: (batch, ...), what is about to be added to the residual stream.
        key: a random key, as in dropout.
        rate: share of the samples whose branch becomes 0, a Python number from 0 to 1.
        deterministic: return x as it is.
        mode: ``"row"``, a draw for each sample (axis 0), or ``"batch"``, one for all.

    Returns:
        An array of x's shape and dtype.

    Raises:
        OpError: as dropout does; or mode is neither, or x has no axis.
        OpTypeError: as dropout does.

    Source: Huang et al., 2016, arXiv:1603.09382; torchvision.ops.stochastic_depth.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from jaxpress import nnops
        >>> y = nnops.stochastic_depth(jnp.ones((8, 3)), jax.random.key(0), rate=0.5)
        >>> bool((y[:, :1] == y).all())
        True
    """
    run = _drawn_branch if _draws(rate, deterministic) else _as_it_is_branch
    return run(x, key, rate, deterministic, mode)


drop_path = stochastic_depth


def random_key(op: str, key: Any, given: Mapping[str, Any]) -> Any:
    """A random key as an array, typed or raw.

    Raises:
        OpError: there is none, or more than one.
        OpTypeError: it is no key.
    """
    mend = "give jax.random.key(seed), or one of jax.random.split(key)"
    if key is None:
        raise OpError(op, "the key is missing", given, f"{mend}; for none deterministic=True")
    key = jnp.asarray(key)
    given = {**given, "key": key}
    typed = jnp.issubdtype(key.dtype, jax.dtypes.prng_key)
    if not typed and key.dtype != jnp.uint32:
        raise OpTypeError(op, f"key is {key.dtype}", given, mend)
    if key.ndim != (0 if typed else 1):
        raise OpError(op, f"key has shape {key.shape}", given, f"one key: {mend}")
    return key
