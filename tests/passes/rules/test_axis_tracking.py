"""Where axes come from, and numbers that are worked out from literals."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jaxpress.capture import trace
from jaxpress.capture.edit import Editor
from jaxpress.passes import inline
from jaxpress.passes.rules.axis_tracking import arrange, complete, constant, spread

X = jax.ShapeDtypeStruct((2, 1, 3), jnp.float32)


def behind(fn, *args, **options):
    graph = inline(trace(fn)(*args))
    return graph, spread(Editor(graph), graph.outputs[0], **options)


@pytest.mark.parametrize(
    "fn, axes",
    [
        (lambda x: x.transpose(2, 0, 1), (2, 0, 1)),
        (lambda x: x[:, 0], (0, 2)),
        (lambda x: x.reshape(2, 3), (0, 2)),
        (lambda x: x.reshape(1, 2, 3, 1), (None, 0, 2, None)),
        (lambda x: jnp.broadcast_to(x, (4, 2, 5, 3)), (None, 0, None, 2)),
        (lambda x: jnp.swapaxes(x, 0, 2)[:, :, None].squeeze(1), (2, None, 0)),
    ],
)
def test_axes_are_followed(fn, axes) -> None:
    graph, found = behind(fn, X)
    assert found.source is graph.inputs[0] and found.axes == axes
    x = np.arange(6.0).reshape(X.shape)
    got = graph(jnp.asarray(x))
    for index in np.ndindex(got.shape):
        place = [0] * 3
        for i, a in enumerate(axes):
            if a is not None:
                place[a] = index[i]
        assert got[index] == x[tuple(place)]


def test_a_reshape_that_mixes_axes_is_the_end() -> None:
    graph, found = behind(lambda x: x.reshape(3, 2)[None], X)
    assert found.source is not graph.inputs[0] and found.source.shape == (3, 2)


def test_repeated_entries_are_looked_behind_on_request() -> None:
    fn = lambda x: jnp.broadcast_to(x, (2, 4, 3))  # noqa: E731
    graph, found = behind(fn, X, broadcasts=False)
    assert found.source is graph.outputs[0] and not found.nodes
    assert behind(fn, X)[1].axes == (0, None, 2)


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0), (None, 2, 0), (2, None, 0, 1), (0, 2, None)])
def test_arrange_puts_axes_in_order(order) -> None:
    x = jnp.arange(6.0).reshape(2, 1, 3)
    got = arrange(x, order)
    assert got.shape == tuple(1 if a is None else x.shape[a] for a in order)
    turned = order.index(2) < order.index(0)
    np.testing.assert_array_equal(got.squeeze(), x[:, 0].T if turned else x[:, 0])


def test_spare_axes_are_used_before_new_ones_are_made() -> None:
    assert complete((None, 0, 2), (2, 1, 3)) == (1, 0, 2)
    assert complete((0, 2), (2, 1, 3)) == (0, 2)
    assert complete((None, None, 0), (2, 1)) == (1, None, 0)


@pytest.mark.parametrize(
    "fn, value",
    [
        (lambda: jnp.sqrt(lax.full((), 4.0)), 2.0),
        (lambda: 1 / jnp.sqrt(lax.full((), 16.0)), 0.25),
        (lambda: jnp.full((2, 3), -1e9), -1e9),
        (lambda: jnp.float32(jnp.bfloat16(0.1)), float(jnp.bfloat16(0.1))),
        (lambda: -(jnp.full((), 3) ** 2), -9),
        (lambda: jnp.ones((2,), bool), True),
        (lambda: lax.iota(jnp.int32, 3), None),
        (lambda: jnp.full((), 1.0) / 0.0, None),
    ],
)
def test_numbers(fn, value) -> None:
    graph = inline(trace(fn)())
    got = constant(Editor(graph), graph.outputs[0])
    assert got == value if value is not None else got is None or not np.isfinite(got)


def test_inputs_and_arrays_are_no_numbers() -> None:
    graph = trace(lambda x: x + np.ones(3))(jnp.zeros(3))
    assert constant(Editor(graph), graph.inputs[0]) is None
    assert all(constant(Editor(graph), v) is None for v in graph.constants)
