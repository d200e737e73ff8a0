"""Patterns of bodies: loops and custom derivatives, with names that stand for outer operands."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest
from jax import lax

from helpers import array, assert_close, assert_refuses, rewritten
from jaxpress import nnops
from jaxpress.capture import PassError, trace
from jaxpress.capture.edit import Editor
from jaxpress.passes import Rule, any_value, body, op, traced
from jaxpress.passes.body import body_operands
from jaxpress.passes.view import GraphView

X, W = array(5, 3), array(3, 3)

RELU = Rule("relu", body("custom_jvp_call", op("max", any_value("x"), 0.0)), nnops.relu)


def test_a_custom_derivative_by_what_it_computes() -> None:
    new, rules = rewritten(RELU, lambda x: jax.nn.relu(x) + 1, X)
    assert rules == ["relu"] and new.count() == {"relu": 1, "add": 1}
    assert_refuses(RELU, lambda x: jax.nn.relu6(x), X)
    reason = RELU.why_not(trace(lambda x: jax.nn.relu6(x))(X))
    assert "in the body of custom_jvp_call" in str(reason) and "test_body.py" in str(reason)


def test_a_pattern_never_crosses_a_custom_derivative_by_itself() -> None:
    bare = Rule("bare", op("max", op("dot_general", any_value("x"), any_value("w")), 0.0),
                lambda x, w: nnops.dense(x, w, activation="relu"))  # fmt: skip
    assert_refuses(bare, lambda x, w: jax.nn.relu(x @ w), X, W)
    whole = Rule(
        "whole",
        body("custom_jvp_call", op("max", any_value("x"), 0.0)),
        lambda x: jax.nn.relu(x) * 1.0,
    )
    assert whole.names == {"custom_jvp_call"}


CUMSUM = Rule(
    "cumsum",
    body("scan", traced(lambda c, x: (c + x, c + x)), params={"reverse": False}, name="scan"),
    lambda c, x: (c + jnp.sum(x, 0), c + jnp.cumsum(x, 0)),
    numerics="reassociates",
)


def cumulative(xs, c=None, reverse=False):
    c = jnp.zeros(xs.shape[1:]) if c is None else c
    return lax.scan(lambda c, x: (c + x,) * 2, c, xs, reverse=reverse)


def test_a_scan_by_its_step() -> None:
    new, rules = rewritten(CUMSUM, cumulative, X)
    assert rules == ["cumsum"] and not new.find("scan")
    assert_close(new(X), cumulative(X))
    assert_close(jax.vmap(new)(X[None]), jax.vmap(cumulative)(X[None]))
    got, want = (jax.grad(lambda x, f=f: jnp.sum(jnp.sin(f(x)[1])))(X) for f in (new, cumulative))
    assert_close(got, want)


def test_the_carry_is_not_taken_for_the_rest() -> None:
    def turned(xs):  # the operands of a sum in the other order
        return lax.scan(lambda c, x: (x + c, x + c), jnp.ones(()), xs)

    new, rules = rewritten(CUMSUM, turned, X[:, 0])
    assert rules == ["cumsum"]
    assert_close(new(X[:, 0]), turned(X[:, 0]))


def test_scans_that_are_others() -> None:
    assert_refuses(CUMSUM, lambda x: cumulative(x, reverse=True), X, because="reverse=True")
    assert_refuses(CUMSUM, lambda x: lax.scan(lambda c, y: (c * y,) * 2, x[0], x), X, because="mul")
    assert_refuses(CUMSUM, lambda x: lax.scan(lambda c, y: (c + y, c), x[0], x), X)
    assert_refuses(CUMSUM, lambda x: lax.scan(lambda c, y: (c + y, None), x[0], x)[0], X,
                   because="1 results")  # fmt: skip


def test_names_stand_for_the_operands_outside() -> None:
    step = op("add", op("dot_general", any_value("h"), any_value("w")), any_value("x"))
    rule = Rule(
        "steps",
        body("scan", op("tanh", step), op("sin", any_value("x"))),
        lambda h, w, x: (lax.fori_loop(0, 5, lambda i, h: jnp.tanh(h @ w + x[i]), h), jnp.sin(x)),
        lambda m: None if m["x"].ndim == m["h"].ndim + 1 else "x is carried",
    )

    def fn(x, w):
        return lax.scan(lambda h, y: (jnp.tanh(h @ w + y), jnp.sin(y)), x[0], x)

    graph = trace(fn)(X, W)
    match = rule.match(Editor(graph), graph.find("scan")[0])
    assert match["w"] is graph.inputs[1] and match["x"] is graph.inputs[0]
    new, rules = rewritten(rule, fn, X, W)
    assert rules == ["steps"] and new.find("sin")[0].inputs[0].shape != (3,)
    for got, want in zip(new(X, W), fn(X, W), strict=True):
        assert_close(got, want)


def test_what_is_computed_in_the_body_cannot_be_captured() -> None:
    rule = Rule("sin", body("scan", op("sin", any_value("y")), any_value()), lambda y: (y, y))
    fn = trace(lambda x: lax.scan(lambda c, z: (jnp.sin(z * 2), None), x[0], x))(X)
    reason = str(rule.why_not(fn))
    assert "1 results" in reason
    pattern = body("scan", op("sin", any_value("y")))
    rule = Rule("sin", pattern, lambda y: y)
    assert "is computed in the body" in str(rule.why_not(fn))


def test_effects_in_a_body_stay() -> None:
    def fn(x):
        def step(c, y):
            jax.debug.print("{}", y[0])
            return c + y, c + y

        return lax.scan(step, x[0], x)

    assert_refuses(CUMSUM, fn, X, because="has an effect")


def test_bodies_inside_bodies() -> None:
    def fn(x):
        return lax.fori_loop(0, 3, lambda _, y: cumulative(y)[1], x)

    new, rules = rewritten(CUMSUM, fn, X)
    assert rules == ["cumsum"]
    assert_close(new(X), fn(X))


def test_which_body_of_several() -> None:
    def fn(x):
        return lax.cond(x.sum() > 0, jnp.sin, jnp.cos, x)

    (node,) = trace(fn)(X).find("cond")
    for which, name in ((1, "sin"), (0, "cos")):
        rule = Rule("r", body("cond", op(name, any_value("x")), which=which), lambda x: x)
        new, rules = rewritten(rule, fn, X)
        assert rules == ["r"] and not new.find("cond")
    assert [v.name for v in body_operands(GraphView(trace(fn)(X)), node)] == ["x"]


def test_the_operands_of_a_while() -> None:
    def fn(x, a, b):
        return lax.while_loop(lambda c: (c * a).sum() < 10, lambda c: c + b, x)

    graph = trace(fn)(X, X, X)
    (node,) = graph.find("while")
    view = GraphView(graph)
    assert [v.name for v in body_operands(view, node, 0)] == ["a", "x"]
    assert [v.name for v in body_operands(view, node, 1)] == ["b", "x"]


def test_a_body_as_an_operand() -> None:
    relu = body("custom_jvp_call", op("max", any_value("x"), 0.0), users=1)
    rule = Rule("sin_relu", op("sin", relu), lambda x: jnp.sin(nnops.relu(x)))
    assert rewritten(rule, lambda x: jnp.sin(jax.nn.relu(x)), X)[1] == ["sin_relu"]

    def used_twice(x):
        y = jax.nn.relu(x)
        return jnp.sin(y) + y

    assert_refuses(rule, used_twice, X, because="has 2 users")


def test_a_body_needs_a_pattern() -> None:
    with pytest.raises(PassError, match="give a pattern"):
        body("scan")
