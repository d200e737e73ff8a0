"""GRU against a loop by hand: values, gradients, both places of the reset gate, masks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from recurrent_plain import assert_same_function, draw, gru_step, run

from jaxpress import nnops

B, T, F, H = 2, 3, 3, 2
SHAPES = ((B, T, F), (B, H), (F, 3 * H), (H, 3 * H), (3 * H,), (3 * H,))
LENGTHS = np.array([3, 2])
MASK = np.arange(T) < LENGTHS[:, None]

OPTIONS = {
    "after": ({}, {}),
    "before": ({"reset_after": False}, {"reset_after": False}),
    "lengths": ({"lengths": LENGTHS}, {"mask": MASK}),
    "lengths, reverse, before": (
        {"lengths": LENGTHS, "reverse": True, "reset_after": False},
        {"mask": MASK, "reverse": True, "reset_after": False},
    ),
    "mask, held": ({"mask": MASK, "masked_output": "hold"}, {"mask": MASK, "hold": True}),
    "other activations": (
        {"activation": "relu", "gate_activation": "hard_sigmoid"},
        {"act": jax.nn.relu, "gate": jax.nn.hard_sigmoid},
    ),
}


@pytest.mark.parametrize("name", OPTIONS)
def test_is_the_loop_written_by_hand(name):
    ours, plain = OPTIONS[name]
    with jax.enable_x64(True):
        assert_same_function(
            lambda x, h, *w: nnops.gru(x, h, *w, **ours),
            lambda x, h, *w: run(gru_step, x, (h,), *w, **plain),
            draw(*SHAPES),
        )


@pytest.mark.parametrize("after", [True, False])
@pytest.mark.parametrize("left_out", ["b", "b_hh", "both", "h0"])
def test_what_is_left_out_is_zero(left_out, after):
    x, h, w_ih, w_hh, b, b_hh = draw(*SHAPES, dtype=np.float32)
    none = {"b": ("b",), "b_hh": ("b_hh",), "both": ("b", "b_hh"), "h0": ("h0",)}[left_out]
    given = {"h0": h, "b": b, "b_hh": b_hh}
    zeros = {k: jnp.zeros_like(v) if k in none else v for k, v in given.items()}
    gone = {k: None if k in none else v for k, v in given.items()}
    got, want = (
        nnops.gru(x, g["h0"], w_ih, w_hh, g["b"], g["b_hh"], reset_after=after)[0]
        for g in (gone, zeros)
    )
    np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("after", [True, False])
def test_one_step_is_the_sequence_of_one(after):
    x, h, *w = draw(*SHAPES, dtype=np.float32)
    _, want = nnops.gru(x[:, :1], h, *w, reset_after=after)
    got = nnops.gru_cell(x[:, 0], h, *w, reset_after=after)
    np.testing.assert_allclose(got, want, atol=1e-6)


@pytest.mark.parametrize("after, products", [(True, 1), (False, 2)])
def test_a_gradient_runs_the_loop_once_each_way(after, products):
    args = draw(*SHAPES, dtype=np.float32)
    loss = lambda *a: nnops.gru(*a, reset_after=after)[0].sum()  # noqa: E731
    jaxpr = jax.make_jaxpr(jax.grad(loss, (0, 2, 3, 5)))(*args)
    ops = [e.primitive.name for e in jaxpr.eqns]
    assert ops.count("gru") == 1 and ops.count("scan") == 1
    (scan,) = [e for e in jaxpr.eqns if e.primitive.name == "scan"]
    inside = [e.primitive.name for e in scan.params["jaxpr"].eqns]
    assert inside.count("dot_general") == products
