"""One function, `define`, turns a plain reference function into a named primitive.

Everything that JAX needs to know of an op is registered here, always in this order:
implementation, abstract evaluation, lowering, JVP, transpose, batching. So an op is one short
function plus its kernels, and it works under ``jit``, ``grad``, ``vmap``, ``scan``, sharding and
``jax.export`` without more ado.

Static parameters of an op's primitive:

- those of its reference, hashable and short, since people read them;
- ``operands``, for ops with optional operands: the names of those present, in order;
- ``kernel``, for ops with more than one kernel: how it will be computed;
- ``mapped``, only where ``vmap`` could not be expressed by leading dimensions: one tuple of axes
  per ``vmap``, innermost first, as in ``jax.vmap(..., in_axes=axes)``. The result's mapped axes
  lead, outermost first.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax.interpreters import ad, batching, mlir

from jaxpress.capture.compat import Primitive
from jaxpress.nnops.errors import OpError

__all__ = ["REFERENCE", "Kernel", "OpDef", "define", "ops", "registry"]

REFERENCE = "reference"

ops: dict[str, OpDef] = {}


def registry() -> dict[str, OpDef]:
    """Every named op by its name; the live table, so do not edit it.

    Example:
        >>> from jaxpress import nnops
        >>> "dense" in nnops.registry()
        True
    """
    return ops


@dataclass(frozen=True)
class Kernel:
    """One way to compute a named op.

    Attributes:
        name: what the primitive's ``kernel`` parameter says.
        fn: takes the op's operands by name and its static parameters, as the reference does.
        applies: ``applies(params, operands) -> bool``, where ``operands`` maps names to anything
            with ``shape`` and ``dtype``. True only where ``fn`` computes the same as the reference.
    """

    name: str
    fn: Callable[..., Any]
    applies: Callable[[Mapping[str, Any], Mapping[str, Any]], bool]


@dataclass(frozen=True, eq=False)
class OpDef:
    """A named op: its primitive, what it computes, and how operands and parameters are spelled.

    Attributes:
        name: the primitive's name.
        primitive: what graphs and jaxprs hold.
        reference: the plain function that defines what the op computes.
        kernels: name to `Kernel`; ``"reference"`` is always one of them.
        names: every operand, in order.
        required: how many of them cannot be left out.
        defaults: static parameters and what they are when nobody says.
        normalize: static parameters as people write them -> as the primitive holds them.
    """

    name: str
    primitive: Any
    reference: Callable[..., Any]
    kernels: dict[str, Kernel]
    names: tuple[str, ...]
    required: int
    defaults: Mapping[str, Any]
    normalize: Callable[[dict[str, Any]], dict[str, Any]] | None = None

    def present(self, params: Mapping[str, Any]) -> tuple[str, ...]:
        """The names of the operands that a node with ``params`` has, in order."""
        return params.get("operands", self.names)

    def operands(self, inputs: Sequence[Any], params: Mapping[str, Any]) -> dict[str, Any]:
        """``inputs`` of a node by operand name; the optional ones only where they are present."""
        return dict(zip(self.present(params), inputs, strict=True))

    def rebind(self, operands: Mapping[str, Any], /, **params: Any) -> Any:
        """Binds the primitive to ``operands`` (None or absent: left out).

        ``params`` are a node's own, with changes: a stale ``operands`` entry among them is
        replaced, and parameters left out take their defaults. No operand is cast or broadcast.

        Args:
            operands: operand name to array.
            **params: static parameters.

        Returns:
            The op's result.

        Raises:
            OpError: an operand is missing or unknown, or a mapped axis of a new one is unknown.
        """
        present = tuple(name for name in self.names if operands.get(name) is not None)
        unknown = [name for name in operands if name not in self.names]
        missing = [name for name in self.names[: self.required] if name not in present]
        if unknown or missing:
            what = f"operands {missing} are missing" if missing else f"no operands named {unknown}"
            raise OpError(self.name, what, operands, f"its operands are {list(self.names)}")
        levels = params.pop("mapped", ())
        before = params.pop("operands", self.names)
        params = {**self.defaults, **params}
        if self.normalize is not None:
            params = self.normalize(params)
        if self.required < len(self.names):
            params["operands"] = present
        if levels:
            if not set(present) <= set(before):
                raise OpError(
                    self.name,
                    "a mapped op cannot gain an operand, whose mapped axes nobody knows",
                    operands,
                    "leave nodes that have the parameter `mapped` as they are",
                )
            params["mapped"] = tuple(
                tuple(axes[before.index(name)] for name in present) for axes in levels
            )
        return self.primitive.bind(*(operands[name] for name in present), **params)

    def implementation(self, params: Mapping[str, Any]) -> Callable[..., Any]:
        """The function that the primitive with ``params`` computes, operands by position.

        Raises:
            OpError: (when called) the chosen kernel is unknown, or does not apply.
        """
        static = dict(params)
        levels = static.pop("mapped", ())
        names = self.present(static)
        static.pop("operands", None)
        chosen = static.pop("kernel", REFERENCE)

        def compute(*arrays: Any) -> Any:
            operands = dict(zip(names, arrays, strict=True))
            kernel = self.kernels.get(chosen)
            if kernel is None or not kernel.applies(static, operands):
                fitting = [k.name for k in self.kernels.values() if k.applies(static, operands)]
                raise OpError(
                    self.name,
                    f"kernel {chosen!r} does not apply with {static}",
                    operands,
                    f"use one of {fitting}",
                )
            return kernel.fn(**operands, **static)

        fn: Callable[..., Any] = compute
        for axes in levels:
            fn = jax.vmap(fn, in_axes=axes)
        return fn

    def fitting_kernels(self, inputs: Sequence[Any], params: Mapping[str, Any]) -> tuple[str, ...]:
        """Names of the kernels that can compute a node with these inputs and parameters.

        Args:
            inputs: the node's inputs; anything with ``shape`` and ``dtype``.
            params: the node's static parameters.

        Returns:
            Kernel names; ``"reference"`` is always the first.
        """
        static = {k: v for k, v in params.items() if k not in ("mapped", "operands", "kernel")}
        operands = self.operands([_unmapped(*io) for io in self._columns(inputs, params)], params)
        return tuple(k.name for k in self.kernels.values() if k.applies(static, operands))

    def _columns(self, inputs: Sequence[Any], params: Mapping[str, Any]) -> list[tuple[Any, list]]:
        levels = params.get("mapped", ())
        return [(value, [axes[i] for axes in levels]) for i, value in enumerate(inputs)]


def _unmapped(value: Any, axes: Sequence[int | None]) -> jax.ShapeDtypeStruct:
    """The shape that the innermost function sees; the last recorded ``vmap`` is the outermost."""
    shape = list(value.shape)
    for axis in reversed(axes):
        if axis is not None:
            del shape[axis]
    return jax.ShapeDtypeStruct(tuple(shape), value.dtype)


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
    multiple_results: bool = False,
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
        multiple_results: the reference returns a sequence.

    Returns:
        The definition.

    Raises:
        OpError: the name is taken.

    Example:
        >>> import jax
        >>> from jaxpress.nnops.define import define, ops
        >>> twice = define("twice", lambda x, times: x * 2.0**times, defaults={"times": 1})
        >>> float(jax.grad(lambda x: twice.rebind({"x": x}, times=3))(1.0))
        8.0
        >>> del ops["twice"]
    """
    if name in ops:
        raise OpError(name, "an op of this name is defined already", mend="choose another name")
    primitive = Primitive(name)
    primitive.multiple_results = multiple_results
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
    )

    @functools.lru_cache(maxsize=4096)
    def jitted(key: tuple[tuple[str, type, Any], ...]) -> Any:
        fn = op.implementation({k: v for k, _, v in key})

        def call(*arrays: Any) -> Any:
            with jax.named_scope(name):
                return fn(*arrays)

        call.__name__ = name
        return jax.jit(call)

    def implement(*arrays: Any, **params: Any) -> Any:
        return jitted(_key(params))(*arrays)

    def abstract(*avals: Any, **params: Any) -> Any:
        # jit's own trace cache: its key already holds avals, mesh, x64 and promotion mode.
        out = jitted(_key({**params, **({"kernel": REFERENCE} if kernels else {})})).trace(*avals)
        out = out.jaxpr.out_avals
        return out if multiple_results else out[0]

    def lower(ctx: Any, *args: Any, **params: Any) -> Any:
        fn = op.implementation(params)

        def scoped(*arrays: Any) -> Any:
            # The name reaches XLA's metadata, and so profiles.
            with jax.named_scope(name):
                return fn(*arrays)

        return mlir.lower_fun(scoped, multiple_results=multiple_results)(ctx, *args)

    primitive.def_impl(implement)
    primitive.def_abstract_eval(abstract)
    mlir.register_lowering(primitive, lower)
    ad.primitive_jvps[primitive] = functools.partial(
        _call_rule, op, jvp or (linear_jvp if linear else general_jvp)
    )
    ad.primitive_transposes[primitive] = functools.partial(_transpose, op)
    batching.primitive_batchers[primitive] = functools.partial(
        _call_rule, op, batch or general_batch
    )
    ops[name] = op
    return op


def _key(params: Mapping[str, Any]) -> tuple[tuple[str, type, Any], ...]:
    # Types too: 1, 1.0 and True are equal, and compute different dtypes.
    return tuple((k, type(v), v) for k, v in sorted(params.items()))


def _call_rule(op: OpDef, rule: Callable[..., Any], first: Any, second: Any, **params: Any) -> Any:
    return rule(op, first, second, params)


def is_zero(tangent: Any) -> bool:
    """Whether ``tangent`` is JAX's symbolic zero."""
    return type(tangent) is ad.Zero


def zero_like(primal: Any) -> Any:
    """The symbolic zero tangent of ``primal``."""
    return ad.Zero(jax.typeof(primal).to_tangent_aval())


def general_jvp(op: OpDef, primals: Any, tangents: Any, params: dict[str, Any]) -> Any:
    """The op itself for the value, ``jax.jvp`` of its reference for the tangent."""
    out = op.primitive.bind(*primals, **params)
    live = [i for i, t in enumerate(tangents) if not is_zero(t)]
    outs = out if op.primitive.multiple_results else [out]
    douts = [zero_like(o) for o in outs]
    if live:
        fn = op.implementation({**params, "kernel": REFERENCE})

        def of_live(*arrays: Any) -> Any:
            full = list(primals)
            for i, array in zip(live, arrays, strict=True):
                full[i] = array
            return fn(*full)

        _, given = jax.jvp(of_live, [primals[i] for i in live], [tangents[i] for i in live])
        given = given if op.primitive.multiple_results else [given]
        # Tangents of integers are float0 arrays outside, symbolic zeros inside a rule.
        douts = [
            g if g.dtype != jax.dtypes.float0 else d for g, d in zip(given, douts, strict=True)
        ]
    return (outs, douts) if op.primitive.multiple_results else (out, douts[0])


def linear_jvp(op: OpDef, primals: Any, tangents: Any, params: dict[str, Any]) -> Any:
    """For an op that is linear in all its operands together: the op itself for both."""
    out = op.primitive.bind(*primals, **params)
    if all(is_zero(t) for t in tangents):
        return out, zero_like(out)
    return out, op.primitive.bind(*map(ad.instantiate_zeros, tangents), **params)


def general_batch(op: OpDef, args: Any, axes: Any, params: dict[str, Any]) -> Any:
    """The same primitive with the mapped axes on record, so that the name survives ``vmap``."""
    params = dict(params)
    levels = (*params.pop("mapped", ()), tuple(axes))
    out = op.primitive.bind(*args, mapped=levels, **params)
    return out, [0] * len(out) if op.primitive.multiple_results else 0


def same_batch(op: OpDef, args: Any, axes: Any, params: dict[str, Any]) -> Any:
    """For elementwise ops of one operand: the same primitive, the axis where it was."""
    return op.primitive.bind(*args, **params), axes[0]


def leading_batch(op: OpDef, args: Any, axes: Any, params: dict[str, Any]) -> Any:
    """For ops of one operand that count axes from the end: the mapped axis goes to the front."""
    return op.primitive.bind(jnp.moveaxis(args[0], axes[0], 0), **params), 0


def _transpose(op: OpDef, cotangent: Any, *args: Any, **params: Any) -> list[Any]:
    unknown = [i for i, a in enumerate(args) if ad.is_undefined_primal(a)]
    out: list[Any] = [None] * len(args)
    cotangents = cotangent if op.primitive.multiple_results else [cotangent]
    if all(map(is_zero, cotangents)):
        for i in unknown:
            out[i] = ad.Zero(args[i].aval)
        return out
    fn = op.implementation(params)

    def of_unknown(*arrays: Any) -> Any:
        full = list(args)
        for i, array in zip(unknown, arrays, strict=True):
            full[i] = array
        return fn(*full)

    # Of the chosen kernel, so that a gradient is as fast as the value.
    back = jax.linear_transpose(of_unknown, *(args[i].aval for i in unknown))
    cotangents = [ad.instantiate_zeros(c) for c in cotangents]
    given = back(cotangents if op.primitive.multiple_results else cotangents[0])
    for i, c in zip(unknown, given, strict=True):
        out[i] = c
    return out
