"""Numbers that a program computes from what is written in it."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jaxpress import passes
from jaxpress.capture import trace
from jaxpress.capture.edit import Editor
from jaxpress.passes.rules.scalars import number

SHAPE = jnp.asarray([2, 3])
TWO, THREE = np.float32(2), np.float32(3)


def found(fn, *args):
    graph = passes.inline(trace(fn)(*args))
    return number(Editor(graph), graph.outputs[0])


@pytest.mark.parametrize(
    ("fn", "want"),
    [
        (lambda: lax.sub(THREE, TWO), 1.0),
        (lambda: lax.div(TWO, lax.add(TWO, TWO)), 0.5),
        (lambda: lax.rsqrt(lax.mul(TWO, TWO)), 0.5),
        (lambda: lax.log(lax.sub(THREE, TWO)), 0.0),
        (lambda: lax.pow(TWO, THREE), 8.0),
        (lambda: lax.gt(lax.sub(THREE, TWO), np.float32(0)), 1.0),
        (lambda: lax.max(lax.neg(TWO), THREE), 3.0),
        (lambda: jnp.full((2, 3), 0.001), 0.001),
        (lambda: lax.select_n(lax.lt(TWO, THREE), TWO, THREE), 3.0),
        # The number of elements, of a shape that is kept as an array.
        (lambda: lax.convert_element_type(jnp.prod(SHAPE), "float32"), 6.0),
        (lambda: lax.convert_element_type(lax.sub(8, 1), "float32"), 7.0),
        # Of a float32 what was meant, of less what it is.
        (lambda: np.float32(0.1) * jnp.ones((), "float32"), 0.1),
        (lambda: jnp.asarray(0.1, "bfloat16") + jnp.zeros((), "bfloat16"), 0.10009765625),
    ],
)
def test_arithmetic_of_what_is_written(fn, want) -> None:
    assert found(fn) == want


@pytest.mark.parametrize(
    "fn",
    [
        lambda x: x + 1,
        lambda x: lax.mul(x, np.float32(0)),
        lambda x: lax.div(TWO, lax.sub(TWO, TWO)),
        lambda x: lax.sqrt(lax.neg(TWO)),
        lambda x: lax.exp(TWO),
        lambda x: jnp.arange(3.0) * 2,
        lambda x: jnp.prod(SHAPE.astype("float32")),
        lambda x: np.complex64(1j) * jnp.ones((), "complex64"),
    ],
)
def test_no_number(fn) -> None:
    assert found(fn, np.float32(1)) is None
