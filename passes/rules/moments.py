"""Expressions in an array, its mean and its mean square, as polynomials.

Libraries write a norm in many ways: with the variance as ``mean((x - m)**2)`` or
``mean(x**2) - m**2``, with the scale in the root's factor or behind it. As polynomials in x, its
mean m, its mean square and one root they are all one. A `Reading` reads a value so; what it meets
on the way (places, dtypes, the axes that are summed over) it keeps.
"""

from __future__ import annotations

import math
from typing import Any

import jax.numpy as jnp

from jaxpress.capture import Literal, Node, Value
from jaxpress.passes.rules.axes import (
    MOVES,
    Axis,
    Place,
    align,
    leaves,
    place_below,
    place_in_part,
    place_of_slice,
    strip,
)
from jaxpress.passes.rules.moment_atoms import (
    IS_MEAN,
    IS_SQUARE,
    MEAN,
    MEAN_TWICE,
    PART_MEAN,
    PART_SQUARE,
    SQUARE_ONCE,
    VARIANCE,
    Clipped,
    Root,
    X,
    bare_root,
    close,
    inverse,
    is_close,
    is_plain,
    moment_of,
    root_of,
)
from jaxpress.passes.rules.parameters import is_parameter
from jaxpress.passes.rules.polynomial import Polynomial
from jaxpress.passes.rules.scalars import number
from jaxpress.passes.view import View

__all__ = ["Reading", "Sum"]


class Sum:
    """One reduction.

    Attributes:
      node: the reduction.
      bound: the axes that it runs over, those of sums inside it included.
      length: how many elements it adds.
      inner: how many of x each of those is a mean of.
      x: where x stands inside.
    """

    __slots__ = ("bound", "inner", "length", "node", "x")

    def __init__(self, node: Node, bound: list[Axis], length: int):
        self.node = node
        self.bound = bound
        self.length = length
        self.inner: int | None = None
        self.x: list[Axis] | None = None

    @property
    def count(self) -> int:
        """How many elements of x are added."""
        return self.length * (self.inner or 1)


_MAX_READS = 160
_MAX_TERMS = 32
_ALGEBRA = frozenset(
    {"add", "add_any", "sub", "mul", "div", "neg", "square", "integer_pow", "pow", "sqrt", "rsqrt",
     "reduce_sum", "psum", "max", "min", "select_n"}
)  # fmt: skip


class Reading:
    """Values of a graph as polynomials in ``x``.

    Attributes:
      x: the array whose moments count, bare of reshapes.
      result: where the values stand that are read.
      views: the forms of it that were met outside all sums, and where they stand.
      place: where x stands outside all sums, once it was met there.
      sums: the reductions that were met.
      parameters: what else was met, and where it stands.
      computed: every value that was read and is made from x, but x itself; as last read.
      spelling: how a variance and a mean were written: ``"fast"`` for ``mean(x**2) - mean(x)**2``,
        ``"clamped"`` if held above zero, ``"keepdims"`` if the mean has x's rank when divided.
      reason: why something could not be read.
    """

    def __init__(self, view: View, x: Value, result: Place):
        self.view = view
        self.x = x
        self.result = result
        self.views: dict[Value, Place] = {}
        self.place: list[Axis] | None = None
        self.sums: list[Sum] = []
        self.parameters: dict[Value, Place] = {}
        self.computed: dict[Value, Polynomial] = {}
        self.spelling: set[str] = set()
        self.reason = ""
        self._memo: dict[Any, Polynomial | None] = {}
        self._stack: list[Sum] = []
        self._reads = 0

    def read(self, value: Value, place: Place) -> Polynomial | None:
        """``value`` as a polynomial, if it is one; ``place`` says where it stands."""
        c = number(self.view, value)
        if c is not None:
            return Polynomial.constant(c)
        if value.ndim != len(place) and value.ndim:
            return None
        # Arithmetic repeats dimensions of size 1 without saying so.
        place = tuple(
            () if isinstance(n, int) and n == 1 else p
            for n, p in zip(value.shape, place, strict=False)
        )
        key = (value, place, self._stack[-1] if self._stack else None)
        if key in self._memo:
            return self._memo[key]
        self._reads += 1
        if self._reads > _MAX_READS or isinstance(value, Literal):
            return None
        found = self._memo[key] = self._read(value, place)
        return found

    def is_statistic(self, value: Value) -> bool:
        """Whether it is the mean or the variance, and nothing but that."""
        p = self.computed.get(value)
        return p is not None and (close(p, IS_MEAN) or close(p, VARIANCE))

    def is_mean(self, value: Value) -> bool:
        """Whether it is the mean."""
        return close(self.computed[value], IS_MEAN)

    def _read(self, value: Value, place: Place) -> Polynomial | None:
        view = self.view
        if value is self.x or strip(view, value) is self.x:
            return self._x(value, place)
        node = view.producer(value)
        if node is not None:
            if node.op in MOVES:
                return self._moved(value, node, place)
            if node.op in _ALGEBRA and (not view.is_known(value) or view.is_known(self.x)):
                p = self._algebra(node, place)
                if p is None or len(p.terms) > _MAX_TERMS:
                    return None
                return self._made(value, p)
            if node.op in ("slice", "stack", "concatenate"):
                p = self._part(value, node, place)
                if p is not None:
                    return p
        if not jnp.issubdtype(value.dtype, jnp.floating) or not is_parameter(view, value, self.x):
            self.reason = self.reason or f"{value!r} is no parameter, and no moment of the data"
            return None
        before = self.parameters.setdefault(value, place)
        if [leaves(dims) for dims in before] != [leaves(dims) for dims in place]:
            return None  # one array, laid along different axes
        return Polynomial.atom(value)

    def _x(self, value: Value, place: Place) -> Polynomial | None:
        if not self._stack:
            self.views[value] = place
        base: Place | None = place
        while value is not self.x and base is not None:
            node = self.view.producer(value)
            assert node is not None
            base = place_below(self.view, node, base)
            value = self.view.inputs(node)[0]
        if base is None:
            return None
        row = [axis for dims in base for axis in dims]
        before = self._stack[-1].x if self._stack else self.place
        if before is None:
            if self._stack:
                self._stack[-1].x = row
            else:
                self.place = row
        elif not align(before, row) or leaves(before) != leaves(row):
            return None
        return Polynomial.atom(X)

    def _moved(self, value: Value, node: Node, place: Place) -> Polynomial | None:
        below = place_below(self.view, node, place)
        if below is None:
            return None
        operand = self.view.inputs(node)[0]
        p = self.read(operand, below)
        if p is None:
            return None
        if node.op == "convert_element_type":
            both = (operand.dtype, value.dtype)
            if not all(jnp.issubdtype(d, jnp.floating) for d in both):
                return None
        return self._made(value, p)

    def _part(self, value: Value, node: Node, place: Place) -> Polynomial | None:
        """One of several statistics that were reduced together."""
        if node.op != "slice":
            found = place_in_part(self.view, node, place)
        elif is_parameter(self.view, value, self.x):
            return None
        else:
            below = place_of_slice(self.view, node, place)
            found = None if below is None else (self.view.inputs(node)[0], below)
        p = None if found is None else self.read(*found)
        return None if p is None else self._made(value, p)

    def _made(self, value: Value, p: Polynomial) -> Polynomial:
        if not is_plain(p):
            self.computed[value] = p
        return p

    def _algebra(self, node: Node, place: Place) -> Polynomial | None:
        inputs = self.view.inputs(node)
        match node.op:
            case "add" | "add_any" | "sub" | "mul" | "div":
                a = self.read(inputs[0], place)
                b = None if a is None else self.read(inputs[1], place)
                if a is None or b is None:
                    return None
                return self._binary(node, a, b)
            case "neg":
                a = self.read(inputs[0], place)
                return None if a is None else -a
            case "square":
                a = self.read(inputs[0], place)
                return None if a is None else a * a
            case "integer_pow" | "pow":
                return self._power(node, inputs, place)
            case "sqrt" | "rsqrt":
                return self._root(inputs[0], place, 1 if node.op == "sqrt" else -1)
            case "reduce_sum" | "psum":
                return self._sum(node, inputs, place)
            case "max" | "min":
                return self._clip(node, inputs, place)
            case _:
                return self._select(inputs, place)

    def _binary(self, node: Node, a: Polynomial, b: Polynomial) -> Polynomial | None:
        match node.op:
            case "sub":
                if a.terms.keys() == {SQUARE_ONCE} and b.terms.keys() == {MEAN_TWICE}:
                    self.spelling.add("fast")
                return a - b
            case "mul":
                return a * b
            case "div":
                reciprocal = inverse(b)
                if reciprocal is None:
                    return None
                p = a * reciprocal
                if close(p, IS_MEAN) and node.output.ndim == self.x.ndim:
                    self.spelling.add("keepdims")
                return p
        return a + b

    def _power(self, node: Node, inputs: tuple[Value, ...], place: Place) -> Polynomial | None:
        y: Any = node.params["y"] if node.op == "integer_pow" else number(self.view, inputs[1])
        if y in (0.5, -0.5):
            return self._root(inputs[0], place, int(2 * y))
        if y not in (-2, -1, 1, 2, 3, 4):
            return None
        p = self.read(inputs[0], place)
        if p is not None and y < 0:
            p = inverse(p)
        if p is None:
            return None
        out = p
        for _ in range(abs(int(y)) - 1):
            out = out * p
        return out

    def _root(self, inside: Value, place: Place, power: int) -> Polynomial | None:
        p = self.read(inside, place)
        root = root_of(p, self.sums[-1].count) if p is not None and self.sums else None
        if root is None:
            self.reason = self.reason or (
                "under the root is neither x's variance plus a number, nor its mean square or sum "
                "of squares"
            )
            return None
        return root if power == 1 else root.inverse()

    def _sum(self, node: Node, inputs: tuple[Value, ...], place: Place) -> Polynomial | None:
        operand, axes = inputs[0], node.params["axes"]
        # Of a mapped axis that vmap has made one of the array's.
        by_name = any(isinstance(a, str) for a in axes) or node.params.get("axis_index_groups")
        if len(inputs) != 1 or by_name:
            return None
        axes = sorted(int(a) for a in axes)
        lengths = [operand.shape[a] for a in axes]
        if not all(isinstance(n, int) and n > 0 for n in lengths):
            return None
        new = [Axis(n) for n in lengths]
        inner: list[tuple[Axis, ...]] = list(place)
        for a, axis in zip(axes, new, strict=True):
            inner.insert(a, (axis,) if axis.size != 1 else ())
        record = Sum(node, new, math.prod(lengths))
        self._stack.append(record)
        p = self.read(operand, tuple(inner))
        self._stack.pop()
        if p is None or record.x is None:
            return None
        whole = self._close(record)
        if whole is None:
            return None
        first, second = (IS_MEAN, IS_SQUARE) if whole else _PARTS
        meaning = {(): Polynomial.constant(1.0), ((X, 1),): first, ((X, 2),): second}
        meaning |= {((PART_MEAN, 1),): first, ((PART_SQUARE, 1),): second}
        total = Polynomial({})
        for monomial, c in p.terms.items():
            # What is left has to be the same all along the axes that are summed over.
            rest = frozenset((a, k) for a, k in monomial if a is MEAN)
            moment = meaning.get(tuple(monomial - rest))
            if moment is None:
                return None
            total += Polynomial({rest: c * record.length}) * moment
        return total

    def _close(self, record: Sum) -> bool | None:
        """Whether a sum is over all it needs, and not a part of the one around it."""
        x = set(leaves(record.x or ()))
        around = [s for s in self._stack if not x.isdisjoint(leaves(s.bound))]
        if not around:
            self.sums.append(record)
            return True
        outer = self._stack[-1]
        if around != [outer] or outer.inner not in (None, record.count):
            return None
        if outer.x is not None and leaves(outer.x) != leaves(record.x or ()):
            return None
        outer.inner, outer.x = record.count, record.x
        outer.bound.extend(record.bound)
        return False

    def _clip(self, node: Node, inputs: tuple[Value, ...], place: Place) -> Polynomial | None:
        bounds = [number(self.view, v) for v in inputs]
        if (bounds[0] is None) == (bounds[1] is None):
            return None
        bound = next(c for c in bounds if c is not None)
        p = self.read(inputs[0] if bounds[0] is None else inputs[1], place)
        if p is None or len(p.terms) > 2:
            return None
        if node.op == "max" and bound == 0 and self._is_moment(p):
            # Above zero is where it is; the derivative at zero meets a factor of zero.
            self.spelling.add("clamped")
            return p
        if bound <= 0 or not self.sums:
            return None
        bare = bare_root(p, 1 if node.op == "max" else -1)
        if bare is not None:
            # max(c * root, e) -> c * max(root, e / c); min(c / root, e) -> c / max(root, c / e)
            kind, c = bare
            power, epsilon = (1, bound / c) if node.op == "max" else (-1, c / bound)
            return Polynomial({frozenset({(Root(kind, epsilon, "norm"), power)}): c})
        moment = moment_of(p, self.sums[-1].count) if node.op == "max" else None
        if moment is None or moment[2]:
            return None
        kind, c, _ = moment
        clipped = Clipped(kind, math.sqrt(bound / c))
        return Polynomial({frozenset({(clipped, 1)}): c})

    def _is_moment(self, p: Polynomial) -> bool:
        """Whether it is a variance or a mean square, which are never below zero."""
        square, mean = p.terms.get(SQUARE_ONCE, 0.0), p.terms.get(MEAN_TWICE, 0.0)
        if len(p.terms) == 1:
            return square > 0
        return square > 0 and is_close(mean / square, -1)

    def _select(self, inputs: tuple[Value, ...], place: Place) -> Polynomial | None:
        which = number(self.view, inputs[0])
        if which is None or not 0 <= int(which) < len(inputs) - 1:
            return None
        return self.read(inputs[1 + int(which)], place)


_PARTS = Polynomial.atom(PART_MEAN), Polynomial.atom(PART_SQUARE)
