"""What dense and conv share: a bilinear core, then ``+ b + residual``, then an activation.

``activation(core(x, w) + b + residual)`` is one op. Its derivative is written with the same op:
the core without activation for the value, and the core in ``x`` and in ``w`` for the tangent.
So no forward product is computed twice, and the names survive ``grad``.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.core import ShapedArray

from jaxpress.nnops.activation_spec import to_activation
from jaxpress.nnops.define import define
from jaxpress.nnops.errors import OpError, OpTypeError
from jaxpress.nnops.opdef import REFERENCE, Kernel, OpDef
from jaxpress.nnops.settings import data_type
from jaxpress.nnops.transforms import general_batch, is_zero, zero_like

__all__ = ["as_arrays", "canonical_precision", "define_fused", "fused_call"]

OPERANDS = ("x", "w", "b", "residual")

Core = Callable[..., Any]

_NOT_OF_CORE = ("activation", "kernel", "operands")


def _configured_precision() -> str | None:
    config: Any = jax.config
    return config.jax_default_matmul_precision


def canonical_precision(precision: Any, op: str) -> Any:
    """``precision`` as the lax primitives hold it, with JAX's configured default filled in.

    Args:
        precision: None, a name, a ``lax.Precision``, a pair of these, or a dot algorithm.
        op: who asks, for the error.

    Returns:
        None, a pair of ``lax.Precision``, or a ``lax.DotAlgorithm(Preset)``.

    Raises:
        OpError: it is none of these.
    """
    if precision is None:
        precision = _configured_precision()
        if precision is None:
            return None
    if isinstance(precision, lax.DotAlgorithm | lax.DotAlgorithmPreset):
        return precision
    if isinstance(precision, str) and precision in lax.DotAlgorithmPreset.__members__:
        return lax.DotAlgorithmPreset[precision]
    pair = tuple(precision) if isinstance(precision, list | tuple) else (precision, precision)
    try:
        first, second = (lax.Precision(p) for p in pair)
    except (TypeError, ValueError) as error:
        raise OpError(
            op,
            f"precision is {precision!r}",
            mend="give None, 'default', 'high', 'highest', a pair of these, or a lax.Precision",
        ) from error
    return first, second


def define_fused(
    name: str,
    core: Core,
    *,
    defaults: Mapping[str, Any],
    kernels: Sequence[Kernel],
    normalize: Callable[[dict[str, Any]], dict[str, Any]],
    check: Callable[..., None],
    features_axis: Callable[[Mapping[str, Any]], int | tuple[int, ...]],
    fold: Callable[..., Any],
    core_shape: Callable[[Any, Any, Mapping[str, Any]], tuple[int, ...] | None] | None = None,
) -> OpDef:
    """Defines an op of the operands x, w, b and residual around a bilinear core.

    Args:
        name: the op's name.
        core: ``core(x, w, **params)``; the reference's own.
        defaults: static parameters; ``activation`` and ``kernel`` are added.
        kernels: other cores.
        normalize: the parameters but ``activation`` in canonical form.
        check: ``check(x, w, params)`` raises where the core's operands do not fit.
        features_axis: ``params -> axis`` of the result along which b runs; several, in order, where
            b has as many axes.
        fold: ``fold(x, residual, axes, size, params) -> (x, residual, unfold)`` takes in a mapped
            axis of x (and perhaps residual) as part of a batch dimension; ``unfold(y)`` gives the
            result and its mapped axis.
        core_shape: ``core_shape(x, w, params)``, a short cut to the shape of the core's result;
            None asks for the trace, as leaving it out does.

    Returns:
        The definition.
    """

    def epilogue(z: Any, b: Any, residual: Any, params: Mapping[str, Any]) -> Any:
        """``z + b + residual``, each present or None."""
        axis = features_axis(params)
        # lax, not operators: jax.numpy's are jitted one by one, and traced for each new shape.
        if b is not None:
            z = lax.add(z, _along(b, axis, z.ndim))
        return z if residual is None else lax.add(z, residual)

    @functools.lru_cache(maxsize=4096)
    def core_aval(params: tuple[tuple[str, Any], ...], x: Any, w: Any) -> Any:
        static = dict(params)
        check(x, w, static)
        dtype = static["preferred_element_type"] or x.dtype
        if core_shape is not None and jnp.issubdtype(dtype, jnp.floating):
            shape = core_shape(x, w, static)
            if shape is not None:
                return ShapedArray(shape, dtype)
        z = jax.eval_shape(functools.partial(core, **static), x, w)
        return ShapedArray(z.shape, z.dtype)

    def infer(avals: Any, params: Mapping[str, Any]) -> Any:
        present = dict(zip(params["operands"], avals, strict=True))
        x, w = present["x"], present["w"]
        if x.dtype != w.dtype or not jnp.issubdtype(x.dtype, jnp.floating):
            return None
        static = {k: v for k, v in params.items() if k not in _NOT_OF_CORE}
        z = core_aval(tuple(sorted(static.items())), x, w)
        b, residual = present.get("b"), present.get("residual")
        _check_epilogue(name, x, w, b, residual, z, features_axis(params))
        return z

    def whole(core: Core) -> Callable[..., Any]:
        def compute(x: Any, w: Any, b: Any = None, residual: Any = None, **params: Any) -> Any:
            activation = params.pop("activation")
            check(x, w, params)
            # What a parameter of None means was settled when the op was bound.
            if _configured_precision() is None:
                z = core(x, w, **params)
            else:
                with jax.default_matmul_precision(None):  # type: ignore[arg-type]
                    z = core(x, w, **params)
            _check_epilogue(name, x, w, b, residual, z, features_axis(params))
            y = epilogue(z, b, residual, params)
            return y if activation is None else activation.reference(y)

        return compute

    def of_core(transpose: Callable[..., Any]) -> Callable[..., Any]:
        def compute(g: Any, x: Any, w: Any, **params: Any) -> Any:
            nothing_else = params.pop("activation") is None and not {"b", "residual"} & {*params}
            return transpose(g, x, w, **params) if nothing_else else None

        return compute

    def normalize_all(params: dict[str, Any]) -> dict[str, Any]:
        params = normalize(params)
        params["activation"] = to_activation(params["activation"], name)
        params["precision"] = canonical_precision(params["precision"], name)
        preferred = "preferred_element_type"
        params[preferred] = data_type(name, preferred, params[preferred])
        return params

    def jvp(op: OpDef, primals: Any, tangents: Any, params: dict[str, Any]) -> Any:
        given = op.operands(primals, params)
        live = {k: t for k, t in op.operands(tangents, params).items() if not is_zero(t)}
        linear = {**params, "activation": None}
        z = op.rebind(given, **linear)
        dz = None
        if "x" in live:
            dz = op.rebind({"x": live["x"], "w": given["w"]}, **linear)
        if "w" in live:
            dw = op.rebind({"x": given["x"], "w": live["w"]}, **linear)
            dz = dw if dz is None else dz + dw
        if "b" in live or "residual" in live:
            rest = _spread(op, z, live.get("b"), live.get("residual"), params)
            dz = rest if dz is None else dz + rest
        activation = params["activation"]
        if dz is None:
            y = z if activation is None else activation(z)
            return y, zero_like(y)
        return (z, dz) if activation is None else jax.jvp(activation, (z,), (dz,))

    def _spread(op: OpDef, z: Any, b: Any, residual: Any, params: Mapping[str, Any]) -> Any:
        """``b + residual`` in z's shape; z itself is not read."""

        def add(z: Any, b: Any, residual: Any) -> Any:
            if b is None:
                return residual
            b = _along(b, features_axis(params), z.ndim)
            return jnp.broadcast_to(b, z.shape) if residual is None else b + residual

        return _over_levels(op, add, params)(z, b, residual)

    def _over_levels(op: OpDef, fn: Any, params: Mapping[str, Any]) -> Any:
        """``fn(z, b, residual)`` under the recorded vmaps; every level has z's leading axis."""
        names = op.present(params)
        for axes in params.get("mapped", ()):
            at = dict(zip(names, axes, strict=True))
            fn = jax.vmap(fn, in_axes=(0, at.get("b"), at.get("residual")))
        return fn

    def batch(op: OpDef, args: Any, axes: Any, params: dict[str, Any]) -> Any:
        given, at = op.operands(args, params), op.operands(axes, params)
        if at["x"] is None and at["w"] is None:
            # Only b or residual is mapped: one core serves every entry.
            z = op.rebind({"x": given["x"], "w": given["w"]}, **{**params, "activation": None})

            def checked(z: Any, b: Any, residual: Any) -> Any:
                axis = features_axis(params)
                _check_epilogue(name, given["x"], given["w"], b, residual, z, axis)
                return epilogue(z, b, residual, params)

            over = _over_levels(op, checked, params)
            y = jax.vmap(over, in_axes=(None, at.get("b"), at.get("residual")))(
                z, given.get("b"), given.get("residual")
            )
            activation = params["activation"]
            return (y if activation is None else activation(y)), 0
        if at["w"] is None and at.get("b") is None and "mapped" not in params:
            x, residual = given["x"], given.get("residual")
            size = x.shape[at["x"]]
            x, residual, unfold = fold(x, residual, (at["x"], at.get("residual")), size, params)
            return unfold(op.rebind({**given, "x": x, "residual": residual}, **params))
        return general_batch(op, args, axes, params)

    return define(
        name,
        whole(core),
        operands=OPERANDS[:2],
        optional=OPERANDS[2:],
        defaults={**defaults, "activation": None, "kernel": REFERENCE},
        kernels=[
            Kernel(k.name, whole(k.fn), k.applies, {o: of_core(t) for o, t in k.transposes.items()})
            for k in kernels
        ],
        normalize=normalize_all,
        jvp=jvp,
        batch=batch,
        infer=infer,
    )


def as_arrays(op: str, x: Any, w: Any, b: Any, residual: Any) -> dict[str, Any]:
    """The operands by name, as arrays; those that are None stay out.

    Raises:
        OpError: x or w is None.
    """
    given = zip(OPERANDS, (x, w, b, residual), strict=True)
    operands = {k: jnp.asarray(v) for k, v in given if v is not None}
    if not {"x", "w"} <= operands.keys():
        raise OpError(op, "x or w is missing", operands, "give both")
    return operands


def fused_call(
    op: OpDef,
    operands: Mapping[str, Any],
    params: Mapping[str, Any],
    axis: int | tuple[int, ...] = -1,
) -> Any:
    """Binds a fused op to arrays of any dtypes, by JAX's rules of promotion.

    Where b or residual would widen the core's result, the epilogue follows as ops of its own, so
    the result has the dtype that ``x @ w + b + residual`` has.

    Args:
        op: the definition.
        operands: arrays by name; absent ones None.
        params: all static parameters but ``kernel``.
        axis: the result's, along which b runs, or several.

    Returns:
        The op's result.
    """
    x, w = operands["x"], operands["w"]
    dtype = jnp.result_type(x, w)
    core = {"x": _cast(x, dtype), "w": _cast(w, dtype)}
    rest = {k: v for k, v in operands.items() if k not in core and v is not None}
    preferred = "preferred_element_type"
    made = data_type(op.name, preferred, params[preferred]) or dtype
    if jnp.result_type(made, *rest.values()) == made:
        return op.rebind({**core, **{k: _cast(v, made) for k, v in rest.items()}}, **params)
    activation = to_activation(params["activation"], op.name)
    z = op.rebind(core, **{**params, "activation": None})
    _check_epilogue(op.name, x, w, rest.get("b"), rest.get("residual"), z, axis, dtypes=False)
    if "b" in rest:
        z = z + _along(rest["b"], axis, z.ndim)
    if "residual" in rest:
        z = z + rest["residual"]
    return z if activation is None else activation(z)


def _cast(value: Any, dtype: Any) -> Any:
    # A cast to the dtype that it has would make a weak type strong.
    return value if value.dtype == dtype else value.astype(dtype)


def _along(b: Any, axis: int | tuple[int, ...], ndim: int) -> Any:
    """``b`` with unit dimensions around, to run along ``axis``."""
    along = {a % ndim for a in ((axis,) if isinstance(axis, int) else axis)}
    return lax.expand_dims(b, [i for i in range(ndim) if i not in along])


def _check_epilogue(
    name: str,
    x: Any,
    w: Any,
    b: Any,
    residual: Any,
    z: Any,
    axis: int | tuple[int, ...],
    dtypes: bool = True,
) -> None:
    operands = {"x": x, "w": w, "b": b, "residual": residual}
    features = tuple(z.shape[a] for a in ((axis,) if isinstance(axis, int) else axis))
    if b is not None and b.shape != features:
        raise OpError(
            name,
            f"b has shape {b.shape}, and the result has "
            f"{features[0] if len(features) == 1 else features} features",
            operands,
            f"give b the shape {features}, or add it outside",
        )
    if residual is not None and residual.shape != z.shape:
        raise OpError(
            name,
            f"residual has shape {residual.shape}, and the result has {z.shape}",
            operands,
            "broadcast residual to the result's shape, or add it outside",
        )
    for key, value in (("b", b), ("residual", residual)):
        if dtypes and value is not None and value.dtype != z.dtype:
            raise OpTypeError(
                name,
                f"{key} is {value.dtype}, and the result is {z.dtype}",
                operands,
                f"cast {key} to {z.dtype}",
            )
