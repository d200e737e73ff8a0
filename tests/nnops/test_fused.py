"""What dense and conv share, where it is not plain from either alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpress import nnops
from jaxpress.nnops.fused import as_arrays, canonical_precision


def _rng(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def test_as_arrays():
    got = as_arrays("dense", [1.0], np.ones((1, 2)), None, 3)
    assert list(got) == ["x", "w", "residual"]
    assert all(isinstance(v, jax.Array) for v in got.values())
    with pytest.raises(nnops.OpError, match="dense: x or w is missing"):
        as_arrays("dense", None, 1, None, None)


def test_precision_follows_the_configuration_only_where_none_is_given():
    assert canonical_precision(None, "dense") is None
    with jax.default_matmul_precision("high"):
        assert canonical_precision(None, "dense") == (jax.lax.Precision.HIGH,) * 2
        assert canonical_precision("highest", "dense") == (jax.lax.Precision.HIGHEST,) * 2


def test_kinks_after_an_epilogue_have_the_gradient_of_jax_nn():
    # z + b + residual is exactly zero, where relu's derivative is zero by convention.
    x, w, b, r = jnp.ones((1, 2)), jnp.ones((2, 3)), -2 * jnp.ones(3), jnp.zeros((1, 3))
    for name in ("relu", "relu6", "leaky_relu"):
        ours = jax.grad(lambda *a: nnops.dense(*a, activation=name).sum(), (0, 1, 2, 3))  # noqa: B023
        plain = jax.grad(
            lambda x, w, b, r: getattr(jax.nn, name)(x @ w + b + r).sum(),  # noqa: B023
            (0, 1, 2, 3),
        )
        for got, want in zip(ours(x, w, b, r), plain(x, w, b, r), strict=True):
            np.testing.assert_array_equal(got, want)


def test_the_primal_reads_as_the_op_and_its_activation():
    f = lambda x, dx: jax.jvp(  # noqa: E731
        lambda x: nnops.dense(x, jnp.ones((3, 3)), activation="gelu"), (x,), (dx,)
    )
    jaxpr = jax.make_jaxpr(f)(_rng(2, 3), _rng(2, 3))
    names = [e.primitive.name for e in jaxpr.eqns]
    assert names.count("dense") == 2  # the value, and the tangent of x
    assert names.count("gelu") == 1
    assert names.count("dot_general") == 0


def test_vmap_over_everything_but_the_kernel_of_a_recorded_op():
    # The inner vmap leaves a record (b is mapped with x); the outer one maps the residual alone.
    w, x, b, r = _rng(3, 4), _rng(5, 2, 3), _rng(5, 4), _rng(6, 2, 4)
    inner = jax.vmap(lambda x, b, r: nnops.dense(x, w, b, r, activation="tanh"), (0, 0, None))
    outer = jax.vmap(inner, (None, None, 0))
    plain = jnp.tanh((x @ w + b[:, None])[None] + r[:, None])
    np.testing.assert_allclose(outer(x, b, r), plain, rtol=1e-5, atol=1e-6)
    dense = [e for e in jax.make_jaxpr(outer)(x, b, r).eqns if e.primitive.name == "dense"]
    (eqn,) = dense
    assert eqn.params["mapped"] == ((0, None),)
    assert eqn.outvars[0].aval.shape == (5, 2, 4)
