"""What each kind of operation looks like.

The fills are light, so that dark text reads on them and a black-and-white print stays legible;
the hues are those of Okabe and Ito (https://jfly.uni-koeln.de/color/), which people with any
common kind of colour blindness can tell apart. Colour never stands alone: every box is named.
"""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["FAMILIES", "FONT", "INK", "MUTED", "Family", "family_of"]

FONT = "Helvetica,Arial,sans-serif"
INK = "#1b1f24"
MUTED = "#57606a"


class Family(NamedTuple):
    """A kind of operation: how people call it, and the colours of its boxes."""

    label: str
    fill: str
    border: str


FAMILIES: dict[str, Family] = {
    "matmul": Family("convolution, dense", "#cfe4f5", "#0a5c94"),
    "attention": Family("attention, recurrence", "#d6d9f7", "#3d46a8"),
    "norm": Family("normalisation", "#cdeee1", "#007a57"),
    "activation": Family("activation", "#fde3b8", "#a86500"),
    "pool": Family("pooling", "#e6dbf2", "#6f4a9c"),
    "elementwise": Family("elementwise", "#fbf7c9", "#8f8412"),
    "reduce": Family("reduction, sort", "#f7d9e8", "#a5467d"),
    "loss": Family("loss", "#f7d9e8", "#a5467d"),
    "random": Family("random", "#f9d3c3", "#b34700"),
    "control": Family("control flow", "#ffffff", "#24292f"),
    "move": Family("data movement", "#efefef", "#a0a5aa"),
    "weights": Family("computed from weights alone", "#f6f1e7", "#9a8a66"),
    "group": Family("collapsed group", "#ffffff", "#57606a"),
    "other": Family("other", "#ffffff", "#8c959f"),
    "io": Family("input, output", "#ffffff", "#1b1f24"),
}

_OPS = {
    "matmul": "conv conv_general_dilated dense dot_general dot einsum ragged_dot "
    "ragged_dot_general matmul scaled_matmul einsum_dense embedding attend separable_conv",
    "attention": "dot_product_attention attention multi_head_attention rotary_embedding "
    "rotary_tables sinusoidal_encoding lstm lstm_cell gru gru_cell rnn rnn_cell",
    "norm": "batch_norm batch_norm_train layer_norm rms_norm group_norm instance_norm lrn "
    "l2_normalize weight_standardize standardize",
    "activation": "relu relu6 relu_squared elu celu selu gelu quick_gelu silu swish mish "
    "leaky_relu prelu "
    "hard_sigmoid hard_silu hard_swish hard_tanh sigmoid log_sigmoid softplus softmax "
    "log_softmax soft_sign squareplus sparse_plus sparse_sigmoid tanh logistic glu swiglu "
    "geglu identity logsumexp signed_logsumexp logmeanexp log1mexp",
    "pool": "max_pool avg_pool min_pool global_max_pool global_avg_pool adaptive_avg_pool "
    "reduce_window reduce_window_max reduce_window_min "
    "reduce_window_sum select_and_scatter_add select_and_gather_add",
    "loss": "softmax_cross_entropy sigmoid_cross_entropy sigmoid_binary_cross_entropy "
    "squared_error mean_squared_error absolute_error huber huber_loss ctc_loss hinge_loss "
    "kl_divergence cosine_distance cosine_similarity",
    "reduce": "reduce reduce_sum reduce_max reduce_min reduce_prod reduce_and reduce_or "
    "reduce_xor argmax argmin sort top_k cumsum cumprod cummax cummin cumlogsumexp "
    "reduce_precision approx_top_k clamp_norm",
    "random": "random_bits random_seed random_wrap random_unwrap random_fold_in random_split "
    "random_clone random_gamma threefry2x32 rng_bit_generator rng_uniform dropout "
    "stochastic_depth",
    "control": "scan while cond switch fori_loop jit pjit closed_call core_call call remat2 remat "
    "checkpoint custom_jvp_call custom_vjp_call custom_vjp_call_jaxpr shard_map "
    "custom_linear_solve custom_vmap_call custom_root composite pallas_call xla_call "
    "eval_jaxpr call_hi_primitive",
    "move": "reshape broadcast_in_dim transpose squeeze expand_dims convert_element_type copy "
    "copy_p slice dynamic_slice dynamic_update_slice concatenate pad rev gather iota "
    "stop_gradient bitcast_convert_type device_put sharding_constraint split tile "
    "broadcast optimization_barrier pvary unstack stack mesh_cast reduced_vary_cast "
    "sequence_mask reverse_sequence shift one_hot kv_cache_update full get swap addupdate "
    "layout_constraint empty",
    "elementwise": "add add_any sub mul div rem neg sign abs max min pow integer_pow sqrt rsqrt "
    "cbrt square exp exp2 expm1 log log1p log2 sin cos tan asin acos atan atan2 sinh cosh asinh "
    "acosh atanh erf erfc erf_inv lgamma digamma floor ceil round is_finite select_n "
    "where clamp eq ne lt le gt ge and or not xor nextafter shift_left shift_right_logical "
    "shift_right_arithmetic population_count clz real imag complex conj igamma igammac "
    "regularized_incomplete_beta bessel_i0e bessel_i1e polygamma zeta dim_as_value",
}
_FAMILY_OF = {op: family for family, ops in _OPS.items() for op in ops.split()}


def family_of(op: str) -> str:
    """The family of the op named ``op``, a key of ``FAMILIES``; ``"other"`` for an unknown one.

    A picture's colour is a hint to the eye, and nothing is decided by it.

    >>> family_of("conv"), family_of("tanh"), family_of("my_primitive")
    ('matmul', 'activation', 'other')
    """
    if op in _FAMILY_OF:
        return _FAMILY_OF[op]
    if op.startswith(("reduce_", "arg", "cum", "segment_")):
        return "reduce"
    if op.startswith(("random_", "rng_")):
        return "random"
    if op.startswith(("scatter", "gather", "broadcast", "all_", "ppermute", "psum", "pmean")):
        return "move" if not op.startswith(("psum", "pmean")) else "reduce"
    if op.endswith(("_loss", "_cross_entropy", "_error", "_divergence")):
        return "loss"
    return "other"
