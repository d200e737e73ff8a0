"""Masks of attention against those that Flax and numpy make."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxpress import nnops
from jaxpress.nnops.attention_masks import band_mask, large_negative


@pytest.mark.parametrize("t, s", [(4, 4), (3, 5), (5, 3), (1, 1), (0, 2)])
def test_causal_is_tril(t, s):
    np.testing.assert_array_equal(nnops.causal_mask(t, s), np.tril(np.ones((t, s), bool)))


@pytest.mark.parametrize("left, right", [(0, 0), (1, 2), (9, 0), (2, -1), (None, 1), (1, None)])
def test_windows_are_bands(left, right):
    i, j = np.mgrid[:5, :7]
    want = np.ones((5, 7), bool)
    want &= True if left is None else j >= i - left
    want &= True if right is None else j <= i + right
    np.testing.assert_array_equal(band_mask(5, 7, left, right), want)
    if left is not None and right is not None:
        np.testing.assert_array_equal(nnops.sliding_window_mask(5, 7, left=left, right=right), want)


def test_a_band_open_on_both_sides_is_no_mask():
    assert band_mask(2, 3, None, None) is None


def test_segments_are_those_of_flax():
    nn = pytest.importorskip("flax.linen")
    ids = jnp.array([[1, 1, 2, 0], [1, 2, 2, 2]])
    want = nn.make_attention_mask(ids, ids, jnp.equal, dtype=bool)
    np.testing.assert_array_equal(nnops.segment_mask(ids), want)
    assert nnops.segment_mask(ids, ids[:, :3]).shape == (2, 1, 4, 3)


def test_combination():
    a, b = nnops.causal_mask(3), nnops.segment_mask(jnp.array([1, 1, 2]))[0]
    np.testing.assert_array_equal(nnops.combine_masks(a, None, b), a & b)
    assert nnops.combine_masks(None) is None


def test_large_negative_is_finite_in_float32():
    for dtype in (jnp.float16, jnp.bfloat16, jnp.float32, jnp.float64):
        low = np.float32(large_negative(dtype))
        assert np.isfinite(low) and low < -4e4


@pytest.mark.parametrize(
    "call",
    [
        lambda: nnops.combine_masks(jnp.ones((2, 2))),
        lambda: nnops.combine_masks(jnp.ones((2, 2), bool), jnp.ones(2, bool)),
        lambda: nnops.combine_masks(jnp.ones((2, 2), bool), jnp.ones((2, 3), bool)),
        lambda: nnops.segment_mask(jnp.ones(3)),
        lambda: nnops.segment_mask(jnp.ones((2, 3), int), jnp.ones((3, 3), int)),
        lambda: nnops.segment_mask(1),
    ],
)
def test_what_does_not_fit(call):
    with pytest.raises(nnops.OpError):
        call()
