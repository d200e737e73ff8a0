"""Layers as pytrees: gradients, updates, vmap, frozen fields."""

import dataclasses
import inspect
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxpress as jp
from jaxpress import nnops
from jaxpress.nnops.layers import Layer, layer, setting

KEY = jax.random.key(0)

LAYERS = {
    "Dense": lambda key: nnops.Dense.init(key, 3, 2, activation=("leaky_relu", {})),
    "Conv": lambda key: nnops.Conv.init(key, 3, 2, (2, 2), strides=[2, 2], padding=[(0, 1), 1]),
    "ConvTranspose": lambda key: nnops.ConvTranspose.init(key, 3, 2, (2, 2), strides=[2, 2]),
    "BatchNorm": lambda key: nnops.BatchNorm.init(key, 3),
    "LayerNorm": lambda key: nnops.LayerNorm.init(key, 3),
    "RMSNorm": lambda key: nnops.RMSNorm.init(key, 3),
    "GroupNorm": lambda key: nnops.GroupNorm.init(key, 4, groups=2),
    "InstanceNorm": lambda key: nnops.InstanceNorm.init(key, 3),
    "LSTM": lambda key: nnops.LSTM.init(key, 3, 2),
    "GRU": lambda key: nnops.GRU.init(key, 3, 2),
    "RNN": lambda key: nnops.RNN.init(key, 3, 2, activation="relu"),
    "Embedding": lambda key: nnops.Embedding.init(key, 5, 3),
    "Dropout": lambda key: nnops.Dropout.init(key, 0.5, broadcast_dims=[0]),
    "MultiHeadAttention": lambda key: nnops.MultiHeadAttention.init(key, 4, 2),
    "MaxPool": lambda key: nnops.MaxPool.init(key, [2, 2]),
    "AvgPool": lambda key: nnops.AvgPool.init(key, (2, 2)),
    "Sequential": lambda key: nnops.Sequential.init(
        key, LAYERS["Dense"], lambda _: nnops.relu, lambda _: nnops.Dropout(0.5)
    ),
}


def test_every_layer_is_here():
    classes = {n for n in nnops.__all__ if isinstance(getattr(nnops, n), type)}
    layers = {n for n in classes if issubclass(getattr(nnops, n), Layer)} - {"Layer"}
    assert layers == LAYERS.keys()


@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_is_a_pytree(name):
    made = LAYERS[name](KEY)
    leaves, structure = jax.tree.flatten(made)
    hash(structure)
    assert structure == jax.tree.structure(LAYERS[name](jax.random.key(1)))
    assert all(isinstance(v, jax.Array) and v.dtype == jnp.float32 for v in leaves)
    doubled = jax.tree.map(lambda v: 2 * v, made)
    assert type(doubled) is type(made)
    for field in dataclasses.fields(made):
        if field.metadata.get("static"):
            assert getattr(doubled, field.name) == getattr(made, field.name)
    # Whatever JAX puts in the place of arrays: None, objects, axes.
    assert jax.tree.leaves(jax.tree.map(lambda v: None, made)) == []
    jax.tree.unflatten(structure, [object()] * len(leaves))
    assert jax.tree.structure(pickle.loads(pickle.dumps(doubled))) == structure
    assert len(repr(made)) < 250 and repr(made).startswith(name + "(")


WITHOUT_BIAS = {"RMSNorm", "Embedding"}


@pytest.mark.parametrize("name", [n for n in LAYERS if jax.tree.leaves(LAYERS[n](KEY))])
def test_how_parameters_are_made(name, monkeypatch):
    """Weights of 7, biases of 9, all in the dtype that was asked for; no biases on request."""
    if name == "Sequential":
        return
    cls, fill = getattr(nnops, name), nnops.initializers.constant

    def made(**how):
        with monkeypatch.context() as patched:
            init = cls.init
            patched.setattr(cls, "init", lambda *a, **kw: init(*a, **kw, **how))
            return LAYERS[name](KEY)

    known = set(inspect.signature(cls.init).parameters)
    wanted = {"kernel_init": 7, "scale_init": 7, "recurrent_init": 7, "bias_init": 9}
    given = {k: fill(v) for k, v in wanted.items() if k in known}
    layer = made(dtype=jnp.bfloat16, **given)
    values = {f.name: getattr(layer, f.name) for f in dataclasses.fields(layer)}
    arrays = {k: v for k, v in values.items() if isinstance(v, jax.Array)}
    assert {v.dtype for v in arrays.values()} == {jnp.dtype(jnp.bfloat16)}
    for k, v in arrays.items():
        if k not in ("mean", "var"):
            assert set(np.asarray(v, np.float32).ravel()) == {9 if k[0] == "b" else 7}, k
    biases = {k for k in arrays if k[0] == "b"}
    assert bool(biases) == ("use_bias" in known) == (name not in WITHOUT_BIAS)
    if biases:
        bare = made(use_bias=False)
        assert all(getattr(bare, k) is None for k in biases)


def test_many_layers_at_once():
    many = jax.vmap(lambda key: nnops.Dense.init(key, 3, 2))(jax.random.split(KEY, 4))
    assert many.w.shape == (4, 3, 2)
    x = jnp.ones((5, 3))
    y = jax.jit(jax.vmap(lambda layer, x: layer(x), (0, None)))(many, x)
    for i in range(4):
        one = jax.tree.map(lambda v, i=i: v[i], many)
        np.testing.assert_allclose(y[i], one(x), rtol=1e-6)
    assert jp.trace(jax.vmap(lambda layer, x: layer(x), (0, None)))(many, x).count()["dense"] == 1
    _, scanned = jax.lax.scan(lambda c, layer: (c, layer(x)), 0, many)
    np.testing.assert_allclose(scanned, y, rtol=1e-6)


def test_gradients_and_updates_are_layers():
    model = nnops.Sequential([nnops.Dense.init(KEY, 3, 4), nnops.tanh, nnops.Dense.init(KEY, 4, 1)])
    x = jax.random.normal(KEY, (16, 3))
    optimizer = optax.adam(0.05)

    @jax.jit
    def step(model, state):
        loss = lambda m: jnp.mean((m(x) - x.sum(1, keepdims=True)) ** 2)  # noqa: E731
        value, grads = jax.value_and_grad(loss)(model)
        updates, state = optimizer.update(grads, state, model)
        return optax.apply_updates(model, updates), state, value

    state, losses = optimizer.init(model), []
    for _ in range(60):
        model, state, value = step(model, state)
        losses.append(float(value))
    assert isinstance(model, nnops.Sequential)
    assert losses[-1] < 0.1 * losses[0]


def test_buffers_are_left_to_themselves():
    model = [nnops.BatchNorm.init(None, 3), nnops.Sequential([nnops.BatchNorm.init(None, 2)])]
    mask = nnops.trainable(model)
    assert jax.tree.structure(mask) == jax.tree.structure(model)
    assert jax.tree.leaves(mask) == [False, False, True, True] * 2
    # A weight decay that would shrink the running variance.
    optimizer = optax.masked(optax.add_decayed_weights(1.0), mask)
    zeros = jax.tree.map(jnp.zeros_like, model)
    updates, _ = optimizer.update(zeros, optimizer.init(model), model)
    assert updates[0].var.tolist() == [0, 0, 0] and updates[0].scale.tolist() == [1, 1, 1]


def test_frozen_and_replaced():
    dense = nnops.Dense(jnp.ones((3, 2)))
    with pytest.raises(dataclasses.FrozenInstanceError):
        dense.w = 0
    other = dataclasses.replace(dense, activation="relu")
    assert other.w is dense.w and str(other.activation) == "relu"
    with pytest.raises(TypeError):
        nnops.Dense(jnp.ones((3, 2)), None, "relu")  # settings are named


def test_a_setting_makes_another_program():
    traces = []

    @jax.jit
    def f(layer, x):
        traces.append(layer.activation)
        return layer(x)

    w, x = -jnp.ones((2, 2)), jnp.ones(2)
    assert f(nnops.Dense(w), x).tolist() == [-2, -2]
    assert f(nnops.Dense(w, activation="relu"), x).tolist() == [0, 0]
    f(nnops.Dense(2 * w, activation=("relu", {})), x)
    assert len(traces) == 2


def test_layers_of_ones_own():
    @layer
    class Scale(Layer):
        factor: jax.Array
        power: int = setting(default=1)
        window: tuple = setting(default=())

        def __post_init__(self):
            assert isinstance(self.window, tuple)

        def __call__(self, x):
            return self.factor**self.power * x

    scale = Scale(jnp.array(3.0), power=2, window=[1, [2]])
    assert scale.window == (1, (2,))
    assert jax.grad(lambda s: nnops.Sequential([s, jnp.sum])(jnp.ones(2)))(scale).factor == 12
    assert repr(scale) == "Scale(factor=float32(), power=2, window=(1, (2,)))"


@pytest.mark.parametrize(
    "make",
    [
        lambda: nnops.Dense(jnp.ones((2, 2)), activation="no such"),
        lambda: nnops.Conv.init(KEY, 3, 4, 3),
        lambda: nnops.Conv.init(KEY, 3, 4, (3,), groups=2),
        lambda: nnops.MultiHeadAttention.init(KEY, 5, 2),
        lambda: nnops.MultiHeadAttention.init(KEY, 8, 4, kv_heads=3),
        lambda: nnops.Dropout(0.5)(jnp.ones(3)),
        lambda: nnops.Dense(jnp.ones((2, 3)), jnp.ones(2))(jnp.ones(2)),
    ],
)
def test_errors(make):
    with pytest.raises(nnops.OpError, match="to mend it"):
        make()
