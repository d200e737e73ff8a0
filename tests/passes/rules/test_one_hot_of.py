"""What is found of a one-hot encoding."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest

from jaxpress import nnops, passes
from jaxpress.capture import trace
from jaxpress.capture.edit import Editor
from jaxpress.passes.rules.one_hot_of import one_hot_of

IDS = jnp.asarray([[0, 2, 1], [2, 3, 0]])


def found_in(fn):
    graph = passes.cleanup(trace(fn)(IDS))
    return graph, one_hot_of(Editor(graph), graph.outputs[0])


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_of_jax(axis) -> None:
    graph, found = found_in(lambda i: jax.nn.one_hot(i, 4, axis=axis))
    assert found is not None and (found.axis, found.squeezed) == (axis, False)
    assert found.ids is graph.inputs[0]
    assert [node.op for node in found.nodes] == ["convert_element_type", "eq"]


def test_of_a_choice() -> None:
    """As Flax' ``common_utils.onehot`` has it."""
    graph, found = found_in(lambda i: jnp.where(i[..., None] == jnp.arange(4), 1.0, 0.0))
    assert found is not None and found.ids is graph.inputs[0] and found.axis == 2


def test_of_the_named_op() -> None:
    graph, found = found_in(lambda i: nnops.one_hot(i, 4, axis=0))
    assert found is not None and found.ids is graph.inputs[0] and found.axis == 0


def test_with_the_axis_still_there() -> None:
    _, found = found_in(lambda i: (i.T.reshape(6, 1) == jnp.arange(4)).astype(float))
    assert found is not None and found.squeezed and found.axis == 1


@pytest.mark.parametrize(
    "fn",
    [
        lambda i: i.astype(float),
        lambda i: (i == i.T[:2, :1]).astype(float),
        lambda i: (i[..., None] == jnp.arange(4) * 2).astype(float),
        lambda i: jnp.eye(3) + i[0, 0],
        lambda i: jnp.where(i[..., None] == jnp.arange(4), 0.9, 0.1),
        lambda i: jnp.where(i[..., None] == jnp.arange(4), 0.0, 1.0),
    ],
)
def test_what_is_none(fn) -> None:
    assert found_in(fn)[1] is None
