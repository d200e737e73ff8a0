"""Activations written by hand: each formula is found, and its neighbours are not."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.scipy import special, stats

from helpers import rewritten
from jaxpress import passes
from jaxpress.passes.rules.formulas import FORMULAS
from jaxpress.testing import assert_equivalent

X = jnp.array([-jnp.inf, -7.0, -3.0, -1.0, -0.5, -0.0, 0.0, 0.5, 1.0, 6.0, jnp.inf, jnp.nan])
FINITE = jnp.array([-7.0, -1.5, -1.0, -1e-3, 0.0, 1e-3, 0.5, 1.0, 2.5])

DEFAULT = {
    "softplus": [lambda x: jnp.logaddexp(0.0, x)],
    "log1mexp": [jax.nn.log1mexp],
    "log_sigmoid": [lambda x: -jnp.logaddexp(0.0, -x)],
    "leaky_relu": [lambda x: jnp.where(x < 0, 0.2 * x, x)],
    "elu": [
        lambda x: jnp.where(x > 0, x, 0.3 * jnp.expm1(x)),
        lambda x: jnp.where(x > 0, x, (jnp.exp(x) - 1) * 0.3),
        lambda x: jnp.where(x <= 0, 0.3 * jnp.expm1(x), x),
        lambda x: jnp.where(x <= 0, 0.3 * (jnp.exp(x) - 1), x),
        lambda x: jnp.where(x > 0, x, jnp.expm1(x)),
        lambda x: jnp.where(x > 0, x, jnp.exp(x) - 1),
        lambda x: jnp.where(x >= 0, x, jnp.expm1(x)),
        lambda x: jnp.where(x >= 0, x, jnp.exp(x) - 1),
        lambda x: jnp.where(x < 0, jnp.expm1(x), x),
        lambda x: jnp.where(x < 0, jnp.exp(x) - 1, x),
    ],
    "gelu": [lambda x: x * special.ndtr(x), lambda x: stats.norm.cdf(x) * x],
    "relu6": [lambda x: lax.clamp(0.0, x, 6.0)],
    "relu_squared": [lambda x: jnp.maximum(x, 0) ** 2, lambda x: jnp.square(jnp.maximum(x, 0))],
}
VALUES = {
    "softplus": [lambda x: jnp.log1p(jnp.exp(-jnp.abs(x))) + jnp.maximum(0, x)],
    "hard_tanh": [lambda x: jnp.clip(x, -1, 1), lambda x: lax.clamp(-1.0, x, 1.0)],
    "leaky_relu": [
        lambda x: jnp.where(x > 0, x, 0.2 * x),
        lambda x: jnp.maximum(x, 0.2 * x),
        lambda x: jnp.maximum(x * 0.2, x),
    ],
}


def cases(table):
    return [(op, i) for op, fns in table.items() for i in range(len(fns))]


@pytest.mark.parametrize("op, i", cases(DEFAULT))
def test_formulas_are_found_in_both_pipelines(op, i) -> None:
    fn = DEFAULT[op][i]
    for pipeline in (passes.default, passes.inference):
        new, rules = rewritten(pipeline, fn, FINITE)
        assert new.count() == {op: 1}
        assert {f"raise_{op}", f"raise_{op}_by_hand"} & set(rules)
    x = FINITE if op != "log1mexp" else jnp.asarray([0.1, 0.5, 2.0])
    assert_equivalent(fn, new_at(fn, x), x, vmap=False)
    # Infinities and NaN stay where they were.
    got, want = (np.asarray(jax.jit(f)(X)) for f in (new_at(fn, X), fn))
    np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-6)


def new_at(fn, x, pipeline=passes.default):
    return rewritten(pipeline, fn, x)[0]


@pytest.mark.parametrize("op, i", cases(VALUES))
def test_other_derivatives_at_a_kink_only_where_nobody_differentiates(op, i) -> None:
    fn = VALUES[op][i]
    assert op not in new_at(fn, X).count()
    new = new_at(fn, X, passes.inference)
    assert new.count() == {op: 1}
    got, want = (np.asarray(jax.jit(f)(X)) for f in (new, fn))
    np.testing.assert_allclose(got, want, rtol=0 if op != "softplus" else 1e-6)


def test_every_formula_is_tried_here() -> None:
    for table, only_values in ((DEFAULT, False), (VALUES, True)):
        missing = {f.op for f in FORMULAS if f.only_values == only_values} - set(table)
        assert not missing


@pytest.mark.parametrize(
    "fn",
    [
        lambda x: jnp.log1p(jnp.exp(x)),  # overflows
        lambda x: jnp.maximum(x, 0) + jnp.log1p(jnp.exp(-x)),
        lambda x: jnp.maximum(x, 0.1) + jnp.log1p(jnp.exp(-jnp.abs(x))),
        lambda x: jnp.logaddexp(0.5, x),
        lambda x: jnp.where(x >= 0, x, 0.3 * jnp.expm1(x)),  # its derivative at 0 is 1
        lambda x: jnp.where(x > 0, x, jnp.exp(x) - 2),
        lambda x: jnp.where(x > 1, x, jnp.expm1(x)),
        lambda x: jnp.where(x > 0, jnp.expm1(x), x),
        lambda x: jnp.where(x < 0, x, 0.2 * x),
        lambda x: x * stats.norm.cdf(x, 0.5),
        lambda x: x * stats.norm.cdf(2 * x),
        lambda x: lax.clamp(0.0, x, 5.0),
        lambda x: lax.clamp(-6.0, x, 6.0),
        lambda x: jnp.maximum(x, 1) ** 2,
        lambda x: jnp.minimum(x, 0) ** 2,
        lambda x: jnp.maximum(x, 0) ** 3,
    ],
)
def test_lookalikes_stay(fn) -> None:
    new = new_at(fn, FINITE)
    assert not set(new.count()) & set(DEFAULT)
    np.testing.assert_array_equal(new(FINITE), jax.jit(fn)(FINITE))


@pytest.mark.parametrize(
    "fn",
    [
        lambda x: jnp.where(x > 0, x, 0.0),  # of NaN it is 0
        lambda x: x * (x > 0),
        lambda x: jnp.maximum(x, 1.5 * x),
        lambda x: jnp.maximum(x, -0.2 * x),
        lambda x: jnp.clip(x, -1, 2),
    ],
)
def test_lookalikes_stay_in_inference(fn) -> None:
    new = new_at(fn, FINITE, passes.inference)
    assert not set(new.count()) & {"relu", "leaky_relu", "hard_tanh"}


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("op", ["softplus", "elu", "leaky_relu", "relu_squared"])
def test_in_low_precision(op, dtype) -> None:
    x = FINITE.astype(dtype)
    fn = DEFAULT[op][0]
    new = new_at(fn, x)
    assert new.count() == {op: 1}
    got, want = (np.asarray(jax.jit(f)(x), "float32") for f in (new, fn))
    np.testing.assert_allclose(got, want, rtol=4 * float(jnp.finfo(dtype).eps))
