"""What a scale or bias may be made of."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest

from helpers import array
from jaxpress import passes
from jaxpress.capture import trace
from jaxpress.capture.edit import Editor
from jaxpress.passes.rules.parameters import is_parameter

X, W = array(3, 8), array(8)


def answer(fn):
    graph = passes.inline(trace(fn)(X, W))
    return is_parameter(Editor(graph), graph.outputs[0], graph.inputs[0])


@pytest.mark.parametrize(
    "fn",
    [
        lambda x, w: w * 1,
        lambda x, w: 1 + jnp.exp(w),
        lambda x, w: w.reshape(2, 4)[1].astype("bfloat16"),
        lambda x, w: jnp.concatenate([w, w])[:, None],
        lambda x, w: jnp.tanh(W @ array(8, 8)) * 2,  # known, however it was computed
    ],
)
def test_a_parameter(fn) -> None:
    assert answer(fn)


@pytest.mark.parametrize(
    "fn",
    [
        lambda x, w: x * 1,
        lambda x, w: w * x[0],
        lambda x, w: w * x.mean(0),
        lambda x, w: w @ array(8, 8),
        lambda x, w: w * w.sum(),
        lambda x, w: jax.random.normal(jax.random.wrap_key_data(w[:2].astype("uint32")), (8,)),
        lambda x, w: sum([jnp.sin(w + i) for i in range(30)]),  # too much to look through
    ],
)
def test_no_parameter(fn) -> None:
    assert not answer(fn)
