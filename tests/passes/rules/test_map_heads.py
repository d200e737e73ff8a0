"""Loops over heads take all heads at once; loops over data, and steps that follow, stay."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest
from jax import lax

from helpers import array, assert_applies, assert_optimizes, assert_refuses, quick_compiles
from jaxpress.capture import trace
from jaxpress.passes import default, rewrite
from jaxpress.passes.rules.cleanup import CLEANUP_RULES
from jaxpress.passes.rules.map_heads import MAP_HEADS

N, D, H, T = 3, 6, 2, 4
X = array(2, T, D)
WQ, WK, WV = (array(N, D, H, seed=i) for i in range(3))
WO, OUT, BIAS = array(N, H, D, seed=4), array(D, D, seed=5), array(N, T, T, seed=6)


@pytest.fixture(autouse=True)
def compiled_quickly():
    with quick_compiles():
        yield


def head(x, wq, wk, wv, bias=0.0):
    q, k, v = x @ wq, x @ wk, x @ wv
    return jax.nn.softmax(q @ k.swapaxes(-1, -2) * H**-0.5 + bias, -1) @ v


def side_by_side(heads):
    return jnp.moveaxis(heads, 0, -2).reshape(X.shape) @ OUT


def one_after_another(x):
    return side_by_side(lax.map(lambda w: head(x, *w), (WQ, WK, WV, BIAS)))


def summed(x):
    step = lambda y, w: (y + head(x, *w[:3]) @ w[3], None)  # noqa: E731
    return lax.scan(step, x, (WQ, WK, WV, WO))[0]


def written_by_number(x):
    def step(i, out):
        return out.at[i].set(head(x, WQ[i], WK[i], WV[i]))

    return side_by_side(lax.fori_loop(0, N, step, jnp.zeros((N, 2, T, H))))


@pytest.mark.parametrize("fn", [one_after_another, summed, written_by_number])
def test_all_heads_at_once(fn) -> None:
    new = assert_optimizes(default, fn, X, absent=("scan",))
    (node,) = new.find("dot_product_attention")
    assert node.inputs[0].shape == (2, T, N, H)


def test_beside_what_stays_as_it_is() -> None:
    def fn(x):
        def step(c, w):
            scale, total = c
            y = head(x * scale, *w)
            return (scale, total + y), (y, y.sum())

        return lax.scan(step, (x[0, 0, 0], jnp.zeros((2, T, H))), (WQ, WK, WV))

    new = assert_applies(MAP_HEADS, fn, X, times=1)
    assert not new.find("scan")


@pytest.mark.parametrize(
    "fn, because",
    [
        (lambda x: lax.map(lambda y: head(y, WQ[0], WK[0], WV[0]), x), "known weights"),
        (lambda x: lax.scan(lambda y, w: (y + head(y, *w[:3]) @ w[3], None), x,
                            (WQ, WK, WV, WO))[0], "no sum"),
        (lambda x: lax.scan(lambda y, w: (y - head(x, *w[:3]) @ w[3], None), x,
                            (WQ, WK, WV, WO))[0], "no sum"),
        (lambda x: lax.scan(lambda y, w: (z := y + head(x, *w[:3]) @ w[3], z), x,
                            (WQ, WK, WV, WO)), "no sum"),
        (lambda x: lax.map(lambda w: jnp.tanh(x @ w), WQ), "no attention"),
        (lambda x: lax.map(lambda w: head(x, *w), tuple(w[:1] for w in (WQ, WK, WV))), "1 rounds"),
    ],
)  # fmt: skip
def test_what_stays(fn, because) -> None:
    assert_refuses(MAP_HEADS, fn, X, because=because)


def test_what_prints_draws_or_is_large_stays() -> None:
    def noisy(x):
        def one(w):
            jax.debug.print("head")
            return head(x, *w)

        return lax.map(one, (WQ, WK, WV))

    def drawn(x):
        keys = jax.random.split(jax.random.key(0), N)
        return lax.map(
            lambda w: head(x + jax.random.uniform(w[3], x.shape), *w[:3]), (WQ, WK, WV, keys)
        )

    large = jax.ShapeDtypeStruct((1, 4096, D), "float32")
    at_once = lambda x: lax.map(lambda w: head(x, *w), (WQ, WK, WV))  # noqa: E731
    for fn, x in ((noisy, X), (drawn, X), (at_once, large)):
        graph = rewrite(trace(fn)(x), CLEANUP_RULES)
        assert rewrite(graph, MAP_HEADS).find("scan")
    assert not rewrite(trace(at_once)(X), MAP_HEADS).find("scan")
