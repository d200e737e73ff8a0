"""Weights of other libraries give what the libraries themselves give, and go back as they were."""

import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from recurrent_plain import draw

from jaxpress import nnops

B, T, F, H = 2, 3, 3, 4
OPS = {"lstm": nnops.lstm, "gru": nnops.gru, "rnn": nnops.rnn}
X = draw((B, T, F), dtype=np.float32)[0]


def randomised(tree, seed=1):
    """Arrays without pattern in the place of fresh ones, whose biases are zeros."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda v: jnp.asarray(rng.normal(size=v.shape) * 0.5, jnp.float32), tree)


def check(op, library, source, want, **options):
    """The op with the weights of ``source`` gives ``want``; the weights go back as they were."""
    weights = nnops.recurrent_from(library, op, source)
    y, _ = OPS[op](X, None, **weights) if op != "lstm" else nnops.lstm(X, None, None, **weights)
    np.testing.assert_allclose(y, want, rtol=0, atol=2e-6)
    again = nnops.recurrent_from(library, op, nnops.recurrent_to(library, op, weights))
    filled = {"b": 0.0, "b_hh": 0.0, **weights}
    assert set(weights) <= set(again)
    for name, value in again.items():
        np.testing.assert_allclose(value, filled[name], atol=1e-6) if name[0] in "wb" else None
    return weights


@pytest.mark.parametrize(
    "op, cell",
    [
        ("lstm", "LSTMCell"),
        ("lstm", "OptimizedLSTMCell"),
        ("gru", "GRUCell"),
        ("rnn", "SimpleCell"),
    ],
)
def test_linen(op, cell):
    nn = pytest.importorskip("flax.linen")
    model = nn.RNN(getattr(nn, cell)(H))
    params = randomised(model.init(jax.random.key(0), X))
    weights = check(op, "linen", params["params"]["cell"], jax.jit(model.apply)(params, X))
    assert nnops.recurrent_from("flax", op, params["params"]["cell"]).keys() == weights.keys()
    back = nnops.recurrent_to("linen", op, weights)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6),
        back,
        dict(params["params"]["cell"]),
    )


@pytest.mark.parametrize(
    "op, cell",
    [
        ("lstm", "LSTMCell"),
        ("lstm", "OptimizedLSTMCell"),
        ("gru", "GRUCell"),
        ("rnn", "SimpleCell"),
    ],
)
def test_nnx(op, cell):
    nnx = pytest.importorskip("flax.nnx")
    model = nnx.RNN(getattr(nnx, cell)(F, H, rngs=nnx.Rngs(0)))
    graph, params, rest = nnx.split(model, nnx.Param, ...)
    params = randomised(params)
    want = jax.jit(lambda p, r: nnx.merge(graph, p, r)(X))(params, rest)
    check(op, "nnx", nnx.to_pure_dict(params)["cell"], want)


@pytest.mark.parametrize("use_bias", [True, False])
@pytest.mark.parametrize("op, cell", [("lstm", "LSTMCell"), ("gru", "GRUCell")])
def test_equinox(op, cell, use_bias):
    eqx = pytest.importorskip("equinox")
    made = getattr(eqx.nn, cell)(F, H, use_bias, key=jax.random.key(0))
    arrays, rest = eqx.partition(made, eqx.is_array)
    made = eqx.combine(randomised(arrays), rest)

    def run(xs):
        def step(state, x):
            state = made(x, state)
            return state, state[0] if op == "lstm" else state

        zero = jnp.zeros(H)
        return jax.lax.scan(step, (zero, zero) if op == "lstm" else zero, xs)[1]

    weights = check(op, "equinox", made, jax.jit(jax.vmap(run))(X))
    assert ("b" in weights) == use_bias


@pytest.mark.parametrize("op, core", [("lstm", "LSTM"), ("gru", "GRU"), ("rnn", "VanillaRNN")])
def test_haiku(op, core):
    hk = pytest.importorskip("haiku")

    def run(x):
        made = getattr(hk, core)(H)
        out, _ = hk.dynamic_unroll(made, x.swapaxes(0, 1), made.initial_state(B))
        return out.swapaxes(0, 1)

    transformed = hk.without_apply_rng(hk.transform(run))
    params = randomised(transformed.init(jax.random.key(0), X))
    weights = check(op, "haiku", params, jax.jit(transformed.apply)(params, X))
    assert weights.get("reset_after", True) == (op != "gru")
    back = nnops.recurrent_to("haiku", op, weights)
    assert set(back) == set(params)


@pytest.mark.parametrize(
    "op, layer, options",
    [
        ("lstm", "LSTM", {}),
        ("lstm", "LSTM", {"use_bias": False}),
        ("gru", "GRU", {}),
        ("gru", "GRU", {"reset_after": False}),
        ("gru", "GRU", {"use_bias": False}),
        ("rnn", "SimpleRNN", {}),
    ],
)
def test_keras(op, layer, options, monkeypatch):
    monkeypatch.setenv("KERAS_BACKEND", os.environ.get("KERAS_BACKEND", "jax"))
    keras = pytest.importorskip("keras")
    made = getattr(keras.layers, layer)(H, return_sequences=True, **options)
    made.build(X.shape)
    made.set_weights([np.asarray(v) for v in randomised(made.get_weights())])
    weights = check(op, "keras", made.get_weights(), jax.jit(made.__call__)(X))
    if options != {"use_bias": False}:
        for a, b in zip(nnops.recurrent_to("keras", op, weights), made.get_weights(), strict=True):
            np.testing.assert_allclose(a, b, atol=1e-6)


@pytest.mark.parametrize("op, layer", [("lstm", "LSTM"), ("gru", "GRU"), ("rnn", "RNN")])
def test_torch(op, layer):
    torch = pytest.importorskip("torch")
    made = getattr(torch.nn, layer)(F, H, batch_first=True)
    state = {k.removesuffix("_l0"): v for k, v in made.state_dict().items()}
    with torch.no_grad():
        want = made(torch.from_numpy(np.array(X)))[0].numpy()
    weights = check(op, "torch", state, want)
    back = nnops.recurrent_to("torch", op, weights, suffix="_l0")
    made.load_state_dict({k: torch.from_numpy(np.array(v)) for k, v in back.items()})
    with torch.no_grad():
        np.testing.assert_allclose(made(torch.from_numpy(np.array(X)))[0].numpy(), want, atol=2e-6)


def test_what_is_not_known():
    with pytest.raises(nnops.OpError, match="nothing is known of 'lstm' of 'jax'"):
        nnops.recurrent_from("jax", "lstm", {})
    with pytest.raises(nnops.OpError, match="nothing is known of 'mgu' of 'linen'"):
        nnops.recurrent_to("linen", "mgu", {})
    with pytest.raises(nnops.OpError, match="Equinox has no simple recurrent cell"):
        nnops.recurrent_to("equinox", "rnn", {"w_ih": jnp.ones((1, 1)), "w_hh": jnp.ones((1, 1))})


def test_reset_gates_in_the_wrong_place():
    w = {"w_ih": jnp.ones((3, 6)), "w_hh": jnp.ones((2, 6))}
    with pytest.raises(nnops.OpError, match="before the product"):
        nnops.recurrent_to("haiku", "gru", w)
    with pytest.raises(nnops.OpError, match="after the product"):
        nnops.recurrent_to("torch", "gru", {**w, "reset_after": False})
    with pytest.raises(nnops.OpError, match="no bias of n inside"):
        nnops.recurrent_to("nnx", "gru", {**w, "b_hh": jnp.ones(6)})
