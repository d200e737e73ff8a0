"""One-hot encoding against that of jax.nn."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpress import nnops

X = jnp.asarray([[0, 3, -1], [2, 7, 1]])


@pytest.mark.parametrize("axis", [-1, 0, 1, 2, -3])
@pytest.mark.parametrize("dtype", [None, "bfloat16", "int8", "bool"])
def test_values_are_those_of_jax(axis, dtype):
    got, want = (m.one_hot(X, 4, dtype=dtype, axis=axis) for m in (nnops, jax.nn))
    assert got.dtype == want.dtype
    np.testing.assert_array_equal(got.astype(int), want.astype(int))


@pytest.mark.parametrize("x", [X.astype("uint8"), X.astype("float32"), X[0, 0], X[:0]])
def test_indices_of_every_kind(x):
    np.testing.assert_array_equal(nnops.one_hot(x, 4), jax.nn.one_hot(x, 4))
    assert nnops.one_hot(x, 0).shape == (*x.shape, 0)


def test_the_default_dtype_follows_x64():
    assert nnops.one_hot(X, 3).dtype == jnp.float32
    with jax.enable_x64(True):
        assert nnops.one_hot(X, 3).dtype == jnp.float64


def test_vmap_keeps_the_op_and_the_axis():
    f, g = (jax.vmap(lambda x, m=m: m.one_hot(x, 4, axis=0), 1) for m in (nnops, jax.nn))
    np.testing.assert_array_equal(f(X), g(X))
    (eqn,) = (e for e in jax.make_jaxpr(f)(X).eqns if e.primitive.name == "one_hot")
    assert eqn.params == {"num_classes": 4, "dtype": jnp.dtype("float32"), "axis": -2}


def test_it_has_no_gradient():
    f = lambda x: (nnops.one_hot(x, 4) * 2).sum()  # noqa: E731
    np.testing.assert_array_equal(jax.grad(f)(X.astype("float32")), np.zeros(X.shape))
    assert jax.jit(jax.grad(lambda y: (nnops.one_hot(X, 4) * y).sum()))(2.0) == 4.0


def test_a_symbolic_number_of_classes():
    n, c = jax.export.symbolic_shape("n, c")
    f = jax.jit(lambda x, like: nnops.one_hot(x, like.shape[0]))
    exported = jax.export.export(f)(
        jax.ShapeDtypeStruct((n,), jnp.int32), jax.ShapeDtypeStruct((c,), jnp.float32)
    )
    np.testing.assert_array_equal(exported.call(X[0], jnp.ones(4)), jax.nn.one_hot(X[0], 4))


@pytest.mark.parametrize("options", [{"axis": 3}, {"axis": -4}, {"num_classes": -1}])
def test_bad_arguments(options):
    with pytest.raises(nnops.OpError, match="one_hot: "):
        nnops.one_hot(X, **{"num_classes": 3, **options})
    with pytest.raises(TypeError):
        nnops.one_hot(X, 2.5)
