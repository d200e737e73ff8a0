"""Equinox models, channels first: a residual network, a perceptron and a transformer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from zoo_base import Model, calibration_batch, count_activations, draw, fan_in_oihw, normal_input


def cnn(size: int = 224, seed: int = 0) -> Model:
    """A residual network with a depthwise separable block, 100 classes; images are (3, H, W)."""
    import equinox as eqx
    import jax

    def norm(features: int):
        return eqx.nn.BatchNorm(features, axis_name="batch", mode="batch")

    def conv(n_in: int, n_out: int, kernel: int, stride: int = 1, *, key, **kwargs):
        kwargs = {"use_bias": False, **kwargs}
        return eqx.nn.Conv2d(n_in, n_out, kernel, stride, kernel // 2, key=key, **kwargs)

    class Residual(eqx.Module):
        convs: list[Any]
        norms: list[Any]

        def __init__(self, n_in: int, n_out: int, stride: int, key):
            self.convs = [
                conv(n_in, n_out, 3, stride, key=key),
                conv(n_out, n_out, 3, key=key),
            ]
            if stride > 1 or n_in != n_out:
                self.convs.append(conv(n_in, n_out, 1, stride, key=key))
            self.norms = [norm(n_out) for _ in self.convs]

        def __call__(self, x, state):
            y, state = self.norms[0](self.convs[0](x), state)
            y, state = self.norms[1](self.convs[1](jax.nn.relu(y)), state)
            if len(self.convs) == 3:
                x, state = self.norms[2](self.convs[2](x), state)
            return jax.nn.relu(x + y), state

    class Network(eqx.Module):
        stem: Any
        depthwise: Any
        pointwise: Any
        norms: list[Any]
        blocks: list[Any]
        head: Any

        def __init__(self, key):
            self.stem = conv(3, 32, 3, 2, key=key, use_bias=True)
            self.blocks = [
                Residual(32, 32, 1, key),
                Residual(32, 64, 2, key),
                Residual(64, 128, 2, key),
            ]
            self.depthwise = conv(128, 128, 3, key=key, groups=128)
            self.pointwise = conv(128, 256, 1, key=key)
            self.norms = [norm(32), norm(128), norm(256)]
            self.head = eqx.nn.Linear(256, 100, key=key)

        def __call__(self, x, state):
            x, state = self.norms[0](self.stem(x), state)
            x = jax.nn.relu(x)
            for block in self.blocks:
                x, state = block(x, state)
            x, state = self.norms[1](self.depthwise(x), state)
            x, state = self.norms[2](self.pointwise(jax.nn.relu6(x)), state)
            return self.head(jax.nn.silu(x).mean(axis=(1, 2))), state

    network, state = _drawn(eqx.nn.make_with_state(Network), seed)
    x = normal_input(seed, (calibration_batch(size), 3, size, size))

    # The average corrects for its start at zero, so one step gives the batch's own statistics.
    @eqx.filter_jit
    def measure(network, state, x):
        run = jax.vmap(network, axis_name="batch", in_axes=(0, None), out_axes=(0, None))
        return run(x, state)[1]

    state = measure(network, state, x)
    network = eqx.nn.inference_mode(network)
    run = jax.vmap(
        lambda both, x: both[0](x, both[1])[0], axis_name="batch", in_axes=(None, 0), out_axes=0
    )
    return _model("equinox_cnn", (network, state), run, x[:1])


def mlp(size: int = 256, seed: int = 0) -> Model:
    """Four linear layers with gelu, relu and silu between them; `size` input features."""
    import equinox as eqx
    import jax

    def make(key):
        return eqx.nn.Sequential(
            [
                eqx.nn.Linear(size, 512, key=key),
                eqx.nn.Lambda(jax.nn.gelu),
                eqx.nn.Linear(512, 512, key=key),
                eqx.nn.Lambda(jax.nn.relu),
                eqx.nn.Linear(512, 512, key=key),
                eqx.nn.Lambda(jax.nn.silu),
                eqx.nn.Linear(512, 10, key=key),
            ]
        )

    return _model("equinox_mlp", _drawn(make, seed), _over_batch, normal_input(seed, (1, size)))


def transformer(size: int = 64, seed: int = 0) -> Model:
    """Two encoder layers, 4 heads, width 128, gelu, norm first; `size` positions."""
    import equinox as eqx
    import jax

    class Encoder(eqx.Module):
        attention: Any
        norms: list[Any]
        up: Any
        down: Any

        def __init__(self, key):
            self.attention = eqx.nn.MultiheadAttention(4, 128, key=key)
            self.norms = [eqx.nn.LayerNorm(128), eqx.nn.LayerNorm(128)]
            self.up = eqx.nn.Linear(128, 512, key=key)
            self.down = eqx.nn.Linear(512, 128, key=key)

        def __call__(self, x):
            y = jax.vmap(self.norms[0])(x)
            x = x + self.attention(y, y, y)
            y = jax.nn.gelu(jax.vmap(self.up)(jax.vmap(self.norms[1])(x)))
            return x + jax.vmap(self.down)(y)

    class Network(eqx.Module):
        encoders: list[Any]
        norm: Any
        head: Any

        def __init__(self, key):
            self.encoders = [Encoder(key), Encoder(key)]
            self.norm = eqx.nn.LayerNorm(128)
            self.head = eqx.nn.Linear(128, 10, key=key)

        def __call__(self, x):
            for encoder in self.encoders:
                x = encoder(x)
            return self.head(jax.vmap(self.norm)(x).mean(axis=0))

    x = normal_input(seed, (1, size, 128))
    return _model("equinox_transformer", _drawn(Network, seed), _over_batch, x)


def _over_batch(network, x):
    import jax

    return jax.vmap(network)(x)


def _drawn(make: Callable[..., Any], seed: int):
    """What `make(key)` describes, with weights drawn here; statistics start at zero."""
    import equinox as eqx
    import jax

    rng = np.random.default_rng(seed)

    def one(path, leaf):
        if not isinstance(leaf, jax.ShapeDtypeStruct):
            return leaf
        name = str(getattr(path[-1], "name", ""))
        layer = owners.get(jax.tree_util.keystr(path[:-1]))
        if name == "weight" and isinstance(layer, (eqx.nn.Conv, eqx.nn.Linear)):
            return draw(rng, "kernel", leaf.shape, fan_in_oihw(leaf.shape))
        if name == "weight":
            return draw(rng, "scale", leaf.shape)
        if name == "bias":
            return draw(rng, "bias", leaf.shape)
        return jax.numpy.zeros(leaf.shape, leaf.dtype)

    shapes = eqx.filter_eval_shape(make, jax.random.PRNGKey(0))
    layers = jax.tree_util.tree_leaves_with_path(
        shapes, is_leaf=lambda x: isinstance(x, (eqx.nn.Conv, eqx.nn.Linear))
    )
    owners = {jax.tree_util.keystr(path): layer for path, layer in layers}
    return jax.tree_util.tree_map_with_path(one, shapes)


def _model(name: str, network, run: Callable[..., Any], x) -> Model:
    import equinox as eqx
    import jax

    weights, rest = eqx.partition(network, eqx.is_array)
    kinds = {
        "n_conv": (eqx.nn.Conv, eqx.nn.ConvTranspose),
        "n_dense": (eqx.nn.Linear,),
        "n_batch_norm": (eqx.nn.BatchNorm,),
    }
    every = tuple(c for classes in kinds.values() for c in classes)
    layers = jax.tree.leaves(network, is_leaf=lambda x: isinstance(x, every))

    def fn(x):
        return run(network, x)

    def param_fn(weights, x):
        return run(eqx.combine(weights, rest), x)

    return Model(
        name=name,
        framework="equinox",
        fn=fn,
        args=(x,),
        weights=weights,
        param_fn=param_fn,
        activations=count_activations(fn, x),
        source=network,
        **{k: sum(isinstance(x, classes) for x in layers) for k, classes in kinds.items()},
    )
