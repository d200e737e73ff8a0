"""What is done to attention's weights: those of masked keys are 0, and some are dropped."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxpress as jp
from helpers import array, assert_refuses, quick_compiles
from jaxpress import nnops, passes
from jaxpress.capture import trace
from jaxpress.passes import insert_attention_mask, rewrite
from jaxpress.passes.rules.raise_attention import ATTENTION_RULES, RAISE_ATTENTION
from jaxpress.passes.rules.raise_softmax import SOFTMAX_RULES
from jaxpress.testing import assert_equivalent

B, T, N, H = 2, 4, 2, 3
Q, K, V = (array(B, T, N, H, seed=i) for i in range(3))
# One row in which every key is masked.
MASK = (array(B, 1, T, T, seed=3) > -0.5).at[0, :, 1].set(False)


@pytest.fixture(autouse=True)
def compiled_quickly():
    with quick_compiles():
        yield


def attend(q, k, v, before=lambda w: w, after=lambda p: p, **softmax):
    w = before(jnp.einsum("btnh,bsnh->bnts", q, k) * 0.5)
    return jnp.einsum("bnts,bsnh->btnh", after(jax.nn.softmax(w, **softmax)), v)


def masked(w, fill=-1e9):
    return jnp.where(MASK, w, fill)


def zeroed(p):
    return jnp.where(MASK, p, 0)


def raised(fn, *args):
    graph = trace(fn)(*args)
    for p in passes.cleanup.passes[:3]:
        graph = p(graph)
    graph = rewrite(graph, ATTENTION_RULES + SOFTMAX_RULES).validate()
    (node,) = graph.find("dot_product_attention")
    return node, graph


def in_low_precision(q, k, v):
    q, k, v = (x.astype(jnp.bfloat16) for x in (q, k, v))
    w = jnp.einsum("btnh,bsnh->bnts", q, k).astype(jnp.float32)
    p = zeroed(jax.nn.softmax(masked(w))).astype(v.dtype)
    return jnp.einsum("bnts,bsnh->btnh", p, v).astype(jnp.float32)


def causal(q, k, v):
    keep = jnp.arange(T)[:, None] >= jnp.arange(T)
    other = jnp.arange(T)[:, None] + 1 > jnp.arange(T)
    w = jnp.where(keep & MASK, jnp.einsum("btnh,bsnh->bnts", q, k), -jnp.inf)
    p = jnp.where(MASK & other, jax.nn.softmax(w), 0)
    return jnp.einsum("bnts,bsnh->btnh", p, v)


def moved(q, k, v):
    w = jnp.einsum("btnh,bsnh->bnts", q, k)
    p = jax.nn.softmax(masked(w)).transpose(0, 2, 3, 1)
    p = jnp.where(~MASK.transpose(0, 2, 3, 1), 0, p)
    return jnp.einsum("btsn,bsnh->btnh", p, v)


@pytest.mark.parametrize(
    "fn, fill",
    [
        (lambda *a: attend(*a, masked, zeroed), -1e9),
        (lambda *a: attend(*a, lambda w: masked(w, -0.7 * jnp.finfo("float32").max), zeroed),
         float(np.float32(-0.7 * np.finfo("float32").max))),
        (lambda *a: attend(*a, masked, lambda p: jnp.where(MASK, zeroed(p), 0)), -1e9),
        (lambda *a: attend(*a, where=MASK), None),
        (lambda *a: attend(*a, masked, where=MASK), None),
        (lambda *a: attend(*a, masked, zeroed, where=MASK), None),
        (in_low_precision, -1e9),
        (causal, -np.inf),
        (moved, -1e9),
    ],
)  # fmt: skip
def test_masked_weights_are_0(fn, fill) -> None:
    node, graph = raised(fn, Q, K, V)
    assert node.params["zero_masked"] and node.params["mask_value"] == fill
    assert node.params["is_causal"] == (fn is causal)
    assert not {"select_n", "softmax", "dot_general"} & {*graph.count()} or fn is causal
    low = fn is in_low_precision
    got, want = jax.jit(graph)(Q, K, V), jax.jit(fn)(Q, K, V)
    np.testing.assert_allclose(got, want, rtol=1e-2 if low else 1e-5, atol=1e-2 if low else 1e-6)
    assert fn not in (causal, in_low_precision) or np.array_equal(got[0, 1], jnp.zeros((N, H)))


@pytest.mark.parametrize(
    "fn", [lambda *a: attend(*a, masked, zeroed), lambda *a: attend(*a, where=MASK)]
)
def test_gradients_and_vmap_are_those_before(fn) -> None:
    assert_equivalent(fn, jp.optimize(fn), Q, K, V)


@pytest.mark.parametrize(
    "fn, because",
    [
        (lambda *a: attend(*a, after=zeroed), "not masked"),
        (lambda *a: attend(*a, masked, lambda p: jnp.where(~MASK, p, 0)), "not masked"),
        (lambda *a: attend(*a, masked, lambda p: jnp.where(MASK, p, 1e-9)), "neither"),
        (lambda *a: attend(*a, masked, lambda p: jnp.where(MASK, p, -0.0)), "neither"),
        (lambda *a: attend(*a, masked, lambda p: jnp.where(MASK & (p < 9), p, 0)), "not masked"),
        (lambda *a: attend(*a, masked, lambda p: jnp.where(MASK.swapaxes(2, 3), p, 0)),
         "not masked"),
        (lambda *a: attend(*a, lambda w: w + jnp.where(MASK, 0, -1e9), zeroed), "not masked"),
        # Times a mask, NaN stays NaN.
        (lambda *a: attend(*a, masked, lambda p: p * MASK), "neither"),
    ],
)  # fmt: skip
def test_weights_that_are_0_elsewhere(fn, because) -> None:
    graph = passes.cleanup(trace(fn)(Q, K, V))
    assert_refuses(RAISE_ATTENTION, lambda *a: graph(*a), Q, K, V, because=because)


def test_a_softmax_that_leaves_out_other_keys() -> None:
    def fn(q, k, v):
        w = masked(jnp.einsum("btnh,bsnh->bnts", q, k))
        return jnp.einsum("bnts,bsnh->btnh", nnops.softmax(w, where=MASK[:1]), v)

    graph = passes.cleanup(trace(fn)(Q, K, V))
    assert_refuses(RAISE_ATTENTION, lambda *a: graph(*a), Q, K, V, because="other keys")


def test_a_further_mask_is_zeroed_too() -> None:
    fn = lambda *a: attend(*a, masked, zeroed)  # noqa: E731
    more = array(B, 1, T, T, seed=9) > 0
    both = MASK & more
    got = jp.optimize(fn, [insert_attention_mask(np.asarray(more)), "default"])(Q, K, V)
    want = attend(Q, K, V, lambda w: jnp.where(both, w, -1e9), lambda p: jnp.where(both, p, 0))
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)
    padded = jp.optimize(fn, [insert_attention_mask("key_padding"), "default"])
    assert not padded(Q, K, V, lengths=jnp.array([4, 0], jnp.int32))[1].any()


def test_products_of_inputs_are_no_dense_before_their_softmax_is_found() -> None:
    def fn(q, k, v):
        w = q @ k.T
        e = jnp.exp(w - w.max(-1, keepdims=True))
        return (e / e.sum(-1, keepdims=True)) @ v

    args = Q[0, :, 0], K[0, :, 0], V[0, :, 0]
    assert jp.optimize(fn).graph(*args).count()["dot_product_attention"] == 1
    jp.verify(fn, jp.optimize(fn))(*args)


# Dropout.

KEY = jax.random.key(3)


def keep(shape, rate=0.25):
    return jax.random.bernoulli(KEY, 1 - rate, shape)


@pytest.mark.parametrize(
    "after, dims, form",
    [
        (lambda p: jnp.where(keep(p.shape), p / 0.75, 0), (), "select"),
        (lambda p: p * (keep((1, 1, T, T)) / 0.75), (-4, -3), "multiply"),
        (lambda p: nnops.dropout(zeroed(p), KEY, rate=0.25, broadcast_dims=1), (-3,), "select"),
    ],
)
def test_weights_are_dropped(after, dims, form) -> None:
    fn = lambda *a: attend(*a, masked, after)  # noqa: E731
    fast = jp.optimize(fn)
    assert fast.graph(Q, K, V).count()["dot_product_attention"] == 1
    (node,) = fast.graph(Q, K, V).find("dot_product_attention")
    assert node.params["dropout_rate"] == 0.25 and node.params["dropout_form"] == form
    assert node.params["dropout_broadcast_dims"] == dims
    assert not {"dropout", "dot_general", "softmax"} & {*fast.graph(Q, K, V).count()}
    jp.verify(fn, fast, gradients=True)(Q, K, V)


def of_one_head(q, k, v):
    w = nnops.dropout(jax.nn.softmax(q[:, :, 0] @ k[:, :, 0].swapaxes(1, 2)), KEY, rate=0.25)
    return w @ v[:, :, 0]


@pytest.mark.parametrize(
    "fn",
    [
        # Drawn in another order of the axes, for one head without an axis, for each head with a
        # key of its own, by a mask that is given, twice, or before the masked ones are set to 0.
        lambda *a: attend(*a, after=lambda p: nnops.dropout(
            p.swapaxes(1, 2), KEY, rate=0.25).swapaxes(1, 2)),
        of_one_head,
        lambda q, k, v: jax.vmap(lambda q, k, v, key: nnops.dropout(
            jax.nn.softmax(q @ k.T), key, rate=0.25) @ v)(
                q[0].swapaxes(0, 1), k[0].swapaxes(0, 1), v[0].swapaxes(0, 1),
                jax.random.split(KEY, N)),
        lambda *a: attend(*a, after=lambda p: nnops.registry()["dropout"].rebind(
            {"x": p, "keep": MASK & (p < 2)}, rate=0.25)),
        lambda *a: attend(*a, after=lambda p: nnops.dropout(
            nnops.dropout(p, KEY, rate=0.25), KEY, rate=0.5)),
        lambda *a: attend(*a, masked, lambda p: zeroed(nnops.dropout(p, KEY, rate=0.25))),
    ],
)  # fmt: skip
def test_draws_that_attention_does_not_make_stay(fn) -> None:
    fast = jp.optimize(fn)
    assert not fast.graph(Q, K, V).count()["dot_product_attention"]
    jp.verify(fn, fast)(Q, K, V)
