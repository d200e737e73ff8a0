"""Jaxprs of every make become graphs."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr
from programs import f32

from jaxpress.capture import Literal, compat, graph_of_jaxpr
from jaxpress.capture.from_jaxpr import graph_of_body


def test_a_closed_jaxpr() -> None:
    w = f32(3)
    graph = graph_of_jaxpr(jax.make_jaxpr(lambda x: jnp.sin(x) + w)(f32(3)), "mine")
    assert graph.name == "mine" and graph.signature is None
    assert [v.name for v in graph.inputs] == ["in0"]
    assert graph.constant_value(graph.constants[0]) is w
    np.testing.assert_array_equal(graph(f32(3))[0], jnp.sin(f32(3)) + w)
    assert graph.next_id == 2


def test_an_open_jaxpr() -> None:
    jaxpr = jax.make_jaxpr(lambda x: x + 1)(1.0).jaxpr
    graph = graph_of_jaxpr(jaxpr)
    assert float(graph(2.0)[0]) == 3.0


def test_an_open_jaxprs_constants_without_arrays_are_inputs() -> None:
    closed = jax.make_jaxpr(lambda x: x + f32(3))(f32(3))
    graph = graph_of_jaxpr(closed.jaxpr)
    _, carried = compat.closed_parts(closed.jaxpr)  # on some versions of JAX, an open one has some
    assert len(graph.inputs) == 2 - len(carried)
    assert len(graph.constants) == len(carried)
    out = graph(*[f32(3)] * len(graph.inputs))[0]
    np.testing.assert_array_equal(out, 2 * f32(3))


def test_the_same_array_in_two_places_is_one_constant() -> None:
    w, v = f32(3), f32(3)
    closed = jax.make_jaxpr(lambda x: x * w + v)(f32(3))
    assert len(graph_of_jaxpr(closed).constants) == 2
    graph = graph_of_jaxpr(ClosedJaxpr(closed.jaxpr, [w, w]))
    assert len(graph.constants) == 1
    np.testing.assert_array_equal(graph(f32(3))[0], f32(3) * w + w)


def test_a_weak_and_a_strong_type_of_one_array_stay_apart() -> None:
    weak, strong = jnp.broadcast_to(2.0, (3,)), f32(3)
    assert jax.typeof(weak).weak_type
    closed = jax.make_jaxpr(lambda x: x * weak + strong)(f32(3))
    graph = graph_of_jaxpr(ClosedJaxpr(closed.jaxpr, [weak, weak]))
    assert [c.aval.weak_type for c in graph.constants] == [True, False]


def test_literals_and_unused_results() -> None:
    closed = jax.make_jaxpr(lambda x: (jax.lax.top_k(x, 1)[0], 2.0))(f32(3))
    graph = graph_of_jaxpr(closed)
    (node,) = graph.nodes
    assert len(node.outputs) == 2, "a result that nobody uses is a value too"
    assert isinstance(graph.outputs[1], Literal) and graph.outputs[1].val == 2.0
    assert graph.outputs[1].aval.weak_type


def test_bodies_are_captured_when_they_are_looked_at() -> None:
    closed = jax.make_jaxpr(jax.jit(lambda x: x + 1))(1.0)
    memo: dict = {}
    graph = graph_of_jaxpr(closed, memo=memo)
    assert not memo
    (body,) = graph.nodes[0].subgraphs
    assert len(memo) == 1
    source = dict(compat.bodies_in_params(graph.nodes[0].params))["jaxpr"]
    assert graph_of_body(source, "jaxpr", memo) is body
    assert graph_of_body(source, "other", memo) is not body
    assert graph_of_body(source, "jaxpr", None) is not body
