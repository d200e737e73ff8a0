"""Activations made of straight pieces against those of jax.nn, at their kinks above all."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpress import nnops

CASES = [
    ("relu", {}),
    ("relu6", {}),
    ("leaky_relu", {}),
    ("leaky_relu", {"negative_slope": 0.3}),
    ("hard_tanh", {}),
    ("hard_sigmoid", {}),
    ("hard_silu", {}),
    ("hard_swish", {}),
    ("sparse_plus", {}),
    ("sparse_sigmoid", {}),
]
KINKS = np.array([-3.0, -1.0, -0.0, 0.0, 1.0, 3.0, 6.0, np.inf, -np.inf, np.nan, 0.5, -7.25])


@pytest.mark.parametrize("name, params", CASES)
def test_values_and_derivatives_are_those_of_jax(name, params):
    def three(module, x):
        f = lambda x: getattr(module, name)(x, **params)  # noqa: E731
        return jax.vmap(lambda x: (f(x), jax.grad(f)(x), jax.grad(jax.grad(f))(x)))(x)

    for dtype in (jnp.float32, jnp.bfloat16):
        x = jnp.asarray(KINKS, dtype)
        # One program for both, since another may round otherwise.
        for got, want in zip(
            *jax.jit(lambda x: (three(nnops, x), three(jax.nn, x)))(x), strict=True
        ):
            assert got.dtype == want.dtype == dtype
            np.testing.assert_array_equal(got.astype(jnp.float32), want.astype(jnp.float32))


@pytest.mark.parametrize("name, params", CASES)
def test_integers_behave_as_in_jax(name, params):
    x = jnp.arange(-4, 8)
    try:
        want = jax.jit(lambda x: getattr(jax.nn, name)(x, **params))(x)
    except TypeError:
        with pytest.raises(TypeError):
            getattr(nnops, name)(x, **params)
        return
    got = getattr(nnops, name)(x, **params)
    assert got.dtype == want.dtype
    np.testing.assert_allclose(got, want, rtol=2e-7, atol=2e-7)


# All go through `elementwise`; a few of them show that it works.
@pytest.mark.parametrize("name, params", [("relu", {}), ("leaky_relu", {"negative_slope": 0.3})])
def test_behaves_under_every_transformation(agree, name, params):
    agree(
        lambda x: getattr(nnops, name)(x, **params),
        lambda x: getattr(jax.nn, name)(x, **params),
        (3, 4),
    )


@pytest.mark.parametrize("name, params", CASES)
def test_one_equation_by_name_also_under_vmap(name, params):
    f = lambda x: getattr(nnops, name)(x, **params)  # noqa: E731
    op = {"hard_swish": "hard_silu"}.get(name, name)
    for fn, shape in ((f, (3,)), (jax.vmap(jax.vmap(f, 1), 2), (2, 3, 4))):
        (eqn,) = jax.make_jaxpr(fn)(jnp.ones(shape)).eqns[:1]
        assert eqn.primitive is nnops.ops[op].primitive
        assert eqn.params == {**nnops.ops[op].defaults, **params}


def test_weak_types_survive():
    assert jax.typeof(nnops.relu(1.0)).weak_type == jax.typeof(jax.nn.relu(1.0)).weak_type is True
    out = jnp.ones(2, jnp.bfloat16) * nnops.leaky_relu(1.0)
    assert out.dtype == jnp.bfloat16


def test_a_traced_slope_is_refused():
    with pytest.raises(nnops.OpTypeError, match="negative_slope"):
        jax.jit(lambda s: nnops.leaky_relu(jnp.ones(2), s))(0.1)
