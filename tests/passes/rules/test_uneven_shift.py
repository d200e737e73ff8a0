"""A batch norm before a convolution that pads or has holes: its shift is added to the result."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest

from helpers import CHW, array, assert_applies, assert_refuses, positive
from jaxpress import nnops
from jaxpress.passes import fold_constants
from jaxpress.passes.rules.fold_before import FOLD_BEFORE
from jaxpress.passes.rules.fold_shifted import FOLD_SHIFTED
from jaxpress.testing import assert_rewrites

C = 4
MEAN, VAR, SCALE, BIAS = array(C, seed=1), positive(C), array(C, seed=2), array(C, seed=3)
X, W, B = array(2, C, C, C), array(3, 3, C, C), array(C, seed=5)


def norm(x, axis=-1):
    return nnops.batch_norm(x, MEAN, VAR, SCALE, BIAS, axis=axis)


# Wherever the result has at most three times as many elements.
CASES = {
    "same": ((2, 5, 6, C), {"w": W}),
    "strided": ((2, 5, 6, C), {"w": W, "strides": 2, "b": B}),
    "dilated": ((2, 5, 6, C), {"w": W, "dilation": (1, 2)}),
    "uneven padding": ((2, 5, 6, C), {"w": W, "padding": ((2, -1), (0, 1))}),
    "grouped": ((2, 5, 6, C), {"w": array(3, 3, 2, 6), "groups": 2}),
    "depthwise": ((2, 5, 6, C), {"w": array(3, 3, 1, C), "groups": C, "b": B}),
    "channels first": ((2, C, 5, 6), {"w": array(6, C, 3, 3), "dimension_numbers": CHW}),
    "one dimension": ((2, 7, C), {"w": array(3, C, 3)}),
    "causal": ((2, 7, C), {"w": array(3, C, 3), "padding": "CAUSAL", "dilation": 2}),
    "three dimensions": ((2, 3, 4, 3, C), {"w": array(2, 3, 2, C, 3)}),
    "transposed": ((2, 5, 6, C), {"w": array(3, 3, C, 2), "transposed": True, "strides": 2}),
    "transposed, valid": (
        (2, 5, 6, C),
        {"w": array(2, 2, C, 2), "transposed": True, "strides": 2, "padding": "VALID", "b": B[:2]},
    ),
    "transposed by one": ((2, 5, 6, C), {"w": W, "transposed": True, "padding": "VALID"}),
    "transposed, padded": (
        (2, 5, 6, C),
        {"w": array(3, 4, C, 2), "transposed": True, "strides": (2, 1), "padding": ((0, 3), 1)},
    ),
    "transposed, dilated": (
        (2, 3, 4, C),
        {"w": array(2, 2, C, 1), "transposed": True, "strides": 2, "dilation": 2},
    ),
    "transposed, grouped": (
        (2, 5, 6, C),
        {"w": array(3, 3, 2, 2), "transposed": True, "strides": 2, "groups": 2},
    ),
    "transposed, channels first": (
        (2, C, 5, 6),
        {"w": array(2, C, 3, 3), "transposed": True, "strides": 2, "dimension_numbers": CHW},
    ),
    "transposed, one dimension": (
        (2, 7, C),
        {"w": array(4, C, 5), "transposed": True, "strides": 2},
    ),
    "transposed, three dimensions": (
        (2, 2, 3, 2, C),
        {"w": array(2, 2, 2, C, 1), "transposed": True, "strides": (2, 2, 1)},
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_what_the_result_gains_is_computed_beforehand(name) -> None:
    shape, options = CASES[name]

    def fn(x):
        x = norm(x, 1 if "first" in name else -1)
        return nnops.conv(x, **options, activation="silu")

    new = assert_applies(FOLD_BEFORE, fn, array(*shape), times=1)
    left = fold_constants(new).count()
    left.pop("broadcast_in_dim", None)  # over the batch
    assert left == {"conv": 1}
    (node,) = fold_constants(new).find("conv")
    assert "residual" in node.params["operands"]


def test_against_float64_and_under_vmap() -> None:
    options = {"strides": 2, "transposed": True, "activation": "relu"}
    w = array(3, 3, C, 2)
    assert_rewrites(FOLD_BEFORE, lambda x: nnops.conv(norm(x), w, **options), X, times=1)


def test_beside_a_residual_and_other_users() -> None:
    r = array(2, C, C, C, seed=7)

    def several(x):
        y = norm(x)
        padded = nnops.conv(y, W, None, jnp.sin(r), activation="relu")
        return padded, nnops.conv(y, W, B, padding="VALID"), nnops.conv(y.swapaxes(1, 2), W)

    new = assert_applies(FOLD_BEFORE, several, X, times=3)
    assert not new.find("batch_norm")
    for other in (lambda y: y, lambda y: nnops.relu(y)):
        fn = lambda x, f=other: (lambda y: (nnops.conv(y, W), f(y)))(norm(x))  # noqa: E731
        assert_refuses(FOLD_BEFORE, fn, X)
        assert_refuses(FOLD_SHIFTED, fn, X)


def test_a_scale_and_a_shift_by_hand() -> None:
    new = assert_applies(FOLD_BEFORE, lambda x: nnops.conv(x * SCALE + BIAS, W), X, times=2)
    assert set(fold_constants(new).count()) == {"conv", "broadcast_in_dim"}


@pytest.mark.parametrize(
    ("fn", "because"),
    [
        # Too much to add, for what is saved.
        (lambda x: nnops.conv(norm(x), W, strides=2, transposed=True), "larger"),
        (lambda x: nnops.conv(norm(x), array(3, 3, C, 16)), "larger"),
        # Nothing tells how much it shifts by.
        (lambda x: nnops.conv(x + BIAS, W), "padding is zero"),
        (lambda x: nnops.conv(nnops.avg_pool(norm(x), 2), W), "padding is zero"),
        (lambda x: nnops.conv(nnops.batch_norm(x, x.mean((0, 1, 2)), VAR), W), "on the data"),
        (lambda x: nnops.conv(norm(x, 1), W), "channels alone"),
        (lambda x: nnops.conv(nnops.relu(norm(x)), W), "not scaled"),
        (lambda x: nnops.conv(nnops.batch_norm(x, MEAN + 1e4, VAR), W), "lose digits"),
        (lambda x: nnops.conv(nnops.batch_norm(x, MEAN, VAR, SCALE / 0), W), "not finite"),
    ],
)
def test_what_stays(fn, because) -> None:
    assert_refuses(FOLD_BEFORE, fn, X, because=because)


def test_unknown_sizes_and_shardings_stay() -> None:
    def fn(x):
        return nnops.conv(norm(x), W)

    (n,) = jax.export.symbolic_shape("n")
    assert_refuses(FOLD_BEFORE, fn, jax.ShapeDtypeStruct((n, C, C, C), "float32"))
