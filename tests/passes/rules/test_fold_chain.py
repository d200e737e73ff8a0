"""Linear ops in a row become one where that is cheaper, and never where it is not the same."""

from __future__ import annotations

import jax.numpy as jnp
import pytest
from jax import lax

from helpers import CHW, array, assert_applies, assert_optimizes, assert_refuses, positive
from jaxpress import nnops
from jaxpress.passes import default, fold_constants
from jaxpress.passes.rules.fold_chain import (
    FOLD_CHAIN_RULES,
    FOLD_CONV_CHAIN,
    FOLD_DENSE_CHAIN,
    MERGE_SCALES,
    MERGE_SHIFTS,
)
from jaxpress.testing import assert_rewrites

X = array(2, 6, 6, 3)
D = array(4, 5)


@pytest.mark.parametrize("first", [None, array(8)])
@pytest.mark.parametrize("second", [None, array(6)])
def test_two_dense_ops(first, second) -> None:
    def fn(x):
        y = nnops.dense(x, array(5, 8), first)
        return nnops.dense(y, array(8, 6), second, activation="relu")

    new = fold_constants(assert_applies(FOLD_DENSE_CHAIN, fn, D, times=1))
    assert new.count() == {"dense": 1} and new.nodes[0].inputs[1].shape == (5, 6)


def test_three_in_a_row_and_a_residual_behind() -> None:
    def fn(x):
        y = nnops.dense(nnops.dense(x, array(5, 9), array(9)), array(9, 7))
        return nnops.dense(y, array(7, 5), None, x)

    new = fold_constants(assert_rewrites(FOLD_DENSE_CHAIN, fn, D, times=2))
    assert new.count() == {"dense": 1}


@pytest.mark.parametrize(
    ("fn", "because"),
    [
        # A narrow waist is what makes two products cheap.
        (lambda x: nnops.dense(nnops.dense(x, array(5, 1)), array(1, 6)), "as many operations"),
        (lambda x: nnops.dense(nnops.dense(x, array(5, 8), activation="relu"), array(8, 6)),
         "activation"),
        (lambda x: nnops.dense(nnops.dense(x, array(5, 5), None, x), array(5, 3)), "residual"),
        (lambda x: nnops.dense(nnops.dense(x, x.T @ x), array(5, 3)), "not known"),
        (lambda x: (lambda y: (nnops.dense(y, array(8, 6)), y))(nnops.dense(x, array(5, 8))),
         "elsewhere"),
        (lambda x: (lambda y: nnops.dense(y, array(5, 5)) + y)(nnops.dense(x, array(5, 5))),
         "elsewhere"),
        (lambda x: nnops.dense(nnops.dense(x, array(5, 8), precision="highest"), array(8, 6)),
         "precision"),
        (lambda x: nnops.dense(nnops.dense(x, array(5, 8)).T, array(4, 6)), "not made by"),
    ],
)  # fmt: skip
def test_two_dense_ops_that_stay(fn, because) -> None:
    assert_refuses(FOLD_DENSE_CHAIN, fn, D, because=because)


def several(*widths):
    """A dense op whose result other ones take, of these widths."""

    def fn(x):
        y = nnops.dense(x, array(5, 6), array(6))
        return [nnops.dense(y, array(6, n, seed=i), activation="silu")
                for i, n in enumerate(widths)]  # fmt: skip

    return fn


def test_one_is_folded_into_all_that_take_it() -> None:
    graph = assert_applies(FOLD_DENSE_CHAIN, several(2, 3, 4), D, times=3)
    assert all(node.inputs[0] is graph.inputs[0] for node in graph.find("dense"))
    assert graph.count()["dense"] == 3
    assert_optimizes(default, several(2, 3, 4), D, ops={"dense": 1, "slice": 3})
    # Together they are cheaper; the one that cannot be folded would need the first as well.
    wide = lambda x: (lambda y: (nnops.dense(y, array(2, 9)), nnops.dense(y, array(2, 9))))(  # noqa: E731
        nnops.dense(x, array(5, 2))
    )
    assert_refuses(FOLD_DENSE_CHAIN, wide, D, because="as many")
    one_stays = lambda x: (lambda y: (nnops.dense(y, array(6, 2)), nnops.dense(y, y.T)))(  # noqa: E731
        nnops.dense(x, array(5, 6))
    )
    assert_refuses(FOLD_DENSE_CHAIN, one_stays, D, because="elsewhere")
    assert_refuses(FOLD_DENSE_CHAIN, several(*[1] * 9), D, because="elsewhere")


def test_parallel_convolutions_take_in_what_comes_before_them() -> None:
    def fn(x):
        y = nnops.conv(x, array(1, 1, 3, 8))
        return [nnops.conv(y, array(1, 1, 8, n)) for n in (2, 3)]

    x = array(2, 4, 4, 3)
    assert_applies(FOLD_CONV_CHAIN, fn, x, times=2)
    assert_optimizes(default, fn, x, ops={"conv": 1, "slice": 2})


def test_a_dense_before_a_convolution_and_one_behind_it_stay() -> None:
    """Channels last, a dense op is as good a maker of an image as a convolution is."""
    dims = ("NHWC", "HWIO", "NHWC")

    def fn(x):
        y = nnops.conv(
            nnops.dense(x, array(3, 4), array(4)), array(3, 3, 4, 5), dimension_numbers=dims
        )
        return nnops.dense(y, array(5, 2))

    assert_optimizes(default, fn, X, ops={"dense": 2, "conv": 1})


def test_integers_stay() -> None:
    x, v, w = (jnp.round(v).astype("int32") for v in (D, array(5, 8), array(8, 6)))
    assert_refuses(FOLD_DENSE_CHAIN, lambda x: nnops.dense(nnops.dense(x, v), w), x)


V1, W1 = array(1, 1, 3, 8), array(1, 1, 8, 4)
V3, W3 = array(3, 3, 3, 8), array(3, 3, 8, 4)
A, B = array(8), array(4)

CHAINS = {
    "both pointwise": ({"w": V1, "b": A}, {"w": W1, "b": B}),
    "pointwise, strided": ({"w": V1, "b": A, "strides": 2}, {"w": W1, "strides": (1, 2)}),
    "3x3 first": ({"w": V3, "b": A}, {"w": W1, "b": B, "activation": "relu"}),
    "3x3 first, strided": ({"w": V3, "b": A, "strides": 2}, {"w": W1, "b": B, "strides": 2}),
    "3x3 first, dilated": ({"w": V3, "b": A, "dilation": 2}, {"w": W1, "b": B}),
    "3x3 second": ({"w": V1[..., :4]}, {"w": W3[:, :, :4, :1]}),
    "3x3 second, no padding": (
        {"w": V1[..., :4], "b": A[:4]},
        {"w": W3[:, :, :4, :1], "padding": 0, "strides": 2, "dilation": 2},
    ),
    "pointwise, then padded": ({"w": V1}, {"w": W1, "padding": 1}),
}  # fmt: skip


@pytest.mark.parametrize("name", CHAINS)
def test_two_convolutions(name) -> None:
    first, second = CHAINS[name]

    def fn(x):
        return nnops.conv(nnops.conv(x, **first), **second)

    new = fold_constants(assert_applies(FOLD_CONV_CHAIN, fn, X, times=1))
    assert new.count() == {"conv": 1}


def test_two_convolutions_of_other_layouts() -> None:
    x, v, w = array(2, 3, 6, 6), array(8, 3, 1, 1), array(4, 8, 1, 1)

    def fn(x):
        y = nnops.conv(x, v, dimension_numbers=("NCHW", "OIHW", "NHWC"))
        return nnops.conv(y, w, B, dimension_numbers=("NHWC", "OIHW", "NCHW"))

    new = fold_constants(assert_applies(FOLD_CONV_CHAIN, fn, x, times=1))
    assert new.nodes[0].params["dimension_numbers"] == CHW


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (
            {"w": V1, "b": A, "padding": 1},
            {"w": W1, "padding": 1},
        ),  # zeros become the bias, and then not
        ({"w": V1, "b": A}, {"w": W1, "padding": 1}),  # zeros where the bias would be
        ({"w": V1[..., :4], "b": A[:4]}, {"w": W3[:, :, :4, :1]}),  # likewise
        ({"w": V1[..., :4], "strides": 2}, {"w": W3[:, :, :4, :1]}),
        ({"w": V3}, {"w": W3}),
        ({"w": V3[:, :, :1, :3], "groups": 3}, {"w": W1[:, :, :3]}),
        ({"w": V1}, {"w": W1[:, :, :4], "groups": 2}),
        ({"w": V1, "transposed": True, "strides": 2}, {"w": W1}),
        ({"w": V1[..., :1]}, {"w": W1[:, :, :1]}),  # a narrow waist
        ({"w": V3[..., :2]}, {"w": W1[:, :, :2]}),
    ],
)
def test_two_convolutions_that_stay(first, second) -> None:
    assert_refuses(FOLD_CONV_CHAIN, lambda x: nnops.conv(nnops.conv(x, **first), **second), X)


def test_a_dense_op_and_a_convolution_stay_apart() -> None:
    dense = lambda x: nnops.dense(x, array(3, 3))  # noqa: E731
    conv = lambda x: nnops.conv(x, array(3, 3, 3, 3))  # noqa: E731
    for fn in (lambda x: conv(dense(x)), lambda x: dense(conv(x))):
        for rule in (FOLD_CONV_CHAIN, FOLD_DENSE_CHAIN):
            assert_refuses(rule, fn, X)
        assert_optimizes(default, fn, X, ops={"conv": 1, "dense": 1})
    assert_refuses(FOLD_CONV_CHAIN, lambda x: conv(dense(x)), X, because="another op than conv")


S, T = positive(5), positive(5, seed=4)


@pytest.mark.parametrize(
    "fn",
    [
        lambda x: x * S * T,
        lambda x: T * (S * x),
        lambda x: x / S / T,
        lambda x: x * S / T,
        lambda x: x / S * 3.0,
        lambda x: 3.0 * x * S,
        lambda x: x + S + T,
        lambda x: x - S - T,
        lambda x: T + (x - S),
        lambda x: x * array(4, 1) * positive(4, 1),
        lambda x: x * array(4, 5) * S,
    ],
)
def test_scales_and_shifts_in_a_row(fn) -> None:
    new = fold_constants(assert_applies(FOLD_CHAIN_RULES, fn, D, times=1))
    assert sum(n for op, n in new.count().items() if op in ("mul", "add", "div", "sub")) == 1


@pytest.mark.parametrize(
    "fn",
    [
        lambda x: x * 2.0 * 3.0,
        lambda x: x * S + T,
        lambda x: (x + S) * T,
        lambda x: S - (x + T),
        lambda x: S / (x * T),
        lambda x: x * x.sum() * S,
        lambda x: x * S * array(4, 1),
        lambda x: (lambda y: (y, y * T))(x * S),
        lambda x: (x[:1] * S) * array(4, 5),
        lambda x: x * (S * T),
    ],
)
def test_scales_and_shifts_that_stay(fn) -> None:
    for rule in (MERGE_SCALES, MERGE_SHIFTS):
        assert_refuses(rule, fn, D)


def test_integers_keep_their_divisions() -> None:
    x, s = jnp.arange(-6, 6).reshape(3, 4), jnp.array([2, 3, 4, 5])
    assert_refuses(FOLD_CHAIN_RULES, lambda x: jnp.floor_divide(x, s), x)
    assert_refuses(FOLD_CHAIN_RULES, lambda x: lax.div(lax.div(x, 0 * x + s), 0 * x + s), x)
    assert_refuses(FOLD_CHAIN_RULES, lambda x: x * s * s, x)


@pytest.mark.parametrize(("second", "left"), [(0.5, 2), (jnp.float32(0.5), 1)])
def test_numbers_of_the_program_stay_apart_and_learned_ones_do_not(second, left) -> None:
    new = assert_optimizes(default, lambda x: jnp.sin(x) * 2.0 * second, array(3, 4))
    assert len(new.find("mul")) == left
