"""Gated activations against jax.nn's factors, alone and under every transformation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpress import nnops

CASES = {
    "swiglu": (nnops.swiglu, lambda a, b: jax.nn.silu(a) * b),
    "geglu": (nnops.geglu, lambda a, b: jax.nn.gelu(a) * b),
    "geglu exact": (
        lambda a, b: nnops.geglu(a, b, approximate=False),
        lambda a, b: jax.nn.gelu(a, approximate=False) * b,
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_behaves_under_every_transformation(agree, name):
    agree(*CASES[name], (3, 4), (3, 4))


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("dtypes", [("float32",) * 2, ("bfloat16",) * 2, ("bfloat16", "float32")])
def test_values_and_dtypes(name, dtypes):
    a, b = (jnp.asarray([-np.inf, -3.0, 0.0, 2.0, np.inf, np.nan], d) for d in dtypes)
    got, want = (jax.jit(f)(a, b[::-1]) for f in CASES[name])
    assert got.dtype == want.dtype
    if dtypes[0] == dtypes[1]:
        np.testing.assert_array_equal(got.astype("float32"), want.astype("float32"))
    else:  # the gate is widened first, and so more exact than the plain formula
        np.testing.assert_allclose(got[1:4], want[1:4], rtol=1e-2)


@pytest.mark.parametrize("name", CASES)
def test_vmap_keeps_one_equation(name):
    f = CASES[name][0]
    for axes, shapes in (
        ((0, 0), ((5, 2), (5, 2))),
        ((1, None), ((2, 5), (2,))),
        ((None, 0), ((2,), (5, 2))),
        ((0, 1), ((5, 2), (2, 5))),
    ):
        fn = jax.vmap(f, in_axes=axes)
        eqns = jax.make_jaxpr(fn)(*map(jnp.ones, shapes)).eqns
        assert eqns[-1].primitive is nnops.ops[name.split()[0]].primitive
        assert "mapped" not in eqns[-1].params


def test_shapes_are_not_broadcast():
    with pytest.raises(nnops.OpError, match=r"swiglu: gate has shape \(2,\), and up has \(1,\)"):
        nnops.swiglu(jnp.ones(2), jnp.ones(1))
    with pytest.raises(nnops.OpTypeError, match="approximate"):
        jax.jit(lambda a: nnops.geglu(jnp.ones(2), jnp.ones(2), approximate=a))(True)
