"""Flax models, Linen and NNX: a small residual network, a perceptron and a transformer of each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from zoo_base import Model, calibration_batch, count_activations, draw, fan_in_hwio, normal_input

# Flax's names for its parameters and statistics.
ROLES = {"bias": "bias", "scale": "scale", "mean": "mean", "var": "var"}


def linen_cnn(size: int = 224, seed: int = 0) -> Model:
    """A residual network with a depthwise separable block, 100 classes, in Flax Linen."""
    import flax.linen as nn
    import jax

    class Residual(nn.Module):
        features: int
        stride: int

        @nn.compact
        def __call__(self, x, train: bool = False):
            def conv(kernel: int, stride: int):
                return nn.Conv(self.features, (kernel, kernel), stride, use_bias=False)

            def norm():
                return nn.BatchNorm(use_running_average=not train, momentum=0.0)

            y = nn.relu(norm()(conv(3, self.stride)(x)))
            y = norm()(conv(3, 1)(y))
            if x.shape != y.shape:
                x = norm()(conv(1, self.stride)(x))
            return nn.relu(x + y)

    class Network(nn.Module):
        @nn.compact
        def __call__(self, x, train: bool = False):
            def norm():
                return nn.BatchNorm(use_running_average=not train, momentum=0.0)

            x = nn.relu(norm()(nn.Conv(32, (3, 3), 2)(x)))  # with a bias
            x = Residual(32, 1)(x, train)
            x = Residual(64, 2)(x, train)
            x = Residual(128, 2)(x, train)
            x = nn.Conv(128, (3, 3), feature_group_count=128, use_bias=False)(x)
            x = nn.relu6(norm()(x))
            x = nn.silu(norm()(nn.Conv(256, (1, 1), use_bias=False)(x)))
            return nn.Dense(100)(x.mean(axis=(1, 2)))

    network = Network()
    x = normal_input(seed, (calibration_batch(size), size, size, 3))
    shapes, counts = _linen_shapes_and_counts(network, x[:1])
    variables = _linen_draw(shapes, seed)
    measure = jax.jit(lambda v, x: network.apply(v, x, True, mutable=["batch_stats"])[1])
    variables = {**variables, **measure(variables, x)}
    return _linen_model("linen_cnn", network, variables, x[:1], counts)


def linen_mlp(size: int = 256, seed: int = 0) -> Model:
    """Four dense layers with gelu, relu and silu between them; `size` input features."""
    import flax.linen as nn

    layers = [nn.Dense(512), nn.gelu, nn.Dense(512), nn.relu, nn.Dense(512), nn.silu, nn.Dense(10)]
    network = nn.Sequential(layers)
    x = normal_input(seed, (1, size))
    shapes, counts = _linen_shapes_and_counts(network, x)
    return _linen_model("linen_mlp", network, _linen_draw(shapes, seed), x, counts)


def linen_transformer(size: int = 64, seed: int = 0) -> Model:
    """Two encoder layers, 4 heads, width 128, gelu, norm first; `size` positions."""
    import flax.linen as nn

    class Network(nn.Module):
        @nn.compact
        def __call__(self, x):
            for _ in range(2):
                x = x + nn.MultiHeadDotProductAttention(4)(nn.LayerNorm()(x))
                x = x + nn.Dense(128)(nn.gelu(nn.Dense(512)(nn.LayerNorm()(x))))
            return nn.Dense(10)(nn.LayerNorm()(x).mean(axis=1))

    network = Network()
    x = normal_input(seed, (1, size, 128))
    shapes, counts = _linen_shapes_and_counts(network, x)
    return _linen_model("linen_transformer", network, _linen_draw(shapes, seed), x, counts)


def nnx_cnn(size: int = 224, seed: int = 0) -> Model:
    """A residual network with a depthwise separable block, 100 classes, in Flax NNX."""
    import jax
    from flax import nnx

    def conv(n_in: int, n_out: int, kernel: int, stride: int = 1, *, rngs, **kwargs):
        kwargs = {"use_bias": False, **kwargs}
        return nnx.Conv(n_in, n_out, (kernel, kernel), stride, rngs=rngs, **kwargs)

    def norm(features: int, rngs):
        return nnx.BatchNorm(features, momentum=0.0, rngs=rngs)

    class Residual(nnx.Module):
        def __init__(self, n_in: int, n_out: int, stride: int, *, rngs):
            self.conv1, self.norm1 = conv(n_in, n_out, 3, stride, rngs=rngs), norm(n_out, rngs)
            self.conv2, self.norm2 = conv(n_out, n_out, 3, rngs=rngs), norm(n_out, rngs)
            self.project = stride > 1 or n_in != n_out
            if self.project:
                self.conv3, self.norm3 = conv(n_in, n_out, 1, stride, rngs=rngs), norm(n_out, rngs)

        def __call__(self, x):
            y = nnx.relu(self.norm1(self.conv1(x)))
            y = self.norm2(self.conv2(y))
            if self.project:
                x = self.norm3(self.conv3(x))
            return nnx.relu(x + y)

    class Network(nnx.Module):
        def __init__(self, rngs):
            self.stem, self.stem_norm = conv(3, 32, 3, 2, use_bias=True, rngs=rngs), norm(32, rngs)
            self.block1 = Residual(32, 32, 1, rngs=rngs)
            self.block2 = Residual(32, 64, 2, rngs=rngs)
            self.block3 = Residual(64, 128, 2, rngs=rngs)
            self.depthwise = conv(128, 128, 3, feature_group_count=128, rngs=rngs)
            self.depthwise_norm = norm(128, rngs)
            self.pointwise, self.pointwise_norm = conv(128, 256, 1, rngs=rngs), norm(256, rngs)
            self.head = nnx.Linear(256, 100, rngs=rngs)

        def __call__(self, x):
            x = nnx.relu(self.stem_norm(self.stem(x)))
            x = self.block3(self.block2(self.block1(x)))
            x = nnx.relu6(self.depthwise_norm(self.depthwise(x)))
            x = nnx.silu(self.pointwise_norm(self.pointwise(x)))
            return self.head(x.mean(axis=(1, 2)))

    x = normal_input(seed, (calibration_batch(size), size, size, 3))
    network = _nnx_network(lambda: Network(nnx.Rngs(0)), seed)
    network.train()
    graphdef, state = nnx.split(network)

    @jax.jit
    def measure(state, x):
        network = nnx.merge(graphdef, state)
        network(x)
        return nnx.state(network)

    nnx.update(network, measure(state, x))
    return _nnx_model("nnx_cnn", network, x[:1])


def nnx_mlp(size: int = 256, seed: int = 0) -> Model:
    """Four dense layers with gelu, relu and silu between them; `size` input features."""
    from flax import nnx

    def make():
        rngs = nnx.Rngs(0)
        return nnx.Sequential(
            nnx.Linear(size, 512, rngs=rngs),
            nnx.gelu,
            nnx.Linear(512, 512, rngs=rngs),
            nnx.relu,
            nnx.Linear(512, 512, rngs=rngs),
            nnx.silu,
            nnx.Linear(512, 10, rngs=rngs),
        )

    return _nnx_model("nnx_mlp", _nnx_network(make, seed), normal_input(seed, (1, size)))


def nnx_transformer(size: int = 64, seed: int = 0) -> Model:
    """Two encoder layers, 4 heads, width 128, gelu, norm first; `size` positions."""
    from flax import nnx

    class Encoder(nnx.Module):
        def __init__(self, rngs):
            self.norm1, self.norm2 = nnx.LayerNorm(128, rngs=rngs), nnx.LayerNorm(128, rngs=rngs)
            self.attention = nnx.MultiHeadAttention(4, 128, decode=False, rngs=rngs)
            self.up = nnx.Linear(128, 512, rngs=rngs)
            self.down = nnx.Linear(512, 128, rngs=rngs)

        def __call__(self, x):
            x = x + self.attention(self.norm1(x))
            return x + self.down(nnx.gelu(self.up(self.norm2(x))))

    class Network(nnx.Module):
        def __init__(self, rngs):
            self.encoder1, self.encoder2 = Encoder(rngs), Encoder(rngs)
            self.norm = nnx.LayerNorm(128, rngs=rngs)
            self.head = nnx.Linear(128, 10, rngs=rngs)

        def __call__(self, x):
            return self.head(self.norm(self.encoder2(self.encoder1(x))).mean(axis=1))

    network = _nnx_network(lambda: Network(nnx.Rngs(0)), seed)
    return _nnx_model("nnx_transformer", network, normal_input(seed, (1, size, 128)))


def _drawn(rng: np.random.Generator, path: tuple[str, ...], shape: tuple[int, ...]):
    """An array for the parameter at this path."""
    name = path[-1]
    if name == "kernel":
        inward = any(part in ("query", "key", "value") for part in path)  # (width, heads, depth)
        return draw(rng, "kernel", shape, shape[0] if inward else fan_in_hwio(shape))
    return draw(rng, ROLES[name], shape)


def _linen_draw(shapes, seed: int):
    import jax

    rng = np.random.default_rng(seed)

    def one(path, leaf):
        return _drawn(rng, tuple(str(key.key) for key in path), leaf.shape)

    return jax.tree_util.tree_map_with_path(one, shapes)


def _linen_shapes_and_counts(network, x) -> tuple[Any, dict[str, int]]:
    """Shapes of the network's variables, and how many of Linen's own layers it calls."""
    import flax.linen as nn
    import jax

    kinds = {
        "n_conv": (nn.Conv, nn.ConvTranspose, nn.ConvLocal),
        "n_dense": (nn.Dense, nn.DenseGeneral),
        "n_batch_norm": (nn.BatchNorm,),
    }
    called: dict[str, set[tuple[str, ...]]] = {key: set() for key in kinds}

    def note(next_method, args, kwargs, context):
        for key, classes in kinds.items():
            if isinstance(context.module, classes) and context.method_name == "__call__":
                called[key].add(tuple(context.module.path))
        return next_method(*args, **kwargs)

    with nn.intercept_methods(note):
        shapes = jax.eval_shape(network.init, jax.random.PRNGKey(0), x)
    return shapes, {key: len(paths) for key, paths in called.items()}


def _linen_model(name: str, network, variables, x, counts: dict[str, int]) -> Model:
    def fn(x):
        return network.apply(variables, x)

    return Model(
        name=name,
        framework="linen",
        fn=fn,
        args=(x,),
        weights=variables,
        param_fn=network.apply,
        activations=count_activations(fn, x),
        source=network,
        **counts,
    )


def _nnx_network(make: Callable[[], Any], seed: int):
    """The network that `make` describes, with weights drawn here, set to run with fixed statistics.

    Random streams are left out of what is drawn: no layer here uses one after it was made.
    """
    import jax
    from flax import nnx

    graphdef, state = nnx.split(nnx.eval_shape(make))
    rng = np.random.default_rng(seed)
    flat = {}
    for path, variable in nnx.to_flat_state(state):
        leaf = variable.get_value()
        if isinstance(variable, nnx.RngState):
            key = jax.random.key(0)
            value = key if leaf.dtype == key.dtype else jax.numpy.zeros(leaf.shape, leaf.dtype)
        else:
            value = _drawn(rng, tuple(str(part) for part in path), leaf.shape)
        flat[path] = variable.replace(value)
    network = nnx.merge(graphdef, nnx.from_flat_state(flat))
    network.eval()
    return network


def _nnx_model(name: str, network, x) -> Model:
    from flax import nnx

    network.eval()
    graphdef, state = nnx.split(network)

    def param_fn(state, x):
        return nnx.merge(graphdef, state)(x)

    kinds = {
        "n_conv": (nnx.Conv, nnx.ConvTranspose),
        "n_dense": (nnx.Linear, nnx.LinearGeneral),
        "n_batch_norm": (nnx.BatchNorm,),
    }
    modules = [module for _, module in nnx.iter_modules(network)]
    return Model(
        name=name,
        framework="nnx",
        fn=lambda x: network(x),
        args=(x,),
        weights=state,
        param_fn=param_fn,
        activations=count_activations(lambda x: network(x), x),
        source=network,
        **{k: sum(isinstance(m, classes) for m in modules) for k, classes in kinds.items()},
    )
