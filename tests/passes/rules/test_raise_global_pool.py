"""Means and maxima over all positions become global pooling; statistics and others stay."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from zoo_keras import import_keras

from helpers import array, assert_refuses, rewritten
from jaxpress import passes
from jaxpress.capture import trace
from jaxpress.passes.rules.raise_global_pool import GLOBAL_POOL_RULES
from jaxpress.testing import assert_equivalent

X = array(2, 4, 5, 3)
NAMES = {"mean": "global_avg_pool", "max": "global_max_pool"}

# The function of x, the shape of x, the axes and whether they are kept.
CASES = {
    "1d": (lambda f: lambda x: f(x, 1), X[:, 0], (-2,), False),
    "2d": (lambda f: lambda x: f(x, (1, 2)), X, (-3, -2), False),
    "2d, turned": (lambda f: lambda x: f(x, (2, 1)), X, (-3, -2), False),
    "2d, kept": (lambda f: lambda x: f(x, (1, 2), keepdims=True), X, (-3, -2), True),
    "2d, put back": (lambda f: lambda x: f(x, (1, 2))[:, None, None], X, (-3, -2), True),
    "2d, reshaped": (lambda f: lambda x: f(x, (1, 2)).reshape(2, 1, 1, 3), X, (-3, -2), True),
    "3d": (lambda f: lambda x: f(x, (1, 2, 3)), X[:, :, None], (-4, -3, -2), False),
    "channels first": (lambda f: lambda x: f(x, (2, 3)), X, (-2, -1), False),
    "vmap": (lambda f: jax.vmap(lambda x: f(x, (0, 1))), X, (-3, -2), False),
    "vmap of kept": (lambda f: jax.vmap(lambda x: f(x, (0, 1), keepdims=True)), X, (-3, -2), True),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", NAMES)
def test_over_positions_of_every_layout(name, case) -> None:
    make, x, axis, keepdims = CASES[case]
    fn = make(getattr(jnp, name))
    for pipeline in (passes.default, passes.inference):
        new = rewritten(pipeline, fn, x)[0]
        assert new.count() == {NAMES[name]: 1}
        assert new.nodes[0].params == {"axis": axis, "keepdims": keepdims}
    assert_equivalent(fn, new, x, vmap=False)
    ties = jnp.ones_like(x)
    grads = [jax.grad(lambda x, f=f: (f(x) ** 2).sum())(ties) for f in (fn, new)]
    np.testing.assert_array_equal(*grads)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("keepdims", [False, True])
def test_in_low_precision(name, dtype, keepdims) -> None:
    x = X.astype(dtype)
    fn = lambda x: getattr(jnp, name)(x, (1, 2), keepdims=keepdims)  # noqa: E731
    new = rewritten(passes.default, fn, x)[0]
    assert new.count() == {NAMES[name]: 1}
    np.testing.assert_array_equal(jax.jit(new)(x), jax.jit(fn)(x))


def test_sums_that_are_scaled() -> None:
    for fn, rule in (
        (lambda x: x.sum((1, 2)) / 20, "raise_global_avg_pool"),
        (lambda x: x.sum((1, 2)) * (1 / 20), "raise_scaled_sum"),
        (lambda x: 0.05 * jnp.sum(x, (1, 2), keepdims=True), "raise_scaled_sum"),
    ):
        new, rules = rewritten(passes.default, fn, X)
        assert new.count() == {"global_avg_pool": 1} and rule in rules
        assert_equivalent(fn, new, X, vmap=False)


@pytest.mark.parametrize("layer", ["GlobalAveragePooling2D", "GlobalMaxPooling2D"])
@pytest.mark.parametrize("options", [{}, {"keepdims": True}, {"data_format": "channels_first"}])
def test_as_keras_has_it(layer, options) -> None:
    fn = getattr(import_keras().layers, layer)(**options)
    (op,) = rewritten(passes.default, lambda x: fn(x), X)[0].count()
    assert op == {"GlobalAveragePooling2D": "global_avg_pool"}.get(layer, "global_max_pool")


@pytest.mark.parametrize(
    "fn",
    [
        lambda x: x.sum((1, 2)),
        lambda x: x.sum((1, 2)) / 19,
        lambda x: x.sum((1, 2)) * 20,
        lambda x: 20 / x.sum((1, 2)),
        lambda x: x.mean(-1),
        lambda x: x.mean((1, 2, 3)),
        lambda x: x.mean((0, 1)),
        lambda x: x.mean((0, 1, 2)),
        lambda x: x.mean(1),
        lambda x: x.mean((1, 3)),
        lambda x: x - x.mean((1, 2), keepdims=True),
        lambda x: jnp.square(x).mean((1, 2)),
        lambda x: (x * x).mean((1, 2)),
        lambda x: x.var((1, 2)),
        lambda x: x.min((1, 2)),
        lambda x: x.max((1, 2, 3)),
        lambda x: jax.nn.softmax(x, (1, 2)),
        lambda x: jax.nn.logsumexp(x, (1, 2)),
        lambda x: jnp.exp(x - x.max((1, 2), keepdims=True)),
    ],
)
def test_others_stay(fn) -> None:
    inlined = passes.cleanup(trace(fn)(X))
    assert_refuses(GLOBAL_POOL_RULES, lambda x: inlined(x), X)


def test_integers_and_sums_in_low_precision_stay() -> None:
    assert_refuses(GLOBAL_POOL_RULES, lambda x: x.max((1, 2)), X.astype(int))
    half = X.astype("bfloat16")
    narrow = lambda x: lax.reduce(x, jnp.bfloat16(0), lax.add, (1, 2)) / 20  # noqa: E731
    assert "global_avg_pool" not in rewritten(passes.default, narrow, half)[0].count()


def test_sums_over_nothing_stay() -> None:
    assert_refuses(GLOBAL_POOL_RULES, lambda x: x.sum((1, 2)) * 0.5, X[:, :0])


def test_a_sum_with_another_user_is_kept() -> None:
    def fn(x):
        total = x.sum((1, 2))
        return total / 20, total

    assert "global_avg_pool" not in rewritten(passes.default, fn, X)[0].count()
