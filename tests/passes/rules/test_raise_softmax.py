"""Softmax by its structure: over one axis, with the maximum's gradient stopped."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from helpers import array, assert_refuses, rewritten
from jaxpress import passes
from jaxpress.capture import trace
from jaxpress.passes.rules.raise_softmax import RAISE_SOFTMAX
from jaxpress.testing import assert_rewrites

# As many rows as columns, so that a mistaken axis has a fitting shape.
X = array(3, 3, 3)


def by_hand(x, axis=-1, other=None, stop=jax.lax.stop_gradient):
    e = jnp.exp(x - stop(jnp.max(x, axis, keepdims=True)))
    return e / jnp.sum(e, axis if other is None else other, keepdims=True)


def shifted(x, change=lambda m: m):
    return jnp.exp(x - change(jax.lax.stop_gradient(jnp.max(x, -1, keepdims=True))))


@pytest.mark.parametrize("axis", [0, 1, 2, -1])
@pytest.mark.parametrize("fn", [jax.nn.softmax, by_hand])
def test_along_every_axis(fn, axis) -> None:
    inlined = passes.inline(trace(lambda x: fn(x, axis=axis))(X))
    new = assert_rewrites(RAISE_SOFTMAX, lambda x: inlined(x), X, times=1)
    (node,) = new.find("softmax")
    assert new.count() == {"softmax": 1} and node.params["axis"] == (axis % 3) - 3


@pytest.mark.parametrize("shape", [(5,), (2, 5), (4, 1), (0, 3), (2, 1, 7)])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_shapes_and_dtypes(shape, dtype) -> None:
    x = array(*shape, dtype=dtype)
    new, rules = rewritten(passes.cleanup[:1] + RAISE_SOFTMAX, jax.nn.softmax, x)
    assert rules == ["raise_softmax"]
    np.testing.assert_array_equal(new(x), jax.jit(jax.nn.softmax)(x))


def test_masked_rows_infinities_and_nan() -> None:
    x = X.at[0, 0].set(-jnp.inf).at[1, 1, 1].set(jnp.inf).at[2, 2, 2].set(jnp.nan)
    new, rules = rewritten(passes.cleanup[:1] + RAISE_SOFTMAX, jax.nn.softmax, x)
    assert rules == ["raise_softmax"]
    np.testing.assert_array_equal(new(x), jax.nn.softmax(x))


def test_a_sum_in_low_precision_stays() -> None:
    def fn(x, wide):
        e = jnp.exp(x - jax.lax.stop_gradient(x.max(-1, keepdims=True)))
        total = jax.lax.reduce_sum_p.bind(e.astype("float32") if wide else e, axes=(1,), **OPTIONS)
        return e / total.astype(x.dtype)[:, None]

    x = array(3, 3, dtype="bfloat16")
    params = trace(lambda x: jax.lax.reduce_sum(x, (1,)))(X[0]).nodes[0].params
    OPTIONS.update({k: v for k, v in params.items() if k != "axes"})
    assert rewritten(RAISE_SOFTMAX, lambda x: fn(x, True), x)[1] == ["raise_softmax"]
    assert_refuses(RAISE_SOFTMAX, lambda x: fn(x, False), x, because="sum of the numerator")


OPTIONS = {}


@pytest.mark.parametrize(
    ("fn", "because"),
    [
        (lambda x: by_hand(x, 1, 2), "different axes"),
        (lambda x: by_hand(x, stop=lambda m: m), "gradient"),
        (lambda x: by_hand(x, (1, 2)), ""),
        (lambda x: jnp.exp(x) / jnp.sum(jnp.exp(x), -1, keepdims=True), ""),
        (lambda x: (e := jnp.exp(x)) / jnp.sum(e, -1, keepdims=True), "no difference"),
        (lambda x: jnp.sum(e := shifted(x), -1, keepdims=True) / e, ""),
        (lambda x: (e := shifted(x)) / jnp.sum(e, -1)[None], ""),
        (lambda x: (e := shifted(x, lambda m: m[..., 0][:, None])) / jnp.sum(e, -1)[..., None], ""),
        (lambda x: (e := shifted(x, lambda m: -m)) / jnp.sum(e, -1, keepdims=True), ""),
        (lambda x: (e := shifted(x)) / jnp.sum(e * e, -1)[..., None], "sum of the numerator"),
        (lambda x: (e := shifted(x)) / jnp.max(e, -1, keepdims=True), "sum of the numerator"),
    ],
)  # fmt: skip
def test_lookalikes_stay(fn, because) -> None:
    inlined = passes.inline(trace(fn)(X))
    assert_refuses(RAISE_SOFTMAX, lambda x: inlined(x), X, because=because)


def test_an_inner_value_with_another_user_is_kept() -> None:
    def fn(x):
        e = jnp.exp(x - jax.lax.stop_gradient(x.max(-1, keepdims=True)))
        return e / e.sum(-1, keepdims=True), e

    assert_refuses(RAISE_SOFTMAX, fn, X, because="as well")
