"""What is known moves into the weights of what comes before, and nothing that is not."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from helpers import CHW, HWC, array, assert_applies, assert_refuses, positive
from jaxpress import nnops, optimize
from jaxpress.capture import trace
from jaxpress.passes import fold_constants, rewrite
from jaxpress.passes.rules.fold import FOLD_BATCH_NORM, FOLD_RULES, FOLD_SCALE, FOLD_SHIFT
from jaxpress.testing import assert_rewrites

# As many channels as rows and columns: only the axis itself tells them apart.
C = 4
X, W, B = array(2, C, C, C), array(3, 3, C, C), array(C, seed=5)
MEAN, VAR, SCALE, BIAS = array(C, seed=1), positive(C), array(C, seed=2), array(C, seed=3)
D, M = array(3, 5), array(5, C)


def norm(y, axis=-1, **options):
    return nnops.batch_norm(y, MEAN, VAR, SCALE, BIAS, axis=axis, **options)


def spread(v, axis=-1, ndim=4):
    return v.reshape([-1 if i == axis % ndim else 1 for i in range(ndim)])


CONVS = {
    "plain": {},
    "bias": {"b": B},
    "strided": {"strides": 2, "padding": "VALID"},
    "dilated": {"dilation": 2, "padding": 3},
    "grouped": {"w": W[:, :, :2], "groups": 2},
    "depthwise": {"w": W[:, :, :1], "groups": C, "b": B},
    "transposed": {"strides": 2, "transposed": True},
    "channels first": {"w": array(C, C, 3, 3), "dimension_numbers": CHW, "b": B},
    "mixed": {"dimension_numbers": ("NHWC", "HWIO", "NCHW")},
    "odd kernel": {"w": array(C, 3, 3, C), "dimension_numbers": ("NHWC", "OHWI", "NHWC")},
}
AXES = {"channels first": 1, "mixed": 1}


def conv_of(x, w=W, **options):
    return nnops.conv(x, w, **options)


def one_op(new, op):
    """The graph is ``op`` alone once what is known has moved to the prologue."""
    assert fold_constants(new).count() == {op: 1}, str(new)


@pytest.mark.parametrize("name", CONVS)
def test_a_batch_norm_after_any_convolution(name) -> None:
    def fn(x):
        return norm(conv_of(x, **CONVS[name]), AXES.get(name, -1), epsilon=1e-2)

    one_op(assert_applies(FOLD_BATCH_NORM, fn, X, times=1), "conv")


@pytest.mark.parametrize("name", ["bias", "depthwise", "transposed", "channels first"])
def test_scales_and_shifts_after_a_convolution(name) -> None:
    s = spread(VAR, AXES.get(name, -1))

    def fn(x):
        return ((conv_of(x, **CONVS[name]) * s - s) / s + s) * s

    one_op(assert_applies(FOLD_RULES, fn, X, times=5), "conv")


def test_against_float64_and_under_vmap() -> None:
    assert_rewrites(FOLD_RULES, lambda x: norm(nnops.conv(x, W, B)) * SCALE, X)


@pytest.mark.parametrize(
    "fn",
    [
        lambda y: y * SCALE,
        lambda y: SCALE * y,
        lambda y: y / VAR,
        lambda y: y + BIAS,
        lambda y: y - BIAS,
        lambda y: BIAS - y,
        lambda y: (y - MEAN) / jnp.sqrt(VAR) * SCALE + BIAS,
        lambda y: 2.0 * y - 1.0,
        lambda y: y * SCALE[:1],
        lambda y: y * SCALE.reshape(1, C),
        lambda y: nnops.batch_norm(y, MEAN, VAR),
    ],
)
def test_after_a_dense(fn) -> None:
    for bias in (None, B):
        one_op(assert_applies(FOLD_RULES, lambda x, b=bias: fn(nnops.dense(x, M, b)), D), "dense")


@pytest.mark.parametrize(
    ("equation", "w", "bias", "scale"),
    [
        ("btd,dhk->bthk", array(6, 2, 3), (2, 3), (2, 3)),
        ("btd,dhk->bthk", array(6, 2, 3), (2, 3), (1, 3)),
        ("btd,dhk->bthk", array(6, 2, 3), (2, 3), (2, 1)),
        ("btd,dhk->bhtk", array(6, 2, 3), (2, 3), (2, 1, 3)),
        ("btd,de->bte", array(6, 4), (4,), (4,)),
        ("btd,tde->bte", array(5, 6, 4), (5, 4), (5, 4)),  # weights for each step
    ],
)
def test_after_an_einsum_dense(equation, w, bias, scale) -> None:
    x, b, s = array(2, 5, 6), array(*bias), positive(*scale)

    def fn(x):
        return nnops.einsum_dense(x, w, b, equation=equation) * s - s

    one_op(assert_applies(FOLD_RULES, fn, x, times=2), "einsum_dense")


def test_steps_that_treat_all_elements_alike_may_stand_between() -> None:
    def pooled(x):
        return norm(nnops.avg_pool(nnops.conv(x, W, B), 2, 2))

    new = assert_applies(FOLD_RULES, pooled, X, times=1)
    assert fold_constants(new).count() == {"conv": 1, "avg_pool": 1}

    def counted(x):
        y = nnops.avg_pool(nnops.conv(x, W), 3, padding="SAME", count_include_pad=False)
        return norm(y)

    assert_applies(FOLD_BATCH_NORM, counted, X, times=1)

    def moved(x):
        y = jnp.transpose(nnops.conv(x, W), (0, 3, 1, 2)).reshape(2, C, C * C)
        return y * SCALE[:, None] + BIAS[:, None]

    assert_applies(FOLD_RULES, moved, X, times=2)

    def heads(x):
        return nnops.dense(x, array(5, 6)).reshape(3, 2, 3) * array(2, 3) + array(3, seed=4)

    one = fold_constants(assert_applies(FOLD_RULES, heads, D, times=2))
    assert one.count() == {"dense": 1, "reshape": 1}


def pixels(x, channels_last=True):
    """Depth to space, in the order of TensorFlow or of torch."""
    n, h, w, c = x.shape
    split = (2, 2, c // 4) if channels_last else (c // 4, 2, 2)
    order = (0, 1, 3, 2, 4, 5) if channels_last else (0, 1, 4, 2, 5, 3)
    return x.reshape(n, h, w, *split).transpose(order).reshape(n, 2 * h, 2 * w, c // 4)


REPEATED = {
    "pixels": (pixels, 4 * C),
    "pixels, channels slow": (lambda x: pixels(x, False), 4 * C),
    "rows": (lambda x: jnp.repeat(x, 2, axis=1), C),
    "both": (lambda x: jnp.repeat(jnp.repeat(x, 2, 1), 3, 2), C),
}


@pytest.mark.parametrize("name", REPEATED)
def test_through_what_makes_more_places(name) -> None:
    between, features = REPEATED[name]
    w, b = array(3, 3, C, features), array(features)

    def fn(x):
        y = between(nnops.conv(x, w, b))
        return norm(y * VAR - BIAS)

    new = assert_applies(FOLD_RULES, fn, X, times=3)
    assert set(fold_constants(new).count()) <= {"conv", "reshape", "transpose", "broadcast_in_dim"}


def test_means_over_counted_padding_take_a_scale_and_no_shift() -> None:
    def fn(op):
        return lambda x: op(nnops.avg_pool(nnops.conv(x, W), 3, padding="SAME"))

    assert_applies(FOLD_RULES, fn(lambda y: y * SCALE), X, times=1)
    assert_refuses(FOLD_BATCH_NORM, fn(norm), X, because="padding")
    assert_refuses(FOLD_SHIFT, fn(lambda y: y + BIAS), X, because="padding")


def test_weights_that_two_convolutions_share_are_scaled_for_each() -> None:
    def fn(x):
        y = norm(nnops.conv(x, W))
        return nnops.conv(nnops.relu(y), W) * VAR, nnops.conv(x, W)

    new = assert_applies(FOLD_RULES, fn, X, times=2)
    assert fold_constants(new).count() == {"conv": 3, "relu": 1}


def test_declared_weights_are_folded_and_data_is_not() -> None:
    def fn(w, x):
        return norm(nnops.conv(x, w))

    graph = trace(fn)(W, X)
    assert rewrite(graph, FOLD_RULES) is graph
    marked = graph.with_parts(weight_inputs=frozenset(graph.inputs[:1]))
    new = fold_constants(rewrite(marked, FOLD_RULES))
    assert new.count() == {"conv": 1}
    np.testing.assert_allclose(new(W, X), fn(W, X), atol=2e-5)
    want = jax.grad(lambda w: jnp.sum(jnp.sin(fn(w, X))))(W)
    got = jax.grad(lambda w: jnp.sum(jnp.sin(new(w, X))))(W)
    np.testing.assert_allclose(got, want, atol=1e-4)


@pytest.mark.parametrize(
    ("rule", "fn", "because"),
    [
        (FOLD_BATCH_NORM, lambda x: norm(nnops.conv(x, W), axis=1), "not the features"),
        (FOLD_BATCH_NORM, lambda x: norm(nnops.conv(x, W), axis=0 + 2), "not the features"),
        (FOLD_BATCH_NORM,
         lambda x: nnops.batch_norm(nnops.conv(x, W), x.mean((0, 1, 2)), VAR), "not known"),
        (FOLD_BATCH_NORM, lambda x: (lambda y: (norm(y), y))(nnops.conv(x, W)), "elsewhere"),
        (FOLD_BATCH_NORM, lambda x: norm(nnops.conv(x, W, activation="relu")), "activation"),
        (FOLD_BATCH_NORM, lambda x: norm(nnops.conv(x, W, None, x)), "residual"),
        (FOLD_BATCH_NORM, lambda x: norm(nnops.max_pool(nnops.conv(x, W), 2)), "not made by"),
        (FOLD_BATCH_NORM, lambda x: norm(nnops.conv(x, x[:3, :3])), "not known"),
        (FOLD_BATCH_NORM, lambda x: norm(nnops.conv(x, W).reshape(2, -1, C * C)[..., :C]),
         "not the features"),
        (FOLD_SCALE, lambda x: nnops.conv(x, W) * spread(SCALE, 1), "along the features"),
        (FOLD_SCALE, lambda x: nnops.conv(x, W) * array(C, C), "along the features"),
        (FOLD_SCALE, lambda x: pixels(nnops.conv(x, W)) * array(8, 1), "along the features"),
        (FOLD_SCALE, lambda x: jnp.repeat(nnops.conv(x, W), 2, 3) * array(8), "the features"),
        (FOLD_SCALE, lambda x: nnops.conv(x, W) * array(2, 1, 1, C), "along the features"),
        (FOLD_SCALE, lambda x: SCALE / nnops.conv(x, W), "not"),
        (FOLD_SCALE, lambda x: nnops.conv(x, W) * x.sum(), "not known"),
        (FOLD_SCALE, lambda x: nnops.max_pool(nnops.conv(x, W), 2) * SCALE, "not made by"),
        (FOLD_SCALE, lambda x: jnp.sum(nnops.conv(x, W), (1, 2)) * VAR, "not made by"),
        (FOLD_SHIFT, lambda x: nnops.relu(nnops.conv(x, W)) + BIAS, "not made by"),
        (FOLD_SHIFT, lambda x: nnops.conv(x[:1, :1, :1], W[:1, :1], padding="VALID") + X,
         "broadcasts"),
        (FOLD_SHIFT, lambda x: nnops.dense(x[0], array(C, 1)) + BIAS, "broadcasts"),
    ],
)  # fmt: skip
def test_what_is_not_the_same_algebra_stays(rule, fn, because) -> None:
    assert_refuses(rule, fn, X, because=because)


def test_a_scale_by_the_very_same_value_stays() -> None:
    assert_refuses(FOLD_RULES, lambda x: (lambda y: y * y)(nnops.conv(x, W)), X)
    assert_refuses(FOLD_RULES, lambda x: (lambda y: y + y)(nnops.conv(x, W)), X)


def test_integers_and_complex_numbers_stay() -> None:
    for dtype in ("int32", "complex64"):
        d, m, s = (3 * D).astype(dtype), (3 * M).astype(dtype), (3 * SCALE).astype(dtype)
        assert_refuses(FOLD_SCALE, lambda x, m=m, s=s: nnops.dense(x, m) * s, d, because="is of")


def test_a_norm_in_the_dtype_of_its_statistics() -> None:
    """As mixed precision has it: float32 inside, converted back at once or not at all."""
    x, w = X.astype("bfloat16"), W.astype("bfloat16")

    def back(x):
        return norm(nnops.conv(x, w)).astype("bfloat16")

    new = assert_applies(FOLD_BATCH_NORM, back, x, times=1, tolerance=4e-2)
    assert fold_constants(new).count() == {"conv": 1}

    def both_ways(x):
        return norm(nnops.conv(x, w).astype("float32")).astype("bfloat16")

    new = assert_applies(FOLD_BATCH_NORM, both_ways, x, times=1, tolerance=4e-2)
    assert fold_constants(new).count() == {"conv": 1}

    def biased(x):
        y = nnops.conv(x, w) + W[0, 0, 0].astype("bfloat16")
        return jax.nn.relu(norm(y.astype("float32")).astype("bfloat16"))

    # The bias moves into the conv first, which the conversions behind it have to hear of.
    new = assert_applies(FOLD_RULES, biased, x, times=2, tolerance=4e-2)
    assert fold_constants(new).count()["conv"] == 1 and not new.find("batch_norm")
    # Another dtype between rounds, and a result in the wider one is not rounded.
    for around in (("float32", "float32"), ("float16", "bfloat16")):
        assert_refuses(
            FOLD_BATCH_NORM,
            lambda x, a=around: norm(nnops.conv(x, w).astype(a[0])).astype(a[1]),
            x,
            because="is not made by",
        )
    assert_refuses(FOLD_BATCH_NORM, lambda x: norm(nnops.conv(x, w)), x, because="float32")
    assert_refuses(
        FOLD_BATCH_NORM, lambda x: (lambda y: (y, y.astype("bfloat16")))(norm(nnops.conv(x, w))), x
    )


POOLS = {
    "max_pool": lambda y: nnops.max_pool(y, 2),
    "padded": lambda y: nnops.max_pool(y, 3, padding="SAME"),
    "min_pool": lambda y: nnops.min_pool(y, (2, 1)),
    "global_max_pool": lambda y: nnops.global_max_pool(y),
}


@pytest.mark.parametrize("name", POOLS)
def test_a_rising_function_goes_through_an_extreme(name) -> None:
    pool = POOLS[name]

    def rising(x):
        return nnops.batch_norm(pool(nnops.conv(x, W, B)), MEAN, VAR, VAR, BIAS) / VAR - MEAN

    new = fold_constants(assert_applies(FOLD_RULES, rising, X, times=3))
    assert new.count() == {"conv": 1, name.replace("padded", "max_pool"): 1}
    for falling in (lambda y: norm(y), lambda y: y * SCALE, lambda y: y / MEAN, lambda y: B - y):
        assert_refuses(FOLD_RULES, lambda x, f=falling: f(pool(nnops.conv(x, W))), X)
    # Of weights that are declared nothing tells whether they are above zero.
    declared = optimize(lambda x, s: pool(nnops.conv(x, W)) * s, weight_argnums=1)
    assert "mul" in declared.graph(X, VAR).count()


@pytest.mark.parametrize("bias", [None, array(2 * C)])
@pytest.mark.parametrize("axis", [1, 2])
def test_a_norm_along_a_part_of_the_features(axis, bias) -> None:
    """As where a dense op makes an image, whose channels are normed."""

    def fn(x):
        y = nnops.dense(x, array(5, 2 * C), bias).reshape(3, 2, C)
        stats = [v if axis == 2 else v[:2] for v in (MEAN, VAR, SCALE, BIAS)]
        return nnops.batch_norm(y, *stats, axis=axis)

    new = fold_constants(assert_applies(FOLD_BATCH_NORM, fn, array(3, 5), times=1))
    assert new.count() == {"dense": 1, "reshape": 1}


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_low_precision(dtype) -> None:
    x, w, b, *stats = (v.astype(dtype) for v in (X, W, B, MEAN, VAR, SCALE, BIAS))
    new = assert_applies(
        FOLD_RULES, lambda x: nnops.batch_norm(nnops.conv(x, w, b), *stats), x, tolerance=4e-2
    )
    assert fold_constants(new).outputs[0].dtype == dtype


def test_arrays_of_no_size_and_one_feature() -> None:
    assert_applies(FOLD_RULES, lambda x: norm(nnops.conv(x, W)), X[:0], gradients=False)
    one = array(3, 3, C, 1)
    assert_applies(FOLD_RULES, lambda x: nnops.conv(x, one) * VAR[:1] + 2.0, X)


def test_a_norm_that_is_mapped_over_statistics_stays() -> None:
    means = jnp.stack([MEAN, BIAS])

    def fn(x):
        return jax.vmap(lambda m: nnops.batch_norm(nnops.conv(x, W), m, VAR))(means)

    assert_refuses(FOLD_RULES, fn, X)
    assert_refuses(
        FOLD_RULES, lambda x: jax.vmap(lambda w: nnops.conv(x, w) * VAR)(jnp.stack([W, -W])), X
    )


def test_statistics_far_from_zero_lose_nothing() -> None:
    """A bias and the mean that it leads to cancel before they are scaled."""
    far = 1e4 + MEAN

    def fn(x):
        return nnops.batch_norm(nnops.conv(x, W, far), far, 1e-2 * VAR, SCALE, BIAS)

    graph = trace(fn)(X)
    new = rewrite(graph, FOLD_RULES)
    with jax.enable_x64():
        exact = np.asarray(
            trace(lambda x: nnops.conv(x, np.float64(W)))(np.float64(X))(np.float64(X))
        ) / np.sqrt(1e-2 * np.float64(VAR) + 1e-5) * np.float64(SCALE) + np.float64(BIAS)
    # The original rounds at 1e4, this does not.
    assert np.abs(np.asarray(new(X)) - exact).max() < 1e-4 * np.abs(exact).max()


def test_layouts_are_kept() -> None:
    new = rewrite(trace(lambda x: norm(nnops.conv(x, W)))(X), FOLD_RULES)
    (node,) = new.find("conv")
    assert node.params["dimension_numbers"] == HWC
    assert node.source is not None and "<lambda>" in node.source.function
