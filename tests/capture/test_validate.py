"""A graph that is not well formed is refused, with its surroundings."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import pytest
from programs import f32

from jaxpress.capture import Graph, GraphError, Value, trace


@pytest.fixture
def graph() -> Graph:
    return trace(lambda x: jnp.tanh(jnp.sin(x) + f32(3)))(f32(3))


def alien() -> Value:
    return Value("alien", jax.typeof(f32(3)))


BROKEN: dict[str, tuple[Callable[[Graph], Graph], str]] = {
    "order": (lambda g: g.with_parts(nodes=g.nodes[::-1]), "used before it is made"),
    "unknown operand": (
        lambda g: g.with_parts(nodes=(g.nodes[0].with_inputs((alien(),)), *g.nodes[1:])),
        "alien:f32.3. is used before it is made",
    ),
    "twice": (lambda g: g.with_parts(nodes=(g.nodes[0], *g.nodes)), "is made twice"),
    "missing": (lambda g: g.with_parts(nodes=g.nodes[1:]), "used before it is made"),
    "output": (lambda g: g.with_parts(outputs=(alien(),)), "output alien.* is made by no node"),
    "input": (lambda g: g.with_parts(inputs=g.inputs * 2), "listed twice"),
    "constant": (lambda g: g.with_parts(constants={}), "used before it is made"),
}


@pytest.mark.parametrize("how", BROKEN)
def test_what_is_broken_is_found(graph: Graph, how: str) -> None:
    breaking, message = BROKEN[how]
    assert graph.validate() is graph
    with pytest.raises(GraphError, match=message):
        breaking(graph).validate()


def test_the_message_shows_the_nodes_around_and_the_users_line(graph: Graph) -> None:
    with pytest.raises(GraphError) as caught:
        graph.with_parts(nodes=graph.nodes[1:]).validate()
    text = str(caught.value)
    assert "\n  > <add_1:f32[3] = add(sin_0, const0)>  # test_validate.py:" in text
    assert "\n    <tanh_2:f32[3] = tanh(add_1)>" in text


def test_rewritten_bodies_are_checked_too() -> None:
    graph = trace(lambda x: jax.jit(lambda y: jnp.sin(y) * 2)(x))(1.0)
    (node,) = graph.nodes
    (body,) = node.subgraphs
    broken = node.with_subgraphs([body.with_parts(nodes=body.nodes[1:])])
    with pytest.raises(GraphError, match=r"jaxpr: sin_0.* is used before it is made"):
        graph.with_parts(nodes=(broken,)).validate()


def test_a_prologue_makes_values() -> None:
    graph = trace(lambda w, x: (w * 2) + x)(1.0, 2.0)
    mul, add = graph.nodes
    prologue = Graph("prologue", graph.inputs[:1], (mul,), mul.outputs)
    graph.with_parts(nodes=(add,), prologue=prologue).validate()
    with pytest.raises(GraphError, match="used before it is made"):
        graph.with_parts(nodes=(add,)).validate()
    with pytest.raises(GraphError, match=r"prologue: .*used before it is made"):
        broken = prologue.with_parts(inputs=())
        graph.with_parts(nodes=(add,), prologue=broken).validate()
