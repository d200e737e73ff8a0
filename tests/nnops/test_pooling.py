"""Pooling against lax.reduce_window, in any layout."""

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jaxpress import nnops


def _rng(*shape, dtype=jnp.float32):
    return jnp.asarray(np.random.default_rng(0).normal(size=shape) * 9).astype(dtype)


def _plain_max(x, window, strides, padding, dilation=None):
    least = -jnp.inf if jnp.issubdtype(x.dtype, jnp.floating) else jnp.iinfo(x.dtype).min
    unit = np.array(least, x.dtype)
    return lax.reduce_window(x, unit, lax.max, window, strides, padding, None, dilation)


def _plain_avg(x, window, strides, padding, dilation=None, include=True):
    def total(v):
        return lax.reduce_window(v, 0.0, lax.add, window, strides, padding, None, dilation)

    return total(x) / (np.prod(window) if include else total(jnp.ones_like(x)))


CASES = [
    ((2, 8, 3), (2,), (2,), "VALID", (1,)),
    ((2, 8, 7, 3), (3, 3), (2, 2), "SAME", (1, 1)),
    ((2, 8, 7, 3), (3, 2), (1, 2), "SAME_LOWER", (1, 1)),
    ((2, 8, 9, 3), (2, 3), (2, 1), ((1, 0), (2, 3)), (1, 2)),
    ((1, 4, 5, 6, 2), (2, 2, 3), (1, 2, 2), "SAME", (1, 1, 1)),
]


def _plain_min(x, *args):
    return -_plain_max(-x, *args)


@pytest.mark.parametrize("shape, window, strides, padding, dilation", CASES)
def test_channels_last_is_lax_to_the_bit(shape, window, strides, padding, dilation):
    x = _rng(*shape)
    full = [(1, *v, 1) for v in (window, strides, dilation)]
    pads = padding if isinstance(padding, str) else ((0, 0), *padding, (0, 0))
    np.testing.assert_array_equal(
        nnops.max_pool(x, window, strides, padding, dilation=dilation),
        _plain_max(x, full[0], full[1], pads, full[2]),
    )
    np.testing.assert_array_equal(
        nnops.min_pool(x, window, strides, padding, dilation=dilation),
        _plain_min(x, full[0], full[1], pads, full[2]),
    )
    for include in (True, False):
        got = nnops.avg_pool(
            x, window, strides, padding, dilation=dilation, count_include_pad=include
        )
        want = _plain_avg(x, full[0], full[1], pads, full[2], include)
        np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-6)


def test_full_rank_says_any_layout():
    x = _rng(2, 3, 8, 7)
    args = ((1, 1, 3, 2), (1, 1, 2, 1), ((0, 0), (0, 0), (1, 1), (0, 2)))
    np.testing.assert_array_equal(nnops.max_pool(x, *args), _plain_max(x, *args))
    np.testing.assert_allclose(nnops.avg_pool(x, *args), _plain_avg(x, *args), rtol=1e-6)
    # Over channels and the batch too, and of ranks that have no spatial axes.
    args = ((2, 2, 1, 1), (2, 1, 1, 1), "VALID")
    np.testing.assert_array_equal(nnops.max_pool(x, *args), _plain_max(x, *args))
    np.testing.assert_array_equal(nnops.max_pool(x[0, 0, 0], [7]), [x[0, 0, 0].max()])


def test_the_equation_inside_is_the_very_one_of_lax():
    x = _rng(2, 8, 7, 3)
    args = ((1, 3, 3, 1), (1, 2, 2, 1), "SAME")
    for f, op, plain in (
        (nnops.max_pool, "max_pool", _plain_max),
        (nnops.avg_pool, "avg_pool", _plain_avg),
    ):
        (named,) = jax.make_jaxpr(lambda x, f=f: f(x, *args))(x).eqns
        got = jax.make_jaxpr(nnops.ops[op].implementation(named.params))(x).eqns
        want = jax.make_jaxpr(lambda x, plain=plain: plain(x, *args))(x).eqns
        got, want = ([e for e in es if "window" in e.primitive.name] for es in (got, want))
        assert [(e.primitive, e.params) for e in got] == [(e.primitive, e.params) for e in want]
        assert len(got) == 1


def test_default_strides_are_one_and_integers_serve_all_axes():
    x = _rng(1, 6, 6, 2)
    np.testing.assert_array_equal(nnops.max_pool(x, 2), nnops.max_pool(x, (2, 2), (1, 1)))
    np.testing.assert_array_equal(
        nnops.avg_pool(x, 3, 2, 1), nnops.avg_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1)))
    )


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.int8, jnp.uint8, jnp.bool_])
def test_max_of_other_dtypes(dtype):
    x = _rng(1, 5, 5, 2).astype(dtype)
    got = nnops.max_pool(x, 2, 2, "SAME")
    assert got.dtype == dtype
    want = jnp.pad(x.astype(jnp.float32), ((0, 0), (0, 1), (0, 1), (0, 0)), constant_values=-999)
    want = want.reshape(1, 3, 2, 3, 2, 2).max((2, 4))
    np.testing.assert_array_equal(got.astype(jnp.float32), want)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.int8, jnp.uint8, jnp.bool_])
def test_min_of_other_dtypes(dtype):
    x = _rng(1, 5, 5, 2).astype(dtype)
    got = nnops.min_pool(x, 2, 2, "SAME")
    assert got.dtype == dtype
    want = jnp.pad(x.astype(jnp.float32), ((0, 0), (0, 1), (0, 1), (0, 0)), constant_values=999)
    want = want.reshape(1, 3, 2, 3, 2, 2).min((2, 4))
    np.testing.assert_array_equal(got.astype(jnp.float32), want)


def test_average_of_other_dtypes():
    x = jnp.arange(16, dtype=jnp.int32).reshape(1, 4, 4, 1)
    got = nnops.avg_pool(x, 2, 2)
    assert got.dtype == jnp.float32
    np.testing.assert_array_equal(got[0, :, :, 0], [[2.5, 4.5], [10.5, 12.5]])
    assert nnops.avg_pool(x.astype(jnp.bfloat16), 2, 2).dtype == jnp.bfloat16
    got = nnops.avg_pool(x, 2, 2, "SAME_LOWER", count_include_pad=False)
    assert got.dtype == jnp.float32


def test_nan_and_infinity_spread():
    x = jnp.zeros((1, 4, 4, 1)).at[0, 0, 0, 0].set(jnp.nan).at[0, 2, 2, 0].set(-jnp.inf)
    for kernel in ("reference", "shifted", "separable"):
        eqn = jax.make_jaxpr(lambda x: nnops.max_pool(x, 2, 2))(x).eqns[0]
        got = nnops.ops["max_pool"].rebind({"x": x}, **{**eqn.params, "kernel": kernel})
        np.testing.assert_array_equal(got[0, :, :, 0], [[np.nan, 0], [0, 0]])


def test_max_pool_behaves_under_every_transformation(agree):
    agree(
        lambda x: nnops.max_pool(x, (2, 3), 2, "SAME"),
        lambda x: _plain_max(x, (1, 2, 3, 1), (1, 2, 2, 1), "SAME"),
        (1, 3, 4, 2),
    )


def test_min_pool_behaves_under_every_transformation(agree):
    agree(
        lambda x: nnops.min_pool(x, (2, 3), 2, "SAME"),
        lambda x: _plain_min(x, (1, 2, 3, 1), (1, 2, 2, 1), "SAME"),
        (1, 3, 4, 2),
    )
    x = jnp.ones((1, 4, 4, 1))
    grads = [jax.grad(lambda x, f=f: f(x).sum())(x) for f in (
        lambda x: nnops.min_pool(x, 3, 1),
        lambda x: _plain_min(x, (1, 3, 3, 1), (1, 1, 1, 1), "VALID"),
    )]  # fmt: skip
    np.testing.assert_array_equal(*grads)


def test_gradient_of_a_tie_goes_where_lax_sends_it():
    x = jnp.ones((1, 4, 4, 1))
    got = jax.grad(lambda x: nnops.max_pool(x, 3, 1).sum())(x)
    want = jax.grad(lambda x: _plain_max(x, (1, 3, 3, 1), (1, 1, 1, 1), "VALID").sum())(x)
    np.testing.assert_array_equal(got, want)
    # Whatever kernel computes the value.
    eqn = jax.make_jaxpr(lambda x: nnops.max_pool(x, 3, 1))(x).eqns[0]
    f = lambda x: nnops.ops["max_pool"].rebind({"x": x}, **{**eqn.params, "kernel": "shifted"})  # noqa: E731
    np.testing.assert_array_equal(jax.grad(lambda x: f(x).sum())(x), want)


@pytest.mark.parametrize("include", [True, False])
def test_avg_pool_behaves_under_every_transformation(agree, include):
    agree(
        lambda x: nnops.avg_pool(x, (2, 3), 2, "SAME", count_include_pad=include),
        lambda x: _plain_avg(x, (1, 2, 3, 1), (1, 2, 2, 1), "SAME", include=include),
        (1, 3, 4, 2),
    )


def test_vmap_keeps_the_op_and_parameters_are_full_rank():
    f = jax.vmap(lambda x: nnops.avg_pool(x, 3, 2, "SAME"), in_axes=1)
    eqn = jax.make_jaxpr(f)(jnp.ones((2, 5, 8, 8, 3))).eqns[-1]
    assert eqn.primitive is nnops.ops["avg_pool"].primitive
    assert eqn.params == {
        "count_include_pad": True,
        "dilation": (1, 1, 1, 1, 1),
        "kernel": "reference",
        "padding": ((0, 0), (0, 0), (0, 1), (0, 1), (0, 0)),
        "strides": (1, 1, 2, 2, 1),
        "window_shape": (1, 1, 3, 3, 1),
    }


@pytest.mark.parametrize("kernel", ["reference", "shifted", "separable"])
def test_export_with_symbolic_batch_and_size(kernel):
    n, h = jax.export.symbolic_shape("n, h")

    def f(x):
        out = []
        for name, more in (("max_pool", {}), ("avg_pool", {"count_include_pad": False})):
            eqn = jax.make_jaxpr(lambda x: getattr(nnops, name)(x, 3, 2, "SAME", **more))(x).eqns  # noqa: B023
            params = {**eqn[-1].params, "kernel": kernel}
            out.append(nnops.ops[name].rebind({"x": x}, **params))
        return out

    exported = jax.export.export(jax.jit(f))(jax.ShapeDtypeStruct((n, h, h, 2), jnp.float32))
    x = _rng(2, 7, 7, 2)
    for got, want in zip(exported.call(x), f(x), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    "args, kind, words",
    [
        (((2, 2, 2),), nnops.OpError, "one size for each spatial axis"),
        ((0,), nnops.OpError, "window_shape is 0"),
        ((2.5,), nnops.OpTypeError, "window_shape is 2.5"),
        ((2, (1, 1, 1)), nnops.OpError, "strides is (1, 1, 1)"),
        (((1, 2, 2, 1), (2, 2)), nnops.OpError, "strides is (2, 2)"),
        ((2, 1, "CAUSAL"), nnops.OpError, "padding is 'CAUSAL'"),
        ((2, 1, [(0, 0)]), nnops.OpError, "padding is [(0, 0)]"),
    ],
)
@pytest.mark.parametrize("name", ["max_pool", "min_pool", "avg_pool"])
def test_bad_arguments(name, args, kind, words):
    with pytest.raises(kind) as caught:
        getattr(nnops, name)(jnp.ones((1, 4, 4, 1)), *args)
    assert str(caught.value).startswith(f"{name}: ")
    assert words in str(caught.value)


def test_other_bad_operands():
    with pytest.raises(nnops.OpTypeError, match="max_pool: x is complex64"):
        nnops.max_pool(jnp.ones((1, 4, 1), jnp.complex64), 2)
    with pytest.raises(nnops.OpError, match="x has 2 axes, and the parameters have"):
        nnops.ops["max_pool"].rebind(
            {"x": jnp.ones((2, 2))},
            window_shape=(2,),
            strides=(1,),
            padding=((0, 0),),
            dilation=(1,),
        )


@pytest.mark.parametrize("name", ["max_pool", "min_pool"])
def test_taps_that_are_apart_have_gradients(agree, name):
    def plain(x):
        rows = [x[:, i : i + 5 : 2] for i in (0, 2)]
        taps = [row[:, :, j : j + 2] for row in rows for j in (0, 3)]
        stacked = jnp.stack(taps)
        return stacked.max(0) if name == "max_pool" else stacked.min(0)

    f = lambda x: getattr(nnops, name)(x, 2, (2, 1), dilation=(2, 3))  # noqa: E731
    agree(f, plain, (1, 7, 5, 2))


def test_of_equals_and_nan_the_same_count_where_taps_are_apart():
    """As they do where taps are neighbours."""
    for row in ([1.0, 1.0, 1.0, 1.0], [0.0, np.nan, 2.0, 1.0], [3.0, 2.0, np.nan, np.nan]):
        x = jnp.array(row).reshape(1, 4, 1)
        apart = lax.pad(x, jnp.nan, [(0, 0, 0), (0, 0, 1), (0, 0, 0)])
        want = jax.grad(lambda x: nnops.max_pool(x, 2).sum())(x)
        got = jax.grad(lambda x: nnops.max_pool(x, 2, 2, dilation=2).sum())(apart)
        np.testing.assert_array_equal(got[:, ::2], want)
        assert not got[:, 1::2].any()
