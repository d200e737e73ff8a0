"""The passes by name, and the pipelines made of them."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

from jaxpress.capture import PassError
from jaxpress.passes.cleanup import (
    eliminate_common_subexpressions,
    eliminate_dead_code,
)
from jaxpress.passes.cleanup import inline as _inline
from jaxpress.passes.constants import fold_constants as _fold_constants
from jaxpress.passes.hoist import hoist as _hoist
from jaxpress.passes.pipeline import Pass, Pipeline
from jaxpress.passes.rule import RuleSet
from jaxpress.passes.rules.algebra import ALGEBRA_RULES
from jaxpress.passes.rules.cleanup import (
    CLEANUP_RULES,
    DROP_RESHAPE,
    DROP_TRANSPOSE,
    RESHAPE_CHAIN,
    TRANSPOSE_TWICE,
)
from jaxpress.passes.rules.cleanup_moves import JOINED_SLICES, SLICE_CHAIN
from jaxpress.passes.rules.fold import FOLD_RULES
from jaxpress.passes.rules.fold_before import FOLD_BEFORE_RULES
from jaxpress.passes.rules.fold_branches import FOLD_BRANCHES
from jaxpress.passes.rules.fold_chain import FOLD_CHAIN_RULES
from jaxpress.passes.rules.fold_joined import FOLD_JOINED
from jaxpress.passes.rules.fold_part import FOLD_PART
from jaxpress.passes.rules.fold_shifted import FOLD_SHIFTED
from jaxpress.passes.rules.fold_split import FOLD_SPLIT_RULES
from jaxpress.passes.rules.fuse import FUSE_RULES
from jaxpress.passes.rules.fuse_heads import FUSE_HEADS_RULES
from jaxpress.passes.rules.fuse_layout import FUSE_LAYOUT_RULES
from jaxpress.passes.rules.fuse_pad import FUSE_PAD_RULES
from jaxpress.passes.rules.fuse_parallel import fuse_parallel as _fuse_parallel
from jaxpress.passes.rules.map_heads import MAP_HEADS
from jaxpress.passes.rules.move_transpose import MOVE_TRANSPOSE
from jaxpress.passes.rules.open_ops import open_rules
from jaxpress.passes.rules.raise_activation import activation_rules, clip_rules
from jaxpress.passes.rules.raise_attention import ATTENTION_RULES
from jaxpress.passes.rules.raise_batch_norm import RAISE_BATCH_NORM
from jaxpress.passes.rules.raise_binary_cross_entropy import STABLE_CROSS_ENTROPY_RULES
from jaxpress.passes.rules.raise_dropout import dropout_rules
from jaxpress.passes.rules.raise_einsum_dense import EINSUM_DENSE_RULES
from jaxpress.passes.rules.raise_embedding import EMBEDDING_RULES
from jaxpress.passes.rules.raise_linear import LINEAR_RULES
from jaxpress.passes.rules.raise_log_softmax import LOG_SOFTMAX_RULES
from jaxpress.passes.rules.raise_loss import LOSS_RULES
from jaxpress.passes.rules.raise_norm import RAISE_NORM
from jaxpress.passes.rules.raise_pool import pool_rules
from jaxpress.passes.rules.raise_recurrent import RECURRENT_RULES
from jaxpress.passes.rules.raise_rotary import ROTARY_RULES
from jaxpress.passes.rules.raise_sequence_mask import RAISE_SEQUENCE_MASK
from jaxpress.passes.rules.raise_softmax import SOFTMAX_RULES
from jaxpress.passes.rules.regular_gather import REGULAR_GATHER
from jaxpress.passes.rules.slice_tidying import SLICE_TIDYING, STACKED_SLICES
from jaxpress.passes.rules.sum_of_products import SUM_OF_PRODUCTS
from jaxpress.passes.select_kernels import select_kernels as _select_kernels

__all__ = [
    "algebra",
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
    "passes_by_name",
    "pipeline_of",
    "raise_clips",
    "raise_ops",
    "select_kernels",
    "simplify",
    "tidy_slices",
    "training",
]


def _raise_rules(ops: Collection[str] | None) -> RuleSet:
    linear = (
        ATTENTION_RULES
        + MAP_HEADS
        + SUM_OF_PRODUCTS
        + LINEAR_RULES
        + EINSUM_DENSE_RULES
        + EMBEDDING_RULES
    )
    norms = RAISE_NORM + RAISE_BATCH_NORM + SOFTMAX_RULES + LOG_SOFTMAX_RULES
    sequences = RECURRENT_RULES + ROTARY_RULES + RAISE_SEQUENCE_MASK
    rest = LOSS_RULES + pool_rules(ops) + norms + dropout_rules(ops) + activation_rules(ops)
    return open_rules(ops) + sequences + linear + rest


def _clip_rules(ops: Collection[str] | None) -> RuleSet:
    if ops is None:
        return clip_rules() + STABLE_CROSS_ENTROPY_RULES
    if not {"max", "clamp", "prelu", "log1p"} & set(ops):
        return RuleSet()
    # With a clip's name known, the activations that are written with it are known too.
    rules = clip_rules(ops) + activation_rules({*ops, "relu", "relu6"})
    return rules + STABLE_CROSS_ENTROPY_RULES if "log1p" in ops else rules


# What becomes of transposes and reshapes once nothing stands between them.
_TIDY = TRANSPOSE_TWICE + DROP_TRANSPOSE + RESHAPE_CHAIN + DROP_RESHAPE

inline = Pass("inline", _inline)
simplify = Pass("simplify", CLEANUP_RULES, "Take out what does nothing or undoes itself.")
cse = Pass("cse", eliminate_common_subexpressions)
dce = Pass("dce", eliminate_dead_code)
raise_ops = Pass(
    "raise_ops", _raise_rules, "Equations become the named ops they are.", makes_rules=True
)
raise_clips = Pass(
    "raise_clips",
    _clip_rules,
    "max(x, 0) becomes relu: other derivative at 0.",
    makes_rules=True,
    after="raise_ops",  # where a max belongs to something larger, such as a softmax or a variance
)
algebra = Pass(
    "algebra",
    # With what tidies the reshapes that sums become.
    ALGEBRA_RULES + REGULAR_GATHER + DROP_RESHAPE + RESHAPE_CHAIN,
    "Roots, powers, sums over one element and regular gathers become cheaper operations.",
    after="raise_ops",
)
fold_batch_norm = Pass(
    "fold_batch_norm",
    # A pad that stands between two convolutions would keep the one from taking in the other.
    FOLD_RULES
    + FOLD_SPLIT_RULES
    + FOLD_BEFORE_RULES
    + FOLD_SHIFTED
    + FOLD_PART
    + FOLD_JOINED
    + STACKED_SLICES
    + FOLD_CHAIN_RULES
    + FOLD_BRANCHES
    + FUSE_PAD_RULES,
    "Known scales and shifts move into the weights.",
    after="raise_ops",
)
fuse_activation = Pass(
    "fuse_activation",
    # What moves out from between two transposes or reshapes leaves them to become one.
    FUSE_RULES + FUSE_PAD_RULES + FUSE_LAYOUT_RULES + MOVE_TRANSPOSE + _TIDY,
    "Bias, residual, activation, padding and transposes move into the ops that they belong to.",
    after=("raise_ops", "fold_batch_norm"),
)
fuse_heads = Pass(
    "fuse_heads",
    # With what tidies the axes that each head had for itself.
    FUSE_HEADS_RULES + _TIDY,
    "Attentions of one head each become one of several heads.",
    after="fuse_activation",
)
fuse_parallel = Pass("fuse_parallel", _fuse_parallel, after="fuse_activation")
tidy_slices = Pass(
    "tidy_slices",
    # Where a stack becomes a reshape, that may stand beside another.
    SLICE_CHAIN + JOINED_SLICES + SLICE_TIDYING + _TIDY,
    "Pieces that are cut or joined again become one slice.",
    after="fuse_parallel",
)
select_kernels = Pass("select_kernels", _select_kernels, after=("raise_ops", "fuse_activation"))
hoist = Pass("hoist", _hoist, after="fold_batch_norm")
fold_constants = Pass("fold_constants", _fold_constants, after=("fold_batch_norm", "hoist"))

cleanup = Pipeline((inline, simplify, cse, dce), "cleanup")

# Safe on anything, gradients and training steps included.
default = Pipeline(
    (
        inline,
        simplify,
        cse,
        raise_ops,
        simplify,
        # An activation that was written twice had two derivative rules; raised, it is one.
        cse,
        algebra,
        fold_batch_norm,
        fuse_activation,
        fuse_heads,
        fuse_parallel,
        tidy_slices,
        hoist,
        select_kernels,
        cse,
        dce,
        fold_constants,
    ),
    "default",
)

# Leaves weights what they are, since each step changes them: nothing is folded into them.
_KNOWN_WEIGHTS = (fold_batch_norm, fuse_parallel, tidy_slices)
training = Pipeline([p for p in default if p not in _KNOWN_WEIGHTS], "training")

# Also assumes that nobody differentiates the result.
inference = Pipeline(
    (*default.passes[:4], raise_clips, *default.passes[4:]),
    "inference",
)

_PASSES = {
    p.name: p
    for p in (
        inline,
        simplify,
        cse,
        dce,
        raise_ops,
        raise_clips,
        algebra,
        fold_batch_norm,
        fuse_activation,
        fuse_heads,
        fuse_parallel,
        hoist,
        select_kernels,
        fold_constants,
        tidy_slices,
    )
}
_PRESETS = {p.name: p for p in (cleanup, default, training, inference)}


def passes_by_name(name: str) -> tuple[Pass, ...]:
    """The pass, or the passes of the preset, of this name.

    Raises:
      PassError: there is none; the message lists them.
    """
    if name in _PRESETS:
        return _PRESETS[name].passes
    if name in _PASSES:
        return (_PASSES[name],)
    raise PassError(
        f"no preset or pass is called {name!r}; presets are {sorted(_PRESETS)}, passes "
        f"{sorted(_PASSES)}"
    )


def pipeline_of(passes: Any) -> Pipeline:
    """What ``optimize(passes=...)`` takes, as a pipeline.

    Args:
      passes: ``None`` for ``default``, a preset's name, a pipeline, a rule or function, or a list
        of passes, rules, names and functions.

    Raises:
      PassError: something in it is unknown.
    """
    if passes is None:
        return default
    if isinstance(passes, Pipeline):
        return passes
    if isinstance(passes, str):
        return Pipeline(passes_by_name(passes), passes)
    if isinstance(passes, RuleSet) or not isinstance(passes, Iterable):
        return Pipeline((passes,))
    return Pipeline(passes)
