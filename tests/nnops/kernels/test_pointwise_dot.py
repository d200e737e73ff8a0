"""The kernel pointwise_dot against conv's reference."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpress import nnops

CONV = nnops.ops["conv"]


def _rng(*shape, seed=0, dtype=jnp.float32):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), dtype)


def _with(kernel, params):
    def f(*operands):
        eqn = jax.make_jaxpr(lambda *a: nnops.conv(*a, **params))(*operands).eqns[-1]
        given = dict(zip(CONV.names, operands, strict=False))
        return CONV.rebind(given, **{**eqn.params, "kernel": kernel})

    return f


@pytest.mark.parametrize(
    "shapes, params",
    [
        (((2, 9, 3), (1, 3, 5)), {}),
        (((2, 8, 7, 4), (1, 1, 4, 5)), {"dilation": 2}),
        (((2, 8, 7, 4), (1, 1, 4, 5)), {"strides": (2, 3)}),
        (((2, 4, 8, 7), (5, 4, 1, 1)), {"dimension_numbers": ("NCHW", "OIHW", "NCHW")}),
        (
            ((8, 2, 4, 7), (1, 5, 4, 1)),
            {"dimension_numbers": ("HNCW", "WOIH", "CNWH"), "strides": (2, 1)},
        ),
        (((1, 4, 5, 4, 3), (1, 1, 1, 3, 2)), {"strides": (1, 2, 3)}),
        (((1, 4, 4, 3), (1, 1, 3, 2)), {"transposed": True}),
    ],
)
def test_values_are_those_of_the_reference(shapes, params):
    x, w = _rng(*shapes[0]), _rng(*shapes[1], seed=1)
    want = jax.jit(_with("reference", params))(x, w)
    got = jax.jit(_with("pointwise_dot", params))(x, w)
    assert got.shape == want.shape
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.int8, jnp.complex64])
@pytest.mark.parametrize("preferred", [None, jnp.float32, jnp.int32])
def test_dtypes_are_those_of_the_reference(dtype, preferred):
    x, w = (_rng(1, 5, 5, 4) * 9).astype(dtype), (_rng(1, 1, 4, 6, seed=1) * 9).astype(dtype)
    params = {"preferred_element_type": preferred, "precision": "highest"}
    try:
        want = _with("reference", params)(x, w)
    except TypeError:  # lax has no such product
        with pytest.raises(TypeError):
            _with("pointwise_dot", params)(x, w)
        return
    got = _with("pointwise_dot", params)(x, w)
    assert got.dtype == want.dtype
    tolerance = 1e-2 if got.dtype == jnp.bfloat16 else 1e-5
    np.testing.assert_allclose(
        np.asarray(got).astype(np.complex64),
        np.asarray(want).astype(np.complex64),
        rtol=tolerance,
        atol=tolerance,
    )


def test_behaves_under_every_transformation(agree):
    params = {"strides": 2, "activation": "silu"}
    agree(
        _with("pointwise_dot", params),
        _with("reference", params),
        (1, 3, 2),
        (1, 2, 3),
    )


@pytest.mark.parametrize(
    "shapes, params",
    [
        (((1, 5, 5, 4), (3, 1, 4, 4)), {}),
        (((1, 5, 5, 4), (1, 1, 2, 4)), {"groups": 2}),
        (((1, 5, 5, 4), (1, 1, 4, 4)), {"padding": 1}),
        (((1, 5, 5, 4), (1, 1, 4, 4)), {"transposed": True, "strides": 2}),
    ],
)
def test_where_it_does_not_apply(shapes, params):
    operands = [jnp.ones(s) for s in shapes]
    eqn = jax.make_jaxpr(lambda *a: nnops.conv(*a, **params))(*operands).eqns[0]
    assert "pointwise_dot" not in CONV.fitting_kernels(operands, eqn.params)


def test_the_program_has_no_convolution():
    x, w = _rng(1, 8, 8, 4), _rng(1, 1, 4, 4)
    f = jax.jit(jax.grad(lambda x, w: _with("pointwise_dot", {})(x, w).sum(), (0, 1)))
    text = f.lower(x, w).as_text()
    assert "convolution" not in text
    assert "dot_general" in text
