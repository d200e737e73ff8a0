"""Arguments that a pass adds: found by name, typed, and kept from the function itself."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxpress as jp
from jaxpress.capture import ArgumentError, Graph, PassError, trace
from jaxpress.passes import Pass
from jaxpress.passes.new_arguments import add_arguments

X = jnp.arange(6.0).reshape(2, 3)


def scaled_by_arguments(graph: Graph) -> Graph:
    """Every product's first operand times ``factors[i]``, counted over the graph."""
    muls = graph.find("mul")
    avals = {f"m{i}": node.inputs[0].aval for i, node in enumerate(muls)}
    graph, new = add_arguments(graph, {"factors": avals})
    with graph.edit() as editor:
        for i, node in enumerate(muls):
            a, b = editor.inputs(node)
            outs = editor.emit(
                lambda a, b, f: a * f * b, (a, b, new["factors"][f"m{i}"]), at=node, cache=False
            )
            editor.substitute(node, outs)
    return editor.graph


SCALED = Pass("scaled", scaled_by_arguments, "Scale products.", new_arguments=("factors",))


def model(x, *, y, a=2.0):
    return {"out": (x * y) * a}


def factors(seed):
    return {f"m{i}": jax.random.normal(jax.random.key(seed + i), (2, 3)) for i in range(2)}


def test_the_graph_takes_them_by_name_among_the_others() -> None:
    graph = scaled_by_arguments(trace(model)(X, y=X + 1, a=3.0)).validate()
    names = [v.name for v in graph.inputs]
    assert names == ["x", "a", "factors['m0']", "factors['m1']", "y"]
    f = factors(0)
    got = graph(X, y=X + 1, a=3.0, factors=f)["out"]
    np.testing.assert_allclose(got, X * f["m0"] * (X + 1) * f["m1"] * 3.0, rtol=1e-6)
    assert graph.to_jaxpr().jaxpr.debug_info.arg_names[2] == "factors['m0']"


def test_optimize_takes_them_and_its_function_does_not() -> None:
    fast = jp.optimize(model, passes=[SCALED, "default"], weight_argnums=(0,))
    for seed in (0, 5):
        f = factors(seed)
        want = X * f["m0"] * X * f["m1"] * 2.0
        np.testing.assert_allclose(fast(X, y=X, factors=f)["out"], want, rtol=1e-6)
    assert fast.graph(X, y=X, factors=f).inputs[0] in fast.graph(X, y=X, factors=f).weight_inputs
    jitted = jax.jit(lambda x, f: fast(x, y=X, factors=f)["out"].sum())
    grad = jax.grad(jitted, 1)(X, factors(1))
    np.testing.assert_allclose(grad["m0"], X * X * factors(1)["m1"] * 2.0, rtol=1e-5)
    shapes = jax.eval_shape(lambda: (X, factors(0)))
    assert fast.graph(shapes[0], y=shapes[0], factors=shapes[1]).count()["mul"] >= 3


@pytest.mark.parametrize("given", [{}, {"factors": {"m0": X}}, {"factors": {"m0": X, "m1": X[0]}}])
def test_a_missing_or_ill_typed_argument_is_named(given) -> None:
    fast = jp.optimize(model, passes=[SCALED])
    with pytest.raises(ArgumentError, match="factors"):
        fast(X, y=X, **given)


def test_with_static_arguments() -> None:
    fast = jp.optimize(
        lambda x, n, *, times: (x * x) * float(n * times),
        passes=[SCALED], static_argnums=(1,), static_argnames=("times",),
    )  # fmt: skip
    f = factors(3)
    want = X * f["m0"] * X * f["m1"] * 6.0
    np.testing.assert_allclose(fast(X, 2, times=3, factors=f), want, rtol=1e-6)


def test_weights_among_them_are_known() -> None:
    graph, new = add_arguments(trace(model)(X, y=X), {"m": [X, X]}, weights=True)
    assert graph.weight_inputs == frozenset(new["m"])


@pytest.mark.parametrize("name", ["x", "y", "a"])
def test_a_name_that_is_taken_is_refused(name) -> None:
    with pytest.raises(PassError, match="choose another"):
        add_arguments(trace(model)(X, y=X, a=1.0), {name: X})


def test_a_body_takes_none() -> None:
    graph = trace(lambda x: jax.lax.scan(lambda c, _: (c * 2, None), x, None, 3))(X)
    with pytest.raises(PassError, match="body"):
        add_arguments(graph.nodes[0].subgraphs[0], {"z": X})
