"""What is known of a named op, and the registry of all of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax

from jaxpress.nnops.errors import OpError
from jaxpress.nnops.keeping import keeping_implementation

__all__ = ["REFERENCE", "Kernel", "OpDef", "ops", "registry"]

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
        transposes: for operands in which ``fn`` is linear and whose derived transpose is slow,
            ``transpose(cotangent, **operands, **static)`` with a shape and a dtype in that
            operand's place; None from it asks for the derived one.
    """

    name: str
    fn: Callable[..., Any]
    applies: Callable[[Mapping[str, Any], Mapping[str, Any]], bool]
    transposes: Mapping[str, Callable[..., Any]] = field(default_factory=dict)


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
        made_of_ops: the reference calls other named ops; passes work on those.
        keeping: None, or the primitive with further results for the derivative, see
            `jaxpress.nnops.keeping`.
    """

    name: str
    primitive: Any
    reference: Callable[..., Any]
    kernels: dict[str, Kernel]
    names: tuple[str, ...]
    required: int
    defaults: Mapping[str, Any]
    normalize: Callable[[dict[str, Any]], dict[str, Any]] | None = None
    made_of_ops: bool = False
    keeping: Any = None

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
        if "keeps" in params:
            raise OpError(
                self.name,
                "a derivative needs the node's further results",
                operands,
                "leave nodes that have the parameter `keeps` as they are",
            )
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
        if "keeps" in params:
            return keeping_implementation(self, params)
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
            if chosen != REFERENCE and any(map(_is_empty, arrays)):
                # A batch of none, say: no kernel has to think of it.
                kernel = self.kernels[REFERENCE]
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
        if any(map(_is_empty, operands.values())):
            return (REFERENCE,)
        return tuple(k.name for k in self.kernels.values() if k.applies(static, operands))

    def _columns(self, inputs: Sequence[Any], params: Mapping[str, Any]) -> list[tuple[Any, list]]:
        levels = params.get("mapped", ())
        return [(value, [axes[i] for axes in levels]) for i, value in enumerate(inputs)]


def _is_empty(value: Any) -> bool:
    return any(isinstance(n, int) and n == 0 for n in value.shape)


def _unmapped(value: Any, axes: Sequence[int | None]) -> jax.ShapeDtypeStruct:
    """The shape that the innermost function sees; the last recorded ``vmap`` is the outermost."""
    shape = list(value.shape)
    for axis in reversed(axes):
        if axis is not None:
            del shape[axis]
    return jax.ShapeDtypeStruct(tuple(shape), value.dtype)
