"""One function, `define`, turns a plain reference function into a named primitive.

Everything that JAX needs to know of an op is registered here, always in this order:
implementation, abstract evaluation, lowering, JVP, transpose, batching, checks. So an op is one
short function plus its kernels, and it works under ``jit``, ``grad``, ``vmap``, ``scan``, sharding,
``jax.export`` and ``checkify`` without more ado.

Static parameters of an op's primitive:

- those of its reference, hashable and short, since people read them. JAX caches by equality, and
  1, 1.0 and True are equal: give each parameter one type, in ``normalize``;
- ``operands``, for ops with optional operands: the names of those present, in order;
- ``kernel``, for ops with more than one kernel: how it will be computed;
- ``mapped``, only where ``vmap`` could not be expressed by leading dimensions: one tuple of axes
  per ``vmap``, innermost first, as in ``jax.vmap(..., in_axes=axes)``. The result's mapped axes
  lead, outermost first;
- ``keeps`` and ``keeps_mapped``, only inside a derivative of an op that was defined with ``keeps``:
  the operands whose tangents are wanted, and the axes of a ``vmap``. Such a node has more results,
  those that the tangent needs (``nnops/keeping.py``).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
from jax.interpreters import ad, batching, mlir

from jaxpress.capture.compat import Primitive, register_checks, trace_closed
from jaxpress.nnops.composites import composite_prefix, lower_composite
from jaxpress.nnops.errors import OpError
from jaxpress.nnops.opdef import REFERENCE, Kernel, OpDef, ops
from jaxpress.nnops.transforms import (
    general_batch,
    general_jvp,
    keeping_batch,
    keeping_jvp,
    kept_jvp,
    linear_jvp,
    transpose,
)

__all__ = ["define"]


def define(
    name: str,
    reference: Callable[..., Any],
    *,
    operands: Sequence[str] = ("x",),
    optional: Sequence[str] = (),
    defaults: Mapping[str, Any] | None = None,
    kernels: Sequence[Kernel] = (),
    normalize: Callable[[dict[str, Any]], dict[str, Any]] | None = None,
    jvp: Callable[..., Any] | None = None,
    batch: Callable[..., Any] | None = None,
    linear: bool = False,
    keeps: bool = False,
    multiple_results: bool = False,
    made_of_ops: bool = False,
    infer: Callable[..., Any] | None = None,
) -> OpDef:
    """Turns a reference function into a named primitive, and enters it in the registry.

    Args:
        name: the op's name, unique.
        reference: ``reference(**operands, **params) -> array``, a plain traceable function.
        operands: names of the operands that must be given, in order.
        optional: names of those that may be left out; they follow.
        defaults: static parameters and their defaults; ``kernel`` is added where there are several.
        kernels: other ways to compute the same.
        normalize: ``params -> params`` as the primitive holds them (hashable, canonical).
        jvp: ``jvp(op, primals, tangents, params)``, in place of the general rule: the primitive for
            the value, ``jax.jvp`` of the reference for the tangent. ``ad.Zero`` tangents come too.
        batch: ``batch(op, args, axes, params)``, in place of the general rule: the same primitive
            with the parameter ``mapped``.
        linear: the op is linear in all its operands together; then tangents go through the op too.
        keeps: what the tangent needs of the value's computation is kept rather than computed again,
            see `jaxpress.nnops.keeping`; for loops, and what XLA does not merge.
        multiple_results: the reference returns a sequence.
        made_of_ops: the reference calls other named ops, and `raise_ops` puts these in its place,
            so that no pass has to know of more than the parts.
        infer: ``infer(avals, params) -> aval | None``, a short cut to the result's shape and dtype
            for plain operands (no weak type, no explicit sharding); None asks for the trace.

    Returns:
        The definition.

    Raises:
        OpError: the name is taken.

    Example:
        >>> import jax
        >>> from jaxpress import nnops
        >>> twice = nnops.define("twice", lambda x, times: x * 2.0**times, defaults={"times": 1})
        >>> float(jax.grad(lambda x: twice.rebind({"x": x}, times=3))(1.0))
        8.0
        >>> del nnops.ops["twice"]
    """
    if name in ops:
        raise OpError(name, "an op of this name is defined already", mend="choose another name")
    primitive = Primitive(name)
    primitive.multiple_results = multiple_results
    keeping = None
    if keeps:
        keeping = Primitive(name)
        keeping.multiple_results = True
    defaults = dict(defaults or {})
    if kernels:
        defaults["kernel"] = REFERENCE
    op = OpDef(
        name=name,
        primitive=primitive,
        reference=reference,
        kernels={
            k.name: k for k in (Kernel(REFERENCE, reference, lambda params, arrays: True), *kernels)
        },
        names=(*operands, *optional),
        required=len(operands),
        defaults=defaults,
        normalize=normalize,
        made_of_ops=made_of_ops,
        keeping=keeping,
    )
    general = linear_jvp if linear else kept_jvp if keeps else general_jvp
    _register(op, primitive, jvp or general, batch or general_batch, infer)
    ad.primitive_transposes[primitive] = functools.partial(_call_transpose, op)
    if keeps:
        _register(op, keeping, keeping_jvp, keeping_batch, None)
    ops[name] = op
    return op


def _register(op: OpDef, primitive: Any, jvp: Any, batch: Any, infer: Any) -> None:
    """Tells JAX all but the transpose of one primitive of an op."""
    of_reference = {"kernel": REFERENCE} if "kernel" in op.defaults else {}
    multiple_results = primitive.multiple_results

    @functools.lru_cache(maxsize=4096)
    def jitted(params: tuple[tuple[str, Any], ...]) -> Any:
        fn = op.implementation(dict(params))

        def call(*arrays: Any) -> Any:
            with jax.named_scope(op.name):
                return fn(*arrays)

        call.__name__ = op.name
        return jax.jit(call)

    def implement(*arrays: Any, **params: Any) -> Any:
        return jitted(tuple(sorted(params.items())))(*arrays)

    def abstract(*avals: Any, **params: Any) -> Any:
        if infer is not None and "mapped" not in params and all(map(_is_plain, avals)):
            inferred = infer(avals, params)
            if inferred is not None:
                return inferred
        # jit's own trace cache: its key already holds avals, mesh, x64 and promotion mode.
        static = tuple(sorted({**params, **of_reference}.items()))
        out = jitted(static).trace(*avals).jaxpr.out_avals
        return out if multiple_results else out[0]

    def lower(ctx: Any, *args: Any, **params: Any) -> Any:
        fn = op.implementation(params)

        def scoped(*arrays: Any) -> Any:
            # The name reaches XLA's metadata, and so profiles.
            with jax.named_scope(op.name):
                return fn(*arrays)

        prefix = composite_prefix(ctx)
        if prefix is not None:
            name = f"{prefix}.{op.name}"
            return lower_composite(ctx, name, scoped, args, params, multiple_results)
        return mlir.lower_fun(scoped, multiple_results=multiple_results)(ctx, *args)

    primitive.def_impl(implement)
    primitive.def_abstract_eval(abstract)
    mlir.register_lowering(primitive, lower)
    ad.primitive_jvps[primitive] = functools.partial(_call_rule, op, jvp)
    batching.primitive_batchers[primitive] = functools.partial(_call_rule, op, batch)
    register_checks(primitive, lambda avals, params: trace_closed(op.implementation(params), avals))


def _is_plain(aval: Any) -> bool:
    """Whether an aval is a shape and a dtype, and nothing else that a result would inherit."""
    # Under shard_map, where a type says along which axes it varies, there is a mesh too.
    return not aval.weak_type and aval.sharding.mesh.empty


def _call_rule(op: OpDef, rule: Callable[..., Any], first: Any, second: Any, **params: Any) -> Any:
    return rule(op, first, second, params)


def _call_transpose(op: OpDef, cotangent: Any, *args: Any, **params: Any) -> Any:
    return transpose(op, cotangent, args, params)
