"""What the recurrent ops refuse, and how they say so; nothing is broadcast by accident."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpress import nnops

B, T, F, H = 2, 3, 4, 5
GOOD = {
    "x": (B, T, F), "h0": (B, H), "c0": (B, H), "w_ih": (F, 4 * H), "w_hh": (H, 4 * H),
    "b": (4 * H,),
}  # fmt: skip

BAD = {
    "x": [(F,), (B, T, F + 1), ()],
    "h0": [(H,), (1, H), (B, H + 1), (B, 1)],
    "c0": [(H,), (1, H), (T, H)],
    "w_ih": [(4 * H, F), (F, 3 * H), (1, 4 * H), (F,)],
    "w_hh": [(4 * H, H), (H, H), (H, 4)],
    "b": [(1,), (H,), (4, H), (2, 4 * H)],
}


def arrays(**changes):
    shapes = {**GOOD, **changes}
    return {k: jax.ShapeDtypeStruct(s, np.float32) for k, s in shapes.items()}


def call(op, given, **options):
    return jax.eval_shape(lambda given: op(**given, **options), given)


@pytest.mark.parametrize("name, shape", [(k, s) for k, shapes in BAD.items() for s in shapes])
def test_shapes_that_do_not_fit(name, shape):
    with pytest.raises(nnops.OpError, match="lstm: ") as error:
        call(nnops.lstm, arrays(**{name: shape}))
    assert "operands: " in str(error.value) and "to mend it: " in str(error.value)


def test_a_cell_is_named_so():
    given = arrays(x=(B, F + 1))
    given["h"], given["c"] = given.pop("h0"), given.pop("c0")
    with pytest.raises(nnops.OpError, match="lstm_cell: w_ih has shape"):
        call(nnops.lstm_cell, given)


@pytest.mark.parametrize("missing", ["x", "w_hh"])
def test_what_must_be_given(missing):
    given = {k: jnp.ones(s) for k, s in GOOD.items()}
    with pytest.raises(nnops.OpError, match=f"{missing} is missing"):
        nnops.lstm(**{**given, missing: None})


def test_without_w_ih_x_must_be_projected():
    given = {k: v for k, v in arrays().items() if k != "w_ih"}
    with pytest.raises(nnops.OpError, match="x holds the projected input"):
        call(nnops.lstm, given, w_ih=None)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"lengths": np.ones(B)}, "lengths are float"),
        ({"lengths": np.ones(T, int)}, "lengths have shape"),
        ({"lengths": np.int32(2)}, "lengths have shape"),
        ({"mask": np.ones((B, T))}, "mask is float"),
        ({"mask": np.ones((T,), bool)}, "mask has shape"),
        ({"mask": np.ones((B, T, 1), bool)}, "mask has shape"),
        ({"mask": np.ones((B, T), bool), "lengths": np.ones(B, int)}, "both lengths and mask"),
    ],
)
def test_lengths_and_masks_that_do_not_fit(options, message):
    with pytest.raises(nnops.OpError, match=message):
        call(nnops.lstm, arrays(), **options)


def test_integers_are_no_weights():
    given = {**arrays(), "w_hh": jax.ShapeDtypeStruct((H, 4 * H), np.int32)}
    with pytest.raises(nnops.OpTypeError, match="w_hh is int32"):
        call(nnops.lstm, given)


@pytest.mark.parametrize("op, gates", [(nnops.gru, 3), (nnops.rnn, 1)])
def test_other_ops_have_other_numbers_of_gates(op, gates):
    w = {"w_ih": jnp.ones((F, gates * H)), "w_hh": jnp.ones((H, gates * H))}
    assert op(jnp.ones((T, F)), None, **w)[0].shape == (T, H)
    with pytest.raises(nnops.OpError, match=rf"{op.__name__}: w_hh has shape \(5, 20\)"):
        op(jnp.ones((T, F)), None, w["w_ih"], jnp.ones((H, 4 * H)))
