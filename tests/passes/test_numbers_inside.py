"""Arrays of one number are written inside of what they are given to."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from helpers import array
from jaxpress.capture import trace
from jaxpress.passes import cleanup
from jaxpress.passes.numbers_inside import numbers_inside

X = array(3, 4)


def scan(x, ones):
    return lax.scan(lambda h, row: (jnp.sin(h * ones) + row, h), x[0], x)


def loop(x, ones):
    return lax.while_loop(lambda c: c[0] < 3, lambda c: (c[0] + 1, jnp.sin(c[1] * ones)), (0, x[0]))


def branch(x, ones):
    return lax.cond(x[0, 0] > 0, lambda x: x * ones, lambda x: jnp.sin(x), x[0])


def nested(x, ones):
    return lax.scan(lambda h, row: (scan(x, ones * 1)[0] + h, row), x[0], x)


@pytest.mark.parametrize("fn", [scan, loop, branch, nested])
def test_a_product_with_ones_goes(fn) -> None:
    graph = cleanup(trace(lambda x: fn(x, jnp.ones(4)))(X))
    new = numbers_inside(graph).validate()
    assert graph.find("mul") and not cleanup(new).find("mul")
    for a, b in zip(*(jax.tree.leaves(jax.jit(g)(X)) for g in (graph, new)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)
    assert numbers_inside(new).count() == new.count()


def test_what_is_no_number_stays_an_operand() -> None:
    graph = cleanup(trace(lambda x: scan(x, jnp.arange(4.0)))(X))
    assert numbers_inside(graph) is graph
