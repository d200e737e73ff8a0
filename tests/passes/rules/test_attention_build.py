"""What is made of an attention that was found: layouts, heads that share, small operands."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from helpers import array
from jaxpress import nnops
from jaxpress.capture import trace
from jaxpress.passes import cleanup, rewrite
from jaxpress.passes.rules.raise_attention import ATTENTION_RULES
from jaxpress.passes.rules.raise_softmax import SOFTMAX_RULES

Q, K, V = array(2, 5, 6, 4), array(2, 7, 3, 4, seed=1), array(2, 7, 3, 4, seed=2)


def attention_of(fn, *args):
    graph = trace(fn)(*args)
    for p in cleanup:
        graph = p(graph)
    graph = rewrite(graph, ATTENTION_RULES + SOFTMAX_RULES)
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


# Axes that the op does not have.


@pytest.mark.parametrize("early", [False, True])
def test_windows_of_an_image_are_a_batch_of_their_own(early) -> None:
    """As Swin masks them: three windows to an image, each with a mask of its own.

    The weights may be made of them before the images are joined again, or after.
    """
    q, k, v = (array(6, 2, 5, 4, seed=i) for i in range(3))
    bias, keep, both = array(2, 5, 5), array(3, 5, 5) > -1, array(6, 1, 5, 5) > -2

    def fn(q, k, v):
        w = jnp.einsum("bnth,bnsh->bnts", q, k) + bias
        w = jnp.where(both, w, -9).reshape(2, 3, 2, 5, 5)
        w = jnp.where(keep[:, None], w, -9)
        w = (
            jax.nn.softmax(w).reshape(6, 2, 5, 5)
            if early
            else jax.nn.softmax(w.reshape(6, 2, 5, 5))
        )
        return jnp.einsum("bnts,bnsh->bnth", w, v)

    node = attention_of(fn, q, k, v)
    shapes = [x.shape for x in node.inputs]
    assert shapes[0] == (2, 3, 5, 2, 4) and shapes[3] == (1, 1, 2, 5, 5)
    assert node.params["mask_value"] == -9


def test_heads_that_are_part_of_the_batch() -> None:
    q, k, v = (array(6, 5, 4, seed=i) for i in range(3))
    bias = array(2, 1, 1, 5)

    def fn(q, k, v):
        w = (q @ k.swapaxes(1, 2)).reshape(2, 3, 5, 5) + bias
        return jax.nn.softmax(w.reshape(6, 5, 5)) @ v

    node = attention_of(fn, q, k, v)
    assert [x.shape for x in node.inputs][3] == (2, 1, 1, 1, 5)


@pytest.mark.parametrize(
    "change",
    [
        lambda w: (w.reshape(6, 2, 5, 5, 1) + array(5, 1)).reshape(6, 2, 5, 5),
        lambda w: (w.reshape(2, 3, 2, 5, 5) + array(3, 1, 1, 1)).reshape(6, 2, 5, 5),
    ],
)
def test_cuts_that_are_none(change) -> None:
    q, k, v = (array(6, 2, 5, 4, seed=i) for i in range(3))
    attention_of(
        lambda q, k, v: jnp.einsum(
            "bnts,bnsh->bnth", jax.nn.softmax(change(jnp.einsum("bnth,bnsh->bnts", q, k))), v
        ),
        q,
        k,
        v,
    )


APART = (2, 2, 2, 5, 7)
KEEP = array(2, 4, 1, 7, seed=4) > -1
JOINED = {
    # As Gemma has its query heads: those of one key head apart for the products alone.
    "heads": ((2, 4, 5, 7), KEEP, lambda p: p.reshape(APART)),
    "batch and heads": ((8, 5, 7), KEEP.reshape(8, 1, 7), lambda p: p.reshape(APART)),
    "rows": ((40, 7), array(40, 7, seed=4) > -1, lambda p: p.reshape(APART)),
    "zeroed": ((2, 4, 5, 7), KEEP, lambda p: jnp.where(KEEP, p, 0).reshape(APART)),
}


@pytest.mark.parametrize("name", JOINED)
def test_axes_that_are_one_from_product_to_product(name) -> None:
    shape, keep, after = JOINED[name]
    q, k, v = array(2, 2, 2, 5, 4), array(2, 2, 7, 4, seed=1), array(2, 2, 7, 3, seed=2)
    bias = array(*shape, seed=3)

    def fn(q, k, v):
        w = jnp.einsum("bkgth,bksh->bkgts", q, k).reshape(shape)
        w = jnp.where(keep, jnp.tanh(w / 5) * 5 + bias, -1e30)
        return jnp.einsum("bkgts,bksh->bkgth", after(jax.nn.softmax(w)), v)

    node = attention_of(fn, q, k, v)
    assert [x.shape for x in node.inputs[:4]] == [
        (2, 5, 4, 4),
        (2, 7, 2, 4),
        (2, 7, 2, 3),
        (2, 4, 5, 7),
    ]
    assert node.params["logits_soft_cap"] == 5


ONE = (6, 5, 4)  # batch and heads, as models that were written for batched products have them


def masked_apart(q, k, v, turn=lambda p: p):
    w = (q.reshape(ONE) @ k.reshape(6, 7, 4).swapaxes(1, 2)).reshape(2, 3, 5, 7)
    w = w + array(2, 1, 1, 7)
    return (turn(jax.nn.softmax(w)).reshape(6, 5, 7) @ v.reshape(6, 7, 3)).reshape(2, 3, 5, 3)


def joined_for_values(q, k, v):
    w = jnp.einsum("bnth,bnsh->bnts", q, k) + array(2, 1, 1, 7)
    return (jax.nn.softmax(w).reshape(6, 5, 7) @ v.reshape(6, 7, 3)).reshape(2, 3, 5, 3)


def rows_for_values(q, k, v):
    """All heads have the same keys and values."""
    w = jnp.einsum("bnth,bsh->bnts", q, k[:, 0]) + array(2, 1, 1, 7)
    return (jax.nn.softmax(w).reshape(2, 15, 7) @ v[:, 0]).reshape(2, 3, 5, 3)


OF_HEADS = array(2, 3, 5, 4), array(2, 3, 7, 4, seed=1), array(2, 3, 7, 3, seed=2)


@pytest.mark.parametrize("fn", [masked_apart, joined_for_values, rows_for_values])
def test_batch_and_heads_that_are_one_for_a_product(fn) -> None:
    node = attention_of(fn, *OF_HEADS)
    assert node.inputs[3].shape[-3:] == (1, 1, 7)


@pytest.mark.parametrize(
    "turn", [lambda p: p.swapaxes(0, 1), lambda p: p.reshape(3, 2, 5, 7).swapaxes(0, 1)]
)
def test_batch_and_heads_that_change_places_stay(turn) -> None:
    graph = cleanup(trace(lambda *a: masked_apart(*a, turn))(*OF_HEADS))
    assert not rewrite(graph, ATTENTION_RULES).count()["dot_product_attention"]


def test_a_softmax_along_axes_that_became_one() -> None:
    q, k, v = array(2, 3, 2, 7), array(2, 5, 6, 2, 7, seed=1), array(2, 5, 6, 2, 3, seed=2)

    def fn(q, k, v):
        w = jnp.einsum("btnh,bklnh->bntkl", q, k).reshape(2, 2, 3, 30)
        p = jax.nn.softmax(w + array(2, 1, 30)).reshape(2, 2, 3, 5, 6)
        return jnp.einsum("bntkl,bklnh->btnh", p, v)

    node = attention_of(fn, q, k, v)
    assert [x.shape for x in node.inputs[:3]] == [(2, 3, 2, 7), (2, 30, 2, 7), (2, 30, 2, 3)]


@pytest.mark.parametrize(
    "after",
    [
        # Cut in another order, another axis cut, left as one, and zero elsewhere than masked.
        lambda p: p.reshape(2, 2, 2, 5, 7).swapaxes(1, 2).reshape(2, 2, 2, 5, 7),
        lambda p: p.reshape(4, 2, 1, 5, 7).reshape(2, 2, 2, 7, 5).swapaxes(-1, -2),
        lambda p: jnp.where(array(2, 2, 2, 5, 7) > 0, p.reshape(2, 2, 2, 5, 7), 0),
    ],
)
def test_axes_that_are_cut_otherwise_than_they_were_joined(after) -> None:
    q, k, v = array(2, 2, 2, 5, 4), array(2, 2, 7, 4, seed=1), array(2, 2, 7, 3, seed=2)

    def fn(q, k, v):
        w = jnp.einsum("bkgth,bksh->bkgts", q, k).reshape(2, 4, 5, 7)
        return jnp.einsum("bkgts,bksh->bkgth", after(jax.nn.softmax(w)), v)

    graph = cleanup(trace(fn)(q, k, v))
    assert not rewrite(graph, ATTENTION_RULES).count()["dot_product_attention"]


@pytest.mark.parametrize(
    "change",
    [
        # Heads or queries are cut, the batch is cut in two ways, or what was cut stays so.
        lambda w: (w.reshape(6, 2, 2, 6, 6) + array(2, 6, 6)).reshape(6, 4, 6, 6),
        lambda w: (w.reshape(6, 4, 2, 3, 6) + array(3, 6)).reshape(6, 4, 6, 6),
        lambda w: (
            (w.reshape(2, 3, 4, 6, 6) + array(3, 1, 1, 6)).reshape(3, 2, 4, 6, 6)
            + array(2, 1, 1, 6)
        ).reshape(6, 4, 6, 6),
        lambda w: (
            (w.reshape(2, 3, 4, 6, 6) + array(3, 1, 1, 6))
            .reshape(6, 4, 6, 6)
            .reshape(3, 2, 4, 6, 6)
            + array(2, 1, 1, 6)
        ).reshape(6, 4, 6, 6),
        # What was joined is cut otherwise, or cut as well.
        lambda w: (w.reshape(24, 6, 6) + array(24, 1, 6)).reshape(4, 6, 6, 6).swapaxes(0, 1),
        lambda w: (
            (2 * (w.reshape(2, 3, 4, 6, 6) + array(3, 1, 1, 6)).reshape(6, 4, 6, 6)).reshape(
                24, 6, 6
            )
            + array(24, 1, 6)
        ).reshape(6, 4, 6, 6),
    ],
)
def test_logits_cut_along_other_axes_stay(change) -> None:
    q, k, v = (array(6, 4, 6, 4, seed=i) for i in range(3))

    def fn(q, k, v):
        w = change(jnp.einsum("bnth,bnsh->bnts", q, k))
        return jnp.einsum("bnts,bnsh->bnth", jax.nn.softmax(w), v)

    graph = cleanup(trace(fn)(q, k, v))
    assert not rewrite(graph, ATTENTION_RULES).count()["dot_product_attention"]


@pytest.mark.parametrize(
    "shape", [(2, 1, 3, 4, 5, 6), (2, 1, 4, 1, 1), (6,), (4, 1, 6), (1, 1, 1, 1)]
)
def test_attention_along_two_axes_is_along_one(shape) -> None:
    q, k, v = array(2, 3, 4, 2, 7), array(2, 5, 6, 2, 7, seed=1), array(2, 5, 6, 2, 3, seed=2)
    bias = array(*shape)

    def fn(q, k, v):
        w = jnp.einsum("bijnh,bklnh->bnijkl", q, k) + bias
        w = jnp.where(bias > -1, w, -9)
        return jnp.einsum("bnijkl,bklnh->bijnh", nnops.softmax(w, (-2, -1)), v)

    node = attention_of(fn, q, k, v)
    assert [x.shape for x in node.inputs[:3]] == [(2, 12, 2, 7), (2, 30, 2, 7), (2, 30, 2, 3)]


def test_queries_that_all_samples_share_are_given_to_each() -> None:
    fn = lambda q, k, v: jnp.einsum(  # noqa: E731
        "bnts,bsnh->btnh", jax.nn.softmax(jnp.einsum("tnh,bsnh->bnts", q, k)), v
    )
    node = attention_of(fn, Q[0, :, :3], K, V)
    assert [x.shape for x in node.inputs] == [(2, 5, 3, 4), K.shape, V.shape]
