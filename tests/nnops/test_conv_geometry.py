"""Dimension numbers and padding of convolutions."""

import itertools

import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jaxpress import nnops
from jaxpress.nnops.conv_geometry import (
    explicit_padding,
    layout,
    per_dimension,
    resolve_padding,
    specs,
)


@pytest.mark.parametrize("rank", [1, 2, 3, 4, 5])
def test_default_layout_is_channels_last(rank):
    x, w = jnp.ones((2,) * (rank + 2)), jnp.ones((2,) * (rank + 2))
    got = layout(None, x, w)
    letters = {1: "W", 2: "HW", 3: "DHW"}.get(rank, "01234"[:rank])
    assert got == (f"N{letters}C", f"{letters}IO", f"N{letters}C")
    spatial = tuple(range(1, rank + 1))
    assert specs(got).lhs_spec == specs(got).out_spec == (0, rank + 1, *spatial)
    assert specs(got).rhs_spec == (rank + 1, rank, *range(rank))


def test_every_layout_means_to_lax_what_it_means_to_us():
    x = w = jnp.ones((1, 1, 1, 1))
    for lhs, rhs in itertools.product(
        map("".join, itertools.permutations("NHWC")), map("".join, itertools.permutations("OIHW"))
    ):
        given = (lhs, rhs, "CWHN")
        kept = layout(given, x, w)
        assert specs(kept) == lax.conv_dimension_numbers(x.shape, w.shape, given)
        # What lax makes of the kept spelling is the same again.
        if not isinstance(kept, lax.ConvDimensionNumbers):
            assert lax.conv_dimension_numbers(x.shape, w.shape, kept) == specs(kept)
        assert layout(specs(kept), x, w) == kept


def test_kernels_with_falling_spatial_axes_keep_lax_numbers():
    x = w = jnp.ones((1, 1, 1, 1))
    numbers = lax.ConvDimensionNumbers((0, 1, 2, 3), (0, 1, 3, 2), (0, 1, 2, 3))
    assert layout(numbers, x, w) is numbers


@pytest.mark.parametrize(
    "given", [("NHWC", "HWIO"), ("NHWC", "HWIO", "NHW"), ("NHWC", "HWXO", "NHWC"), "NHWC", 3]
)
def test_bad_layouts(given):
    with pytest.raises(nnops.OpError, match=r"dimension_numbers are[^\n]*\n.*\n.*HWIO"):
        layout(given, jnp.ones((1, 1, 1, 1)), jnp.ones((1, 1, 1, 1)))


@pytest.mark.parametrize("size, k, s, d", [(8, 3, 1, 1), (8, 3, 2, 1), (9, 4, 3, 2), (5, 7, 2, 1)])
@pytest.mark.parametrize("name", ["SAME", "VALID", "SAME_LOWER", "same"])
def test_named_padding_is_that_of_lax(size, k, s, d, name):
    x, w = jnp.ones((1, size, size, 1)), jnp.ones((k, k, 1, 1))
    got = resolve_padding(name, x, w, layout(None, x, w), (s, 1), (d, 1), False)
    want = lax.padtype_to_pads((size,) * 2, ((k - 1) * d + 1, k), (s, 1), name.upper())
    assert got == tuple(map(tuple, want))


def test_causal_padding_sees_no_future():
    x, w = jnp.ones((1, 10, 1)), jnp.ones((3, 1, 1))
    assert resolve_padding("CAUSAL", x, w, ("NWC", "WIO", "NWC"), (1,), (2,), False) == ((4, 0),)


@pytest.mark.parametrize("k, s, d", list(itertools.product([1, 2, 3, 4, 5], [1, 2, 3, 6], [1, 2])))
@pytest.mark.parametrize("name", ["SAME", "VALID"])
def test_transposed_padding_gives_the_shapes_of_lax(k, s, d, name):
    x, w = jnp.ones((1, 6, 1)), jnp.arange(1.0, k + 1).reshape(k, 1, 1)
    ((low, high),) = resolve_padding(name, x, w, ("NWC", "WIO", "NWC"), (s,), (d,), True)
    want = lax.conv_transpose(
        x, w, (s,), name, rhs_dilation=(d,), dimension_numbers=("NWC", "WIO", "NWC")
    )
    got = lax.conv_general_dilated(
        x, w, (1,), [(low, high)], (s,), (d,), dimension_numbers=("NWC", "WIO", "NWC")
    )
    np.testing.assert_array_equal(got, want)


def test_explicit_padding():
    assert explicit_padding(2, 2) == ((2, 2), (2, 2))
    assert explicit_padding([1, (0, 3)], 2) == ((1, 1), (0, 3))
    assert explicit_padding(((-1, 0),), 1) == ((-1, 0),)
    (n,) = jax.export.symbolic_shape("n")
    assert explicit_padding(((n, 0),), 1) == ((n, 0),)
    with pytest.raises(nnops.OpError, match="2 integers or pairs"):
        explicit_padding([(1, 1)], 2)
    with pytest.raises(nnops.OpError):
        explicit_padding([(1, 1, 1), (1, 1)], 2)
    with pytest.raises(nnops.OpTypeError, match=r"padding holds 0\.5"):
        explicit_padding(0.5, 2)


@pytest.mark.parametrize(
    "name, rank, transposed",
    [("FULL", 1, False), ("CAUSAL", 2, False), ("CAUSAL", 1, True), ("SAME_LOWER", 1, True)],
)
def test_padding_that_does_not_exist(name, rank, transposed):
    x = w = jnp.ones((1,) * (rank + 2))
    with pytest.raises(nnops.OpError, match=f"padding is '{name}'"):
        resolve_padding(name, x, w, layout(None, x, w), (1,) * rank, (1,) * rank, transposed)


def test_same_padding_of_symbolic_sizes():
    (n,) = jax.export.symbolic_shape("n")
    x, w = jax.ShapeDtypeStruct((1, n, 1), jnp.float32), jnp.ones((3, 1, 1))
    numbers = ("NWC", "WIO", "NWC")
    assert resolve_padding("SAME", x, w, numbers, (1,), (1,), False) == ((1, 1),)
    ((low, high),) = resolve_padding("SAME", x, w, numbers, (2,), (1,), False)
    assert jax.export.is_symbolic_dim(low + high)


def test_per_dimension():
    assert per_dimension("strides", 2, 3) == (2, 2, 2)
    assert per_dimension("strides", np.array([1, 2]), 2) == (1, 2)
    for bad, kind in (((1, 2), nnops.OpError), (0, nnops.OpError), (1.5, nnops.OpTypeError)):
        with pytest.raises(kind, match="conv: strides is"):
            per_dimension("strides", bad, 3)
