"""Scans of recurrent cells of every library, and by hand, become the named ops."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from recurrent_by_hand import (
    BIAS,
    STATE,
    B,
    F,
    H,
    T,
    U,
    W,
    X,
    assert_raised,
    cell,
    gates,
    loop,
    lstm,
    raised,
    sigmoid,
)  # fmt: skip
from recurrent_frameworks import SEQUENCES, keras, linen_bidirectional

import jaxpress as jp
from helpers import array, assert_close, quick_compiles
from jaxpress import nnops
from jaxpress.capture import trace
from jaxpress.passes import default


@pytest.fixture(autouse=True)
def compiled_quickly():
    with quick_compiles():
        yield


@pytest.mark.parametrize("name", SEQUENCES)
def test_layers_of_every_library(name):
    make, op = SEQUENCES[name]
    fn, args = make()
    assert_raised(fn, *args, op=op)


def test_both_directions():
    fn, args = linen_bidirectional()
    new = raised(fn, *args)
    assert new.count()["lstm"] == new.count()["gru"] == 1 and not new.find("scan")
    assert_close(jax.jit(new)(*args), jax.jit(fn)(*args), 2e-6)


def test_low_precision_with_weights_in_float32():
    import flax.linen as nn

    model = nn.RNN(nn.LSTMCell(H, dtype=jnp.bfloat16))
    params = model.init(jax.random.key(0), X)
    node = assert_raised(model.apply, params, X, op="lstm", tolerance=1e-2)
    operands = nnops.registry()["lstm"].operands(node.inputs, node.params)
    assert operands["w_hh"].dtype == operands["x"].dtype == jnp.bfloat16
    assert operands["c0"].dtype == jnp.float32


def concatenated(first):
    joined = jnp.concatenate([U, W] if first == "h" else [W, U])

    def step(state, x):
        h, c = state
        z = jnp.concatenate([h, x] if first == "h" else [x, h], -1) @ joined + BIAS
        new = gates(z, c, "ifog", 1.0)
        return new, new[0]

    return lambda x: loop(step, xs=jnp.swapaxes(x, 0, 1))


def weights_first(x):
    def step(state, x):
        h, c = state
        z = jnp.einsum("of,bf->bo", W.T, x) + jnp.einsum("oh,bh->bo", U.T, h)
        new = gates(z + BIAS, c)
        return new, new[0]

    return loop(step, xs=jnp.swapaxes(x, 0, 1))


def split_weights(x):
    ws, us, bs = (jnp.split(v, 4, -1) for v in (W, U, BIAS))

    def step(state, x):
        c, h = state
        i, f, g, o = (x @ w + b + h @ u for w, u, b in zip(ws, us, bs, strict=True))
        c = c * sigmoid(f) + jnp.tanh(g) * sigmoid(i)
        h = jnp.tanh(c) * sigmoid(o)
        return (c, h), h

    return loop(step, STATE[::-1], jnp.swapaxes(x, 0, 1))


def reshaped(split):
    """Gates along an axis of their own."""

    def step(state, x):
        h, c = state
        i, f, g, o = split((x @ W + h @ U + BIAS).reshape(B, 4, H))
        c = sigmoid(f) * c + sigmoid(i) * jnp.tanh(g)
        new = sigmoid(o) * jnp.tanh(c), c
        return new, new[0]

    return lambda x: loop(step, xs=jnp.swapaxes(x, 0, 1))


def hoisted(x):
    def step(state, z):
        new = gates(z + state[0] @ U, state[1])
        return new, new[0]

    return loop(step, xs=jnp.swapaxes(x @ W + BIAS, 0, 1))


def hoisted_for_two(x):
    z = jnp.swapaxes(x @ W + BIAS, 0, 1)

    def step(state, z):
        new = gates(z + state[0] @ U, state[1])
        return new, new[0]

    return loop(step, xs=z), z


def with_context(x):
    context = jnp.tanh(x[:, 0]) @ W

    def step(state, x):
        new = gates(x @ W + state[0] @ U + context, state[1])
        return new, new[0]

    return loop(step, xs=jnp.swapaxes(x, 0, 1))


def two_inputs(x):
    def step(state, xs):
        a, b = xs
        new = gates(a @ W + b @ (2 * W) + state[0] @ U, state[1])
        return new, new[0]

    xs = jnp.swapaxes(x, 0, 1)
    return loop(step, xs=(xs, jnp.cos(xs)))


def prepared_inside(x):
    def step(state, x):
        new = cell(state, jnp.tanh(x) * 2)
        return new, new[0]

    return loop(step, xs=jnp.swapaxes(x, 0, 1))


def weights_carried(x):
    def step(carry, x):
        state, u = carry
        new = cell(state, x, u=u)
        return (new, u), new[0]

    return loop(step, (STATE, U), jnp.swapaxes(x, 0, 1))


def counted(x):
    def step(carry, x):
        t, state = carry
        new = cell(state, x)
        on = (t < jnp.array([3, 1]))[:, None]
        new = tuple(jnp.where(on, a, b) for a, b in zip(new, state, strict=True))
        return (t + 1, new), new[0]

    return loop(step, (jnp.int32(0), STATE), jnp.swapaxes(x, 0, 1))


def masked(out):
    def fn(x, mask):
        def step(state, inputs):
            x, on = inputs
            on = on[:, None]
            raw = cell(state, x)
            new = tuple(jnp.where(on, a, b) for a, b in zip(raw, state, strict=True))
            return new, out(new[0], raw[0], on)

        return loop(step, xs=(jnp.swapaxes(x, 0, 1), mask.T))

    return fn


def own_named_cell(x):
    def step(state, x):
        new = nnops.lstm_cell(x, *state, W, U, BIAS)
        return new, new[0]

    return loop(step, xs=jnp.swapaxes(x, 0, 1))


BY_HAND = {
    "products apart": lambda x: lstm(x),
    "h before x": concatenated("h"),
    "x before h": concatenated("x"),
    "weights first": weights_first,
    "a matrix for each gate": split_weights,
    "gates along an axis": reshaped(lambda z: [z[:, i] for i in range(4)]),
    "gates in front": reshaped(lambda z: jnp.moveaxis(z, 1, 0)),
    "gates along an axis, split": reshaped(lambda z: [v[:, 0] for v in jnp.split(z, 4, 1)]),
    "input projected ahead": hoisted,
    "input projected ahead, and needed": hoisted_for_two,
    "a context beside": with_context,
    "two inputs": two_inputs,
    "input prepared in the loop": prepared_inside,
    "weights carried along": weights_carried,
    "masked by a counter": counted,
    "reversed": lambda x: lstm(x, reverse=True),
    "unrolled in part": lambda x: lstm(x, unroll=2),
    "last state alone": lambda x: lstm(x)[0][0],
    "outputs alone": lambda x: lstm(x)[1],
    "both states at each step": lambda x: lstm(x, out=lambda new, old: new),
    "states before each step": lambda x: lstm(x, out=lambda new, old: old),
    "states before, reversed": lambda x: lstm(x, out=lambda new, old: old[1], reverse=True),
    "logits at each step": lambda x: lstm(x, out=lambda new, old: new[0] @ U + old[1][:, :1]),
    "outputs that are no results": lambda x: lstm(x, out=lambda new, old: (new[0], BIAS, 1.0)),
    "a product of the state reused": lambda x: lstm(x, u=jnp.tanh(U)),
    "jit and names around": lambda x: jax.jit(lambda x: lstm(x))(x),
    "in a remat": lambda x: jax.checkpoint(lambda x: lstm(x))(x),
    "a named cell": own_named_cell,
}  # fmt: skip


@pytest.mark.parametrize("name", BY_HAND)
def test_lstm_by_hand(name):
    assert_raised(BY_HAND[name], X, op="lstm")


MASK = jnp.array([[True, True, False], [False, True, True]])


@pytest.mark.parametrize(
    "out, masked_output",
    [
        (lambda new, raw, on: new, "hold"),
        (lambda new, raw, on: jnp.where(on, raw, 0), "zero"),
        (lambda new, raw, on: (jnp.where(on, raw, 0), new @ U), "hold"),
    ],
)
def test_masks(out, masked_output):
    assert_raised(masked(out), X, MASK, op="lstm", masked_output=masked_output)


def test_the_projection_ahead_of_the_loop_is_the_ops_own():
    node = assert_raised(hoisted, X, op="lstm")
    operands = nnops.registry()["lstm"].operands(node.inputs, node.params)
    assert operands["w_ih"].shape == (F, 4 * H) and operands["x"].shape == X.shape
    # One that others need as well stays what the op is given.
    node = assert_raised(hoisted_for_two, X, op="lstm")
    assert "w_ih" not in nnops.registry()["lstm"].operands(node.inputs, node.params)


def test_weights_that_stand_in_order_are_taken_as_they_are():
    new = raised(lambda x: lstm(x), X)
    assert not new.find("concatenate") and not new.find("slice")


@pytest.mark.parametrize("shape", [(T, F), (2, B, T, F), (0, T, F)])
def test_any_batch_dimensions(shape):
    def fn(x):
        zero = jnp.zeros((*x.shape[:-2], H))

        def step(state, x):
            new = cell(state, x)
            return new, new[0]

        return lax.scan(step, (zero, zero), jnp.moveaxis(x, -2, 0))

    assert_raised(fn, array(*shape), op="lstm")


def test_under_vmap_over_the_data():
    def fn(x):
        zero = jnp.zeros(H)
        return lax.scan(lambda s, x: (cell(s, x), None), (zero, zero), x)[0]

    assert_raised(jax.vmap(jax.vmap(fn)), array(2, B, T, F), op="lstm")
    assert_raised(jax.vmap(fn, in_axes=2), array(T, F, B), op="lstm")


def test_inside_of_a_loop_over_layers():
    stack = jnp.stack([U, 2 * U])

    def fn(x):
        def layer(x, u):
            return lstm(x, u=u)[1].swapaxes(0, 1) @ jnp.eye(H)[:, :F], None

        return lax.scan(layer, x, stack)[0]

    new = raised(fn, X)
    assert new.count()["scan"] == new.count()["lstm"] == 1
    assert_close(jax.jit(new)(X), jax.jit(fn)(X), 2e-6)


@pytest.mark.parametrize("kind", ["lstm", "gru", "gru before", "masked"])
def test_gradients_and_special_values(kind):
    if kind.startswith("gru"):
        fn, args = keras("GRU", reset_after=kind == "gru")
    elif kind == "masked":
        fn, args = (lambda x: masked(lambda n, r, o: n)(x, MASK)), (X,)
    else:
        fn, args = (lambda x, w, u: lstm(x @ w, u=u)), (X, array(F, F), U)
    strange = X.at[0, 1, 0].set(jnp.nan).at[1, 0, 2].set(jnp.inf).at[1, 2, 0].set(-jnp.inf)

    def everything(f):
        def loss(*a):
            return sum(jnp.sum(jnp.sin(v)) for v in jax.tree.leaves(f(*a)))

        grads = jax.grad(loss, tuple(range(len(args))))(*args)
        return grads, [jnp.isnan(v) for v in jax.tree.leaves(f(strange, *args[1:]))]

    new = raised(fn, *args)
    got, want = jax.jit(lambda: (everything(new), everything(fn)))()
    assert_close(got[0], want[0], 1e-5)
    for a, b in zip(got[1], want[1], strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("pipeline", ["default", "inference"])
def test_a_whole_pipeline_leaves_the_op_alone(pipeline):
    fast = jp.optimize(weights_first, passes=pipeline)
    graph = fast.graph(X)
    assert graph.count()["lstm"] == 1 and set(graph.count()) <= {"lstm", "transpose"}
    assert_close(fast(X), jax.jit(weights_first)(X), 2e-6)
    again, report = default.run(graph)
    assert not report.rewrites and again.count() == graph.count()


def test_a_rule_that_is_switched_off_is_off():
    graph = default.without("raise_lstm")(trace(weights_first)(X))
    assert not graph.find("lstm") and graph.find("scan")
