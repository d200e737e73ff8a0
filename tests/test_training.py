"""Whole training steps of small models: several in a row are those of ``jax.jit``."""

from __future__ import annotations

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
import pytest

import jaxpress as jp
from helpers import array, assert_close

X, Y = array(4, 6, 6, 3), array(4, 2, seed=1)


def linen():
    """Loss and new statistics, by parameters and statistics."""

    class Model(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.Conv(4, (3, 3), use_bias=False)(x)
            x = nn.relu(nn.BatchNorm(use_running_average=False, momentum=0.9)(x))
            return nn.Dense(2)(x.mean((1, 2)))

    model = Model()
    variables = model.init(jax.random.key(0), X)

    def loss(params, state):
        given = {"params": params, "batch_stats": state}
        y, new = model.apply(given, X, mutable=["batch_stats"])
        return jnp.mean((y - Y) ** 2), new["batch_stats"]

    return loss, variables["params"], variables["batch_stats"]


def equinox(mode):
    class Model(eqx.Module):
        conv: eqx.nn.Conv2d
        norm: eqx.nn.BatchNorm
        dense: eqx.nn.Linear

        def __init__(self, key):
            keys = jax.random.split(key)
            self.conv = eqx.nn.Conv2d(3, 4, 3, padding=1, use_bias=False, key=keys[0])
            self.norm = eqx.nn.BatchNorm(4, "batch", mode=mode)
            self.dense = eqx.nn.Linear(4, 2, key=keys[1])

        def __call__(self, x, state):
            x, state = self.norm(self.conv(x), state)
            return self.dense(jax.nn.relu(x).mean((1, 2))), state

    model, state = eqx.nn.make_with_state(Model)(jax.random.key(0))
    params, static = eqx.partition(model, eqx.is_inexact_array)

    def loss(params, state):
        run = jax.vmap(eqx.combine(params, static), axis_name="batch", in_axes=(0, None),
                       out_axes=(0, None))  # fmt: skip
        y, new = run(X.transpose(0, 3, 1, 2), state)
        return jnp.mean((y - Y) ** 2), new

    return loss, params, state


MODELS = {
    "linen": linen,
    "equinox, batch": lambda: equinox("batch"),
    "equinox, ema": lambda: equinox("ema"),
}


@pytest.mark.parametrize("name", MODELS)
def test_steps_in_a_row(name) -> None:
    loss, params, state = MODELS[name]()
    optimizer = optax.sgd(0.1, momentum=0.9)
    # The norm of a mode "ema" divides by running statistics.
    named = jp.optimize(loss, passes="training")
    assert ("batch_norm_train" in named.graph(params, state).count()) == (name != "equinox, ema")

    def step(loss, params, state, momenta):
        (value, state), grads = jax.value_and_grad(loss, has_aux=True)(params, state)
        updates, momenta = optimizer.update(grads, momenta)
        return optax.apply_updates(params, updates), state, momenta, value

    def original(*carried):
        return step(loss, *carried)

    runs = {
        "jit": jax.jit(original),
        "the step": jp.optimize(original, passes="training"),
        "the loss": jax.jit(lambda *carried: step(named, *carried)),
    }
    results = {}
    for how, run in runs.items():
        carried = (params, state, optimizer.init(params))
        for _ in range(3):
            *carried, value = run(*carried)
        results[how] = (jax.tree.leaves(carried), value)
    assert results["jit"][1] < original(params, state, optimizer.init(params))[-1]
    # Each step rounds what the last one rounded.
    for how in ("the step", "the loss"):
        assert_close(results[how], results["jit"], 1e-4)
