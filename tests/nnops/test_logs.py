"""Logarithms of sums against jax.nn, with weights, masks and numbers that would overflow."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpress import nnops

NAMES = ["logsumexp", "logmeanexp"]


def plain(name):
    return getattr(jax.nn, name)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("axis", [None, 0, -1, (0, 2)])
@pytest.mark.parametrize("keepdims", [False, True])
def test_values_are_those_of_jax(name, axis, keepdims):
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 3, 4)) * 200, "float32")
    x = x.at[0, 0].set(-jnp.inf).at[1, 1, 1].set(jnp.inf).at[1, 2, 0].set(jnp.nan)
    for dtype in ("float32", "bfloat16"):
        got, want = (
            jax.jit(lambda x, f=f: f(x, axis, keepdims=keepdims))(x.astype(dtype))
            for f in (getattr(nnops, name), plain(name))
        )
        assert got.dtype == want.dtype
        np.testing.assert_array_equal(got.astype("float32"), want.astype("float32"))


@pytest.mark.parametrize("name", NAMES)
def test_behaves_under_every_transformation(agree, name):
    agree(
        lambda x: getattr(nnops, name)(x, (0, 1), keepdims=True),
        lambda x: plain(name)(x, (0, 1), keepdims=True),
        (2, 3, 4),
    )


def test_weights_behave_under_every_transformation(agree):
    agree(
        lambda x, b: nnops.logsumexp(x, 0, b=b**2 + 0.1),
        lambda x, b: jax.nn.logsumexp(x, 0, b=b**2 + 0.1),
        (3, 2),
        (2,),
    )


def signed(module, x, b, where):
    return module.logsumexp(x, (0, 2), b=b, keepdims=True, return_sign=True, where=where)


@pytest.mark.parametrize("with_mask", [False, True])
def test_signs_are_those_of_jax(with_mask):
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 5, 4)) * 200, "float32")
    b = jnp.asarray(np.random.default_rng(1).normal(size=(2, 5, 4)), "float32")
    x = x.at[0, 0].set(-jnp.inf).at[1, 1, 1].set(jnp.inf).at[1, 2, 0].set(jnp.nan)
    b = b.at[:, 3].set(0)
    where = jnp.arange(4) % 2 == 0 if with_mask else None
    got, want = (jax.jit(signed, static_argnums=0)(m, x, b, where) for m in (nnops, jax.nn))
    for ours, theirs in zip(got, want, strict=True):
        assert ours.dtype == theirs.dtype
        np.testing.assert_array_equal(ours, theirs)
    assert {-1.0, 1.0} <= set(np.ravel(want[1]).tolist())
    for axes in ((0, None), (1, 1)):  # eagerly
        got, want = (
            jax.vmap(lambda x, b, m=m: m.logsumexp(x, 0, b=b, return_sign=True), axes)(
                x, b[0] if axes[1] is None else b
            )
            for m in (nnops, jax.nn)
        )
        jax.tree.map(np.testing.assert_array_equal, got, want)
    x = x[1, 4]
    got, want = (
        jax.grad(lambda x, b, m=m: sum(m.logsumexp(x, b=b, return_sign=True)), (0, 1))(x, b[1, 4])
        for m in (nnops, jax.nn)
    )
    jax.tree.map(np.testing.assert_array_equal, got, want)


def test_masks():
    x, where = jnp.arange(12.0).reshape(3, 4), jnp.arange(4) % 2 == 0
    for name in NAMES:
        ours = functools.partial(getattr(nnops, name), x, 1)
        got = jax.vmap(lambda w, f=ours: f(where=w))(where[None])
        np.testing.assert_allclose(got[0], plain(name)(x, 1, where=where), rtol=1e-6)
    assert nnops.logsumexp(jnp.ones(0)) == -jnp.inf


@pytest.mark.parametrize("name", NAMES)
def test_vmap_keeps_one_equation(name):
    f = jax.vmap(lambda x: getattr(nnops, name)(x, 0), in_axes=1)
    eqn = jax.make_jaxpr(f)(jnp.ones((3, 5))).eqns[-1]
    assert eqn.primitive is nnops.ops[name].primitive and "mapped" not in eqn.params


def test_log1mexp_is_that_of_jax(agree):
    x = jnp.asarray([0.0, 1e-20, 0.1, 0.7, 5.0, 200.0, jnp.inf, jnp.nan, -1.0])
    np.testing.assert_array_equal(nnops.log1mexp(x), jax.nn.log1mexp(x))
    grads = [jax.vmap(jax.grad(f))(x[2:6]) for f in (nnops.log1mexp, jax.nn.log1mexp)]
    np.testing.assert_array_equal(*grads)
    eqn = jax.make_jaxpr(jax.vmap(nnops.log1mexp))(x).eqns[0]
    assert eqn.primitive is nnops.ops["log1mexp"].primitive


def test_operands_that_do_not_fit():
    with pytest.raises(nnops.OpError, match="logsumexp: b does not fit x"):
        nnops.logsumexp(jnp.ones((2, 3)), b=jnp.ones((4, 2, 3)))
    with pytest.raises(nnops.OpError, match="logmeanexp: where does not fit x"):
        nnops.logmeanexp(jnp.ones((2, 3)), where=jnp.ones(2, bool))
    with pytest.raises(nnops.OpError, match="axis is 2"):
        nnops.logsumexp(jnp.ones((2, 3)), 2)
