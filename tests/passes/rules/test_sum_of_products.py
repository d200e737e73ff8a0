"""Sums over the axes that a product's operands share are contracted with the others."""

from __future__ import annotations

import jax.numpy as jnp
import pytest
from jax import lax

from helpers import array, assert_applies, assert_refuses
from jaxpress.passes.rules.sum_of_products import SUM_OF_PRODUCTS

A, B = array(2, 3, 4, 5), array(3, 2, 6, 5)
NUMBERS = (((3,), (3,)), ((0, 1), (1, 0)))


def product(a, b, **options):
    return lax.dot_general(a, b, NUMBERS, **options)


@pytest.mark.parametrize("axes", [(0,), (1,), (0, 1)])
def test_shared_axes_are_contracted(axes) -> None:
    fn = lambda a, b: lax.reduce_sum_p.bind(product(a, b), axes=axes, out_sharding=None)  # noqa: E731
    new = assert_applies(SUM_OF_PRODUCTS, fn, A, B, times=1)
    assert new.count() == {"dot_general": 1}


@pytest.mark.parametrize(
    "fn",
    [
        lambda a, b: product(a, b).sum(2),
        lambda a, b: product(a, b).sum((0, 2)),
        lambda a, b: product(a, b).max(0),
        lambda a, b: (y := product(a, b), y.sum(0)),
        lambda a, b: jnp.sin(product(a, b)).sum(0),
    ],
)
def test_what_stays(fn) -> None:
    assert_refuses(SUM_OF_PRODUCTS, fn, A, B)


def test_products_that_are_rounded_first_stay() -> None:
    narrow = (A.astype("bfloat16"), B.astype("bfloat16"))
    fn = lambda a, b: lax.reduce_sum_p.bind(product(a, b), axes=(0,), out_sharding=None)  # noqa: E731
    assert_refuses(SUM_OF_PRODUCTS, fn, *narrow)
    assert_refuses(SUM_OF_PRODUCTS, lambda a, b: product(a, b).sum(0), *narrow)
