"""Padding moves into convolutions and pooling where these would read the very same values."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from helpers import CHW, array, assert_applies, assert_refuses
from jaxpress import nnops
from jaxpress.passes.rules.fuse_pad import FUSE_PAD, FUSE_PAD_POOL, FUSE_PAD_RULES
from jaxpress.testing import assert_rewrites

X, W = array(2, 5, 6, 3), array(3, 3, 3, 4)
AROUND = ((0, 0), (1, 2), (0, 1), (0, 0))


def pad(x, edges=AROUND, value=0.0):
    config = [(*pair, 0) if len(pair) == 2 else pair for pair in edges]
    return lax.pad(x, jnp.asarray(value, x.dtype), config)


@pytest.mark.parametrize(
    ("options", "padding"),
    [
        ({"padding": "VALID"}, ((1, 2), (0, 1))),
        ({"padding": "SAME"}, ((2, 3), (1, 2))),
        ({"padding": ((3, 0), (0, 0)), "strides": 2}, ((4, 2), (0, 1))),
        ({"padding": 0, "dilation": 2, "w": W[:2, :2]}, ((1, 2), (0, 1))),
        ({"padding": ((-1, 0), (0, -1))}, ((0, 2), (0, 0))),
        ({"padding": 0, "w": W[:, :, :1, :3], "groups": 3}, ((1, 2), (0, 1))),
    ],
)
def test_before_a_convolution(options, padding) -> None:
    options = {"w": W, **options}
    new = assert_applies(FUSE_PAD, lambda x: nnops.conv(pad(x), **options), X, times=1)
    assert new.count() == {"conv": 1} and new.nodes[0].params["padding"] == padding


def test_channels_first_and_exactly() -> None:
    x, w = array(2, 3, 5, 6), array(4, 3, 3, 3)

    def fn(x):
        return nnops.conv(pad(x, ((0, 0), (0, 0), (2, 1), (0, 3))), w, dimension_numbers=CHW)

    new = assert_rewrites(FUSE_PAD, fn, x, times=1, vmap=False)
    assert new.nodes[0].params["padding"] == ((3, 2), (1, 4))


def test_what_jax_numpy_and_two_pads_make() -> None:
    new = assert_applies(
        FUSE_PAD, lambda x: nnops.conv(pad(pad(x)), W, padding="VALID"), X, times=2
    )
    assert new.nodes[0].params["padding"] == ((2, 4), (0, 2))


@pytest.mark.parametrize(
    ("fn", "because"),
    [
        (lambda x: nnops.conv(pad(x, value=1.0), W), "with zero"),
        (lambda x: nnops.conv(pad(x, value=np.nan), W), "with zero"),
        (lambda x: nnops.conv(lax.pad(x, x.sum(), [(0, 0, 0), (1, 1, 0), *[(0, 0, 0)] * 2]), W),
         "array"),
        (lambda x: nnops.conv(pad(x, ((0, 0, 0), (1, 1, 1), (0, 0), (0, 0))), W), "inside"),
        (lambda x: nnops.conv(pad(x, ((0, 0), (-1, 1), (0, 0), (0, 0))), W), "cuts off"),
        (lambda x: nnops.conv(pad(x, ((1, 0), (1, 1), (0, 0), (0, 0))), W), "another axis"),
        (lambda x: nnops.conv(pad(x[..., :2], ((0, 0), (1, 1), (0, 0), (0, 1))), W),
         "another axis"),
        (lambda x: nnops.conv(pad(x), W, strides=2, transposed=True), "transposed"),
        (lambda x: (lambda y: (nnops.conv(y, W), y))(pad(x)), "elsewhere"),
        (lambda x: (lambda y: nnops.conv(y, W) + y.sum())(pad(x)), "elsewhere"),
        (lambda x: nnops.conv(nnops.relu(pad(x)), W), "not made by pad"),
    ],
)  # fmt: skip
def test_before_a_convolution_that_reads_something_else(fn, because) -> None:
    assert_refuses(FUSE_PAD, fn, X, because=because)


def test_before_an_average() -> None:
    def counted(x):
        return nnops.avg_pool(pad(x), 2, 2)

    def counted_twice(x):
        return nnops.avg_pool(pad(x), 3, padding="SAME")

    def all_there(x):
        return nnops.avg_pool(pad(x), 2, count_include_pad=False)

    for fn in (counted, counted_twice, all_there):
        new = assert_applies(FUSE_PAD_POOL, fn, X, times=1, tolerance=1e-6)
        assert new.count() == {"avg_pool": 1} and new.nodes[0].params["count_include_pad"]
    assert_refuses(
        FUSE_PAD_POOL,
        lambda x: nnops.avg_pool(pad(x), 3, padding="SAME", count_include_pad=False),
        X,
        because="count",
    )
    assert_refuses(FUSE_PAD_POOL, lambda x: nnops.avg_pool(pad(x, value=2.0), 2), X)


def test_before_a_maximum() -> None:
    def least(x):
        return nnops.max_pool(pad(x, value=-jnp.inf), 3, 2)

    def zero(x):
        return nnops.max_pool(pad(nnops.relu(x)), 3, 2)

    def after_a_convolution(x):
        return nnops.max_pool(pad(nnops.conv(x, W, activation="relu")), 3, 2)

    for fn in (least, zero, after_a_convolution):
        new = assert_applies(FUSE_PAD_POOL, fn, X, times=1, tolerance=0.0)
        assert "pad" not in new.count()
        assert new.nodes[-1].params["padding"] == ((0, 0), (1, 2), (0, 1), (0, 0))
    least_int = np.iinfo(np.int32).min
    new = assert_applies(
        FUSE_PAD_RULES, lambda x: nnops.max_pool(pad(x, value=least_int), 2),
        jnp.arange(2 * 5 * 6 * 3, dtype="int32").reshape(X.shape), times=1, gradients=False,
    )  # fmt: skip
    assert new.count() == {"max_pool": 1}


@pytest.mark.parametrize(
    "fn",
    [
        lambda x: nnops.max_pool(pad(x), 3, 2),  # x may be negative
        lambda x: nnops.max_pool(pad(jnp.maximum(x, 0.0)), 3, 2),  # another derivative at zero
        lambda x: nnops.max_pool(pad(nnops.relu(x), value=-1.0), 3, 2),
        lambda x: nnops.max_pool(pad(nnops.leaky_relu(x)), 3, 2),
        lambda x: nnops.max_pool(pad(nnops.relu(x)), 1),  # windows of zeros alone
        lambda x: nnops.max_pool(pad(nnops.relu(x), ((0, 0), (3, 0), (0, 0), (0, 0))), 3),
        lambda x: nnops.max_pool(pad(nnops.relu(x), ((0, 0), (0, 4), (0, 0), (0, 0))), 3),
        lambda x: nnops.max_pool(pad(nnops.relu(x)), 2, dilation=3),
        lambda x: nnops.max_pool(pad(nnops.relu(x), ((1, 0), (0, 0), (0, 0), (0, 0))), 2),
        lambda x: (lambda y: (nnops.max_pool(y, 3), y))(pad(nnops.relu(x))),
    ],
)
def test_before_a_maximum_that_could_differ(fn) -> None:
    assert_refuses(FUSE_PAD_POOL, fn, X)


def test_arrays_of_no_size() -> None:
    assert_applies(FUSE_PAD, lambda x: nnops.conv(pad(x), W), X[:0], times=1)
    assert_refuses(FUSE_PAD_POOL, lambda x: nnops.max_pool(pad(nnops.relu(x)), 3), X[:, :0])


def test_several_convolutions_of_one_padded_array_pad_for_themselves() -> None:
    def fn(x):
        y = pad(x)
        return nnops.tanh(nnops.conv(y, W, padding="VALID")) * nnops.conv(y, W, strides=2).sum()

    new = assert_applies(FUSE_PAD, fn, X, times=2)
    assert not new.find("pad") and new.count()["conv"] == 2
