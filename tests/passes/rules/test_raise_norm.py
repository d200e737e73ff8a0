"""Norms in every spelling that people write, in every precision, wherever they stand."""

from __future__ import annotations

import math

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from norms_by_hand import (
    EPS,
    LAST,
    B,
    G,
    X,
    applied,
    by_jnp_var,
    check,
    fast_variance,
    inlined,
    mean,
    over,
    raised,
    rms,
    rms_gemma,
    two_passes,
)

import jaxpress as jp
from helpers import array, assert_close
from jaxpress.passes.rules.raise_norm import RAISE_NORM
from jaxpress.testing import assert_rewrites


def fast_without_clamp(x, g, b):
    total, squares = x.sum(**LAST), jnp.square(x).sum(**LAST)
    v = squares / 8 - (total / 8) ** 2
    return g * (x - total / 8) / jnp.sqrt(EPS + v) + b


def without_keepdims(x, g, b):
    m, v = x.mean(-1), x.var(-1)
    return (x - m[..., None]) * lax.rsqrt(v + EPS)[..., None] * g[None, None] + b


def reciprocal_count(x, g, b):
    away = x - x.sum(**LAST) * (1 / 8)
    return away * (g / jnp.sqrt((away * away).sum(**LAST) * (1 / 8) + EPS)) + b


def power(x, g, b):
    away = x - mean(x)
    return g * away * (jnp.mean(away**2, **LAST) + EPS) ** -0.5 + b


def reciprocal(x, g, b):
    return (x - mean(x)) * (1 / jnp.sqrt(x.var(**LAST) + EPS)) * g + b


def turned(x, g, b):
    return b - (mean(x) - x) * g * lax.rsqrt(x.var(**LAST) + EPS)


def as_scale_and_shift(x, g, b):
    inv = lax.rsqrt(x.var(**LAST) + EPS) * g
    return x * inv + (-mean(x) * inv + b)


def vector_by_vector(x, g, b):
    return jax.vmap(jax.vmap(jax.vmap(lambda v: (v - v.mean()) / jnp.sqrt(v.var() + EPS) * g + b)))(
        x
    )


def root_mean_square_of_differences(x, g, b):
    away = x - mean(x)
    return away * lax.rsqrt(jnp.mean(away * away, **LAST) + EPS) * g + b


def in_a_checkpoint(x, g, b):
    return jax.checkpoint(two_passes)(x, g, b)


def scale_twice(x, g, b):
    return by_jnp_var(x, g, b) * g


LAYER_NORMS = [
    two_passes,
    by_jnp_var,
    fast_variance,
    fast_without_clamp,
    without_keepdims,
    reciprocal_count,
    power,
    reciprocal,
    turned,
    as_scale_and_shift,
    vector_by_vector,
    root_mean_square_of_differences,
    scale_twice,
]


@pytest.mark.parametrize("fn", LAYER_NORMS)
def test_layer_norm_in_every_spelling(fn) -> None:
    node = check(fn, X, G, B, op="layer_norm", axis=-1, epsilon=EPS)
    assert node.params["operands"] == ("x", "scale", "bias")


@pytest.mark.parametrize("fn", [two_passes, fast_variance, by_jnp_var])
def test_it_stays_the_same_function(fn) -> None:
    # Values of NaN and infinity, gradients, vmap; and the rule finds nothing in its own result.
    x = X[0, :3]
    new = assert_rewrites(RAISE_NORM, inlined(fn, x, G, B), x, G, B, times=1)
    assert new.count()["layer_norm"] == 1


def test_data_of_nan_and_infinity_in_other_spellings() -> None:
    # Of an infinite scale this spelling makes NaN where (x - mean) * scale is infinite.
    for fn in (as_scale_and_shift, turned):
        f = inlined(lambda x, fn=fn: fn(x, G, B), X[0, 0])
        assert_rewrites(RAISE_NORM, f, X[0, 0], times=1, gradients=False, vmap=False)


def rms_divided(x, g, b):
    return g * (x / jnp.sqrt(jnp.mean(jnp.power(x, 2), **LAST) + EPS))


def rms_scale_first(x, g, b):
    return (g * x) * lax.rsqrt(jnp.sum(x * x, **LAST) / 8 + EPS)


def rms_by_norm(x, g, b):
    return x / jnp.sqrt(jnp.sum(x * x, **LAST) + 8 * EPS) * np.sqrt(8) * g


def rms_with_bias(x, g, b):
    return rms(x, g, b) + b


@pytest.mark.parametrize(
    "fn", [rms, rms_divided, rms_gemma, rms_scale_first, rms_by_norm, rms_with_bias]
)
def test_rms_norm_in_every_spelling(fn) -> None:
    node = check(fn, X, G, B, op="rms_norm", axis=-1)
    np.testing.assert_allclose(node.params["epsilon"], EPS, rtol=1e-6)
    bias = ("bias",) if fn is rms_with_bias else ()
    assert node.params["operands"] == ("x", "scale", *bias)


def test_rms_norm_stays_the_same_function() -> None:
    x = X[0, :3]
    assert_rewrites(RAISE_NORM, inlined(rms_gemma, x, G, B), x, G, B, times=1)


def norm(x, **options):
    return jnp.linalg.norm(x, axis=-1, keepdims=True, **options)


@pytest.mark.parametrize(
    ("fn", "placement", "epsilon"),
    [
        (lambda x: x / norm(x), "root", 0.0),
        (lambda x: x / (norm(x) + 1e-3), "sum", 1e-3),
        (lambda x: x / jnp.maximum(norm(x), 1e-3), "norm", 1e-3),
        (lambda x: x / jnp.clip(norm(x), 1e-12), "norm", 1e-12),
        (lambda x: x * lax.rsqrt(jnp.maximum(jnp.sum(x * x, **LAST), 1e-6)), "max", 1e-3),
        (lambda x: x * jnp.minimum(lax.rsqrt(jnp.sum(x * x, **LAST)), 1e3), "norm", 1e-3),
        (lambda x: x * lax.rsqrt(jnp.sum(x**2, **LAST) + 1e-3), "root", 1e-3),
    ],
)
def test_l2_normalisation_in_every_spelling(fn, placement, epsilon) -> None:
    node = check(fn, X, op="l2_normalize", axis=-1, placement=placement)
    np.testing.assert_allclose(node.params["epsilon"], epsilon, rtol=1e-6)
    small = 1e-4 * X
    new, _ = applied(fn, small)
    assert_close(new(small), jax.jit(fn)(small))
    g, h = (jax.grad(lambda x, f=f: jnp.sin(f(x)).sum()) for f in (new, fn))
    assert_close(g(X), h(X))
    zero = X.at[0, 0].set(0.0)
    np.testing.assert_array_equal(jnp.isnan(g(zero)), jnp.isnan(h(zero)))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_low_precision_with_float32_parameters(dtype) -> None:
    def fn(x, g, b):
        return by_jnp_var(x.astype("float32"), g, b).astype(x.dtype)

    x = X.astype(dtype)
    new, n = applied(fn, x, G, B)
    assert n == 1 and new.count() == {"layer_norm": 1}
    np.testing.assert_array_equal(jax.jit(new)(x, G, B), jax.jit(fn)(x, G, B))


@pytest.mark.parametrize("fn", [by_jnp_var, fast_variance, rms_gemma])
def test_all_in_low_precision(fn) -> None:
    x, g, b = (v.astype("bfloat16") for v in (X, G, B))
    new, n = applied(fn, x, g, b)
    assert n == 1 and new.outputs[0].dtype == "bfloat16"
    want = fn(*(v.astype("float32") for v in (x, g, b)))
    # One rounding at the end, which is more than half a unit nowhere.
    got = np.asarray(new(x, g, b), np.float32)
    np.testing.assert_allclose(got, want, rtol=2**-8, atol=1e-3)


def test_rounded_before_the_scale() -> None:
    def llama(x, g, b):
        y = x.astype("float32")
        y = y * lax.rsqrt(jnp.mean(y**2, **LAST) + EPS)
        return g * y.astype(x.dtype)

    x, g = X.astype("bfloat16"), G.astype("bfloat16")
    new, n = applied(llama, x, g, B)
    assert n == 1 and new.count() == {"rms_norm": 1}
    got, want = (np.asarray(f(x, g, B), np.float32) for f in (new, llama))
    np.testing.assert_allclose(got, want, rtol=2**-7)


def test_in_float64() -> None:
    with jax.enable_x64(True):
        x, g, b = (jnp.asarray(v, "float64") for v in (X, G, B))
        new, ops = raised(fast_variance, x, g, b)
        assert ops and new.outputs[0].dtype == "float64"
        assert_close(new(x, g, b), fast_variance(x, g, b), 1e-12)


@pytest.mark.parametrize("narrow", ["bfloat16", "float32"])
def test_a_result_wider_than_the_op_would_compute(narrow) -> None:
    with jax.enable_x64(True):
        x = array(3, 8).astype(narrow)

        def fn(x):
            x = x.astype("float64")
            away = x - x.mean(-1, keepdims=True)
            return away / jnp.sqrt((away**2).mean(-1, keepdims=True) + 1e-5)

        new = assert_rewrites(RAISE_NORM, fn, x)
        assert_close(new(x), fn(x), 1e-14)


def test_of_integers_turned_into_floats() -> None:
    image = jnp.asarray(50 * (X + 2), "uint8")
    fn = lambda x: over((1, 2, 3))(x.astype("float32"))  # noqa: E731
    new, (node,) = raised(fn, image)
    assert node.op == "layer_norm" and new.count()["convert_element_type"] == 1


def test_the_scale_may_be_a_function_of_parameters() -> None:
    params = {"log": array(3, 8), "shift": array(8, 1)}

    def fn(p, x):
        return over((3,))(x) * jnp.exp(p["log"][1]) + p["shift"][:, 0]

    new, (node,) = raised(fn, params, X)
    assert node.params["operands"] == ("x", "scale", "bias")
    assert all(math.prod(v.shape) <= 8 for n in new.nodes if n is not node for v in n.outputs)


def test_in_a_scan_over_layers_and_a_cond() -> None:
    def layers(x, gs, bs, p):
        x, _ = lax.scan(lambda x, w: (by_jnp_var(x, *w), None), x, (gs, bs))
        return lax.cond(p, lambda x: rms(x, gs[0], bs[0]), lambda x: x, x)

    args = (X, jnp.stack([G, B]), jnp.stack([B, G]), True)
    _, ops = raised(layers, *args)
    assert sorted(n.op for n in ops) == ["layer_norm", "rms_norm"]
    _, ops = raised(in_a_checkpoint, X, G, B)
    assert [n.op for n in ops] == ["layer_norm"]


def test_one_after_the_other() -> None:
    _, ops = raised(lambda x, g, b: by_jnp_var(two_passes(x, g, b), b, g), X, G, B)
    assert [n.op for n in ops] == ["layer_norm"] * 2


def test_a_batch_of_one_and_an_empty_one() -> None:
    check(by_jnp_var, X[:1, :1], G, B, op="layer_norm", axis=-1)
    check(over((1, 2), G, B), X[:1], op="instance_norm")
    new, n = applied(by_jnp_var, X[:0], G, B)
    assert n == 1 and new(X[:0], G, B).shape == (0, 4, 4, 8)


@pytest.mark.parametrize("fn", [by_jnp_var, rms, lambda x, *_: x / (norm(x) + 1e-3)])
def test_over_an_axis_of_one_there_is_nothing_to_norm(fn) -> None:
    args = (X[..., :1], G[:1], B[:1])
    new, n = applied(fn, *args)
    assert n == 0
    assert_close(new(*args), fn(*args))


def test_features_that_the_next_op_takes_apart() -> None:
    # Turned, it has the shape that it had; and read so, its features fall on two axes of the image.
    def fn(x, g, b):
        return by_jnp_var(x.reshape(3, 16, 16), g, b).swapaxes(1, 2)

    new, (node,) = raised(fn, array(3, 4, 4, 16), array(16), array(16, seed=1))
    assert node.op == "layer_norm" and node.params["operands"] == ("x", "scale", "bias")
    assert new.count()["transpose"] == 1


def test_symbolic_shapes() -> None:
    b, t = jax.export.symbolic_shape("b, t")
    spec = jax.ShapeDtypeStruct((b, t, 4, 8), "float32")
    fast = jp.optimize(lambda x: rms(by_jnp_var(x, G, B).reshape(-1, 4, 8), G, B))
    count = fast.graph(spec).count()
    assert count["layer_norm"] == count["rms_norm"] == 1 and "rsqrt" not in count
    assert_close(jax.export.export(jax.jit(fast))(spec).call(X), fast(X))


def test_gradients_as_they_are_written_stay_right() -> None:
    # The backward pass needs the inner values of the forward one.
    fn = jax.grad(lambda x, g: jnp.sin(by_jnp_var(x, g, B)).sum(), (0, 1))
    new, _ = applied(fn, X, G)
    assert_close(new(X, G), fn(X, G))


@pytest.mark.parametrize("preset", ["default", "inference"])
def test_in_the_pipelines(preset) -> None:
    def fn(x, g, b):
        return rms(jax.nn.relu(by_jnp_var(x, g, b)), g, b)

    fast = jp.optimize(fn, passes=preset)
    count = fast.graph(X, G, B).count()
    assert count == {"layer_norm": 1, "relu": 1, "rms_norm": 1}
    assert_close(fast(X, G, B), fn(X, G, B))
