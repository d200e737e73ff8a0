"""A batch norm of a concatenation or a sum of linear ops folds into each; padding may follow."""

from __future__ import annotations

import jax.numpy as jnp
import pytest
from jax import lax

import jaxpress as jp
from helpers import array, assert_applies, assert_optimizes, assert_refuses, conv, positive
from jaxpress import nnops, passes
from jaxpress.capture import trace
from jaxpress.passes import fold_constants
from jaxpress.passes.rules.fold import FOLD_RULES
from jaxpress.passes.rules.fold_split import (
    FOLD_PRODUCT,
    FOLD_SPLIT,
    FOLD_SPLIT_RULES,
    FOLD_SUM,
)

# No size tells the channels from the rows, the columns or the batch.
C = 4
X, W, V = array(C, C, C, C), array(3, 3, C, C), array(1, 1, C, C)
STATS = array(C, seed=1), positive(C), array(C, seed=2), array(C, seed=3)
FAR = jnp.full(C, 1e4)
TWICE = array(2 * C, seed=1), positive(2 * C), array(2 * C, seed=2), array(2 * C, seed=3)


@pytest.mark.parametrize("axis", [0, 1, 2, 3])
@pytest.mark.parametrize("bias", [False, True])
def test_of_a_concatenation_along_any_axis(axis, bias) -> None:
    def fn(x):
        y, z = conv(x, W), conv(x, V)
        if bias:
            y, z = y + STATS[0], z + STATS[1]
        stats = TWICE if axis == 3 else STATS
        return nnops.batch_norm(jnp.concatenate([y, z], axis), *stats)

    assert_optimizes(passes.default, fn, X, ops={"conv": 2, "concatenate": 1})


def test_of_a_sum() -> None:
    def fn(x, z):  # of one input they would become one
        return nnops.relu(nnops.batch_norm(conv(x, W) + conv(z, V), *STATS[:2]))

    new = assert_optimizes(passes.default, fn, X, X[::-1], ops={"conv": 2})
    assert {str(n.params["activation"]) for n in new.find("conv")} >= {"None"}


MIXED = {
    "a sum": lambda y, z: (y + z, STATS, "bfloat16"),
    "a difference": lambda y, z: (y - z, STATS, "bfloat16"),
    "a concatenation": lambda y, z: (jnp.concatenate([y, z], -1), TWICE, "bfloat16"),
    "rounded to another type": lambda y, z: (y + z, STATS, "float16"),
    "not rounded": lambda y, z: (jnp.concatenate([y, z], -1), TWICE, "float32"),
    "the wider one is used": lambda y, z: (y + z, STATS, "bfloat16"),
}


@pytest.mark.parametrize("name", MIXED)
@pytest.mark.parametrize("widened", [True, False])
def test_of_mixed_precision(name, widened) -> None:
    """Data and weights in bfloat16, statistics in float32, and the result rounded at once."""
    w, v = W.astype("bfloat16"), V.astype("bfloat16")

    def fn(x, z):
        y, stats, dtype = MIXED[name](conv(x, w), conv(z, v))
        y = y.astype("float32") if widened else y
        out = nnops.batch_norm(y, *stats)
        return (out.astype(dtype), *([out] if "used" in name else []))

    args = X.astype("bfloat16"), X[::-1].astype("bfloat16")
    stays = list(MIXED).index(name) > 2
    new, _ = passes.default.run(trace(fn)(*args), check=True)
    assert not passes.default.run(new, check=True)[1].rewrites
    jp.verify(fn, new, gradients=True)(*args)
    assert len(new.find("batch_norm")) == stays and len(new.find("conv")) == 2
    if stays:
        assert_refuses(FOLD_SPLIT_RULES, fn, *args)
    else:
        assert not (new.find("mul") or new.find("convert_element_type"))


# What of several convolutions, biased or not, leaves nothing but them.
SUMS = {
    "biased": lambda a, b, c: norm((a + STATS[0]) + (b + STATS[3])),
    "biased, to the left": lambda a, b, c: norm(a + STATS[0] + b + STATS[3]),
    "three": lambda a, b, c: norm((a + STATS[0]) + (b + STATS[3]) + (c + STATS[2])),
    "taken away": lambda a, b, c: norm(c - (a - b)),
    "scaled": lambda a, b, c: ((a + STATS[0]) + b) * STATS[2] + c / STATS[1],
    "shifted": lambda a, b, c: 0.5 - STATS[0] + ((a + b) - STATS[2] - c),
    "the second is shifted": lambda a, b, c: norm(jnp.pad(a[:, 1:-1, 1:-1], EDGE) - b) + c,
}
EDGE = ((0, 0), (1, 1), (1, 1), (0, 0))


def norm(y):
    return nnops.batch_norm(y, *STATS)


@pytest.mark.parametrize("name", SUMS)
def test_of_sums_of_biased_convolutions(name) -> None:
    def fn(*xs):
        y = (conv(x, w) for x, w in zip(xs, (W, V, W[::-1]), strict=True))
        return nnops.relu(SUMS[name](*y))

    new = assert_optimizes(
        passes.default, fn, X, X[::-1], X[:, ::-1], absent=("batch_norm", "mul", "div")
    )
    known = {*new.constants, *new.prepared}
    for node in new.find("add") + new.find("sub"):
        assert not known & set(node.inputs), f"{node!r} is left"


# Sums whose other parts are spread out: only the convolution can take in what is known.
SPREAD = {
    "distance": lambda y, r: (r[:, :1, :1, :1] - y) + STATS[0],
    "per example": lambda y, r: STATS[0] + (y + r[:, :1, :1]),
    "of spread sums": lambda y, r: ((r[:, :1, :1] + r[:, :1, 1:2]) + y) - STATS[2],
}


@pytest.mark.parametrize("name", SPREAD)
def test_a_shift_goes_past_what_a_sum_spreads_out(name) -> None:
    new = assert_optimizes(passes.default, lambda x, r: SPREAD[name](conv(x, W), r), X, X[::-1])
    known = {*new.constants, *new.prepared}
    for node in new.find("add") + new.find("sub"):
        assert not known & set(node.inputs), f"{node!r} is left"


def test_a_scale_goes_past_a_gate() -> None:
    def fn(x, z):
        gate = nnops.sigmoid(jnp.mean(z, (1, 2), keepdims=True))
        y = STATS[3] * (gate * (conv(x, W) + STATS[0]) * 2.0)
        return y / positive(C) * 0.2

    new = assert_optimizes(passes.default, fn, X, X[::-1], absent=("div",))
    assert len(new.find("mul")) == 1


@pytest.mark.parametrize(
    ("fn", "because"),
    [
        (lambda y, r: y * r * STATS[0][:, None], "along the features"),
        (lambda y, r: y * jnp.sin(y) * STATS[0], "used elsewhere"),
        (lambda y, r: lax.mul(y[:, :1, :1], r) * STATS[0], "spreads it out"),
        (lambda y, r: (y * r) * r, "known before the data"),
        (lambda y, r: nnops.relu(y) * r * STATS[0], ""),
        (lambda y, r: (r * jnp.sin(r)) * STATS[0], ""),
    ],
)
def test_products_that_keep_their_scale(fn, because) -> None:
    graph = trace(lambda x, r: fn(conv(x, W), r))(X, X[::-1])
    assert_refuses(FOLD_PRODUCT, raised(graph), X, X[::-1], because=because)


def raised(graph):
    return passes.raise_ops(passes.inline(graph))


# conv -> f -> batch_norm: whether the norm goes as a whole, or leaves its shift behind.
BETWEEN = {
    "pad": (lambda y: jnp.pad(y, EDGE), True),
    "counted": (lambda y: nnops.avg_pool(y, 3, padding="SAME"), True),
    "pad, features first": (lambda y: jnp.pad(y, EDGE).transpose(0, 3, 1, 2), True),
    "crop": (lambda y: lax.pad(y, 0.0, [(0, 0, 0), (-1, -1, 0), (0, -1, 0), (0, 0, 0)]), False),
    "slice": (lambda y: y[:, 1:, ::2], False),
}


@pytest.mark.parametrize("name", BETWEEN)
@pytest.mark.parametrize("bias", [None, array(C, seed=7)])
def test_of_what_is_padded_or_cut(name, bias) -> None:
    between, leaves_shift = BETWEEN[name]

    def fn(x):
        y = between(nnops.conv(x, W, bias))
        return nnops.batch_norm(y, *STATS, axis=1 if "first" in name else -1)

    new = assert_optimizes(passes.default, fn, X, absent=("batch_norm", "mul"))
    assert len(new.find("add")) == leaves_shift


@pytest.mark.parametrize(
    "between",
    [
        lambda y: jnp.pad(y, EDGE, constant_values=1.0),
        lambda y: jnp.pad(y, EDGE, mode="edge"),
        lambda y: jnp.pad(y, ((0, 0), (0, 0), (0, 0), (0, 1)))[..., 1:],
        lambda y: nnops.relu(jnp.pad(y, EDGE)),
        lambda y: y[..., ::-1],
    ],
)
def test_what_changes_the_features_stays(between) -> None:
    assert_refuses(FOLD_SPLIT_RULES, lambda x: norm(between(nnops.conv(x, W))), X)


@pytest.mark.parametrize("sign", [1, -1])
def test_a_norm_of_a_sum_with_data(sign) -> None:
    """As residual networks have it that norm after they add."""

    def fn(x):
        y, r = nnops.conv(nnops.relu(x), W, STATS[0]), jnp.sin(x)
        return norm(y + r if sign > 0 else r - y)

    new = assert_applies(FOLD_RULES + FOLD_SPLIT_RULES, fn, X)
    left = fold_constants(new).count()
    assert not left["batch_norm"] and left["mul"] == 1

    def skip(x):
        return nnops.relu(norm(nnops.conv(x, W) + x))

    assert_optimizes(passes.default, skip, X, ops={"conv": 1})


@pytest.mark.parametrize(
    "fn",
    [
        lambda y, z: norm(nnops.sigmoid(y) + nnops.relu(z)),
        lambda y, z: norm(y + nnops.relu(z) - nnops.sigmoid(z)),
        lambda y, z: nnops.batch_norm(y + jnp.sin(z), FAR, STATS[1]),  # it would lose digits
        lambda y, z: (y + nnops.relu(z)) * STATS[1],
        lambda y, z: (nnops.relu(y) + nnops.relu(z)) + STATS[1],
        lambda y, z: (lambda s: (s + STATS[1], s))(y + z),
        lambda y, z: (lambda s: s * s)(y + z),
        lambda y, z: (y * y) * STATS[1],
        lambda y, z: (nnops.relu(y) * nnops.relu(z)) * STATS[1],
        lambda y, z: (y + z) * z[0, 0, 0],
        lambda y, z: (y + z) * STATS[1][:, None],
        lambda y, z: (y + z) + array(C, C, C, C),
        lambda y, z: norm(y + z[:, :1]),
    ],
)
def test_sums_that_only_look_foldable_stay(fn) -> None:
    assert_refuses(FOLD_SPLIT_RULES, lambda x: fn(nnops.conv(x, W), nnops.conv(x, V)), X)


@pytest.mark.parametrize(
    ("fn", "because"),
    [
        (lambda y, z: nnops.batch_norm(jnp.concatenate([y, nnops.relu(z)], 3), *TWICE), "made by"),
        (
            lambda y, z: nnops.batch_norm(jnp.concatenate([y, y], 3), *TWICE),
            "comes twice, or there",
        ),
        (lambda y, z: norm(y + y), "twice"),
        (lambda y, z: norm(y + z) + z - y, "elsewhere"),
        (lambda y, z: (lambda s: norm(s) + s)(y + z), "elsewhere"),
        (lambda y, z: nnops.batch_norm(y + z, *STATS, axis=1), "features"),
        (lambda y, z: norm(y + z[:1]), "broadcasts"),
        (lambda y, z: nnops.batch_norm(y + z, z[0, 0, 0], STATS[1]), "not known"),
        (lambda y, z: nnops.batch_norm(y + z, STATS[0], jnp.zeros(C), epsilon=0.0), "finite"),
    ],
)
def test_lookalikes_stay(fn, because) -> None:
    def whole(x):
        return fn(nnops.conv(x, W), nnops.conv(x, V))

    if because == "finite":
        zero = jnp.zeros(C)

        def whole(x):
            y = nnops.conv(x, W) + nnops.conv(x, V)
            return nnops.batch_norm(y, STATS[0], zero, epsilon=0.0)

    rule = FOLD_SPLIT if because in ("made by", "comes twice, or there") else FOLD_SUM
    assert_refuses(rule, whole, X, because=because)
