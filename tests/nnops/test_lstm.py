"""LSTM against a loop by hand: values, gradients, masks, directions, dtypes, one step."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from recurrent_plain import assert_same_function, draw, lstm_step, run

from jaxpress import nnops

B, T, F, H = 2, 3, 3, 2
SHAPES = ((B, T, F), (B, H), (B, H), (F, 4 * H), (H, 4 * H), (4 * H,))
LENGTHS = np.array([3, 2])
MASK = np.arange(T) < LENGTHS[:, None]
HOLES = np.array([[True, False, True], [False, True, False]])

OPTIONS = {
    "plain": ({}, {}),
    "reverse": ({"reverse": True}, {"reverse": True}),
    "lengths": ({"lengths": LENGTHS}, {"mask": MASK}),
    "lengths, reverse": (
        {"lengths": LENGTHS, "reverse": True}, {"mask": MASK, "reverse": True},
    ),
    "mask with holes, held": (
        {"mask": HOLES, "masked_output": "hold"}, {"mask": HOLES, "hold": True},
    ),
    "unrolled": ({"unroll": 3}, {}),
    "other activations": (
        {"activation": "relu", "gate_activation": "hard_sigmoid"},
        {"act": jax.nn.relu, "gate": jax.nn.hard_sigmoid},
    ),
    "activations with a slope": (
        {"activation": "relu", "gate_activation": "sigmoid"}, {"act": jax.nn.relu},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", OPTIONS)
def test_is_the_loop_written_by_hand(name):
    ours, plain = OPTIONS[name]
    with jax.enable_x64(True):
        assert_same_function(
            lambda x, h, c, *w: nnops.lstm(x, h, c, *w, **ours),
            lambda x, h, c, *w: run(lstm_step, x, (h, c), *w, **plain),
            draw(*SHAPES),
        )


def test_what_is_left_out_is_zero():
    x, h, _, w_ih, w_hh, b = draw(*SHAPES, dtype=np.float32)
    zero = jnp.zeros_like(h)
    got = nnops.lstm(x, None, None, w_ih, w_hh)
    want = nnops.lstm(x, zero, zero, w_ih, w_hh, jnp.zeros_like(b))
    assert jax.tree.all(jax.tree.map(jnp.array_equal, got, want))


def test_without_w_ih_x_is_the_projected_input():
    x, h, c, w_ih, w_hh, b = draw(*SHAPES, dtype=np.float32)
    got = nnops.lstm(x @ w_ih + b, h, c, None, w_hh)
    np.testing.assert_allclose(got[0], nnops.lstm(x, h, c, w_ih, w_hh, b)[0], atol=1e-6)


@pytest.mark.parametrize("lead", [(), (0,), (2, 1)])
def test_any_batch_dimensions(lead):
    *_, w_ih, w_hh, b = draw(*SHAPES, dtype=np.float32)
    (x,) = draw((*lead, T, F), dtype=np.float32)
    y, (h, c) = nnops.lstm(x, None, None, w_ih, w_hh, b)
    assert y.shape == (*lead, T, H) and h.shape == c.shape == (*lead, H)
    flat, _ = nnops.lstm(x.reshape(-1, T, F), None, None, w_ih, w_hh, b)
    np.testing.assert_allclose(y.reshape(flat.shape), flat, atol=1e-6)


def test_no_steps_leave_the_state():
    x, h, c, *w = draw((B, 0, F), *SHAPES[1:], dtype=np.float32)
    y, state = nnops.lstm(x, h, c, *w)
    assert y.shape == (B, 0, H)
    np.testing.assert_array_equal(state[0], h)
    np.testing.assert_array_equal(state[1], c)
    grad = jax.grad(lambda c: nnops.lstm(x, h, c, *w)[1][1].sum())(c)
    np.testing.assert_array_equal(grad, jnp.ones_like(c))


def test_a_step_that_does_not_count_is_not_looked_at():
    x, h, c, *w = draw(*SHAPES, dtype=np.float32)
    bad = jnp.where(MASK[..., None], x, jnp.nan)
    got, want = (nnops.lstm(v, h, c, *w, lengths=LENGTHS) for v in (bad, x))
    assert jax.tree.all(jax.tree.map(jnp.array_equal, got, want))


def test_a_state_of_a_wider_dtype_stays_wide():
    x, h, c, *w = draw(*SHAPES, dtype=np.float32)
    low = [v.astype(jnp.bfloat16) for v in (x, *w)]
    y, state = nnops.lstm(low[0], h, c, *low[1:])
    assert {v.dtype for v in (y, *state)} == {jnp.dtype("float32")}
    exact = nnops.lstm(low[0].astype(h.dtype), h, c, *(v.astype(h.dtype) for v in low[1:]))[0]
    np.testing.assert_allclose(y, exact, atol=3e-2)
    grad = jax.grad(lambda *a: nnops.lstm(a[0], h, c, *a[1:])[0].sum(), (0, 1, 2))
    assert [g.dtype for g in jax.eval_shape(grad, *low)] == [jnp.bfloat16] * 3


def test_one_step_is_the_sequence_of_one():
    x, h, c, *w = draw(*SHAPES, dtype=np.float32)
    _, want = nnops.lstm(x[:, :1], h, c, *w)
    got = nnops.lstm_cell(x[:, 0], h, c, *w)
    for a, b in zip(got, want, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


def test_the_loop_has_one_product_and_no_other():
    args = draw(*SHAPES, dtype=np.float32)
    jaxpr = jax.make_jaxpr(nnops.ops["lstm"].implementation({
        **nnops.ops["lstm"].defaults, "activation": nnops.to_activation("tanh"),
        "gate_activation": nnops.to_activation("sigmoid"),
        "operands": ("x", "h0", "c0", "w_hh", "w_ih", "b"),
    }))(*args[:3], args[4], args[3], args[5])  # fmt: skip
    ops = [e.primitive.name for e in jaxpr.eqns]
    assert ops.count("dot_general") == 1 and ops.count("scan") == 1
    (scan,) = [e for e in jaxpr.eqns if e.primitive.name == "scan"]
    inside = [e.primitive.name for e in scan.params["jaxpr"].eqns]
    assert inside.count("dot_general") == 1


def test_a_gradient_runs_the_loop_once_each_way_and_sums_weights_outside():
    args = draw(*SHAPES, dtype=np.float32)
    jaxpr = jax.make_jaxpr(jax.grad(lambda *a: nnops.lstm(*a)[0].sum(), (0, 3, 4)))(*args)
    ops = [e.primitive.name for e in jaxpr.eqns]
    assert ops.count("lstm") == 1 and ops.count("scan") == 1
    (scan,) = [e for e in jaxpr.eqns if e.primitive.name == "scan"]
    inside = [e.primitive.name for e in scan.params["jaxpr"].eqns]
    assert inside.count("dot_general") == 1
