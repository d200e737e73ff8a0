"""Windowed maxima and means become ``max_pool`` and ``avg_pool``; other windows stay."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from helpers import array, assert_refuses, rewritten
from jaxpress import passes
from jaxpress.passes.rules.raise_pool import POOL_RULES, RAISE_AVG_POOL, RAISE_MAX_POOL
from jaxpress.testing import assert_rewrites

X = array(2, 9, 8, 3)
PAD = ((0, 0), (1, 1), (0, 1), (0, 0))


def window(x, init, fn, size=(1, 3, 2, 1), strides=(1, 2, 2, 1), padding="VALID", **options):
    return lax.reduce_window(x, init, fn, size, strides, padding, **options)


def maximum(x, **options):
    return window(x, -jnp.inf, lax.max, **options)


def total(x, **options):
    return window(x, 0.0, lax.add, **options)


def counted(x, **options):
    return total(x, **options) / total(jnp.ones_like(x), **options)


GEOMETRIES = {
    "valid": {},
    "same": {"padding": "SAME"},
    "padded": {"padding": PAD},
    "dilated": {"window_dilation": (1, 2, 3, 1)},
    "all axes": {"size": (2, 3, 2, 3), "strides": (1, 1, 1, 1)},
    "over the channels": {"size": (1, 1, 1, 3), "strides": (1, 1, 1, 1)},
    "without overlap": {"size": (1, 4, 4, 1), "strides": (1, 4, 4, 1)},
}


@pytest.mark.parametrize("name", GEOMETRIES)
def test_windows_of_every_geometry(name) -> None:
    options = GEOMETRIES[name]
    new = assert_rewrites(
        RAISE_MAX_POOL, lambda x: maximum(x, **options), X, times=1,
        gradients=name != "dilated",  # of which JAX knows none
    )  # fmt: skip
    assert new.count() == {"max_pool": 1}
    size = float(np.prod(options.get("size", (1, 3, 2, 1))))
    new = assert_rewrites(RAISE_AVG_POOL, lambda x: total(x, **options) / size, X, times=1)
    assert new.find("avg_pool")[0].params["count_include_pad"]
    new = assert_rewrites(RAISE_AVG_POOL, lambda x: counted(x, **options), X, times=1)
    assert not new.find("avg_pool")[0].params["count_include_pad"]


def test_minima_as_windows_and_as_negated_maxima() -> None:
    def minimum(x):
        return window(x, jnp.inf, lax.min, padding=PAD)

    def negated(x):
        return -maximum(-x, padding=PAD)

    for fn, times in ((minimum, 1), (negated, 2)):
        new = assert_rewrites(POOL_RULES, fn, X, times=times)
        assert new.count() == {"min_pool": 1}
    for fn in (
        lambda x: -maximum(x),
        lambda x: maximum(-x),
        lambda x: (-maximum(y := -x), y),
    ):
        assert "min_pool" not in rewritten(POOL_RULES, fn, X)[0].count()
    ints = jnp.arange(-8, 8, dtype="int8").reshape(1, 4, 4, 1)
    least = np.array(-128, "int8")
    fn = lambda x: -window(-x, least, lax.max, (1, 2, 2, 1))  # noqa: E731
    assert "min_pool" not in rewritten(POOL_RULES, fn, ints)[0].count()


@pytest.mark.parametrize("include", [True, False])
@pytest.mark.parametrize("padding", ["VALID", "SAME", ((1, 1), (0, 1))])
def test_as_flax_writes_it(padding, include) -> None:
    def fn(x):
        y = nn.max_pool(x, (3, 2), (2, 2), padding)
        return nn.avg_pool(y, (2, 2), (1, 1), padding, count_include_pad=include)

    new, rules = rewritten(passes.cleanup[:3] + POOL_RULES, fn, X)
    assert sorted(rules)[-2:] == ["raise_avg_pool", "raise_max_pool"]
    assert new.count()["avg_pool"] == 1 and not new.find("reduce_window_sum")
    np.testing.assert_array_equal(new(X), jax.jit(fn)(X))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "int32", "uint8", "int8", "int4"])
def test_maxima_of_other_dtypes(dtype) -> None:
    x = jnp.arange(40).reshape(1, 5, 8, 1).astype(dtype)
    least = -np.inf if jnp.issubdtype(dtype, jnp.floating) else int(jnp.iinfo(dtype).min)

    def fn(x):
        return window(x, np.array(least, x.dtype), lax.max, padding=PAD)

    new, rules = rewritten(RAISE_MAX_POOL, fn, x)
    assert rules == ["raise_max_pool"]
    np.testing.assert_array_equal(new(x), fn(x))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_means_in_low_precision(dtype) -> None:
    x = X.astype(dtype)
    for fn in (lambda x: total(x) / 6, lambda x: counted(x, padding=PAD)):
        new, rules = rewritten(RAISE_AVG_POOL, fn, x)
        assert rules == ["raise_avg_pool"]
        np.testing.assert_array_equal(new(x), jax.jit(fn)(x))


def test_a_count_beyond_what_the_dtype_can_count_stays() -> None:
    x = array(1, 40, 40, 1, dtype="bfloat16")
    large = {"size": (1, 20, 20, 1), "padding": "SAME"}
    assert_refuses(RAISE_AVG_POOL, lambda x: counted(x, **large), x, because="cannot count")


@pytest.mark.parametrize("dtype", ["bool", "complex64", "float8_e4m3fn", "float8_e4m3b11fnuz"])
def test_maxima_without_a_least_value_that_both_agree_on_stay(dtype) -> None:
    x = jnp.ones((1, 4, 4, 1), dtype)
    start = {"bool": False, "complex64": -np.inf + 0j}.get(dtype)
    start = jnp.finfo(dtype).min if start is None else start

    def fn(x):
        return window(x, np.array(start, x.dtype), lax.max)

    assert_refuses(RAISE_MAX_POOL, fn, x)


@pytest.mark.parametrize(
    ("fn", "because"),
    [
        (lambda x: maximum(x, base_dilation=(1, 2, 1, 1)), "condition"),
        (lambda x: window(x, 0.0, lax.max), ""),  # starts from zero: a rectifier too
        (lambda x: window(x, jnp.inf, lax.min), ""),
    ],
)
def test_windows_that_no_layer_makes_stay(fn, because) -> None:
    assert_refuses(RAISE_MAX_POOL, fn, X, because=because)


@pytest.mark.parametrize(
    ("fn", "because"),
    [
        (lambda x: total(x), ""),
        (lambda x: total(x) / 5, "not by 6"),
        (lambda x: total(x) * (1 / 6), ""),
        (lambda x: 6 / total(x), ""),
        (lambda x: total(x) / total(jnp.ones_like(x) * 2), ""),
        (lambda x: total(x) / total(jnp.ones((2, 9, 9, 3))), "another array"),
        (lambda x: total(x, padding=PAD)[:, :4] / total(jnp.ones_like(x), padding="VALID"), ""),
        (lambda x: total(x) / total(x), ""),
    ],
)  # fmt: skip
def test_sums_over_anything_else_stay(fn, because) -> None:
    assert_refuses(RAISE_AVG_POOL, fn, X, because=because)


def test_a_count_of_other_windows_is_refused() -> None:
    def fn(x):
        a = total(x, size=(1, 3, 3, 1), strides=(1, 1, 1, 1), padding="SAME")
        return a / total(jnp.ones_like(x), size=(1, 3, 2, 1), strides=(1, 1, 1, 1), padding="SAME")

    assert_refuses(RAISE_AVG_POOL, fn, X, because="another window")


def test_a_sum_with_another_user_is_kept() -> None:
    def fn(x):
        y = total(x)
        return y / 6, y

    assert_refuses(RAISE_AVG_POOL, fn, X, because="as well")


def test_integer_sums_stay() -> None:
    x = jnp.arange(36).reshape(1, 6, 6, 1)

    def fn(x):
        return lax.div(window(x, 0, lax.add), lax.full((1, 2, 3, 1), 6))

    assert_refuses(RAISE_AVG_POOL, fn, x, because="x is int32")


def test_zero_sized_windows() -> None:
    assert_rewrites(RAISE_MAX_POOL, maximum, X[:0], gradients=False)
    assert_rewrites(POOL_RULES, lambda x: total(x[:, :2]) / 6, X, gradients=False)


def test_nan_and_infinity_come_through() -> None:
    x = X.at[0, 0, 0].set(jnp.nan).at[1, 4, 4].set(jnp.inf).at[1, 0].set(-jnp.inf)
    for fn in (maximum, lambda x: total(x) / 6):
        new, _ = rewritten(POOL_RULES, fn, x)
        np.testing.assert_array_equal(new(x), fn(x))


def test_a_symbolic_batch() -> None:
    (n,) = jax.export.symbolic_shape("n")
    shape = jax.ShapeDtypeStruct((n, 9, 8, 3), jnp.float32)
    new, rules = rewritten(POOL_RULES, lambda x: total(maximum(x, padding="SAME")) / 6, shape)
    assert sorted(rules) == ["raise_avg_pool", "raise_max_pool"]
    assert new.outputs[0].shape[0] == n


@pytest.mark.parametrize("name", ["max", "avg"])
def test_a_window_of_one_element_takes_every_second(name) -> None:
    """As frameworks stride without a convolution."""
    start, function = (-jnp.inf, lax.max) if name == "max" else (0.0, lax.add)

    def fn(x):
        return window(x, start, function, size=(1, 1, 1, 1))

    graph = rewritten(passes.default, fn, X)[0]
    assert graph.count() == {f"{name}_pool": 1}
    np.testing.assert_array_equal(graph(X), fn(X))
