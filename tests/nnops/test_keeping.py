"""Derivatives from what the forward run kept; samples.py runs every op that has them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import assert_close

import jaxpress as jp
from jaxpress import nnops
from jaxpress.nnops.keeping import kept

X = jnp.asarray(np.random.default_rng(0).normal(size=(4, 3)), jnp.float32)
SCALE = jnp.arange(1.0, 4.0)
OP = nnops.registry()["layer_norm"]


def plain(x, s):
    return OP.reference(x, s, axis=-1, epsilon=1e-5, placement="root", dtype=None)


def equations(f, *args):
    return jax.make_jaxpr(f)(*args).jaxpr.eqns


def test_nothing_is_computed_twice():
    def loss(f):
        return jax.value_and_grad(lambda x, s: jnp.sum(f(x, s) ** 2), (0, 1))

    ours, theirs = equations(loss(nnops.layer_norm), X, SCALE), equations(loss(plain), X, SCALE)
    (node,) = [e for e in ours if e.primitive.name == "layer_norm"]
    inside = jax.make_jaxpr(OP.implementation(node.params))(X, SCALE).jaxpr.eqns
    # But for a change of shape, which costs less than to keep its result.
    count = lambda eqns: sum(e.primitive.name != "broadcast_in_dim" for e in eqns)  # noqa: E731
    assert count(ours) - 1 + count(inside) == count(theirs)


def test_operands_and_results_are_not_kept_once_more():
    aval = jax.typeof(X)
    given = {"keeps": (0, 1), "operands": ("x", "scale"), "axis": -1, "epsilon": 1e-5}
    given["placement"] = "root"
    plan = kept(OP, [aval, jax.typeof(SCALE)], {**given, "dtype": None})
    assert len(set(plan.picked)) == len(plan.picked)
    (eqn,) = [e for e in equations(jax.grad(nnops.squareplus), 1.0) if "keeps" in e.params]
    inner = jax.make_jaxpr(nnops.registry()["squareplus"].implementation(eqn.params))(1.0).jaxpr
    assert not set(inner.outvars) & set(inner.invars)
    assert len(set(inner.outvars)) == len(inner.outvars)


def test_only_operands_with_a_tangent_count():
    grad = jax.grad(lambda s: nnops.layer_norm(X, s).sum())
    (keeps,) = [e.params["keeps"] for e in equations(grad, SCALE) if "keeps" in e.params]
    assert keeps == (1,)


@pytest.mark.parametrize("map_first", [True, False])
def test_vmap_and_grad_in_either_order(map_first):
    xs = jnp.stack([X, 2 * X + 1])

    def run(f):
        total = lambda x, s: jnp.sum(jnp.sin(f(x, s)))  # noqa: E731
        if map_first:
            return jax.grad(lambda x, s: jax.vmap(total, (0, None))(x, s).sum(), (0, 1))
        return jax.vmap(jax.grad(total, (0, 1)), (0, None))

    assert_close(run(nnops.layer_norm)(xs, SCALE), run(plain)(xs, SCALE), 1e-5)
    assert jp.trace(run(nnops.layer_norm))(xs, SCALE).count()["layer_norm"] == 1


def test_higher_derivatives_and_remat():
    def third(f):
        return jax.jvp(
            jax.hessian(lambda x: jnp.sum(jnp.sin(jax.checkpoint(f)(x, SCALE)))), (X,), (X + 1,)
        )

    assert_close(third(nnops.layer_norm), third(plain), 1e-4)


def test_residuals_of_a_scan_are_those_of_the_plain_function():
    def temp(f):
        def run(x):
            return jax.lax.scan(lambda c, _: (jnp.sin(f(c, SCALE)), None), x, length=5)[0].sum()

        jaxpr = jax.make_jaxpr(jax.grad(run))(X)
        loop = next(e for e in jaxpr.eqns if e.primitive.name == "scan")
        return sorted(str(v.aval) for v in loop.outvars)

    assert temp(nnops.layer_norm) == temp(plain)


def test_no_rule_takes_a_node_with_further_results():
    grad = jax.grad(lambda x: nnops.layer_norm(x).sum())
    (eqn,) = [e for e in equations(grad, X) if "keeps" in e.params]
    with pytest.raises(nnops.OpError, match="further results"):
        OP.rebind({"x": X}, **eqn.params)
    graph = jp.trace(jax.grad(lambda x: jnp.sum(nnops.layer_norm(x, SCALE) ** 2)))(X)
    rule = jp.passes.Rule(
        "drop",
        jp.passes.op("layer_norm", jp.passes.any_value("x"), jp.passes.any_value("s")),
        lambda x, s: x * s,
        numerics="approximate",
    )
    assert jp.passes.rewrite(graph, [rule]).count()["layer_norm"] == 1
