"""Plain JAX models, functions of a dictionary of arrays: a perceptron and a transformer."""

from __future__ import annotations

from itertools import pairwise

import jax
import numpy as np
from zoo_base import Model, count_activations, draw, normal_input


def mlp(size: int = 256, seed: int = 0) -> Model:
    """Four dense layers with gelu, relu and silu between them; `size` input features."""
    rng = np.random.default_rng(seed)
    widths = [size, 512, 512, 512, 10]
    weights = {f"dense_{i}": _dense_weights(rng, *pair) for i, pair in enumerate(pairwise(widths))}

    def param_fn(weights, x):
        for i, activation in enumerate([jax.nn.gelu, jax.nn.relu, jax.nn.silu]):
            x = activation(_dense(weights[f"dense_{i}"], x))
        return _dense(weights["dense_3"], x)

    return _model("jax_mlp", param_fn, weights, normal_input(seed, (1, size)))


def transformer(size: int = 64, seed: int = 0) -> Model:
    """Two encoder layers, 4 heads, width 128, gelu, norm first; `size` positions."""
    rng = np.random.default_rng(seed)

    def encoder_weights():
        sizes = {"qkv": (128, 384), "out": (128, 128), "up": (128, 512), "down": (512, 128)}
        dense = {f"dense_{name}": _dense_weights(rng, *size) for name, size in sizes.items()}
        return {**dense, "norm1": _norm_weights(rng), "norm2": _norm_weights(rng)}

    weights = {
        "encoders": [encoder_weights(), encoder_weights()],
        "norm": _norm_weights(rng),
        "dense_head": _dense_weights(rng, 128, 10),
    }

    def encoder(weights, x):
        y = _dense(weights["dense_qkv"], _layer_norm(weights["norm1"], x))
        q, k, v = jax.numpy.moveaxis(y.reshape(*y.shape[:-1], 3, 4, 32), -3, 0)
        y = jax.nn.dot_product_attention(q, k, v).reshape(x.shape)
        x = x + _dense(weights["dense_out"], y)
        y = jax.nn.gelu(_dense(weights["dense_up"], _layer_norm(weights["norm2"], x)))
        return x + _dense(weights["dense_down"], y)

    def param_fn(weights, x):
        for one in weights["encoders"]:
            x = encoder(one, x)
        return _dense(weights["dense_head"], _layer_norm(weights["norm"], x).mean(axis=1))

    return _model("jax_transformer", param_fn, weights, normal_input(seed, (1, size, 128)))


def _dense_weights(rng: np.random.Generator, n_in: int, n_out: int):
    return {"w": draw(rng, "kernel", (n_in, n_out), n_in), "b": draw(rng, "bias", (n_out,))}


def _norm_weights(rng: np.random.Generator):
    return {"scale": draw(rng, "scale", (128,)), "shift": draw(rng, "shift", (128,))}


def _dense(weights, x):
    return x @ weights["w"] + weights["b"]


def _layer_norm(weights, x, epsilon: float = 1e-6):
    mean = x.mean(axis=-1, keepdims=True)
    var = ((x - mean) ** 2).mean(axis=-1, keepdims=True)
    return (x - mean) * jax.lax.rsqrt(var + epsilon) * weights["scale"] + weights["shift"]


def _model(name: str, param_fn, weights, x) -> Model:
    def fn(x):
        return param_fn(weights, x)

    def is_layer(x) -> bool:
        return isinstance(x, dict) and "w" in x

    return Model(
        name=name,
        framework="jax",
        fn=fn,
        args=(x,),
        weights=weights,
        param_fn=param_fn,
        n_conv=0,
        n_dense=sum(is_layer(x) for x in jax.tree.leaves(weights, is_leaf=is_layer)),
        n_batch_norm=0,
        activations=count_activations(fn, x),
    )
