"""Folding keeps digits and range: what the numbers of weights forbid stays."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxpress as jp
from helpers import array, conv, positive
from jaxpress import nnops
from jaxpress.capture import trace
from jaxpress.passes.rules.numbers import numbers_of
from jaxpress.passes.view import GraphView

C = 4
X, W = array(2, C, C, C), array(3, 3, C, C)
MEAN, STD = array(C, seed=1), positive(C)


def ops(fn, *args):
    """What is left of ``fn``, whose values must stay, non-finite ones included."""
    fast = jp.optimize(fn)
    want, got = jax.jit(fn)(*args), fast(*args)
    assert want.dtype == got.dtype
    scale = float(jnp.max(jnp.abs(jnp.where(jnp.isfinite(want), want, 0)), initial=1e-30))
    tolerance = {2: 2e-2, 4: 2e-5}[want.dtype.itemsize]
    np.testing.assert_allclose(
        np.asarray(got, "float64"), np.asarray(want, "float64"), atol=tolerance * scale
    )
    return set(fast.graph(*args).count())


FAR = MEAN + 2000.0
SPREAD = {
    "divided": lambda x: (x - FAR) / STD,
    "multiplied": lambda x: (x - FAR) * STD,
    "scale first": lambda x: x * 100.0 - 2e5,
    "norm": lambda x: nnops.batch_norm(x, FAR, STD),
    "alone": lambda x: x - FAR,
}


@pytest.mark.parametrize("name", SPREAD)
@pytest.mark.parametrize("linear", ["conv", "dense"])
def test_a_mean_far_from_zero_is_taken_away_first(name, linear) -> None:
    """``x @ w - mean @ w`` would be a small difference of large sums."""
    before = SPREAD[name]

    def fn(x):
        y = before(x)
        return conv(y, W, padding="VALID") if linear == "conv" else y @ W[0, 0]

    left = ops(fn, 2000.0 + X)
    assert left - {linear, "broadcast_in_dim"}


def test_an_ordinary_mean_folds() -> None:
    mean, std = jnp.array([0.485, 0.456, 0.406]), jnp.array([0.229, 0.224, 0.225])
    caffe = jnp.array([103.939, 116.779, 123.68])
    image, w = 255 * positive(1, 5, 5, 3), array(3, 3, 3, 2)
    for before in (
        lambda x: (x / 255.0 - mean) / std,
        lambda x: x / 127.5 - 1.0,
        lambda x: x - caffe,
    ):
        assert ops(lambda x, f=before: conv(f(x), w, padding="VALID"), image) == {"conv"}


def test_in_low_precision_a_mean_of_some_deviations_is_far() -> None:
    def fn(x):
        return ((x - jnp.bfloat16(100.0)) / jnp.bfloat16(2.0)) @ W[0, 0].astype("bfloat16")

    assert ops(fn, (100 + 4 * X).astype("bfloat16")) >= {"sub"}


ZERO, INF = MEAN.at[1].set(0.0), MEAN.at[1].set(jnp.inf)
NO_VARIANCE = STD.at[1].set(0.0)
HALF = W.astype("float16")
LARGE, SMALL, LARGE_HALF = 1e30 * W, 1e-30 * W, 200 * HALF
TIMES = {d: jnp.full(C, s) for d, s in (("up", 1e20), ("down", 1e-20))}

RANGE = {
    "division by zero": (lambda x: conv(x, W) / ZERO, X),
    "infinite scale": (lambda x: conv(x, W) * INF, X),
    "no variance": (lambda x: nnops.batch_norm(conv(x, W), MEAN, NO_VARIANCE, epsilon=0.0), X),
    "overflow": (lambda x: conv(x, LARGE) * TIMES["up"], 1e-30 * X),
    "underflow": (lambda x: conv(x, SMALL) * TIMES["down"], 1e38 * X),
    "float16, up": (lambda x: conv(x * jnp.float16(1e-3), LARGE_HALF) * jnp.float16(1e3), X),
    "float16, down": (lambda x: conv(x, HALF) * jnp.float16(1e-3), X),
}


@pytest.mark.parametrize("name", RANGE)
def test_weights_do_not_leave_their_range(name) -> None:
    fn, x = RANGE[name]
    left = ops(fn, x.astype("float16") if "float16" in name else x)
    assert left & {"mul", "div", "batch_norm"}


def test_scales_of_zero_fold() -> None:
    assert ops(lambda x: conv(x, W) * ZERO, X) == {"conv"}


def test_numbers_are_looked_up_through_arithmetic() -> None:
    def fn(x):
        return x * (1.0 / jnp.sqrt(STD + 1e-3) ** 2).reshape(1, C)

    graph = trace(fn)(X[0, 0])
    view = GraphView(graph)
    (node,) = graph.find("mul")
    found = [numbers_of(view, v) for v in node.inputs]
    assert found[0] is None
    np.testing.assert_allclose(np.ravel(found[1]), 1 / (STD + 1e-3), rtol=1e-6)


def test_traced_constants_have_no_numbers() -> None:
    @jax.jit
    def outer(std, x):
        return jp.optimize(lambda x: conv(x / std, W))(x)

    np.testing.assert_allclose(outer(STD, X), conv(X / STD, W), rtol=1e-4, atol=1e-4)


SQUARE, NARROW = W[0, 0], array(C, 1, seed=4)
WIDE_UP, NARROW_UP, FAR_BIAS = 1e25 * W[0, 0], 1e25 * NARROW, 1e22 * MEAN
WIDE_DOWN, NARROW_DOWN = 1e-25 * W[0, 0], 1e-25 * NARROW
INFINITE, FAR_GAIN = jnp.inf * STD, 1e30 * MEAN
FIRST, SECOND = WIDE_UP[None, None], NARROW_UP[None, None]
ONE_INF, WITH_ZEROS = W[0, 0].at[1, 1].set(jnp.inf), W[0, 0].at[0].set(0)


def chain(x, v, w, b=None):
    return nnops.dense(nnops.dense(x, v, b), w)


def normed(x, s, t, w):
    return nnops.layer_norm(x, s, t) @ w


def converted(dtype, fn, *weights):
    weights = [w.astype(dtype) for w in weights]
    return lambda x: fn(x.astype(dtype), *weights)


# What folding would turn into infinities, zeros or no numbers at all.
CHAINS = {
    "overflow": lambda x: chain(1e-20 * x, WIDE_UP, NARROW_UP),
    "underflow": lambda x: chain(1e20 * x, WIDE_DOWN, NARROW_DOWN),
    "infinite": lambda x: chain(x, ONE_INF, NARROW),
    "bias": lambda x: chain(x, SQUARE, NARROW_UP, FAR_BIAS),
    "overflow, float16": converted("float16", lambda x, v, w: chain(x / 1024, v, w),
                                   400 * W[0, 0], 400 * NARROW),
    "underflow, float16": converted("float16", lambda x, v, w: chain(x, v, w),
                                    4e-4 * W[0, 0], 4e-4 * NARROW),
    "bias, float16": converted("float16", chain, W[0, 0] / 1024, 400 * NARROW, 400 * NARROW[:, 0]),
    "conv": lambda x: conv(conv(1e-20 * x[None, None], FIRST), SECOND),
    "norm": lambda x: normed(x, FAR_GAIN, MEAN, W[0, 0]),
    "norm, bias": lambda x: normed(x, MEAN, INFINITE, WITH_ZEROS),
    "norm, float16": converted("float16", normed, 300 * MEAN, MEAN, 300 * W[0, 0]),
    "norm, bias, float16": converted("float16", normed, MEAN, 300 * MEAN, 300 * W[0, 0]),
}  # fmt: skip


@pytest.mark.parametrize("name", CHAINS)
def test_products_of_weights_do_not_leave_their_range(name) -> None:
    report = jp.optimize(CHAINS[name]).report(X[0, 0])
    rules = {r.rule for r in report.rewrites}
    assert not rules & {"fold_dense_chain", "fold_conv_chain", "fold_norm"}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_ordinary_chains_and_norms_fold(dtype) -> None:
    fn = converted(dtype, lambda x, v, w, b: chain(x, v, w, b), W[0, 0], NARROW, MEAN)
    assert ops(fn, X[0, 0].astype(dtype)) == {"dense"}
    fn = converted(dtype, normed, MEAN, STD, W[0, 0])
    assert ops(fn, X[0, 0].astype(dtype)) == {"layer_norm", "dense"}


def test_shared_arithmetic_is_looked_up_once(monkeypatch) -> None:
    """``s = s + s * s``, again and again, is a tree with a billion leaves."""

    def fn(x):
        s = STD
        for _ in range(30):
            s = s + s * s
        return x * s

    graph = trace(fn)(X[0, 0])
    asked = []
    monkeypatch.setattr(
        GraphView, "producer", lambda self, v: asked.append(v) or self.graph.producer(v)
    )
    view = GraphView(graph)
    assert numbers_of(view, graph.find("mul")[-1].inputs[1]) is None  # too deep
    assert len(asked) < 1000
    want = STD
    for _ in range(4):
        want = want + want * want
    (fourth,) = [n for i, n in enumerate(graph.find("add")) if i == 3]
    np.testing.assert_allclose(numbers_of(view, fourth.output), want, rtol=1e-5)
