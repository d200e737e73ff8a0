"""Small polynomials over values that are the same for every sample: ``scale * rsqrt(var + eps)``.

Libraries write a batch norm in many ways. As ``x * A + B`` with polynomials ``A`` and ``B`` they
are all one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from jax import lax

from jaxpress.capture import Literal, Value
from jaxpress.passes.view import View, channel_base, scalar_value

__all__ = [
    "Deviation",
    "Frozen",
    "Polynomial",
    "divide_by_monomial",
    "evaluate",
    "freeze",
    "polynomial_of",
    "value_of",
]

_MAX_DEPTH = 12
_MAX_TERMS = 32


@dataclass(frozen=True)
class Deviation:
    """The atom ``sqrt(var + epsilon)``."""

    var: Value
    epsilon: float


# A monomial maps atoms to powers and is kept as a frozenset of pairs.
Monomial = frozenset
ONE: Monomial = frozenset()


class Polynomial:
    """A sum of monomials with coefficients; negative powers are allowed."""

    __slots__ = ("terms",)

    def __init__(self, terms: dict[Monomial, float]):
        self.terms = {m: c for m, c in terms.items() if c != 0}

    @staticmethod
    def constant(c: float) -> Polynomial:
        return Polynomial({ONE: c})

    @staticmethod
    def atom(a: Any, power: int = 1) -> Polynomial:
        return Polynomial({frozenset({(a, power)}): 1.0})

    def __add__(self, other: Polynomial) -> Polynomial:
        terms = dict(self.terms)
        for m, c in other.terms.items():
            terms[m] = terms.get(m, 0.0) + c
        return Polynomial(terms)

    def __neg__(self) -> Polynomial:
        return Polynomial({m: -c for m, c in self.terms.items()})

    def __sub__(self, other: Polynomial) -> Polynomial:
        return self + (-other)

    def __mul__(self, other: Polynomial) -> Polynomial:
        terms: dict[Monomial, float] = {}
        for m, c in self.terms.items():
            for n, d in other.terms.items():
                k = multiply(m, n)
                terms[k] = terms.get(k, 0.0) + c * d
        return Polynomial(terms)

    def inverse(self) -> Polynomial | None:
        """``1 / self`` for a single monomial; ``None`` otherwise."""
        if len(self.terms) != 1:
            return None
        ((m, c),) = self.terms.items()
        return Polynomial({frozenset((a, -p) for a, p in m): 1.0 / c})

    def deviations(self) -> set[Deviation]:
        """Every ``sqrt(var + eps)`` that occurs."""
        return {a for m in self.terms for a, _ in m if isinstance(a, Deviation)}

    def values(self) -> list[Value]:
        """Every value that occurs outside a deviation, in a stable order."""
        found = {a: None for m in self.terms for a, _ in sorted(m, key=_atom_key)}
        return [a for a in found if isinstance(a, Value)]


def _atom_key(pair: tuple[Any, int]) -> tuple[str, int]:
    atom, power = pair
    return (atom.name if isinstance(atom, Value) else f"~{atom.var.name}", power)


def multiply(m: Monomial, n: Monomial) -> Monomial:
    """The product of two monomials."""
    powers = dict(m)
    for a, p in n:
        powers[a] = powers.get(a, 0) + p
    return frozenset((a, p) for a, p in powers.items() if p)


def divide_by_monomial(p: Polynomial, m: Monomial, c: float) -> tuple[Polynomial, Polynomial]:
    """``(quotient, rest)`` with ``p == quotient * c * m + rest``.

    A term goes into the quotient only where every power of ``m`` is cancelled in full.
    """
    inverse = frozenset((a, -k) for a, k in m)
    quotient: dict[Monomial, float] = {}
    rest: dict[Monomial, float] = {}
    for term, k in p.terms.items():
        divided = multiply(term, inverse)
        powers = dict(divided)
        whole = all(powers.get(a, 0) * (1 if k > 0 else -1) >= 0 for a, k in m)
        if whole:
            quotient[divided] = k / c
        else:
            rest[term] = k
    return Polynomial(quotient), Polynomial(rest)


def polynomial_of(view: View, value: Value, axes: set[int], depth: int = 0) -> Polynomial | None:
    """``value`` as a polynomial, if it varies along one axis at most.

    Args:
      view: the graph.
      value: what to read.
      axes: the axes along which the pieces vary are added to it.
      depth: how deep the expression may still go.

    Returns:
      ``None`` for a value that varies along several axes, or too large an expression.
    """
    number = scalar_value(view, value)
    if number is not None:
        return Polynomial.constant(float(number))
    found = channel_base(view, value)
    if found is None:
        return None
    base, axis = found
    if depth == 0 and axis is not None:
        axes.add(axis)
    number = scalar_value(view, base)
    if number is not None:
        return Polynomial.constant(float(number))
    if depth < _MAX_DEPTH:
        parsed = _parse(view, base, axes, depth)
        if parsed is not None and len(parsed.terms) <= _MAX_TERMS:
            return parsed
    return Polynomial.atom(base)


def _parse(view: View, value: Value, axes: set[int], depth: int) -> Polynomial | None:
    node = view.producer(value)
    if node is None:
        return None
    inputs = view.inputs(node)

    def part(i: int) -> Polynomial | None:
        return polynomial_of(view, inputs[i], axes, depth + 1)

    match node.op:
        case "add" | "add_any" | "sub" | "mul" | "div":
            a, b = part(0), part(1)
            if a is None or b is None:
                return None
            if node.op == "div":
                inverse = b.inverse()
                return None if inverse is None else a * inverse
            if node.op == "mul":
                return a * b
            return a - b if node.op == "sub" else a + b
        case "neg":
            a = part(0)
            return None if a is None else -a
        case "rsqrt" | "sqrt":
            deviation = _deviation(view, inputs[0])
            if deviation is None:
                return None
            return Polynomial.atom(deviation, -1 if node.op == "rsqrt" else 1)
        case "pow" | "integer_pow":
            return _power(view, node, inputs)
        case _:
            return None


def _power(view: View, node: Any, inputs: tuple[Value, ...]) -> Polynomial | None:
    """``(var + eps) ** -0.5`` and its inverse; other powers are atoms."""
    if node.op == "integer_pow":
        return None
    exponent = scalar_value(view, inputs[1])
    if exponent is None or float(exponent) not in (0.5, -0.5):
        return None
    deviation = _deviation(view, inputs[0])
    return None if deviation is None else Polynomial.atom(deviation, int(2 * float(exponent)))


def _deviation(view: View, value: Value) -> Deviation | None:
    """``var + epsilon`` as the inside of a square root."""
    found = channel_base(view, value)
    if found is None:
        return None
    value = found[0]
    node = view.producer(value)
    if node is None or node.op != "add":
        return None
    for var, eps in (view.inputs(node), view.inputs(node)[::-1]):
        number = scalar_value(view, eps)
        base = channel_base(view, var)
        if number is not None and base is not None and not isinstance(base[0], Literal):
            # 0.001 in float32 is meant to be 0.001; in less than float32 it is what it is.
            epsilon = str(number) if eps.dtype == np.float32 else number
            return Deviation(base[0], float(epsilon))
    return None


def evaluate(p: Polynomial, arrays: dict[Value, Any], one: Any) -> Any:
    """The polynomial's value on arrays, without deviations; ``one`` gives shape and dtype."""
    # lax, not operators: jax.numpy's are jitted one by one, and traced for each new shape.
    total = None
    for m, c in p.terms.items():
        term = None
        for atom, power in sorted(m, key=_atom_key):
            for _ in range(abs(power)):
                x = arrays[atom]
                if term is None:
                    term = x if power > 0 else lax.div(one, x)
                else:
                    term = lax.mul(term, x) if power > 0 else lax.div(term, x)
        if term is None:
            term = lax.full_like(one, c)
        elif c == -1:
            term = lax.neg(term)
        elif c != 1:
            term = lax.mul(term, lax.full_like(term, c))
        total = term if total is None else lax.add(total, term)
    return lax.full_like(one, 0) if total is None else total


# A polynomial over numbered atoms, hashable, as a match's facts have to be.
Frozen = tuple[tuple[float, tuple[tuple[int, int], ...]], ...]


def freeze(p: Polynomial, atoms: list[Value]) -> Frozen:
    """The polynomial with each atom as its place in ``atoms``."""
    place = {v: i for i, v in enumerate(atoms)}
    terms = [(c, tuple(sorted((place[a], k) for a, k in m))) for m, c in p.terms.items()]
    return tuple(sorted(terms))


def value_of(frozen: Frozen, arrays: list[Any], one: Any) -> Any:
    """A frozen polynomial's value on arrays; ``one`` gives shape and dtype."""
    atoms = [Value(str(i), None) for i in range(len(arrays))]
    terms = {frozenset((atoms[i], k) for i, k in m): c for c, m in frozen}
    return evaluate(Polynomial(terms), dict(zip(atoms, arrays, strict=True)), one)
