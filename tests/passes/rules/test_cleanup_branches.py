"""Branches that are never taken and loops that never run are left out, effects are not."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from helpers import array, assert_applies, assert_refuses
from jaxpress.capture import trace
from jaxpress.passes import inline, rewrite
from jaxpress.passes.rules.cleanup import CLEANUP_RULES
from jaxpress.passes.rules.cleanup_branches import KNOWN_BRANCH, NO_ROUNDS

X, W = array(2, 3), array(3, 3)


def cond(which, x, *branches):
    """A choice that JAX has not made itself while tracing."""
    return lax.switch(which, branches, x)


@pytest.mark.parametrize("which", [0, 1, 2, -1, 7, True, False])
def test_the_branch_that_is_taken(which) -> None:
    branches = (lambda x: x @ W, lambda x: jnp.sin(x) * 2.0, lambda x: x)

    def fn(x):
        if isinstance(which, bool):
            return lax.cond(lax.full((), which), branches[0], branches[1], x)
        return lax.switch(lax.full((), which, "int32"), branches, x)

    new = assert_applies(CLEANUP_RULES, fn, X)
    assert not new.find("cond")
    assert len(new.nodes) <= 2


def test_several_results_and_numbers_as_operands() -> None:
    def fn(x):
        def one(x, n):
            return x + n, (n * 2, x.sum())

        return lax.cond(lax.full((), True), one, lambda x, n: (x, (n, 0.0)), x, 3)

    new = assert_applies(CLEANUP_RULES, fn, X, gradients=False)
    assert not new.find("cond")
    assert [v.dtype for v in new.outputs] == [v.dtype for v in trace(fn)(X).outputs]


def test_a_choice_inside_a_loop() -> None:
    def fn(x):
        def step(h, _):
            return lax.cond(lax.full((), False), lambda h: h + 1, lambda h: h @ W, h), None

        return lax.scan(step, x, None, 2)[0]

    new = assert_applies(CLEANUP_RULES, fn, X)
    assert new.count() == {"scan": 1, "dot_general": 1}


def test_a_body_that_was_changed_is_the_one_that_is_taken() -> None:
    def fn(x):
        return lax.cond(lax.full((), True), lambda x: jnp.sin(x), lambda x: x, x)

    graph = trace(fn)(X)
    for f in (jnp.cos, jnp.tanh):
        with graph.edit() as editor:
            for node in graph.find("sin"):
                editor.replace(node, f)
        np.testing.assert_array_equal(rewrite(editor.graph, CLEANUP_RULES)(X), f(X))


def test_what_data_chooses_and_what_prints_stays() -> None:
    assert_refuses(KNOWN_BRANCH, lambda x: lax.cond(x[0, 0] > 0, jnp.sin, jnp.cos, x), X)

    def prints(x):
        def noisy(x):
            jax.debug.print("x")
            return x

        return lax.cond(lax.full((), False), noisy, lambda x: 2 * x, x)

    graph = inline(trace(prints)(X))
    assert rewrite(graph, KNOWN_BRANCH).find("cond")


def test_a_loop_over_nothing() -> None:
    def fn(x):
        return lax.scan(lambda c, w: (c @ w, (c, c.sum())), x, jnp.zeros((0, 3, 3)))

    new = assert_applies(NO_ROUNDS, fn, X, times=1)
    assert not new.find("scan")
    assert [v.shape for v in new.outputs] == [(2, 3), (0, 2, 3), (0,)]
    carried = lambda x: lax.scan(lambda c, _: (c * x, None), 2 * x, None, 0)[0]  # noqa: E731
    assert_applies(NO_ROUNDS, carried, X, times=1)
    assert_applies(
        NO_ROUNDS, lambda x: (x, lax.scan(lambda c, _: (c + 1, None), 3, None, 0)[0]), X, times=1,
        gradients=False,
    )  # fmt: skip
    assert_refuses(NO_ROUNDS, lambda x: lax.scan(lambda c, _: (c @ W, None), x, None, 1)[0], X)
