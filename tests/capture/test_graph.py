"""What a graph answers about itself."""

from __future__ import annotations

import copy
import pickle
from collections import Counter

import jax
import jax.numpy as jnp
import pytest
from jax import lax
from jaxprs import rebuild
from programs import PROGRAMS, f32, fn_of_depth

from jaxpress.capture import Graph, Literal, Node, Value, graph_of_jaxpr, trace


@pytest.mark.parametrize("name", PROGRAMS)
def test_edges_agree_with_nodes(name: str) -> None:
    fn, args = PROGRAMS[name]()
    graph = trace(fn)(*args).validate()
    made = [v for node in graph.nodes for v in node.outputs]
    for node in graph.nodes:
        for v in node.outputs:
            assert graph.producer(v) is node
        for v in node.inputs:
            if not isinstance(v, Literal):
                assert node in graph.users(v)
    for v in made:
        assert all(v in user.inputs for user in graph.users(v))
        assert len(set(graph.users(v))) == len(graph.users(v))
    for v in (*graph.inputs, *graph.constants):
        assert graph.producer(v) is None
    values = [*graph.inputs, *graph.constants, *made]
    assert len({v.name for v in values}) == len(set(values)) == len(values)


@pytest.mark.parametrize("name", PROGRAMS)
def test_find_and_count_agree(name: str) -> None:
    fn, args = PROGRAMS[name]()
    graph = trace(fn)(*args)
    found = graph.find(lambda node: True)
    assert found == list(graph.walk())
    assert Counter(node.op for node in found) == graph.count()
    for op in graph.count():
        assert graph.find(op) == [node for node in found if node.op == op]


def test_names_of_values_are_never_an_arguments() -> None:
    w = f32(3)

    def fn(sin_0, const0, add_1):
        return jnp.sin(sin_0) + const0 + add_1 + w

    graph = trace(fn)(f32(3), 1.0, 2.0)
    values = (*graph.inputs, *graph.constants, *(v for n in graph.nodes for v in n.outputs))
    assert [v.name for v in graph.inputs] == ["sin_0", "const0", "add_1"]
    assert len({v.name for v in values}) == len(values)
    with graph.edit() as editor:
        editor.replace(graph.find("sin")[0], lambda x: jnp.cos(x) + f32(3))
    values = [v for n in editor.graph.nodes for v in n.outputs]
    values += [*editor.graph.inputs, *editor.graph.constants]
    assert len({v.name for v in values}) == len(values)


def test_values_and_literals() -> None:
    graph = trace(lambda x: lax.pad(x, 0.5, [(1, 1, 0)]) * 3)(f32(3))
    pad, mul = graph.nodes
    assert pad.inputs[0] is graph.inputs[0]
    assert isinstance(pad.inputs[1], Literal) and pad.inputs[1].val == 0.5
    assert (pad.output.shape, pad.output.dtype, pad.output.ndim) == ((5,), jnp.float32, 1)
    assert repr(pad.output) == "pad_0:f32[5]"
    assert [v.name for v in mul.inputs] == ["pad_0", "3.0"]
    assert hash(pad.output) is not None and pad.output != mul.output


def test_a_literals_name_is_its_value() -> None:
    # JAX wraps small integers in a class with a longer name.
    graph = trace(lambda x: lax.fori_loop(0, 3, lambda i, y: y + i, x))(f32(3))
    literals = {v.name for n in graph.walk() for v in n.inputs if isinstance(v, Literal)}
    assert literals == {"0", "1"}


def test_nodes_know_their_scope_and_source() -> None:
    def fn(x):
        with jax.named_scope("block"), jax.named_scope("dense"):
            return jnp.sin(x)

    (node,) = trace(fn)(1.0).nodes
    assert node.op == "sin" and node.primitive is lax.sin_p
    assert node.scope == "block/dense"
    assert node.source is not None
    assert node.source.file == __file__ and node.source.function.endswith("fn")
    assert node.origin == () and node.effects == frozenset() and node.subgraphs == ()
    assert repr(node) == "<sin_0:f32[] = sin(x)>"


@pytest.mark.parametrize(
    ("name", "op", "bodies"),
    [
        ("shared_jit", "jit", ["jaxpr"]),
        ("switch", "cond", [f"branches[{i}]" for i in range(4)]),
        ("while_with_constants", "while", ["cond_jaxpr", "body_jaxpr"]),
        ("custom_derivatives", "custom_vjp_call", ["call_jaxpr"]),
        ("linear_solves", "custom_linear_solve", [f"jaxprs[{i}]" for i in range(4)]),
        ("remat", "remat2", ["jaxpr"]),
        ("custom_batching", "custom_vmap_call", ["call"]),
    ],
)
def test_bodies_are_subgraphs(name: str, op: str, bodies: list[str]) -> None:
    fn, args = PROGRAMS[name]()
    node = trace(fn)(*args).find(op)[0]
    assert [body.name for body in node.subgraphs] == bodies
    assert all(isinstance(body, Graph) and body.signature is None for body in node.subgraphs)
    assert node.subgraphs is node.subgraphs
    assert not node.bodies_changed


def test_a_shared_body_is_one_graph() -> None:
    fn, args = PROGRAMS["shared_jit"]()
    first, second, third, _ = trace(fn)(*args).nodes
    assert first.subgraphs[0] is second.subgraphs[0] is third.subgraphs[0]


def test_shared_bodies_cost_what_they_hold() -> None:
    """2**60 uses of one cosine: whatever walks the uses never comes to an end."""
    graph = trace(fn_of_depth(60))(f32(3))
    assert graph.count()["cos"] == 2**60
    assert graph.find("sin") == []
    assert graph.cost().flops == 3 * 2**60
    assert len(graph.text().splitlines()) < 500
    assert len(str(graph).splitlines()) < 150
    assert graph.summary() and graph.to_networkx()


def test_a_copy_is_the_graph_itself() -> None:
    graph = trace(lambda x: jnp.sin(x) * 2)(1.0)
    for thing in (graph, *graph.nodes, *graph.inputs):
        assert copy.deepcopy([thing])[0] is thing is copy.copy(thing)
        with pytest.raises(pickle.PicklingError, match="trace it again"):
            pickle.dumps(thing)
    again = graph_of_jaxpr(rebuild(graph).to_jaxpr())
    assert again.count() == graph.count()
    assert len(again.text().splitlines()) == len(graph.text().splitlines())
    assert trace(fn_of_depth(3))(f32(3)).count()["cos"] == 8


def test_a_copy_with_other_parts_shares_the_rest() -> None:
    graph = trace(lambda x: (jnp.sin(x), x))(1.0)
    other = graph.with_parts(name="other", outputs=graph.outputs[:1])
    assert other.nodes == graph.nodes and other.inputs == graph.inputs
    assert (other.name, len(other.outputs), len(graph.outputs)) == ("other", 1, 2)


def test_new_nodes_keep_what_they_are_not_given() -> None:
    fn, args = PROGRAMS["shared_jit"]()
    node = trace(fn)(*args).nodes[0]
    moved = node.with_inputs((Value("y", node.inputs[0].aval),))
    assert isinstance(moved, Node)
    assert moved.outputs is node.outputs and moved.subgraphs[0] is node.subgraphs[0]
    assert not moved.bodies_changed and moved.origin == ()
    rewritten = node.with_subgraphs(node.subgraphs)
    assert rewritten.bodies_changed and rewritten.origin == (node,)
    assert rewritten.inputs is node.inputs


def test_constants_cannot_be_changed_from_outside() -> None:
    graph = trace(lambda x: x + f32(3))(f32(3))
    with pytest.raises(TypeError):
        graph.constant_values[graph.constants[0]] = 0  # type: ignore[index]
    with pytest.raises(KeyError):
        graph.constant_value(graph.inputs[0])


def test_repr_is_short() -> None:
    graph = trace(lambda *xs: sum(xs))(*range(9))
    assert repr(graph) == (
        "<Graph <lambda>(xs[0]:i32[], xs[1]:i32[], xs[2]:i32[], xs[3]:i32[], ...): 9 nodes>"
    )
    assert len(graph) == 9
