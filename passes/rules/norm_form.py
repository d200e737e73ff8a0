"""What a polynomial in x and its moments is: which norm, over which axes, with which parameters."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import jax.numpy as jnp

from jaxpress.capture import Node, Value
from jaxpress.passes.rules.axes import MOVES, Axis, Place, align, leaves, place_below
from jaxpress.passes.rules.moment_atoms import MEAN, SQUARE, Root, X, close, is_close
from jaxpress.passes.rules.moments import Reading, Sum
from jaxpress.passes.rules.polynomial import ONE, Polynomial
from jaxpress.passes.view import View

__all__ = ["UNIT", "Norm", "norm_of"]

UNIT = Polynomial.constant(1.0)


@dataclass(frozen=True)
class Norm:
    """A norm that was found.

    Attributes:
      x: the form of x that the op is to take.
      op: the named op.
      params: its parameters.
      gain: what is multiplied, in parameters.
      bias: what is added, in parameters.
      along: the dimensions of x along which scale and bias run.
      lead: how many leading dimensions are the batch; they are made one.
      features: the only dimension that is not summed over, if it is not the first: so it could
        be a batch norm.
      leaves: the axes that ``along`` is made of.
      x: see above.
      factor: the number by which the op's result is multiplied.
      outside: whether its gain, one parameter, is multiplied behind it: it is no scale of the op.
    """

    op: str
    params: dict[str, Any]
    gain: Polynomial = UNIT
    bias: Polynomial = field(default_factory=lambda: Polynomial({}))
    along: tuple[int, ...] = ()
    lead: int | None = None
    features: int | None = None
    leaves: tuple[Axis, ...] = ()
    x: Value | None = None
    factor: float = 1.0
    outside: bool = False

    @property
    def is_bare(self) -> bool:
        """Whether the op's result is all of it."""
        return self.factor == 1 and not self.outside


@dataclass
class _Parts:
    root: Root
    gain: Polynomial
    bias: Polynomial


def _parts(p: Polynomial) -> _Parts | str:
    """``p`` as ``(x - mean) / root * gain + bias``."""
    roots = {a for m in p.terms for a, _ in m if isinstance(a, Root)}
    if len(roots) != 1:
        return "it has no square root of a variance, a mean square or a norm, or several"
    (root,) = roots
    gain, mean, bias = {}, {}, {}
    for monomial, c in p.terms.items():
        powers = dict(monomial)
        r, x, m = (powers.pop(a, 0) for a in (root, X, MEAN))
        if SQUARE in powers or (r, x, m) not in ((-1, 1, 0), (-1, 0, 1), (0, 0, 0)):
            return "it is not (x - mean) / sqrt(var + epsilon) * scale + bias"
        part = gain if x else mean if m else bias
        part[frozenset(powers.items())] = c
    centred = Polynomial({m: -c for m, c in mean.items()})
    found = _Parts(root, Polynomial(gain), Polynomial(bias))
    if not found.gain.terms:
        return "x is not in it"
    if root.kind == "variance" and not close(centred, found.gain):
        return "what is taken away is not the mean"
    if root.kind != "variance" and mean:
        return "the mean is taken away, and not before the square"
    if found.bias.terms.keys() == {ONE}:
        return "a number is added to it"
    return found


def _as_mean_square(parts: _Parts, count: int) -> None:
    """``x / norm * sqrt(n) * scale`` is ``x / sqrt(mean(x**2)) * scale``."""
    if parts.root.kind != "norm" or len(parts.gain.terms) != 1:
        return
    ((monomial, c),) = parts.gain.terms.items()
    if count > 1 and is_close(c * c, count):
        epsilon, placement = parts.root.epsilon, parts.root.placement
        epsilon /= count if placement == "root" else math.sqrt(count)
        parts.root = Root("mean square", epsilon, placement)
        parts.gain = Polynomial({monomial: 1.0})


@dataclass
class _Layout:
    """The root's dimensions: which axes each is made of, and which of those are summed over."""

    dims: list[list[Axis]]
    reduced: set[Axis]

    def kind(self, i: int) -> str:
        axes = self.dims[i]
        if not axes:
            return "one"
        summed = [a in self.reduced for a in axes]
        return "reduced" if all(summed) else "split" if any(summed) else "kept"

    def along(self, axes: Sequence[Axis]) -> set[int]:
        """The dimensions that these axes belong to."""
        return {i for i, dims in enumerate(self.dims) if any(a in axes for a in dims)}


def _layout(reading: Reading, place: Place, sums: Sequence[Sum]) -> _Layout | str:
    """Which axes are summed over, if it is the same ones in all sums."""
    outer = reading.place
    if outer is None or not sums:
        return "x is not in it"
    if set(_row(place)) != set(leaves(outer)):
        return "x stands in another shape"
    for record in sums:
        if record.x is None or not align(outer, record.x):
            return "the sums are not over x's own axes"
    found: set[Axis] | None = None
    for record in sums:
        bound = set(leaves(record.bound))
        mine: set[Axis] = set()
        for a, b in zip(leaves(outer), leaves(record.x or ()), strict=True):
            if b in bound:
                mine.add(a)
            elif a is not b:
                return "the statistics of one place are used at another"
        if found is not None and found != mine:
            return "mean and variance are over different axes"
        found = mine
    if len({record.count for record in sums}) != 1:
        return "mean and variance are over different axes"
    return _Layout([leaves(dims) for dims in place], found or set())


def norm_of(
    reading: Reading, p: Polynomial, root: Node, place: Place, nodes: set[Node]
) -> Norm | str:
    """The norm that ``p``, read at ``root``, is; or why it is none."""
    parts = _parts(p)
    if isinstance(parts, str):
        return parts
    sums = [record for record in reading.sums if record.node in nodes]
    layout = _layout(reading, place, sums)
    if isinstance(layout, str):
        return layout
    order = {a: i for i, a in enumerate(a for dims in layout.dims for a in dims)}
    for atom in (*parts.gain.values(), *parts.bias.values()):
        at = [
            order.get(a, -1) for a in leaves(x for dims in reading.parameters[atom] for x in dims)
        ]
        if at != sorted(set(at)) or -1 in at:
            return f"{atom!r} does not lie along x's axes in their order"
    x = _form_of(reading, root)
    if x is None:
        return "x is turned round"
    reason = _dtypes(reading, root, nodes)
    if reason:
        return reason
    _as_mean_square(parts, sums[0].count)
    factor = 1.0
    if parts.gain.terms.keys() == {ONE}:
        factor = 1.0 if close(parts.gain, UNIT) else parts.gain.terms[ONE]
        parts.gain = UNIT
    found = _choose(reading, parts, layout, root, factor, sums[0].count)
    if isinstance(found, str):
        return found
    gains = list(parts.gain.values())
    if found.outside or (gains and not any(map(leaves, _places(reading, gains)))):
        ((monomial, factor),) = parts.gain.terms.items()
        parts.gain = Polynomial({monomial: 1.0})
        found = replace(found, outside=True, along=tuple(range(len(layout.dims))))
    inside = {a for i in found.along for a in layout.dims[i]}
    for atom in (*parts.gain.values(), *parts.bias.values()):
        if any(a not in inside for dims in reading.parameters[atom] for a in leaves(dims)):
            return f"{atom!r} runs along other axes than a scale or bias does"
    axes = tuple(a for i in found.along for a in layout.dims[i])
    return replace(found, x=x, gain=parts.gain, bias=parts.bias, leaves=axes, factor=factor)


def _places(reading: Reading, atoms: Sequence[Value]) -> list[tuple[Axis, ...]]:
    """Where the dimensions of all these stand."""
    return [dims for v in atoms for dims in reading.parameters[v]]


def _row(place: Place) -> list[Axis]:
    return leaves(axis for dims in place for axis in dims)


def _form_of(reading: Reading, root: Node) -> Value | None:
    """The form of x with the root's order of elements, and if one has it, its shape.

    Of several the one that is converted least.
    """
    view, order = reading.view, _row(reading.result)
    found: Value | None = None
    for value, place in reading.views.items():
        at: Place | None = place
        while at is not None and _row(at) == order:
            if found is None or value.shape == root.output.shape:
                found = value
            node = view.producer(value)
            if value is reading.x or node is None:
                break
            at = place_below(view, node, at)
            value = view.inputs(node)[0]
    return found


def _dtypes(reading: Reading, root: Node, nodes: set[Node]) -> str:
    """Why the op would not compute this as precisely, or more so than was meant; empty if not."""
    out = root.output.dtype
    widest = jnp.promote_types(jnp.promote_types(reading.x.dtype, out), jnp.float32)
    for dtype in dict.fromkeys(node.output.dtype for node in nodes):
        if jnp.finfo(dtype).nmant < jnp.finfo(out).nmant:
            return f"it is rounded to {dtype} on the way"
        if jnp.promote_types(dtype, widest) != widest:
            return f"it is computed in {dtype}"
    return ""


def _choose(
    reading: Reading, parts: _Parts, layout: _Layout, root: Node, factor: float, count: int
) -> Norm | str:
    ndim = len(layout.dims)
    kinds = [layout.kind(i) for i in range(ndim)]
    reduced = tuple(i for i in range(ndim) if kinds[i] == "reduced")
    if not reduced and "split" not in kinds:
        return "it is of single elements"
    atoms = (*parts.gain.values(), *parts.bias.values())
    used = layout.along([a for v in atoms for d in reading.parameters[v] for a in leaves(d)])
    if atoms and not used and not _is_outside(parts):
        return "its scale or bias is a single number"
    epsilon: dict[str, Any] = {
        "epsilon": parts.root.epsilon,
        "placement": parts.root.placement,
    }
    if parts.root.kind == "norm":
        if "split" in kinds or (atoms and not _is_outside(parts)):
            return "an l2 norm has no parameters, and no groups"
        params = {"axis": _axis(reduced, ndim), **epsilon}
        return Norm("l2_normalize", params, outside=bool(atoms))
    if parts.root.kind == "mean square":
        if "split" in kinds or not used <= set(reduced):
            return "its parameters do not run along the normalised axes"
        return Norm("rms_norm", {"axis": _axis(reduced, ndim), **epsilon}, along=reduced)
    if "split" in kinds:
        return _group(kinds, layout, epsilon)
    kept = [i for i in range(ndim) if kinds[i] == "kept"]
    is_weight = len(kept) == 1 and _is_weight(reading.view, root)
    if not is_weight and any(
        is_close((factor * c) ** 2 * count, 1) for c in parts.gain.terms.values()
    ):
        return "it is an l2 norm of what the mean is taken away from"
    if used and not used <= set(reduced):
        if is_weight and _is_outside(parts) and (kept == [ndim - 1] or ndim > 2):
            params = {"axis": _axis(reduced, ndim), **epsilon}
            return Norm("weight_standardize", params, outside=True)
        return _by_feature(kinds, kept, used, epsilon, is_weight)
    if used and len(used) == 1 and len(reduced) > 1 and kept in ([], [0]):
        (axis,) = used
        lead = 1 if kinds[0] in ("kept", "one") else 0
        params = {"groups": 1, "axis": axis - ndim, **epsilon}
        return Norm("group_norm", params, along=(axis,), lead=lead)
    if not used:
        if is_weight and (kept == [ndim - 1] or ndim > 2):
            return Norm("weight_standardize", {"axis": _axis(reduced, ndim), **epsilon})
        if kept and kept[-1] == ndim - 1 and kept[:-1] == list(range(len(kept) - 1)) and kept[:-1]:
            return Norm("instance_norm", {"axis": -1, **epsilon}, lead=len(kept) - 1)
        if reading.spelling >= {"fast", "clamped", "keepdims"} and parts.root.placement == "root":
            del epsilon["placement"]
            return Norm("standardize", {"axis": _axis(reduced, ndim), **epsilon})
    features = kept[0] if len(kept) == 1 and kept[0] and not used else None
    params = {"axis": _axis(reduced, ndim), **epsilon}
    return Norm("layer_norm", params, along=reduced, features=features)


def _is_outside(parts: _Parts) -> bool:
    """Whether the gain is one parameter, and there is no bias."""
    monomial, *more = parts.gain.terms
    return not parts.bias.terms and not more and [k for _, k in monomial] == [1]


def _is_weight(view: View, root: Node) -> bool:
    """Whether a convolution or matrix product takes it as its weights."""
    value = root.output
    for _ in range(4):
        users = view.users(value)
        if not users:
            return False
        node = users[0]
        if node.op in ("conv_general_dilated", "dot_general", "conv", "dense"):
            return view.inputs(node)[1] is value
        if node.op not in MOVES and node.op != "mul":
            return False
        value = node.output
    return False


def _by_feature(
    kinds: list[str], kept: list[int], used: set[int], epsilon: dict[str, Any], is_weight: bool
) -> Norm | str:
    """Instance norm, or batch norm: of the axes that are kept, one is that of the features."""
    if len(used) != 1 or not used <= set(kept):
        return "its parameters run along several axes"
    (axis,) = used
    lead = next((i for i, k in enumerate(kinds) if k == "reduced" or i == axis), 0)
    if any(i != axis and i >= lead for i in kept):
        return "an axis besides the batch and the features is kept"
    if lead == 0 and is_weight:
        return "its scale does not belong to the weights"
    params = {"axis": axis - len(kinds), **epsilon}
    if lead == 0:
        return Norm("batch_norm_train", params, along=(axis,), features=axis)
    return Norm("instance_norm", params, along=(axis,), lead=lead)


def _group(kinds: list[str], layout: _Layout, epsilon: dict[str, Any]) -> Norm | str:
    """Group norm: the features are split, the groups kept and each summed over."""
    if kinds.count("split") != 1:
        return "several axes are in groups"
    axis = kinds.index("split")
    summed = [a in layout.reduced for a in layout.dims[axis]]
    if summed != sorted(summed):
        return "its groups are not runs of neighbouring features"
    lead = next(i for i, k in enumerate(kinds) if k in ("reduced", "split"))
    if "kept" in kinds[lead:]:
        return "an axis besides the batch is kept"
    groups = 1
    for a, s in zip(layout.dims[axis], summed, strict=True):
        groups = groups if s else groups * a.size
    params = {"groups": groups, "axis": axis - len(kinds), **epsilon}
    return Norm("group_norm", params, along=(axis,), lead=lead)


def _axis(dims: Sequence[int], ndim: int) -> int | tuple[int, ...]:
    out = tuple(i - ndim for i in dims)
    return out[0] if len(out) == 1 else out
