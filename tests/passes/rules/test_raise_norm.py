"""Norms by the data's statistics in every spelling; what only looks like one stays."""

from __future__ import annotations

import math

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import jaxpress as jp
from helpers import array, assert_close, rewritten
from jaxpress import passes
from jaxpress.capture import trace
from jaxpress.passes.rules.raise_norm import RAISE_NORM
from jaxpress.testing import assert_rewrites

# Several sizes are equal: no shape tells the axes apart.
X = array(2, 4, 4, 8)
G, B = array(8, seed=1), array(8, seed=2)
G4, B4 = array(4, seed=3), array(4, seed=4)
EPS = 1e-5
TIDY = passes.cleanup[:3]
RULES = TIDY + RAISE_NORM + passes.dce
LAST = {"axis": -1, "keepdims": True}


def mean(x):
    return jnp.mean(x, **LAST)


def inlined(fn, *args):
    """``fn`` without calls, as rules see it."""
    graph, _ = TIDY.run(trace(fn)(*args))
    return lambda *a: graph(*a)


def applied(fn, *args):
    """The graph after the rule, and how often it applied."""
    new, rules = rewritten(RULES, fn, *args)
    return new, rules.count("raise_norm")


def raised(fn, *args):
    """The graph after the rule, checked against the function, and the named ops in it."""
    new, n = applied(fn, *args)
    assert_close(jax.jit(new)(*args), jax.jit(fn)(*args))
    ops = [n for n in new.walk() if n.op in jp.nnops.registry()]
    assert n == len(ops), f"applied {n} times in\n{new}"
    return new, ops


def check(fn, *args, op, **params):
    """One named op is all that computes, with these parameters."""
    new, (node,) = raised(fn, *args)
    assert node.op == op, f"{node.op} in\n{new}"
    for name, want in params.items():
        assert node.params[name] == want, f"{name} is {node.params[name]}"
    full = max(math.prod(v.shape) for v in node.inputs)
    # What is left besides rearranges data, or works on parameters.
    moves = ("reshape", "broadcast_in_dim", "transpose", "convert_element_type", "squeeze")
    rest = [n for n in new.nodes if n is not node and n.op not in moves]
    assert all(math.prod(n.output.shape) < full for n in rest), f"{rest} is left in\n{new}"
    return node


def two_passes(x, g, b):
    m = mean(x)
    return (x - m) * lax.rsqrt(jnp.mean((x - m) ** 2, **LAST) + EPS) * g + b


def by_jnp_var(x, g, b):
    return (x - mean(x)) / jnp.sqrt(x.var(**LAST) + EPS) * g + b


def fast_variance(x, g, b):
    m = mean(x)
    v = jnp.maximum(0.0, jnp.mean(x * x, **LAST) - m * m)
    return (x - m) * (lax.rsqrt(v + EPS) * g) + b


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


def rms(x, g, b):
    return x * lax.rsqrt(jnp.mean(x**2, **LAST) + EPS) * g


def rms_divided(x, g, b):
    return g * (x / jnp.sqrt(jnp.mean(jnp.power(x, 2), **LAST) + EPS))


def rms_gemma(x, g, b):
    return x * lax.rsqrt(jnp.mean(jnp.square(x), **LAST) + EPS) * (1 + g)


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
        (lambda x: x / jnp.maximum(norm(x), 1e-3), "max", 1e-3),
        (lambda x: x / jnp.clip(norm(x), 1e-12), "max", 1e-12),
        (lambda x: x * lax.rsqrt(jnp.maximum(jnp.sum(x * x, **LAST), 1e-6)), "max", 1e-3),
        (lambda x: x * jnp.minimum(lax.rsqrt(jnp.sum(x * x, **LAST)), 1e3), "max", 1e-3),
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


def over(axes, scale=None, bias=None):
    def fn(x):
        m = x.mean(axes, keepdims=True)
        y = (x - m) * lax.rsqrt(x.var(axes, keepdims=True) + EPS)
        y = y if scale is None else y * scale
        return y if bias is None else y + bias

    return fn


def at(v, axis):
    return v.reshape([-1 if i == axis else 1 for i in range(4)])


@pytest.mark.parametrize(
    ("fn", "op", "params"),
    [
        (over((1,), at(G4, 1), at(B4, 1)), "layer_norm", {"axis": -3}),
        (over((2, 3)), "layer_norm", {"axis": (-2, -1)}),
        (over((2, 3), array(4, 8), array(4, 8, seed=1)), "layer_norm", {"axis": (-2, -1)}),
        (over((2, 3), G), "layer_norm", {"axis": (-2, -1)}),
        (over(None), "layer_norm", {"axis": (-4, -3, -2, -1)}),
        (over((1, 2, 3)), "layer_norm", {"axis": (-3, -2, -1)}),
        (over((1, 2, 3), G, B), "group_norm", {"axis": -1, "groups": 1}),
        (over((1, 2), G, B), "instance_norm", {"axis": -1}),
        (over((1, 2)), "instance_norm", {"axis": -1}),
        (over((2, 3), at(G4, 1), at(B4, 1)), "instance_norm", {"axis": -3}),
        (over((0, 1, 2), G, B), "batch_norm_train", {"axis": -1}),
        (over((0, 2, 3), at(G4, 1), at(B4, 1)), "batch_norm_train", {"axis": -3}),
        (over((0,)), "layer_norm", {"axis": -4}),
    ],
)
def test_which_axes_make_which_norm(fn, op, params) -> None:
    check(fn, X, op=op, **params)


def in_groups(x, shape, axes, g, b):
    y = x.reshape(shape)
    y = (y - y.mean(axes, keepdims=True)) * lax.rsqrt(y.var(axes, keepdims=True) + EPS)
    return y.reshape(x.shape) * g + b


def test_group_norm_channels_last_and_first() -> None:
    last = lambda x: in_groups(x, (2, 16, 4, 2), (1, 3), G, B)  # noqa: E731
    check(last, X, op="group_norm", groups=4, axis=-1)
    first = lambda x: in_groups(x, (2, 2, -1), 2, at(G4, 1), at(B4, 1))  # noqa: E731
    check(first, X, op="group_norm", groups=2, axis=-3)
    # One example without a batch.
    one = lambda x: in_groups(x, (16, 4, 2), (0, 2), G, B)  # noqa: E731
    check(one, X[0], op="group_norm", groups=4, axis=-1)
    assert_rewrites(RAISE_NORM, inlined(last, X), X, times=1)


def test_groups_that_are_not_neighbours_are_no_group_norm() -> None:
    new, ops = raised(lambda x: in_groups(x, (2, 16, 2, 4), (1, 2), G, B), X)
    assert "group_norm" not in [n.op for n in ops], str(new)


def test_heads_are_normalised_each_alone() -> None:
    def fn(x):
        y = x.reshape(2, 4, 2, 16)
        return y * lax.rsqrt((y * y).mean(**LAST) + EPS) * jnp.concatenate([G, B])

    check(fn, X.reshape(2, 4, 32), op="rms_norm", axis=-1)


def test_along_a_vmapped_axis() -> None:
    def fn(x):
        one = lambda v: (v - v.mean()) / jnp.sqrt(v.var() + EPS) * G4 + B4  # noqa: E731
        return jax.vmap(jax.vmap(jax.vmap(one, 1, 1)))(x)

    check(fn, X, op="layer_norm")


def test_statistics_of_statistics() -> None:
    def fn(x):
        m = x.mean(2, keepdims=True).mean(1, keepdims=True)
        v = ((x - m) ** 2).mean(1, keepdims=True).mean(2, keepdims=True)
        return (x - m) * lax.rsqrt(v + EPS) * G + B

    check(fn, X, op="instance_norm", axis=-1)


def test_standardize_is_that_of_jax_nn() -> None:
    check(jax.nn.standardize, X, op="standardize", axis=-1, epsilon=EPS)
    check(lambda x: jax.nn.standardize(x, (1, 2)) * G + B, X, op="instance_norm")


def test_weights_are_standardised_where_they_are_weights() -> None:
    w = array(3, 3, 8, 8)

    def fn(x, w):
        m = w.mean((0, 1, 2), keepdims=True)
        w = (w - m) * lax.rsqrt(w.var((0, 1, 2), keepdims=True) + EPS)
        return lax.conv_general_dilated(
            x, w * G, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )

    new, n = applied(fn, X, w)
    assert n == 1
    (node,) = new.find("weight_standardize")
    assert node.params["axis"] == (-4, -3, -2)
    assert_close(new(X, w), fn(X, w))


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


def test_several_norms_of_one_array() -> None:
    def fn(x):  # as two branches of a transformer do; their statistics are one
        both = [
            (x - mean(x)) * (lax.rsqrt(x.var(**LAST) + EPS) * g) + b for g, b in ((G, B), (B, G))
        ]
        return both[0] @ array(8, 3), both[1] @ array(8, 4)

    new, n = applied(fn, X)
    assert n == 1
    assert new.count() == {"layer_norm": 2, "dot_general": 2}
    assert_close(new(X), fn(X))


def test_one_after_the_other() -> None:
    _, ops = raised(lambda x, g, b: by_jnp_var(two_passes(x, g, b), b, g), X, G, B)
    assert [n.op for n in ops] == ["layer_norm"] * 2


def test_a_residual_stays_outside() -> None:
    new, (node,) = raised(lambda x, g, b: x + by_jnp_var(x, g, b), X, G, B)
    assert node.params["operands"] == ("x", "scale", "bias") and new.count()["add"] == 1


def test_a_number_stays_outside() -> None:
    new, (node,) = raised(lambda x: over((3,))(x) * 0.5 + 3, X)
    assert node.params["operands"] == ("x",)
    assert new.count() == {"layer_norm": 1, "mul": 1, "add": 1}


@pytest.mark.parametrize("axes", [(3,), (1, 2), (1, 2, 3)])
def test_a_learned_number_stays_outside(axes) -> None:
    gain = jnp.full((1, 1, 1, 1), 0.7)
    _, (node,) = raised(lambda x, g: over(axes)(x) * g - g, X, gain)
    assert node.params["operands"] == ("x",)
    fast = lambda x, g: jax.nn.standardize(x, axes) * g + g[0]  # noqa: E731
    raised(fast, X, gain)


def test_a_normalised_value_that_is_used_twice_is_kept() -> None:
    def fn(x):
        y = over((3,))(x)
        return y * G + B, y

    new, (node,) = raised(fn, X)
    assert node.op == "layer_norm" and node.params["operands"] == ("x",)
    assert new.count()["mul"] == new.count()["add"] == 1


def test_a_batch_of_one_and_an_empty_one() -> None:
    check(by_jnp_var, X[:1, :1], G, B, op="layer_norm", axis=-1)
    check(over((1, 2), G, B), X[:1], op="instance_norm")
    new, n = applied(by_jnp_var, X[:0], G, B)
    assert n == 1 and new(X[:0], G, B).shape == (0, 4, 4, 8)


def test_symbolic_shapes() -> None:
    b, t = jax.export.symbolic_shape("b, t")
    spec = jax.ShapeDtypeStruct((b, t, 4, 8), "float32")
    fast = jp.optimize(lambda x: rms(by_jnp_var(x, G, B).reshape(-1, 4, 8), G, B))
    count = fast.graph(spec).count()
    assert count["layer_norm"] == count["rms_norm"] == 1 and "rsqrt" not in count
    assert_close(jax.export.export(jax.jit(fast))(spec).call(X), fast(X))


def affine(y):
    return y * G + B


LOOKALIKES = {
    "variance of a sample": (
        lambda x: affine((x - mean(x)) / jnp.sqrt(x.var(ddof=1, **LAST) + EPS)),
        "neither x's variance",
    ),
    "epsilon outside the root": (
        lambda x: affine((x - mean(x)) / (x.std(**LAST) + EPS)),
        "no norm of the data",
    ),
    "epsilon as a bound": (
        lambda x: affine((x - mean(x)) * lax.rsqrt(jnp.maximum(x.var(**LAST), EPS))),
        "neither x's variance",
    ),
    "epsilon from data": (
        lambda x: affine((x - mean(x)) * lax.rsqrt(x.var(**LAST) + jnp.abs(x[0, 0, 0, 0]))),
        "",
    ),
    "mean over other axes": (
        lambda x: affine((x - x.mean(2, keepdims=True)) * lax.rsqrt(x.var(**LAST) + EPS)),
        "different axes",
    ),
    "variance over more axes": (
        lambda x: affine((x - mean(x)) * lax.rsqrt(x.var((2, 3), keepdims=True) + EPS)),
        "different axes",
    ),
    "statistics laid along another axis": (
        lambda x: (y := x[..., :4]) * lax.rsqrt((y * y).mean(-1)[:, :, None, :] + EPS),
        "used at another",
    ),
    "statistics of another array": (
        lambda x: affine((x - mean(x)) * lax.rsqrt((2 * x + 1).var(**LAST) + EPS)),
        "",
    ),
    "mean of another array": (
        lambda x: affine((x - mean(x[::-1])) * lax.rsqrt(x.var(**LAST) + EPS)),
        "",
    ),
    "a gradient that is stopped": (
        lambda x: affine((x - lax.stop_gradient(mean(x))) * lax.rsqrt(x.var(**LAST) + EPS)),
        "no parameter",
    ),
    "a variance that is stopped": (
        lambda x: affine((x - mean(x)) * lax.rsqrt(lax.stop_gradient(x.var(**LAST)) + EPS)),
        "",
    ),
    "rounded on purpose": (
        lambda x: affine(
            (x - mean(x)).astype("bfloat16").astype("float32") * lax.rsqrt(x.var(**LAST) + EPS)
        ),
        "rounded to bfloat16",
    ),
    "only some elements": (
        lambda x: affine((x - mean(x)) * lax.rsqrt(x.var(where=x > 0, **LAST) + EPS)),
        "",
    ),
    "no root": (lambda x: affine((x - mean(x)) / (x.var(**LAST) + EPS)), ""),
    "multiplied by the root": (
        lambda x: affine((x - mean(x)) * jnp.sqrt(x.var(**LAST) + EPS)),
        "",
    ),
    "absolute differences": (
        lambda x: affine((x - mean(x)) / (jnp.abs(x - mean(x)).mean(**LAST) + EPS)),
        "",
    ),
    "a trace": (
        lambda x: x * lax.rsqrt(
            jnp.abs(jnp.sum(x[..., :4] * jnp.swapaxes(x[..., :4], -1, -2), **LAST)) / 4 + EPS
        ),
        "",
    ),
    "the mean is needed too": (
        lambda x: (affine((x - mean(x)) * lax.rsqrt(x.var(**LAST) + EPS)), mean(x)),
        "used elsewhere",
    ),
    "the difference is needed too": (
        lambda x: (affine((y := x - mean(x)) * lax.rsqrt((y * y).mean(**LAST) + EPS)), y),
        "used elsewhere",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", LOOKALIKES)
def test_lookalikes_stay(name) -> None:
    fn, because = LOOKALIKES[name]
    graph, _ = TIDY.run(trace(fn)(X))
    record: list = []
    new = passes.rewrite(graph, RAISE_NORM, record=record)
    assert not record and new is graph, f"{record} in\n{graph}"
    roots = [n for n in graph.nodes if n.op in RAISE_NORM.names]
    reasons = [str(RAISE_NORM.why_not(graph, n)) for n in roots]
    assert all(" does not apply " in reason for reason in reasons)
    assert not because or any(because in reason for reason in reasons), reasons


def test_a_scale_from_the_data_stays_outside() -> None:
    def fn(x):
        gate = jnp.tanh(x.mean((1, 2)) @ array(8, 8))[:, None, None]
        return over((3,))(x) * (1 + gate)

    for x in (X, X[:1]):  # of a batch of one the gate has a scale's shape
        new, (node,) = raised(fn, x)
        assert node.params["operands"] == ("x",) and new.count()["tanh"] == 1


@pytest.mark.parametrize("dtype", ["complex64", "int32"])
def test_other_numbers_stay(dtype) -> None:
    x = (4 * X).astype(dtype)
    for fn in (lambda x: x / norm(x), lambda x: (x - mean(x)) / jnp.sqrt(mean(x * x) + EPS)):
        new, n = applied(fn, x)
        # Of integers, the floats that jnp makes of them are what is normalised.
        assert all(n.inputs[0].dtype == "float32" for n in new.find("l2_normalize"))
        assert n == 0 or dtype == "int32"
        assert_close(new(x), fn(x))


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
