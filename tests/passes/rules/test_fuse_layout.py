"""Transposes become dimension numbers, and the result is the same array."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from helpers import array, assert_applies, assert_refuses
from jaxpress import nnops
from jaxpress.passes.rules.fuse_layout import (
    FUSE_LAYOUT_RULES,
    FUSE_TRANSPOSE_AFTER_CONV,
    FUSE_TRANSPOSE_AFTER_DOT,
    FUSE_TRANSPOSE_BEFORE_CONV,
    FUSE_TRANSPOSE_BEFORE_DOT,
)
from jaxpress.testing import assert_rewrites

X, W, B = array(2, 5, 6, 3), array(3, 2, 3, 4), array(4)


def test_around_a_convolution() -> None:
    def fn(x):
        y = nnops.conv(jnp.transpose(x, (0, 2, 3, 1)), W, B, strides=(1, 2), activation="relu")
        return jnp.transpose(y, (0, 3, 1, 2))

    new = assert_rewrites(FUSE_LAYOUT_RULES, fn, jnp.transpose(X, (0, 3, 1, 2)), times=2)
    assert new.count() == {"conv": 1}
    assert new.nodes[0].params["dimension_numbers"] == ("NCHW", "HWIO", "NCHW")


@pytest.mark.parametrize("order", [(2, 3, 1, 0), (0, 2, 1, 3), (3, 0, 2, 1), (1, 0, 3, 2)])
def test_in_any_order(order) -> None:
    x = jnp.transpose(X, np.argsort(order))
    before = assert_applies(
        FUSE_TRANSPOSE_BEFORE_CONV, lambda x: nnops.conv(x.transpose(order), W, B), x, times=1
    )
    after = assert_applies(
        FUSE_TRANSPOSE_AFTER_CONV, lambda x: nnops.conv(x, W, B).transpose(order), X, times=1
    )
    assert before.count() == after.count() == {"conv": 1}


@pytest.mark.parametrize(
    "fn",
    [
        lambda x: nnops.conv(x, W, None, array(2, 5, 6, 4)).transpose(0, 2, 1, 3),
        lambda x: (lambda y: (nnops.conv(y, W), y))(x.transpose(0, 2, 1, 3)),
        lambda x: (lambda y: (y.transpose(0, 2, 1, 3), y))(nnops.conv(x, W)),
        lambda x: nnops.max_pool(x.transpose(0, 2, 1, 3), 2).transpose(0, 2, 1, 3),
    ],
)  # fmt: skip
def test_transposes_that_others_need_stay(fn) -> None:
    assert_refuses(FUSE_LAYOUT_RULES, fn, X)


A, C = array(2, 3, 4, 5), array(2, 3, 5, 6)
NUMBERS = (((3,), (2,)), ((0, 1), (0, 1)))


def dot(a, c, numbers=NUMBERS):
    return lax.dot_general(a, c, numbers)


def test_before_a_product() -> None:
    for p in ((1, 0, 3, 2), (3, 2, 0, 1), (2, 3, 1, 0), (0, 1, 3, 2), (1, 3, 0, 2)):
        a, c = A.transpose(np.argsort(p)), C.transpose(np.argsort(p))

        def fn(a, c, p=p):
            return dot(a.transpose(p), c.transpose(p))

        new = assert_applies(FUSE_TRANSPOSE_BEFORE_DOT, fn, a, c, times=2, gradients=False)
        assert new.count() == {"dot_general": 1}


def test_after_a_product() -> None:
    kept = assert_applies(
        FUSE_TRANSPOSE_AFTER_DOT, lambda a, c: dot(a, c).transpose(1, 0, 3, 2), A, C, times=1
    )
    assert kept.count() == {"dot_general": 1}
    weighted = assert_rewrites(
        FUSE_LAYOUT_RULES, lambda x, w: (x.T @ w.T).T, array(5, 3), array(4, 5), vmap=False
    )
    assert weighted.count() == {"dot_general": 1}
    for order in ((2, 0, 1, 3), (0, 2, 1, 3)):
        assert_refuses(
            FUSE_TRANSPOSE_AFTER_DOT, lambda a, c, o=order: dot(a, c).transpose(o), A, C,
            because="no dot_general",
        )  # fmt: skip


def test_free_axes_in_another_order_stay() -> None:
    two = (((2, 3), (2, 1)), ((), ()))
    x, y = array(2, 3, 4, 5), array(6, 5, 4)
    assert_applies(FUSE_LAYOUT_RULES, lambda x: dot(x, y, two), x, times=0)
    assert_refuses(
        FUSE_TRANSPOSE_BEFORE_DOT, lambda x: dot(x.transpose(1, 0, 2, 3), y, two), x,
        because="another order",
    )  # fmt: skip


def test_precision_goes_with_its_operand() -> None:
    precision = (lax.Precision.HIGHEST, lax.Precision.DEFAULT)

    def fn(a, c):
        return lax.dot_general(a, c, (((1,), (0,)), ((), ())), precision=precision).T

    new = assert_applies(FUSE_TRANSPOSE_AFTER_DOT, fn, array(3, 4), array(4, 5), times=1)
    assert new.nodes[0].params["precision"] == precision[::-1]


def test_a_product_with_itself() -> None:
    assert_refuses(FUSE_TRANSPOSE_BEFORE_DOT, lambda x: (lambda y: y @ y)(x.T), array(3, 3))
    assert_applies(FUSE_LAYOUT_RULES, lambda x: x @ x.T, array(3, 4), times=1)
