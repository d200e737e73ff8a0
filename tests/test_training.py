"""Whole training steps of small models: several in a row are those of ``jax.jit``."""

from __future__ import annotations

import os

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


ROWS, IDS = array(4, 6), jnp.asarray([0, 2, 1, 2])


def sparse(y, ids):
    return optax.softmax_cross_entropy_with_integer_labels(y, ids).mean()


def linen_classifier():
    model = nn.Sequential([nn.Dense(5), nn.relu, nn.Dense(3)])
    return lambda params, x, i: sparse(model.apply(params, x), i), model.init(
        jax.random.key(0), ROWS
    )


def nnx_classifier():
    from flax import nnx

    keys = nnx.Rngs(0)
    model = nnx.Sequential(nnx.Linear(6, 5, rngs=keys), nnx.relu, nnx.Linear(5, 3, rngs=keys))
    static, params = nnx.split(model)
    return lambda params, x, i: sparse(nnx.merge(static, params)(x), i), params


def equinox_classifier():
    model = eqx.nn.MLP(6, 3, 5, 1, key=jax.random.key(0))
    params, static = eqx.partition(model, eqx.is_inexact_array)

    def loss(params, x, ids):
        one = lambda x, i: -jax.nn.log_softmax(eqx.combine(params, static)(x))[i]  # noqa: E731
        return jax.vmap(one)(x, ids).mean()

    return loss, params


def haiku_classifier():
    import haiku as hk

    model = hk.without_apply_rng(hk.transform(lambda x: hk.nets.MLP([5, 3])(x)))

    def loss(params, x, ids):
        log_p = jax.nn.log_softmax(model.apply(params, x))
        return -jnp.sum(jax.nn.one_hot(ids, 3) * log_p) / x.shape[0]

    return loss, model.init(jax.random.key(0), ROWS)


def keras_classifier():
    os.environ.setdefault("KERAS_BACKEND", "jax")
    import keras

    model = keras.Sequential([keras.layers.Dense(5, "relu"), keras.layers.Dense(3)])
    model.build(ROWS.shape)
    of = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    params = [v.value for v in model.trainable_variables]
    return lambda params, x, i: of(i, model.stateless_call(params, [], x)[0]), params


CLASSIFIERS = {
    "linen": linen_classifier,
    "nnx": nnx_classifier,
    "equinox": equinox_classifier,
    "haiku": haiku_classifier,
    "keras": keras_classifier,
}


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_a_classifier_and_its_loss(name) -> None:
    loss, params = CLASSIFIERS[name]()
    fast = jp.optimize(loss, passes="training")
    count = fast.graph(params, ROWS, IDS).count()
    assert (count["dense"], count["softmax_cross_entropy"]) == (2, 1), count
    assert not {"log_softmax", "gather", "one_hot", "exp"} & set(count)
    both = jax.jit(lambda *a: [jax.value_and_grad(f)(*a) for f in (fast, loss)])
    got, want = both(params, ROWS, IDS)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        assert_close(a, b)
