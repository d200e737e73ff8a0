"""Neural network operations as named JAX primitives.

Each op is one equation in a jaxpr, under the name that people call it by, and behaves under every
JAX transformation as the plain function that defines it.
"""

from jaxpress.nnops.activation_spec import (
    Activation,
    activation_entries,
    activation_names,
    to_activation,
)
from jaxpress.nnops.adaptive_pool import adaptive_avg_pool
from jaxpress.nnops.batch_norm import batch_norm
from jaxpress.nnops.conv import conv
from jaxpress.nnops.conv_variants import (
    conv_transpose,
    depthwise_conv,
    separable_conv,
)
from jaxpress.nnops.define import define
from jaxpress.nnops.dense import dense
from jaxpress.nnops.errors import OpError, OpTypeError
from jaxpress.nnops.gated import (
    geglu,
    swiglu,
)
from jaxpress.nnops.global_pool import (
    global_avg_pool,
    global_max_pool,
)
from jaxpress.nnops.gru import gru, gru_cell
from jaxpress.nnops.logs import (
    log1mexp,
    logmeanexp,
    logsumexp,
)
from jaxpress.nnops.losses import (
    binary_cross_entropy,
    cosine_distance,
    cosine_similarity,
    ctc_loss,
    huber,
    kl_divergence,
    mean_absolute_error,
    mean_squared_error,
    sigmoid_binary_cross_entropy,
    softmax_cross_entropy,
)
from jaxpress.nnops.lstm import lstm, lstm_cell
from jaxpress.nnops.opdef import Kernel, OpDef, ops, registry
from jaxpress.nnops.plain import (
    identity,
    tanh,
)
from jaxpress.nnops.pooling import (
    avg_pool,
    max_pool,
    min_pool,
)
from jaxpress.nnops.prelu import prelu
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
from jaxpress.nnops.rnn import rnn, rnn_cell
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
    "Activation",
    "Kernel",
    "OpDef",
    "OpError",
    "OpTypeError",
    "activation_entries",
    "activation_names",
    "adaptive_avg_pool",
    "avg_pool",
    "batch_norm",
    "binary_cross_entropy",
    "celu",
    "conv",
    "conv_transpose",
    "cosine_distance",
    "cosine_similarity",
    "ctc_loss",
    "define",
    "dense",
    "depthwise_conv",
    "elu",
    "geglu",
    "gelu",
    "global_avg_pool",
    "global_max_pool",
    "glu",
    "gru",
    "gru_cell",
    "hard_sigmoid",
    "hard_silu",
    "hard_swish",
    "hard_tanh",
    "huber",
    "identity",
    "kl_divergence",
    "leaky_relu",
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
    "ops",
    "prelu",
    "quick_gelu",
    "registry",
    "relu",
    "relu6",
    "relu_squared",
    "rnn",
    "rnn_cell",
    "selu",
    "separable_conv",
    "sigmoid",
    "sigmoid_binary_cross_entropy",
    "silu",
    "soft_sign",
    "softmax",
    "softmax_cross_entropy",
    "softplus",
    "sparse_plus",
    "sparse_sigmoid",
    "squareplus",
    "swiglu",
    "swish",
    "tanh",
    "to_activation",
]
