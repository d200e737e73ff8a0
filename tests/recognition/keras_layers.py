"""Keras 3 on JAX."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from recognition.case import Case, data

__all__ = ["CASES"]

IMAGE = (2, 8, 8, 4)
SEQUENCE = (2, 5, 8)


def filled(layer: Any) -> Any:
    """The layer with weights of which none is zero or one, so that nothing can be left out."""
    rng = np.random.default_rng(0)
    for w in layer.weights:
        if "seed" in w.path:
            continue
        low, high = (0.5, 1.5) if "var" in w.path else (-0.5, 0.5)
        w.assign(rng.uniform(low, high, w.shape))
    return layer


def of(
    make: Callable[[Any], Any], *shapes: tuple[int, ...], **call: Any
) -> Callable[[], tuple[Callable[..., Any], tuple[Any, ...]]]:
    """A layer by ``make(keras.layers)``, called on arrays of these shapes."""

    def build() -> tuple[Callable[..., Any], tuple[Any, ...]]:
        import keras

        xs = tuple(data(*shape, seed=i) for i, shape in enumerate(shapes))
        layer = make(keras.layers)
        layer(*xs, **call)
        filled(layer)
        return lambda *xs: layer(*xs, **call), xs

    return build


def trained(make: Callable[[Any], Any]):
    """A layer as a model is trained: its seeds are an argument, and a result."""

    def build():
        import keras

        x, layer = data(*SEQUENCE), make(keras.layers)
        layer.build(x.shape)
        filled(layer)
        weights, state = (
            [v.value for v in some]
            for some in (layer.trainable_variables, layer.non_trainable_variables)
        )
        return lambda x, state: layer.stateless_call(weights, state, x, training=True), (x, state)

    return build


def sequential(*makes: Callable[[Any], Any], shape: tuple[int, ...] = IMAGE):
    def build():
        import keras

        model = keras.Sequential([m(keras.layers) for m in makes])
        x = data(*shape)
        model(x)
        filled(model)
        return lambda x: model(x, training=False), (x,)

    return build


def block(causal: bool = False):
    """A pre-norm transformer block."""

    def build():
        import keras

        layers = keras.layers
        x = keras.Input(SEQUENCE[1:])
        y = layers.LayerNormalization()(x)
        y = layers.MultiHeadAttention(2, 4)(y, y, use_causal_mask=causal)
        h = layers.Add()([x, y])
        y = layers.LayerNormalization()(h)
        y = layers.Dense(16, activation="gelu")(y)
        y = layers.Dense(8)(y)
        model = filled(keras.Model(x, layers.Add()([h, y])))
        return lambda x: model(x, training=False), (data(*SEQUENCE),)

    return build


def ids_to(make):
    def build():
        import jax.numpy as jnp
        import keras

        ids = jnp.asarray([[1, 2, 0], [3, 4, 4]])
        layer = make(keras.layers)
        layer(ids)
        filled(layer)
        return lambda ids: layer(ids), (ids,)

    return build


def function(name: str, shape: tuple[int, ...] = SEQUENCE, **options: Any):
    def build():
        import keras

        fn = getattr(keras.ops, name)
        return lambda x: fn(x, **options), (data(*shape),)

    return build


SEEDS = {"random_wrap": "the key is made of a seed", "add": "the next seed"}

CASES: dict[str, Case] = {
    "dropout": Case(trained(lambda k: k.Dropout(0.3)), {"dropout": 1}, rest=SEEDS),
    "dropout, broadcast": Case(
        trained(lambda k: k.SpatialDropout1D(0.3)), {"dropout": 1}, rest=SEEDS
    ),
    "dense": Case(of(lambda k: k.Dense(6), (2, 8)), {"dense": 1}),
    "dense, no bias": Case(of(lambda k: k.Dense(6, use_bias=False), (2, 8)), {"dense": 1}),
    "dense, sequence": Case(of(lambda k: k.Dense(6, activation="relu"), SEQUENCE), {"dense": 1}),
    "einsum dense": Case(
        of(lambda k: k.EinsumDense("abc,cde->abde", (None, 2, 4), bias_axes="de"), SEQUENCE),
        {"einsum_dense": 1},
    ),
    "conv": Case(of(lambda k: k.Conv2D(6, 3, activation="relu"), IMAGE), {"conv": 1}),
    "conv 1d, causal": Case(of(lambda k: k.Conv1D(6, 3, padding="causal"), SEQUENCE), {"conv": 1}),
    "conv 3d": Case(of(lambda k: k.Conv3D(6, 2, strides=2), (1, 4, 4, 4, 2)), {"conv": 1}),
    "conv, dilated": Case(of(lambda k: k.Conv2D(6, 3, dilation_rate=2), IMAGE), {"conv": 1}),
    "conv, grouped": Case(of(lambda k: k.Conv2D(6, 3, groups=2), IMAGE), {"conv": 1}),
    "depthwise conv": Case(of(lambda k: k.DepthwiseConv2D(3), IMAGE), {"conv": 1}),
    "separable conv": Case(of(lambda k: k.SeparableConv2D(6, 3), IMAGE), {"conv": 2}),
    "transposed conv": Case(
        of(lambda k: k.Conv2DTranspose(6, 3, strides=2, padding="same"), IMAGE), {"conv": 1}
    ),
    "conv, batch norm, relu": Case(
        sequential(
            lambda k: k.Conv2D(6, 3, use_bias=False),
            lambda k: k.BatchNormalization(),
            lambda k: k.ReLU(),
        ),
        {"conv": 1},
    ),
    "batch norm": Case(
        of(lambda k: k.BatchNormalization(), IMAGE, training=False), {"batch_norm": 1}
    ),
    "layer norm": Case(of(lambda k: k.LayerNormalization(), SEQUENCE), {"layer_norm": 1}),
    "rms norm": Case(of(lambda k: k.RMSNormalization(), SEQUENCE), {"rms_norm": 1}),
    "group norm": Case(of(lambda k: k.GroupNormalization(2), IMAGE), {"group_norm": 1}),
    "max pool": Case(of(lambda k: k.MaxPooling2D(2), IMAGE), {"max_pool": 1}),
    "avg pool": Case(of(lambda k: k.AveragePooling2D(2), IMAGE), {"avg_pool": 1}),
    "avg pool, same": Case(
        of(lambda k: k.AveragePooling2D(3, 1, padding="same"), IMAGE), {"avg_pool": 1}
    ),
    "global avg pool": Case(
        of(lambda k: k.GlobalAveragePooling2D(), IMAGE), {"global_avg_pool": 1}, moves=True
    ),
    "global max pool": Case(
        of(lambda k: k.GlobalMaxPooling2D(), IMAGE), {"global_max_pool": 1}, moves=True
    ),
    "embedding": Case(ids_to(lambda k: k.Embedding(7, 4)), {"embedding": 1}),
    "softmax": Case(of(lambda k: k.Softmax(), SEQUENCE), {"softmax": 1}),
    "log softmax": Case(function("log_softmax"), {"log_softmax": 1}),
    "gelu": Case(of(lambda k: k.Activation("gelu"), SEQUENCE), {"gelu": 1}),
    "silu": Case(of(lambda k: k.Activation("silu"), SEQUENCE), {"silu": 1}),
    "leaky relu": Case(of(lambda k: k.LeakyReLU(), SEQUENCE), {"leaky_relu": 1}),
    "attention": Case(
        of(lambda k: k.MultiHeadAttention(2, 4), SEQUENCE, SEQUENCE),
        {"einsum_dense": 3, "dot_product_attention": 1},
        moves=True,
    ),
    "attention, self": Case(
        lambda: _self_attention(False), {"einsum_dense": 2, "dot_product_attention": 1}, moves=True
    ),
    "attention, causal": Case(
        lambda: _self_attention(True), {"einsum_dense": 2, "dot_product_attention": 1}, moves=True
    ),
    "attention, dropout and padding": Case(
        lambda: _padded_attention(),
        {"embedding": 1, "einsum_dense": 2, "dot_product_attention": 1},
        moves=True,
        rest={"ne": "the padding's mask", "and": "the padding's mask"},
    ),
    "attention, two axes": Case(
        of(lambda k: k.MultiHeadAttention(2, 4), (2, 2, 3, 8), (2, 2, 3, 8)),
        {"einsum_dense": 3, "dot_product_attention": 1},
        moves=True,
    ),
    "lstm": Case(of(lambda k: k.LSTM(4, return_sequences=True), SEQUENCE), {"lstm": 1}, moves=True),
    "gru": Case(of(lambda k: k.GRU(4), SEQUENCE), {"gru": 1}, moves=True),
    "simple rnn": Case(of(lambda k: k.SimpleRNN(4), SEQUENCE), {"rnn": 1}, moves=True),
    "transformer block": Case(
        block(),
        {"layer_norm": 2, "einsum_dense": 2, "dot_product_attention": 1, "dense": 2},
        moves=True,
    ),
}


def _self_attention(causal: bool):
    import keras

    layer = keras.layers.MultiHeadAttention(2, 4)
    x = data(*SEQUENCE)
    layer(x, x)
    filled(layer)
    return lambda x: layer(x, x, use_causal_mask=causal), (x,)


def _padded_attention():
    """Weights of padding are set to 0 after the softmax, where the layer has dropout."""
    import jax.numpy as jnp
    import keras

    ids = keras.Input((3,), dtype="int32")
    x = keras.layers.Embedding(7, 8, mask_zero=True)(ids)
    y = keras.layers.MultiHeadAttention(2, 4, dropout=0.1)(x, x, use_causal_mask=True)
    model = filled(keras.Model(ids, y))
    return lambda ids: model(ids, training=False), (jnp.asarray([[1, 2, 0], [3, 4, 4]]),)
