from collections import Counter

import jax
import jax.numpy as jnp
from jax import lax

from jaxpress.capture import trace
from jaxpress.viz.site import Site
from jaxpress.viz.tally import Tally, with_inline

x = jnp.ones((2, 2))


def test_a_call_counts_as_what_it_runs_and_a_small_function_as_itself() -> None:
    layer = jax.jit(lambda x: jnp.sin(x @ x))
    graph = trace(lambda x: jax.nn.relu(layer(layer(x))) + 1.0)(x)
    assert Tally().graph(graph) == Counter(dot_general=2, sin=2, relu=1, add=1)


def test_a_loop_counts_beside_what_is_in_it() -> None:
    graph = trace(lambda x: lax.scan(lambda c, y: (c * y, jnp.sin(c)), x[0], x))(x)
    counts = Tally().graph(graph)
    assert (counts["scan"], counts["mul"], counts["sin"]) == (1, 1, 1)


def test_a_shared_body_is_looked_at_once() -> None:
    fn = jax.jit(lambda x: jnp.sin(x) @ x)
    for _ in range(60):
        # Each function calls the one before twice: 2**60 products in all.
        fn = jax.jit(lambda x, inner=fn: inner(inner(x)))
    assert Tally().graph(trace(fn)(x)) == Counter(sin=2**60, dot_general=2**60)


def test_a_group_counts_what_prepares_its_weights() -> None:
    def fn(params, x):
        return x * (params["scale"] * 2.0 + 1.0)

    graph = trace(fn)({"scale": jnp.ones(2)}, x)
    site = Site(graph, top=True)
    last = graph.nodes[-1]
    assert set(with_inline(site, [last])) == set(graph.nodes)
    assert len(with_inline(site, [last])) == len(graph.nodes)
