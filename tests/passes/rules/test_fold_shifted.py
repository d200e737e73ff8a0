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
MEAN, STD = array(C, seed=1), positive(C)
NO_STD = STD.at[1].set(0.0)

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
        y = conv(y, W, padding="VALID" if pad else "SAME")
        # What is folded into the weights first must not hide them.
        return nnops.batch_norm(y, MEAN, STD) if pad else y

    new = assert_optimizes(passes.default, fn, X, absent=("mul", "div", "batch_norm"))
    assert len(new.find("add") + new.find("sub")) == 1


@pytest.mark.parametrize(
    ("before", "because"),
    [
        (lambda x: x / STD + x, "known"),
        (lambda x: x / x + MEAN, "known"),
        (lambda x: MEAN - x / STD, "known"),
        (lambda x: x / NO_STD + MEAN, "zero"),
        (lambda x: x * 1e-38 + 1e20, "shift by"),
        (lambda x: x / STD[:, None] + MEAN, "along the channels"),
        (lambda x: jnp.sin(x) + MEAN, "scaled"),
        (lambda x: nnops.relu(x / STD + MEAN), "elsewhere"),
    ],
)
def test_lookalikes_stay(before, because) -> None:
    assert_refuses(FOLD_SHIFTED, lambda x: nnops.conv(before(x), W), X, because=because)


def test_what_other_users_need_stays() -> None:
    def shared(x):
        y = x / STD + MEAN
        return nnops.conv(y, W), y

    assert_refuses(FOLD_SHIFTED, shared, X, because="an output")
    full = lambda x: nnops.conv(x / STD + MEAN, W, padding="VALID")  # noqa: E731
    assert_refuses(FOLD_SHIFTED, full, X, because="as well")
