"""Where values stand, through reshapes, broadcasts, transposes, slices and stacks."""

from __future__ import annotations

import jax
import jax.export
import jax.numpy as jnp
import pytest
from jax import lax

from jaxpress.capture import trace
from jaxpress.capture.edit import Editor
from jaxpress.passes.rules.axes import (
    Axis,
    align,
    leaves,
    place_below,
    place_in_part,
    place_of,
    place_of_slice,
    sizes,
)


def last(fn, *shapes):
    """The last node of a function's graph, and what answers for the graph."""
    graph = trace(fn)(*(jax.ShapeDtypeStruct(s, "float32") for s in shapes))
    return Editor(graph), graph.nodes[-1]


def below(fn, shape):
    """Where the operand of a function's only node stands, as the result's axes' numbers."""
    view, node = last(fn, shape)
    place = place_of(node.output.shape)
    found = place_below(view, node, place)
    if found is None:
        return None
    number = {a: i for i, dims in enumerate(place) for a in leaves(dims)}
    return [[(number[a], a.size) for a in leaves(dims)] for dims in found]


def test_a_dimension_of_size_one_has_no_axis() -> None:
    assert [sizes(dims) for dims in place_of((2, 1, 3))] == [[2], [], [3]]


@pytest.mark.parametrize(
    ("fn", "shape", "want"),
    [
        (lambda x: x.astype("bfloat16"), (2, 3), [[(0, 2)], [(1, 3)]]),
        (lambda x: x.T, (2, 3), [[(1, 2)], [(0, 3)]]),
        (lambda x: lax.broadcast_in_dim(x, (2, 4, 3), (0, 2)), (2, 3), [[(0, 2)], [(2, 3)]]),
        (lambda x: lax.broadcast_in_dim(x, (2, 3), (0, 1)), (2, 1), [[(0, 2)], []]),
        (lambda x: x.reshape(2, 1, 3), (2, 3), [[(0, 2)], [(2, 3)]]),
        (lambda x: x[:, None], (2, 3), [[(0, 2)], [(2, 3)]]),
        (lambda x: x.reshape(6), (2, 3), [[(0, 2)], [(0, 3)]]),
        (lambda x: x.reshape(2, 3), (6,), [[(0, 2), (1, 3)]]),
        (lambda x: x.reshape(4, 6), (8, 3), [[(0, 4), (1, 2)], [(1, 3)]]),
        (lambda x: x.reshape(3, 2), (2, 3), None),
        (lambda x: x.reshape(0, 3), (0, 5), None),
    ],
)
def test_below_what_moves_elements(fn, shape, want) -> None:
    assert below(fn, shape) == want


def test_symbolic_sizes_are_taken_apart() -> None:
    b, t = jax.export.symbolic_shape("b, t")
    assert below(lambda x: x.reshape(-1, 4), (b, t, 4)) == [[(0, b)], [(0, t)], [(1, 4)]]


def test_a_split_axis_is_split_for_everybody() -> None:
    a, b, c = Axis(8), Axis(4), Axis(2)
    assert align([a], [b, c]) and sizes(leaves([a])) == [4, 2]
    assert align([Axis(2), Axis(12)], [Axis(6), Axis(4)])
    assert not align([Axis(6)], [Axis(4)])
    assert not align([Axis(6)], [Axis(6), Axis(2)])
    assert not align([Axis(0)], [Axis(5), Axis(0)])


def test_one_of_several_that_were_stacked() -> None:
    view, node = last(lambda a, b: jnp.stack([a, b], 1), (3,), (3,))
    graph = trace(lambda x: x[:, 1:2])(jnp.ones((3, 2)))
    cut = graph.nodes[0]
    place = place_of_slice(Editor(graph), cut, place_of(cut.output.shape))
    assert place is not None
    value, found = place_in_part(view, node, place) or (None, None)
    assert value is node.inputs[1] and found == (place[0],)
    assert place_in_part(view, node, place_of(node.output.shape)) is None
    part = trace(lambda x: x[:2])(jnp.ones(4)).nodes[0]
    assert place_of_slice(Editor(graph), part, place_of((2,))) is None
