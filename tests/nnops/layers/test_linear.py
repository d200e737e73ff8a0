"""Dense, convolution and embedding layers against those of Flax, with the same parameters."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen

from jaxpress import nnops

KEY = jax.random.key(0)
X = jax.random.normal(KEY, (2, 6, 5, 4))


def test_dense():
    ours = nnops.Dense.init(KEY, 4, 3, bias_init=nnops.initializers.normal(1.0))
    theirs = linen.Dense(3).apply({"params": {"kernel": ours.w, "bias": ours.b}}, X)
    np.testing.assert_allclose(ours(X), theirs, rtol=1e-5, atol=1e-6)
    assert nnops.Dense.init(KEY, 4, 3, use_bias=False).b is None
    residual = jnp.ones((2, 6, 5, 3))
    np.testing.assert_allclose(ours(X, residual), theirs + 1, rtol=1e-5, atol=1e-6)
    half = nnops.Dense.init(KEY, 4, 3, dtype=jnp.bfloat16)
    assert half.w.dtype == half.b.dtype == jnp.bfloat16
    assert abs(ours.w.std() - 0.5) < 0.25  # lecun: the square root of 1 / 4


@pytest.mark.parametrize(
    "settings",
    [
        {"strides": 2, "padding": "VALID"},
        {"dilation": (1, 2), "use_bias": False},
        {"groups": 2, "padding": [(1, 0), (2, 1)]},
    ],
)
def test_conv(settings):
    ours = nnops.Conv.init(KEY, 4, 6, (3, 2), **settings)
    names = {"dilation": "kernel_dilation", "groups": "feature_group_count"}
    theirs = linen.Conv(6, (3, 2), **{names.get(k, k): v for k, v in settings.items()})
    params = {"kernel": ours.w} | ({} if ours.b is None else {"bias": ours.b})
    want = theirs.apply({"params": params}, X)
    np.testing.assert_allclose(ours(X), want, rtol=1e-5, atol=1e-6)


def test_conv_in_another_layout():
    numbers = ("NCHW", "OIHW", "NCHW")
    ours = nnops.Conv.init(KEY, 4, 6, (3, 2), dimension_numbers=numbers)
    assert ours.w.shape == (6, 4, 3, 2)
    channels_last = nnops.Conv.init(KEY, 4, 6, (3, 2))
    got = jnp.moveaxis(ours(jnp.moveaxis(X, -1, 1)), 1, -1)
    np.testing.assert_allclose(got, channels_last(X), rtol=1e-5, atol=1e-6)


def test_transposed_conv():
    ours = nnops.Conv.init(KEY, 4, 6, (3, 2), strides=(2, 2), transposed=True)
    theirs = linen.ConvTranspose(6, (3, 2), strides=(2, 2))
    want = theirs.apply({"params": {"kernel": ours.w, "bias": ours.b}}, X)
    np.testing.assert_allclose(ours(X), want, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("turned", [False, True])
def test_conv_transpose(turned):
    settings = {"strides": (2, 1), "padding": "VALID"}
    drawn = nnops.initializers.normal(1.0)
    ours = nnops.ConvTranspose.init(
        KEY, 4, 6, (3, 2), bias_init=drawn, transpose_kernel=turned, **settings
    )
    theirs = linen.ConvTranspose(6, (3, 2), transpose_kernel=turned, **settings)
    want = theirs.apply({"params": {"kernel": ours.w, "bias": ours.b}}, X)
    np.testing.assert_allclose(ours(X), want, rtol=1e-5, atol=1e-5)
    first = nnops.ConvTranspose.init(
        *(KEY, 4, 6, (3, 2)),
        bias_init=drawn,
        transpose_kernel=turned,
        dimension_numbers=("NCHW", "OIHW", "NCHW"),
        **settings,
    )
    got = jnp.moveaxis(first(jnp.moveaxis(X, -1, 1)), 1, -1)
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)
    with pytest.raises(nnops.OpError, match=r"ConvTranspose.*kernel_size is 3"):
        nnops.ConvTranspose.init(KEY, 4, 6, 3)


def test_embedding():
    ours = nnops.Embedding.init(KEY, 50, 16)
    theirs = linen.Embed(50, 16)
    params, ids = {"params": {"embedding": ours.table}}, jnp.array([[0, 49], [3, 3]])
    np.testing.assert_array_equal(ours(ids), theirs.apply(params, ids))
    x = ours(ids)
    want = theirs.apply(params, x, method="attend")
    np.testing.assert_allclose(ours.attend(x), want, rtol=1e-5)
    assert abs(ours.table.std() - 0.25) < 0.02
    assert np.isnan(ours(jnp.array([50]))).all()
    assert (nnops.Embedding(ours.table, mode="clip")(jnp.array([50])) == ours.table[49]).all()
