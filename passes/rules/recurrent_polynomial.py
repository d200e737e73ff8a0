"""The new state of a recurrent cell as a polynomial in the old one and the values of gates.

However ``(1 - z) * n + z * h`` was written, it has the same terms.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from jaxpress.capture import Value
from jaxpress.passes.rules.polynomial import Polynomial
from jaxpress.passes.rules.recurrent_refs import Ref
from jaxpress.passes.view import View, scalar_value

__all__ = ["Unfit", "polynomial", "ref_of", "through"]

_MAX_NODES = 32


class Unfit(Exception):
    """It is no such cell; the message says why."""


def through(view: View, value: Value) -> Value:
    """What is behind conversions and copies."""
    while True:
        node = view.producer(value)
        if node is None or node.op not in ("convert_element_type", "copy"):
            return value
        value = view.inputs(node)[0]


class _Expression:
    """Expands sums and products; remembers what it passed through, and how axes stand there."""

    def __init__(self, view: View, stops: Collection[Value], root: Value | None):
        self.view = view
        self.stops = stops
        self.root = root
        self.nodes = 0
        self.passed: list[Value] = []
        self.refs: dict[Value, Ref] = {}

    def atom(self, value: Value, axes: tuple[int, ...]) -> Polynomial:
        whole = Ref(value, axes, 0, value.shape[axes[-1]]) if axes else Ref(value, axes, 0, 1)
        if self.refs.setdefault(value, whole) != whole or (
            value in self.stops and axes != _in_order(value)
        ):
            raise Unfit("the state's axes are in another order")
        return Polynomial.atom(value)

    def expand(self, value: Value, axes: tuple[int, ...]) -> Polynomial:
        number = scalar_value(self.view, value)
        # A factor that is zero is a state that starts as zeros.
        if number is not None and number != 0:
            return Polynomial.constant(float(number))
        if value in self.stops:
            return self.atom(value, axes)
        node = self.view.producer(value)
        self.nodes += 1
        if node is None or self.nodes > _MAX_NODES:
            return self.atom(value, axes)
        if self.root is not None and value is not self.root and node.op in ("add", "add_any"):
            return self.atom(value, axes)
        self.passed.append(value)
        inputs = self.view.inputs(node)
        match node.op:
            case "convert_element_type" | "copy":
                return self.expand(inputs[0], axes)
            case "transpose":
                # vmap leaves the gates of a cell without biases as its products give them.
                permutation = node.params["permutation"]
                return self.expand(inputs[0], tuple(int(permutation[a]) for a in axes))
            case "neg":
                return -self.expand(inputs[0], axes)
            case "add" | "add_any" | "sub" | "mul":
                if any(v.shape != value.shape and v.ndim for v in inputs):
                    return self.atom(value, axes)
                a, b = (self.expand(v, axes if v.ndim else ()) for v in inputs)
                if node.op == "mul":
                    return a * b
                return a - b if node.op == "sub" else a + b
            case _:
                return self.atom(value, axes)


def _in_order(value: Value) -> tuple[int, ...]:
    return tuple(range(value.ndim))


def polynomial(
    view: View, value: Value, stops: Collection[Value], alone: bool = False
) -> tuple[dict[frozenset[Value], float], list[Value], dict[Value, Ref]]:
    """``value`` as ``{set of factors: coefficient}``, the values on the way, and factors' axes.

    Args:
        view: the graph.
        value: what to read.
        stops: what is not looked into.
        alone: the old state is not known; of a cell before this one it would be a sum, and a sum
            inside is not looked into.

    Raises:
        Unfit: a factor occurs twice in a product, or the expression is too large.
    """
    expression = _Expression(view, stops, value if alone else None)
    terms = expression.expand(value, _in_order(value)).terms
    if expression.nodes > _MAX_NODES or len(terms) > 8:
        raise Unfit("the state is computed by too large an expression")
    if any(power != 1 for m in terms for _, power in m):
        raise Unfit("the state is multiplied with itself")
    found = {frozenset(a for a, _ in m): c for m, c in terms.items()}
    return found, expression.passed, expression.refs


def ref_of(refs: Mapping[Value, Ref], value: Value) -> Ref:
    """A factor of a polynomial with its axes as they stand there."""
    return refs[value] if value in refs else Ref.whole(value)
