"""Losses as named ops.

Each gives a loss for every element, of which ``where`` and ``weights`` say which count and how
much, and ``reduction`` what becomes of them: ``"none"``, ``"sum"``, or the mean of what counts.
"""

from jaxpress.nnops.losses.cross_entropy import (
    binary_cross_entropy,
    sigmoid_binary_cross_entropy,
    softmax_cross_entropy,
)
from jaxpress.nnops.losses.ctc import ctc_loss
from jaxpress.nnops.losses.regression import (
    huber,
    huber_loss,
    mean_absolute_error,
    mean_squared_error,
)
from jaxpress.nnops.losses.similarity import cosine_distance, cosine_similarity, kl_divergence

__all__ = [
    "binary_cross_entropy",
    "cosine_distance",
    "cosine_similarity",
    "ctc_loss",
    "huber",
    "huber_loss",
    "kl_divergence",
    "mean_absolute_error",
    "mean_squared_error",
    "sigmoid_binary_cross_entropy",
    "softmax_cross_entropy",
]
