"""The recognition table: framework, then layer, then what the layer must become."""

from __future__ import annotations

from collections.abc import Mapping

from recognition import (
    equinox_layers,
    haiku_layers,
    jax_layers,
    keras_layers,
    linen_layers,
    nnx_layers,
)
from recognition.case import Case

__all__ = ["TABLE"]

TABLE: Mapping[str, Mapping[str, Case]] = {
    "Keras 3": keras_layers.CASES,
    "Flax Linen": linen_layers.CASES,
    "Flax NNX": nnx_layers.CASES,
    "Equinox": equinox_layers.CASES,
    "Haiku": haiku_layers.CASES,
    "plain JAX": jax_layers.CASES,
}
