"""Values checked after each pass: which pass, which output, which rewrite."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest
from jax import lax

import jaxpress as jp
from helpers import array
from jaxpress.capture import ArgumentError, PassError, VerificationError, trace
from jaxpress.passes import Pass, Pipeline, Rule, any_value, op
from jaxpress.passes.step_check import StepCheck, first_bad

X, W = array(3, 4), array(4, 5)
NEG = Rule("neg_neg", op("neg", op("neg", any_value("x"))), lambda x: x)
WRONG = Rule("wrong", op("tanh", any_value("x")), lambda x: x * 1.001)


def fn(x, w):
    y = jnp.tanh(lax.neg(lax.neg(x @ w)))
    return {"y": y, "x": x}


def test_good_passes_pass() -> None:
    graph = trace(fn)(X, W)
    new, report = jp.passes.default.run(graph, verify=(X, W))
    assert report.rewrites and new.count()["dense"] == 1


def test_a_wrong_rule_is_named_with_its_output_and_line() -> None:
    pipeline = Pipeline([Pass("first", NEG), Pass("second", NEG + WRONG), Pass("third", NEG)])
    with pytest.raises(VerificationError) as error:
        pipeline.run(trace(fn)(X, W), verify=(X, W))
    text = str(error.value)
    assert "pass 'second' changed result['y']" in text
    assert "rewrite 1 of 1 did it: wrong: tanh -> mul" in text and "test_step_check.py" in text


def test_the_right_one_of_many() -> None:
    def many(x):
        for i in range(5):
            x = lax.neg(lax.neg(jnp.sin(x + i)))
        return jnp.tanh(x)

    rules = NEG + WRONG + Rule("cos", op("sin", any_value("x")), lambda x: jnp.cos(x - jnp.pi / 2))
    with pytest.raises(VerificationError, match=r"of 11 did it: wrong"):
        Pipeline([Pass("all", rules)]).run(trace(many)(X), verify=(X,))


def test_a_pass_that_is_a_function_is_named_alone() -> None:
    def wrong(graph):
        with graph.edit() as editor:
            for node in graph.find("tanh"):
                editor.replace(node, jnp.sin)
        return editor.graph

    with pytest.raises(VerificationError, match="pass 'wrong' changed") as error:
        Pipeline([wrong]).run(trace(fn)(X, W), verify=(X, W))
    assert "rewrite" not in str(error.value)


def test_structure_is_checked_too() -> None:
    def broken(graph):
        return graph.with_parts(nodes=graph.nodes[1:])

    with pytest.raises(PassError, match="broke the graph"):
        Pipeline([broken]).run(trace(fn)(X, W), verify=(X, W))


def test_the_tolerance_decides() -> None:
    with pytest.raises(VerificationError):
        Pipeline([WRONG]).run(trace(fn)(X * 0.01, W), verify=(X * 0.01, W))
    Pipeline([WRONG]).run(trace(fn)(X * 0.01, W), verify=(X * 0.01, W), tolerance=0.05)


def test_keywords_and_wrong_arguments() -> None:
    graph = trace(lambda x, *, scale: x * scale)(X, scale=2.0)
    jp.passes.cleanup.run(graph, verify=(X,), verify_kwargs={"scale": 3.0})
    with pytest.raises(ArgumentError):
        StepCheck(graph, (W,), kwargs={"scale": 2.0})


def test_a_body_has_no_arguments() -> None:
    graph = trace(lambda x: jax.jit(jnp.sin)(x))(X)
    with pytest.raises(PassError, match="is a body"):
        StepCheck(graph.with_parts(signature=None), (X,))


def test_optimize_with_verify_names_the_pass_and_the_rewrite() -> None:
    fast = jp.optimize(fn, passes=["cleanup", Pass("mine", WRONG)], verify=True)
    with pytest.raises(VerificationError, match="pass 'mine' changed") as error:
        fast(X, W)
    assert "wrong: tanh -> mul" in str(error.value) and error.value.result is not None
    jp.optimize(fn, verify=True)(X, W)


@pytest.mark.parametrize("count", [0, 1, 2, 7, 64])
def test_bisection(count) -> None:
    assert first_bad(count, lambda n: False) is None
    for k in range(1, count + 1):
        asked = []
        assert first_bad(count, lambda n, k=k, asked=asked: asked.append(n) or n >= k) == k
        assert len(asked) <= 8
