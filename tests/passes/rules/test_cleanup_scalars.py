"""Numbers that a program computes from numbers are computed beforehand, to the same bits."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from helpers import array, rewritten
from jaxpress import passes
from jaxpress.capture import trace
from jaxpress.passes.rules.cleanup_scalars import FOLD_SCALARS
from jaxpress.testing import assert_rewrites

X = array(3, 4)


def number(value, dtype="float32"):
    """A scalar that is traced as one, and not computed outside of the trace."""
    return lax.stop_gradient(lax.convert_element_type(jnp.asarray(value), dtype))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize(
    "fn",
    [
        lambda a, b: lax.sub(a, b),
        lambda a, b: lax.mul(lax.add(a, b), a),
        lambda a, b: lax.div(a, b),
        lambda a, b: lax.neg(lax.sqrt(b)),
        lambda a, b: lax.max(a, lax.min(b, a)),
        lambda a, b: lax.div(a, lax.sub(a, a)),
        lambda a, b: lax.sqrt(lax.neg(a)),
    ],
)
def test_scalars_are_computed_to_the_bit(fn, dtype) -> None:
    def model(x):
        return x * jax.jit(fn)(*(np.asarray(v, dtype) for v in (1.7, 0.1)))

    x = X.astype(dtype)
    new, rules = rewritten(passes.cleanup, model, x)
    assert new.count() == {"mul": 1} and "fold_scalars" in rules
    got, want = (np.asarray(jax.jit(f)(x), "float32") for f in (new, model))
    np.testing.assert_array_equal(got, want)


def test_the_rule_alone() -> None:
    inlined = passes.inline(trace(lambda x: x * jax.jit(lambda a: lax.sub(1.0, a))(0.1))(X))
    assert_rewrites(FOLD_SCALARS, lambda x: inlined(x), X, times=1)


def test_weak_types_stay_weak() -> None:
    new = rewritten(passes.cleanup, lambda: jax.jit(lambda a: 1.0 - a)(0.1))[0]
    assert jax.typeof(new()).weak_type and not new.nodes


@pytest.mark.parametrize(
    "fn",
    [
        lambda x: x[0, 0] - 1.0,
        lambda x: jax.jit(lambda a: lax.exp(a))(2.0) * x,
        lambda x: jax.jit(lambda a: lax.div(a, 0))(2) + x,
    ],
)
def test_what_stays(fn) -> None:
    assert "fold_scalars" not in rewritten(passes.cleanup, fn, X)[1]
