"""Known scales and shifts move into the weights of what comes after, where padding allows."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest
from jax import lax

from helpers import CHW, array, assert_applies, assert_refuses, positive
from jaxpress import nnops
from jaxpress.passes import fold_constants
from jaxpress.passes.rules.fold_before import FOLD_BEFORE, FOLD_BEFORE_RULES, FOLD_NORM
from jaxpress.testing import assert_rewrites

# As many channels as rows and columns: only the axis itself tells them apart.
C = 4
X, W, B = array(2, C, C, C), array(3, 3, C, C), array(C, seed=5)
MEAN, VAR, SCALE, BIAS = array(C, seed=1), positive(C), array(C, seed=2), array(C, seed=3)
D, M = array(3, 5), array(5, C)
P, Q = positive(5), array(5, seed=6)


def spread(v, axis=-1, ndim=4):
    return v.reshape([-1 if i == axis % ndim else 1 for i in range(ndim)])


def one_op(new, op):
    """The graph is ``op`` alone once what is known has moved to the prologue."""
    assert fold_constants(new).count() == {op: 1}, str(new)


def norm(x, axis=-1):
    return nnops.batch_norm(x, MEAN, VAR, SCALE, BIAS, axis=axis)


@pytest.mark.parametrize(
    "fn",
    [
        lambda x: x * P,
        lambda x: P * x,
        lambda x: x / P,
        lambda x: x + Q,
        lambda x: Q + x,
        lambda x: x - Q,
        lambda x: Q - x,
        lambda x: (x - Q) / P,
        lambda x: x / 255.0 - 0.5,
        lambda x: x * P[:1],
        lambda x: nnops.batch_norm(x, Q, P, Q, None),
    ],
)
def test_before_a_dense(fn) -> None:
    for bias in (None, B):
        new = assert_applies(
            FOLD_BEFORE_RULES, lambda x, b=bias: nnops.dense(fn(x), M, b, activation="silu"), D
        )
        one_op(new, "dense")


VALID = {
    "plain": {"w": W},
    "bias": {"w": W, "b": B},
    "strided": {"w": W, "strides": 2},
    "cropped": {"w": W[:2, :2], "padding": ((-1, 0), (0, -1))},
    "grouped": {"w": array(3, 3, 2, 6), "groups": 2, "b": array(6)},
    "depthwise": {"w": array(3, 3, 1, 8), "groups": C},
    "dilated": {"w": W[:2, :2], "dilation": 2},
    "transposed": {"w": W[:1, :1], "transposed": True},
    "channels first": {"w": array(6, C, 3, 3), "dimension_numbers": CHW},
    "channels first, grouped": {"w": array(6, 2, 3, 3), "groups": 2, "dimension_numbers": CHW},
}


@pytest.mark.parametrize("name", VALID)
def test_before_a_convolution_that_does_not_pad(name) -> None:
    options = {"padding": "VALID", **VALID[name]}
    axis = 1 if "first" in name else -1

    def fn(x):
        x = (x - spread(MEAN, axis)) / spread(VAR, axis)
        return nnops.conv(norm(x, axis), **options)

    one_op(assert_applies(FOLD_BEFORE_RULES, fn, X, times=3), "conv")


PADDED = {
    "same": {"w": W, "b": B},
    "grouped": {"w": array(3, 3, 2, 6), "groups": 2},
    "transposed": {"w": W, "strides": 2, "transposed": True},
    "channels first": {"w": array(6, C, 3, 3), "dimension_numbers": CHW},
}


@pytest.mark.parametrize("name", PADDED)
def test_padding_takes_a_scale_and_no_shift(name) -> None:
    axis = 1 if "first" in name else -1
    s, t = spread(VAR, axis), spread(MEAN, axis)
    new = assert_applies(
        FOLD_BEFORE_RULES, lambda x: nnops.conv(x * s / s * s, **PADDED[name]), X, times=3
    )
    one_op(new, "conv")
    new = assert_applies(
        FOLD_BEFORE_RULES, lambda x: nnops.conv((x - t) / s, **PADDED[name]), X, times=1
    )
    assert fold_constants(new).count() == {"sub": 1, "conv": 1, "broadcast_in_dim": 1} or (
        new.count()["sub"] == 1 and "div" not in fold_constants(new).count()
    )
    for shifted in (lambda x: x + t, lambda x: t - x):
        assert_refuses(
            FOLD_BEFORE, lambda x, f=shifted: nnops.conv(f(x), **PADDED[name]), X,
            because="padding is zero",
        )  # fmt: skip


def test_holes_of_a_dilated_input_take_no_shift() -> None:
    assert_refuses(
        FOLD_BEFORE,
        lambda x: nnops.conv(x + BIAS, W, strides=2, transposed=True, padding=0),
        X,
        because="padding is zero",
    )


@pytest.mark.parametrize(
    ("equation", "x", "w", "vector"),
    [
        ("btd,dhk->bthk", (2, 3, 5), (5, 2, 3), (5,)),
        ("bthk,hkd->btd", (2, 3, 2, 4), (2, 4, 5), (2, 4)),
        ("bthk,hkd->btd", (2, 3, 2, 4), (2, 4, 5), (4,)),
        ("bthk,khd->btd", (2, 3, 2, 4), (4, 2, 5), (2, 1)),
        ("btd,tde->bte", (2, 3, 5), (3, 5, 6), (3, 5)),
        ("bhta,hak->bhtk", (2, 3, 4, 5), (3, 5, 6), (3, 1, 5)),
    ],
)
def test_before_an_einsum_dense(equation, x, w, vector) -> None:
    v, weights = positive(*vector), array(*w)

    def fn(x):
        return nnops.einsum_dense(x / v + v, weights, equation=equation)

    one_op(assert_applies(FOLD_BEFORE_RULES, fn, array(*x), times=2), "einsum_dense")


def test_steps_that_treat_all_elements_alike_may_stand_between() -> None:
    flat = array(C * C * C, 3)

    def flattened(x):
        return nnops.dense(norm(x).reshape(2, -1), flat)

    new = assert_applies(FOLD_BEFORE_RULES, flattened, X, times=1)
    assert fold_constants(new).count() == {"reshape": 1, "dense": 1}

    def turned(x):
        return nnops.dense(jnp.transpose(norm(x), (0, 3, 1, 2)).reshape(2, -1), flat)

    new = assert_applies(FOLD_BEFORE_RULES, turned, X, times=1)
    assert fold_constants(new).count() == {"transpose": 1, "reshape": 1, "dense": 1}

    def pooled(x):
        return nnops.conv(nnops.avg_pool(norm(x), 2, 2), W[:2, :2], padding="VALID")

    new = assert_applies(FOLD_BEFORE_RULES, pooled, X, times=1)
    assert fold_constants(new).count() == {"avg_pool": 1, "conv": 1}

    def padded(x):
        x = jnp.pad(x * VAR, ((0, 0), (1, 1), (0, 2), (0, 0)))
        return nnops.conv(x, W, padding="VALID")

    new = assert_applies(FOLD_BEFORE_RULES, padded, X, times=1)
    assert "mul" not in fold_constants(new).count()


@pytest.mark.parametrize("slow", [False, True])
def test_blocks_of_places_that_become_channels(slow) -> None:
    """Space to depth: each channel is scaled in as many places of the weights."""

    def fn(x):
        y = norm(x).reshape(2, C // 2, 2, C // 2, 2, C)
        y = y.transpose((0, 1, 3, 5, 2, 4) if slow else (0, 1, 3, 2, 4, 5))
        return nnops.conv(y.reshape(2, C // 2, C // 2, 4 * C), array(1, 1, 4 * C, 3))

    new = assert_applies(FOLD_BEFORE_RULES, fn, X, times=1)
    assert fold_constants(new).count() == {"reshape": 2, "transpose": 1, "conv": 1}


def test_repeated_places() -> None:
    def fn(x):
        y = jnp.repeat(jnp.repeat((x - MEAN) * VAR, 2, 1), 2, 2)
        return nnops.conv(y, W, padding="VALID")

    new = assert_applies(FOLD_BEFORE_RULES, fn, X, times=2)
    assert not {"mul", "sub"} & set(fold_constants(new).count())
    wide = array(2 * C, 3)
    new = assert_applies(
        FOLD_BEFORE_RULES, lambda x: nnops.dense(jnp.repeat(x - MEAN, 2, 3), wide), X, times=1
    )
    assert not {"mul", "sub"} & set(fold_constants(new).count())


@pytest.mark.parametrize(
    "fn",
    [
        lambda x: nnops.conv(jnp.pad(x + BIAS, ((0, 0), (1, 1), (1, 1), (0, 0))), W, padding=0),
        lambda x: nnops.conv(jnp.pad(x * VAR, 1, constant_values=1.0), array(3, 3, 6, 2)),
        lambda x: nnops.conv(jnp.pad(x * VAR, ((0, 0), (0, 0), (0, 0), (0, 2))),
                             array(3, 3, 6, 2)),
        lambda x: nnops.conv(nnops.avg_pool(x + BIAS, 2, padding="SAME"), W, padding=0),
        lambda x: nnops.conv(nnops.max_pool(x * VAR, 2), W),
        lambda x: nnops.conv(nnops.relu(x * VAR), W),
        lambda x: nnops.dense((x * VAR).reshape(2, C, -1), array(C * C, 3)),
        lambda x: nnops.dense((x * spread(VAR, 0 + 1)).reshape(2 * C, -1), array(C * C, 3)),
        lambda x: nnops.dense((x * VAR)[..., ::-1], M[:C]),
    ],
)  # fmt: skip
def test_steps_that_do_not_stay_between(fn) -> None:
    x = array(2, C, C, C)
    if fn(x).ndim == 3:  # a reshape that keeps the rows apart: the channels are still its own
        assert_applies(FOLD_BEFORE_RULES, fn, x, times=1)
    else:
        assert_refuses(FOLD_BEFORE_RULES, fn, x)


def test_all_users_take_it_or_none() -> None:
    ws = [array(5, n) for n in (2, 3, 4)]

    def all_dense(x):
        y = (x - Q) * P
        return [nnops.dense(y, w) for w in ws]

    new = assert_applies(FOLD_BEFORE_RULES, all_dense, D, times=6)
    assert fold_constants(new).count() == {"dense": 3}
    assert_refuses(
        FOLD_BEFORE, lambda x: (lambda y: (nnops.dense(y, M), y))(x * P), D, because="output"
    )
    assert_refuses(
        FOLD_BEFORE, lambda x: (lambda y: nnops.dense(y, M).sum() + y)(x * P), D,
        because="elsewhere",
    )  # fmt: skip
    assert_refuses(
        FOLD_BEFORE, lambda x, w: (lambda y: nnops.dense(y, M) + nnops.dense(y, w))(x * P), D, M,
        because="not known",
    )  # fmt: skip

    def one_pads(x):
        y = x + BIAS
        return nnops.conv(y, W, padding="VALID").sum() + nnops.conv(y, W)

    assert_refuses(FOLD_BEFORE, one_pads, X, because="padding")


@pytest.mark.parametrize(
    ("fn", "because"),
    [
        (lambda x: nnops.dense(x * x.sum(), M), "neither operand is known"),
        (lambda x: nnops.dense(P / x, M), "neither operand"),
        (lambda x: nnops.dense(x * array(3, 1), M), "along the channels"),
        (lambda x: nnops.dense(x * array(3, 5), M), "along the channels"),
        (lambda x: nnops.dense(x[:1] * array(3, 5), M), "broadcasts"),
        (lambda x: nnops.dense(jnp.exp(x), M), "not scaled"),
        (lambda x: nnops.dense(nnops.batch_norm(x, x.mean(0), P), M), "depend on the data"),
        (lambda x: nnops.dense(jnp.mean(x[None], 0), M), "mean"),
        (lambda x: nnops.dense(nnops.dense(x, array(5, 5)) * P, M), "what comes before"),
    ],
)
def test_what_is_not_the_same_algebra_stays(fn, because) -> None:
    assert_refuses(FOLD_BEFORE, fn, D, because=because)


def test_the_axis_decides_and_not_the_size() -> None:
    for axis in (1, 2):
        assert_refuses(
            FOLD_BEFORE, lambda x, a=axis: nnops.conv(x * spread(VAR, a), W, padding="VALID"), X,
            because="channels alone",
        )  # fmt: skip
        assert_refuses(
            FOLD_BEFORE, lambda x, a=axis: nnops.conv(norm(x, a), W, padding="VALID"), X,
            because="channels alone",
        )  # fmt: skip


def test_integers_and_mapped_weights_stay() -> None:
    d, m = (3 * D).astype("int32"), (3 * M).astype("int32")
    assert_refuses(FOLD_BEFORE, lambda x: nnops.dense(x * 2, m), d, because="int32")
    ws = jnp.stack([M, -M])
    assert_refuses(FOLD_BEFORE, lambda x: jax.vmap(lambda w: nnops.dense(x * P, w))(ws), D)


@pytest.mark.parametrize("op", ["layer_norm", "rms_norm"])
def test_the_scale_and_bias_of_a_norm(op) -> None:
    x, scale, bias = array(2, 3, 5), positive(5), array(5)
    ws = [array(5, n) for n in (2, 4)]
    fn = getattr(nnops, op)
    given = (scale, bias) if op == "layer_norm" else (scale,)

    def several(x):
        y = fn(x, *given)
        heads = nnops.einsum_dense(y, array(5, 2, 3), equation="btd,dhk->bthk")
        return [nnops.dense(y, w) for w in ws], heads

    new = assert_applies(FOLD_BEFORE_RULES, several, x, times=1 + 3 * len(given))
    assert fold_constants(new).count() == {op: 1, "dense": 2, "einsum_dense": 1}
    (node,) = new.find(op)
    assert len(node.inputs) == 1
    assert_refuses(FOLD_BEFORE_RULES, lambda x: (lambda y: nnops.dense(y, ws[0]).sum() + y)(
        fn(x, *given)), x)  # fmt: skip
    assert_refuses(FOLD_NORM, lambda x: nnops.dense(fn(x), ws[0]), x, because="no scale")
    assert_refuses(
        FOLD_NORM, lambda x, s: nnops.dense(fn(x, s), ws[0]), x, scale, because="not known"
    )
    assert_refuses(FOLD_NORM, lambda x: nnops.dense(nnops.relu(fn(x, *given)), ws[0]), x)


def test_a_norm_over_two_axes_before_a_dense_of_both() -> None:
    x, scale, bias = array(2, 3, 5), positive(3, 5), array(3, 5)

    def fn(x):
        return nnops.dense(
            nnops.layer_norm(x, scale, bias, axis=(1, 2)).reshape(2, -1), array(15, 4)
        )

    new = assert_applies(FOLD_BEFORE_RULES, fn, x, times=3)
    assert fold_constants(new).count() == {"layer_norm": 1, "reshape": 1, "dense": 1}


def test_a_norm_in_mixed_precision() -> None:
    x, m = array(2, 3, 5).astype("bfloat16"), M.astype("bfloat16")

    def fn(x):
        return nnops.dense(nnops.layer_norm(x, P, Q).astype("bfloat16"), m)

    # The affine part is float32, and rounded only then.
    assert_refuses(FOLD_BEFORE_RULES, fn, x)

    # A few roundings to 8 bits.
    new = assert_applies(
        FOLD_BEFORE_RULES,
        lambda x: nnops.dense(nnops.layer_norm(x, P.astype(x.dtype), Q.astype(x.dtype)), m),
        x, tolerance=4e-2,
    )  # fmt: skip
    assert fold_constants(new).count() == {"layer_norm": 1, "dense": 1}


def test_against_float64_and_under_vmap() -> None:
    def fn(x):
        return nnops.conv(norm(lax.sin(x)), W, B, padding="VALID")

    assert_rewrites(FOLD_BEFORE_RULES, fn, X, times=1)
    empty = X[:0]
    assert_applies(FOLD_BEFORE_RULES, fn, empty, times=1)


@pytest.mark.parametrize("how", ["pooled", "padded", "pooled and turned"])
def test_through_what_changes_the_axes_that_a_reshape_merges(how) -> None:
    """The weights see as many places as are left, not as many as there were."""
    left = C + 2 if how == "padded" else C // 2
    w = array(left * left * C, 3)

    def fn(x):
        x = (x - spread(MEAN)) / spread(VAR)
        if how == "padded":
            x = jnp.pad(x / spread(P[:C]), ((0, 0), (1, 1), (1, 1), (0, 0)))
        else:
            x = nnops.avg_pool(x, (2, 2), (2, 2))
        return nnops.dense((x.transpose(0, 3, 1, 2) if "turned" in how else x).reshape(2, -1), w)

    new = assert_applies(FOLD_BEFORE_RULES, fn, X, times=2)
    if how != "padded":
        assert set(fold_constants(new).count()) <= {"avg_pool", "transpose", "reshape", "dense"}


@pytest.mark.parametrize("keepdims", [False, True])
def test_through_global_pooling(keepdims) -> None:
    def fn(x):
        y = nnops.global_avg_pool(norm(x), keepdims=keepdims)
        return nnops.dense(y, array(C, 3))

    new = assert_applies(FOLD_BEFORE_RULES, fn, X, times=1)
    assert fold_constants(new).count() == {"global_avg_pool": 1, "dense": 1}
    assert_refuses(FOLD_BEFORE_RULES, fn, X[:, :0])


@pytest.mark.parametrize("alike", ["mean", "var", "scale", "bias"])
def test_a_norm_some_of_whose_numbers_are_all_alike(alike) -> None:
    # Written down as one number that is spread out.
    given = {"mean": array(4), "var": positive(4), "scale": array(4), "bias": array(4)}
    w = array(4, 3)

    def fn(x):
        norm = {**given, alike: jnp.full(4, 0.5)}
        return nnops.dense(nnops.batch_norm(x, **norm), w)

    assert_applies(FOLD_BEFORE, fn, array(2, 4))
