"""Applying a preset twice changes nothing the second time, on whole models and training steps."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import pytest
from jax import lax

import jaxpress as jp
import zoo
from jaxpress.capture import Graph
from jaxpress.passes import Pipeline

SIZES = {"cnn": 32, "mlp": 16, "transformer": 8}
PRESETS = [p for p in vars(jp.passes).values() if isinstance(p, Pipeline)]
# One batch norm more or less changes nothing here: the small ones of each kind will do.
NAMES = [
    name
    for name in zoo.MODELS
    if name.split("_", 1)[1] in SIZES or name in ("haiku_resnet18", "keras_mobilenet_v2")
]


def assert_settled(graph: Graph) -> None:
    for preset in PRESETS:
        once, _ = preset.run(graph)
        again, report = preset.run(once, check=True)
        assert not report.rewrites, f"{preset.name} again: {report.rewrites[0]}"
        assert again.count() == once.count(), preset.name
        assert [n.op for n in again.nodes] == [n.op for n in once.nodes]


def built(name: str) -> Any:
    if not zoo.available(name):
        pytest.skip(f"{name}: its library is not installed")
    return zoo.build(name, size=SIZES.get(name.split("_", 1)[1], 64))


@pytest.mark.parametrize("name", NAMES)
def test_models(name: str) -> None:
    model = built(name)
    assert_settled(jp.trace(model.fn)(*model.args))


def _unused_user(x: Any) -> Any:
    y = x @ jnp.ones((3, 3))
    jnp.sin(y)  # nobody needs it, so it is no second user
    return jax.nn.silu(y)


def _pad_between_convolutions(x: Any) -> Any:
    def conv(x: Any, w: Any) -> Any:
        numbers = ("NHWC", "HWIO", "NHWC")
        return lax.conv_general_dilated(x, w, (1, 1), "VALID", dimension_numbers=numbers)

    y = jnp.pad(conv(x[:, :, None, None], jnp.ones((1, 1, 1, 4))), ((0, 0), (1, 1), (1, 1), (0, 0)))
    return conv(y, jnp.ones((3, 3, 4, 2)))


def _shift_between_reshapes(x: Any) -> Any:
    y = (x @ jnp.ones((3, 4))).reshape(1, *x.shape[:1], 4) + jnp.arange(4.0)
    return jnp.sin(y.reshape(-1, 2))


@pytest.mark.parametrize(
    "fn",
    [
        _unused_user,
        lambda x: jnp.sin(jnp.sum(x[None], 0)),
        _pad_between_convolutions,
        _shift_between_reshapes,
    ],
    ids=["unused", "sum of one", "pad", "shift"],
)
@pytest.mark.parametrize("rows", [0, 2])
def test_small_functions(fn: Any, rows: int) -> None:
    assert_settled(jp.trace(fn)(jnp.ones((rows, 3))))


def _turned_weights(w: Any) -> Any:
    """Weights that a loop turns, and its gradient turns back."""

    def loss(w: Any, rows: Any) -> Any:
        return jnp.sum(lax.scan(lambda h, x: (jnp.sin(x @ w.T + h), None), jnp.zeros(2), rows)[0])

    return jax.grad(loss, (0, 1))(w, jnp.ones((4, 3)))


def _weak_mask(x: Any) -> Any:
    mask = jax.random.bernoulli(jax.random.key(x[0, 0].astype(int)), 0.5, x.shape) / 0.5
    return lax.scan(lambda h, _: (jnp.sin(h * mask), None), x, None, length=3)[0]


def _split_weights(w: Any) -> Any:
    def step(h: Any, _: Any) -> Any:
        first, second = jnp.split(turned, 2, 1)
        return jnp.sin((h * 2) @ first) * jnp.cos(h @ second) + h, None

    turned = w.T
    return lax.scan(step, jnp.ones((4, 3)), None, length=3)[0]


@pytest.mark.parametrize("fn", [_turned_weights, _weak_mask, _split_weights])
def test_what_has_left_a_loop_meets_what_was_there(fn: Any) -> None:
    assert_settled(jp.trace(fn)(jnp.ones((2, 3))))


@pytest.mark.parametrize("name", ["jax_transformer", "linen_cnn", "keras_mlp", "haiku_transformer"])
def test_training_steps(name: str) -> None:
    model = built(name)

    def step(weights: Any, x: Any) -> Any:
        loss, grads = jax.value_and_grad(lambda w: jnp.sum(jnp.square(model.param_fn(w, x))))(
            weights
        )
        return loss, jax.tree_util.tree_map(lambda w, g: w - 0.1 * g, weights, grads)

    assert_settled(jp.trace(step)(model.weights, *model.args))
