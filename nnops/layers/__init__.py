"""Layers: the named ops bound to their parameters.

Each is a frozen dataclass and a pytree: arrays are its leaves, settings part of its structure. So
``jax.grad`` of a function of a layer is a layer of gradients, ``jax.vmap`` of ``init`` makes many
at once, and an optimiser takes a layer as it takes a dict.
"""

from jaxpress.nnops.layers.attention import MultiHeadAttention
from jaxpress.nnops.layers.chain import AvgPool, Dropout, Function, MaxPool, Sequential
from jaxpress.nnops.layers.layer import Layer, layer, setting, trainable
from jaxpress.nnops.layers.linear import Conv, ConvTranspose, Dense, Embedding
from jaxpress.nnops.layers.norms import BatchNorm, GroupNorm, InstanceNorm, LayerNorm, RMSNorm
from jaxpress.nnops.layers.recurrent import GRU, LSTM, RNN

__all__ = [
    "GRU",
    "LSTM",
    "RNN",
    "AvgPool",
    "BatchNorm",
    "Conv",
    "ConvTranspose",
    "Dense",
    "Dropout",
    "Embedding",
    "Function",
    "GroupNorm",
    "InstanceNorm",
    "Layer",
    "LayerNorm",
    "MaxPool",
    "MultiHeadAttention",
    "RMSNorm",
    "Sequential",
    "layer",
    "setting",
    "trainable",
]
