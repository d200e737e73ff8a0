"""The order of a changing list: comparisons, insertions at one place, and what may move up."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxpress.capture import trace
from jaxpress.capture.edit import Editor
from jaxpress.capture.order import makers_after, move_before

X = jnp.arange(3.0)


def chain(x):
    a = lax.sin(x)
    b = lax.cos(a)
    c = lax.exp(x)
    d = lax.tanh(c)
    return b, d


def is_sorted(editor: Editor) -> bool:
    places = [editor.order[node] for node in editor.nodes()]
    return places == sorted(places) and len(set(places)) == len(places)


def test_numbers_grow_along_the_list_whatever_is_inserted() -> None:
    graph = trace(chain)(X)
    editor = Editor(graph)
    assert is_sorted(editor)
    for _ in range(300):  # more than there is room for in one place
        editor.emit(lax.neg, (graph.inputs[0],), at=graph.nodes[1], key="neg")
    editor.emit(lax.neg, (graph.inputs[0],), before=None, like=graph.nodes[0], key="neg")
    editor.emit(lax.neg, (graph.inputs[0],), at=graph.nodes[0], key="neg")
    assert is_sorted(editor) and len(list(editor.nodes())) == 306
    editor.replace(graph.nodes[2], jnp.log)
    assert is_sorted(editor)


def test_what_is_needed_moves_up() -> None:
    graph = trace(chain)(X)
    editor = Editor(graph)
    sin, _, exp, tanh = graph.nodes
    found = makers_after(editor, [tanh.output], sin, [sin])
    assert found == [exp, tanh]
    move_before(editor, found, sin)
    assert [n.op for n in editor.nodes()] == ["exp", "tanh", "sin", "cos"] and is_sorted(editor)
    new = editor.finish().validate()
    for a, b in zip(new(X), graph(X), strict=True):
        np.testing.assert_array_equal(a, b)


def test_what_depends_on_the_place_does_not() -> None:
    graph = trace(chain)(X)
    sin, cos, *_ = graph.nodes
    assert makers_after(Editor(graph), [cos.output], sin, [sin]) is None
    assert makers_after(Editor(graph), [graph.inputs[0]], sin, [sin]) == []


def test_effects_do_not_move() -> None:
    def fn(x):
        ref = jax.new_ref(x)
        a = lax.sin(x)
        return a, lax.cos(ref[...])

    graph = trace(fn)(X)
    (sin,), (cos,) = graph.find("sin"), graph.find("cos")
    assert makers_after(Editor(graph), [cos.output], sin, [sin]) is None


def test_a_rewired_node_keeps_its_operands_where_it_moves() -> None:
    graph = trace(chain)(X)
    editor = Editor(graph)
    sin, _, exp, tanh = graph.nodes
    editor.replace_value(exp.output, graph.inputs[0])
    editor.move(tanh, sin)
    assert editor.inputs(tanh) == (graph.inputs[0],)
    assert editor.users(exp.output) == () and tanh in editor.users(graph.inputs[0])
    new = editor.finish().validate()
    np.testing.assert_allclose(new(X)[1], jnp.tanh(X))
