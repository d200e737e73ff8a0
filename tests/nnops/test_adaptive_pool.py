"""Adaptive average pooling against torch's and Equinox's, sizes that do not divide included."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpress import nnops

CASES = [((7,), 3), ((6,), 3), ((7, 5), (3, 5)), ((8, 6), (4, 1)), ((5, 4, 7), (2, 3, 4))]


def draw(sizes):
    return np.random.default_rng(0).normal(size=(2, 3, *sizes)).astype("float32")


@pytest.mark.parametrize("sizes, out", CASES)
def test_is_torch(sizes, out):
    torch = pytest.importorskip("torch")
    f = getattr(torch.nn.functional, f"adaptive_avg_pool{len(sizes)}d")
    x = draw(sizes)
    want = f(torch.tensor(x), out).numpy()
    last = nnops.adaptive_avg_pool(np.moveaxis(x, 1, -1), out)
    np.testing.assert_allclose(np.moveaxis(last, -1, 1), want, rtol=1e-5, atol=1e-6)
    full = (None, None, *((out,) if isinstance(out, int) else out))
    np.testing.assert_allclose(nnops.adaptive_avg_pool(x, full), want, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("sizes, out", CASES)
def test_is_equinox(sizes, out):
    eqx = pytest.importorskip("equinox")
    pool = eqx.nn.AdaptivePool(out, len(sizes), jnp.mean)
    x = draw(sizes)
    full = (None, None, *((out,) if isinstance(out, int) else out))
    got = nnops.adaptive_avg_pool(x, full, windows="split")
    np.testing.assert_allclose(got, jax.vmap(pool)(x), rtol=1e-5, atol=1e-6)


def by_matrix(x, windows):
    """The middle axis, from 5 to 2, as a product with a matrix."""
    rows = [[1, 1, 1, 0, 0], [0, 0, 0, 1, 1] if windows == "split" else [0, 0, 1, 1, 1]]
    m = jnp.asarray(rows, x.dtype)
    return jnp.einsum("bnc,mn->bmc", x, m / m.sum(1, keepdims=True))


@pytest.mark.parametrize("windows", ["split", "overlapping"])
def test_behaves_under_every_transformation(agree, windows):
    agree(
        lambda x: nnops.adaptive_avg_pool(x, 2, windows=windows),
        lambda x: by_matrix(x, windows),
        (2, 5, 2),
    )


def test_what_is_not_in_a_window_does_not_count():
    x = jnp.zeros((1, 5, 1)).at[0, 2, 0].set(jnp.nan).at[0, 4, 0].set(jnp.inf)
    got = nnops.adaptive_avg_pool(x, 3)  # windows 0:2, 1:4, 3:5
    np.testing.assert_array_equal(got[0, :, 0], [0, np.nan, np.inf])


def test_dtypes():
    x = jnp.arange(6).reshape(1, 6, 1)
    assert nnops.adaptive_avg_pool(x, 2).dtype == jnp.float32
    assert nnops.adaptive_avg_pool(x.astype("bfloat16"), 4).dtype == jnp.bfloat16
    with jax.enable_x64(True):
        y = nnops.adaptive_avg_pool(jnp.ones((1, 5, 1), "float64") / 3, 2)
        assert y.dtype == jnp.float64 and abs(float(y[0, 0, 0]) - 1 / 3) < 1e-16


def test_vmap_keeps_the_op():
    f = jax.vmap(lambda x: nnops.adaptive_avg_pool(x, 2), in_axes=1)
    eqn = jax.make_jaxpr(f)(jnp.ones((2, 6, 5, 3))).eqns[-1]
    assert eqn.primitive is nnops.ops["adaptive_avg_pool"].primitive
    assert eqn.params["output_shape"] == (None, None, 2, None)


@pytest.mark.parametrize(
    "args, words",
    [(((2, 2),), "output_shape is"), ((6,), "5 entries cannot become"), ((0,), "become one of 0")],
)
def test_sizes_that_do_not_fit(args, words):
    with pytest.raises(nnops.OpError, match=words):
        nnops.adaptive_avg_pool(jnp.ones((1, 5, 2)), *args)


def test_other_bad_arguments():
    with pytest.raises(nnops.OpTypeError, match=r"output_shape is 2\.5"):
        nnops.adaptive_avg_pool(jnp.ones((1, 5, 2)), 2.5)
    with pytest.raises(nnops.OpError, match="windows is 'other'"):
        nnops.adaptive_avg_pool(jnp.ones((1, 5, 2)), 2, windows="other")
