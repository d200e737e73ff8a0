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
