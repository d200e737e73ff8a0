"""Keras 3 models on JAX: three of keras.applications, a multilayer perceptron and a transformer."""

from __future__ import annotations

import os
from collections import Counter
from contextlib import contextmanager
from typing import Any
from unittest import mock

import numpy as np
from zoo_base import (
    Model,
    calibration_batch,
    draw,
    fan_in_hwio,
    normal_input,
)


def import_keras(backend: str = "jax"):
    """Imports Keras on this backend. Raises RuntimeError when it is already there on another."""
    os.environ["KERAS_BACKEND"] = backend
    import keras

    if keras.backend.backend() != backend:
        raise RuntimeError(
            f"Keras already runs on {keras.backend.backend()} in this process; "
            f"set KERAS_BACKEND={backend} before anything imports it."
        )
    return keras


def mobilenet_v2(size: int = 224, seed: int = 0) -> Model:
    """MobileNetV2, 1000 classes (Sandler et al. 2018, https://arxiv.org/abs/1801.04381)."""
    return _application("MobileNetV2", "keras_mobilenet_v2", size, seed)


def resnet50(size: int = 224, seed: int = 0) -> Model:
    """ResNet50, 1000 classes (He et al. 2016, https://arxiv.org/abs/1512.03385)."""
    return _application("ResNet50", "keras_resnet50", size, seed)


def efficientnet_b0(size: int = 224, seed: int = 0) -> Model:
    """EfficientNetB0, 1000 classes (Tan and Le 2019, https://arxiv.org/abs/1905.11946)."""
    return _application("EfficientNetB0", "keras_efficientnet_b0", size, seed)


def mlp(size: int = 256, seed: int = 0) -> Model:
    """Four dense layers with gelu, relu and silu between them; `size` input features."""
    keras = import_keras()
    layers = keras.layers
    with _no_initialisers():
        network = keras.Sequential(
            [
                keras.Input((size,)),
                layers.Dense(512, activation="gelu"),
                layers.Dense(512, activation="relu"),
                layers.Dense(512, activation="silu"),
                layers.Dense(10),
            ]
        )
    set_weights(network, seed)
    return _model(network, "keras_mlp", normal_input(seed, (1, size)))


def transformer(size: int = 64, seed: int = 0) -> Model:
    """Two encoder layers, 4 heads, width 128, gelu, norm first; `size` positions."""
    keras = import_keras()
    layers = keras.layers
    with _no_initialisers():
        x = inputs = keras.Input((size, 128))
        for _ in range(2):
            y = layers.LayerNormalization(epsilon=1e-6)(x)
            x = layers.Add()([x, layers.MultiHeadAttention(4, 32)(y, y)])
            y = layers.LayerNormalization(epsilon=1e-6)(x)
            y = layers.Dense(512, activation="gelu")(y)
            x = layers.Add()([x, layers.Dense(128)(y)])
        x = layers.GlobalAveragePooling1D()(layers.LayerNormalization(epsilon=1e-6)(x))
        network = keras.Model(inputs, layers.Dense(10)(x))
    set_weights(network, seed)
    return _model(network, "keras_transformer", normal_input(seed, (1, size, 128)))


APPLICATIONS = {
    "keras_mobilenet_v2": "MobileNetV2",
    "keras_resnet50": "ResNet50",
    "keras_efficientnet_b0": "EfficientNetB0",
}


def network_input(application: str, seed: int, shape: tuple[int, ...]) -> np.ndarray:
    """Random images in the range that the application expects, float32, channels last."""
    rng = np.random.default_rng(seed)
    if application == "EfficientNetB0":  # rescales 0..255 by itself
        return rng.uniform(0.0, 255.0, shape).astype("float32")
    return rng.standard_normal(shape, "float32")


def _application(application: str, name: str, size: int, seed: int) -> Model:
    import jax

    keras = import_keras()
    with _no_initialisers():
        network = getattr(keras.applications, application)(
            weights=None, input_shape=(size, size, 3)
        )
    set_weights(network, seed)
    images = network_input(application, seed, (calibration_batch(size), size, size, 3))
    _calibrate(network, images)
    return _model(network, name, jax.numpy.asarray(images[:1]))


def set_weights(network, seed: int) -> None:
    """Draws every weight of a Keras network, in the order of its layers."""
    keras = import_keras()
    rng = np.random.default_rng(seed)
    head = [layer for layer in all_layers(network) if isinstance(layer, keras.layers.Dense)][-1:]
    roles = {
        "gamma": "scale",
        "beta": "shift",
        "bias": "bias",
        "moving_mean": "mean",
        "moving_variance": "var",
        "mean": "mean",
        "variance": "var",
    }
    for layer in all_layers(network):
        for variable in layer.variables:
            shape = tuple(variable.shape)
            kind = variable.path.split("/")[-1]
            if kind == "kernel":
                role = "head" if layer in head else "kernel"
                depthwise = isinstance(layer, keras.layers.DepthwiseConv2D)
                attention = isinstance(layer, keras.layers.EinsumDense) and len(shape) == 3
                fan_in = (
                    int(np.prod(shape[:2]))
                    if depthwise
                    # (width, heads, depth) in, (heads, depth, width) out
                    else shape[0]
                    if attention and "attention_output" not in variable.path
                    else fan_in_hwio(shape)
                )
                variable.assign(draw(rng, role, shape, fan_in))
            elif kind in roles:
                variable.assign(draw(rng, roles[kind], shape))
        if isinstance(layer, keras.layers.Normalization):
            layer.finalize_state()  # the layer computes with copies of what was just assigned


def all_layers(network) -> list[Any]:
    """Every layer that has no layers of its own, each once, in the network's order."""
    found: dict[int, Any] = {}

    def walk(layer) -> None:
        inner = list(getattr(layer, "layers", ())) or list(getattr(layer, "_layers", ()))
        for child in inner:
            walk(child)
        if not inner:
            found.setdefault(id(layer), layer)

    walk(network)
    return list(found.values())


def count_layers(network) -> dict[str, int]:
    """Counts Keras' own layers: convolutions (depthwise too), dense ones, batch norms."""
    layers = import_keras().layers
    kinds = {
        "n_conv": (
            layers.Conv1D,
            layers.Conv2D,
            layers.Conv3D,
            layers.Conv1DTranspose,
            layers.Conv2DTranspose,
            layers.DepthwiseConv1D,
            layers.DepthwiseConv2D,
        ),
        "n_dense": (layers.Dense, layers.EinsumDense),
        "n_batch_norm": (layers.BatchNormalization,),
    }
    return {
        key: sum(isinstance(layer, classes) for layer in all_layers(network))
        for key, classes in kinds.items()
    }


def count_keras_activations(network) -> dict[str, int]:
    """Counts activations in Keras' own layers, whether a layer or an `activation` argument."""
    layers = import_keras().layers
    found: Counter[str] = Counter()
    for layer in all_layers(network):
        if isinstance(layer, layers.ReLU):
            found["relu" if layer.max_value is None else f"relu{layer.max_value:g}"] += 1
        else:
            name = getattr(getattr(layer, "activation", None), "__name__", "linear")
            if name != "linear":
                found[name] += 1
    return dict(found)


@contextmanager
def _no_initialisers():
    """Zeros in place of random weights while a network is built; `set_weights` draws them after."""
    import jax

    def zeros(key, shape=(), dtype="float32", *args, **kwargs):
        return jax.numpy.asarray(np.zeros(shape, dtype))

    def zeros_truncated(key, lower, upper, shape=(), dtype="float32", **kwargs):
        return jax.numpy.asarray(np.zeros(shape, dtype))

    with mock.patch.multiple(
        jax.random, uniform=zeros, normal=zeros, truncated_normal=zeros_truncated
    ):
        yield


def _calibrate(network, images: np.ndarray) -> None:
    """Sets batch-norm statistics to those of `images`, each layer seeing what the last one made.

    The head's kernel is scaled so that logits vary with a standard deviation of about 2: a softmax
    that has saturated would agree with any other.
    """
    import jax

    keras = import_keras()
    layers = keras.layers
    head = [x for x in all_layers(network) if isinstance(x, layers.Dense)][-1]
    body = keras.Model(network.input, head.input)
    norms = [x for x in all_layers(network) if isinstance(x, layers.BatchNormalization)]
    drops = [x for x in all_layers(network) if isinstance(x, layers.Dropout)]
    momenta = [layer.momentum for layer in norms]
    rates = [layer.rate for layer in drops]
    for layer in norms:
        layer.momentum = 0.0  # statistics after one step are the batch's own
    for layer in drops:
        layer.rate = 0.0
    step = jax.jit(lambda a, b, x: body.stateless_call(a, b, x, training=True))
    features, statistics = step(*_values(body), images)
    for variable, value in zip(body.non_trainable_variables, statistics, strict=True):
        variable.assign(value)
    logits = np.asarray(features) @ np.asarray(head.kernel.value)
    head.kernel.assign(head.kernel.value * (2.0 / logits.std()))
    for layer, momentum in zip(norms, momenta, strict=True):
        layer.momentum = momentum
    for layer, rate in zip(drops, rates, strict=True):
        layer.rate = rate


def _values(network) -> tuple[list[Any], list[Any]]:
    trainable = [variable.value for variable in network.trainable_variables]
    rest = [variable.value for variable in network.non_trainable_variables]
    return trainable, rest


def _model(network, name: str, x) -> Model:
    def param_fn(weights, x):
        outputs, _ = network.stateless_call(weights[0], weights[1], x, training=False)
        return outputs

    return Model(
        name=name,
        framework="keras",
        fn=lambda x: network(x, training=False),
        args=(x,),
        weights=_values(network),
        param_fn=param_fn,
        activations=count_keras_activations(network),
        source=network,
        **count_layers(network),
    )
