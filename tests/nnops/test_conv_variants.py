"""Depthwise, separable, transposed and causal convolutions against lax, Keras, Flax and torch."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from zoo_keras import import_keras

import jaxpress as jp
from jaxpress import nnops


def draw(*shape, seed=0):
    return jnp.asarray(np.random.default_rng([seed, *shape]).normal(size=shape), "float32")


def close(got, want):
    assert got.shape == want.shape
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


X = draw(2, 7, 6, 3)
TRANSPOSED = [
    {},
    {"strides": 2},
    {"strides": (2, 3), "padding": "VALID"},
    {"strides": 2, "padding": "SAME", "dilation": 2},
    {"strides": 2, "padding": ((1, 2), (0, 1))},
]


@pytest.mark.parametrize("options", TRANSPOSED)
@pytest.mark.parametrize("flipped", [False, True])
def test_transposed_is_lax(options, flipped):
    w = draw(3, 2, 4, 3) if flipped else draw(3, 2, 3, 4)
    got = nnops.conv_transpose(X, w, transpose_kernel=flipped, **options)
    strides = np.broadcast_to(options.get("strides", 1), 2).tolist()
    dilation = (options.get("dilation", 1),) * 2
    padding = options.get("padding", "SAME")
    numbers = ("NHWC", "HWIO", "NHWC")
    want = lax.conv_transpose(X, w, strides, padding, dilation, numbers, transpose_kernel=flipped)
    close(got, want)


@pytest.mark.parametrize("padding, output_padding", [(0, 0), (1, 1), ((1, 0), (1, 0))])
def test_transposed_is_torch(padding, output_padding):
    torch = pytest.importorskip("torch")
    x, w, b = draw(2, 3, 5, 4), draw(3, 6, 3, 3), draw(6)
    want = torch.nn.functional.conv_transpose2d(
        *(torch.tensor(np.asarray(v)) for v in (x, w, b)),
        stride=2,
        padding=padding,
        output_padding=output_padding,
    ).numpy()
    pairs = [(2 - p, 2 - p) for p in np.broadcast_to(padding, 2).tolist()]
    got = nnops.conv_transpose(
        x,
        w,
        b,
        strides=2,
        padding=pairs,
        output_padding=output_padding,
        transpose_kernel=True,
        dimension_numbers=("NCHW", "OIHW", "NCHW"),
    )
    close(got, want)


def test_transposed_is_the_transpose():
    w = draw(3, 3, 3, 4)
    back = jax.linear_transpose(lambda x: nnops.conv(x, w, strides=2), jnp.ones((2, 8, 8, 3)))
    y = draw(2, 4, 4, 4)
    close(nnops.conv_transpose(y, w, strides=2, transpose_kernel=True), back(y)[0])


@pytest.mark.parametrize("multiplier", [1, 2])
def test_depthwise_is_keras(multiplier):
    w, b = draw(3, 2, 3, multiplier), draw(3 * multiplier)
    keras = import_keras()

    want = keras.ops.depthwise_conv(X, w, strides=2, padding="same") + b
    got = nnops.depthwise_conv(X, w.reshape(3, 2, 1, -1), b, strides=2)
    close(got, jnp.asarray(want))


def test_separable_is_keras_and_becomes_two_convs():
    keras = import_keras()

    depthwise, pointwise, b = draw(3, 3, 3, 2), draw(1, 1, 6, 5), draw(5)
    want = jax.nn.relu(keras.ops.separable_conv(X, depthwise, pointwise, padding="same") + b)

    def fn(x):
        w = depthwise.reshape(3, 3, 1, 6)
        return nnops.separable_conv(x, w, pointwise, b, activation="relu")

    close(fn(X), jnp.asarray(want))
    graph = jp.trace(fn)(X)
    assert graph.count() == {"reshape": 1, "separable_conv": 1}
    assert jp.passes.raise_ops(graph).count() == {"reshape": 1, "conv": 2}


def test_separable_in_another_layout():
    depthwise, pointwise = draw(3, 1, 3, 3), draw(5, 3, 1, 1)
    numbers = ("NCHW", "OIHW", "NHWC")
    got = nnops.separable_conv(
        jnp.moveaxis(X, -1, 1), depthwise, pointwise, dimension_numbers=numbers
    )
    want = nnops.separable_conv(X, depthwise.transpose(2, 3, 1, 0), pointwise.transpose(2, 3, 1, 0))
    close(got, want)


@pytest.mark.parametrize("dilation", [1, 2])
def test_causal_is_flax_and_sees_no_future(dilation):
    x, w = draw(2, 9, 3), draw(3, 3, 4)
    layer = nn.Conv(4, (3,), padding="CAUSAL", kernel_dilation=dilation, use_bias=False)
    got = nnops.conv(x, w, padding="CAUSAL", dilation=dilation)
    close(got, layer.apply({"params": {"kernel": w}}, x))
    later = nnops.conv(x.at[:, 5:].set(9.0), w, padding="CAUSAL", dilation=dilation)
    np.testing.assert_array_equal(later[:, :5], got[:, :5])
    assert not np.array_equal(later[:, 5], got[:, 5])


@pytest.mark.parametrize("rank", [1, 3])
def test_other_ranks(rank):
    x = draw(1, *(5,) * rank, 2)
    w = draw(*(2,) * rank, 2, 3)
    letters = "DHW"[-rank:]
    numbers = (f"N{letters}C", f"{letters}IO", f"N{letters}C")
    want = lax.conv_transpose(x, w, (2,) * rank, "SAME", dimension_numbers=numbers)
    close(nnops.conv_transpose(x, w, strides=2), want)
    assert nnops.depthwise_conv(x, w[..., :1, :2]).shape == x.shape


def test_bad_arguments():
    w = draw(3, 3, 3, 4)
    with pytest.raises(nnops.OpError, match="pointwise covers more than one position"):
        nnops.separable_conv(X, draw(3, 3, 1, 3), w)
    with pytest.raises(nnops.OpError, match="output_padding is -1"):
        nnops.conv_transpose(X, w, output_padding=-1)
    with pytest.raises(nnops.OpError, match="conv: padding is 'CAUSAL'"):
        nnops.conv_transpose(X, w, padding="CAUSAL")
    with pytest.raises(nnops.OpError, match="3 channels"):
        nnops.depthwise_conv(X, w)
