"""Where elements end up: rows of reshapes, broadcasts and transposes against NumPy's own views."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jaxpress.capture import trace
from jaxpress.passes.layout import moved_from
from jaxpress.passes.view import GraphView

X = jnp.arange(12.0).reshape(3, 4)


def moved(fn, *args):
    graph = trace(fn)(*args)
    return moved_from(GraphView(graph), graph.outputs[0], graph.inputs.__contains__)


SAME = [
    (lambda x: x[:, None], lambda x: jnp.reshape(x, (3, 1, 4)), lambda x: jnp.expand_dims(x, 1)),
    (lambda x: x.T, lambda x: lax.transpose(x, (1, 0)), lambda x: x.T.T.T),
    (
        lambda x: jnp.broadcast_to(x, (2, 3, 4)),
        lambda x: jnp.broadcast_to(x[None], (2, 3, 4)),
        lambda x: lax.broadcast_in_dim(x.reshape(12).reshape(3, 4), (2, 3, 4), (1, 2)),
    ),
    (
        lambda x: x.reshape(2, 6),
        lambda x: x.reshape(12).reshape(2, 6),
        lambda x: x[None].reshape(2, 6),
    ),
    (lambda x: x.reshape(3, 2, 2).T, lambda x: x.reshape(3, 2, 2).transpose(2, 1, 0)),
    (
        lambda x: jnp.broadcast_to(x[:, None], (3, 2, 4)).reshape(3, 2, 2, 2),
        lambda x: jnp.broadcast_to(x.reshape(3, 1, 2, 2), (3, 2, 2, 2)),
    ),
    (lambda x: x, lambda x: x.reshape(1, 3, 4, 1)[0, :, :, 0]),
]  # fmt: skip


@pytest.mark.parametrize("spellings", SAME)
def test_one_layout_however_it_is_spelled(spellings) -> None:
    first = moved(spellings[0], X)
    for spelling in spellings[1:]:
        other = moved(spelling, X)
        np.testing.assert_array_equal(spellings[0](X), spelling(X))
        assert other.layout == first.layout and other.base.name == "x"


DIFFERENT = [
    lambda x: x,
    lambda x: x.T,
    lambda x: x.T.reshape(3, 4),
    lambda x: x.reshape(4, 3),
    lambda x: x.reshape(4, 3).T,
    lambda x: x[:, None],
    lambda x: x[None],
    lambda x: jnp.broadcast_to(x[None], (2, 3, 4)),
    lambda x: jnp.broadcast_to(x[:, None], (3, 2, 4)),
    lambda x: jnp.broadcast_to(x[..., None], (3, 4, 2)),
    lambda x: jnp.broadcast_to(x[:, None], (3, 2, 4)).reshape(6, 4),
    lambda x: jnp.broadcast_to(x[None], (2, 3, 4)).reshape(6, 4),
]


def test_different_elements_are_different_layouts() -> None:
    layouts = [moved(fn, X).layout for fn in DIFFERENT]
    for i, a in enumerate(layouts):
        for b in layouts[i + 1 :]:
            assert a != b


def test_types_on_the_way() -> None:
    there = moved(lambda x: x.astype(jnp.bfloat16)[None].astype(jnp.float32), X)
    assert [str(d) for d in there.dtypes] == ["float32", "bfloat16", "float32"]
    assert [str(d) for d in moved(lambda x: x[None], X).dtypes] == ["float32"]
    assert there.nodes[0].op == "convert_element_type"


def test_it_stops_where_it_is_told_and_at_other_operations() -> None:
    graph = trace(lambda x: jnp.sin(x.T)[None])(X)
    found = moved_from(GraphView(graph), graph.outputs[0], lambda v: False)
    assert graph.producer(found.base).op == "sin" and len(found.nodes) == 1
    (turned,) = graph.find("transpose")
    found = moved_from(GraphView(graph), turned.output, lambda v: v is turned.output)
    assert found.base is turned.output and not found.nodes


def test_symbolic_sizes_are_compared_step_by_step() -> None:
    (n,) = jax.export.symbolic_shape("n")
    x = jax.ShapeDtypeStruct((n, 4), jnp.float32)
    assert moved(lambda x: x[None], x).layout == moved(lambda x: x[None], x).layout
    assert moved(lambda x: x[None], x).layout != moved(lambda x: x[:, None], x).layout


def test_no_elements_and_single_ones() -> None:
    empty = jnp.zeros((0, 3))
    assert moved(lambda x: x.reshape(3, 0), empty).layout == moved(lambda x: x.T, empty).layout
    one = jnp.zeros((1, 1))
    assert moved(lambda x: x.T, one).layout == moved(lambda x: x, one).layout
    assert moved(lambda x: x.reshape(()), one).layout == ((), ())
