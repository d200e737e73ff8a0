"""Batch norm in training: the output and the running statistics are one node's results."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "jax")

import jax
import jax.numpy as jnp
import pytest
from jax import lax

import jaxpress as jp
from helpers import array, assert_close, positive, rewritten
from jaxpress import passes
from jaxpress.capture import trace
from jaxpress.passes.rules.raise_norm import RAISE_NORM
from jaxpress.testing import assert_rewrites

X = array(4, 3, 4, 4)
MEAN, VAR = array(4, seed=1), positive(4)
G, B = array(4, seed=2), array(4, seed=3)
EPS = 1e-5
RULES = passes.cleanup[:3] + RAISE_NORM + passes.dce


def linen(**options: Any) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    import flax.linen as nn

    layer = nn.BatchNorm(use_running_average=False, momentum=0.9, **options)
    params = {"scale": G, "bias": B} if options.get("use_scale", True) else {}

    def fn(params: Any, mean: Any, var: Any, x: Any) -> Any:
        variables = {"params": params, "batch_stats": {"mean": mean, "var": var}}
        return layer.apply(variables, x, mutable=["batch_stats"])

    return fn, (params, MEAN, VAR, X)


def linen_vmapped() -> tuple[Callable[..., Any], tuple[Any, ...]]:
    fn, args = linen(axis_name="batch")
    axes = {"in_axes": (None, None, None, 0), "out_axes": (0, None)}
    return jax.vmap(fn, axis_name="batch", **axes), (*args[:3], X[:, None])


def nnx() -> tuple[Callable[..., Any], tuple[Any, ...]]:
    from flax import nnx

    definition, state = nnx.split(nnx.BatchNorm(4, momentum=0.9, rngs=nnx.Rngs(0)))

    def fn(state: Any, x: Any) -> Any:
        layer = nnx.merge(definition, state)
        return layer(x, use_running_average=False), nnx.state(layer)

    return fn, (state, X)


def haiku() -> tuple[Callable[..., Any], tuple[Any, ...]]:
    import haiku as hk

    made = hk.transform_with_state(lambda x: hk.BatchNorm(True, True, 0.9)(x, is_training=True))
    params, state = made.init(None, X)
    return lambda p, s, x: made.apply(p, s, None, x), (params, state, X)


def keras() -> tuple[Callable[..., Any], tuple[Any, ...]]:
    import keras

    layer = keras.layers.BatchNormalization(momentum=0.9, epsilon=EPS)
    layer.build(X.shape)
    fn = lambda w, s, x: layer.stateless_call(w, s, x, training=True)  # noqa: E731
    return fn, ([G, B], [MEAN, VAR], X)


def equinox() -> tuple[Callable[..., Any], tuple[Any, ...]]:
    import equinox as eqx

    both = eqx.nn.make_with_state(eqx.nn.BatchNorm)(4, "batch", mode="batch", momentum=0.9)
    arrays, static = eqx.partition(both, eqx.is_array)

    def fn(arrays: Any, x: Any) -> Any:
        layer, state = eqx.combine(arrays, static)
        run = jax.vmap(layer, axis_name="batch", in_axes=(0, None), out_axes=(0, None))
        y, state = run(x, state)
        return y, eqx.filter(state, eqx.is_array)

    return fn, (arrays, jnp.moveaxis(X, -1, 1))


# With what is left besides: gradients stopped, steps counted, an average that is not biased.
LAYERS: dict[str, tuple[Callable[[], Any], set[str]]] = {
    "linen": (linen, set()),
    "linen, two passes": (lambda: linen(use_fast_variance=False), set()),
    "linen, no affine": (lambda: linen(use_scale=False, use_bias=False), set()),
    "linen under vmap": (linen_vmapped, set()),
    "nnx": (nnx, {"stop_gradient"}),
    "haiku": (haiku, {"reshape", "add", "sub", "pow", "div", "convert_element_type"}),
    "keras": (keras, set()),
    "equinox": (equinox, {"add"}),
}


@pytest.mark.parametrize("name", LAYERS)
def test_layer(name: str) -> None:
    build, rest = LAYERS[name]
    fn, args = build()
    fast = jp.optimize(fn)
    graph = fast.graph(*args)
    (node,) = graph.find("batch_norm_train")
    assert set(graph.count()) - {"batch_norm_train"} <= rest, f"in\n{graph}"
    assert node.params["momentum"] == 0.9 and node.params["epsilon"] == EPS
    assert all(graph.users(v) or v in graph.outputs for v in node.outputs)
    assert_close(fast(*args), jax.jit(fn)(*args))


def by_hand(x, mean, var, g, b, momentum=0.9):
    m, v = x.mean((0, 1, 2)), x.var((0, 1, 2))
    y = (x - m) * lax.rsqrt(v + EPS) * g + b
    return y, momentum * mean + (1 - momentum) * m, var * momentum + v * (1 - momentum)


ARGS = (X, MEAN, VAR, G, B)


def inlined(fn, *args):
    graph, _ = passes.cleanup[:3].run(trace(fn)(*args))
    return lambda *a: graph(*a)


def test_it_stays_the_same_function() -> None:
    new = assert_rewrites(RAISE_NORM, inlined(by_hand, *ARGS), *ARGS, times=1)
    assert new.count() == {"batch_norm_train": 1}


def raised(fn, *args):
    new, rules = rewritten(RULES, fn, *args)
    assert_close(jax.jit(new)(*args), jax.jit(fn)(*args))
    assert rules.count("raise_norm") == len(new.find("batch_norm_train"))
    return new


def test_statistics_that_are_used_otherwise_are_the_batch_s_own() -> None:
    def fn(x, mean, var, g, b):
        y, *_ = by_hand(x, mean, var, g, b)
        m, v = x.mean((0, 1, 2)), x.var((0, 1, 2))
        return y, mean + 0.1 * (m - mean), jnp.sqrt(v), m

    new = raised(fn, *ARGS)
    (node,) = new.find("batch_norm_train")
    assert node.params["momentum"] == 0.0
    assert "reduce_sum" not in new.count()


def test_two_momenta_are_two_averages() -> None:
    def fn(*args):
        y, mean, _ = by_hand(*args)
        return y, mean, by_hand(*args, momentum=0.5)[2]

    new = raised(fn, *ARGS)
    (node,) = new.find("batch_norm_train")
    assert node.params["momentum"] == 0.0


def test_the_output_alone() -> None:
    new = raised(lambda x, g, b: by_hand(x, MEAN, VAR, g, b)[0], X, G, B)
    (node,) = new.find("batch_norm_train")
    assert node.params["operands"] == ("x", "mean", "var", "scale", "bias")


def test_in_low_precision_the_statistics_stay_in_float32() -> None:
    def fn(x, mean, var, g, b):
        y, *news = by_hand(x.astype("float32"), mean, var, g, b)
        return y.astype(x.dtype), *news

    args = (X.astype("bfloat16"), *ARGS[1:])
    new = raised(fn, *args)
    assert new.count() == {"batch_norm_train": 1}
    assert [v.dtype for v in new.outputs] == ["bfloat16", "float32", "float32"]


def test_another_inner_value_that_is_needed_keeps_all() -> None:
    def fn(x, mean, var, g, b):
        y, *news = by_hand(x, mean, var, g, b)
        return y, *news, lax.rsqrt(x.var((0, 1, 2)) + EPS)

    new, rules = rewritten(RULES, fn, *ARGS)
    assert "raise_norm" not in rules and "rsqrt" in new.count()


def test_a_training_step_stays_right() -> None:
    def loss(g, b, x, mean, var):
        y, mean, var = by_hand(x, mean, var, g, b)
        return jnp.sum(jnp.sin(jax.nn.relu(y))), (mean, var)

    step = jax.value_and_grad(loss, (0, 1), has_aux=True)
    args = (G, B, X, MEAN, VAR)
    fast = jp.optimize(step)
    assert_close(fast(*args), jax.jit(step)(*args))
    # Optimised before it is differentiated.
    inner = jax.value_and_grad(jp.optimize(loss), (0, 1), has_aux=True)
    assert_close(jax.jit(inner)(*args), jax.jit(step)(*args))
    assert jp.optimize(loss).graph(*args).count()["batch_norm_train"] == 1
