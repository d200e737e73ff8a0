"""Flax NNX."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from recognition.case import Case, data

__all__ = ["CASES"]

IMAGE = (2, 8, 8, 4)
SEQUENCE = (2, 5, 8)


def filled(module: Any) -> Any:
    """The module with weights of which none is zero or one, so that nothing can be left out."""
    import jax
    import jax.numpy as jnp
    from flax import nnx

    rng = np.random.default_rng(0)

    def one(path: Any, x: Any) -> Any:
        if not jnp.issubdtype(x.dtype, jnp.floating):
            return x
        low, high = (0.5, 1.5) if "var" in jax.tree_util.keystr(path) else (-0.5, 0.5)
        return jnp.asarray(rng.uniform(low, high, x.shape), x.dtype)

    nnx.update(module, jax.tree_util.tree_map_with_path(one, nnx.state(module)))
    return module


def of(make: Callable[[Any, Any], Any], *shapes: tuple[int, ...], **call: Any):
    """A module by ``make(flax.nnx, rngs)``, called on arrays of these shapes."""

    def build() -> tuple[Callable[..., Any], tuple[Any, ...]]:
        from flax import nnx

        module = filled(make(nnx, nnx.Rngs(0)))
        xs = tuple(data(*shape, seed=i) for i, shape in enumerate(shapes))
        return lambda *xs: module(*xs, **call), xs

    return build


def dropout(*broadcast_dims: int):
    """As a model is trained, with its key as an argument."""

    def build():
        import jax
        from flax import nnx

        def fn(x, key):
            return nnx.Dropout(0.3, broadcast_dims=broadcast_dims, rngs=nnx.Rngs(key))(x)

        return fn, (data(*SEQUENCE), jax.random.key(1))

    return build


def function(call: Callable[[Any], Callable[..., Any]], shape: tuple[int, ...]):
    def build():
        from flax import nnx

        return call(nnx), (data(*shape),)

    return build


def embed(attend: bool):
    def build():
        import jax.numpy as jnp
        from flax import nnx

        module = filled(nnx.Embed(7, 4, rngs=nnx.Rngs(0)))
        if attend:
            return module.attend, (data(2, 3, 4),)
        return lambda ids: module(ids), (jnp.asarray([[1, 2, 0], [3, 4, 4]]),)

    return build


def attention(causal: bool):
    def build():
        from flax import nnx

        module = nnx.MultiHeadAttention(
            num_heads=2, in_features=8, qkv_features=8, decode=False, rngs=nnx.Rngs(0)
        )
        filled(module)

        def fn(x):
            return module(x, mask=nnx.make_causal_mask(x[..., 0]) if causal else None)

        return fn, (data(*SEQUENCE),)

    return build


def block():
    """A pre-norm transformer block."""
    from flax import nnx

    class Block(nnx.Module):
        def __init__(self, rngs):
            self.first = nnx.LayerNorm(8, rngs=rngs)
            self.second = nnx.LayerNorm(8, rngs=rngs)
            self.attention = nnx.MultiHeadAttention(
                num_heads=2, in_features=8, qkv_features=8, decode=False, rngs=rngs
            )
            self.up = nnx.Linear(8, 16, rngs=rngs)
            self.down = nnx.Linear(16, 8, rngs=rngs)

        def __call__(self, x):
            x = x + self.attention(self.first(x))
            return x + self.down(nnx.gelu(self.up(self.second(x))))

    module = filled(Block(nnx.Rngs(0)))
    return lambda x: module(x), (data(*SEQUENCE),)


def conv_norm():
    from flax import nnx

    rngs = nnx.Rngs(0)
    conv = filled(nnx.Conv(4, 6, (3, 3), use_bias=False, rngs=rngs))
    norm = filled(nnx.BatchNorm(6, use_running_average=True, rngs=rngs))
    return lambda x: nnx.relu(norm(conv(x))), (data(*IMAGE),)


def recurrent(cell: str, **options: Any):
    def build():
        from flax import nnx

        rngs = nnx.Rngs(0)
        inner = getattr(nnx, cell)(8, 4, rngs=rngs, **options)
        module = filled(nnx.RNN(inner, rngs=rngs))
        # NNX's own scan asks for a module of the trace that it runs in, random state included.
        graph, state = nnx.split(module)
        carry = inner.initialize_carry((2, 8), rngs)
        return lambda x: nnx.merge(graph, state, copy=True)(x, initial_carry=carry), (
            data(*SEQUENCE),
        )

    return build


KEYS = {"random_fold_in": "each layer has a key of its own"}

CASES: dict[str, Case] = {
    "dropout": Case(dropout(), {"dropout": 1}, rest=KEYS),
    "dropout, broadcast": Case(dropout(1), {"dropout": 1}, rest=KEYS),
    "dense": Case(of(lambda nnx, r: nnx.Linear(8, 6, rngs=r), (2, 8)), {"dense": 1}),
    "dense, no bias": Case(
        of(lambda nnx, r: nnx.Linear(8, 6, use_bias=False, rngs=r), (2, 8)), {"dense": 1}
    ),
    "dense, sequence": Case(of(lambda nnx, r: nnx.Linear(8, 6, rngs=r), SEQUENCE), {"dense": 1}),
    "einsum dense": Case(
        of(lambda nnx, r: nnx.LinearGeneral(8, (2, 4), rngs=r), SEQUENCE), {"einsum_dense": 1}
    ),
    "einsum dense, by equation": Case(
        of(lambda nnx, r: nnx.Einsum("abc,cde->abde", (8, 2, 4), (2, 4), rngs=r), SEQUENCE),
        {"einsum_dense": 1},
    ),
    "conv": Case(of(lambda nnx, r: nnx.Conv(4, 6, (3, 3), rngs=r), IMAGE), {"conv": 1}),
    "conv 1d, causal": Case(
        of(lambda nnx, r: nnx.Conv(8, 6, (3,), padding="CAUSAL", rngs=r), SEQUENCE), {"conv": 1}
    ),
    "conv 3d": Case(
        of(lambda nnx, r: nnx.Conv(2, 6, (2, 2, 2), strides=2, rngs=r), (1, 4, 4, 4, 2)),
        {"conv": 1},
    ),
    "conv, grouped": Case(
        of(lambda nnx, r: nnx.Conv(4, 6, (3, 3), feature_group_count=2, rngs=r), IMAGE),
        {"conv": 1},
    ),
    "depthwise conv": Case(
        of(lambda nnx, r: nnx.Conv(4, 4, (3, 3), feature_group_count=4, rngs=r), IMAGE),
        {"conv": 1},
    ),
    "transposed conv": Case(
        of(lambda nnx, r: nnx.ConvTranspose(4, 6, (3, 3), strides=(2, 2), rngs=r), IMAGE),
        {"conv": 1},
    ),
    "conv, batch norm, relu": Case(conv_norm, {"conv": 1}),
    "batch norm": Case(
        of(lambda nnx, r: nnx.BatchNorm(4, use_running_average=True, rngs=r), IMAGE),
        {"batch_norm": 1},
    ),
    "layer norm": Case(of(lambda nnx, r: nnx.LayerNorm(8, rngs=r), SEQUENCE), {"layer_norm": 1}),
    "rms norm": Case(of(lambda nnx, r: nnx.RMSNorm(8, rngs=r), SEQUENCE), {"rms_norm": 1}),
    "group norm": Case(of(lambda nnx, r: nnx.GroupNorm(4, 2, rngs=r), IMAGE), {"group_norm": 1}),
    "max pool": Case(
        function(lambda nnx: lambda x: nnx.max_pool(x, (2, 2), (2, 2)), IMAGE), {"max_pool": 1}
    ),
    "avg pool": Case(
        function(lambda nnx: lambda x: nnx.avg_pool(x, (2, 2), (2, 2)), IMAGE), {"avg_pool": 1}
    ),
    "embedding": Case(embed(False), {"embedding": 1}),
    "attend": Case(embed(True), {"dense": 1}),
    "softmax": Case(function(lambda nnx: nnx.softmax, SEQUENCE), {"softmax": 1}),
    "gelu": Case(function(lambda nnx: nnx.gelu, SEQUENCE), {"gelu": 1}),
    "silu": Case(function(lambda nnx: nnx.silu, SEQUENCE), {"silu": 1}),
    "attention, self": Case(
        attention(False), {"einsum_dense": 2, "dot_product_attention": 1}, moves=True
    ),
    "attention, causal": Case(
        attention(True), {"einsum_dense": 2, "dot_product_attention": 1}, moves=True
    ),
    "lstm": Case(recurrent("LSTMCell"), {"lstm": 1}, moves=True),
    "lstm, fused gates": Case(recurrent("OptimizedLSTMCell"), {"lstm": 1}, moves=True),
    "gru": Case(recurrent("GRUCell"), {"gru": 1}, moves=True),
    "simple rnn": Case(recurrent("SimpleCell"), {"rnn": 1}, moves=True),
    "transformer block": Case(
        block,
        {"layer_norm": 2, "einsum_dense": 2, "dot_product_attention": 1, "dense": 2},
        moves=True,
    ),
}
