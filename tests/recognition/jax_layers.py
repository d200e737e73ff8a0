"""Plain JAX: what people write by hand, or copy from a paper."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from recognition.case import Case, data

__all__ = ["CASES"]

IMAGE = (2, 8, 8, 4)
SEQUENCE = (2, 5, 8)


def of(forward: Callable[..., Any], shape: tuple[int, ...] = SEQUENCE, **weights: tuple[int, ...]):
    """``forward(x, **weights)`` with weights of these shapes closed over."""

    def build() -> tuple[Callable[..., Any], tuple[Any, ...]]:
        import jax.numpy as jnp

        arrays = {
            name: jnp.abs(w) + 0.5 if name == "var" else w * 0.3
            for name, w in ((n, data(*s, seed=i + 1)) for i, (n, s) in enumerate(weights.items()))
        }
        return lambda x: forward(x, **arrays), (data(*shape),)

    return build


def dense(x, w, b):
    import jax.numpy as jnp

    return jnp.dot(x, w) + b


def mlp(x, w, b, v, c):
    import jax

    return jax.nn.relu(x @ w + b) @ v + c


def swiglu(x, gate, up, down):
    import jax

    return (jax.nn.silu(x @ gate) * (x @ up)) @ down


def experts(x, up, down):
    import jax
    import jax.numpy as jnp

    hidden = jax.nn.relu(jnp.einsum("btd,edf->ebtf", x, up))
    return jnp.einsum("ebtf,efd->btd", hidden, down)


def layer_norm(x, g, b):
    import jax.numpy as jnp

    mean = x.mean(-1, keepdims=True)
    var = jnp.square(x - mean).mean(-1, keepdims=True)
    return (x - mean) / jnp.sqrt(var + 1e-5) * g + b


def layer_norm_by_var(x, g, b):
    import jax
    import jax.numpy as jnp

    centred = x - jnp.mean(x, axis=-1, keepdims=True)
    return g * centred * jax.lax.rsqrt(jnp.var(x, axis=-1, keepdims=True) + 1e-6) + b


def rms_norm(x, g):
    import jax
    import jax.numpy as jnp

    return x * jax.lax.rsqrt(jnp.mean(x * x, -1, keepdims=True) + 1e-6) * g


def rms_norm_in_float32(x, g):
    import jax
    import jax.numpy as jnp

    wide = x.astype(jnp.float32)
    normed = wide * jax.lax.rsqrt(jnp.mean(wide**2, -1, keepdims=True) + 1e-6)
    return (normed.astype(x.dtype)) * (1 + g)


def batch_norm(x, mean, var, g, b):
    import jax.numpy as jnp

    return (x - mean) / jnp.sqrt(var + 1e-3) * g + b


def conv(x, w, b):
    import jax

    numbers = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=numbers) + b


def conv_channels_first(x, w, b):
    import jax

    return jax.nn.relu(jax.lax.conv(x, w, (2, 2), "VALID") + b[:, None, None])


def drop_path(x):
    """A branch of a residual network, which is left out for some of the examples."""
    import jax
    import jax.numpy as jnp

    kept = jnp.floor(0.7 + jax.random.uniform(jax.random.key(1), (x.shape[0], 1, 1)))
    return x / 0.7 * kept


def softmax(x):
    import jax.numpy as jnp

    e = jnp.exp(x - jnp.max(x, axis=-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def gelu_tanh(x):
    import jax.numpy as jnp

    return 0.5 * x * (1 + jnp.tanh(jnp.sqrt(2 / jnp.pi) * (x + 0.044715 * x**3)))


def gelu_exact(x):
    import jax

    return x * 0.5 * (1.0 + jax.lax.erf(x / 2**0.5))


def silu(x):
    import jax

    return x * jax.nn.sigmoid(x)


def attention(causal: bool):
    def forward(x, wq, wk, wv, wo):
        import jax
        import jax.numpy as jnp

        def heads(w):
            return (x @ w).reshape(*x.shape[:-1], 2, 4).transpose(0, 2, 1, 3)

        q, k, v = heads(wq), heads(wk), heads(wv)
        scores = jnp.einsum("bhqd,bhkd->bhqk", q, k) / jnp.sqrt(4.0)
        if causal:
            n = x.shape[1]
            scores = jnp.where(jnp.tril(jnp.ones((n, n), bool)), scores, -jnp.inf)
        out = jnp.einsum("bhqk,bhkd->bhqd", jax.nn.softmax(scores, axis=-1), v)
        return out.transpose(0, 2, 1, 3).reshape(x.shape) @ wo

    return forward


def attention_of_jax(x, wq, wk, wv, wo):
    import jax

    q, k, v = ((x @ w).reshape(*x.shape[:-1], 2, 4) for w in (wq, wk, wv))
    return jax.nn.dot_product_attention(q, k, v, is_causal=True).reshape(x.shape) @ wo


def fused_qkv(x, w, wo):
    import jax
    import jax.numpy as jnp

    q, k, v = jnp.split((x @ w).reshape(*x.shape[:-1], 2, 12), 3, axis=-1)
    weights = jax.nn.softmax(jnp.einsum("bqhd,bkhd->bhqk", q, k) * 4**-0.5, axis=-1)
    return jnp.einsum("bhqk,bkhd->bqhd", weights, v).reshape(x.shape) @ wo


def window_attention(x, w, wo, table, mask):
    """Of windows of an image, two images of two, each window with its own mask (Swin)."""
    import jax
    import jax.numpy as jnp

    q, k, v = (x @ w).reshape(4, 5, 3, 2, 4).transpose(2, 0, 3, 1, 4)
    logits = (q * 0.5) @ k.swapaxes(-2, -1) + table[jnp.arange(5)[:, None] % 3].transpose(2, 0, 1)
    logits = logits.reshape(2, 2, 2, 5, 5) + jnp.where(mask > 0, 0.0, -100.0)[:, None]
    out = jax.nn.softmax(logits.reshape(4, 2, 5, 5)) @ v
    return out.swapaxes(1, 2).reshape(x.shape) @ wo


def grouped_attention(x, wq, wkv, wo):
    """Query heads by their key head in the products, side by side in between (Gemma 2)."""
    import jax
    import jax.numpy as jnp

    q = jnp.einsum("btd,ndh->btnh", x, wq).reshape(2, 5, 2, 2, 4)
    k, v = jnp.einsum("bsd,ckdh->cbskh", x, wkv)
    logits = jnp.einsum("btkgh,bskh->btkgs", q, k).reshape(2, 5, 4, 5)
    logits = jnp.tanh(logits / 50) * 50
    logits = jnp.where(jnp.tril(jnp.ones((5, 5), bool))[:, None], logits, -2.3819763e38)
    weights = jax.nn.softmax(logits, axis=-1).reshape(2, 5, 2, 2, 5)
    out = jnp.einsum("btkgs,bskh->btkgh", weights, v).reshape(2, 5, 4, 4)
    return jnp.einsum("btnh,nhd->btd", out, wo)


def lstm(x, w, u, b):
    import jax
    import jax.numpy as jnp

    def step(state, x):
        h, c = state
        i, f, g, o = jnp.split(x @ w + h @ u + b, 4, axis=-1)
        c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
        h = jax.nn.sigmoid(o) * jnp.tanh(c)
        return (h, c), h

    zeros = jnp.zeros((x.shape[0], 4))
    return jax.lax.scan(step, (zeros, zeros), x.swapaxes(0, 1))[1]


def max_pool(x):
    import jax
    import jax.numpy as jnp

    return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")


def avg_pool(x):
    import jax

    return jax.lax.reduce_window(x, 0.0, jax.lax.add, (1, 2, 2, 1), (1, 2, 2, 1), "VALID") / 4


def rotary(x):
    import jax.numpy as jnp

    positions = jnp.arange(x.shape[1])
    angles = positions[:, None] / 10000 ** (jnp.arange(0, 4, 2) / 4)
    angles = jnp.concatenate([angles, angles], -1)[None, :, None, :]
    a, b = jnp.split(x, 2, axis=-1)
    return x * jnp.cos(angles) + jnp.concatenate([-b, a], -1) * jnp.sin(angles)


def embedding():
    import jax.numpy as jnp

    table = data(7, 4)
    return lambda ids: table[ids], (jnp.asarray([[1, 2, 0], [3, 4, 4]]),)


def taken():
    import jax.numpy as jnp

    table = data(7, 4)
    return lambda ids: jnp.take(table, ids, axis=0), (jnp.asarray([[1, 2, 0], [3, 4, 4]]),)


PROJECTIONS = {"wq": (8, 8), "wk": (8, 8), "wv": (8, 8), "wo": (8, 8)}

DRAWING = ("add", "bitcast_convert_type", "broadcast_in_dim", "floor", "max", "ne", "or")
DRAWING += ("random_bits", "random_wrap", "shift_right_logical", "sub")
DRAWN = dict.fromkeys(DRAWING, "what is kept is drawn")

CASES: dict[str, Case] = {
    "drop path": Case(of(drop_path), {"dropout": 1}, rest=DRAWN),
    "dense": Case(of(dense, w=(8, 6), b=(6,)), {"dense": 1}),
    "mlp": Case(of(mlp, w=(8, 16), b=(16,), v=(16, 8), c=(8,)), {"dense": 2}),
    "swiglu": Case(
        of(swiglu, gate=(8, 16), up=(8, 16), down=(16, 8)), {"dense": 2, "swiglu": 1}, moves=True
    ),
    "experts": Case(of(experts, up=(3, 8, 16), down=(3, 16, 8)), {"einsum_dense": 2}, moves=True),
    "conv": Case(of(conv, IMAGE, w=(3, 3, 4, 6), b=(6,)), {"conv": 1}),
    "conv, channels first": Case(
        of(conv_channels_first, (2, 4, 8, 8), w=(6, 4, 3, 3), b=(6,)), {"conv": 1}
    ),
    "batch norm": Case(
        of(batch_norm, IMAGE, mean=(4,), var=(4,), g=(4,), b=(4,)), {"batch_norm": 1}
    ),
    "layer norm": Case(of(layer_norm, g=(8,), b=(8,)), {"layer_norm": 1}),
    "layer norm, jnp.var": Case(of(layer_norm_by_var, g=(8,), b=(8,)), {"layer_norm": 1}),
    "rms norm": Case(of(rms_norm, g=(8,)), {"rms_norm": 1}),
    "rms norm, 1 + scale": Case(of(rms_norm_in_float32, g=(8,)), {"rms_norm": 1}),
    "max pool": Case(of(max_pool, IMAGE), {"max_pool": 1}),
    "avg pool": Case(of(avg_pool, IMAGE), {"avg_pool": 1}),
    "embedding": Case(embedding, {"embedding": 1}),
    "embedding, jnp.take": Case(taken, {"embedding": 1}),
    "softmax": Case(of(softmax), {"softmax": 1}),
    "gelu, tanh": Case(of(gelu_tanh), {"gelu": 1}),
    "gelu": Case(of(gelu_exact), {"gelu": 1}),
    "silu": Case(of(silu), {"silu": 1}),
    "attention, self": Case(
        of(attention(False), **PROJECTIONS), {"dense": 2, "dot_product_attention": 1}, moves=True
    ),
    "attention, causal": Case(
        of(attention(True), **PROJECTIONS), {"dense": 2, "dot_product_attention": 1}, moves=True
    ),
    "attention, jax.nn": Case(
        of(attention_of_jax, **PROJECTIONS), {"dense": 2, "dot_product_attention": 1}, moves=True
    ),
    "attention, one projection": Case(
        of(fused_qkv, w=(8, 24), wo=(8, 8)), {"dense": 2, "dot_product_attention": 1}, moves=True
    ),
    "attention, windows": Case(
        of(window_attention, (4, 5, 8), w=(8, 24), wo=(8, 8), table=(3, 2), mask=(2, 5, 5)),
        {"dense": 2, "dot_product_attention": 1},
        moves=True,
    ),
    "attention, grouped": Case(
        of(grouped_attention, wq=(4, 8, 4), wkv=(2, 2, 8, 4), wo=(4, 4, 8)),
        {"einsum_dense": 3, "dot_product_attention": 1},
        moves=True,
    ),
    "rotary embedding": Case(of(rotary, (2, 5, 2, 4)), {"rotary_embedding": 1}),
    "lstm": Case(of(lstm, w=(8, 16), u=(4, 16), b=(16,)), {"lstm": 1}, moves=True),
}
