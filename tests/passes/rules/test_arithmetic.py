"""Products and polynomials are read off a graph, whatever way they were written."""

from __future__ import annotations

import jax.numpy as jnp
import pytest

from helpers import array
from jaxpress.capture import trace
from jaxpress.capture.edit import Editor
from jaxpress.passes import cleanup
from jaxpress.passes.rules.arithmetic import number_of, polynomial_in, product_of, same_number

X = array(3, 4)


def graph_of(fn, *args):
    graph = cleanup(trace(fn)(*args))
    return graph, Editor(graph)


def polynomial(fn):
    graph, view = graph_of(fn, X)
    return polynomial_in(view, graph.outputs[0], graph.inputs[0], [])


@pytest.mark.parametrize(
    "fn, terms",
    [
        (lambda x: x, {1: 1}),
        (lambda x: 3 * x + 1, {1: 3, 0: 1}),
        (lambda x: (x - 2) / 4, {1: 0.25, 0: -0.5}),
        (lambda x: -x * x, {2: -1}),
        (lambda x: x**3 + jnp.square(x), {3: 1, 2: 1}),
        (lambda x: jnp.power(x, 2.0) * x, {3: 1}),
        (lambda x: x * (1 + x * x), {1: 1, 3: 1}),
        (lambda x: x * jnp.asarray(0.5), {1: 0.5}),
        (lambda x: jnp.sqrt(0.25) * x, {1: 0.5}),
    ],
)
def test_polynomials(fn, terms) -> None:
    assert polynomial(fn) == terms


@pytest.mark.parametrize(
    "fn",
    [
        jnp.sin,
        lambda x: 1 / x,
        lambda x: x**5,
        lambda x: x**0.5,
        lambda x: x * X,
        lambda x: x / 0,
        lambda x: x.sum() + x,
    ],
)
def test_what_is_no_polynomial(fn) -> None:
    assert polynomial(fn) is None


def product(fn, *args):
    graph, view = graph_of(fn, *args)
    return graph, product_of(view, graph.nodes[-1])


def test_products() -> None:
    graph, p = product(lambda x, y, z: -0.5 * x * y / (z * 2), X, X, X)
    x, y, z = graph.inputs
    assert (p.coefficient, set(p.over), p.under) == (-0.25, {x, y}, [z])
    assert len(p.nodes) == 4
    _, p = product(lambda x, y: x / (1 / y), X, X)
    assert len(p.over) == 2 and not p.under


def test_a_product_with_another_user_is_one_factor() -> None:
    def fn(x, y):
        z = x * y
        return jnp.sin(z), z * 2

    graph, view = graph_of(fn, X, X)
    (node,) = [n for n in graph.nodes if n.output is graph.outputs[1]]
    assert product_of(view, node).over == [graph.nodes[0].output]


def test_products_that_are_too_large_or_broadcast() -> None:
    assert product(lambda x, y: x * y, X, X[:1])[1] is None
    five = [X + i for i in range(5)]
    assert product(lambda a, b, c, d, e: a * b * c * d * e, *five)[1] is None


def test_numbers() -> None:
    closed = jnp.float32(0.5)
    graph, view = graph_of(lambda x: (x + closed, x + 2.0, x + X[0], x + x), X)
    values = [number_of(view, n.inputs[1]) for n in graph.nodes if n.op == "add"]
    assert values == [0.5, 2.0, None, None]


def test_same_number() -> None:
    assert same_number(0.7978845608, 0.7978845608028654, jnp.float32)
    assert not same_number(0.79789, 0.7978845608028654, jnp.float32)
    assert same_number(0.796875, 0.7978845608028654, jnp.bfloat16)
    assert not same_number(0.5, 0.7978845608028654, jnp.bfloat16)
    assert not same_number(0.7978846, 0.7978845608028654, jnp.float64)
