"""Why a rule does not apply: the nearest miss, the part of the pattern, the user's line."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest
from jax import lax

from helpers import array
from jaxpress import nnops, passes
from jaxpress.capture import PassError, trace
from jaxpress.passes import Rule, any_value, op, scalar

X = array(2, 3)
GELU = Rule(
    "gelu",
    op("mul", any_value("x"), op("mul", 0.5, op("add", 1.0, op("tanh", any_value("y"))))),
    lambda x, y: jnp.sin(x + y),
)


def test_it_names_the_part_the_condition_and_the_line() -> None:
    graph = trace(lambda x: x * (0.5 * (1 + jnp.sin(x))))(X)
    reason = GELU.why_not(graph, graph.nodes[-1])
    assert reason and reason.rule == "gelu" and reason.node is graph.nodes[-1]
    assert reason.part == "tanh(y)" and "comes from sin, not from tanh" in reason.reason
    assert reason.at is graph.find("sin")[0]
    assert "(at tanh(y) of the pattern)" in str(reason) and "test_why_not.py" in str(reason)


def test_a_wrong_number_is_named() -> None:
    graph = trace(lambda x: x * (0.25 * (1 + jnp.tanh(x))))(X)
    reason = GELU.why_not(graph)
    assert "0.25 is not 0.5" in str(reason) and reason.part == "0.5"


def test_without_a_node_the_nearest_miss_of_all() -> None:
    def fn(x):
        y = x * 2 * x  # further away
        return y * (0.5 * (1 + jnp.sin(x)))

    assert "comes from sin" in str(GELU.why_not(trace(fn)(X)))


def test_what_applies_says_so() -> None:
    graph = trace(lambda x: jnp.sin(x) + x * (0.5 * (1 + jnp.tanh(x))))(X)
    reason = GELU.why_not(graph)
    assert not reason and str(reason).startswith("gelu applies to <mul")


def test_a_graph_without_such_an_operation() -> None:
    reason = GELU.why_not(trace(jnp.sin)(X))
    assert reason and "it starts at mul, and there is none" in str(reason)
    assert reason.node is None


def test_a_guard_is_nearer_than_any_part() -> None:
    rule = Rule(
        "r", op("add", op("mul", any_value("x"), scalar(name="c")), any_value("y")),
        lambda x, c, y: x, lambda m: "c is odd" if m["c"].val % 2 else None,
    )  # fmt: skip
    graph = trace(lambda x: (x * 3 + jnp.sin(jnp.cos(x)), x + 1))(X)
    reason = rule.why_not(graph)
    assert reason.reason == "c is odd" and reason.part == ""


def test_a_second_user_is_named() -> None:
    def fn(x):
        t = jnp.tanh(x)
        return x * (0.5 * (1 + t)), jnp.exp(t)

    assert "is used by exp as well" in str(GELU.why_not(trace(fn)(X)))


def test_inside_bodies_and_of_strangers() -> None:
    graph = trace(lambda x: lax.fori_loop(0, 2, lambda _, y: y * (0.5 * (1 + y)), x))(X)
    reason = GELU.why_not(graph)
    assert "not from tanh" in str(reason) and "test_why_not.py" in str(reason)
    (node,) = [n for n in graph.find("mul") if n.inputs[0].name == "in1"] or graph.find("mul")[:1]
    assert GELU.why_not(graph, node)
    with pytest.raises(PassError, match="is not in the graph"):
        GELU.why_not(graph, trace(jnp.sin)(X).nodes[0])


def test_functions_as_patterns_say_which_parameter() -> None:
    rule = Rule("mean", lambda x: jnp.sum(jnp.square(x), -1), lambda x: jnp.max(x, -1))
    reason = rule.why_not(trace(lambda x: jnp.sum(jnp.square(x), 0))(X.T[:, :2]))
    assert "axes=(0,), where it should be (1,)" in str(reason)
    assert reason.part == "<lambda>(x)"


def test_long_parts_are_cut() -> None:
    pattern = any_value("x")
    for _ in range(40):
        pattern = op("sin", pattern)
    rule = Rule("long", pattern, lambda x: x)
    assert len(str(rule.why_not(trace(lambda x: jnp.sin(jax.nn.relu(x)))(X)))) < 400


def test_who_else_uses_a_value_is_named_with_its_line() -> None:
    (rule,) = (r for p in passes.default for r in p.rules if r.name == "fuse_activation")
    w = jnp.ones((4, 4))

    def fn(x):
        y = nnops.dense(x, w)
        return nnops.relu(y), jnp.split(y, 2)

    assert ", by split (test_why_not.py:" in str(rule.why_not(trace(fn)(w)))
    graph = trace(lambda x: (lambda y: (nnops.relu(y), y))(nnops.dense(x, w)))(w)
    assert "is used elsewhere as well, as a result" in str(rule.why_not(graph))
