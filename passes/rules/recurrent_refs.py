"""Columns of an array, followed backwards through what only moves or converts them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from jaxpress.capture import Node, Value
from jaxpress.passes.view import View

__all__ = ["Ref", "pieces", "step_back"]


@dataclass(frozen=True)
class Ref:
    """Columns of a value: which of its axes is which, and a range along the features.

    Attributes:
        value: an array.
        axes: the array's axes in the order batch ..., features.
        lo, hi: the range of features.
    """

    value: Value
    axes: tuple[int, ...]
    lo: Any
    hi: Any

    @staticmethod
    def whole(value: Value) -> Ref:
        """All of a value whose features come last."""
        return Ref(value, tuple(range(value.ndim)), 0, value.shape[-1])

    @property
    def features(self) -> int:
        """The value's axis along which features run."""
        return self.axes[-1]

    @property
    def in_order(self) -> bool:
        """Whether the axes stand in the order batch ..., features."""
        return self.axes == tuple(range(len(self.axes)))

    def of(self, value: Value) -> Ref:
        """The same columns of another value of the same shape."""
        return Ref(value, self.axes, self.lo, self.hi)


def step_back(view: View, ref: Ref) -> Ref | None:
    """The same columns one operation earlier, where that only moves or converts them."""
    node = view.producer(ref.value)
    if node is None or not ref.value.ndim or not view.inputs(node):
        return None
    source = view.inputs(node)[0]
    at = ref.features
    match node.op:
        case "convert_element_type" | "copy":
            return ref.of(source)
        case "transpose":
            permutation = [int(p) for p in node.params["permutation"]]
            return Ref(source, tuple(permutation[a] for a in ref.axes), ref.lo, ref.hi)
        case "slice":
            return _through_slice(node, source, ref)
        case "split":
            if node.params["axis"] != at:
                return None
            sizes = node.params["sizes"]
            which = next(i for i, v in enumerate(node.outputs) if v is ref.value)
            before = sum(int(s) for s in sizes[:which])
            return Ref(source, ref.axes, before + ref.lo, before + ref.hi)
        case "squeeze" | "reshape":
            return _of_gates(view, source, ref)
        case "unstack":
            start = next(i for i, v in enumerate(node.outputs) if v is ref.value)
            return _among_gates(view, source, ref, int(node.params["axis"]), start)
        case "concatenate":
            if node.params["dimension"] != at:
                return None
            return next((r for r, lo, _ in pieces(view, ref) if lo == (ref.lo, ref.hi)), None)
        case _:
            return None


def _through_slice(node: Node, source: Value, ref: Ref) -> Ref | None:
    start, limit = node.params["start_indices"], node.params["limit_indices"]
    strides = node.params["strides"]
    if strides is not None and any(s != 1 for s in strides):
        return None
    at = ref.features
    for axis, (a, b, n) in enumerate(zip(start, limit, source.shape, strict=True)):
        if axis != at and (a != 0 or b != n):
            return None
    return Ref(source, ref.axes, start[at] + ref.lo, start[at] + ref.hi)


def pieces(view: View, ref: Ref) -> list[tuple[Ref, tuple[Any, Any], Any]]:
    """The parts of a concatenation along the features that lie in ``ref``'s range.

    Each with its range of features in the whole, and the node. Empty for anything else.
    """
    node = view.producer(ref.value)
    if node is None or node.op != "concatenate" or node.params["dimension"] != ref.features:
        return []
    found, before = [], 0
    for part in view.inputs(node):
        size = part.shape[ref.features]
        lo, hi = max(ref.lo, before), min(ref.hi, before + size)
        if lo < hi:
            found.append((Ref(part, ref.axes, lo - before, hi - before), (lo, hi), node))
        before += size
    return found


def _of_gates(view: View, source: Value, ref: Ref) -> Ref | None:
    """One of the gates along an axis, cut out of them."""
    cut = view.producer(source)
    if cut is None or cut.op not in ("slice", "split"):
        return None
    (gates,) = view.inputs(cut)
    narrow = [a for a, (n, m) in enumerate(zip(source.shape, gates.shape, strict=True)) if n != m]
    if len(narrow) != 1 or source.shape[narrow[0]] != 1:
        return None
    at = narrow[0]
    if tuple(ref.value.shape) != (*source.shape[:at], *source.shape[at + 1 :]):
        return None
    if cut.op == "slice":
        start = int(cut.params["start_indices"][at])
    elif all(n == 1 for n in cut.params["sizes"]):
        start = next(i for i, v in enumerate(cut.outputs) if v is source)
    else:
        return None
    return _among_gates(view, gates, ref, at, start)


def _among_gates(view: View, gates: Value, ref: Ref, at: int, start: int) -> Ref | None:
    """Place ``start`` along axis ``at`` of ``z.reshape(..., gates, features)``, perhaps turned."""
    value = ref.value
    places = [a if a < at else a + 1 for a in range(value.ndim)]
    maker = view.producer(gates)
    if maker is not None and maker.op == "transpose":
        permutation = [int(p) for p in maker.params["permutation"]]
        at, places = permutation[at], [permutation[p] for p in places]
        (gates,) = view.inputs(maker)
        maker = view.producer(gates)
    if maker is None or maker.op != "reshape":
        return None
    whole = view.inputs(maker)[0]
    shape = tuple(gates.shape)
    if at + 1 >= len(shape):
        return None
    n = shape[at + 1]
    if tuple(whole.shape) != (*shape[:at], shape[at] * n, *shape[at + 2 :]):
        return None
    axes = [p if p < at else p - 1 for p in places]
    if axes[ref.features] != at:
        return None
    return Ref(whole, tuple(axes[a] for a in ref.axes), start * n + ref.lo, start * n + ref.hi)
