"""Activations without a primitive of their own; and that no activation of jax.nn is missing."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpress import nnops

X = jnp.asarray([-jnp.inf, -1.0, -0.0, 0.0, 1.0, jnp.nan])

# Names in jax.nn that are no activation and have no named op, and why.
NOT_HERE = {
    "initializers": "a module of functions that draw weights, and no op",
    "get_scaled_dot_general_config": "a helper for quantised products on one vendor's GPUs",
    "scaled_dot_general": "a quantised product of one vendor's GPUs",
    "scaled_matmul": "a quantised product of one vendor's GPUs",
}


def test_every_function_of_jax_nn_has_a_named_op():
    names = [n for n in dir(jax.nn) if not n.startswith("_")]
    missing = [n for n in names if not hasattr(nnops, n) and n not in NOT_HERE]
    assert missing == []
    assert set(NOT_HERE) <= set(names)


def test_parameters_have_the_names_that_jax_gives_them():
    for name, entry in nnops.activation_entries().items():
        theirs = getattr(jax.nn, name, None)
        if theirs is None:
            continue
        ours = list(inspect.signature(entry.op).parameters)
        assert ours == list(inspect.signature(theirs).parameters), name


def test_aliases_are_those_of_jax():
    for a, b in (("swish", "silu"), ("hard_swish", "hard_silu")):
        assert getattr(nnops, a) is getattr(nnops, b)
        assert getattr(jax.nn, a) is getattr(jax.nn, b)


@pytest.mark.parametrize("name", ["identity", "tanh"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int32"])
def test_values_are_those_of_jax(name, dtype):
    x = jnp.nan_to_num(X).astype(dtype) if dtype == "int32" else X.astype(dtype)
    got, want = getattr(nnops, name)(x), getattr(jax.nn, name)(x)
    assert got.dtype == want.dtype
    np.testing.assert_array_equal(got.astype("float32"), want.astype("float32"))


def test_they_are_activations_of_fused_ops():
    x, w = jnp.ones((2, 3)), jnp.ones((3, 4))
    np.testing.assert_array_equal(nnops.dense(x, w, activation="tanh"), jnp.tanh(nnops.dense(x, w)))
    assert nnops.to_activation("identity") is None
