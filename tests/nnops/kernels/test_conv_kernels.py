"""The kernels grouped_split, planes, patches_dot and tiles_dot against conv's reference."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpress import nnops

CONV = nnops.ops["conv"]
CDHW = ("NCDHW", "OIDHW", "NCDHW")

# Kernel, shapes of x and w, parameters.
CASES = {
    "two groups": ("grouped_split", (2, 5, 4, 6), (3, 3, 3, 4), {"groups": 2}),
    "groups, one axis": ("grouped_split", (2, 9, 6), (3, 2, 9), {"groups": 3, "strides": 2}),
    "groups of NCHW, to NHWC": (
        "grouped_split",
        (2, 6, 5, 4),
        (4, 3, 3, 2),
        {"groups": 2, "dimension_numbers": ("NCHW", "OIHW", "NHWC"), "padding": ((1, 0), (0, 2))},
    ),
    "groups, transposed": (
        "grouped_split",
        (1, 4, 5, 6),
        (3, 3, 3, 8),
        {"groups": 2, "transposed": True, "strides": 2},
    ),
    "groups, 3 dimensions": ("grouped_split", (1, 3, 4, 5, 4), (2, 2, 2, 2, 4), {"groups": 2}),
    "depthwise": ("grouped_split", (1, 5, 5, 3), (3, 3, 1, 6), {"groups": 3, "dilation": 2}),
    "few channels": ("planes", (2, 4, 5, 6, 3), (3, 2, 3, 3, 5), {}),
    "many channels": ("planes", (1, 5, 4, 3, 17), (3, 3, 2, 17, 4), {"strides": (2, 1, 2)}),
    "dilated planes": ("planes", (1, 7, 6, 5, 18), (2, 3, 2, 18, 3), {"dilation": (3, 1, 2)}),
    "planes of NCDHW": (
        "planes",
        (2, 3, 5, 4, 6),
        (5, 3, 3, 1, 2),
        {"dimension_numbers": CDHW, "padding": ((2, 0), (0, 1), (-1, 1)), "strides": (1, 2, 1)},
    ),
    "planes in strange orders": (
        "planes",
        (4, 2, 5, 3, 6),
        (2, 3, 7, 3, 2),
        {"dimension_numbers": ("HNDCW", "WIODH", "CWNHD")},
    ),
    "small image": ("patches_dot", (1, 2, 2, 5), (3, 3, 5, 4), {}),
    "patches, one axis": ("patches_dot", (3, 7, 4), (3, 4, 5), {"strides": 2, "dilation": 2}),
    "patches of NCHW": (
        "patches_dot",
        (2, 3, 4, 5),
        (6, 3, 3, 2),
        {"dimension_numbers": ("NCHW", "OIHW", "NCHW"), "strides": (2, 1), "padding": "SAME"},
    ),
    "patches in strange orders": (
        "patches_dot",
        (5, 2, 3, 4),
        (2, 3, 6, 3),
        {"dimension_numbers": ("WNCH", "HIOW", "CHNW"), "padding": ((1, 2), (-1, 1))},
    ),
    "patches, 3 dimensions": ("patches_dot", (1, 2, 3, 2, 4), (3, 2, 3, 4, 5), {}),
    "tiles": ("tiles_dot", (2, 4, 6, 3), (2, 3, 3, 5), {"strides": (2, 3)}),
    "tiles with a rest": ("tiles_dot", (1, 7, 3), (2, 3, 4), {"strides": 2, "padding": "VALID"}),
    "tiles of NCHW": (
        "tiles_dot",
        (2, 3, 4, 6),
        (5, 3, 2, 3),
        {"dimension_numbers": ("NCHW", "OIHW", "NHWC"), "strides": (2, 3)},
    ),
    "tiles in strange orders": (
        "tiles_dot",
        (6, 3, 2, 4),
        (2, 5, 3, 3),
        {"dimension_numbers": ("WCNH", "HOIW", "CHNW"), "strides": (2, 3)},
    ),
    "tiles upwards": (
        "tiles_dot",
        (2, 3, 4, 3),
        (2, 3, 3, 5),
        {"strides": (2, 3), "transposed": True},
    ),
    "tiles upwards, 3 dimensions": (
        "tiles_dot",
        (1, 2, 3, 2, 3),
        (2, 2, 2, 3, 4),
        {"strides": 2, "transposed": True, "padding": "VALID"},
    ),
    "tiles upwards in strange orders": (
        "tiles_dot",
        (4, 3, 2, 3),
        (2, 5, 3, 3),
        {"dimension_numbers": ("WCNH", "HOIW", "CHNW"), "strides": (2, 3), "transposed": True},
    ),
}  # fmt: skip


def _rng(*shape, seed=0, dtype=jnp.float32):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), dtype)


def _with(kernel, params):
    def f(*operands):
        eqn = jax.make_jaxpr(lambda *a: nnops.conv(*a, **params))(*operands).eqns[-1]
        given = dict(zip(CONV.names, operands, strict=False))
        return CONV.rebind(given, **{**eqn.params, "kernel": kernel})

    return f


@pytest.mark.parametrize("name", CASES)
def test_values_and_gradients_are_those_of_the_reference(name):
    kernel, x, w, params = CASES[name]
    x, w = _rng(*x), _rng(*w, seed=1)

    def both(kernel):
        run = _with(kernel, params)
        loss = lambda x, w: jnp.sum(jnp.sin(run(x, w)))  # noqa: E731
        return jax.jit(run)(x, w), jax.jit(jax.grad(loss, (0, 1)))(x, w)

    (got, got_grads), (want, want_grads) = both(kernel), both("reference")
    assert got.shape == want.shape
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)
    for a, b in zip(got_grads, want_grads, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "name", ["two groups", "many channels", "small image", "tiles", "tiles upwards"]
)
def test_what_is_not_finite_stays_where_it_is(name):
    kernel, x, w, params = CASES[name]
    x, w = _rng(*x), _rng(*w, seed=1)
    for value in (jnp.nan, jnp.inf):
        odd = x.at[(0,) * x.ndim].set(value)
        got, want = (jax.jit(_with(k, params))(odd, w) for k in (kernel, "reference"))
        np.testing.assert_array_equal(np.isnan(got), np.isnan(want))
        np.testing.assert_array_equal(np.isinf(got), np.isinf(want))


@pytest.mark.parametrize(
    "name", ["two groups", "few channels", "many channels", "small image", "tiles"]
)
@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "int32", "complex64"])
def test_other_dtypes(name, dtype):
    kernel, x, w, params = CASES[name]
    x, w = (_rng(*x) * 2).astype(dtype), (_rng(*w, seed=1) * 2).astype(dtype)
    eqn = jax.make_jaxpr(lambda x, w: nnops.conv(x, w, **params))(x, w).eqns[-1]
    fits = kernel in CONV.fitting_kernels([v.aval for v in eqn.invars], eqn.params)
    assert fits == (dtype == "complex64" or (dtype != "int32" and kernel != "planes"))
    if not fits:
        return
    got, want = (jax.jit(_with(k, params))(x, w) for k in (kernel, "reference"))
    assert got.dtype == want.dtype
    tolerance = 1e-5 if dtype == "complex64" else 2e-2
    got, want = np.asarray(got, np.complex64), np.asarray(want, np.complex64)
    np.testing.assert_allclose(got, want, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(
    "name", ["two groups", "planes of NCDHW", "patches of NCHW", "tiles", "tiles upwards"]
)
def test_behaves_under_every_transformation(name, agree):
    kernel, x, w, params = CASES[name]
    agree(_with(kernel, params), _with("reference", params), x, w)


@pytest.mark.parametrize("name", ["two groups", "few channels", "many channels", "small image"])
def test_arrays_of_no_size(name):
    kernel, x, w, params = CASES[name]
    got, want = (_with(k, params)(_rng(0, *x[1:]), _rng(*w)) for k in (kernel, "reference"))
    assert got.shape == want.shape
    # Without features, whose sum would have to be made of nothing, there is the reference.
    if kernel != "grouped_split":
        with pytest.raises(nnops.OpError, match=kernel):
            _with(kernel, params)(_rng(*x), _rng(*w[:-1], 0))


def test_symbolic_batches():
    from jax import export

    (n,) = export.symbolic_shape("n")
    for kernel, x, w, params in CASES.values():
        numbers = params.get("dimension_numbers")
        if numbers is not None and numbers[0][0] != "N":
            continue
        x = jax.ShapeDtypeStruct((n, *x[1:]), jnp.float32)
        w = jax.ShapeDtypeStruct(w, jnp.float32)
        got, want = (jax.eval_shape(_with(k, params), x, w) for k in (kernel, "reference"))
        assert got.shape == want.shape
