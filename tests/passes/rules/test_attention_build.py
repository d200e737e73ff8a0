"""What is made of an attention that was found: layouts, heads that share, small operands."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from helpers import array
from jaxpress.capture import trace
from jaxpress.passes import cleanup, rewrite
from jaxpress.passes.rules.raise_attention import ATTENTION_RULES

Q, K, V = array(2, 5, 6, 4), array(2, 7, 3, 4, seed=1), array(2, 7, 3, 4, seed=2)


def attention_of(fn, *args):
    graph = trace(fn)(*args)
    for p in cleanup:
        graph = p(graph)
    graph = rewrite(graph, ATTENTION_RULES)
    for p in cleanup:
        graph = p(graph)
    (node,) = graph.find("dot_product_attention")
    np.testing.assert_allclose(graph(*args), fn(*args), rtol=2e-6, atol=2e-6)
    return node


def grouped(q, k, v, change=lambda w: w):
    q = q.reshape(*q.shape[:2], 3, 2, 4)
    w = change(jnp.einsum("btkgh,bskh->bkgts", q, k))
    y = jnp.einsum("bkgts,bskh->btkgh", jax.nn.softmax(w), v)
    return y.reshape(*y.shape[:2], 6, 4)


@pytest.mark.parametrize(
    "shape, wanted",
    [
        ((1, 1, 1, 5, 7), (1, 1, 5, 7)),
        ((3, 2, 1, 7), (1, 6, 1, 7)),
        ((3, 1, 1, 1), (1, 6, 1, 1)),
        ((2, 1, 2, 5, 1), (2, 6, 5, 1)),
    ],
)
def test_biases_of_grouped_heads(shape, wanted) -> None:
    bias = array(*shape)
    node = attention_of(lambda q, k, v: grouped(q, k, v, lambda w: w + bias), Q, K, V)
    assert [v.shape for v in node.inputs[1:]] == [K.shape, V.shape, wanted]


@pytest.mark.parametrize("repeats", [1, 2])
def test_repeated_heads_are_one(repeats) -> None:
    def fn(q, k, v):
        k, v = (jnp.repeat(x[:, :, : 3 // repeats], 2 * repeats, axis=2) for x in (k, v))
        q = q[:, :, : k.shape[2]]
        return jax.nn.dot_product_attention(q, k, v)

    node = attention_of(fn, Q, K, V)
    assert node.inputs[1].shape[2] == node.inputs[2].shape[2] == 3 // repeats


def test_heads_that_are_tiled_are_not_neighbours() -> None:
    fn = lambda q, k, v: jax.nn.dot_product_attention(  # noqa: E731
        q, jnp.concatenate([k, k], 2), jnp.concatenate([v, v], 2)
    )
    assert attention_of(fn, Q, K, V).inputs[1].shape == (2, 7, 6, 4)


def test_keys_and_values_are_repeated_alike_or_not_at_all() -> None:
    fn = lambda q, k, v: jax.nn.dot_product_attention(  # noqa: E731
        q, jnp.repeat(k, 2, axis=2), jnp.concatenate([v, v], 2)
    )
    node = attention_of(fn, Q, K, V)
    assert node.inputs[1].shape == node.inputs[2].shape == (2, 7, 6, 4)


def test_conditions_and_biases_come_from_where_they_are_small() -> None:
    keep, bias = array(7) > -1, array(5, 7)

    def fn(q, k, v, keep, bias):
        wide = jnp.broadcast_to(bias[None, None], (2, 6, 5, 7))
        mask = jnp.broadcast_to(keep, (2, 6, 5, 7))
        k, v = (jnp.concatenate([x, -x], 2) for x in (k, v))
        w = jnp.einsum("btnh,bsnh->bnts", q, k) + wide
        return jnp.einsum("bnts,bsnh->btnh", jax.nn.softmax(jnp.where(mask, w, -1e9)), v)

    node = attention_of(fn, Q, K, V, keep, bias)
    assert [v.shape for v in node.inputs[3:]] == [(1, 1, 5, 7), (1, 1, 1, 7)]
