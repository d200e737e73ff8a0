"""The norm layers of every framework, whole and by name, in both pipelines."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "jax")

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxpress as jp
from helpers import array

X = array(2, 4, 6, 8)
Layer = Callable[[str], tuple[Callable[..., Any], tuple[Any, ...]]]


def varied(tree: Any) -> Any:
    """Weights without a 0 or 1 among them, which would hide a mistake."""
    leaves, structure = jax.tree.flatten(tree)
    new = [
        array(*v.shape, seed=i, dtype=v.dtype) if jnp.issubdtype(v.dtype, jnp.floating) else v
        for i, v in enumerate(leaves)
    ]
    return jax.tree.unflatten(structure, new)


def linen(name: str, **options: Any) -> Layer:
    def build(dtype: str) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        import flax.linen as nn

        layer = getattr(nn, name)(dtype=jnp.dtype(dtype), **options)
        params = varied(jax.eval_shape(layer.init, jax.random.key(0), X))
        return layer.apply, (params, X.astype(dtype))

    return build


def nnx(name: str, **options: Any) -> Layer:
    def build(dtype: str) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        from flax import nnx

        layer = getattr(nnx, name)(8, dtype=jnp.dtype(dtype), rngs=nnx.Rngs(0), **options)
        definition, state = nnx.split(layer)
        return lambda s, x: nnx.merge(definition, s)(x), (varied(state), X.astype(dtype))

    return build


def equinox(name: str, *args: Any, levels: int = 1, **options: Any) -> Layer:
    def build(dtype: str) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        import equinox as eqx

        arrays, static = eqx.partition(getattr(eqx.nn, name)(*args, **options), eqx.is_array)
        arrays = varied(jax.tree.map(lambda v: v.astype(dtype), arrays))

        def fn(arrays: Any, x: Any) -> Any:
            layer = eqx.combine(arrays, static)
            for _ in range(levels):
                layer = jax.vmap(layer)
            return layer(x)

        return fn, (arrays, X.astype(dtype))

    return build


def haiku(name: str, *args: Any, **options: Any) -> Layer:
    def build(dtype: str) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        import haiku as hk

        made = hk.transform(lambda x: getattr(hk, name)(*args, **options)(x))
        apply = hk.without_apply_rng(made).apply
        x = X.astype(dtype)
        return apply, (varied(jax.eval_shape(made.init, None, x)), x)

    return build


def keras(name: str, **options: Any) -> Layer:
    def build(dtype: str) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        import keras

        policy = "mixed_bfloat16" if dtype == "bfloat16" else dtype
        layer = getattr(keras.layers, name)(dtype=policy, **options)
        layer.build(X.shape)
        weights = varied([v.value for v in layer.trainable_variables])
        return lambda w, x: layer.stateless_call(w, [], x)[0], (weights, X.astype(dtype))

    return build


BOTH = ("x", "scale", "bias")
LAYERS: Mapping[str, tuple[Layer, str, dict[str, Any]]] = {
    "linen layer norm": (linen("LayerNorm"), "layer_norm", {"axis": -1, "operands": BOTH}),
    "linen layer norm, two passes": (
        linen("LayerNorm", use_fast_variance=False), "layer_norm", {"axis": -1, "operands": BOTH},
    ),
    "linen layer norm, no bias": (
        linen("LayerNorm", use_bias=False), "layer_norm", {"operands": ("x", "scale")},
    ),
    "linen layer norm, no affine": (
        linen("LayerNorm", use_bias=False, use_scale=False), "layer_norm", {"operands": ("x",)},
    ),
    "linen layer norm over three axes": (
        linen("LayerNorm", reduction_axes=(1, 2, 3), feature_axes=(1, 2, 3)),
        "layer_norm", {"axis": (-3, -2, -1), "operands": BOTH},
    ),
    "linen rms norm": (linen("RMSNorm"), "rms_norm", {"axis": -1, "operands": BOTH[:2]}),
    "linen group norm": (linen("GroupNorm", num_groups=4), "group_norm", {"groups": 4}),
    "linen group norm by size": (
        linen("GroupNorm", num_groups=None, group_size=4), "group_norm", {"groups": 2},
    ),
    "linen group norm of one group": (
        linen("GroupNorm", num_groups=1), "group_norm", {"groups": 1, "operands": BOTH},
    ),
    "linen instance norm": (linen("InstanceNorm"), "instance_norm", {"operands": BOTH}),
    "nnx layer norm": (nnx("LayerNorm"), "layer_norm", {"axis": -1, "operands": BOTH}),
    "nnx layer norm, two passes": (
        nnx("LayerNorm", use_fast_variance=False), "layer_norm", {"operands": BOTH},
    ),
    "nnx rms norm": (nnx("RMSNorm"), "rms_norm", {"axis": -1, "operands": BOTH[:2]}),
    "nnx group norm": (nnx("GroupNorm", num_groups=2), "group_norm", {"groups": 2}),
    "nnx instance norm": (nnx("InstanceNorm"), "instance_norm", {"operands": BOTH}),
    "equinox layer norm": (
        equinox("LayerNorm", 8, levels=3), "layer_norm", {"axis": -1, "operands": BOTH},
    ),
    "equinox layer norm of whole examples": (
        equinox("LayerNorm", (4, 6, 8)), "layer_norm", {"axis": (-3, -2, -1), "operands": BOTH},
    ),
    "equinox layer norm, no affine": (
        equinox("LayerNorm", 8, levels=3, use_weight=False, use_bias=False),
        "layer_norm", {"operands": ("x",)},
    ),
    "equinox rms norm": (
        equinox("RMSNorm", 8, levels=3), "rms_norm", {"axis": -1, "operands": BOTH},
    ),
    "equinox group norm": (
        equinox("GroupNorm", 2, 4), "group_norm", {"groups": 2, "axis": -3, "operands": BOTH},
    ),
    "equinox group norm, no affine": (
        equinox("GroupNorm", 2, channelwise_affine=False), "group_norm", {"operands": ("x",)},
    ),
    "haiku layer norm": (
        haiku("LayerNorm", -1, True, True), "layer_norm", {"axis": -1, "operands": BOTH},
    ),
    "haiku layer norm, fast": (
        haiku("LayerNorm", -1, True, True, use_fast_variance=True),
        "layer_norm", {"operands": BOTH},
    ),
    "haiku layer norm over two axes": (
        haiku("LayerNorm", (-1, -2), True, True, param_axis=-1),
        "layer_norm", {"axis": (-2, -1), "operands": BOTH},
    ),
    "haiku rms norm": (haiku("RMSNorm", -1), "rms_norm", {"axis": -1, "operands": BOTH[:2]}),
    "haiku group norm": (haiku("GroupNorm", 4), "group_norm", {"groups": 4, "operands": BOTH}),
    "haiku group norm, channels first": (
        haiku("GroupNorm", 2, data_format="channels_first"),
        "group_norm", {"groups": 2, "axis": -3, "operands": BOTH},
    ),
    "haiku instance norm": (
        haiku("InstanceNorm", True, True), "instance_norm", {"axis": -1, "operands": BOTH},
    ),
    "keras layer norm": (
        keras("LayerNormalization"), "layer_norm", {"axis": -1, "operands": BOTH},
    ),
    "keras layer norm over two axes": (
        keras("LayerNormalization", axis=(-2, -1)),
        "layer_norm", {"axis": (-2, -1), "operands": BOTH},
    ),
    "keras layer norm, no scale": (
        keras("LayerNormalization", scale=False), "layer_norm", {"operands": ("x", "bias")},
    ),
    "keras rms norm": (keras("RMSNormalization"), "rms_norm", {"operands": BOTH[:2]}),
    "keras group norm": (
        keras("GroupNormalization", groups=4), "group_norm", {"groups": 4, "operands": BOTH},
    ),
    "keras group norm of single features": (
        keras("GroupNormalization", groups=-1), "instance_norm", {"operands": BOTH},
    ),
    "keras unit norm": (keras("UnitNormalization"), "l2_normalize", {"axis": -1}),
    "keras unit norm of an axis": (
        keras("UnitNormalization", axis=1), "l2_normalize", {"axis": -3},
    ),
}  # fmt: skip

MOVES = {"reshape", "broadcast_in_dim", "transpose", "squeeze", "convert_element_type"}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", LAYERS)
def test_layer(name: str, dtype: str) -> None:
    build, op, params = LAYERS[name]
    fn, args = build(dtype)
    fast = jp.optimize(fn, passes="default" if dtype == "float32" else "inference")
    graph = fast.graph(*args)
    (node,) = graph.find(op)
    assert {k: node.params[k] for k in params} == params
    # Nothing else computes; parameters may be laid out for the op, full arrays are not touched.
    rest = [n for n in graph.nodes if n is not node]
    assert all(n.op in MOVES for n in rest), f"in\n{graph}"
    assert all(math.prod(n.output.shape) < X.size for n in rest if n.op == "broadcast_in_dim")
    want = np.asarray(jax.jit(fn)(*args), np.float64)
    got = fast(*args)
    assert got.dtype == dtype
    eps = float(jnp.finfo(dtype).eps)
    limit = 4 if dtype == "bfloat16" else 16  # the original rounds on the way
    np.testing.assert_allclose(
        np.asarray(got, np.float64), want, rtol=limit * eps, atol=limit * eps
    )


def test_a_transformer_block_has_nothing_else_of_its_norms() -> None:
    import flax.linen as nn

    class Block(nn.Module):
        @nn.compact
        def __call__(self, x: Any) -> Any:
            x = x + nn.Dense(8)(nn.LayerNorm(dtype=jnp.bfloat16)(x))
            return nn.RMSNorm()(x + nn.Dense(8)(nn.gelu(nn.Dense(16)(nn.LayerNorm()(x)))))

    block = Block()
    params = varied(jax.eval_shape(block.init, jax.random.key(0), X))
    count = jp.optimize(block.apply).graph(params, X).count()
    assert (count["layer_norm"], count["rms_norm"]) == (2, 1)
    assert not {"rsqrt", "reduce_sum", "mul", "sub", "div", "square"} & set(count), count
