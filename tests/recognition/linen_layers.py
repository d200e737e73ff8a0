"""Flax Linen."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from recognition.case import Case, data

__all__ = ["CASES"]

IMAGE = (2, 8, 8, 4)
SEQUENCE = (2, 5, 8)


def filled(tree: Any) -> Any:
    """Variables of which none is zero or one, so that nothing can be left out."""
    import jax
    import jax.numpy as jnp

    rng = np.random.default_rng(0)

    def one(path: Any, x: Any) -> Any:
        low, high = (0.5, 1.5) if "var" in jax.tree_util.keystr(path) else (-0.5, 0.5)
        return jnp.asarray(rng.uniform(low, high, x.shape), x.dtype)

    return jax.tree_util.tree_map_with_path(one, tree)


def of(make: Callable[[Any], Any], *xs: Any, **call: Any):
    """A module by ``make(flax.linen)``; shapes among ``xs`` stand for data."""

    def build() -> tuple[Callable[..., Any], tuple[Any, ...]]:
        import flax.linen as nn
        import jax

        args = tuple(data(*x, seed=i) if isinstance(x, tuple) else x for i, x in enumerate(xs))
        module = make(nn)
        variables = filled(module.init(jax.random.key(0), *args, **call))
        return lambda *args: module.apply(variables, *args, **call), args

    return build


def dropout(*broadcast_dims: int):
    """As a model is trained, with its key as an argument."""

    def build():
        import flax.linen as nn
        import jax

        layer = nn.Dropout(0.3, broadcast_dims, deterministic=False)
        fn = lambda x, key: layer.apply({}, x, rngs={"dropout": key})  # noqa: E731
        return fn, (data(*SEQUENCE), jax.random.key(1))

    return build


def function(call: Callable[[Any], Callable[..., Any]], *shapes: tuple[int, ...]):
    def build():
        import flax.linen as nn

        return call(nn), tuple(data(*shape) for shape in shapes)

    return build


def ids(make: Callable[[Any], Any], method: str = "__call__"):
    def build():
        import flax.linen as nn
        import jax
        import jax.numpy as jnp

        module = make(nn)
        x = jnp.asarray([[1, 2, 0], [3, 4, 4]]) if method == "__call__" else data(2, 3, 4)
        variables = filled(module.init(jax.random.key(0), jnp.zeros((1,), int)))
        return lambda x: module.apply(variables, x, method=method), (x,)

    return build


def block():
    """A pre-norm transformer block."""

    def build():
        import flax.linen as nn
        import jax

        class Block(nn.Module):
            @nn.compact
            def __call__(self, x):
                y = nn.LayerNorm()(x)
                x = x + nn.MultiHeadDotProductAttention(num_heads=2, qkv_features=8)(y, y)
                y = nn.Dense(16)(nn.LayerNorm()(x))
                return x + nn.Dense(8)(nn.gelu(y))

        x = data(*SEQUENCE)
        module = Block()
        variables = filled(module.init(jax.random.key(0), x))
        return lambda x: module.apply(variables, x), (x,)

    return build


def attention(mask: bool):
    def build():
        import flax.linen as nn
        import jax

        module = nn.MultiHeadDotProductAttention(num_heads=2, qkv_features=8)
        x = data(*SEQUENCE)
        variables = filled(module.init(jax.random.key(0), x, x))

        def fn(x):
            return module.apply(variables, x, mask=nn.make_causal_mask(x[..., 0]) if mask else None)

        return fn, (x,)

    return build


KEYS = {"random_fold_in": "each layer has a key of its own"}

CASES: dict[str, Case] = {
    "dropout": Case(dropout(), {"dropout": 1}, rest=KEYS),
    "dropout, broadcast": Case(dropout(1), {"dropout": 1}, rest=KEYS),
    "dense": Case(of(lambda nn: nn.Dense(6), (2, 8)), {"dense": 1}),
    "dense, no bias": Case(of(lambda nn: nn.Dense(6, use_bias=False), (2, 8)), {"dense": 1}),
    "dense, sequence": Case(of(lambda nn: nn.Dense(6), SEQUENCE), {"dense": 1}),
    "einsum dense": Case(of(lambda nn: nn.DenseGeneral((2, 4)), SEQUENCE), {"einsum_dense": 1}),
    "einsum dense, two axes": Case(
        of(lambda nn: nn.DenseGeneral(6, axis=(-2, -1)), SEQUENCE), {"einsum_dense": 1}
    ),
    "conv": Case(of(lambda nn: nn.Conv(6, (3, 3)), IMAGE), {"conv": 1}),
    "conv 1d, causal": Case(
        of(lambda nn: nn.Conv(6, (3,), padding="CAUSAL"), SEQUENCE), {"conv": 1}
    ),
    "conv 3d": Case(of(lambda nn: nn.Conv(6, (2, 2, 2), strides=2), (1, 4, 4, 4, 2)), {"conv": 1}),
    "conv, dilated": Case(of(lambda nn: nn.Conv(6, (3, 3), kernel_dilation=2), IMAGE), {"conv": 1}),
    "conv, grouped": Case(
        of(lambda nn: nn.Conv(6, (3, 3), feature_group_count=2), IMAGE), {"conv": 1}
    ),
    "depthwise conv": Case(
        of(lambda nn: nn.Conv(4, (3, 3), feature_group_count=4), IMAGE), {"conv": 1}
    ),
    "transposed conv": Case(
        of(lambda nn: nn.ConvTranspose(6, (3, 3), strides=(2, 2)), IMAGE), {"conv": 1}
    ),
    "conv, batch norm, relu": Case(
        of(
            lambda nn: nn.Sequential(
                [
                    nn.Conv(6, (3, 3), use_bias=False),
                    nn.BatchNorm(use_running_average=True),
                    nn.relu,
                ]
            ),
            IMAGE,
        ),
        {"conv": 1},
    ),
    "batch norm": Case(
        of(lambda nn: nn.BatchNorm(use_running_average=True), IMAGE), {"batch_norm": 1}
    ),
    "layer norm": Case(of(lambda nn: nn.LayerNorm(), SEQUENCE), {"layer_norm": 1}),
    "layer norm, two passes": Case(
        of(lambda nn: nn.LayerNorm(use_fast_variance=False), SEQUENCE), {"layer_norm": 1}
    ),
    "layer norm, no affine": Case(
        of(lambda nn: nn.LayerNorm(use_bias=False, use_scale=False), SEQUENCE), {"layer_norm": 1}
    ),
    "rms norm": Case(of(lambda nn: nn.RMSNorm(), SEQUENCE), {"rms_norm": 1}),
    "group norm": Case(of(lambda nn: nn.GroupNorm(2), IMAGE), {"group_norm": 1}),
    "instance norm": Case(of(lambda nn: nn.InstanceNorm(), IMAGE), {"instance_norm": 1}),
    "max pool": Case(
        function(lambda nn: lambda x: nn.max_pool(x, (2, 2), (2, 2)), IMAGE), {"max_pool": 1}
    ),
    "avg pool": Case(
        function(lambda nn: lambda x: nn.avg_pool(x, (2, 2), (2, 2)), IMAGE), {"avg_pool": 1}
    ),
    "avg pool, same": Case(
        function(
            lambda nn: lambda x: nn.avg_pool(x, (3, 3), padding="SAME", count_include_pad=False),
            IMAGE,
        ),
        {"avg_pool": 1},
    ),
    "embedding": Case(ids(lambda nn: nn.Embed(7, 4)), {"embedding": 1}),
    "attend": Case(ids(lambda nn: nn.Embed(7, 4), "attend"), {"dense": 1}),
    "softmax": Case(function(lambda nn: nn.softmax, SEQUENCE), {"softmax": 1}),
    "log softmax": Case(function(lambda nn: nn.log_softmax, SEQUENCE), {"log_softmax": 1}),
    "gelu": Case(function(lambda nn: nn.gelu, SEQUENCE), {"gelu": 1}),
    "silu": Case(function(lambda nn: nn.silu, SEQUENCE), {"silu": 1}),
    "leaky relu": Case(function(lambda nn: nn.leaky_relu, SEQUENCE), {"leaky_relu": 1}),
    "attention": Case(
        of(lambda nn: nn.MultiHeadDotProductAttention(2, qkv_features=8), SEQUENCE, SEQUENCE),
        {"einsum_dense": 3, "dot_product_attention": 1},
        moves=True,
    ),
    "attention, self": Case(
        attention(False), {"einsum_dense": 2, "dot_product_attention": 1}, moves=True
    ),
    "attention, causal": Case(
        attention(True), {"einsum_dense": 2, "dot_product_attention": 1}, moves=True
    ),
    "lstm": Case(of(lambda nn: nn.RNN(nn.LSTMCell(4)), SEQUENCE), {"lstm": 1}, moves=True),
    "lstm, fused gates": Case(
        of(lambda nn: nn.RNN(nn.OptimizedLSTMCell(4)), SEQUENCE), {"lstm": 1}, moves=True
    ),
    "gru": Case(of(lambda nn: nn.RNN(nn.GRUCell(4)), SEQUENCE), {"gru": 1}, moves=True),
    "simple rnn": Case(of(lambda nn: nn.RNN(nn.SimpleCell(4)), SEQUENCE), {"rnn": 1}, moves=True),
    "transformer block": Case(
        block(),
        {"layer_norm": 2, "einsum_dense": 2, "dot_product_attention": 1, "dense": 2},
        moves=True,
    ),
}
