"""Changing what is inside of bodies."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from programs import PROGRAMS, f32, fn_of_depth

import jaxpress as jp
from jaxpress.capture import GraphError, Literal, trace

LOOPS: dict[str, Any] = {
    "jit": lambda op: jax.jit(lambda x: op(x) * 2),
    "scan": lambda op: lambda x: lax.scan(lambda c, _: (op(c), c), x, None, length=3),
    "while": lambda op: lambda x: lax.while_loop(lambda c: c.sum() < 1, lambda c: op(c) + 1, x),
    "cond": lambda op: lambda x: lax.cond(x[0] > 0, lambda y: op(y), lambda y: y * 2, x),
    "remat": lambda op: jax.checkpoint(lambda x: op(op(x))),
    "deep": lambda op: lambda x: lax.map(jax.jit(lambda y: lax.map(op, y)), x[None]),
    "vmap of grad": lambda op: jax.vmap(jax.grad(jax.checkpoint(lambda x: op(x) * x))),
}


@pytest.mark.parametrize("kind", LOOPS)
def test_what_find_lists_can_be_replaced(kind: str) -> None:
    fn, x = LOOPS[kind](jnp.sin), f32(3)
    graph = trace(fn)(x)
    before = graph.text()
    found = graph.find("sin")
    assert set(found) - set(graph.nodes), "the example has none inside"
    with graph.edit() as editor:
        for node in dict.fromkeys(found):
            editor.replace(node, lambda y: jnp.tanh(y) + 1)
    assert graph.text() == before
    assert not editor.graph.find("sin")
    assert editor.graph.count()["tanh"] == len(found)
    if kind != "vmap of grad":
        want = LOOPS[kind](lambda y: jnp.tanh(y) + 1)
        for run in (lambda f: f(x), lambda f: jax.jit(f)(x), lambda f: jax.jvp(f, (x,), (x,))):
            jax.tree.map(
                lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6),
                run(want),
                run(editor.graph),
            )


def test_a_shared_body_stays_shared() -> None:
    fn, (x,) = PROGRAMS["shared_jit"]()
    graph = trace(fn)(x)
    first, second, third = graph.find("sin")
    assert first is second is third
    with graph.edit() as editor:
        editor.replace(first, jnp.cos)
        with pytest.raises(GraphError, match="is not in the graph"):
            editor.replace(second, jnp.cos)
    assert len({node.subgraphs[0] for node in editor.graph.nodes[:3]}) == 1
    one = jnp.cos(x) * 2
    np.testing.assert_array_equal(editor.graph(x), jnp.cos(one) * 2 + one)
    deep = trace(fn_of_depth(50))(1.0)
    twice = [n for body in bodies(deep) for n in body.nodes if n.op == "cos"]
    with deep.edit() as editor:
        editor.replace(twice[0], jnp.sin)
    assert len(twice) == 2 and editor.graph.count()["sin"] == 2**49


def bodies(graph: Any, seen: Any = None) -> list[Any]:
    seen = {} if seen is None else seen
    for node in graph.nodes:
        for body in node.subgraphs:
            if body not in seen:
                seen[body] = None
                bodies(body, seen)
    return list(seen)


def test_changes_at_several_depths_at_once() -> None:
    def fn(x, inner=jnp.sin, outer=jnp.exp):
        def step(c, _):
            return jax.jit(lambda y: inner(y) * 0.5)(outer(c)), None

        return outer(lax.scan(step, x, None, length=2)[0])

    x = f32(3)
    graph = trace(fn)(x)
    with graph.edit() as editor:
        for node in graph.find("exp"):
            editor.replace(node, jnp.tanh)
        (sin,) = graph.find("sin")
        editor.insert_after(sin.output, lambda y: y + 1)
        editor.insert_after(graph.inputs[0], lambda x: -x)
    want = fn(-x, lambda y: jnp.sin(y) + 1, jnp.tanh)
    np.testing.assert_allclose(editor.graph(x), want, rtol=1e-6)


def test_tapping_a_loop() -> None:
    seen: list[Any] = []
    graph = trace(lambda x: lax.fori_loop(0, 4, lambda i, y: jnp.sin(y) + i, x))(1.0)
    (sin,) = graph.find("sin")
    with graph.edit() as editor:
        editor.tap(sin.output, lambda v: seen.append(float(v)))
    assert editor.graph.nodes[0].effects, "a node that calls back must not be taken for pure"
    for run in (editor.graph, jax.jit(editor.graph)):
        seen.clear()
        np.testing.assert_array_equal(run(1.0), graph(1.0))
        jax.effects_barrier()
        assert len(seen) == 4 and seen[0] == float(jnp.sin(1.0))


def test_tapping_the_body_of_a_derivative_rule() -> None:
    seen: list[Any] = []
    graph = trace(jax.nn.relu)(1.0)
    (value,) = graph.find("max")
    with graph.edit() as editor:
        editor.tap(value.output, seen.append)
    editor.graph(2.0)
    jax.effects_barrier()
    assert len(seen) == 1


@pytest.mark.parametrize("action", ["replace", "insert_after", "remove"])
def test_the_body_of_a_derivative_rule_is_refused(action: str) -> None:
    graph = trace(lambda x: lax.scan(lambda c, _: (jax.nn.relu(c), None), x, None, 2)[0])(1.0)
    (node,) = graph.find("max")
    with pytest.raises(GraphError, match=f"{action}: .* derivative rule"), graph.edit() as editor:
        given = {"replace": (node, lambda x, y: x), "remove": (node,)}
        getattr(editor, action)(*given.get(action, (node.output, jnp.sin)))


def test_removing_in_a_body() -> None:
    graph = trace(jax.jit(lambda x: (jnp.sin(x), jnp.cos(x))[0]))(1.0)
    assert graph.count() == {"jit": 1, "sin": 1, "cos": 1}
    with graph.edit() as editor:
        editor.remove(graph.find("cos")[0])
        with pytest.raises(GraphError, match="still used"):
            editor.remove(graph.find("sin")[0])
    assert editor.graph.count() == {"jit": 1, "sin": 1}


def test_a_bodys_inputs_have_a_place_too() -> None:
    graph = trace(lambda x: lax.scan(lambda c, y: (c + y, c), 0.0, x)[0])(f32(4))
    (body,) = graph.nodes[0].subgraphs
    with graph.edit() as editor:
        editor.insert_after(body.inputs[1], lambda y: y * 2)
    np.testing.assert_allclose(editor.graph(f32(4)), 2 * graph(f32(4)), rtol=1e-6)


def test_what_has_no_place() -> None:
    graph = trace(lambda x: jax.jit(jnp.sin)(x) * 2.0)(1.0)
    inner = graph.find("sin")[0]
    literal = next(v for v in graph.find("mul")[0].inputs if isinstance(v, Literal))
    other = trace(jnp.cos)(1.0).find("cos")[0]
    with graph.edit() as editor:
        with pytest.raises(GraphError, match="is not a value of the graph"):
            editor.add_output(inner.output, "s")
        with pytest.raises(GraphError, match="is written into the program"):
            editor.insert_after(literal, lambda x: x)
        with pytest.raises(GraphError, match="is not in the graph"):
            editor.replace(other, jnp.sin)
    assert editor.graph.text() == graph.text()


def test_a_body_that_cannot_hold_arrays_says_so() -> None:
    w = f32(3)
    graph = trace(jax.checkpoint(jnp.sin))(f32(3))
    with graph.edit() as editor:
        editor.insert_after(graph.find("sin")[0].output, lambda x: x + w)
    with pytest.raises(GraphError, match="gained array constants"):
        editor.graph(f32(3))


def test_what_is_no_value_or_no_node_is_refused() -> None:
    graph = trace(lambda x: jnp.sin(x) @ jnp.ones((3, 2)))(jnp.ones((2, 3)))
    sin = graph.nodes[0]
    for change, said in (
        (lambda e: e.tap(sin, print), "tap takes a value, such as node.output"),
        (lambda e: e.insert_after("x", jnp.cos), "insert_after takes a value"),
        (lambda e: e.add_output(sin, "y"), "add_output takes a value"),
        (lambda e: e.replace(sin.output, jnp.cos), "replace takes a node"),
        (lambda e: e.remove(sin.output), "remove takes a node"),
        (lambda e: e.replace_value(sin.output, graph.outputs[0]), "the same shape and dtype"),
        (lambda e: e.replace_value(sin.output, sin), "replace_value takes a value"),
    ):
        with pytest.raises(GraphError, match=said), graph.edit() as editor:
            change(editor)
    with pytest.raises(GraphError, match="there is an output 'y' already"), graph.edit() as editor:
        editor.add_output(sin.output, "y")
        editor.add_output(sin.output, "y")


def test_what_was_put_into_a_body_can_be_changed_again() -> None:
    graph = trace(lambda x: lax.scan(lambda c, t: (jnp.sin(c) + t, None), x, jnp.arange(2.0))[0])(
        1.0
    )
    (sin,) = graph.find("sin")
    with graph.edit() as editor:
        made = editor.insert_after(sin.output, lambda y: y + 1.0)
        again = editor.insert_after(made, lambda y: y * 2.0)
        editor.replace(editor_node(editor, again), lambda y, _: y * 3.0)
    want = lax.scan(lambda c, t: ((jnp.sin(c) + 1) * 3 + t, None), 1.0, jnp.arange(2.0))[0]
    np.testing.assert_allclose(editor.graph(1.0), want, rtol=1e-6)


def editor_node(editor: Any, value: Any) -> Any:
    (inner,) = editor._inner.values()
    return inner.producer(value)


def test_strangers_and_the_prologue_are_refused() -> None:
    other = trace(lambda x: jnp.sin(x))(1.0)
    graph = jp.optimize(lambda w, x: (jnp.exp(jnp.sin(w)) @ w) @ x, weight_argnums=0).graph(
        f32(3, 3), f32(3)
    )
    inside = graph.prologue.nodes[0]
    for change, said in (
        (lambda e: e.insert_after(other.outputs[0], jnp.cos), "is not in the graph '<lambda>'"),
        (lambda e: e.replace(other.nodes[0], jnp.cos), "is not in the graph '<lambda>'"),
        (lambda e: e.replace(inside, jnp.cos), "is in the graph's prologue"),
        (lambda e: e.tap(inside.output, print), "is in the graph's prologue"),
    ):
        with pytest.raises(GraphError, match=said), graph.edit() as editor:
            change(editor)
    with graph.edit() as editor:
        editor.insert_after(graph.prepared[0], lambda w: w * 2)
    x, w = f32(3), f32(3, 3)
    np.testing.assert_allclose(editor.graph(w, x), 2 * graph(w, x), rtol=1e-6)
