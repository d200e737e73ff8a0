"""Graphs with symbolic dimensions, called at sizes that are known."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import jaxpress as jp
from helpers import array

W = array(3, 4)
X = array(2, 5, 3, seed=1)


def net(x: Any) -> dict[str, Any]:
    y = jax.nn.relu(x @ W + jnp.arange(x.shape[1])[:, None])
    total, _ = lax.scan(lambda c, t: (c + t.sum(), None), 0.0, y)
    return {"mean": jnp.mean(y, 0), "flat": jnp.reshape(x, (-1,)), "total": total}


def symbolic(text: str) -> Any:
    return jax.ShapeDtypeStruct(jax.export.symbolic_shape(text), jnp.float32)


def same(a: Any, b: Any) -> None:
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6), a, b)


def test_a_graph_is_called_at_any_sizes() -> None:
    for graph in (jp.trace(net)(symbolic("b, n, 3")), jp.optimize(net).graph(symbolic("b, n, 3"))):
        for x in (X, array(1, 2, 3)):
            same(graph(x), net(x))
        same(jax.jit(graph)(X), net(X))
        same(*(jax.grad(lambda x, f=f: f(x)["total"])(X) for f in (graph, net)))


def test_sizes_that_do_not_fit_are_named() -> None:
    graph = jp.trace(lambda x: x * 2)(symbolic("b, 2*b"))
    assert graph(array(2, 4)).shape == (2, 4)
    with pytest.raises(jp.ArgumentError, match=r"symbolic sizes that do not fit .*'2\*b'"):
        graph(array(2, 5))
    with pytest.raises(jp.ArgumentError, match=r"has type f32\[2\], but .* f32\[b,2\*b\]"):
        graph(array(2))


def test_what_depends_on_a_symbol_is_not_known_before_the_data() -> None:
    def fn(x: Any) -> Any:
        steps = lax.fori_loop(0, x.shape[0], lambda i, c: c + 1.0, 0.0)
        return x * x.shape[0] + jnp.arange(x.shape[0]) + jnp.sum(W) + steps

    fast = jp.optimize(fn)
    exported = fast.export(symbolic("b"))
    for n in (1, 4):
        same(exported.call(array(n)), fn(array(n)))
    prologue = fast.graph(symbolic("b")).prologue
    assert prologue is not None and set(prologue.count()) == {"reduce_sum"}
