"""Smooth activations against those of jax.nn."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpress import nnops

CASES = [
    ("elu", {}),
    ("elu", {"alpha": 0.5}),
    ("celu", {}),
    ("celu", {"alpha": 2.0}),
    ("selu", {}),
    ("gelu", {}),
    ("gelu", {"approximate": False}),
    ("sigmoid", {}),
    ("silu", {}),
    ("swish", {}),
    ("softplus", {}),
    ("soft_sign", {}),
    ("log_sigmoid", {}),
    ("mish", {}),
    ("squareplus", {}),
    ("squareplus", {"b": 1.0}),
]
KINKS = np.array([-0.0, 0.0, 1.0, -1.0, 20.0, -20.0, 90.0, -90.0, np.inf, -np.inf, np.nan])


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
            # Its second derivative is a difference of numbers close to one: digits are lost in
            # both, and which ones is up to how XLA fuses what the two have in common.
            close = {"rtol": 2e-5} if name == "squareplus" else {"rtol": 0}
            np.testing.assert_allclose(
                got.astype(jnp.float32), want.astype(jnp.float32), atol=0, **close
            )


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


def test_integers_are_no_wider_than_in_jax_with_x64():
    with jax.enable_x64(True):
        x = jnp.arange(-4, 8, dtype=jnp.int32)
        got, want = nnops.squareplus(x), jax.nn.squareplus(x)
        assert got.dtype == want.dtype
        np.testing.assert_allclose(got, want, rtol=2e-7)


# All go through `elementwise`; a few of them show that it works.
@pytest.mark.parametrize("name, params", [("silu", {}), ("gelu", {"approximate": False})])
def test_behaves_under_every_transformation(agree, name, params):
    agree(
        lambda x: getattr(nnops, name)(x, **params),
        lambda x: getattr(jax.nn, name)(x, **params),
        (3, 4),
    )


@pytest.mark.parametrize("name, params", CASES)
def test_one_equation_by_name_also_under_vmap(name, params):
    f = lambda x: getattr(nnops, name)(x, **params)  # noqa: E731
    op = {"swish": "silu"}.get(name, name)
    for fn, shape in ((f, (3,)), (jax.vmap(jax.vmap(f, 1), 2), (2, 3, 4))):
        (eqn,) = jax.make_jaxpr(fn)(jnp.ones(shape)).eqns[:1]
        assert eqn.primitive is nnops.ops[op].primitive
        assert eqn.params == {**nnops.ops[op].defaults, **params}
