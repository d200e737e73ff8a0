"""Haiku models: ResNet18, MobileNetV1, a multilayer perceptron and a transformer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from zoo_base import Model, calibration_batch, count_activations, draw, fan_in_hwio, normal_input


def resnet18(size: int = 224, seed: int = 0) -> Model:
    """hk.nets.ResNet18, 1000 classes (He et al. 2016, https://arxiv.org/abs/1512.03385)."""
    import haiku as hk

    return _convolutional("haiku_resnet18", lambda: hk.nets.ResNet18(1000), size, seed)


def mobilenet_v1(size: int = 224, seed: int = 0) -> Model:
    """hk.nets.MobileNetV1, 1000 classes (Howard et al. 2017, https://arxiv.org/abs/1704.04861)."""
    import haiku as hk

    return _convolutional("haiku_mobilenet_v1", lambda: hk.nets.MobileNetV1(), size, seed)


def mlp(size: int = 256, seed: int = 0) -> Model:
    """Four linear layers with gelu, relu and silu between them; `size` input features."""
    import haiku as hk
    import jax

    def network(x):
        x = jax.nn.gelu(hk.Linear(512)(x), approximate=False)
        x = jax.nn.relu(hk.Linear(512)(x))
        x = jax.nn.silu(hk.Linear(512)(x))
        return hk.Linear(10)(x)

    return _stateless("haiku_mlp", network, normal_input(seed, (1, size)), seed)


def transformer(size: int = 64, seed: int = 0) -> Model:
    """Two encoder layers, 4 heads, width 128, gelu, norm first; `size` positions."""
    import haiku as hk
    import jax

    def norm():
        return hk.LayerNorm(-1, create_scale=True, create_offset=True)

    def network(x):
        for _ in range(2):
            y = norm()(x)
            attention = hk.MultiHeadAttention(
                4, 32, model_size=128, w_init=hk.initializers.VarianceScaling()
            )
            x = x + attention(y, y, y)
            y = jax.nn.gelu(hk.Linear(512)(norm()(x)))
            x = x + hk.Linear(128)(y)
        return hk.Linear(10)(norm()(x).mean(axis=1))

    return _stateless("haiku_transformer", network, normal_input(seed, (1, size, 128)), seed)


def _convolutional(name: str, make: Callable[[], Any], size: int, seed: int) -> Model:
    import haiku as hk
    import jax

    transformed = hk.without_apply_rng(
        hk.transform_with_state(lambda x, is_training: make()(x, is_training))
    )
    x = normal_input(seed, (calibration_batch(size), size, size, 3))
    shapes, counts = _shapes_and_counts(
        lambda: transformed.init(jax.random.PRNGKey(0), x[:1], True)
    )
    params = _draw_params(shapes[0], seed)
    state = jax.tree.map(lambda s: jax.numpy.zeros(s.shape, s.dtype), shapes[1])
    # Haiku's average corrects for its start at zero, so one step gives the batch's own statistics.
    measure = jax.jit(lambda p, s, x: transformed.apply(p, s, x, True)[1])
    weights = (params, measure(params, state, x))

    def param_fn(weights, x):
        return transformed.apply(*weights, x, False)[0]

    return _model(name, param_fn, weights, x[:1], counts)


def _stateless(name: str, network: Callable[..., Any], x, seed: int) -> Model:
    import haiku as hk
    import jax

    transformed = hk.without_apply_rng(hk.transform(network))
    shapes, counts = _shapes_and_counts(lambda: transformed.init(jax.random.PRNGKey(0), x))
    return _model(name, transformed.apply, _draw_params(shapes, seed), x, counts)


def _draw_params(shapes, seed: int):
    """Arrays for Haiku's parameters, by the name that each module gives its own."""
    rng = np.random.default_rng(seed)
    roles = {"b": "bias", "scale": "scale", "offset": "shift"}

    def one(name: str, shape: tuple[int, ...]):
        if name == "w":
            return draw(rng, "kernel", shape, fan_in_hwio(shape))
        return draw(rng, roles[name], shape)

    return {
        module: {name: one(name, leaf.shape) for name, leaf in params.items()}
        for module, params in shapes.items()
    }


def _shapes_and_counts(init: Callable[[], Any]) -> tuple[Any, dict[str, int]]:
    """Shapes of what `init` makes, and how many of Haiku's own layers it calls."""
    import haiku as hk
    import jax

    kinds = {
        "n_conv": (hk.ConvND, hk.ConvNDTranspose, hk.DepthwiseConv2D, hk.DepthwiseConv1D),
        "n_dense": (hk.Linear,),
        "n_batch_norm": (hk.BatchNorm,),
    }
    called: dict[str, set[str]] = {key: set() for key in kinds}

    def note(next_method, args, kwargs, context):
        for key, classes in kinds.items():
            if isinstance(context.module, classes) and context.method_name == "__call__":
                called[key].add(context.module.module_name)
        return next_method(*args, **kwargs)

    def run():
        with hk.intercept_methods(note):
            return init()

    shapes = jax.eval_shape(run)
    return shapes, {key: len(names) for key, names in called.items()}


def _model(name: str, param_fn, weights, x, counts: dict[str, int]) -> Model:
    def fn(x):
        return param_fn(weights, x)

    return Model(
        name=name,
        framework="haiku",
        fn=fn,
        args=(x,),
        weights=weights,
        param_fn=param_fn,
        activations=count_activations(fn, x),
        **counts,
    )
