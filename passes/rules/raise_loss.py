"""Losses, as optax and Keras write them and as people do by hand."""

from __future__ import annotations

from jaxpress.passes.rule import RuleSet
from jaxpress.passes.rules.raise_binary_cross_entropy import BINARY_CROSS_ENTROPY_RULES
from jaxpress.passes.rules.raise_cross_entropy import CROSS_ENTROPY_RULES
from jaxpress.passes.rules.raise_divergence import DIVERGENCE_RULES
from jaxpress.passes.rules.raise_error_loss import ERROR_LOSS_RULES
from jaxpress.passes.rules.raise_labels import LABEL_RULES
from jaxpress.passes.rules.reduce_loss import REDUCE_LOSS

__all__ = ["LOSS_RULES"]

LOSS_RULES = (
    CROSS_ENTROPY_RULES
    + BINARY_CROSS_ENTROPY_RULES
    + LABEL_RULES
    + ERROR_LOSS_RULES
    + DIVERGENCE_RULES
    + RuleSet((REDUCE_LOSS,))
)
