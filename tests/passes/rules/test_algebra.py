"""Roots, powers and sums over one element: the same numbers but for rounding, and their limits."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from helpers import array, assert_applies, assert_refuses, positive
from jaxpress.capture import trace
from jaxpress.capture.edit import Editor
from jaxpress.passes import inline, rewrite
from jaxpress.passes.rules.algebra import (
    ALGEBRA_RULES,
    DIVIDE_BY_ROOT,
    POWER,
    RECIPROCAL_ROOT,
    is_not_negative,
)
from jaxpress.testing import assert_rewrites, check_rule

X, P = array(2, 3), positive(2, 3)


def power(x, y):
    """As it is written where the exponent comes from somewhere else."""
    return lax.pow(x, lax.full_like(x, y))


@pytest.mark.parametrize(
    ("fn", "x", "left"),
    [
        (lambda x: 1.0 / lax.sqrt(x), P, {"rsqrt": 1}),
        (lambda x: x / lax.sqrt(x + 1.0), P, {"add": 1, "rsqrt": 1, "mul": 1}),
        (lambda x: power(x, 2.0), X, {"integer_pow": 1}),
        (lambda x: power(x, 3.0), X, {"integer_pow": 1}),
        (lambda x: power(x, -1.0), P, {"integer_pow": 1}),
        (lambda x: power(lax.sin(x), 1.0), X, {"sin": 1}),
        (lambda x: power(lax.exp(x), 0.5), X, {"exp": 1, "sqrt": 1}),
        (lambda x: power(x * x + 0.1, -0.5), X, {"mul": 1, "add": 1, "rsqrt": 1}),
        (lambda x: lax.reduce_max(x[:, :1], (1,)), X, {"slice": 1, "reshape": 1}),
        (lambda x: lax.reduce_sum(x[:, :1], (1,)), X, {"slice": 1, "reshape": 1}),
        (lambda x: lax.reduce_prod(lax.sin(x), ()), X, {"sin": 1}),
    ],
)
def test_each_rule(fn, x, left) -> None:
    new = assert_applies(ALGEBRA_RULES, fn, x)
    assert {op: n for op, n in new.count().items() if op != "broadcast_in_dim"} == left


def test_special_values_keep_their_places() -> None:
    assert_rewrites(RECIPROCAL_ROOT, lambda x: 1.0 / lax.sqrt(x), P, vmap=False)
    check_rule(DIVIDE_BY_ROOT, lambda y, x: y / lax.sqrt(x), X, P)
    special = jnp.array([0.0, jnp.inf, jnp.nan, -1.0, 1e-38, 1e38])
    for fn in (lambda x: 1.0 / lax.sqrt(x), lambda x: power(x, 2.0), lambda x: power(x, -1.0)):
        new = assert_applies(ALGEBRA_RULES, fn, P)
        graph = trace(fn)(special)
        got, want = (np.asarray(jax.jit(g)(special)) for g in (assert_applied(graph), graph))
        np.testing.assert_allclose(got, want, rtol=1e-6)
        assert new.outputs[0].dtype == jnp.float32


def assert_applied(graph):
    new = rewrite(graph, ALGEBRA_RULES)
    assert new is not graph
    return new


@pytest.mark.parametrize(
    "fn",
    [
        lambda x: power(x, 0.5),  # of minus infinity infinity, whose root is not a number
        lambda x: power(x, -0.5),
        lambda x: power(lax.max(x, lax.full_like(x, 0.0)), 0.5),  # perhaps minus zero
        lambda x: power(x, 0.0),
        lambda x: power(x, 2.5),
        lambda x: power(x, 17.0),
        lambda x: lax.pow(x, x),
        lambda x: 2.0 / x,
        lambda x: lax.square(lax.sqrt(x)),
        lambda x: 1.0 / lax.cbrt(x),
        lambda x: lax.reduce_max(x, (0,)),
        lambda x: lax.reduce_sum(x, (0, 1)),
        lambda x: (lambda r: (1.0 / r, r))(lax.sqrt(x)),
    ],
)
def test_what_differs_somewhere_stays(fn) -> None:
    assert_refuses(ALGEBRA_RULES, fn, X)


def test_whole_numbers_complex_numbers_and_symbolic_sizes() -> None:
    n, z = jnp.arange(6).reshape(2, 3), X.astype("complex64")
    assert_refuses(ALGEBRA_RULES, lambda n: lax.div(lax.full_like(n, 1), n * n + 1), n)
    assert_refuses(ALGEBRA_RULES, lambda z: 1.0 / lax.sqrt(z), z)
    assert_refuses(ALGEBRA_RULES, lambda z: power(z, 2.0), z)
    (b,) = jax.export.symbolic_shape("b")
    shape = jax.ShapeDtypeStruct((b, 3), jnp.float32)
    assert_refuses(ALGEBRA_RULES, lambda x: lax.reduce_sum(x, (0,)), shape)
    assert_refuses(POWER, lambda x: lax.pow(x[:, :1] * x[:1], x), X, because="data")


@pytest.mark.parametrize(
    ("fn", "yes"),
    [
        (lambda x: x * x, True),
        (lambda x: lax.square(x) + 1e-5, True),
        (lambda x: jnp.var(x, 1), False),  # a difference, as far as one can see
        (lambda x: jnp.mean(x * x, 1, keepdims=True) + 1e-6, True),
        (lambda x: lax.abs(x).reshape(-1), True),
        (lambda x: lax.integer_pow(x, 2), True),
        (lambda x: lax.integer_pow(x, 3), False),
        (lambda x: lax.exp(x) - 1.0, False),
        (lambda x: lax.logistic(x) * -1.0, False),
        (lambda x: x * lax.abs(x), False),
        (lambda x: x * x + lax.full_like(x, -0.0), False),
        (lambda x: x, False),
    ],
)
def test_what_is_not_negative(fn, yes) -> None:
    graph = inline(trace(fn)(X))
    assert is_not_negative(Editor(graph), graph.outputs[0]) == yes
