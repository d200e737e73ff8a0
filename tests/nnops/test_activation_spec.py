"""Activations by name."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpress import nnops
from jaxpress.nnops import to_activation


def test_canonical_form_is_short_and_hashable():
    assert repr(to_activation("relu")) == "relu"
    assert repr(to_activation(("leaky_relu", {"negative_slope": 0.2}))) == (
        "leaky_relu(negative_slope=0.2)"
    )
    assert to_activation("leaky_relu") == to_activation(("leaky_relu", {"negative_slope": 0.01}))
    assert hash(to_activation("gelu")) == hash(to_activation(("gelu", {"approximate": True})))
    assert to_activation("gelu") != to_activation(("gelu", {"approximate": False}))
    assert to_activation(to_activation("elu")) == to_activation("elu")


def test_none_identity_and_aliases():
    assert to_activation(None) is None
    assert to_activation("identity") is None
    assert to_activation("swish") == to_activation("silu")
    assert to_activation("hard_swish") == to_activation("hard_silu")


def test_parameters_become_plain_python_values():
    spec = to_activation(("elu", {"alpha": np.float32(0.5)}))
    assert spec.params == (("alpha", 0.5),)
    assert type(spec.params[0][1]) is float


# What `jax.nn` has no function for, in its words.
NOT_IN_JAX_NN = {
    "quick_gelu": lambda x: x * jax.nn.sigmoid(1.702 * x),
    "relu_squared": lambda x: jnp.square(jax.nn.relu(x)),
}


@pytest.mark.parametrize("name", nnops.activation_names())
def test_applying_equals_the_jax_function(name):
    x = jnp.linspace(-7.0, 7.0, 29)
    want = (NOT_IN_JAX_NN.get(name) or getattr(jax.nn, name))(x)
    # Compiled differently, the same formula may round differently.
    np.testing.assert_allclose(to_activation(name).reference(x), want, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(to_activation(name)(x), want, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    "spec, error, words",
    [
        ("rleu", nnops.OpError, "no activation is named 'rleu'"),
        (("elu", {"slope": 1.0}), nnops.OpError, "no parameters ['slope']"),
        (("elu", {"alpha": "big"}), nnops.OpTypeError, "no static number"),
        (jax.nn.relu, nnops.OpTypeError, "give None, a name"),
        (("elu", 1.0, 2.0), nnops.OpTypeError, "give None, a name"),
    ],
)
def test_bad_specs(spec, error, words):
    with pytest.raises(error) as caught:
        to_activation(spec, "dense")
    assert str(caught.value).startswith("dense: ")
    assert words in str(caught.value)


def test_a_traced_parameter_is_refused():
    def f(alpha):
        return to_activation(("elu", {"alpha": alpha}))(jnp.ones(3))

    with pytest.raises(nnops.OpTypeError, match="call the jax"):
        jax.jit(f)(0.5)
