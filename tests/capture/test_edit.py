"""Changing a graph by hand."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import lax
from programs import PROGRAMS, f32

from jaxpress.capture import Graph, GraphError, Literal, trace


def fn(x, w):
    h = jnp.sin(x) * w
    return {"out": jnp.tanh(h), "h": h}


@pytest.fixture
def graph() -> Graph:
    return trace(fn)(f32(3), f32(3))


def one(graph: Graph, op: str) -> Any:
    (node,) = graph.find(op)
    return node


def test_replace(graph: Graph) -> None:
    before = graph.text()
    with graph.edit() as editor:
        (new,) = editor.replace(one(graph, "sin"), lambda x: jnp.cos(x) + 1)
    edited = editor.graph
    assert graph.text() == before and edited is not graph
    assert edited.count() == {"cos": 1, "add": 1, "mul": 1, "tanh": 1}
    x, w = f32(3), 2 * f32(3)
    want = {"out": jnp.tanh((jnp.cos(x) + 1) * w), "h": (jnp.cos(x) + 1) * w}
    jax.tree.map(np.testing.assert_array_equal, edited(x, w), want)
    made = edited.producer(new)
    assert made is not None
    assert made.origin == (one(graph, "sin"),)
    assert made.source == one(graph, "sin").source


def test_the_edited_graph_is_a_function_like_any_other(graph: Graph) -> None:
    with graph.edit() as editor:
        editor.replace(one(graph, "sin"), jnp.cos)
    x, w = f32(3), f32(3)

    def want(x, w):
        return jnp.tanh(jnp.cos(x) * w).sum()

    def got(x, w):
        return editor.graph(x, w)["out"].sum()

    for transform in (jax.jit, jax.grad):
        np.testing.assert_array_equal(transform(got)(x, w), transform(want)(x, w))
    xs = f32(2, 3)
    np.testing.assert_array_equal(jax.vmap(got, (0, None))(xs, w), jax.vmap(want, (0, None))(xs, w))


def test_replacements_are_ordinary_functions() -> None:
    graph = trace(lambda x: lax.top_k(x, 2))(f32(4))
    w = f32(4)

    @jax.jit
    def sorted_first(x):
        order = jnp.argsort(-(x * w / w))
        return x[order[:2]], order[:2]

    with graph.edit() as editor:
        editor.replace(one(graph, "top_k"), sorted_first)
    want = graph(f32(4))
    got = editor.graph(f32(4))
    assert [v.shape for v in got] == [v.shape for v in want]
    np.testing.assert_array_equal(got[1], want[1])
    assert len(editor.graph.constants) == 1


def test_a_replacement_may_return_an_operand(graph: Graph) -> None:
    with graph.edit() as editor:
        editor.replace(one(graph, "mul"), lambda a, b: b)
    assert editor.graph.count() == {"tanh": 1}
    np.testing.assert_array_equal(editor.graph(f32(3), f32(3))["h"], f32(3))


@pytest.mark.parametrize(
    "wrong", [lambda x: x[:2], lambda x: x.astype(int), lambda x: (x, x), lambda x: ()]
)
def test_a_replacement_of_another_type_is_refused(graph: Graph, wrong: Any) -> None:
    with pytest.raises(GraphError, match=r"replacement|replace"), graph.edit() as editor:
        editor.replace(one(graph, "sin"), wrong)


def test_what_is_gone_cannot_be_replaced(graph: Graph) -> None:
    sin = one(graph, "sin")
    with graph.edit() as editor:
        editor.replace(sin, jnp.cos)
        with pytest.raises(GraphError, match="is not in the graph"):
            editor.replace(sin, jnp.cos)


def test_an_exception_leaves_the_graph_as_it_was(graph: Graph) -> None:
    editor = graph.edit()
    with pytest.raises(KeyError), editor:
        editor.replace(one(graph, "sin"), jnp.cos)
        raise KeyError
    assert editor.graph is graph


def test_insert_after_a_result_and_after_an_input(graph: Graph) -> None:
    x, w = graph.inputs
    with graph.edit() as editor:
        editor.insert_after(one(graph, "mul").output, lambda h: h + 1)
        editor.insert_after(x, lambda x: -x)
    h = jnp.sin(-f32(3)) * f32(3) + 1
    got = editor.graph(f32(3), f32(3))
    np.testing.assert_array_equal(got["h"], h)
    np.testing.assert_array_equal(got["out"], jnp.tanh(h))
    assert editor.graph.inputs == (x, w)


def test_insert_after_an_input_that_is_returned() -> None:
    graph = trace(lambda x: (x, x))(f32(3))
    with graph.edit() as editor:
        editor.insert_after(graph.inputs[0], lambda x: x * 2)
    for y in editor.graph(f32(3)):
        np.testing.assert_array_equal(y, f32(3) * 2)


@pytest.mark.parametrize("wrong", [lambda x: x.sum(), lambda x: x > 0, lambda x: (x, x)])
def test_what_is_inserted_keeps_the_type(graph: Graph, wrong: Any) -> None:
    with pytest.raises(GraphError, match="insert_after"), graph.edit() as editor:
        editor.insert_after(one(graph, "sin").output, wrong)


def test_tap_sees_every_value_once(graph: Graph) -> None:
    seen: list[Any] = []
    with graph.edit() as editor:
        editor.tap(one(graph, "mul").output, seen.append)
        editor.tap(graph.inputs[0], seen.append)
    x, w = f32(3), f32(3)
    for run in (editor.graph, jax.jit(editor.graph)):
        seen.clear()
        jax.tree.map(np.testing.assert_array_equal, run(x, w), run(x, w))
        jax.effects_barrier()
        assert len(seen) == 4
        assert sorted(float(v[0]) for v in seen)[-1] == float(x[0])
    seen.clear()
    jax.grad(lambda x: editor.graph(x, w)["out"].sum())(x)
    jax.effects_barrier()
    assert len(seen) == 2


def test_tap_with_two_callbacks_of_the_same_code(graph: Graph) -> None:
    logs: list[list[Any]] = [[], []]
    with graph.edit() as editor:
        for log in logs:
            editor.tap(graph.inputs[0], lambda v, log=log: log.append(v))
    editor.graph(f32(3), f32(3))
    jax.effects_barrier()
    assert [len(log) for log in logs] == [1, 1]


def test_add_output(graph: Graph) -> None:
    with graph.edit() as editor:
        editor.add_output(one(graph, "sin").output, "z")
        editor.add_output(graph.inputs[1], "a")
    result, extra = editor.graph(f32(3), 2 * f32(3))
    jax.tree.map(np.testing.assert_array_equal, result, fn(f32(3), 2 * f32(3)))
    np.testing.assert_array_equal(extra["z"], jnp.sin(f32(3)))
    np.testing.assert_array_equal(extra["a"], 2 * f32(3))
    assert editor.graph.to_jaxpr().jaxpr.debug_info.result_paths[-1] == "extra['z']"
    with editor.graph.edit() as again:
        again.add_output(one(graph, "tanh").output, "t")
    (result, extra), more = again.graph(f32(3), f32(3))
    np.testing.assert_array_equal(more["t"], result["out"])


def test_an_added_output_follows_a_replacement(graph: Graph) -> None:
    sin = one(graph, "sin")
    with graph.edit() as editor:
        editor.add_output(sin.output, "s")
        editor.replace(sin, jnp.cos)
    np.testing.assert_array_equal(editor.graph(f32(3), f32(3))[1]["s"], jnp.cos(f32(3)))


def test_a_body_has_no_room_for_more_outputs() -> None:
    body = trace(lambda x: jax.jit(jnp.sin)(x))(1.0).nodes[0].subgraphs[0]
    with pytest.raises(GraphError, match="outputs are fixed"), body.edit() as editor:
        editor.add_output(body.nodes[0].output, "s")


def test_remove() -> None:
    graph = trace(lambda x: (jnp.sin(x), jnp.cos(x))[0])(1.0)
    cos = one(graph, "cos")
    with graph.edit() as editor:
        editor.remove(cos)
        with pytest.raises(GraphError, match="is still used"):
            editor.remove(one(graph, "sin"))
        assert cos not in editor
    assert editor.graph.count() == {"sin": 1}


def test_an_effect_is_never_removed() -> None:
    graph = trace(lambda x: jax.debug.print("{}", x))(1.0)
    (node,) = graph.nodes
    with graph.edit() as editor:
        with pytest.raises(GraphError, match="has effects"):
            editor.remove(node)
        assert editor.prune(node) == []
    assert editor.graph.nodes == (node,)


def test_pruning_takes_what_nothing_else_needs() -> None:
    graph = trace(lambda x: (jnp.sin(jnp.cos(x)) * jnp.tanh(x), jnp.tanh(x) + 1))(1.0)
    with graph.edit() as editor:
        editor.replace(one(graph, "mul"), lambda a, b: b)
    assert set(editor.graph.count()) == {"tanh", "add"}


def test_a_cycle_is_refused(graph: Graph) -> None:
    tanh, sin = one(graph, "tanh"), one(graph, "sin")
    with pytest.raises(GraphError, match="used before it is made"), graph.edit() as editor:
        editor.replace_value(sin.output, tanh.output)


def test_constants_can_be_operands(graph: Graph) -> None:
    sin = one(graph, "sin")
    with graph.edit() as editor:
        w = editor.add_constant(f32(3) * 2, "scale")
        (new,) = editor.emit(lambda x, w: jnp.sin(x) * w, (graph.inputs[0], w), at=sin)
        editor.replace_value(sin.output, new)
        assert editor.prune(sin) == [sin]
    x = f32(3)
    np.testing.assert_array_equal(editor.graph(x, x)["h"], jnp.sin(x) * (x * 2) * x)
    assert [v.name for v in editor.graph.constants] == ["scale"]


def test_iterating_while_nodes_come_and_go() -> None:
    graph = trace(lambda x: jnp.sin(jnp.sin(jnp.sin(x))) + jnp.cos(x) * 0)(1.0)
    editor = graph.edit()
    seen = []
    for node in editor.nodes():
        seen.append(node.op)
        if node.op == "sin":
            editor.replace(node, lambda x: jnp.tanh(jnp.exp(x)))
        if node.op == "cos":
            # The multiplication that comes next goes away under the loop's feet.
            editor.replace(graph.find("mul")[0], lambda a, b: a)
            editor.exchange(node, node.with_inputs(node.inputs))
    assert seen == ["sin", "sin", "sin", "cos", "add"]
    assert editor.finish().validate().count()["tanh"] == 3


def test_known_values() -> None:
    graph = trace(lambda w, x: (w + f32(3)) * 2 + x)(f32(3), f32(3))
    graph = graph.with_parts(weight_inputs=frozenset(graph.inputs[:1]))
    editor = graph.edit()
    inner, mul, outer = graph.nodes
    assert [editor.is_known(n.output) for n in (inner, mul, outer)] == [True, True, False]
    (value,) = editor.emit(lambda w: w - 1, (mul.output,), at=outer)
    assert editor.is_known(value)
    assert editor.is_known(next(v for v in mul.inputs if isinstance(v, Literal)))


OPS = {"neg": jnp.negative, "sin": jnp.sin, "abs": jnp.abs, "double": lambda x: x * 2}


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 50), st.sampled_from(sorted(OPS))), min_size=1, max_size=8),
    st.sampled_from(["training_step", "scan_with_constants", "odd_outputs", "shared_jit"]),
)
def test_any_sequence_of_edits_gives_a_valid_graph(edits: list[Any], name: str) -> None:
    make, args = PROGRAMS[name]()
    graph = trace(make)(*args)
    before = graph.text()
    with graph.edit() as editor:
        for place, op in edits:
            values = [v for n in editor.nodes() for v in n.outputs]
            values = [*graph.inputs, *values]
            value = values[place % len(values)]
            node = editor.producer(value)
            if op == "double" and node is not None and not node.effects:
                bind, params = node.primitive.bind, node.params
                if not node.subgraphs:
                    editor.replace(node, lambda *a, b=bind, p=params: b(*a, **p))
                    continue
            if jnp.issubdtype(value.dtype, jnp.floating):
                editor.insert_after(value, OPS[op])
    assert graph.text() == before
    editor.graph.to_jaxpr()
    assert [v.aval for v in editor.graph.outputs] == [v.aval for v in graph.outputs]
