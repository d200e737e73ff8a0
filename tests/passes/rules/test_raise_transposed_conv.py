"""Transposed convolutions of every framework become one conv with ``transposed=True``."""

from __future__ import annotations

import equinox as eqx
import flax.linen as nn
import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from zoo_keras import import_keras

from helpers import array, rewritten
from jaxpress import passes

X = array(2, 5, 6, 3)
FIRST = jnp.moveaxis(X, -1, 1)
KEY = jax.random.key(0)


def linen(**options):
    layer = nn.ConvTranspose(4, (3, 3), **options)
    variables = layer.init(KEY, X)
    return lambda x: layer.apply(variables, x)


def keras(**options):
    layer = import_keras().layers.Conv2DTranspose(4, 3, **options)
    layer.build(X.shape)
    return lambda x: layer(x)


def haiku(**options):
    model = hk.without_apply_rng(hk.transform(lambda x: hk.Conv2DTranspose(4, 3, **options)(x)))
    variables = model.init(KEY, X)
    return lambda x: model.apply(variables, x)


def equinox(**options):
    return jax.vmap(eqx.nn.ConvTranspose2d(3, 6, 3, key=KEY, **options))


CASES = {
    "linen same": lambda: (linen(strides=(2, 2)), X),
    "linen valid": lambda: (linen(strides=(2, 3), padding="VALID"), X),
    "linen pairs": lambda: (linen(strides=(2, 2), padding=((1, 2), (0, 1))), X),
    "linen dilated": lambda: (linen(strides=(2, 2), kernel_dilation=(2, 2)), X),
    "linen turned kernel": lambda: (linen(strides=(2, 2), transpose_kernel=True), X),
    "nnx": lambda: (nnx.ConvTranspose(3, 4, (3, 3), strides=(2, 2), rngs=nnx.Rngs(0)), X),
    "keras same": lambda: (keras(strides=2, padding="same"), X),
    "keras valid": lambda: (keras(strides=2), X),
    "keras output padding": lambda: (keras(strides=3, output_padding=1), X),
    "haiku same": lambda: (haiku(stride=2), X),
    "haiku valid": lambda: (haiku(stride=2, padding="VALID"), X),
    "equinox": lambda: (equinox(stride=2), FIRST),
    "equinox padded": lambda: (equinox(stride=2, padding=1, output_padding=1), FIRST),
    "equinox groups": lambda: (equinox(stride=2, padding=1, groups=3), FIRST),
}


@pytest.mark.parametrize("name", CASES)
def test_strides_paddings_and_kernels(name) -> None:
    fn, x = CASES[name]()
    new = rewritten(passes.default, fn, x)[0]
    (node,) = new.find("conv")
    assert node.params["transposed"] and "b" in node.params["operands"]
    got, want = jax.jit(new)(x), jax.jit(fn)(x)
    assert got.shape == want.shape
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


def test_with_a_stride_of_one_it_is_a_convolution() -> None:
    new = rewritten(passes.default, linen(), X)[0]
    assert not new.find("conv")[0].params["transposed"]
    np.testing.assert_allclose(new(X), linen()(X), rtol=1e-5, atol=1e-5)


def test_separable_stays_two_convolutions() -> None:
    layer = import_keras().layers.SeparableConv2D(4, 3, activation="relu")
    layer.build(X.shape)
    new = rewritten(passes.default, lambda x: layer(x), X)[0]
    first, second = new.find("conv")
    assert (first.params["groups"], second.params["groups"]) == (3, 1)
    assert str(second.params["activation"]) == "relu"
    np.testing.assert_allclose(new(X), layer(X), rtol=1e-5, atol=1e-5)
