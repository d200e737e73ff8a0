"""Reading a node by its definition, and binding it anew."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpress import nnops


def _conv_eqn(**params):
    x, w, b = jnp.ones((2, 8, 8, 4)), jnp.ones((1, 1, 4, 6)), jnp.ones(6)
    return jax.make_jaxpr(lambda *a: nnops.conv(*a, **params))(x, w, b).eqns[0]


def test_registry_is_by_name():
    assert nnops.registry() is nnops.ops
    for name, op in nnops.ops.items():
        assert op.name == op.primitive.name == name
        assert next(iter(op.kernels)) == "reference"
        assert all(kernel.name == key for key, kernel in op.kernels.items())


def test_operands_by_name():
    op, eqn = nnops.ops["conv"], _conv_eqn()
    operands = op.operands(eqn.invars, eqn.params)
    assert list(operands) == ["x", "w", "b"]
    assert list(operands.values()) == list(eqn.invars)
    assert nnops.ops["relu"].operands([1], {}) == {"x": 1}
    with pytest.raises(ValueError):
        op.operands(eqn.invars[:2], eqn.params)


def test_rebind_changes_operands_and_parameters():
    op, eqn = nnops.ops["conv"], _conv_eqn()
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 8, 8, 4)), jnp.float32)
    w, b = jnp.ones((1, 1, 4, 6)), -jnp.ones(6)

    def changed(x):
        return op.rebind({"x": x, "w": w, "b": b}, **{**eqn.params, "activation": "relu"})

    def without(x):
        return op.rebind({"x": x, "w": w, "b": None}, **eqn.params)

    np.testing.assert_allclose(changed(x), jax.nn.relu(without(x) + b), rtol=1e-6, atol=1e-6)
    assert jax.make_jaxpr(without)(x).eqns[0].params["operands"] == ("x", "w")
    assert repr(jax.make_jaxpr(changed)(x).eqns[0].params["activation"]) == "relu"


def test_rebinding_a_node_as_it_is_gives_the_same_node():
    for eqn in (
        _conv_eqn(strides=2, activation="gelu"),
        jax.make_jaxpr(lambda x: nnops.leaky_relu(x, 0.5))(jnp.ones(3)).eqns[0],
        jax.make_jaxpr(lambda x: nnops.avg_pool(x, 2, 2))(jnp.ones((1, 4, 4, 1))).eqns[0],
        jax.make_jaxpr(jax.vmap(lambda w: nnops.dense(jnp.ones(3), w)))(jnp.ones((5, 3, 2))).eqns[
            -1
        ],
    ):
        op = nnops.ops[eqn.primitive.name]
        again = jax.make_jaxpr(lambda *a: op.rebind(op.operands(a, eqn.params), **eqn.params))(  # noqa: B023
            *(v.aval for v in eqn.invars)
        )
        assert again.eqns[0].params == eqn.params
        assert again.eqns[0].outvars[0].aval == eqn.outvars[0].aval


def test_rebind_of_a_mapped_node_keeps_to_its_operands():
    op = nnops.ops["dense"]
    x, w, b = jnp.ones(3), jnp.ones((5, 3, 2)), jnp.ones(2)
    f = jax.vmap(lambda w: nnops.dense(x, w, b))
    eqn = jax.make_jaxpr(f)(w).eqns[-1]
    assert eqn.params["mapped"] == ((None, 0, None),)
    less = jax.make_jaxpr(lambda x, w: op.rebind({"x": x, "w": w}, **eqn.params))(x, w).eqns[0]
    assert less.params["mapped"] == ((None, 0),)
    with pytest.raises(nnops.OpError, match="cannot gain an operand"):
        op.rebind({"x": x, "w": w, "b": b, "residual": b}, **eqn.params)


@pytest.mark.parametrize(
    "operands, words",
    [({"x": 1}, r"operands \['w'\] are missing"), ({"x": 1, "w": 1, "c": 1}, r"named \['c'\]")],
)
def test_rebind_refuses_wrong_operands(operands, words):
    operands = {k: jnp.ones((2, 2)) for k in operands}
    with pytest.raises(nnops.OpError, match=words):
        nnops.ops["dense"].rebind(operands)


def test_fitting_kernels_look_through_mapped_axes():
    op, eqn = nnops.ops["conv"], _conv_eqn()
    assert op.fitting_kernels([v.aval for v in eqn.invars], eqn.params) == (
        "reference",
        "pointwise_dot",
        "tiles_dot",
        "patches_dot",
    )
    x, w = jnp.ones((7, 1, 5, 5, 3)), jnp.ones((2, 3, 3, 1, 3, 7))
    f = jax.vmap(jax.vmap(lambda x, w: nnops.conv(x, w, groups=3), (0, -1)), (None, 0))
    (eqn,) = jax.make_jaxpr(f)(x, w).eqns
    assert op.fitting_kernels([v.aval for v in eqn.invars], eqn.params) == (
        "reference",
        "depthwise_shifted",
        "grouped_split",
    )
