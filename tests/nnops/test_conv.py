"""The op conv against lax, with which it must agree to the bit."""

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jaxpress import nnops


def _rng(*shape, seed=0, dtype=jnp.float32):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), dtype)


LAYOUTS = {
    1: [None, ("NCW", "OIW", "NCW"), ("NWC", "WIO", "NCW")],
    2: [None, ("NCHW", "OIHW", "NCHW"), ("HWNC", "HWIO", "NHWC"), ("CHWN", "IHWO", "NCHW")],
    3: [None, ("NCDHW", "OIDHW", "NCDHW")],
    4: [None],
}


def _operands(rank, numbers, groups=1, size=6, k=3, dtype=jnp.float32):
    letters = {1: "W", 2: "HW", 3: "DHW", 4: "0123"}[rank]
    numbers = numbers or (f"N{letters}C", f"{letters}IO", f"N{letters}C")
    sizes = {"N": 2, "C": 4, "I": 4 // groups, "O": 8}
    x = _rng(*(sizes.get(c, size) for c in numbers[0]), dtype=dtype)
    w = _rng(*(sizes.get(c, k) for c in numbers[1]), seed=1, dtype=dtype)
    return x, w, numbers


@pytest.mark.parametrize("rank, numbers", [(r, n) for r, all in LAYOUTS.items() for n in all])
@pytest.mark.parametrize(
    "params",
    [
        {},
        {"strides": 2, "padding": "VALID"},
        {"dilation": 2, "groups": 2, "padding": "SAME_LOWER"},
        {"strides": 2, "padding": 1, "groups": 4, "k": 2},
    ],
)
def test_the_bare_op_is_lax_to_the_bit(rank, numbers, params):
    params = dict(params)
    k = params.pop("k", 3 if rank < 4 else 2)
    size = 6 if rank < 3 else 4
    x, w, full = _operands(rank, numbers, params.get("groups", 1), size, k)
    strides, dilation = (params.get(n, 1) for n in ("strides", "dilation"))
    padding = params.get("padding", "SAME")
    want = lax.conv_general_dilated(
        x,
        w,
        (strides,) * rank,
        [(padding, padding)] * rank if isinstance(padding, int) else padding,
        rhs_dilation=(dilation,) * rank,
        dimension_numbers=full,
        feature_group_count=params.get("groups", 1),
    )
    got = nnops.conv(x, w, dimension_numbers=numbers, **params)
    np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.int8, jnp.complex64])
@pytest.mark.parametrize("preferred", [None, jnp.float32, jnp.int32])
def test_dtypes_are_those_of_lax(dtype, preferred):
    x, w, numbers = _operands(1, None)
    x, w = (x * 5).astype(dtype), (w * 5).astype(dtype)

    def plain(x, w):
        return lax.conv_general_dilated(
            x, w, (1,), "SAME", dimension_numbers=numbers, preferred_element_type=preferred
        )

    try:
        want = jax.jit(plain)(x, w)
    except TypeError:  # lax has no such product
        with pytest.raises(TypeError):
            nnops.conv(x, w, preferred_element_type=preferred)
        return
    got = nnops.conv(x, w, preferred_element_type=preferred)
    assert got.dtype == want.dtype
    np.testing.assert_array_equal(np.asarray(got), np.asarray(want))


def test_the_equation_inside_is_the_very_one_of_lax():
    x, w, numbers = _operands(2, ("NCHW", "OIHW", "NCHW"), 2)
    f = lambda x, w: lax.conv_general_dilated(  # noqa: E731
        x, w, (2, 1), "SAME", None, (1, 2), numbers, 2, precision="high"
    )
    (want,) = jax.make_jaxpr(f)(x, w).eqns
    g = lambda x, w: nnops.conv(  # noqa: E731
        x,
        w,
        strides=(2, 1),
        dilation=(1, 2),
        groups=2,
        precision="high",
        dimension_numbers=want.params["dimension_numbers"],
    )
    (named,) = jax.make_jaxpr(g)(x, w).eqns
    op = nnops.ops["conv"]
    (got,) = jax.make_jaxpr(op.implementation(named.params))(x, w).eqns
    # padding is a tuple of pairs here, a list of pairs there.
    assert {k: v for k, v in got.params.items() if k != "padding"} == {
        k: v for k, v in want.params.items() if k != "padding"
    }
    assert list(map(tuple, got.params["padding"])) == list(map(tuple, want.params["padding"]))


def test_kernels_with_falling_spatial_axes():
    x, w = _rng(2, 4, 6, 7), _rng(8, 4, 2, 3, seed=1)
    numbers = lax.ConvDimensionNumbers((0, 1, 2, 3), (0, 1, 3, 2), (0, 1, 2, 3))
    args = ((2, 1), ((1, 0), (0, 2)))
    want = lax.conv_general_dilated(x, w, *args, dimension_numbers=numbers)
    got = nnops.conv(x, w, strides=args[0], padding=args[1], dimension_numbers=numbers)
    np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("padding", ["SAME", "VALID", ((1, 2), (0, 3))])
@pytest.mark.parametrize("strides, dilation", [((2, 3), (1, 1)), ((1, 2), (2, 1))])
@pytest.mark.parametrize("numbers", [("NHWC", "HWIO", "NHWC"), ("NCHW", "OIHW", "NCHW")])
def test_transposed_is_conv_transpose_of_lax(padding, strides, dilation, numbers):
    x, w, _ = _operands(2, numbers, size=4)
    params = {"strides": strides, "padding": padding, "dimension_numbers": numbers}
    want = lax.conv_transpose(x, w, rhs_dilation=dilation, **params)
    got = nnops.conv(x, w, transposed=True, dilation=dilation, **params)
    np.testing.assert_array_equal(got, want)


def test_transposed_with_groups():
    x, w, _ = _operands(2, None, groups=2, size=4)
    got = nnops.conv(x, w, transposed=True, strides=2, groups=2)
    halves = [
        lax.conv_transpose(x[..., 2 * g : 2 * g + 2], w[..., 4 * g : 4 * g + 4], (2, 2), "SAME")
        for g in range(2)
    ]
    np.testing.assert_allclose(got, jnp.concatenate(halves, -1), rtol=1e-6, atol=1e-6)


def test_against_a_sum_in_float64():
    x, w, b, r = _rng(2, 7, 5), _rng(3, 5, 4, seed=1), _rng(4, seed=2), _rng(2, 4, 4, seed=3)
    got = nnops.conv(x, w, b, r, strides=2, padding=1, activation=("elu", {"alpha": 0.5}))
    x, w, b, r = (np.asarray(v, np.float64) for v in (x, w, b, r))
    padded = np.pad(x, ((0, 0), (1, 1), (0, 0)))
    z = np.stack([np.einsum("nkc,kco->no", padded[:, i : i + 3], w) for i in range(0, 7, 2)], 1)
    z = z + b + r
    np.testing.assert_allclose(got, np.where(z > 0, z, 0.5 * np.expm1(z)), rtol=3e-6, atol=3e-6)


def test_causal_conv_ignores_the_future():
    x, w = _rng(1, 9, 2), _rng(3, 2, 2)
    y = nnops.conv(x, w, padding="CAUSAL", dilation=2)
    assert y.shape == x.shape
    changed = nnops.conv(x.at[:, 5:].add(1.0), w, padding="CAUSAL", dilation=2)
    np.testing.assert_array_equal(y[:, :5], changed[:, :5])
    assert not np.array_equal(y[:, 5], changed[:, 5])


def _plain(x, w, b=None, r=None, *, activation=lambda y: y, axis=-1, **params):
    y = lax.conv_general_dilated(x, w, **params)
    if b is not None:
        shape = [1] * y.ndim
        shape[axis] = -1
        y = y + b.reshape(shape)
    return activation(y if r is None else y + r)


@pytest.mark.parametrize("full", [True, False])
def test_behaves_under_every_transformation(agree, full):
    numbers = ("NCH", "OIH", "NHC") if full else ("NHWC", "HWIO", "NHWC")
    shapes = [(2, 2, 5), (4, 1, 3), (4,), (2, 3, 4)] if full else [(1, 3, 3, 2), (2, 2, 2, 3)]
    s = 2 if full else 1
    agree(
        lambda *a: nnops.conv(
            *a,
            strides=s,
            groups=2 if full else 1,
            dimension_numbers=numbers,
            activation="tanh" if full else None,
        ),
        lambda *a: _plain(
            *a,
            activation=jnp.tanh if full else lambda y: y,
            window_strides=(s,) * (len(numbers[0]) - 2),
            padding="SAME",
            dimension_numbers=numbers,
            feature_group_count=2 if full else 1,
        ),
        *shapes,
    )


def test_transposed_behaves_under_every_transformation(agree):
    agree(
        lambda x, w: nnops.conv(x, w, strides=2, transposed=True, activation="silu"),
        lambda x, w: jax.nn.silu(
            lax.conv_transpose(x, w, (2,), "SAME", dimension_numbers=("NWC", "WIO", "NWC"))
        ),
        (1, 3, 2),
        (3, 2, 2),
        batch=False,
    )


def test_parameters_are_short_and_complete():
    x, w, _ = _operands(2, None)
    f = lambda x, w: nnops.conv(x, w, strides=2, activation="relu")  # noqa: E731
    (eqn,) = jax.make_jaxpr(f)(x, w).eqns
    assert {k: str(v) for k, v in eqn.params.items()} == {
        "activation": "relu",
        "dilation": "(1, 1)",
        "dimension_numbers": "('NHWC', 'HWIO', 'NHWC')",
        "groups": "1",
        "kernel": "reference",
        "operands": "('x', 'w')",
        "padding": "((0, 1), (0, 1))",
        "precision": "None",
        "preferred_element_type": "None",
        "strides": "(2, 2)",
        "transposed": "False",
    }


@pytest.mark.parametrize("numbers", [None, ("HWNC", "HWIO", "CHWN")])
def test_vmap_over_x_merges_with_the_batch(numbers):
    x, w, _ = _operands(2, numbers)
    b = _rng(8)
    f = lambda x, r: nnops.conv(x, w, b, r, dimension_numbers=numbers)  # noqa: E731
    r = jnp.zeros_like(f(x, None))
    for axes, args in (((3, 0), (jnp.stack([x] * 5, 3), jnp.stack([r] * 5))), ((0, None), None)):
        args = args or (jnp.stack([x, 2 * x]), r)
        eqns = jax.make_jaxpr(jax.vmap(f, axes))(*args).eqns
        (eqn,) = (e for e in eqns if e.primitive.name == "conv")
        assert "mapped" not in eqn.params
        want = [
            f(*(a if ax is None else jnp.take(a, i, ax) for a, ax in zip(args, axes, strict=True)))
            for i in range(2)
        ]
        np.testing.assert_allclose(
            jax.vmap(f, axes)(*args)[:2], jnp.stack(want), rtol=1e-6, atol=1e-6
        )


def test_gradient_computes_the_forward_conv_once():
    x, w, _ = _operands(2, None)
    b = _rng(8)
    f = lambda x, w, b: nnops.conv(x, w, b, activation="gelu").sum()  # noqa: E731
    names = [e.primitive.name for e in jax.make_jaxpr(jax.grad(f, (0, 1, 2)))(x, w, b).eqns]
    assert (names.count("conv"), names.count("conv_general_dilated")) == (1, 2)
    names = [e.primitive.name for e in jax.make_jaxpr(jax.grad(f, 2))(x, w, b).eqns]
    assert (names.count("conv"), names.count("conv_general_dilated")) == (1, 0)


@pytest.mark.parametrize(
    "shapes, params, words",
    [
        (((2, 8, 8, 3), (3, 3, 4, 5)), {}, "x has 3 channels (axis 3), and w takes 4 (axis 2)"),
        (((2, 8, 8, 4), (3, 3, 4, 5)), {"groups": 2}, "in each of 2 groups"),
        (((2, 8, 8, 4), (3, 3, 2, 5)), {"groups": 2}, "5 features (axis 3), which 2 groups"),
        (((8, 8, 3), (3, 3, 3, 5)), {}, "give a single example a leading axis"),
        (((2, 3), (3, 5)), {}, "x has 2 dimensions and w has 2"),
        (((2, 8, 8, 3), (3, 3, 3, 5), (1,)), {}, "b has shape (1,), and the result has 5"),
        (((2, 8, 8, 3), (3, 3, 3, 5), (8,)), {}, "b has shape (8,)"),
        (((2, 8, 8, 3), (3, 3, 3, 5), (5,), (5,)), {}, "residual has shape (5,)"),
        (((2, 8, 8, 3), (3, 3, 3, 5)), {"strides": (1, 2, 3)}, "strides is (1, 2, 3)"),
        (((2, 8, 8, 3), (3, 3, 3, 5)), {"groups": 0}, "groups is 0"),
        (((2, 8, 8, 3), (3, 3, 3, 5)), {"padding": "HALF"}, "padding is 'HALF'"),
    ],
)
def test_operands_that_do_not_fit(shapes, params, words):
    operands = [jnp.ones(s) for s in shapes]
    with pytest.raises(nnops.OpError) as caught:
        nnops.conv(*operands, **params)
    assert str(caught.value).startswith("conv: ")
    assert words in str(caught.value)


def test_bias_runs_along_the_feature_axis_of_the_result():
    # As many features as rows: a bias along the wrong axis would fit.
    x, w = _rng(2, 3, 4, 4), _rng(4, 3, 1, 1, seed=1)
    b = jnp.arange(4.0)
    numbers = ("NCHW", "OIHW", "NCHW")
    bare = nnops.conv(x, w, dimension_numbers=numbers)
    np.testing.assert_allclose(
        nnops.conv(x, w, b, dimension_numbers=numbers), bare + b[:, None, None], rtol=1e-6
    )
    # And where b widens the result's dtype, so that the epilogue stays outside.
    low = nnops.conv(x.astype(jnp.bfloat16), w.astype(jnp.bfloat16), b, dimension_numbers=numbers)
    assert low.dtype == jnp.float32
    np.testing.assert_allclose(low, bare + b[:, None, None], rtol=0.03, atol=0.03)


@pytest.mark.parametrize("strides", [1, 2])
def test_export_with_symbolic_batch_and_size(strides):
    n, h = jax.export.symbolic_shape("n, h")
    w, b = _rng(3, 3, 2, 4), _rng(4)
    f = jax.jit(lambda x: nnops.conv(x, w, b, strides=strides, activation="relu"))
    exported = jax.export.export(f)(jax.ShapeDtypeStruct((n, h, 2 * h, 2), jnp.float32))
    x = _rng(3, 7, 14, 2)
    np.testing.assert_allclose(exported.call(x), f(x), rtol=1e-6, atol=1e-6)
