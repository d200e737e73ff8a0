"""Models of every framework that jaxpress is tested and measured on.

    import zoo

    model = zoo.build("keras_mobilenet_v2", size=96)
    model.fn(*model.args)
    model.param_fn(model.weights, *model.args)

Weights are random with a fixed seed; batch norms have non-trivial statistics, scales and shifts.
A framework is imported when one of its models is built, and not before.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec

from zoo_base import Model

__all__ = ["MODELS", "Model", "Recipe", "available", "build", "names"]

Recipe = tuple[str, str, str, str]
# name -> (framework, the package that it needs, module, function). `size` is the side of the image
# for networks of convolutions, the number of features for mlp, of positions for transformer.
MODELS: dict[str, Recipe] = {
    "keras_mobilenet_v2": ("keras", "keras", "zoo_keras", "mobilenet_v2"),
    "keras_resnet50": ("keras", "keras", "zoo_keras", "resnet50"),
    "keras_efficientnet_b0": ("keras", "keras", "zoo_keras", "efficientnet_b0"),
    "haiku_resnet18": ("haiku", "haiku", "zoo_haiku", "resnet18"),
    "haiku_mobilenet_v1": ("haiku", "haiku", "zoo_haiku", "mobilenet_v1"),
    "linen_cnn": ("linen", "flax", "zoo_flax", "linen_cnn"),
    "nnx_cnn": ("nnx", "flax", "zoo_flax", "nnx_cnn"),
    "equinox_cnn": ("equinox", "equinox", "zoo_equinox", "cnn"),
    "jax_mlp": ("jax", "jax", "zoo_jax", "mlp"),
    "keras_mlp": ("keras", "keras", "zoo_keras", "mlp"),
    "haiku_mlp": ("haiku", "haiku", "zoo_haiku", "mlp"),
    "linen_mlp": ("linen", "flax", "zoo_flax", "linen_mlp"),
    "nnx_mlp": ("nnx", "flax", "zoo_flax", "nnx_mlp"),
    "equinox_mlp": ("equinox", "equinox", "zoo_equinox", "mlp"),
    "jax_transformer": ("jax", "jax", "zoo_jax", "transformer"),
    "keras_transformer": ("keras", "keras", "zoo_keras", "transformer"),
    "haiku_transformer": ("haiku", "haiku", "zoo_haiku", "transformer"),
    "linen_transformer": ("linen", "flax", "zoo_flax", "linen_transformer"),
    "nnx_transformer": ("nnx", "flax", "zoo_flax", "nnx_transformer"),
    "equinox_transformer": ("equinox", "equinox", "zoo_equinox", "transformer"),
}


def names(framework: str | None = None) -> list[str]:
    """Names of the models, those of one framework when it is given."""
    return [name for name, recipe in MODELS.items() if framework in (None, recipe[0])]


def available(name: str) -> bool:
    """Whether the framework of this model is installed."""
    return find_spec(_recipe(name)[1]) is not None


def build(name: str, size: int | None = None, seed: int = 0) -> Model:
    """Builds a model by its name.

    size: see `MODELS`; None for the model's own (images of 224x224).
    Raises ValueError for an unknown name, ImportError where the framework is not installed.
    """
    _, _, module, function = _recipe(name)
    builder: Callable[..., Model] = getattr(import_module(module), function)
    return builder(seed=seed) if size is None else builder(size=size, seed=seed)


def _recipe(name: str) -> Recipe:
    if name not in MODELS:
        raise ValueError(f"there is no model {name!r}; choose one of {', '.join(MODELS)}")
    return MODELS[name]
