"""Where the masks of weights come from: arrays, new arguments, or the weights themselves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.core import ShapedArray

from jaxpress.capture import Node, PassError, Value, compat
from jaxpress.nnops.conv_geometry import specs
from jaxpress.nnops.einsum_equation import parse_equation
from jaxpress.passes.pruning import keep_above, magnitude_mask, threshold
from jaxpress.passes.weight_sites import JOIN, MOVES, Scope

__all__ = [
    "GivenMasks",
    "GlobalMasks",
    "LayerMasks",
    "MaskSource",
    "from_outside",
    "mask_arrays",
]


def mask_arrays(masks: Any, names: Mapping[Value, str]) -> dict[Value, Any]:
    """The mask for each origin of weights that has one."""
    if callable(masks):
        found = {
            base: masks(name, jax.ShapeDtypeStruct(base.shape, base.dtype))
            for base, name in names.items()
        }
    else:
        unknown = [name for name in masks if name not in names.values()]
        if unknown:
            raise PassError(
                f"insert_weight_masks: no weights {unknown}; there are {list(names.values())}"
            )
        found = {base: masks.get(name) for base, name in names.items()}
    arrays = {base: jnp.asarray(mask) for base, mask in found.items() if mask is not None}
    for base, mask in arrays.items():
        if mask.shape != base.shape:
            raise PassError(
                f"insert_weight_masks: the mask for {names[base]!r} has the shape {mask.shape}, "
                f"and the weights have {base.shape}"
            )
    return arrays


class MaskSource:
    """What gives the mask of a node's weights."""

    def prepare(self, scope: Scope) -> None:
        """Called with the whole function's scope, before anything is inserted."""

    def mask(self, scope: Scope, node: Node, w: Value) -> Value | None:
        """The mask in ``scope``, of w's shape; None to leave the weights as they are."""
        raise NotImplementedError


class GivenMasks(MaskSource):
    """Arrays, or new arguments, for what weights come from."""

    def __init__(self, masks: Mapping[Value, Any]):
        self.masks = dict(masks)

    def prepare(self, scope: Scope) -> None:
        for base, mask in self.masks.items():
            if not isinstance(mask, Value):
                self.masks[base] = scope.editor.add_constant(mask)

    def mask(self, scope: Scope, node: Node, w: Value) -> Value | None:
        return self.follow(scope, w, node) if self._dtypes(scope, w) else None

    def _dtypes(self, scope: Scope, value: Value) -> list[Any]:
        """Of the masks of what ``value`` is made from."""
        return [self.masks[base].dtype for base in scope.origins(value) if base in self.masks]

    def follow(self, scope: Scope, value: Value, before: Node) -> Value:
        """The mask of ``value``: those of its origins, moved and joined as ``value`` was."""
        dtypes = self._dtypes(scope, value)

        def emit(fn: Any, *operands: Value) -> Value:
            return scope.editor.emit(fn, operands, before=before, like=before, cache=False)[0]

        if not dtypes:  # a part that has no mask stays as it is
            return emit(lambda: lax.full(value.shape, 1, bool))
        sources = scope.sources(value)
        maker = scope.editor.producer(value)
        if sources and maker is not None:
            inner = [self.follow(scope, v, before) for v in sources]
            if maker.op not in MOVES | {JOIN}:
                return inner[0]
            place = next(i for i, v in enumerate(maker.outputs) if v is value)

            def move(*masks: Any) -> Any:
                dtype = jnp.result_type(*masks)
                alike = [lax.convert_element_type(mask, dtype) for mask in masks]
                return compat.bind(maker.primitive, alike, maker.params)[place]

            return emit(move, *inner)
        if value not in scope.given:
            return from_outside(scope, self.masks[value])
        key = (scope.given[value][0], value)
        if key not in scope.needed:
            aval = ShapedArray(value.shape, jnp.result_type(*dtypes))
            scope.needed[key] = Value(f"{value.name}_mask", aval)
        return scope.needed[key]


def from_outside(scope: Scope, value: Value) -> Value:
    """A value of the whole function's graph, as it is called in a body."""
    if scope.parent is None:
        return value
    key = ("outside", value)
    if key not in scope.needed:
        scope.needed[key] = Value(value.name, value.aval)
    return scope.needed[key]


class GlobalMasks(MaskSource):
    """One limit for the magnitudes of all weights together."""

    def __init__(self, bases: list[Value], sparsity: float):
        self.bases = bases
        self.sparsity = sparsity
        self.limit: Value | None = None

    def prepare(self, scope: Scope) -> None:
        graph = scope.editor.graph
        there = {*graph.inputs, *graph.constants, *graph.prepared}
        missing = [v for v in self.bases if v not in there]
        if missing:
            raise PassError(
                "insert_weight_masks: scope='global' needs arguments or constants as weights, "
                f"and {missing[0]!r} is computed; leave it out with where="
            )
        first = next(scope.editor.nodes(), None)
        (self.limit,) = scope.editor.emit(
            lambda *ws: threshold(ws, self.sparsity),
            self.bases,
            before=first,
            like=first,
            cache=False,
        )

    def mask(self, scope: Scope, node: Node, w: Value) -> Value | None:
        assert self.limit is not None
        given = (w, from_outside(scope, self.limit))
        return scope.editor.emit(keep_above, given, at=node, cache=False)[0]


class LayerMasks(MaskSource):
    """The largest weights of each node."""

    def __init__(self, sparsity: Any, structure: Any):
        self.sparsity = sparsity
        self.structure = structure

    def mask(self, scope: Scope, node: Node, w: Value) -> Value | None:
        sparsity: Any = self.sparsity(node) if callable(self.sparsity) else self.sparsity
        if sparsity is None:
            return None
        if node.params.get("mapped") and self.structure != "unstructured":
            raise PassError(f"insert_weight_masks: {node!r} is mapped over several weights")
        axes = _axes(node, w)

        def keep(w: Any) -> Any:
            return magnitude_mask(w, sparsity, self.structure, **axes)

        return scope.editor.emit(keep, (w,), at=node, cache=False)[0]


def _axes(node: Node, w: Value) -> dict[str, Any]:
    """The axes of weights that are summed over, and that the result has."""
    if node.op == "conv":
        features, inner = specs(node.params["dimension_numbers"]).rhs_spec[:2]
        return {"input_axis": inner, "output_axes": features}
    if node.op == "einsum_dense":
        equation = parse_equation(node.params["equation"])
        return {
            "input_axis": equation.w.index(equation.contracted[-1]) if equation.contracted else -1,
            "output_axes": [i for i, c in enumerate(equation.w) if c in equation.features],
        }
    if node.op not in ("attend", "embedding"):
        return {"input_axis": 0, "output_axes": 1}
    # Rows of a table: attend sums over features; of an embedding, features go together.
    return {"input_axis": 1, "output_axes": 0 if node.op == "attend" else w.ndim - 1}
