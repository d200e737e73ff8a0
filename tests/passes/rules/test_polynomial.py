"""Polynomials over parameters: arithmetic, and how expressions of a graph are read as them."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from helpers import array, positive
from jaxpress.capture import Value, trace
from jaxpress.capture.edit import Editor
from jaxpress.passes.rules.polynomial import (
    Deviation,
    Polynomial,
    divide_by_monomial,
    evaluate,
    polynomial_of,
)

A, B, V = (Value(name, None) for name in "abv")
a, b = Polynomial.atom(A), Polynomial.atom(B)
one, two = Polynomial.constant(1.0), Polynomial.constant(2.0)


def same(p, q):
    return p.terms == q.terms


def test_arithmetic() -> None:
    assert same((a + b) * (a - b), a * a - b * b)
    assert same(a + a, two * a)
    assert same(-(a - b), b - a)
    assert same(a - a, Polynomial({}))
    assert same(a * a.inverse(), one)
    assert same((two * a * b).inverse(), Polynomial.constant(0.5) * a.inverse() * b.inverse())


def test_a_sum_has_no_inverse() -> None:
    assert (a + b).inverse() is None
    assert Polynomial({}).inverse() is None


def test_values_and_deviations() -> None:
    deviation = Deviation(V, 1e-5)
    p = Polynomial.atom(deviation, -1) * a + b
    assert p.deviations() == {deviation}
    assert set(p.values()) == {A, B}
    assert Deviation(V, 1e-5) == deviation != Deviation(V, 1e-3)


def test_division_by_a_monomial() -> None:
    ((monomial, coefficient),) = (two * a).terms.items()
    quotient, rest = divide_by_monomial(a * b + b * b + two * a, monomial, coefficient)
    assert same(quotient, Polynomial.constant(0.5) * b + one)
    assert same(rest, b * b)


def test_division_takes_whole_powers_only() -> None:
    ((monomial, coefficient),) = (a * a).terms.items()
    quotient, rest = divide_by_monomial(a * b, monomial, coefficient)
    assert same(quotient, Polynomial({})) and same(rest, a * b)


def test_evaluation() -> None:
    x, y = np.float32([1, 2, 4]), np.float32([3, 5, 7])
    p = two * a * a - b * a.inverse() + Polynomial.constant(0.5)
    got = evaluate(p, {A: x, B: y}, np.ones(3, np.float32))
    np.testing.assert_allclose(got, 2 * x * x - y / x + 0.5)
    np.testing.assert_array_equal(evaluate(Polynomial({}), {}, np.ones(3)), np.zeros(3))


W, X, VAR = array(4, seed=1), array(4, seed=2), positive(4)


def read(fn, *args):
    """The polynomial of ``fn``'s result, the axes it varies along, and its value from atoms."""
    graph = trace(fn)(*args)
    axes: set[int] = set()
    p = polynomial_of(Editor(graph), graph.outputs[0], axes)
    return graph, p, axes


@pytest.mark.parametrize(
    "fn",
    [
        lambda w, x: w * x + w,
        lambda w, x: (w - x) * 2.0 - w / x,
        lambda w, x: -(w + 1.0) * (x - 3.0),
        lambda w, x: jnp.reshape(w * x, (1, 4)) - 1.0,
        lambda w, x: jnp.broadcast_to((w / 4.0 * x)[:, None, None], (4, 2, 3)),
    ],
)
def test_expressions_are_read_as_what_they_compute(fn) -> None:
    graph, p, axes = read(fn, W, X)
    assert len(axes) == 1
    arrays = dict(zip(graph.inputs, (W, X), strict=True))
    want = np.moveaxis(np.asarray(fn(W, X)), axes.pop(), -1).reshape(-1, 4)[0]
    np.testing.assert_allclose(evaluate(p, arrays, jnp.ones(4)), want, rtol=1e-5)


@pytest.mark.parametrize(
    ("fn", "power"),
    [
        (lambda v: lax.rsqrt(v + 1e-3), -1),
        (lambda v: jnp.sqrt(v + 1e-3), 1),
        (lambda v: 1 / jnp.sqrt(1e-3 + v), -1),
        (lambda v: (v + 1e-3) ** -0.5, -1),
        (lambda v: (v + 1e-3) ** 0.5, 1),
        (lambda v: lax.rsqrt(jnp.reshape(v, (1, 4)) + 1e-3), -1),
        (lambda v: jnp.reshape(lax.rsqrt(v + 1e-3), (4, 1)), -1),
    ],
)
def test_square_roots_are_read_as_deviations(fn, power) -> None:
    graph, p, _ = read(fn, VAR)
    assert p.terms == {frozenset({(Deviation(graph.inputs[0], 1e-3), power)}): 1.0}


@pytest.mark.parametrize(
    "fn",
    [
        lambda v: jnp.exp(v),
        lambda v: jnp.sqrt(v),
        lambda v: lax.rsqrt(v * 1e-3),
        lambda v: lax.rsqrt(v + v),
        lambda v: (v + 1e-3) ** -0.25,
        lambda v: (v + 1e-3) ** 2.0,
    ],
)
def test_everything_else_is_an_atom_of_its_own(fn) -> None:
    graph, p, axes = read(fn, VAR)
    assert p.terms == {frozenset({(graph.outputs[0], 1)}): 1.0} and axes == {0}


def test_what_varies_along_two_axes_is_none() -> None:
    assert read(lambda w, x: w[:, None] * x, W, X)[1] is None
    assert read(lambda w: jnp.reshape(w, (2, 2)), W)[1] is None


def test_scalars_are_constants() -> None:
    _, p, axes = read(lambda w: jnp.full(4, 2.5), W)
    assert same(p, Polynomial.constant(2.5)) and axes == set()


def test_epsilon_is_as_exact_as_its_dtype() -> None:
    _, p, _ = read(lambda v: lax.rsqrt(v + 1e-3), VAR)
    assert [d.epsilon for d in p.deviations()] == [1e-3]
    _, p, _ = read(lambda v: lax.rsqrt(v + 1e-3), VAR.astype("bfloat16"))
    assert [d.epsilon for d in p.deviations()] == [float(jnp.bfloat16(1e-3))]


def test_too_large_an_expression_is_an_atom() -> None:
    def fn(w, x):
        for _ in range(40):
            w = (w + x) * (w - 1.0)
        return w

    graph, p, _ = read(fn, W, X)
    assert p is None or len(p.terms) <= 64
    del graph
