"""Linear ops of one input that are summed become one, and no others do."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest

from helpers import CHW, array, assert_applies, assert_optimizes, assert_refuses, positive
from jaxpress import nnops, passes
from jaxpress.passes import fold_constants
from jaxpress.passes.rules.fold_branches import FOLD_BRANCHES

# As many channels as rows and columns: only the axis itself tells them apart.
C = 4
X, D = array(2, C, C, C), array(3, C)
W3, W1, W13 = array(3, 3, C, C), array(1, 1, C, C), array(1, 3, C, C)
M, N = array(C, C), array(C, C, seed=1)
A, B = array(C, seed=2), array(C, seed=3)
STATS = (array(C, seed=1), positive(C), array(C, seed=2), array(C, seed=3))


def conv(x, w, b=None, **options):
    return nnops.conv(x, w, b, **options)


def norm(x, axis=-1):
    return nnops.batch_norm(x, *STATS, axis=axis)


def one_op(fn, x, op, times=1):
    new = fold_constants(assert_applies(FOLD_BRANCHES, fn, x, times=times))
    assert new.count() == {op: 1}, str(new)


CONVS = {
    "3x3 and 1x1": lambda x: conv(x, W3, A) + conv(x, W1, B),
    "1x1 and 3x3": lambda x: conv(x, W1) + conv(x, W3, B),
    "equal kernels": lambda x: conv(x, W3) + conv(x, W3[::-1], B),
    "taken away": lambda x: conv(x, W3, A) - conv(x, W13, B),
    "taken from": lambda x: conv(x, W1, A) - conv(x, W3, B),
    "strided": lambda x: conv(x, W3, strides=2, padding=1) + conv(x, W1, strides=2, padding=0),
    "to one side": lambda x: conv(x, W3, padding=((2, 0), (0, 2))) + conv(x, W1),
    "dilated": lambda x: conv(x, W3, dilation=2) + conv(x, W1),
    "dilated on others": lambda x: (
        conv(x, array(5, 3, C, C), padding=((2, 2), (1, 1)))
        + conv(x, W3, dilation=(2, 1), padding=((2, 2), (1, 1)))
    ),
    "grouped": lambda x: conv(x, W3[:, :, :2], groups=2) + conv(x, W1[:, :, :2], groups=2),
    "depthwise": lambda x: conv(x, W3[:, :, :1], groups=C) + conv(x, W1[:, :, :1], groups=C),
    "transposed": lambda x: (
        conv(x, W3, A, transposed=True, strides=2)
        + conv(x, W3[::-1], transposed=True, strides=2)
    ),
    "channels first": lambda x: (
        conv(x, array(C, C, 3, 3), A, dimension_numbers=CHW)
        + conv(x, array(C, C, 1, 1), dimension_numbers=CHW)
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CONVS)
def test_convolutions(name) -> None:
    one_op(CONVS[name], X, "conv")


NORMS = {
    "3x3": lambda x: conv(x, W3, A) + norm(x),
    "taken away": lambda x: norm(x) - conv(x, W3),
    "1x1": lambda x: norm(x) + conv(x, W1),
    "grouped": lambda x: conv(x, W3[:, :, :2], groups=2) + norm(x),
    "depthwise": lambda x: conv(x, W3[:, :, :1], B, groups=C) + norm(x),
    "channels first": lambda x: conv(x, array(C, C, 3, 3), dimension_numbers=CHW) + norm(x, 1),
    "one-sided": lambda x: conv(x, W3, padding=((0, 2), (2, 0))) + norm(x),
}


@pytest.mark.parametrize("name", NORMS)
def test_a_convolution_and_a_norm(name) -> None:
    one_op(NORMS[name], X, "conv")


S, T = B.reshape(C, 1, 1), positive(C)
PRODUCTS = {
    "channels": lambda x: conv(x, W3, A) + x * B,
    "a number": lambda x: 0.5 * x - conv(x, W3),
    "divided": lambda x: conv(x, W1) - x / T,
    "grouped": lambda x: x * B[:, None][:, 0] + conv(x, W3[:, :, :2], groups=2),
    "depthwise": lambda x: conv(x, W3[:, :, :1], B, groups=C) + B * x,
    "channels first": lambda x: conv(x, array(C, C, 3, 3), dimension_numbers=CHW) + x * S,
    "scaled by zero": lambda x: conv(x, W3) + x * B.at[1].set(0),
}


@pytest.mark.parametrize("name", PRODUCTS)
def test_a_convolution_and_a_scaled_residual(name) -> None:
    one_op(PRODUCTS[name], X, "conv")


def test_a_scaled_residual_through_the_whole_pipeline() -> None:
    def fn(x):
        y = nnops.relu(conv(x, W3, A) + x * B)
        return jax.nn.silu(norm(conv(y, W1) + y / T))

    assert_optimizes(passes.default, fn, X, ops={"conv": 2})
    # As it is, the residual is no part of the weights.
    assert_optimizes(passes.default, lambda x: nnops.relu(conv(x, W3) + x), X, ops={"conv": 1})


def test_dense_ops() -> None:
    one_op(lambda x: nnops.dense(x, M, A) + nnops.dense(x, N), D, "dense")
    one_op(lambda x: nnops.dense(x, M, A) + norm(x), D, "dense")
    one_op(lambda x: x * B - nnops.dense(x, M, A), D, "dense")
    heads = array(C, 2, 3), array(C, 2, 3, seed=1)
    equation = "...a,abc->...bc"

    def fn(x):
        y, z = (nnops.einsum_dense(x, w, equation=equation) for w in heads)
        return y - z

    one_op(fn, D, "einsum_dense")


U, V = array(C, 2, seed=4), array(2, C, seed=5)


@pytest.mark.parametrize("biases", [(None, None), (array(2), B), (array(2), None)])
def test_an_adapter_of_low_rank(biases) -> None:
    """W + A B (Hu et al. 2021), as serving merges them."""

    def fn(x):
        return nnops.dense(nnops.dense(x, U, biases[0]), V, biases[1]) - nnops.dense(x, M, A)

    one_op(fn, D, "dense")
    assert_optimizes(
        passes.default, lambda x: nnops.relu(x @ M + A + 0.5 * (x @ U) @ V), D, ops={"dense": 1}
    )


@pytest.mark.parametrize(
    "adapter",
    [
        lambda x: nnops.dense(nnops.relu(nnops.dense(x, U)), V),
        lambda x: nnops.dense(nnops.dense(jnp.sin(x), U), V),
        lambda x: (lambda y: nnops.dense(y, V) + y.sum())(nnops.dense(x, U)),
        lambda x: nnops.dense(nnops.dense(x, U, precision="highest"), V),
        lambda x: nnops.dense(nnops.dense(x, 1e30 * U), V),
        lambda x: nnops.dense(nnops.dense(x, U, x[0, :2]), V),
    ],
)
def test_what_only_looks_like_an_adapter_stays(adapter) -> None:
    assert_refuses(FOLD_BRANCHES, lambda x: nnops.dense(x, M) + adapter(x), D)


def test_three_branches_as_trained_and_as_deployed() -> None:
    """The block that RepVGG trains is one convolution (Ding et al. 2021)."""

    def fn(x):
        x = nnops.relu(conv(x, W3))
        return nnops.relu(norm(conv(x, W3)) + norm(conv(x, W1)) + norm(x))

    assert_optimizes(passes.default, fn, X, ops={"conv": 2})


def test_what_else_is_summed_stays() -> None:
    def fn(x, y):
        return y - (conv(x, W3, A) + nnops.sigmoid(x)) + (conv(x, W1, B) - jnp.sin(y))

    new = fold_constants(assert_applies(FOLD_BRANCHES, fn, X, X, times=1))
    assert new.count() == {"conv": 1, "sigmoid": 1, "sin": 1, "add": 1, "sub": 2}


@pytest.mark.parametrize(
    ("fn", "because"),
    [
        (lambda x: conv(x, W3) + conv(x[::-1], W1), "different values"),
        (lambda x: conv(x, W3) + nnops.relu(conv(x, W1)), "is not made by"),
        (lambda x: (lambda y: conv(x, W3) + y * jnp.sin(y))(conv(x, W1)), "something known"),
        (lambda x: (lambda y: (conv(x, W3) + y, y))(conv(x, W1)), "elsewhere"),
        (lambda x: conv(x, W3) + conv(x, x[:1, :1].mean((0, 1))[None, None] * W1), "not known"),
        (lambda x: conv(x, W3) + nnops.conv(x, W1, None, x), "residual"),
        (lambda x: conv(x, W3, groups=1) + conv(x, W1[:, :, :1], groups=C), "other parameters"),
        (lambda x: conv(x, array(3, 1, C, C)) + conv(x, W13), "the taps"),
        (lambda x: conv(x, W3, padding=((0, 2), (0, 2))) + conv(x, W1, padding=((1, -1), (0, 0))),
         "the taps"),
        (lambda x: conv(x, W3, dilation=2) + conv(x, W3), "the taps"),
        (lambda x: conv(x, array(2, 2, C, C), dilation=2, padding=1) + norm(x), "the taps"),
        (lambda x: conv(x, W3) + norm(x, 1), "along another"),
        (lambda x: conv(x, W3) + x * S, "along another"),
        (lambda x: conv(x, W3) + x * array(C, C), "along another"),
        (lambda x: conv(x, W3) + x * x[0, 0, 0], "with something known"),
        (lambda x: conv(x, W3) + B / x, "with something known"),
        (lambda x: conv(x, W3) + x, "is not made by"),
        (lambda x: conv(x, W3) + x[::-1] * B, "different values"),
        (lambda x: (lambda y: conv(x, W3) + y * jnp.sin(y))(x * B), "with something"),
        (lambda x: (lambda y: (conv(x, W3) + y, y))(x * B), "elsewhere"),
        (lambda x: conv(x, array(2, 2, C, C), dilation=2, padding=1) + x * B, "the taps"),
        (lambda x: conv(x, W3, strides=2, padding=((2, 3), (2, 3))) + x * B, "each place once"),
        (lambda x: conv(x, W3) + x * (B / 0), "not finite"),
        (lambda x: conv(x, W3) + nnops.batch_norm(x, x[0, 0, 0], *STATS[1:]), "depend on the data"),
        (lambda x: conv(x, W3, precision="highest") + conv(x, W1), "other parameters"),
        (lambda x: conv(x, W3) + nnops.batch_norm(x, 1e9 * STATS[0], *STATS[1:]), "lose digits"),
        (lambda x: conv(x, 3e38 * W3) + conv(x, W1), "reaches to"),
        (lambda x: conv(x, W3, transposed=True, strides=2) + conv(
            x, W1, transposed=True, strides=2), "other parameters"),
    ],
)  # fmt: skip
def test_what_is_not_the_same_algebra_stays(fn, because) -> None:
    assert_refuses(FOLD_BRANCHES, fn, X, because=because)


def test_weights_that_are_data_and_integers_stay() -> None:
    assert_refuses(
        FOLD_BRANCHES, lambda x, v, w: conv(x, v) + conv(x, w), X, W3, W1, because="not known"
    )
    x, v, w = (jnp.round(3 * v).astype("int32") for v in (X, W3, W1))
    assert_refuses(FOLD_BRANCHES, lambda x: conv(x, v) + conv(x, w), x)


def test_under_a_map_over_weights() -> None:
    stacks = array(2, 3, 3, C, C), array(2, 1, 1, C, C)
    fn = lambda x: jax.vmap(lambda v, w: conv(x, v) + conv(x, w))(*stacks)  # noqa: E731
    assert_optimizes(passes.default, fn, X)
