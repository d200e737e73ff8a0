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
from jaxpress.nnops.batch_norm import batch_norm
from jaxpress.nnops.conv import conv
from jaxpress.nnops.define import define
from jaxpress.nnops.dense import dense
from jaxpress.nnops.errors import OpError, OpTypeError
from jaxpress.nnops.opdef import Kernel, OpDef, ops, registry
from jaxpress.nnops.pooling import avg_pool, max_pool
from jaxpress.nnops.rectifiers import (
    hard_sigmoid,
    hard_silu,
    hard_swish,
    hard_tanh,
    leaky_relu,
    relu,
    relu6,
    sparse_plus,
    sparse_sigmoid,
)
from jaxpress.nnops.smooth import (
    celu,
    elu,
    gelu,
    log_sigmoid,
    mish,
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
    "avg_pool",
    "batch_norm",
    "celu",
    "conv",
    "define",
    "dense",
    "elu",
    "gelu",
    "glu",
    "hard_sigmoid",
    "hard_silu",
    "hard_swish",
    "hard_tanh",
    "leaky_relu",
    "log_sigmoid",
    "log_softmax",
    "max_pool",
    "mish",
    "ops",
    "registry",
    "relu",
    "relu6",
    "selu",
    "sigmoid",
    "silu",
    "soft_sign",
    "softmax",
    "softplus",
    "sparse_plus",
    "sparse_sigmoid",
    "squareplus",
    "swish",
    "to_activation",
]
