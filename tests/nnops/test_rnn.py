"""The simple recurrent network against a loop by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from recurrent_plain import assert_same_function, draw, rnn_step, run

from jaxpress import nnops

B, T, F, H = 2, 3, 3, 2
SHAPES = ((B, T, F), (B, H), (F, H), (H, H), (H,))
MASK = np.arange(T) < np.array([3, 2])[:, None]

OPTIONS = {
    "tanh": ({}, {}),
    "relu, reverse": (
        {"activation": "relu", "reverse": True}, {"act": jax.nn.relu, "reverse": True},
    ),
    "no activation, mask": ({"activation": None, "mask": MASK}, {"act": lambda x: x, "mask": MASK}),
    "silu": ({"activation": "silu"}, {"act": jax.nn.silu}),
}  # fmt: skip


@pytest.mark.parametrize("name", OPTIONS)
def test_is_the_loop_written_by_hand(name):
    ours, plain = OPTIONS[name]
    with jax.enable_x64(True):
        assert_same_function(
            lambda x, h, *w: nnops.rnn(x, h, *w, **ours),
            lambda x, h, *w: run(rnn_step, x, (h,), *w, **plain),
            draw(*SHAPES),
        )


def test_one_step_is_the_sequence_of_one():
    x, h, *w = draw(*SHAPES, dtype=np.float32)
    _, want = nnops.rnn(x[:, :1], h, *w, activation="relu")
    got = nnops.rnn_cell(x[:, 0], h, *w, activation="relu")
    np.testing.assert_allclose(got, want, atol=1e-6)


def test_gradient_of_relu_at_zero_is_that_of_jax():
    one = jnp.ones((1, 1))
    grad = jax.grad(lambda x: nnops.rnn(x, None, one, one, activation="relu")[0].sum())
    np.testing.assert_array_equal(grad(jnp.zeros((3, 1))), 0)
