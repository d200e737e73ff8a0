"""Equinox, whose layers take one example; most are mapped over a batch with ``jax.vmap``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from recognition.case import Case, data

__all__ = ["CASES"]

IMAGE = (2, 4, 8, 8)
SEQUENCE = (2, 5, 8)


def filled(module: Any) -> Any:
    """The module with weights of which none is zero or one, so that nothing can be left out."""
    import equinox as eqx
    import jax
    import jax.numpy as jnp

    rng = np.random.default_rng(0)

    def one(x: Any) -> Any:
        if not eqx.is_inexact_array(x):
            return x
        return jnp.asarray(rng.uniform(-0.5, 0.5, x.shape), x.dtype)

    return jax.tree_util.tree_map(one, module)


def of(make: Callable[[Any, Any], Any], shape: tuple[int, ...], vmaps: int = 1):
    """A module by ``make(equinox.nn, key)`` under ``vmaps`` maps, on an array of this shape."""

    def build() -> tuple[Callable[..., Any], tuple[Any, ...]]:
        import equinox as eqx
        import jax

        fn: Callable[..., Any] = filled(make(eqx.nn, jax.random.key(0)))
        for _ in range(vmaps):
            fn = jax.vmap(fn)
        return fn, (data(*shape),)

    return build


def batch_norm(with_conv: bool):
    def build():
        import equinox as eqx
        import jax
        import jax.numpy as jnp

        nn = eqx.nn
        key = jax.random.key(0)
        conv = filled(nn.Conv2d(4, 4, 3, use_bias=False, key=key))
        norm, state = nn.make_with_state(nn.BatchNorm)(4, axis_name="batch", mode="ema")
        norm = filled(norm)
        old = state.get(norm.ema_state_index)
        rng = np.random.default_rng(1)
        new = tuple(jnp.asarray(rng.uniform(0.5, 1.5, x.shape), x.dtype) for x in old)
        state = state.set(norm.ema_state_index, new)
        norm = eqx.nn.inference_mode(norm)

        def one(x):
            y, _ = norm(conv(x) if with_conv else x, state)
            return jax.nn.relu(y) if with_conv else y

        return jax.vmap(one, axis_name="batch"), (data(*IMAGE),)

    return build


def embedding():
    import equinox as eqx
    import jax
    import jax.numpy as jnp

    module = filled(eqx.nn.Embedding(7, 4, key=jax.random.key(0)))
    return jax.vmap(module), (jnp.asarray([1, 2, 0, 3]),)


def attention(causal: bool):
    def build():
        import equinox as eqx
        import jax
        import jax.numpy as jnp

        module = filled(eqx.nn.MultiheadAttention(2, 8, key=jax.random.key(0)))
        mask = jnp.tril(jnp.ones((5, 5), bool)) if causal else None
        return jax.vmap(lambda x: module(x, x, x, mask=mask)), (data(*SEQUENCE),)

    return build


def recurrent(cell: str):
    def build():
        import equinox as eqx
        import jax
        import jax.numpy as jnp

        module = filled(getattr(eqx.nn, cell)(8, 4, key=jax.random.key(0)))
        zeros = jnp.zeros(4)
        state = (zeros, zeros) if cell == "LSTMCell" else zeros

        def one(xs):
            def step(state, x):
                state = module(x, state)
                return state, state[0] if cell == "LSTMCell" else state

            return jax.lax.scan(step, state, xs)[1]

        return jax.vmap(one), (data(*SEQUENCE),)

    return build


def dropout(axis: int):
    """As a model is trained: an example at a time, each with a key of its own."""

    def build():
        import equinox as eqx
        import jax

        layer, keys = eqx.nn.Dropout(0.3), jax.random.split(jax.random.key(1), SEQUENCE[axis])
        return jax.vmap(lambda x, key: layer(x, key=key), (axis, 0), axis), (data(*SEQUENCE), keys)

    return build


def block():
    """A pre-norm transformer block."""
    import equinox as eqx
    import jax

    keys = jax.random.split(jax.random.key(0), 3)
    nn = eqx.nn
    first, second = filled(nn.LayerNorm(8)), filled(nn.LayerNorm(8))
    mixer = filled(nn.MultiheadAttention(2, 8, key=keys[0]))
    up, down = (
        filled(nn.Linear(*s, key=k)) for s, k in zip(((8, 16), (16, 8)), keys[1:], strict=True)
    )

    def one(x):
        y = jax.vmap(first)(x)
        x = x + mixer(y, y, y)
        y = jax.vmap(up)(jax.vmap(second)(x))
        return x + jax.vmap(down)(jax.nn.gelu(y))

    return jax.vmap(one), (data(*SEQUENCE),)


CASES: dict[str, Case] = {
    "dense": Case(of(lambda nn, k: nn.Linear(8, 6, key=k), (2, 8)), {"dense": 1}, moves=True),
    "dense, one example": Case(
        of(lambda nn, k: nn.Linear(8, 6, key=k), (8,), 0), {"dense": 1}, moves=True
    ),
    "dense, no bias": Case(
        of(lambda nn, k: nn.Linear(8, 6, use_bias=False, key=k), (2, 8)), {"dense": 1}, moves=True
    ),
    "dense, sequence": Case(
        of(lambda nn, k: nn.Linear(8, 6, key=k), SEQUENCE, 2), {"dense": 1}, moves=True
    ),
    "conv": Case(of(lambda nn, k: nn.Conv2d(4, 6, 3, key=k), IMAGE), {"conv": 1}),
    "conv 1d": Case(of(lambda nn, k: nn.Conv1d(5, 6, 3, padding=1, key=k), SEQUENCE), {"conv": 1}),
    "conv 3d": Case(of(lambda nn, k: nn.Conv3d(2, 6, 2, 2, key=k), (1, 2, 4, 4, 4)), {"conv": 1}),
    "conv, dilated": Case(
        of(lambda nn, k: nn.Conv2d(4, 6, 3, dilation=2, key=k), IMAGE), {"conv": 1}
    ),
    "conv, grouped": Case(
        of(lambda nn, k: nn.Conv2d(4, 6, 3, groups=2, key=k), IMAGE), {"conv": 1}
    ),
    "depthwise conv": Case(
        of(lambda nn, k: nn.Conv2d(4, 4, 3, groups=4, key=k), IMAGE), {"conv": 1}
    ),
    "transposed conv": Case(
        of(lambda nn, k: nn.ConvTranspose2d(4, 6, 3, 2, key=k), IMAGE), {"conv": 1}
    ),
    "conv, batch norm, relu": Case(batch_norm(True), {"conv": 1}),
    "batch norm": Case(batch_norm(False), {"batch_norm": 1}),
    "layer norm": Case(of(lambda nn, k: nn.LayerNorm(8), SEQUENCE, 2), {"layer_norm": 1}),
    "rms norm": Case(of(lambda nn, k: nn.RMSNorm(8), SEQUENCE, 2), {"rms_norm": 1}),
    "group norm": Case(of(lambda nn, k: nn.GroupNorm(2, 4), IMAGE), {"group_norm": 1}),
    "max pool": Case(of(lambda nn, k: nn.MaxPool2d(2, 2), IMAGE), {"max_pool": 1}),
    "avg pool": Case(of(lambda nn, k: nn.AvgPool2d(2, 2), IMAGE), {"avg_pool": 1}),
    "adaptive avg pool": Case(
        of(lambda nn, k: nn.AdaptiveAvgPool2d(2), IMAGE), {"avg_pool": 1}, moves=True
    ),
    "embedding": Case(embedding, {"embedding": 1}),
    "prelu": Case(of(lambda nn, k: nn.PReLU(), SEQUENCE), {"prelu": 1}, moves=True),
    "attention, self": Case(attention(False), {"dense": 2, "dot_product_attention": 1}, moves=True),
    "attention, causal": Case(
        attention(True), {"dense": 2, "dot_product_attention": 1}, moves=True
    ),
    "lstm": Case(recurrent("LSTMCell"), {"lstm": 1}, moves=True),
    "gru": Case(recurrent("GRUCell"), {"gru": 1}, moves=True),
    "dropout": Case(dropout(0), {"dropout": 1}),
    "dropout, over a later axis": Case(dropout(1), {"dropout": 1}, moves=True),
    "transformer block": Case(
        block, {"layer_norm": 2, "dense": 4, "dot_product_attention": 1}, moves=True
    ),
}
