"""Matches across the boundary of ``jit``: found without inlining, and no other call is opened."""

from __future__ import annotations

import functools
import time

import jax
import jax.numpy as jnp
import pytest
from jax import lax

from helpers import array, assert_close, assert_refuses, rewritten
from jaxpress.capture import trace
from jaxpress.passes import Rule, any_value, inline, op, rewrite, scalar

X = array(2, 3)
TAN = Rule("tan", op("div", op("sin", any_value("x")), op("cos", any_value("x"))), jnp.tan)
jit_sin, jit_cos = jax.jit(lambda x: lax.sin(x)), jax.jit(lambda x: lax.cos(x))


def inside_of_one(x):
    return jit_sin(x) / lax.cos(x)


def from_outside(x):
    return jax.jit(lambda s, x: s / lax.cos(x))(lax.sin(x), x)


def of_two(x):
    return jit_sin(x) / jit_cos(x)


def nested(x):
    return jax.jit(lambda x: jit_sin(x) * 1)(x) / jax.jit(lambda x: jax.jit(jit_cos)(x))(x)


def in_a_loop(x):
    return lax.fori_loop(0, 2, lambda _, y: jit_sin(y) / lax.cos(y), x)


def in_remat(x):
    return jax.checkpoint(of_two)(x)


@pytest.mark.parametrize("fn", [inside_of_one, from_outside, of_two, in_a_loop, in_remat])
def test_a_match_across_calls(fn) -> None:
    new, rules = rewritten(TAN, fn, X)
    assert rules == ["tan"] and not new.find("sin") and not new.find("jit")
    assert_close(new(X), fn(X), 1e-5)


def test_calls_in_calls() -> None:
    one = Rule("one", op("mul", any_value("x"), 1.0), lambda x: x)
    new, rules = rewritten(one + TAN, nested, X)
    assert sorted(rules) == ["one", "tan"] and new.count() == {"tan": 1}


def test_calls_that_are_in_no_match_stay() -> None:
    keep = jax.jit(lambda x: lax.exp(lax.sin(x)))

    def fn(x):
        return of_two(x) + keep(x)

    new, rules = rewritten(TAN, fn, X)
    assert rules == ["tan"] and new.count()["jit"] == 1
    graph = trace(keep)(X)
    assert rewrite(graph, TAN) is graph


def test_a_match_within_a_call_leaves_the_call() -> None:
    new, rules = rewritten(TAN, lambda x: jax.jit(of_two)(x) + 1, X)
    assert rules == ["tan"]
    assert new.count() == {"jit": 1, "tan": 1, "add": 1}


def test_a_scalar_that_a_call_is_given() -> None:
    double = Rule("double", op("mul", any_value("x"), scalar(name="c")), lambda x, c: x + x,
                  lambda m: None if m["c"].val == 2 else "not 2")  # fmt: skip
    scale = jax.jit(lambda x, c: x * c)
    new, rules = rewritten(double, lambda x: scale(x, 2.0), X)
    assert rules == ["double"]  # the body alone does not know the number
    assert_close(new(X), X * 2)
    assert_refuses(double, lambda x: scale(x, 3.0), X)


def test_calls_with_something_of_their_own_are_not_opened() -> None:
    def fn(x):
        donated = jax.jit(lax.sin, donate_argnums=0)
        return donated(x) / lax.cos(x)

    assert_refuses(TAN, fn, X)


def test_custom_derivatives_are_not_opened() -> None:
    @jax.custom_jvp
    def own_sin(x):
        return lax.sin(x)

    own_sin.defjvps(lambda g, ans, x: 7 * g)
    assert_refuses(TAN, lambda x: own_sin(x) / lax.cos(x), X)


def test_it_finds_what_inlining_first_finds() -> None:
    for fn in (inside_of_one, from_outside, of_two, in_a_loop):
        graph = trace(fn)(X)
        assert rewrite(graph, TAN).count() == rewrite(inline(graph), TAN).count()


def test_why_not_looks_into_calls_too() -> None:
    graph = trace(lambda x: jit_sin(x) / jit_sin(x))(X)
    assert "not from cos" in str(TAN.why_not(graph))
    (root,) = graph.find("div")
    assert not TAN.why_not(trace(of_two)(X))
    assert "not from" in str(TAN.why_not(graph, root))


def test_shared_calls_in_depth_cost_no_more_than_they_are() -> None:
    fn = of_two
    for _ in range(40):
        fn = functools.partial(lambda f, x: f(f(x)), jax.jit(fn))
    graph = trace(fn)(X)
    started = time.perf_counter()
    new = rewrite(graph, TAN)
    assert new.count()["jit"] > 2**39 and new.count()["tan"] == 2**40
    assert time.perf_counter() - started < 20
