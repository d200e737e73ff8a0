"""Global pooling against jnp, Keras' layers and torch, in any layout."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpress import nnops

OPS = {"global_avg_pool": jnp.mean, "global_max_pool": jnp.max}
X = jnp.asarray(np.random.default_rng(0).normal(size=(2, 4, 5, 3)), "float32")


@pytest.mark.parametrize("name", OPS)
@pytest.mark.parametrize("axis", [None, 1, (2, 3), (-1, 0)])
@pytest.mark.parametrize("keepdims", [False, True])
def test_values_are_those_of_jnp(name, axis, keepdims):
    for dtype in ("float32", "bfloat16"):
        x = X.astype(dtype)
        got = getattr(nnops, name)(x, axis, keepdims=keepdims)
        want = jax.jit(lambda x: OPS[name](x, axis or (1, 2), keepdims=keepdims))(x)
        assert got.dtype == want.dtype
        np.testing.assert_array_equal(got.astype("float32"), want.astype("float32"))


def test_is_torch_with_channels_first():
    torch = pytest.importorskip("torch")
    x = np.asarray(X)
    want = torch.nn.functional.adaptive_avg_pool2d(torch.tensor(x), 1).numpy()
    got = nnops.global_avg_pool(x, (2, 3), keepdims=True)
    np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-7)
    want = torch.nn.functional.adaptive_max_pool2d(torch.tensor(x), 1).numpy()
    np.testing.assert_array_equal(nnops.global_max_pool(x, (2, 3), keepdims=True), want)


@pytest.mark.parametrize("name", OPS)
def test_behaves_under_every_transformation(agree, name):
    agree(lambda x: getattr(nnops, name)(x), lambda x: OPS[name](x, (1, 2)), (2, 2, 3, 2))


@pytest.mark.parametrize("name", OPS)
def test_other_ranks_dtypes_and_ties(name):
    f, plain = getattr(nnops, name), OPS[name]
    np.testing.assert_allclose(f(X[0]), plain(X[0], 1), rtol=1e-6)
    ints = jnp.arange(12).reshape(1, 4, 3)
    assert f(ints).dtype == plain(ints, 1).dtype
    ties = jnp.ones((1, 3, 2))
    got = jax.grad(lambda x: f(x).sum())(ties)
    np.testing.assert_array_equal(got, jax.grad(lambda x: plain(x, 1).sum())(ties))


@pytest.mark.parametrize("name", OPS)
def test_vmap_keeps_the_op_and_axes_count_from_the_end(name):
    f = jax.vmap(lambda x: getattr(nnops, name)(x), in_axes=1)
    eqn = jax.make_jaxpr(f)(jnp.ones((2, 6, 4, 5, 3))).eqns[-1]
    assert eqn.primitive is nnops.ops[name].primitive
    assert eqn.params == {"axis": (-3, -2), "keepdims": False}


@pytest.mark.parametrize("name", OPS)
def test_bad_axes(name):
    with pytest.raises(nnops.OpError, match=f"{name}: x has 2 dimensions"):
        getattr(nnops, name)(jnp.ones((2, 3)))
    with pytest.raises(nnops.OpError, match=f"{name}: axis is 4"):
        getattr(nnops, name)(X, 4)
