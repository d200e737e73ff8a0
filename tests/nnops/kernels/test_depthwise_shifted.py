"""The kernel depthwise_shifted against conv's reference."""

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jaxpress import nnops

CONV = nnops.ops["conv"]


def _rng(*shape, seed=0, dtype=jnp.float32):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), dtype)


def _with(kernel, params):
    """conv of x, w, b, residual by a kernel; params as people write them."""

    def f(*operands):
        eqn = jax.make_jaxpr(lambda *a: nnops.conv(*a, **params))(*operands).eqns[-1]
        given = dict(zip(CONV.names, operands, strict=False))
        return CONV.rebind(given, **{**eqn.params, "kernel": kernel})

    return f


CASES = [
    (((2, 9, 3), (3, 1, 3)), {}),
    (((2, 8, 7, 4), (3, 3, 1, 4)), {}),
    (((2, 8, 7, 4), (3, 2, 1, 8)), {"strides": (2, 3), "padding": ((2, 0), (-1, 3))}),
    (((1, 9, 9, 2), (5, 5, 1, 6)), {"dilation": (1, 2), "padding": "VALID"}),
    (((2, 4, 8, 7), (8, 1, 3, 3)), {"dimension_numbers": ("NCHW", "OIHW", "NCHW"), "strides": 2}),
    (((8, 2, 4, 7), (3, 8, 1, 2)), {"dimension_numbers": ("HNCW", "WOIH", "CNWH")}),
    (((1, 4, 5, 4, 3), (2, 3, 2, 1, 3)), {"strides": (1, 2, 1)}),
    (((1, 2, 2, 3), (3, 3, 1, 3)), {"padding": "VALID"}),  # no position at all
    (((1, 3, 3, 3), (5, 5, 1, 3)), {"padding": "VALID"}),  # nor room for a single one
    (((2, 4, 5, 3), (3, 4, 1, 3)), {"strides": (2, 3), "transposed": True}),
    (
        ((2, 3, 4, 5), (6, 1, 3, 2)),
        {
            "dimension_numbers": ("NCHW", "OIHW", "NCHW"),
            "strides": 2,
            "transposed": True,
            "dilation": 2,
        },
    ),
    (((1, 5, 5, 1), (3, 3, 1, 4)), {}),  # one channel: also an ordinary conv
]


def _groups(shapes, params):
    numbers = params.get("dimension_numbers", ("N" + "." * (len(shapes[0]) - 2) + "C",))
    return shapes[0][numbers[0].index("C")]


@pytest.mark.parametrize("shapes, params", CASES)
def test_values_are_those_of_the_reference(shapes, params):
    params = {**params, "groups": _groups(shapes, params)}
    x, w = _rng(*shapes[0]), _rng(*shapes[1], seed=1)
    want = jax.jit(_with("reference", params))(x, w)
    got = jax.jit(_with("depthwise_shifted", params))(x, w)
    assert got.shape == want.shape
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


def test_kernels_with_falling_spatial_axes():
    numbers = lax.ConvDimensionNumbers((0, 1, 3, 2), (0, 1, 3, 2), (0, 1, 2, 3))
    params = {"dimension_numbers": numbers, "strides": (2, 1), "groups": 4}
    x, w = _rng(2, 4, 8, 7), _rng(4, 1, 2, 3)
    want = _with("reference", params)(x, w)
    np.testing.assert_allclose(_with("depthwise_shifted", params)(x, w), want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("preferred", [None, jnp.float32])
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_low_precision_sums_in_float32(dtype, preferred):
    x, w = _rng(1, 9, 9, 8, dtype=dtype), _rng(5, 5, 1, 8, dtype=dtype, seed=1)
    params = {"groups": 8, "preferred_element_type": preferred}
    got = _with("depthwise_shifted", params)(x, w)
    assert got.dtype == _with("reference", params)(x, w).dtype
    exact = _with("reference", {"groups": 8})(x.astype(jnp.float32), w.astype(jnp.float32))
    # At most the rounding of the result itself.
    tolerance = float(jnp.finfo(got.dtype).eps) + 1e-5
    np.testing.assert_allclose(got.astype(jnp.float32), exact, rtol=tolerance, atol=1e-5)


def test_behaves_under_every_transformation_with_epilogue(agree):
    params = {"groups": 2, "strides": 2, "activation": "tanh"}
    agree(
        _with("depthwise_shifted", params),
        _with("reference", params),
        (1, 4, 3, 2),
        (2, 2, 1, 4),
        (4,),
    )


@pytest.mark.parametrize(
    "shapes, params",
    [
        (((1, 5, 5, 4), (3, 3, 4, 4)), {}),
        (((1, 5, 5, 4), (3, 3, 2, 4)), {"groups": 2}),
    ],
)
def test_where_it_does_not_apply(shapes, params):
    operands = [jnp.ones(s) for s in shapes]
    eqn = jax.make_jaxpr(lambda *a: nnops.conv(*a, **params))(*operands).eqns[0]
    assert "depthwise_shifted" not in CONV.fitting_kernels(operands, eqn.params)
    with pytest.raises(nnops.OpError, match="kernel 'depthwise_shifted' does not apply"):
        _with("depthwise_shifted", params)(*operands)


def test_integers_are_left_to_the_reference():
    operands = [jnp.ones((1, 5, 5, 4), jnp.int8), jnp.ones((3, 3, 1, 4), jnp.int8)]
    eqn = jax.make_jaxpr(lambda *a: nnops.conv(*a, groups=4))(*operands).eqns[0]
    assert CONV.fitting_kernels(operands, eqn.params) == ("reference",)


def test_the_program_has_no_convolution():
    x, w = _rng(1, 8, 8, 4), _rng(3, 3, 1, 4)
    f = jax.jit(
        jax.grad(lambda x, w: _with("depthwise_shifted", {"groups": 4})(x, w).sum(), (0, 1))
    )
    assert "convolution" not in f.lower(x, w).as_text()


@pytest.mark.parametrize("strides", [1, 2])
def test_export_with_symbolic_batch_and_size(strides):
    n, h = jax.export.symbolic_shape("n, h")
    w = _rng(3, 3, 1, 4)
    params = {"groups": 4, "strides": strides}
    f = jax.jit(lambda x: _with("depthwise_shifted", params)(x, w))
    exported = jax.export.export(f)(jax.ShapeDtypeStruct((n, h, h, 4), jnp.float32))
    x = _rng(2, 7, 7, 4)
    want = _with("reference", params)(x, w)
    np.testing.assert_allclose(exported.call(x), want, rtol=1e-5, atol=1e-5)
