"""Neural network operations as named JAX primitives.

Each op is one equation in a jaxpr, under the name that people call it by, and behaves under every
JAX transformation as the plain function that defines it.
"""

from jaxpress.nnops import initializers
from jaxpress.nnops.activation_spec import (
    Activation,
    activation_entries,
    activation_names,
    to_activation,
)
from jaxpress.nnops.adaptive_pool import adaptive_avg_pool
from jaxpress.nnops.attention import dot_product_attention
from jaxpress.nnops.attention_masks import (
    causal_mask,
    combine_masks,
    segment_mask,
    sliding_window_mask,
)
from jaxpress.nnops.batch_norm import batch_norm
from jaxpress.nnops.batch_norm_train import batch_norm_train
from jaxpress.nnops.composites import composites
from jaxpress.nnops.conv import conv
from jaxpress.nnops.conv_variants import (
    conv_transpose,
    depthwise_conv,
    separable_conv,
)
from jaxpress.nnops.define import define
from jaxpress.nnops.dense import dense, linear
from jaxpress.nnops.dropout import (
    drop_path,
    dropout,
    stochastic_depth,
)
from jaxpress.nnops.einsum_dense import einsum_dense
from jaxpress.nnops.embedding import attend, embedding
from jaxpress.nnops.errors import OpError, OpTypeError
from jaxpress.nnops.gated import geglu, swiglu
from jaxpress.nnops.global_pool import (
    global_avg_pool,
    global_max_pool,
)
from jaxpress.nnops.group_norm import group_norm, instance_norm
from jaxpress.nnops.gru import gru, gru_cell
from jaxpress.nnops.kv_cache import KVCache, init_kv_cache, kv_cache_attention, kv_cache_update
from jaxpress.nnops.layer_norm import layer_norm
from jaxpress.nnops.layers import (
    GRU,
    LSTM,
    RNN,
    AvgPool,
    BatchNorm,
    Conv,
    ConvTranspose,
    Dense,
    Dropout,
    Embedding,
    GroupNorm,
    InstanceNorm,
    Layer,
    LayerNorm,
    MaxPool,
    MultiHeadAttention,
    RMSNorm,
    Sequential,
    trainable,
)
from jaxpress.nnops.logs import log1mexp, logmeanexp, logsumexp
from jaxpress.nnops.losses import (
    binary_cross_entropy,
    cosine_distance,
    cosine_similarity,
    ctc_loss,
    huber,
    huber_loss,
    kl_divergence,
    mean_absolute_error,
    mean_squared_error,
    sigmoid_binary_cross_entropy,
    softmax_cross_entropy,
)
from jaxpress.nnops.lstm import lstm, lstm_cell
from jaxpress.nnops.multi_head_attention import multi_head_attention
from jaxpress.nnops.normalize import l2_normalize, standardize, weight_standardize
from jaxpress.nnops.one_hot import one_hot
from jaxpress.nnops.opdef import Kernel, OpDef, ops, registry
from jaxpress.nnops.plain import identity, tanh
from jaxpress.nnops.pooling import (
    avg_pool,
    max_pool,
    min_pool,
)
from jaxpress.nnops.prelu import prelu
from jaxpress.nnops.ragged import PackedSequences, pack_sequences, pad_sequences, unpack_sequences
from jaxpress.nnops.rectifiers import (
    hard_sigmoid,
    hard_silu,
    hard_swish,
    hard_tanh,
    leaky_relu,
    relu,
    relu6,
    relu_squared,
    sparse_plus,
    sparse_sigmoid,
)
from jaxpress.nnops.recurrent_convert import recurrent_from, recurrent_to
from jaxpress.nnops.recurrent_stack import bidirectional, recurrent_layers
from jaxpress.nnops.rms_norm import rms_norm
from jaxpress.nnops.rnn import rnn, rnn_cell
from jaxpress.nnops.rotary import rotary_embedding, rotary_tables, sinusoidal_encoding
from jaxpress.nnops.sequence import reverse_sequence, sequence_mask, shift
from jaxpress.nnops.smooth import (
    celu,
    elu,
    gelu,
    log_sigmoid,
    mish,
    quick_gelu,
    selu,
    sigmoid,
    silu,
    soft_sign,
    softplus,
    squareplus,
    swish,
)
from jaxpress.nnops.softmax import glu, log_softmax, softmax

__all__ = [
    "GRU",
    "LSTM",
    "RNN",
    "Activation",
    "AvgPool",
    "BatchNorm",
    "Conv",
    "ConvTranspose",
    "Dense",
    "Dropout",
    "Embedding",
    "GroupNorm",
    "InstanceNorm",
    "KVCache",
    "Kernel",
    "Layer",
    "LayerNorm",
    "MaxPool",
    "MultiHeadAttention",
    "OpDef",
    "OpError",
    "OpTypeError",
    "PackedSequences",
    "RMSNorm",
    "Sequential",
    "activation_entries",
    "activation_names",
    "adaptive_avg_pool",
    "attend",
    "avg_pool",
    "batch_norm",
    "batch_norm_train",
    "bidirectional",
    "binary_cross_entropy",
    "causal_mask",
    "celu",
    "combine_masks",
    "composites",
    "conv",
    "conv_transpose",
    "cosine_distance",
    "cosine_similarity",
    "ctc_loss",
    "define",
    "dense",
    "depthwise_conv",
    "dot_product_attention",
    "drop_path",
    "dropout",
    "einsum_dense",
    "elu",
    "embedding",
    "geglu",
    "gelu",
    "global_avg_pool",
    "global_max_pool",
    "glu",
    "group_norm",
    "gru",
    "gru_cell",
    "hard_sigmoid",
    "hard_silu",
    "hard_swish",
    "hard_tanh",
    "huber",
    "huber_loss",
    "identity",
    "init_kv_cache",
    "initializers",
    "instance_norm",
    "kl_divergence",
    "kv_cache_attention",
    "kv_cache_update",
    "l2_normalize",
    "layer_norm",
    "leaky_relu",
    "linear",
    "log1mexp",
    "log_sigmoid",
    "log_softmax",
    "logmeanexp",
    "logsumexp",
    "lstm",
    "lstm_cell",
    "max_pool",
    "mean_absolute_error",
    "mean_squared_error",
    "min_pool",
    "mish",
    "multi_head_attention",
    "one_hot",
    "ops",
    "pack_sequences",
    "pad_sequences",
    "prelu",
    "quick_gelu",
    "recurrent_from",
    "recurrent_layers",
    "recurrent_to",
    "registry",
    "relu",
    "relu6",
    "relu_squared",
    "reverse_sequence",
    "rms_norm",
    "rnn",
    "rnn_cell",
    "rotary_embedding",
    "rotary_tables",
    "segment_mask",
    "selu",
    "separable_conv",
    "sequence_mask",
    "shift",
    "sigmoid",
    "sigmoid_binary_cross_entropy",
    "silu",
    "sinusoidal_encoding",
    "sliding_window_mask",
    "soft_sign",
    "softmax",
    "softmax_cross_entropy",
    "softplus",
    "sparse_plus",
    "sparse_sigmoid",
    "squareplus",
    "standardize",
    "stochastic_depth",
    "swiglu",
    "swish",
    "tanh",
    "to_activation",
    "trainable",
    "unpack_sequences",
    "weight_standardize",
]
