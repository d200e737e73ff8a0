"""What the gates of a recurrent cell are made of: sums of products with weights, and biases.

A gate before its activation is read backwards as ``x @ w + h @ u + b``, through slices of one
large product, concatenations of x and h, transposes, and sums in any order.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from jaxpress import nnops
from jaxpress.capture import Literal, Node, Value
from jaxpress.passes.rules.recurrent_refs import Ref, pieces, step_back
from jaxpress.passes.view import View, channel_base, scalar_value

__all__ = ["Bias", "Gated", "Opaque", "Product", "Reader", "Term", "is_stored"]

_MAX_TERMS = 64
_SUMS_AND_PRODUCTS = frozenset({"add", "add_any", "sub", "dot_general", "dense"})
_REARRANGED = frozenset(
    """
    broadcast_in_dim concatenate convert_element_type copy expand_dims reshape slice split squeeze
    transpose
    """.split()  # noqa: SIM905
)


@dataclass(frozen=True)
class Product:
    """A term ``source @ weight[rows, columns]``.

    Attributes:
        ref: the result's columns, where they stand in the graph.
        source: what is multiplied, as columns.
        weight: the matrix.
        axis: the matrix's axis that is summed over.
        rows: the range along that axis.
        columns: the range along the other one.
        sign: 1 or -1.
        precision: of the product.
    """

    ref: Ref
    source: Ref
    weight: Value
    axis: int
    rows: tuple[Any, Any]
    columns: tuple[Any, Any]
    sign: int
    precision: Any


@dataclass(frozen=True)
class Bias:
    """A term that is the same for the whole batch: ``sign * vector[lo:hi]``, or one number.

    Attributes:
        value: of one element or ``length``; a literal for a number.
        length: how many features the vector is for.
    """

    value: Value
    length: Any
    lo: Any
    hi: Any
    sign: int


@dataclass(frozen=True)
class Opaque:
    """A term that is of no such kind; ``ref`` are its columns."""

    ref: Ref
    sign: int


@dataclass(frozen=True)
class Gated:
    """A term ``left * right``, of two arrays."""

    left: Ref
    right: Ref
    sign: int


Term = Product | Bias | Opaque | Gated


def is_stored(view: View, value: Value) -> bool:
    """Whether a value is known before the data, or is made of inputs that are only rearranged.

    What is known because a state starts as zeros is a sum or product, and none of these.
    """
    waiting, seen = [value], 0
    while waiting:
        value = waiting.pop()
        node = view.producer(value)
        if node is None:
            continue
        seen += 1
        if node.op in _REARRANGED and seen < _MAX_TERMS:
            waiting.extend(view.inputs(node))
        elif node.op in _SUMS_AND_PRODUCTS or not view.is_known(value):
            return False
    return True


class Reader:
    """Reads pre-activations of one graph.

    Args:
        view: the graph.
        is_weight: whether a value may be a matrix of weights, or a bias.
        is_plain: whether a value may be taken as it is, as a term or source of its own.
        loose: look into sums and concatenations of plain values too.
    """

    def __init__(
        self,
        view: View,
        is_weight: Callable[[Value], bool],
        is_plain: Callable[[Value], bool],
        loose: bool = False,
    ):
        self.loose = loose
        self.view = view
        # The dtypes between which values were converted on the way.
        self.types: set[Any] = set()
        self.is_weight = is_weight
        self.is_plain = is_plain

    def terms(self, ref: Ref) -> list[Term] | None:
        """The terms of which ``ref`` is the sum; ``None`` if it is too large a sum."""
        found: list[Term] = []
        return found if self._collect(ref, 1, found) else None

    def _collect(self, ref: Ref, sign: int, found: list[Term]) -> bool:
        if len(found) >= _MAX_TERMS:
            return False
        value = ref.value
        number = scalar_value(self.view, value)
        if number is not None:
            found.append(Bias(Literal(number, value.aval), 1, 0, 1, sign))
            return True
        if self.is_weight(value):
            found.append(self._bias(ref, sign) or Opaque(ref, sign))
            return True
        node = self.view.producer(value)
        if node is None:
            found.append(Opaque(ref, sign))
            return True
        inputs = self.view.inputs(node)
        match node.op:
            case "add" | "add_any" | "sub":
                second = -sign if node.op == "sub" else sign
                a, b = (self._operand(ref, v) for v in inputs)
                if a is not None and b is not None:
                    return self._collect(a, sign, found) and self._collect(b, second, found)
            case "neg":
                return self._collect(ref.of(inputs[0]), -sign, found)
            case "mul":
                a, b = (self._operand(ref, v) for v in inputs)
                if a is not None and b is not None and (self.loose or not self.is_plain(value)):
                    found.append(Gated(a, b, sign))
                    return True
            case "dot_general":
                product = self._product(node, ref, sign)
                if product is not None:
                    found.append(product)
                    return True
            case "dense":
                if self._dense(node, ref, sign, found):
                    return True
            case _:
                before = step_back(self.view, ref)
                if before is not None:
                    self.types |= {value.dtype, before.value.dtype}
                    return self._collect(before, sign, found)
        found.append(Opaque(ref, sign))
        return True

    def _operand(self, ref: Ref, value: Value) -> Ref | None:
        """The columns of an elementwise operation's operand."""
        if not value.ndim:
            return Ref(value, (), 0, 1)
        if value.ndim != ref.value.ndim:
            return None
        size, full = value.shape[ref.features], ref.value.shape[ref.features]
        if size == full:
            return ref.of(value)
        return Ref(value, ref.axes, 0, 1) if scalar_value(self.view, value) is not None else None

    def _bias(self, ref: Ref, sign: int) -> Bias | None:
        """``ref`` as a vector, if it is the same for the whole batch."""
        if not ref.axes:
            return Bias(ref.value, 1, 0, 1, sign)
        base = channel_base(self.view, ref.value)
        if base is None or base[1] not in (None, ref.features):
            return None
        return Bias(base[0], ref.value.shape[ref.features], ref.lo, ref.hi, sign)

    def _product(self, node: Node, ref: Ref, sign: int) -> Product | None:
        (contracted, (batch, _)) = node.params["dimension_numbers"]
        operands = self.view.inputs(node)
        if len(batch) or any(len(c) != 1 for c in contracted):
            return None
        if node.params.get("out_sharding") is not None:
            return None
        at = self._weights_of(operands, ref)
        if at is None:
            return None
        weight, data = operands[at], operands[1 - at]
        if not weight.dtype == data.dtype == node.output.dtype:
            return None
        axis, summed = int(contracted[at][0]), int(contracted[1 - at][0])
        free = [a for a in range(data.ndim) if a != summed]
        # The result has the free axes of the first operand, then those of the second.
        columns, first = (0, 1) if at == 0 else (data.ndim - 1, 0)
        if ref.features != columns:
            return None
        axes = (*(free[a - first] for a in ref.axes[:-1]), summed)
        rows = (0, weight.shape[axis])
        source = Ref(data, axes, *rows)
        return Product(
            ref, source, weight, axis, rows, (ref.lo, ref.hi), sign, node.params["precision"]
        )

    def _weights_of(self, operands: tuple[Value, ...], ref: Ref) -> int | None:
        """Which operand is the matrix of weights: of two, the one whose axis the features are."""
        fits = [v.ndim == 2 and self.is_weight(v) for v in operands]
        if all(fits):
            return ref.features
        return fits.index(True) if any(fits) else None

    def _dense(self, node: Node, ref: Ref, sign: int, found: list[Term]) -> bool:
        params = node.params
        given = nnops.registry()["dense"].operands(self.view.inputs(node), params)
        x, w = given["x"], given["w"]
        plain = params["activation"] is None and "mapped" not in params
        if not plain or ref.features != ref.value.ndim - 1 or not self.is_weight(w):
            return False
        if not x.dtype == w.dtype == node.output.dtype:
            return False
        rows = (0, w.shape[0])
        source = Ref(x, ref.axes, *rows)
        columns = (ref.lo, ref.hi)
        found.append(Product(ref, source, w, 0, rows, columns, sign, params["precision"]))
        if "b" in given:
            found.append(Bias(given["b"], w.shape[1], *columns, sign))
        return "residual" not in given or self._collect(ref.of(given["residual"]), sign, found)

    def sources(self, product: Product, states: set[Value]) -> list[Product] | None:
        """The product by its sources: one for each array that was concatenated.

        Sources are states (behind conversions and transposes), values that may be taken as they
        are, or anything else as it stands.
        """
        done: list[Product] = []
        waiting = [product]
        while waiting:
            p = waiting.pop()
            value = p.source.value
            parts = pieces(self.view, p.source)
            if value in states or (self.is_plain(value) and not (parts and self.loose)):
                done.append(p)
                continue
            if parts:
                base = p.rows[0] - p.source.lo
                waiting += [
                    _with_source(p, part, (base + lo, base + hi)) for part, (lo, hi), _ in parts
                ][::-1]
                continue
            before = step_back(self.view, p.source)
            # A state is converted to the dtype of the weights, and not by way of another.
            converted = before is not None and before.value.dtype != value.dtype
            rounded = converted and value.dtype != p.weight.dtype
            if before is None or rounded or len(done) + len(waiting) > _MAX_TERMS:
                done.append(p)
            else:
                waiting.append(_with_source(p, before, p.rows))
        return done


def _with_source(p: Product, source: Ref, rows: tuple[Any, Any]) -> Product:
    return Product(p.ref, source, p.weight, p.axis, rows, p.columns, p.sign, p.precision)
