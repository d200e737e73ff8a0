"""Batch normalisation by running statistics against its formula."""

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jaxpress import nnops


def _operands(shape=(2, 3, 4), features=4, dtype=np.float32):
    rng = np.random.default_rng(0)
    stats = [rng.normal(size=features), rng.uniform(0.1, 2, size=features)]
    affine = [rng.normal(size=features), rng.normal(size=features)]
    return [np.asarray(v, dtype) for v in (rng.normal(size=shape), *stats, *affine)]


def _plain(x, mean, var, scale=None, bias=None, axis=-1, epsilon=1e-5):
    axis %= x.ndim
    mean, var, scale, bias = (
        None if v is None else jnp.expand_dims(v, [i for i in range(x.ndim) if i != axis])
        for v in (mean, var, scale, bias)
    )
    y = (x - mean) / jnp.sqrt(var + epsilon)
    y = y if scale is None else y * scale
    return y if bias is None else y + bias


@pytest.mark.parametrize("with_scale", [True, False])
@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize("axis", [-1, 1, 0])
def test_values_against_float64(with_scale, with_bias, axis):
    shape = [2, 3, 5]
    shape[axis] = 4
    x, mean, var, scale, bias = _operands(tuple(shape))
    rest = (scale if with_scale else None, bias if with_bias else None)
    got = nnops.batch_norm(x, mean, var, *rest, axis=axis, epsilon=1e-3)
    with jax.enable_x64(True):
        wide = [None if v is None else jnp.asarray(v, jnp.float64) for v in (x, mean, var, *rest)]
        want = _plain(*wide, axis=axis, epsilon=1e-3)
    assert got.dtype == jnp.float32
    np.testing.assert_allclose(got, want, rtol=3e-6, atol=3e-6)


def _positive(rng, shape):
    return rng.uniform(1.5, 2.5, size=shape)


def test_behaves_under_every_transformation(agree):
    agree(nnops.batch_norm, _plain, (2, 3), (3,), (3,), (3,), (3,), draw=_positive, batch=False)
    agree(
        lambda x, mean, var, bias: nnops.batch_norm(x, mean, var, bias=bias, axis=0),
        lambda x, mean, var, bias: _plain(x, mean, var, bias=bias, axis=0),
        (3, 2),
        (3,),
        (3,),
        (3,),
        draw=_positive,
    )


@pytest.mark.parametrize(
    "types, result",
    [
        ([jnp.bfloat16] * 5, jnp.bfloat16),
        ([jnp.bfloat16] + [jnp.float32] * 4, jnp.float32),
        ([jnp.int32] + [jnp.float32] * 4, jnp.float32),
    ],
)
def test_dtypes_promote_and_low_precision_is_computed_in_float32(types, result):
    operands = [jnp.asarray(v).astype(t) for v, t in zip(_operands(), types, strict=True)]
    got = nnops.batch_norm(*operands)
    assert got.dtype == result
    want = _plain(*(v.astype(jnp.float32) for v in operands))
    tolerance = float(jnp.finfo(result).eps) * 8
    np.testing.assert_allclose(got.astype(jnp.float32), want, rtol=tolerance, atol=tolerance)


def test_parameters_and_vmap():
    x, mean, var, scale, _ = _operands((2, 4, 3), 4)
    f = lambda x: nnops.batch_norm(x, mean, var, scale, axis=1)  # noqa: E731
    eqn = jax.make_jaxpr(f)(x).eqns[-1]
    params = {"axis": -2, "epsilon": 1e-5, "operands": ("x", "mean", "var", "scale")}
    assert eqn.params == params
    eqn = jax.make_jaxpr(jax.vmap(f, in_axes=3))(np.ones((2, 4, 3, 6))).eqns[-1]
    assert eqn.params == params
    assert eqn.outvars[0].aval.shape == (6, 2, 4, 3)


def test_the_order_of_operations_is_stated_once():
    # Rules that fold batch norm lean on it: (x - mean) * (rsqrt(var + epsilon) * scale) + bias.
    x, mean, var, scale, bias = map(jnp.asarray, _operands())
    want = (x - mean) * (lax.rsqrt(var + 1e-5) * scale) + bias
    with jax.disable_jit():
        np.testing.assert_array_equal(nnops.batch_norm(x, mean, var, scale, bias), want)


@pytest.mark.parametrize(
    "change, words",
    [
        ({"mean": np.ones(1)}, "mean has shape (1,), and x has 4 features on axis -1"),
        ({"var": np.ones((1, 4))}, "var has shape (1, 4)"),
        ({"scale": np.ones(())}, "scale has shape ()"),
        ({"axis": 3}, "axis is 3"),
        ({"axis": 1}, "mean has shape (4,), and x has 3 features on axis -2"),
        ({"mean": None}, "operands ['mean'] are missing"),
        ({"x": None}, "x is missing"),
    ],
)
def test_operands_that_do_not_fit(change, words):
    given = dict(zip(("x", "mean", "var", "scale", "bias"), _operands(), strict=True))
    with pytest.raises(nnops.OpError) as caught:
        nnops.batch_norm(**{**given, **change})
    assert str(caught.value).startswith("batch_norm: ")
    assert words in str(caught.value)


def test_a_traced_epsilon_is_refused():
    x, mean, var, *_ = _operands()
    with pytest.raises(nnops.OpTypeError, match="epsilon"):
        jax.jit(lambda e: nnops.batch_norm(x, mean, var, epsilon=e))(1e-3)


def test_export_with_a_symbolic_batch():
    (n,) = jax.export.symbolic_shape("n")
    x, *rest = _operands()
    f = jax.jit(lambda x: nnops.batch_norm(x, *rest))
    exported = jax.export.export(f)(jax.ShapeDtypeStruct((n, *x.shape[1:]), x.dtype))
    np.testing.assert_array_equal(exported.call(x), f(x))
