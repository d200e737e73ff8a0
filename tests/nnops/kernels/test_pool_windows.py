"""The pooling kernels against lax.reduce_window."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpress import nnops


def _params(name, x, args, **more):
    return jax.make_jaxpr(lambda x: getattr(nnops, name)(x, *args, **more))(x).eqns[0].params


def _with(kernel, name, params):
    return lambda x: nnops.ops[name].rebind({"x": x}, **{**params, "kernel": kernel})


ARGS = [
    ((2, 9, 8, 3), (3, 2, "SAME")),
    ((2, 9, 8, 3), ((2, 3), (1, 2), ((0, 2), (1, 1)))),
    ((2, 3, 9, 8), ((1, 1, 3, 3), (1, 1, 2, 1), "VALID")),
    ((4, 6, 6), ((2, 2, 2), (2, 1, 3), "SAME")),
    ((1, 2, 2, 1), (3, 1, "VALID")),  # no position at all
]


@pytest.mark.parametrize("shape, args", ARGS)
@pytest.mark.parametrize("kernel", ["shifted", "separable"])
def test_values_are_those_of_the_reference(kernel, shape, args):
    x = jnp.asarray(np.random.default_rng(0).normal(size=shape), jnp.float32)
    params = _params("max_pool", x, args, dilation=1)
    want = jax.jit(_with("reference", "max_pool", params))(x)
    np.testing.assert_array_equal(jax.jit(_with(kernel, "max_pool", params))(x), want)
    for include in (True, False):
        params = _params("avg_pool", x, args, count_include_pad=include)
        want = jax.jit(_with("reference", "avg_pool", params))(x)
        got = jax.jit(_with(kernel, "avg_pool", params))(x)
        np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("kernel", ["shifted", "separable"])
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.int32, jnp.uint8])
def test_other_dtypes(kernel, dtype):
    x = jnp.asarray(np.random.default_rng(0).normal(size=(1, 6, 6, 2)) * 50, jnp.float32)
    x = x.astype(dtype)
    for name in ("max_pool", "avg_pool"):
        params = _params(name, x, (3, 1, "SAME"), dilation=1)
        want, got = (_with(k, name, params)(x) for k in ("reference", kernel))
        assert got.dtype == want.dtype
        got, want = got.astype(jnp.float32), want.astype(jnp.float32)
        # bfloat16: the reference rounds each partial sum, of up to nine entries.
        slack = float(jnp.finfo(dtype).eps) * 200 if dtype == jnp.bfloat16 else 1e-6
        np.testing.assert_allclose(got, want, rtol=1e-6, atol=slack if name == "avg_pool" else 0)


@pytest.mark.parametrize("kernel", ["shifted", "separable"])
def test_averages_in_low_precision_sum_in_float32(kernel):
    x = jnp.asarray(np.random.default_rng(0).uniform(size=(1, 5, 5, 8)), jnp.bfloat16)
    params = _params("avg_pool", x, (5,))
    got = _with(kernel, "avg_pool", params)(x).astype(jnp.float32)
    want = x.astype(jnp.float32).mean((1, 2), keepdims=True)
    # The rounding of the sum and of the quotient.
    np.testing.assert_allclose(got, want, rtol=2 * float(jnp.finfo(jnp.bfloat16).eps))


def test_avg_behaves_under_every_transformation(agree):
    with jax.enable_x64(True):
        params = _params("avg_pool", jnp.ones((1, 3, 4, 2)), (2, 1, "SAME"))
    plain = _with("reference", "avg_pool", params)
    agree(_with("shifted", "avg_pool", params), plain, (1, 3, 4, 2), batch=False)
    agree(_with("separable", "avg_pool", params), plain, (1, 3, 4, 2), batch=False)


def test_where_they_apply():
    op = nnops.ops["max_pool"]
    x = jnp.ones((1, 16, 16, 1))
    for args, want in (
        ((2,), ("reference", "shifted", "separable")),
        (((1, 3),), ("reference", "shifted")),
        ((13,), ("reference", "separable")),
    ):
        assert op.fitting_kernels([x], _params("max_pool", x, args)) == want
