"""A batch norm of a concatenation or a sum of linear ops folds into each of them."""

from __future__ import annotations

import jax.numpy as jnp
import pytest

from helpers import array, assert_optimizes, assert_refuses, conv, positive
from jaxpress import nnops, passes
from jaxpress.passes.rules.fold_split import FOLD_SPLIT

# No size tells the channels from the rows, the columns or the batch.
C = 4
X, W, V = array(C, C, C, C), array(3, 3, C, C), array(1, 1, C, C)
STATS = array(C, seed=1), positive(C), array(C, seed=2), array(C, seed=3)
TWICE = array(2 * C, seed=1), positive(2 * C), array(2 * C, seed=2), array(2 * C, seed=3)


@pytest.mark.parametrize("axis", [0, 1, 2, 3])
@pytest.mark.parametrize("bias", [False, True])
def test_of_a_concatenation_along_any_axis(axis, bias) -> None:
    def fn(x):
        y, z = conv(x, W), conv(x, V)
        if bias:
            y, z = y + STATS[0], z + STATS[1]
        stats = TWICE if axis == 3 else STATS
        return nnops.batch_norm(jnp.concatenate([y, z], axis), *stats)

    assert_optimizes(passes.default, fn, X, ops={"conv": 2, "concatenate": 1})


def test_of_a_sum() -> None:
    def fn(x):
        return nnops.relu(nnops.batch_norm(conv(x, W) + conv(x, V), *STATS[:2]))

    new = assert_optimizes(passes.default, fn, X, ops={"conv": 2})
    assert {str(n.params["activation"]) for n in new.find("conv")} >= {"None"}


@pytest.mark.parametrize(
    ("fn", "because"),
    [
        (lambda y, z: nnops.batch_norm(jnp.concatenate([y, nnops.relu(z)], 3), *TWICE), "made by"),
        (lambda y, z: nnops.batch_norm(jnp.concatenate([y, y], 3), *TWICE), "twice"),
        (lambda y, z: nnops.batch_norm(y + y, *STATS), "twice"),
        (lambda y, z: nnops.batch_norm(y + z, *STATS) + z, "elsewhere"),
        (lambda y, z: (lambda s: nnops.batch_norm(s, *STATS) + s)(y + z), "elsewhere"),
        (lambda y, z: nnops.batch_norm(y + z, *STATS, axis=1), "features"),
        (lambda y, z: nnops.batch_norm(y + z[:1], *STATS), "made by"),
        (lambda y, z: nnops.batch_norm(y + z, z[0, 0, 0], STATS[1]), "not known"),
        (lambda y, z: nnops.batch_norm(y + z, STATS[0], jnp.zeros(C), epsilon=0.0), "finite"),
    ],
)
def test_lookalikes_stay(fn, because) -> None:
    def whole(x):
        return fn(nnops.conv(x, W), nnops.conv(x, V))

    if because == "finite":
        zero = jnp.zeros(C)

        def whole(x):
            y = nnops.conv(x, W) + nnops.conv(x, V)
            return nnops.batch_norm(y, STATS[0], zero, epsilon=0.0)

    assert_refuses(FOLD_SPLIT, whole, X, because=because)
