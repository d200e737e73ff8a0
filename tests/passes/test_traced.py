"""Patterns from functions: any shape and dtype that the function takes, and nothing else."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from helpers import array, assert_refuses, rewritten
from jaxpress import nnops
from jaxpress.capture import PassError, trace
from jaxpress.passes import Rule, any_value, cleanup, op, rewrite, traced
from jaxpress.testing import assert_rewrites, check_rule

X = array(2, 3, 4)
W, B = array(4, 5), array(5)


def silu(x):
    return x * jax.nn.sigmoid(x)


SILU = Rule("silu", silu, nnops.silu, numerics="reassociates")


def norm(x, scale, bias, *, eps):
    mean = x.mean(-1, keepdims=True)
    var = x.var(-1, keepdims=True)
    return (x - mean) * lax.rsqrt(var + eps) * scale + bias


NORM = Rule(
    "norm",
    traced(norm, (2, 3), (3,), (3,)),
    lambda x, scale, bias, *, eps: nnops.layer_norm(x, scale, bias, epsilon=eps),
    # Of integers with 64 bits, jnp makes float64, and the op float32.
    lambda m: None if jnp.issubdtype(m["x"].dtype, jnp.floating) else "it is of integers",
    numerics="reassociates",
)
SCALE, BIAS = array(4, seed=1), array(4, seed=2)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("shape", [(), (3,), (0, 3), (2, 3, 4, 5)])
def test_it_fits_in_every_shape_and_dtype(shape, dtype) -> None:
    new, rules = rewritten(SILU, lambda x: silu(x) + 1, jnp.ones(shape, dtype))
    assert rules == ["silu"] and new.count() == {"silu": 1, "add": 1}


def test_operands_of_sums_and_products_in_either_order() -> None:
    for fn in (lambda x: jax.nn.sigmoid(x) * x, lambda x: x * jax.nn.sigmoid(x)):
        assert rewritten(SILU, fn, X)[1] == ["silu"]


def test_check_rule_takes_its_examples_from_the_function() -> None:
    check_rule(SILU)
    check_rule(NORM)


def wide(dtype):
    return [a.astype(dtype) for a in (X, SCALE, BIAS)]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_reductions_counts_and_conversions_are_those_of_the_match(dtype) -> None:
    # bfloat16 is summed in float32; the count is 4, and was 3 where the function was traced.
    new, rules = rewritten(NORM, lambda *a: norm(*a, eps=1e-3), *wide(dtype))
    assert rules == ["norm"] and new.count() == {"layer_norm": 1}
    assert new.find("layer_norm")[0].params["epsilon"] == 1e-3


@pytest.mark.parametrize(
    "fn",
    [
        lambda x, s, b: norm(x[0, 0], s, b, eps=1e-3),
        jax.vmap(lambda x, s, b: norm(x, s, b, eps=1e-3), (0, None, None)),
        jax.vmap(jax.vmap(lambda *a: norm(*a, eps=1e-3), (0, None, None)), (0, None, None)),
        jax.jit(lambda x, s, b: norm(x, s, b, eps=1e-3)),
        jax.checkpoint(lambda x, s, b: norm(x, s, b, eps=1e-3)),
        lambda x, s, b: lax.scan(lambda c, y: (c, norm(y, s, b, eps=1e-3)), 0.0, x)[1],
        lambda x, s, b: norm(x, s[None, None], b.reshape(1, 4), eps=1e-3),
        lambda x, s, b: norm(x, jnp.broadcast_to(s, x.shape), b[None], eps=1e-3),
    ],
)  # fmt: skip
def test_every_rank_and_spelling(fn) -> None:
    graph = trace(fn)(X, SCALE, BIAS)
    for start in (graph, cleanup(graph)):
        record = []
        new = rewrite(start, NORM, record=record)
        assert [r.rule for r in record] == ["norm"]
        np.testing.assert_allclose(new(X, SCALE, BIAS), fn(X, SCALE, BIAS), rtol=2e-5, atol=2e-6)


def test_the_vector_behind_a_broadcast_is_captured() -> None:
    new, _ = rewritten(NORM, lambda *a: norm(*a, eps=1e-3), X, SCALE, BIAS)
    (node,) = new.find("layer_norm")
    assert [v.shape for v in node.inputs] == [(2, 3, 4), (4,), (4,)]


def test_a_vector_is_never_taken_for_a_batch_of_them() -> None:
    many = jnp.stack([SCALE, BIAS])
    assert_refuses(NORM, jax.vmap(lambda x, s, b: norm(x, s, b, eps=1e-3)), X, many, many,
                   because="axes, not 1")  # fmt: skip


def other_axis(x, s, b):
    mean, var = x.mean(0, keepdims=True), x.var(0, keepdims=True)
    return (x - mean) * lax.rsqrt(var + 1e-3) * s + b


def other_count(x, s, b):
    mean, var = x.mean(-1, keepdims=True), x.var(-1, keepdims=True, ddof=1)
    return (x - mean) * lax.rsqrt(var + 1e-3) * s + b


def other_array(x, s, b):
    mean, var = jnp.sin(x).mean(-1, keepdims=True), x.var(-1, keepdims=True)
    return (x - mean) * lax.rsqrt(var + 1e-3) * s + b


@pytest.mark.parametrize(
    ("fn", "because"),
    [
        (other_axis, "reduce_sum has axes=(0,), where it should be (2,)"),
        (other_count, "1.0 is not 0.0"),
        (other_array, "x is"),
    ],
)
def test_lookalikes_are_refused_and_say_why(fn, because) -> None:
    args = (X, SCALE, BIAS)
    assert_refuses(NORM, fn, *args)
    reason = NORM.why_not(trace(fn)(*args))
    assert reason and because in str(reason) and "test_traced.py" in str(reason)


def test_a_mean_before_a_conversion_is_another_mean() -> None:
    mean = Rule("mean", lambda x: jnp.mean(x, -1), lambda x: jnp.max(x, -1))
    assert rewritten(mean, lambda x: jnp.mean(x, -1), X)[1] == ["mean"]
    assert_refuses(mean, lambda x: jnp.sum(x, -1) / 5, X)
    assert_refuses(mean, lambda x: jnp.mean(x, -2), X)
    narrow = X.astype(jnp.bfloat16)
    assert rewritten(mean, lambda x: jnp.mean(x, -1), narrow)[1] == ["mean"]
    assert_refuses(mean, lambda x: lax.reduce_sum(x, (2,)) / jnp.bfloat16(4), narrow)


DENSE = Rule(
    "dense",
    traced(lambda x, w, b: jax.nn.relu(x @ w + b), (2, 3), (3, 4), (4,)),
    lambda x, w, b: nnops.dense(x, w, b, activation="relu"),
)


def test_products_of_any_rank() -> None:
    for x in (X, X[0], X[0, 0]):
        new, rules = rewritten(DENSE, lambda x: jax.nn.relu(x @ W + B), x)
        assert rules == ["dense"] and new.count()["dense"] == 1
        assert_refuses(DENSE, lambda x: jax.nn.relu(x @ W - B), x)
    assert rewritten(DENSE, lambda x: jax.nn.relu(B + x @ W), X)[1] == ["dense"]
    assert_refuses(DENSE, lambda x: jax.nn.relu(jnp.einsum("abc,ac->ab", x, array(2, 4)) + 0), X)
    assert_rewrites(DENSE, lambda x, w, b: jax.nn.relu(x @ w + b) * 2, X, W, B)


def test_functions_without_examples_are_traced_with_shapes_that_fit() -> None:
    rule = Rule("dense", lambda x, w, b: x @ w + b, lambda x, w, b: nnops.dense(x, w) + b)
    assert rewritten(rule, lambda x: x @ W + B, X)[1] == ["dense"]
    conv = Rule(
        "conv",
        lambda x, w: lax.conv_general_dilated(
            x, w, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        ),
        lambda x, w: nnops.conv(x, w),
    )
    x, w = array(2, 7, 8, 3), array(3, 3, 3, 5)
    assert rewritten(conv, conv.pattern.fn, x, w)[1] == ["conv"]
    assert_refuses(
        conv, lambda x, w: lax.conv(x, w, (1, 1), "SAME"), array(2, 3, 7, 8), array(5, 3, 3, 3)
    )


def test_a_derivative_must_be_the_same() -> None:
    for fn in (lambda x: jnp.maximum(x @ W + B, 0), lambda x: own_relu(x @ W + B)):
        assert_refuses(DENSE, fn, X)


@jax.custom_jvp
def own_relu(x):
    return jnp.maximum(x, 0)


own_relu.defjvps(lambda g, ans, x: g * 0.5)


LEAKY = Rule("leaky", lambda x, *, slope: jnp.where(x >= 0, x, slope * x),
             lambda x, *, slope: nnops.leaky_relu(x, slope))  # fmt: skip


@pytest.mark.parametrize("slope", [0.2, 0.01, 3.0])
def test_keyword_only_numbers_are_captured_as_they_were_written(slope) -> None:
    for dtype in ("float32", "bfloat16"):
        new, rules = rewritten(LEAKY, lambda x: jax.nn.leaky_relu(x, slope), X.astype(dtype))
        assert rules == ["leaky"] and new.find("leaky_relu")[0].params["negative_slope"] == slope
    assert_refuses(LEAKY, lambda x, s: jax.nn.leaky_relu(x, s), X, jnp.float32(0.2))


def test_a_number_that_is_computed_from_a_captured_one() -> None:
    rule = Rule(
        "mix", lambda x, y, *, rate: rate * x + (1 - rate) * y, lambda x, y, *, rate: x * rate + y
    )
    assert rewritten(rule, lambda x, y: 0.25 * x + 0.75 * y, X, X + 1)[1] == ["mix"]
    assert rewritten(rule, lambda x, y: 0.3 * x + (1 - 0.3) * y, X, X + 1)[1] == ["mix"]
    assert_refuses(rule, lambda x, y: 0.25 * x + 0.5 * y, X, X + 1)


def test_keyword_only_arguments_that_are_no_numbers_are_fixed() -> None:
    def gelu(x, *, approximate=True):
        return jax.nn.gelu(x, approximate=approximate)

    rule = Rule("gelu", gelu, lambda x: nnops.gelu(x))
    assert rewritten(rule, jax.nn.gelu, X)[1] == ["gelu"]
    assert_refuses(rule, lambda x: jax.nn.gelu(x, approximate=False), X)


def test_several_results() -> None:
    def moments(x):
        mean = jnp.mean(x, -1, keepdims=True)
        return mean, jnp.mean(jnp.square(x - mean), -1, keepdims=True)

    def other(x):
        return jnp.sum(x, -1, keepdims=True) / 4, jnp.var(x, -1, keepdims=True)

    rule = Rule("moments", moments, other, numerics="reassociates")

    def fn(x):
        mean, var = moments(x)
        return jnp.sin(mean), (x - mean) / jnp.sqrt(var + 1)

    new, rules = rewritten(rule, fn, X)
    assert rules == ["moments"]
    for a, b in zip(new(X), fn(X), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    assert_refuses(rule, lambda x: jnp.mean(x, -1, keepdims=True), X)
    assert_refuses(rule, lambda x: (jnp.mean(x, -1, keepdims=True), variance_about(x, 1.0)), X)


def variance_about(x, shift):
    mean = jnp.mean(x + shift, -1, keepdims=True)
    return jnp.mean(jnp.square(x - mean), -1, keepdims=True)


def test_captures_may_ask_for_more() -> None:
    pattern = traced(lambda x, w: x @ w, captures={"w": any_value("w", known=True, ndim=2)})
    rule = Rule("known", pattern, lambda x, w: nnops.dense(x, w))
    assert rewritten(rule, lambda x: x @ W, X)[1] == ["known"]
    assert_refuses(rule, lambda x, w: x @ w, X, W, because="depends on the data")


def test_a_traced_function_inside_a_pattern() -> None:
    rule = Rule("outer", op("sin", traced(silu)), lambda x: jnp.cos(x))
    assert rewritten(rule, lambda x: jnp.sin(silu(x)), X)[1] == ["outer"]
    assert_refuses(rule, lambda x: jnp.sin(x * jnp.tanh(x)), X)


def test_constants_and_counters_in_the_function() -> None:
    def positions(x):
        return x + jnp.arange(x.shape[-1], dtype=x.dtype)

    rule = Rule("positions", positions, lambda x: x * 2)
    assert rewritten(rule, positions, X)[1] == ["positions"]
    assert_refuses(rule, lambda x: x + jnp.arange(3, dtype=x.dtype)[:, None], X)
    table = np.float32([1, 2, 3])
    rule = Rule("table", traced(lambda x: x + table, (2, 3)), lambda x: x * 2)
    assert rewritten(rule, lambda x: x + np.float32([1, 2, 3]), X[..., :3])[1] == ["table"]
    assert_refuses(rule, lambda x: x + np.float32([1, 2, 4]), X[..., :3])


def test_bodies_are_compared() -> None:
    def total(x):
        return lax.scan(lambda c, y: (c + y, None), jnp.zeros(x.shape[1:], x.dtype), x)[0]

    def product(x):
        return lax.scan(lambda c, y: (c * y, None), jnp.zeros(x.shape[1:], x.dtype), x)[0]

    rule = Rule("total", total, lambda x: jnp.sum(x, 0), numerics="reassociates")
    assert rewritten(rule, total, X)[1] == ["total"]
    assert_refuses(rule, product, X, because="the body of scan is another one")


def test_an_inner_value_that_is_used_elsewhere_stays() -> None:
    def fn(x):
        s = jax.nn.sigmoid(x)
        return x * s, s + 1

    assert_refuses(SILU, fn, X, because="is used by add as well")


def test_conversions_in_the_middle_are_seen() -> None:
    assert_refuses(SILU, lambda x: x * jax.nn.sigmoid(x.astype(jnp.bfloat16)).astype(x.dtype), X)


def test_the_same_function_in_float64() -> None:
    with jax.enable_x64(True):
        x = jnp.ones((2, 3), jnp.float64)
        assert rewritten(SILU, silu, x)[1] == ["silu"]


def test_a_symbolic_size() -> None:
    (n,) = jax.export.symbolic_shape("n")
    x = jax.ShapeDtypeStruct((n, 4), jnp.float32)
    graph = trace(silu)(x)
    assert rewrite(graph, SILU).count() == {"silu": 1}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: traced(lambda *xs: xs[0] + xs[1]), r"takes \*args"),
        (lambda: traced(lambda x, y: x + 1), "does not use y"),
        (lambda: traced(lambda x, *, s: x + 1), "does not use s"),
        (lambda: traced(lambda x: (x, x + 1)), "gives .*back as it is"),
        (lambda: traced(lambda x, y: x + y, (2,)), "takes 2 arguments, and was given 1"),
        (lambda: traced(lambda x: jnp.reshape(x, (7, 11))), "give examples"),
        (lambda: traced(lambda x: x + 1, captures={"z": any_value("z")}), "has no argument"),
        (lambda: Rule("r", 3, lambda x: x), "is no pattern"),
    ],
)
def test_what_cannot_be_a_pattern(make, message) -> None:
    with pytest.raises(PassError, match=message):
        assert make().names


def test_a_sweep_traces_once_for_each_set_of_types() -> None:
    seen = []

    def fn(x):
        seen.append(x.shape)
        return jnp.sin(x) / jnp.cos(x)

    rule = Rule("tan", fn, jnp.tan)
    graph = trace(lambda x, y: [jnp.sin(z) / jnp.cos(z) for z in (x, y, x + 1, y + 1)])(X, X[0])
    assert len(rule.names) and seen
    del seen[:]
    assert rewrite(graph, rule).count()["tan"] == 4
    assert sorted(seen) == [(2, 3, 4), (3, 4)]
