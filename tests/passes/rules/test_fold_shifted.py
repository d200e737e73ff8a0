"""A scale moves into a convolution that pads, past a shift that cannot."""

from __future__ import annotations

import jax.numpy as jnp
import pytest

from helpers import array, assert_optimizes, assert_refuses, conv, positive
from jaxpress import nnops, passes
from jaxpress.passes.rules.fold_shifted import FOLD_SHIFTED

# No size tells the channels from the rows, the columns or the batch.
C = 4
X, W = array(C, C, C, C), array(3, 3, C, C)
# To add to a result that is larger what a shift becomes would take longer than to shift.
WIDER = array(3, 3, C, C + 1)
MEAN, STD, SCALE = array(C, seed=1), positive(C), positive(C, seed=3)
NO_STD = STD.at[1].set(0.0)
AFTER_SCALE, OF_NORM = FOLD_SHIFTED

BEFORE = {
    "one number": lambda x: x / 127.5 - 1,
    "channels": lambda x: (x / 255 - MEAN) / STD,
    "product": lambda x: 0.5 + x * STD,
    "one of each": lambda x: x * 3.0 - MEAN,
}


@pytest.mark.parametrize("name", BEFORE)
@pytest.mark.parametrize("pad", [False, True])
def test_one_operation_is_left_before_a_padded_convolution(name, pad) -> None:
    def fn(x):
        y = BEFORE[name](x)
        y = jnp.pad(y, ((0, 0), (1, 1), (1, 1), (0, 0))) if pad else y
        y = conv(y, WIDER, padding="VALID" if pad else "SAME")
        # What is folded into the weights first must not hide them.
        return nnops.batch_norm(y, WIDER[0, 0, 0], positive(C + 1)) if pad else y

    new = assert_optimizes(passes.default, fn, X, absent=("mul", "div", "batch_norm"))
    assert len(new.find("add") + new.find("sub")) == 1


@pytest.mark.parametrize(
    ("before", "because"),
    [
        (lambda x: x / STD + x, "known"),
        (lambda x: x / x + MEAN, "known"),
        (lambda x: MEAN - x / STD, "known"),
        (lambda x: x / NO_STD + MEAN, "finite"),
        (lambda x: x * NO_STD + MEAN, "zero"),
        (lambda x: x * 1e-38 + 1e20, "shift by"),
        (lambda x: x / STD[:, None] + MEAN, "along the channels"),
        (lambda x: jnp.sin(x) + MEAN, "scaled"),
        (lambda x: nnops.relu(x / STD + MEAN), "elsewhere"),
    ],
)
def test_lookalikes_stay(before, because) -> None:
    assert_refuses(AFTER_SCALE, lambda x: nnops.conv(before(x), WIDER), X, because=because)


def test_what_other_users_need_stays() -> None:
    def shared(x):
        y = x / STD + MEAN
        return nnops.conv(y, WIDER), y

    assert_refuses(AFTER_SCALE, shared, X, because="an output")
    full = lambda x: nnops.conv(x / STD + MEAN, W, padding="VALID")  # noqa: E731
    assert_refuses(AFTER_SCALE, full, X, because="as well")


LARGER = {"strides": 2, "transposed": True, "activation": "relu"}
NORMS = {
    "all": (MEAN, STD, SCALE, MEAN),
    "no bias": (MEAN, STD, NO_STD, None),
    "statistics": (MEAN, STD),
}


@pytest.mark.parametrize("name", NORMS)
@pytest.mark.parametrize("groups", [1, 2])
def test_the_scale_of_a_norm_moves_in_alone(name, groups) -> None:
    w = array(3, 3, C // groups, C)

    def fn(x):
        y = nnops.batch_norm(x, *NORMS[name])
        return nnops.conv(y, w, groups=groups, **LARGER), nnops.conv(y, w, groups=groups, **LARGER)

    new = assert_optimizes(passes.default, fn, X)
    assert set(new.count()) == {"sub", "conv", "broadcast_in_dim"} and len(new.find("sub")) == 1


@pytest.mark.parametrize(
    ("norm", "because"),
    [
        (lambda x: nnops.batch_norm(x, x.mean((0, 1, 2)), STD), "on the data"),
        (lambda x: nnops.batch_norm(x, MEAN, STD, NO_STD, MEAN), "zero"),
        (lambda x: nnops.batch_norm(x, MEAN, STD, SCALE * 1e-30, MEAN * 1e20), "shift by"),
        (lambda x: nnops.batch_norm(x, MEAN, STD, SCALE / 0), "finite"),
        (lambda x: nnops.batch_norm(x, MEAN, STD, axis=1), "along the channels"),
        (lambda x: nnops.batch_norm(nnops.conv(x, W), MEAN, STD), "comes before"),
        (lambda x: nnops.batch_norm(x, MEAN, STD).swapaxes(0, 1)[:2], "elsewhere"),
    ],
)
def test_lookalikes_of_norms_stay(norm, because) -> None:
    assert_refuses(OF_NORM, lambda x: nnops.conv(norm(x), W, **LARGER), X, because=because)


def test_a_norm_that_computes_in_a_wider_type_stays() -> None:
    x, w = X.astype("bfloat16"), W.astype("bfloat16")

    def fn(x):
        return nnops.conv(nnops.batch_norm(x, *(v.astype(x.dtype) for v in (MEAN, STD))), w)

    assert_refuses(OF_NORM, fn, x, because="wider")
