"""Haiku."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from recognition.case import Case, data

__all__ = ["CASES"]

IMAGE = (2, 8, 8, 4)
SEQUENCE = (2, 5, 8)


def filled(tree: Any) -> Any:
    """Weights of which none is zero or one, so that nothing can be left out."""
    import jax
    import jax.numpy as jnp

    rng = np.random.default_rng(0)

    def one(path: Any, x: Any) -> Any:
        if not jnp.issubdtype(x.dtype, jnp.floating):
            return x
        low, high = (0.5, 1.5) if "var" in jax.tree_util.keystr(path) else (-0.5, 0.5)
        return jnp.asarray(rng.uniform(low, high, x.shape), x.dtype)

    return jax.tree_util.tree_map_with_path(one, tree)


def of(forward: Callable[..., Any], *xs: Any):
    """``forward(hk, *arrays)``; shapes among ``xs`` stand for data."""

    def build() -> tuple[Callable[..., Any], tuple[Any, ...]]:
        import haiku as hk
        import jax

        args = tuple(data(*x, seed=i) if isinstance(x, tuple) else x for i, x in enumerate(xs))
        model = hk.without_apply_rng(hk.transform_with_state(lambda *a: forward(hk, *a)))
        params, state = (filled(tree) for tree in model.init(jax.random.key(0), *args))
        return lambda *args: model.apply(params, state, *args)[0], args

    return build


def dropout(*broadcast_dims: int):
    """As a model is trained, with its key as an argument."""

    def build():
        import haiku as hk
        import jax

        fn = lambda x, key: hk.dropout(key, 0.3, x, broadcast_dims)  # noqa: E731
        return fn, (data(*SEQUENCE), jax.random.key(1))

    return build


def batch_norm(with_conv: bool):
    def build():
        import haiku as hk
        import jax

        def forward(x, training):
            if with_conv:
                x = hk.Conv2D(6, 3, with_bias=False)(x)
            x = hk.BatchNorm(True, True, 0.9)(x, training)
            return jax.nn.relu(x) if with_conv else x

        x = data(*IMAGE)
        model = hk.without_apply_rng(hk.transform_with_state(forward))
        params, state = model.init(jax.random.key(0), x, True)
        params, state = filled(params), filled_statistics(state)
        return lambda x: model.apply(params, state, x, False)[0], (x,)

    return build


def filled_statistics(state: Any) -> Any:
    """Running means and variances, both positive."""
    import jax
    import jax.numpy as jnp

    rng = np.random.default_rng(1)
    return jax.tree_util.tree_map(
        lambda x: jnp.asarray(rng.uniform(0.5, 1.5, x.shape), x.dtype), state
    )


def embedding(hk, ids):
    return hk.Embed(7, 4)(ids)


def attention(causal: bool):
    def forward(hk, x):
        import jax.numpy as jnp

        mask = jnp.tril(jnp.ones((1, 1, 5, 5), bool)) if causal else None
        init = hk.initializers.VarianceScaling()
        return hk.MultiHeadAttention(2, 4, w_init=init, model_size=8)(x, x, x, mask=mask)

    return forward


def recurrent(core: str):
    def forward(hk, x):
        cell = getattr(hk, core)(4)
        return hk.dynamic_unroll(cell, x, cell.initial_state(2), time_major=False)[0]

    return forward


def block(hk, x):
    """A pre-norm transformer block."""
    import jax

    def norm(x):
        return hk.LayerNorm(-1, create_scale=True, create_offset=True)(x)

    y = norm(x)
    x = x + attention(False)(hk, y)
    y = hk.Linear(16)(norm(x))
    return x + hk.Linear(8)(jax.nn.gelu(y))


CASES: dict[str, Case] = {
    "dropout": Case(dropout(), {"dropout": 1}),
    "dropout, broadcast": Case(dropout(1), {"dropout": 1}),
    "dense": Case(of(lambda hk, x: hk.Linear(6)(x), (2, 8)), {"dense": 1}),
    "dense, no bias": Case(
        of(lambda hk, x: hk.Linear(6, with_bias=False)(x), (2, 8)), {"dense": 1}
    ),
    "dense, sequence": Case(of(lambda hk, x: hk.Linear(6)(x), SEQUENCE), {"dense": 1}),
    "conv": Case(of(lambda hk, x: hk.Conv2D(6, 3)(x), IMAGE), {"conv": 1}),
    "conv, channels first": Case(
        of(lambda hk, x: hk.Conv2D(6, 3, data_format="NCHW")(x), (2, 4, 8, 8)), {"conv": 1}
    ),
    "conv 1d, causal": Case(
        of(lambda hk, x: hk.Conv1D(6, 3, padding=hk.pad.causal)(x), SEQUENCE), {"conv": 1}
    ),
    "conv 3d": Case(of(lambda hk, x: hk.Conv3D(6, 2, 2)(x), (1, 4, 4, 4, 2)), {"conv": 1}),
    "conv, dilated": Case(of(lambda hk, x: hk.Conv2D(6, 3, rate=2)(x), IMAGE), {"conv": 1}),
    "conv, grouped": Case(
        of(lambda hk, x: hk.Conv2D(6, 3, feature_group_count=2)(x), IMAGE), {"conv": 1}
    ),
    "depthwise conv": Case(of(lambda hk, x: hk.DepthwiseConv2D(1, 3)(x), IMAGE), {"conv": 1}),
    "separable conv": Case(
        of(lambda hk, x: hk.SeparableDepthwiseConv2D(1, 3)(x), IMAGE), {"conv": 2}
    ),
    "transposed conv": Case(of(lambda hk, x: hk.Conv2DTranspose(6, 3, 2)(x), IMAGE), {"conv": 1}),
    "conv, batch norm, relu": Case(batch_norm(True), {"conv": 1}),
    "batch norm": Case(batch_norm(False), {"batch_norm": 1}),
    "layer norm": Case(
        of(lambda hk, x: hk.LayerNorm(-1, True, True)(x), SEQUENCE), {"layer_norm": 1}
    ),
    "rms norm": Case(of(lambda hk, x: hk.RMSNorm(-1)(x), SEQUENCE), {"rms_norm": 1}),
    "group norm": Case(of(lambda hk, x: hk.GroupNorm(2)(x), IMAGE), {"group_norm": 1}),
    "instance norm": Case(
        of(lambda hk, x: hk.InstanceNorm(True, True)(x), IMAGE), {"instance_norm": 1}
    ),
    "max pool": Case(of(lambda hk, x: hk.MaxPool(2, 2, "VALID")(x), IMAGE), {"max_pool": 1}),
    "avg pool": Case(of(lambda hk, x: hk.AvgPool(2, 2, "VALID")(x), IMAGE), {"avg_pool": 1}),
    "avg pool, same": Case(of(lambda hk, x: hk.AvgPool(3, 1, "SAME")(x), IMAGE), {"avg_pool": 1}),
    "embedding": Case(
        of(embedding, np.asarray([[1, 2, 0], [3, 4, 4]], np.int32)), {"embedding": 1}
    ),
    "attention, self": Case(
        of(attention(False), SEQUENCE), {"dense": 2, "dot_product_attention": 1}, moves=True
    ),
    "attention, causal": Case(
        of(attention(True), SEQUENCE), {"dense": 2, "dot_product_attention": 1}, moves=True
    ),
    "lstm": Case(of(recurrent("LSTM"), SEQUENCE), {"lstm": 1}, moves=True),
    "gru": Case(of(recurrent("GRU"), SEQUENCE), {"gru": 1}, moves=True),
    "simple rnn": Case(of(recurrent("VanillaRNN"), SEQUENCE), {"rnn": 1}, moves=True),
    "transformer block": Case(
        of(block, SEQUENCE), {"layer_norm": 2, "dense": 4, "dot_product_attention": 1}, moves=True
    ),
}
