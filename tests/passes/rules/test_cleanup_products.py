"""A product of matrices that sums over nothing is a multiplication, and is seen as one."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest

import jaxpress as jp
from helpers import array, assert_refuses
from jaxpress.passes.rules.cleanup_products import PRODUCT_OF_PAIRS
from jaxpress.testing import assert_rewrites

X, S, Y = array(2, 3, 4), array(3), array(2, 5)


@pytest.mark.parametrize(
    ("equation", "operands"),
    [
        ("ijk,j->ijk", (X, S)),
        ("j,ijk->kji", (S, X)),
        ("ijk,il->ijkl", (X, Y)),
        ("ijk,lm->limkj", (X, Y)),
        ("ijk,ijk->jki", (X, X)),
        (",ijk->ijk", (jnp.float32(2), X)),
        ("ijk,i->ijk", (X[:, :0], X[:, 0, 0])),
    ],
)
def test_any_order_of_axes(equation: str, operands: tuple) -> None:
    new = assert_rewrites(PRODUCT_OF_PAIRS, lambda *a: jnp.einsum(equation, *a), *operands, times=1)
    assert not new.find("dot_general")


@pytest.mark.parametrize("dtype", ["bfloat16", "int32", "complex64"])
def test_any_dtype(dtype: str) -> None:
    x, s = X.astype(dtype), S.astype(dtype)
    smooth = dtype == "bfloat16"
    assert_rewrites(PRODUCT_OF_PAIRS, lambda x, s: jnp.einsum("ijk,j->ijk", x, s), x, s,
                    times=1, gradients=smooth)  # fmt: skip


@pytest.mark.parametrize("dtypes", [("bfloat16", "bfloat16"), ("float32", "int32")])
def test_types_that_become_wider(dtypes: tuple[str, str]) -> None:
    x, s = (X * 3).astype(dtypes[0]), (S * 3).astype(dtypes[1])

    def product(x, s):
        return jnp.einsum("ijk,j->ijk", x, s, preferred_element_type=jnp.float32)

    new = assert_rewrites(PRODUCT_OF_PAIRS, product, x, s, times=1, gradients=False)
    assert jnp.array_equal(new(x, s), product(x, s))


def test_what_sums_or_narrows_stays() -> None:
    assert_refuses(PRODUCT_OF_PAIRS, lambda x, s: jnp.einsum("ijk,j->ik", x, s), X, S)

    def narrow(x, s):
        return jnp.einsum("ijk,j->ijk", x, s, preferred_element_type=jnp.bfloat16)

    assert_refuses(PRODUCT_OF_PAIRS, narrow, X, S)


def test_a_head_mask_of_ones_leaves_attention() -> None:
    """As BERT's public code for JAX has it: a mask over heads, ones unless somebody says."""

    def attention(q, k, v):
        weights = jax.nn.softmax(jnp.einsum("bqhd,bkhd->bhqk", q, k))
        masks = jnp.ones((5, 3)).astype("int32")
        weights = jnp.einsum("bhqk,h->bhqk", weights, masks[1])
        return jnp.einsum("bhqk,bkhd->bqhd", weights, v)

    q = array(2, 6, 3, 4)
    assert jp.optimize(attention).graph(q, q, q).count() == {"dot_product_attention": 1}
