"""Slices of windows."""

import itertools

import jax.export
import jax.numpy as jnp
import numpy as np

from jaxpress.nnops.kernels.windows import shifted_slices, window_positions


def test_positions_are_those_of_a_sliding_window():
    for size, window, stride, dilation, low, high in itertools.product(
        (1, 4, 7), (1, 2, 3), (1, 2, 3), (1, 2), (0, 2), (-1, 1)
    ):
        extent = (window - 1) * dilation + 1
        want = len(range(0, size + low + high - extent + 1, stride))
        assert window_positions(size, window, stride, dilation, (low, high)) == want


def test_positions_of_symbolic_sizes():
    (n,) = jax.export.symbolic_shape("n")
    assert window_positions(n, 1, 1, 1, (0, 0)) is n
    assert window_positions(n, 3, 1, 1, (1, 1)) == n


def test_slices_where_no_window_fits_are_empty():
    slices = list(shifted_slices(jnp.ones((4, 2)), (2, 3), (1, 1), (1, 2), (3, 0)))
    assert [s.shape for s in slices] == [(3, 0)] * 6


def test_slices_come_in_the_order_of_the_taps():
    x = np.arange(5 * 7).reshape(5, 7)
    got = list(shifted_slices(jnp.asarray(x), (2, 3), (2, 1), (1, 2), (2, 3)))
    taps = itertools.product(range(2), range(3))
    for seen, (i, j) in zip(got, taps, strict=True):
        np.testing.assert_array_equal(seen, x[i : i + 3 : 2, 2 * j : 2 * j + 3])
