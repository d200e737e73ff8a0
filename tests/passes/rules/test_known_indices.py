"""Numbers that a program counts out are known; data, weights and risky roundings are not."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jaxpress.capture import trace
from jaxpress.passes import inline
from jaxpress.passes.rules.known_indices import counted
from jaxpress.passes.view import GraphView

X = jnp.arange(4.0)
CLOSED = jnp.array([1, 0])


def found(fn):
    """What is known of a function's result, and the result."""
    graph = inline(trace(fn)(X))
    return counted(GraphView(graph), graph.outputs[0]), np.asarray(fn(X))


@pytest.mark.parametrize(
    "fn",
    [
        lambda x: jnp.arange(5),
        lambda x: jnp.arange(3, 11, 2),
        lambda x: jnp.arange(7, 0, -1),
        lambda x: jnp.arange(-4, 5) // 2,
        lambda x: jnp.arange(-4, 5) % 3,
        lambda x: lax.rem(jnp.arange(-4, 5), 3),
        lambda x: jnp.minimum(jnp.arange(6), 3) * 2 - 1,
        lambda x: jnp.clip(jnp.arange(6) - 2, 0, 2),
        lambda x: jnp.where(jnp.arange(4) < 2, 3, jnp.arange(4)),
        lambda x: jnp.floor((jnp.arange(6, dtype="float32") + 0.5) / 2).astype(int),
        lambda x: jnp.concatenate([jnp.arange(2), jnp.arange(3)])[None, :, None],
        lambda x: jnp.broadcast_to(jnp.arange(3)[:, None], (3, 2)),
        lambda x: lax.broadcasted_iota("int32", (2, 3), 1) != 1,
    ],
)
def test_counted(fn) -> None:
    got, want = found(fn)
    assert got is not None
    np.testing.assert_array_equal(got, want)
    assert got.dtype == want.dtype


@pytest.mark.parametrize(
    "fn",
    [
        lambda x: x.astype(int),
        lambda x: CLOSED + 1,  # an array that is closed over is data of the model
        lambda x: jnp.arange(5000),
        lambda x: jnp.arange(4) // x.astype(int),
        # One rounding more or less, and it would be another whole number.
        lambda x: jnp.floor(jnp.arange(60, dtype="float32") * 0.1).astype(int),
        lambda x: (jnp.arange(4) * 0.4).astype(int),
        lambda x: jnp.arange(4).astype("bfloat16"),
    ],
)
def test_not_counted(fn) -> None:
    assert found(fn)[0] is None
