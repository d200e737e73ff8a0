"""One sample call of every named op, on which tests/nnops/test_every_op.py tries everything.

A new op needs an entry here; a test says so when it has none.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxpress import nnops

# Examples in a batch: one for each of eight devices.
EXAMPLES = 8


@dataclass(frozen=True)
class Sample:
    """How to call an op.

    Attributes:
        call: the public function, of arrays by position.
        operands: float64, integer, boolean or key arrays.
        batched: positions of the operands whose first axis counts the examples.
        mixes: examples are not independent of each other.
        sees_nan: what is NaN in the first operand is NaN in the result.
        keeps_dtype: the result has the dtype of the real operands.
    """

    call: Callable[..., Any]
    operands: tuple[Any, ...]
    batched: tuple[int, ...] = (0,)
    mixes: bool = False
    sees_nan: bool = True
    keeps_dtype: bool = True

    def arrays(self, dtype: Any = np.float32) -> list[Any]:
        """The operands, real numbers in ``dtype``."""
        return [cast(v, dtype) for v in self.operands]

    def floats(self) -> list[int]:
        """Positions of the operands that have derivatives."""
        return [i for i, v in enumerate(self.operands) if is_real(v)]


def is_real(value: Any) -> bool:
    return jnp.issubdtype(value.dtype, jnp.floating)


def cast(value: Any, dtype: Any) -> Any:
    if is_real(value):
        return jnp.asarray(value, dtype)
    return value if isinstance(value, jax.Array) else jnp.asarray(value, canonical(value.dtype))


def canonical(dtype: Any) -> Any:
    return jnp.int32 if dtype == np.int64 else dtype


def draw(name: str, *shapes: Sequence[int]) -> tuple[np.ndarray, ...]:
    """Normal numbers, the same in every run."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    return tuple(rng.normal(size=s) for s in shapes)


def as_list(f: Callable[..., Any]) -> Callable[..., list[Any]]:
    """``f``, whatever it returns as a flat list."""
    return lambda *args: jax.tree.leaves(f(*args))


def plain(f: Callable[..., Any]) -> Callable[..., list[Any]]:
    """``f`` with the plain reference function of each named op in the op's place."""

    def run(*args: Any) -> list[Any]:
        closed = jax.make_jaxpr(f)(*args)
        values = dict(zip(closed.jaxpr.invars, args, strict=True))

        def read(v: Any) -> Any:
            return v.val if hasattr(v, "val") else values[v]

        for eqn in closed.jaxpr.eqns:
            inputs = [read(v) for v in eqn.invars]
            params = eqn.primitive.get_bind_params(eqn.params)
            op = nnops.ops.get(eqn.primitive.name)
            bind = op.implementation(params) if op is not None else None
            out = bind(*inputs) if bind else eqn.primitive.bind(*inputs, **params)
            outs = out if eqn.primitive.multiple_results else [out]
            values.update(zip(eqn.outvars, outs, strict=True))
        return [read(v) for v in closed.jaxpr.outvars]

    return run


def loss(f: Callable[..., Any], sample: Sample, args: Sequence[Any]) -> Callable[..., Any]:
    """A number that depends on all that ``f`` gives, as a function of the real operands."""

    def total(*reals: Any) -> Any:
        outs = with_reals(f, sample, args)(*reals)
        return sum(jnp.sum(jnp.sin(o)) for o in outs if is_real(o))

    return total


def with_reals(f: Callable[..., Any], sample: Sample, args: Sequence[Any]) -> Callable[..., Any]:
    """``f`` as a function of the real operands alone."""

    def run(*reals: Any) -> Any:
        full = list(args)
        for i, value in zip(sample.floats(), reals, strict=True):
            full[i] = value
        return f(*full)

    return run


SAMPLES: dict[str, Sample] = {}


def sample(
    name: str,
    call: Callable[..., Any],
    *operands: Any,
    batched: int | tuple[int, ...] = 1,
    mixes: bool = False,
    sees_nan: bool = True,
    keeps_dtype: bool = True,
) -> None:
    """Enters a sample; an operand may be a shape, of which normal numbers are drawn."""
    shapes = [v for v in operands if isinstance(v, tuple)]
    drawn = iter(draw(name, *shapes))
    if isinstance(batched, int):  # so many of the first
        batched = tuple(range(batched))
    arrays = tuple(next(drawn) if isinstance(v, tuple) else v for v in operands)
    SAMPLES[name] = Sample(call, arrays, batched, mixes, sees_nan, keeps_dtype)


N = EXAMPLES
STEPS = np.arange(3) < np.array([3, 2, 1, 0, 3, 1, 2, 3])[:, None]
EVEN = np.arange(N) % 2 == 0

for _name in [
    *("celu", "elu", "gelu", "hard_sigmoid", "hard_silu", "hard_tanh", "leaky_relu"),
    *("log_sigmoid", "mish", "quick_gelu", "relu", "relu6", "relu_squared", "selu", "sigmoid"),
    *("silu", "soft_sign", "softplus", "sparse_plus", "sparse_sigmoid", "squareplus"),
]:
    sample(_name, getattr(nnops, _name), (N, 3))
sample("log1mexp", lambda x: nnops.log1mexp(x), abs(draw("log1mexp", (N, 3))[0]) + 0.1)
sample("prelu", lambda x, a: nnops.prelu(x, a), (N, 3), (3,))
sample("swiglu", nnops.swiglu, (N, 3), (N, 3), batched=2)
sample("geglu", nnops.geglu, (N, 3), (N, 3), batched=2)
sample("glu", nnops.glu, (N, 4))
sample("softmax", nnops.softmax, (N, 3))
sample("log_softmax", nnops.log_softmax, (N, 3))
sample("logsumexp", lambda x, b: nnops.logsumexp(x, -1, b=b), (N, 3), (N, 3), batched=2)
sample(
    "signed_logsumexp",
    lambda x, b: list(nnops.logsumexp(x, -1, b=b, return_sign=True)),
    (N, 3),
    (N, 3),
    batched=2,
)
sample("logmeanexp", lambda x: nnops.logmeanexp(x, -1), (N, 3))
sample("one_hot", lambda i: nnops.one_hot(i, 3), np.arange(N) % 4, keeps_dtype=False)

sample("dense", lambda *a: nnops.dense(*a, activation="silu"), (N, 3), (3, 2), (2,))
sample(
    "einsum_dense",
    lambda x, w, b: nnops.einsum_dense(x, w, b, equation="...td,dnh->...tnh"),
    (N, 2, 3),
    (3, 2, 2),
    (2, 2),
)
sample("embedding", nnops.embedding, np.arange(N) % 4, (4, 3), sees_nan=False)
sample("attend", nnops.attend, (N, 3), (4, 3))
sample("conv", lambda *a: nnops.conv(*a, activation="relu"), (N, 4, 3, 2), (2, 2, 2, 3), (3,))
sample(
    "separable_conv",
    lambda *a: nnops.separable_conv(*a, activation="relu"),
    *((N, 4, 3, 2), (2, 2, 1, 2), (1, 1, 2, 3), (3,)),
)
sample("max_pool", lambda x: nnops.max_pool(x, (2, 2)), (N, 4, 4, 2))
sample("min_pool", lambda x: nnops.min_pool(x, (2, 2)), (N, 4, 4, 2))
sample("avg_pool", lambda x: nnops.avg_pool(x, (2, 2)), (N, 4, 4, 2))
sample("adaptive_avg_pool", lambda x: nnops.adaptive_avg_pool(x, (2, 2)), (N, 3, 4, 2))
sample("global_avg_pool", nnops.global_avg_pool, (N, 3, 2, 2))
sample("global_max_pool", nnops.global_max_pool, (N, 3, 2, 2))

_POSITIVE = abs(draw("var", (3,))[0]) + 0.5
sample("batch_norm", nnops.batch_norm, (N, 3), (3,), _POSITIVE, (3,), (3,))
sample(
    "batch_norm_train",
    lambda *a: jax.tree.leaves(nnops.batch_norm_train(*a)),
    (N, 3),
    (3,),
    _POSITIVE,
    (3,),
    (3,),
    mixes=True,
)
sample("layer_norm", nnops.layer_norm, (N, 3), (3,), (3,))
sample("rms_norm", nnops.rms_norm, (N, 3), (3,))
sample("group_norm", lambda *a: nnops.group_norm(*a, groups=2), (N, 3, 4), (4,), (4,))
sample("instance_norm", nnops.instance_norm, (N, 3, 4), (4,), (4,))
sample("standardize", nnops.standardize, (N, 3))
sample("l2_normalize", nnops.l2_normalize, (N, 3))
sample("weight_standardize", nnops.weight_standardize, (N, 3), mixes=True)

sample(
    "lstm",
    lambda x, h, c, w, u, b, m: jax.tree.leaves(nnops.lstm(x, h, c, w, u, b, mask=m)),
    *((N, 3, 2), (N, 2), (N, 2), (2, 8), (2, 8), (8,)),
    STEPS,
    batched=(0, 1, 2, 6),
)
sample(
    "lstm_cell",
    lambda *a: jax.tree.leaves(nnops.lstm_cell(*a)),
    *((N, 2), (N, 2), (N, 2), (2, 8), (2, 8), (8,)),
    batched=3,
)
sample(
    "gru",
    lambda x, h, w, u, b, m: jax.tree.leaves(nnops.gru(x, h, w, u, b, mask=m)),
    *((N, 3, 2), (N, 2), (2, 6), (2, 6), (6,)),
    STEPS,
    batched=(0, 1, 5),
)
sample("gru_cell", nnops.gru_cell, (N, 2), (N, 2), (2, 6), (2, 6), (6,), batched=2)
sample(
    "rnn",
    lambda x, h, w, u, b, m: jax.tree.leaves(nnops.rnn(x, h, w, u, b, mask=m)),
    *((N, 3, 2), (N, 2), (2, 2), (2, 2), (2,)),
    STEPS,
    batched=(0, 1, 5),
)
sample("rnn_cell", nnops.rnn_cell, (N, 2), (N, 2), (2, 2), (2, 2), (2,), batched=2)

sample(
    "dot_product_attention",
    lambda q, k, v, b, m: nnops.dot_product_attention(q, k, v, b, m, is_causal=True),
    *((N, 3, 2, 2), (N, 3, 1, 2), (N, 3, 1, 2), (N, 2, 3, 3)),
    np.broadcast_to(np.eye(3, dtype=bool) | (np.arange(3) > 0), (N, 2, 3, 3)),
    batched=5,
)
sample(
    "multi_head_attention",
    lambda x, q, k, v, o, b: nnops.multi_head_attention(
        x, None, None, q, k, v, o, None, None, None, b, is_causal=True
    ),
    *((N, 3, 4), (4, 2, 2), (4, 1, 2), (4, 1, 2), (2, 2, 3), (3,)),
)
_COS, _SIN = map(np.asarray, nnops.rotary_tables(np.arange(3), 4))
sample("rotary_embedding", nnops.rotary_embedding, (N, 3, 2, 4), _COS, _SIN)
sample("rotary_tables", lambda x: list(nnops.rotary_tables(x, 4)), (N,), keeps_dtype=False)
sample("sinusoidal_encoding", lambda x: nnops.sinusoidal_encoding(x, 4), (N,), keeps_dtype=False)
sample(
    "kv_cache_update",
    lambda c, new, i: nnops.kv_cache_update(c, new, i),
    (N, 3, 1, 2),
    (N, 1, 1, 2),
    np.array(1),
    batched=2,
)

sample("sequence_mask", lambda n: nnops.sequence_mask(n, 3), np.arange(N) % 4)
sample("reverse_sequence", nnops.reverse_sequence, (N, 3), np.arange(N) % 4, batched=2)
sample("shift", nnops.shift, (N, 3))

sample(
    "dropout", lambda x, key: nnops.dropout(x, key, rate=0.5), (N, 3), jax.random.key(0), mixes=True
)
sample(
    "stochastic_depth",
    lambda x, key: nnops.stochastic_depth(x, key, rate=0.5),
    *((N, 3), jax.random.key(0)),
    mixes=True,
)

for _name in ("mean_squared_error", "mean_absolute_error", "huber", "binary_cross_entropy"):
    sample(_name, getattr(nnops, _name), (N, 3), (N, 3), batched=2)
for _name in ("cosine_similarity", "cosine_distance"):
    sample(
        _name,
        lambda x, y, m, w, name=_name: getattr(nnops, name)(
            x, y, where=m, weights=w, reduction="mean"
        ),
        *((N, 3), (N, 3)),
        EVEN,
        (N,),
        batched=4,
        mixes=True,
    )
sample("kl_divergence", nnops.kl_divergence, (N, 3), abs(draw("kl", (N, 3))[0]), batched=2)
sample(
    "softmax_cross_entropy",
    lambda x, y, w: nnops.softmax_cross_entropy(x, y, weights=w, label_smoothing=0.1),
    (N, 3),
    np.arange(N) % 3,
    (N,),
    batched=3,
)
sample("ctc_loss", nnops.ctc_loss, (N, 4, 3), np.arange(2 * N).reshape(N, 2) % 2 + 1, batched=2)
