"""Softmax, log_softmax and glu against those of jax.nn."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpress import nnops

AXES = [-1, 0, 1, (0, 2), (-1, 1), None]


@pytest.mark.parametrize("name", ["softmax", "log_softmax"])
@pytest.mark.parametrize("axis", AXES)
def test_values_are_those_of_jax(name, axis):
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 3, 4)) * 30, jnp.float32)
    x = x.at[0, 0].set(-jnp.inf).at[1, 1, 1].set(jnp.inf)
    for dtype in (jnp.float32, jnp.bfloat16):
        got, want = (
            jax.jit(lambda x, m=m: getattr(m, name)(x, axis))(x.astype(dtype))
            for m in (nnops, jax.nn)
        )
        assert got.dtype == want.dtype
        np.testing.assert_array_equal(got.astype(jnp.float32), want.astype(jnp.float32))


@pytest.mark.parametrize("name, axis", [("softmax", (0, 1)), ("log_softmax", -1)])
def test_behaves_under_every_transformation(agree, name, axis):
    agree(lambda x: getattr(nnops, name)(x, axis), lambda x: getattr(jax.nn, name)(x, axis), (3, 4))


def test_glu_behaves_under_every_transformation(agree):
    agree(lambda x: nnops.glu(x, 0), lambda x: jax.nn.glu(x, 0), (4, 6))


# jax.nn.softmax itself casts minus infinity to an integer.
@pytest.mark.filterwarnings("ignore:invalid value encountered in cast:RuntimeWarning")
@pytest.mark.parametrize("name", ["softmax", "log_softmax"])
def test_integers_behave_as_in_jax(name):
    x = jnp.arange(6).reshape(1, 6)
    got, want = (getattr(m, name)(x) for m in (nnops, jax.nn))
    assert got.dtype == want.dtype
    np.testing.assert_allclose(got, want, rtol=2e-7)
    dx = np.zeros(x.shape, jax.dtypes.float0)
    _, dy = jax.jvp(getattr(nnops, name), (x,), (dx,))
    np.testing.assert_array_equal(dy, np.zeros(got.shape))


@pytest.mark.parametrize("name", ["softmax", "log_softmax", "glu"])
def test_axis_counts_from_the_end_and_vmap_keeps_the_op(name):
    f = lambda x: getattr(nnops, name)(x, 1)  # noqa: E731
    assert jax.make_jaxpr(f)(jnp.ones((2, 4, 6))).eqns[0].params["axis"] == -2
    (eqn,) = jax.make_jaxpr(jax.vmap(f))(jnp.ones((5, 2, 4, 6))).eqns
    assert eqn.primitive is nnops.ops[name].primitive
    assert eqn.params["axis"] == -2 and "mapped" not in eqn.params


def test_gradient_of_softmax_computes_it_once():
    jaxpr = jax.make_jaxpr(jax.grad(lambda x: nnops.softmax(x)[0]))(jnp.ones(3))
    assert [e.primitive.name for e in jaxpr.eqns].count("softmax") == 1
    assert "exp" not in [e.primitive.name for e in jaxpr.eqns]


WHERE = {
    "rows": jnp.asarray([[True, False, True, True]] * 3),
    "broadcast": jnp.asarray([True, False, False, True]),
    "column": jnp.asarray([[True], [False], [True]]),
    "none": jnp.zeros((3, 4), bool),
    "all": jnp.asarray(True),
}


@pytest.mark.parametrize("name", ["softmax", "log_softmax"])
@pytest.mark.parametrize("where", WHERE)
def test_elements_that_do_not_count(name, where):
    """As jax.nn has it, NaN among those that do not count included; gradients too."""
    where = WHERE[where]
    x = jnp.asarray(np.random.default_rng(0).normal(size=(3, 4)), jnp.float32)
    x = jnp.where(where, x, jnp.nan)
    ours, plain = (lambda x, m=m: getattr(m, name)(x, -1, where=where) for m in (nnops, jax.nn))
    np.testing.assert_array_equal(ours(x), plain(x))
    weights = jnp.where(where, jnp.arange(12.0).reshape(3, 4), jnp.inf)
    got, want = (
        jax.grad(lambda x, f=f: jnp.where(where, f(x) * weights, 0).sum())(x) for f in (ours, plain)
    )
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("axes", [(0, None), (None, 0), (0, 0), (1, 2)])
def test_vmap_with_where_keeps_the_op(axes):
    x = jnp.asarray(np.random.default_rng(0).normal(size=(4, 4, 4)), jnp.float32)
    where = jnp.tril(jnp.ones((4, 4), bool))
    xs = x if axes[0] is not None else x[0]
    ws = where if axes[1] is None else jnp.stack([where, ~where, where, where.T])
    f, g = (jax.vmap(lambda x, w, m=m: m.softmax(x, -1, where=w), axes) for m in (nnops, jax.nn))
    np.testing.assert_array_equal(jax.jit(f)(xs, ws), jax.jit(g)(xs, ws))
    eqns = jax.make_jaxpr(f)(xs, ws).eqns
    (eqn,) = (e for e in eqns if e.primitive.name == "softmax")
    assert "mapped" not in eqn.params
    assert eqn.params["operands"] == ("x", "where")


@pytest.mark.parametrize("shape", [(3,), (2, 3, 4), (5, 3, 4)])
def test_where_does_not_widen_x(shape):
    with pytest.raises(nnops.OpError, match=r"softmax: where has shape .*\n.*float32\(3, 4\)"):
        nnops.softmax(jnp.ones((3, 4)), where=jnp.ones(shape, bool))


@pytest.mark.parametrize("axis", [3, -4, (0, 0), (0, -3), 1.5])
def test_bad_axes(axis):
    with pytest.raises((nnops.OpError, TypeError)):
        nnops.softmax(jnp.ones((2, 3, 4)), axis)


def test_glu_of_an_odd_axis():
    with pytest.raises(nnops.OpError, match=r"glu: axis -1 is odd\n.*float32\(2, 3\)"):
        nnops.glu(jnp.ones((2, 3)))
