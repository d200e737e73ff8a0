"""Batch norm in every spelling, along every axis; what only looks like it stays."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from helpers import array, assert_refuses, positive, rewritten
from jaxpress import passes
from jaxpress.capture import trace
from jaxpress.capture.evaluate import evaluate
from jaxpress.passes.rules.cleanup import CLEANUP_RULES
from jaxpress.passes.rules.raise_batch_norm import RAISE_BATCH_NORM
from jaxpress.testing import assert_rewrites

# Height, width, channels and batch are equal: no shape tells the axes apart.
C = 4
X = array(C, C, C, C)
MEAN, SCALE, BIAS = array(C, seed=1), array(C, seed=2), array(C, seed=3)
VAR = positive(C)
EPS = 1e-3


def spread(v, axis, ndim=4):
    return v.reshape([C if i == axis else 1 for i in range(ndim)])


def keras(x, m, v, g, b):
    inv = lax.rsqrt(v + EPS) * g
    return x * inv + (-m * inv + b)


def haiku(x, m, v, g, b):
    inv = g * lax.rsqrt(v + EPS)
    return (x - m) * inv + b


def flax(x, m, v, g, b):
    return (x - m) * (lax.rsqrt(v + EPS) * g) + b


def equinox(x, m, v, g, b):
    return (x - m) / jnp.sqrt(v + EPS) * g + b


def paper(x, m, v, g, b):
    return g * ((x - m) / jnp.sqrt(v + EPS)) + b


def power(x, m, v, g, b):
    return g * (x - m) * (v + EPS) ** -0.5 + b


def reciprocal(x, m, v, g, b):
    return b + (x - m) * (g / jnp.sqrt(v + EPS))


def turned(x, m, v, g, b):
    return b - (m - x) * g * lax.rsqrt(EPS + v)


def late_mean(x, m, v, g, b):
    inv = lax.rsqrt(v + EPS)
    return g * (x * inv - m * inv) + b


SPELLINGS = [keras, haiku, flax, equinox, paper, power, reciprocal, turned, late_mean]
RULES = passes.cleanup[:3] + RAISE_BATCH_NORM


def raised(fn, *args):
    new, rules = rewritten(RULES, fn, *args)
    return new, rules.count("raise_batch_norm")


def check(fn, *args, axis, times=1):
    """The graph after the rule, whose one batch norm runs along ``axis``."""
    new, n = raised(fn, *args)
    assert n == times and new.count()["batch_norm"] == times, f"{n} times in\n{new}"
    for node in new.find("batch_norm"):
        assert node.params["axis"] % node.output.ndim == axis
    got, want = jax.jit(new)(*args), jax.jit(fn)(*args)
    np.testing.assert_allclose(got, want, rtol=2e-5, atol=2e-5)
    return new


@pytest.mark.parametrize("axis", [3, 1])
@pytest.mark.parametrize("spelling", SPELLINGS)
def test_every_spelling_along_either_axis(spelling, axis) -> None:
    parts = [spread(v, axis) for v in (MEAN, VAR, SCALE, BIAS)]
    new = check(lambda x: spelling(x, *parts), X, axis=axis)
    (node,) = new.find("batch_norm")
    assert node.params["epsilon"] == EPS
    # What is left besides works on parameters alone.
    assert all(n is node or all(v.shape.count(C) <= 1 for v in n.outputs) for n in new.nodes)


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_the_statistics_are_those_that_were_written(spelling) -> None:
    new = check(lambda x: spelling(x, MEAN, VAR, SCALE, BIAS), X, axis=3)
    (node,) = new.find("batch_norm")
    for value, want in zip(node.inputs[1:], (MEAN, VAR, SCALE, BIAS), strict=True):
        np.testing.assert_allclose(constant(new, value), want, rtol=1e-6)


def constant(graph, value):
    """A value that depends on constants alone, computed."""
    part = passes.dce(graph.with_parts(outputs=(value,), signature=None))
    return np.asarray(evaluate(part, [jnp.zeros(v.shape, v.dtype) for v in part.inputs])[0])


@pytest.mark.parametrize("spelling", [keras, flax, equinox])
@pytest.mark.parametrize("shape", [(5, C), (C, C), (7, 3, C), (2, 3, 5, 6, C), (1, C)])
def test_arrays_of_every_rank(spelling, shape) -> None:
    check(lambda x: spelling(x, MEAN, VAR, SCALE, BIAS), array(*shape), axis=len(shape) - 1)


@pytest.mark.parametrize("spelling", [keras, haiku, flax, equinox])
def test_weights_as_arguments(spelling) -> None:
    args = (X, *(spread(v, 3) for v in (MEAN, VAR, SCALE, BIAS)))
    check(spelling, *args, axis=3)
    check(lambda x, *p: spelling(x, *(spread(v, 1) for v in p)), X, MEAN, VAR, SCALE, BIAS, axis=1)


@pytest.mark.parametrize("center", [True, False])
@pytest.mark.parametrize("scale", [True, False])
@pytest.mark.parametrize("spelling", [keras, haiku])
def test_without_scale_or_bias(spelling, scale, center) -> None:
    def fn(x):
        inv = lax.rsqrt(VAR + EPS)
        inv = inv * SCALE if scale else inv
        if spelling is keras:
            return x * inv + (-MEAN * inv + BIAS if center else -MEAN * inv)
        y = (x - MEAN) * inv
        return y + BIAS if center else y

    new = check(fn, X, axis=3)
    (node,) = new.find("batch_norm")
    expected = ("x", "mean", "var", *(["scale"] * scale), *(["bias"] * center))
    assert node.params["operands"] == expected


def test_a_scale_and_a_shift_around_it_belong_to_it() -> None:
    def fn(x):
        y = flax(x * 2.0 + BIAS, MEAN, VAR, SCALE, BIAS)
        return (y + 1.0) * 0.5 - SCALE

    new = check(fn, X, axis=3)
    assert all(n.output.ndim < 4 for n in new.nodes if n.op in ("add", "sub", "mul"))


def test_a_scale_before_it_is_not_divided_by() -> None:
    # As one batch norm its mean would be (mean - bias) / scale, and a scale may be zero.
    zero = SCALE.at[1].set(0)
    check(lambda x: flax(x * zero + BIAS, MEAN, VAR, SCALE, BIAS), X, axis=3)


def test_two_in_a_row_are_two() -> None:
    def fn(x):
        return haiku(equinox(x, MEAN, VAR, SCALE, BIAS), BIAS, VAR * 2, MEAN, SCALE)

    check(fn, X, axis=3, times=2)


def test_a_shared_norm_is_raised_and_kept() -> None:
    def fn(x):
        y = flax(x, MEAN, VAR, SCALE, BIAS)
        return y * 2.0, y

    new, n = raised(fn, X)
    assert n == 1 and new.count()["batch_norm"] == 1 and new.count()["mul"] >= 1
    for a, b in zip(new(X), fn(X), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-5)


def test_a_step_in_the_middle_that_is_used_elsewhere_is_kept() -> None:
    def fn(x):
        centred = x - MEAN
        return centred * (lax.rsqrt(VAR + EPS) * SCALE) + BIAS, centred

    new, _ = raised(fn, X)
    assert new.count()["sub"] >= 1
    for a, b in zip(new(X), fn(X), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-5)


def test_scales_of_zero_and_negative_scales() -> None:
    for scale in (jnp.zeros(C), -SCALE, SCALE.at[0].set(0)):
        for spelling in SPELLINGS:
            new, n = raised(lambda x, f=spelling, s=scale: f(x, MEAN, VAR, s, BIAS), X)
            want = spelling(X, MEAN, VAR, scale, BIAS)
            assert n == 1
            np.testing.assert_allclose(new(X), want, rtol=2e-5, atol=2e-5)


def test_gradients_vmap_and_a_second_run() -> None:
    args = (X, MEAN, VAR, SCALE, BIAS)
    assert_rewrites(CLEANUP_RULES + RAISE_BATCH_NORM, lambda *a: flax(*a), *args)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_in_low_precision(dtype) -> None:
    x, *parts = (v.astype(dtype) for v in (X, MEAN, VAR, SCALE, BIAS))
    new, n = raised(lambda x: flax(x, *parts), x)
    assert n == 1 and new.outputs[0].dtype == dtype
    want = flax(X, MEAN, VAR, SCALE, BIAS)
    np.testing.assert_allclose(np.asarray(new(x), np.float32), want, rtol=0.05, atol=0.1)


def test_nan_in_data_and_statistics_comes_through() -> None:
    x = X.at[0, 0, 0, 0].set(jnp.nan).at[1, 1, 1, 1].set(jnp.inf)
    broken = (MEAN.at[1].set(jnp.nan), VAR.at[2].set(-1.0), SCALE, BIAS)
    for parts in ((MEAN, VAR, SCALE, BIAS), broken):
        new, n = raised(lambda x, p=parts: keras(x, *p), x)
        assert n == 1
        np.testing.assert_array_equal(np.isnan(new(x)), np.isnan(keras(x, *parts)))


def test_under_vmap_of_a_single_example() -> None:
    parts = [v[:, None, None] for v in (MEAN, VAR, SCALE, BIAS)]
    check(jax.vmap(lambda x: equinox(x, *parts)), X, axis=1)


AXES = (0, 1, 2)
LOOKALIKES = {
    "statistics of the data": lambda x: flax(x, x.mean(AXES), x.var(AXES), SCALE, BIAS),
    "a variance of the data": lambda x: flax(x, MEAN, x.var(AXES), SCALE, BIAS),
    "layer norm": lambda x: flax(
        x, x.mean(-1, keepdims=True), x.var(-1, keepdims=True), SCALE, BIAS
    ),
    "two axes": lambda x: flax(x, spread(MEAN, 1), VAR, SCALE, BIAS),
    "one variance for all": lambda x: flax(x, MEAN, jnp.float32(2.0) * VAR[0], SCALE, BIAS),
    "epsilon for each channel": lambda x: (x - MEAN) * lax.rsqrt(VAR + SCALE) + BIAS,
    "epsilon outside": lambda x: (x - MEAN) / (jnp.sqrt(VAR) + EPS) + BIAS,
    "no square root": lambda x: (x - MEAN) / (VAR + EPS) * SCALE + BIAS,
    "multiplied by the root": lambda x: (x - MEAN) * jnp.sqrt(VAR + EPS) * SCALE + BIAS,
    "a cube root": lambda x: (x - MEAN) * (VAR + EPS) ** -0.25 + BIAS,
    "divided by the data": lambda x: lax.rsqrt(VAR + EPS) / (x - MEAN),
    "twice the data": lambda x: (x + x - MEAN) * x * lax.rsqrt(VAR + EPS),
    "a full array": lambda x: (x - X[0]) * lax.rsqrt(VAR + EPS),
}


@pytest.mark.parametrize("name", LOOKALIKES)
def test_lookalikes_keep_their_values(name) -> None:
    fn = LOOKALIKES[name]
    new, n = raised(fn, X)
    # A part of some is a batch norm, which then is one with other statistics.
    if name not in ("two axes", "twice the data", "a full array"):
        assert n == 0, f"raised in\n{new}"
    np.testing.assert_allclose(jax.jit(new)(X), jax.jit(fn)(X), rtol=1e-4, atol=1e-4)


def test_a_change_of_dtype_in_the_middle() -> None:
    def fn(x):
        y = (x.astype("float32") - MEAN) * lax.rsqrt(VAR + EPS)
        return y.astype("bfloat16") * SCALE.astype("bfloat16")

    x = X.astype("bfloat16")
    new, _ = raised(fn, x)
    np.testing.assert_allclose(
        np.asarray(new(x), np.float32), np.asarray(fn(x), np.float32), rtol=0.02, atol=0.02
    )


@pytest.mark.parametrize("dtype", ["int32", "complex64"])
def test_other_numbers_stay(dtype) -> None:
    x = (4 * X).astype(dtype)
    one = jnp.ones(C, dtype)
    assert_refuses(RAISE_BATCH_NORM, lambda x: (x - one) * one + one, x)


def test_zero_sized_arrays() -> None:
    for x, parts in ((X[:0], (MEAN, VAR, SCALE, BIAS)), (X[..., :0], (MEAN[:0],) * 4)):
        new, _ = raised(lambda x, p=parts: flax(x, *p), x)
        assert new(x).shape == x.shape


def test_one_channel() -> None:
    one = (MEAN[:1], VAR[:1], SCALE[:1], BIAS[:1])
    x = array(3, 4, 1)
    new, _ = raised(lambda x: flax(x, *one), x)
    np.testing.assert_allclose(new(x), flax(x, *one), rtol=2e-5, atol=2e-5)


def test_a_gate_made_from_the_data_is_no_parameter() -> None:
    # For a batch of one it has a parameter's shape.
    def fn(x):
        gate = jax.nn.sigmoid(x.mean((1, 2), keepdims=True) * SCALE)
        return flax(x, MEAN, VAR, SCALE, BIAS) * gate

    new = check(fn, X[:1], axis=3)
    assert new.count()["mul"] >= 1


def test_why_not_says_what_is_missing() -> None:
    graph = trace(lambda x: (x - MEAN) * SCALE)(X)
    reason = RAISE_BATCH_NORM.why_not(graph, graph.nodes[-1])
    assert "square root" in str(reason)
    graph = trace(LOOKALIKES["epsilon for each channel"])(X)
    reason = RAISE_BATCH_NORM.why_not(graph, graph.nodes[-1])
    assert "not (x - mean)" in str(reason)


@pytest.mark.parametrize("pool", ["mean", "window"])
def test_the_division_of_a_mean_is_not_the_norms(pool) -> None:
    """Else a sum would stand where pooling has a name, and nothing folds through it."""

    def fn(x):
        if pool == "mean":
            y = x.mean((1, 2), keepdims=True)
        else:
            y = lax.reduce_window(x, 0.0, lax.add, (1, 2, 2, 1), (1, 2, 2, 1), "VALID") / 4.0
        return flax(y, *(spread(v, 3) for v in (MEAN, VAR, SCALE, BIAS)))

    graph, _ = rewritten(passes.default, fn, X)
    op = "global_avg_pool" if pool == "mean" else "avg_pool"
    assert graph.count() == {op: 1, "batch_norm": 1}
