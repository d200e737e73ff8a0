"""For every named op, what somebody else wrote to compute the same; called as in samples.py.

docs/generate_ops.py measures each op against its oracle. A formula in plain jax.numpy stands where
no library on both Pythons has the op; then the op's own tests have one that a single Python has.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import linen
from flax.linen.recurrent import flip_sequences
from jax import lax

ORACLES: dict[str, tuple[str, Callable[..., Any]]] = {}


def oracle(name: str, who: str, f: Callable[..., Any]) -> None:
    ORACLES[name] = who, f


def bound(module: Any, **params: Any) -> Callable[..., Any]:
    """A Flax module's call with these parameters."""
    return lambda *args, **kwargs: module.apply({"params": params}, *args, **kwargs)


for _name in [
    *("celu", "elu", "gelu", "glu", "hard_sigmoid", "hard_silu", "hard_tanh", "leaky_relu"),
    *("log1mexp", "log_sigmoid", "log_softmax", "mish", "relu", "relu6", "selu", "sigmoid"),
    *("silu", "soft_sign", "softmax", "softplus", "sparse_plus", "sparse_sigmoid", "squareplus"),
    *("standardize",),
]:
    oracle(_name, f"jax.nn.{_name}", getattr(jax.nn, _name))
oracle("quick_gelu", "formula", lambda x: x * jax.nn.sigmoid(1.702 * x))
oracle("relu_squared", "formula", lambda x: jax.nn.relu(x) ** 2)
oracle("swiglu", "jax.nn.silu", lambda a, b: jax.nn.silu(a) * b)
oracle("geglu", "jax.nn.gelu", lambda a, b: jax.nn.gelu(a) * b)
oracle(
    "prelu",
    "flax.linen.PReLU",
    lambda x, a: jax.vmap(
        lambda x, a: bound(linen.PReLU(param_dtype=x.dtype), negative_slope=a)(x), (1, 0), 1
    )(x, a),
)
oracle("logsumexp", "jax.nn.logsumexp", lambda x, b: jax.nn.logsumexp(x, -1, b=b))
oracle(
    "signed_logsumexp",
    "jax.nn.logsumexp",
    lambda x, b: list(jax.nn.logsumexp(x, -1, b=b, return_sign=True)),
)
oracle("logmeanexp", "jax.nn.logmeanexp", lambda x: jax.nn.logmeanexp(x, -1))
oracle("one_hot", "jax.nn.one_hot", lambda i: jax.nn.one_hot(i, 3))

oracle(
    "dense",
    "flax.linen.Dense",
    lambda x, w, b: jax.nn.silu(bound(linen.Dense(2), kernel=w, bias=b)(x)),
)
oracle(
    "einsum_dense",
    "flax.linen.DenseGeneral",
    lambda x, w, b: bound(linen.DenseGeneral((2, 2)), kernel=w, bias=b)(x),
)
oracle("embedding", "flax.linen.Embed", lambda i, t: bound(linen.Embed(4, 3), embedding=t)(i))
oracle(
    "attend",
    "flax.linen.Embed.attend",
    lambda x, t: bound(linen.Embed(4, 3), embedding=t)(x, method="attend"),
)
oracle(
    "conv",
    "flax.linen.Conv",
    lambda x, w, b: jax.nn.relu(bound(linen.Conv(3, (2, 2)), kernel=w, bias=b)(x)),
)
oracle(
    "separable_conv",
    "flax.linen.Conv, twice",
    lambda x, d, p, b: jax.nn.relu(
        bound(linen.Conv(3, (1, 1)), kernel=p, bias=b)(
            bound(linen.Conv(2, (2, 2), feature_group_count=2, use_bias=False), kernel=d)(x)
        )
    ),
)
oracle("max_pool", "flax.linen.max_pool", lambda x: linen.max_pool(x, (2, 2)))
oracle("min_pool", "flax.linen.max_pool", lambda x: -linen.max_pool(-x, (2, 2)))
oracle("avg_pool", "flax.linen.avg_pool", lambda x: linen.avg_pool(x, (2, 2)))
oracle(
    "adaptive_avg_pool",
    "jax.numpy.mean of each window",
    lambda x: jnp.stack([x[:, i : i + 2].reshape(8, 2, 2, 2, 2).mean((1, 3)) for i in (0, 1)], 1),
)
oracle("global_avg_pool", "jax.numpy.mean", lambda x: x.mean((1, 2)))
oracle("global_max_pool", "jax.numpy.max", lambda x: x.max((1, 2)))


def _batch_norm(train: bool) -> Callable[..., Any]:
    def run(x: Any, mean: Any, var: Any, scale: Any, bias: Any) -> Any:
        module = linen.BatchNorm(
            not train, momentum=0.9, use_fast_variance=False, param_dtype=x.dtype
        )
        variables = {
            "params": {"scale": scale, "bias": bias},
            "batch_stats": {"mean": mean, "var": var},
        }
        y, moved = module.apply(variables, x, mutable=["batch_stats"])
        stats = moved["batch_stats"]
        return (y, stats["mean"], stats["var"]) if train else y

    return run


oracle("batch_norm", "flax.linen.BatchNorm", _batch_norm(False))
oracle("batch_norm_train", "flax.linen.BatchNorm", _batch_norm(True))


def _norm(make: Callable[..., Any]) -> Callable[..., Any]:
    """A Flax norm as a function of x, scale and perhaps bias."""

    def run(x: Any, scale: Any, *bias: Any) -> Any:
        module = make(param_dtype=x.dtype)
        params = {"scale": scale} | ({"bias": bias[0]} if bias else {})
        return bound(module, **params)(x)

    return run


SLOW = {"use_fast_variance": False}
oracle(
    "layer_norm",
    "flax.linen.LayerNorm",
    _norm(lambda **kw: linen.LayerNorm(epsilon=1e-5, **SLOW, **kw)),
)
oracle("rms_norm", "flax.linen.RMSNorm", _norm(lambda **kw: linen.RMSNorm(epsilon=1e-6, **kw)))
oracle(
    "group_norm",
    "flax.linen.GroupNorm",
    _norm(lambda **kw: linen.GroupNorm(2, epsilon=1e-5, **SLOW, **kw)),
)
oracle(
    "instance_norm",
    "flax.linen.InstanceNorm",
    _norm(lambda **kw: linen.InstanceNorm(epsilon=1e-5, **SLOW, **kw)),
)
oracle(
    "l2_normalize",
    "jax.numpy.linalg.norm",
    lambda x: x / jnp.linalg.norm(x, axis=-1, keepdims=True),
)
oracle("weight_standardize", "jax.nn.standardize", lambda w: jax.nn.standardize(w, axis=0))


def _split(w: Any, names: str, part: str) -> dict[str, Any]:
    parts = jnp.split(w, len(names), -1)
    return {f"{part}{n}": v for n, v in zip(names, parts, strict=True)}


def _lstm_params(w: Any, u: Any, b: Any) -> Any:
    kernels = {k: {"kernel": v} for k, v in _split(w, "ifgo", "i").items()}
    recurrent, biases = _split(u, "ifgo", "h"), _split(b, "ifgo", "h")
    return kernels | {k: {"kernel": recurrent[k], "bias": biases[k]} for k in recurrent}


def _lstm_cell(x: Any, h: Any, c: Any, w: Any, u: Any, b: Any) -> Any:
    cell = linen.OptimizedLSTMCell(2, param_dtype=x.dtype)
    (c, h), _ = cell.apply({"params": _lstm_params(w, u, b)}, (c, h), x)
    return h, c


def _gru_cell(x: Any, h: Any, w: Any, u: Any, b: Any) -> Any:
    params = {k: {"kernel": v} for k, v in _split(u, "rzn", "h").items()}
    params["hn"]["bias"] = jnp.zeros(2, x.dtype)
    kernels, biases = _split(w, "rzn", "i"), _split(b, "rzn", "i")
    params |= {k: {"kernel": kernels[k], "bias": biases[k]} for k in kernels}
    return linen.GRUCell(2, param_dtype=x.dtype).apply({"params": params}, h, x)[0]


def _rnn_cell(x: Any, h: Any, w: Any, u: Any, b: Any) -> Any:
    params = {"i": {"kernel": w, "bias": b}, "h": {"kernel": u}}
    return linen.SimpleCell(2, param_dtype=x.dtype).apply({"params": params}, h, x)[0]


def _steps(cell: Callable[..., Any], states: int) -> Callable[..., Any]:
    """A cell over a sequence, step by step; it stands still where the mask says no."""

    def run(x: Any, *rest: Any) -> Any:
        state, weights, mask = rest[:states], rest[states:-1], rest[-1]
        ys = []
        for t in range(x.shape[1]):
            new = cell(x[:, t], *state, *weights)
            new = new if isinstance(new, tuple) else (new,)
            on = mask[:, t, None]
            state = tuple(jnp.where(on, n, s) for n, s in zip(new, state, strict=True))
            ys.append(jnp.where(on, state[0], 0))
        return jnp.stack(ys, 1), *state

    return run


oracle("lstm_cell", "flax.linen.OptimizedLSTMCell", _lstm_cell)
oracle("lstm", "flax.linen.OptimizedLSTMCell", _steps(_lstm_cell, 2))
oracle("gru_cell", "flax.linen.GRUCell", _gru_cell)
oracle("gru", "flax.linen.GRUCell", _steps(_gru_cell, 1))
oracle("rnn_cell", "flax.linen.SimpleCell", _rnn_cell)
oracle("rnn", "flax.linen.SimpleCell", _steps(_rnn_cell, 1))


def _rotary(x: Any, cos: Any, sin: Any) -> Any:
    z = lax.complex(*jnp.split(x, 2, -1))
    # The tables have the angles twice, for the halves of a pair.
    parts = zip(jnp.split(cos, 2, -1), jnp.split(sin, 2, -1), strict=True)
    first, second = (z * lax.complex(c, s)[:, None] for c, s in parts)
    return jnp.concatenate([first.real, second.imag], -1)


# Not jax.nn's, whose softmax is in float32 even where all else is in float64.
oracle(
    "dot_product_attention",
    "flax.linen.dot_product_attention",
    lambda q, k, v, b, m: linen.dot_product_attention(
        *(q, jnp.repeat(k, 2, -2), jnp.repeat(v, 2, -2), b), m & jnp.tri(3, dtype=bool)
    ),
)
oracle(
    "multi_head_attention",
    "flax.linen.MultiHeadDotProductAttention",
    lambda x, q, k, v, o, b: bound(
        linen.MultiHeadDotProductAttention(2, qkv_features=4, out_features=3, param_dtype=x.dtype),
        query={"kernel": q, "bias": jnp.zeros_like(q[0])},
        key={"kernel": jnp.repeat(k, 2, 1), "bias": jnp.zeros_like(q[0])},
        value={"kernel": jnp.repeat(v, 2, 1), "bias": jnp.zeros_like(q[0])},
        out={"kernel": o, "bias": b},
    )(x, mask=jnp.tri(3, dtype=bool)),
)
oracle(
    "rotary_tables",
    "formula",
    lambda x: [jnp.tile(f(x[:, None] / jnp.asarray([1.0, 100.0])), 2) for f in (jnp.cos, jnp.sin)],
)
oracle("rotary_embedding", "jax.numpy, complex numbers", _rotary)
oracle(
    "sinusoidal_encoding",
    "formula",
    lambda x: jnp.stack([f(x * r) for r in (1, 0.01) for f in (jnp.sin, jnp.cos)], -1),
)
oracle(
    "kv_cache_update",
    "jax.lax.dynamic_update_slice_in_dim",
    lambda c, new, i: lax.dynamic_update_slice_in_dim(c, new, i, 1),
)
oracle("sequence_mask", "jax.numpy.less", lambda n: jnp.less(jnp.arange(3), n[:, None]))
oracle(
    "reverse_sequence",
    "flax.linen.recurrent.flip_sequences",
    # Which turns the padding round too.
    lambda x, n: jnp.where(
        jnp.arange(3) < n[:, None], flip_sequences(x[..., None], n, 1, False)[..., 0], x
    ),
)
oracle("shift", "jax.numpy.pad", lambda x: jnp.pad(x, ((0, 0), (1, 0)))[:, :-1])
oracle(
    "dropout",
    "flax.linen.Dropout",
    lambda x, key: bound(linen.Dropout(0.5))(x, deterministic=False, rng=key),
)
oracle(
    "stochastic_depth",
    "jax.random.bernoulli",
    lambda x, key: x * jax.random.bernoulli(key, 0.5, (len(x), 1)) / 0.5,
)

oracle("mean_squared_error", "optax.squared_error", optax.squared_error)
oracle("mean_absolute_error", "formula", lambda x, y: jnp.abs(x - y))
oracle("huber", "optax.huber_loss", optax.huber_loss)
oracle(
    "binary_cross_entropy",
    "optax.sigmoid_binary_cross_entropy",
    optax.sigmoid_binary_cross_entropy,
)
for _name in ("cosine_similarity", "cosine_distance"):
    oracle(
        _name,
        f"optax.{_name}",
        lambda x, y, m, w, name=_name: (getattr(optax, name)(x, y) * w * m).sum() / (w * m).sum(),
    )
oracle("kl_divergence", "optax.kl_divergence", optax.kl_divergence)
oracle(
    "softmax_cross_entropy",
    "optax.softmax_cross_entropy",
    lambda x, y, w: (
        w * optax.softmax_cross_entropy(x, optax.smooth_labels(jax.nn.one_hot(y, 3), 0.1))
    ),
)


def _ctc(x: Any, y: Any) -> Any:
    none = [jnp.zeros(v.shape[:2], x.dtype) for v in (x, y)]
    return optax.ctc_loss(x, none[0], y, none[1], log_epsilon=-1e30)


oracle("ctc_loss", "optax.ctc_loss", _ctc)
