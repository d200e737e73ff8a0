"""Graph -> Graph: the rule engine, the rules, the passes and the pipelines."""

from jaxpress.passes import pattern
from jaxpress.passes.body import body
from jaxpress.passes.dropout import insert_dropout, remove_dropout
from jaxpress.passes.engine import rewrite
from jaxpress.passes.insert_attention_mask import insert_attention_mask
from jaxpress.passes.outputs import outputs
from jaxpress.passes.pattern import any_of, any_value, op, optional, repeated, scalar, through
from jaxpress.passes.pipeline import Pass, Pipeline
from jaxpress.passes.presets import (
    algebra,
    cleanup,
    cse,
    dce,
    default,
    fold_batch_norm,
    fold_constants,
    fuse_activation,
    fuse_heads,
    fuse_parallel,
    hoist,
    inference,
    inline,
    pipeline_of,
    raise_clips,
    raise_ops,
    select_kernels,
    simplify,
    tidy_slices,
    training,
)
from jaxpress.passes.pruning import magnitude_mask
from jaxpress.passes.record import Report, Rewrite, Step
from jaxpress.passes.rule import Match, Rule, RuleSet
from jaxpress.passes.traced import traced
from jaxpress.passes.weight_masks import insert_weight_masks, maskable_weights
from jaxpress.passes.why_not import WhyNot

__all__ = [
    "Match",
    "Pass",
    "Pipeline",
    "Report",
    "Rewrite",
    "Rule",
    "RuleSet",
    "Step",
    "WhyNot",
    "algebra",
    "any_of",
    "any_value",
    "body",
    "cleanup",
    "cse",
    "dce",
    "default",
    "fold_batch_norm",
    "fold_constants",
    "fuse_activation",
    "fuse_heads",
    "fuse_parallel",
    "hoist",
    "inference",
    "inline",
    "insert_attention_mask",
    "insert_dropout",
    "insert_weight_masks",
    "magnitude_mask",
    "maskable_weights",
    "op",
    "optional",
    "outputs",
    "pattern",
    "pipeline_of",
    "raise_clips",
    "raise_ops",
    "remove_dropout",
    "repeated",
    "rewrite",
    "scalar",
    "select_kernels",
    "simplify",
    "through",
    "tidy_slices",
    "traced",
    "training",
]
