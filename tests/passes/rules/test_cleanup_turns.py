"""Choices under a ``vmap`` that moves an axis: what was transposed before is transposed after."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from helpers import array, assert_refuses, rewritten
from jaxpress import passes
from jaxpress.capture import trace
from jaxpress.passes import RuleSet
from jaxpress.passes.rules.cleanup_turns import TURN_RULES
from jaxpress.testing import assert_equivalent, assert_rewrites

X = array(3, 4, 5)
FINITE_OR_NOT = X.at[0, 0].set(jnp.array([jnp.nan, jnp.inf, -jnp.inf, 0.0, -0.0]))
SELECT, AFTER = TURN_RULES.rules

ACTIVATIONS = {
    "elu": jax.nn.elu,
    "selu": jax.nn.selu,
    "hard_tanh": jax.nn.hard_tanh,
    "sparse_plus": jax.nn.sparse_plus,
    "leaky_relu": jax.nn.leaky_relu,
    "logsumexp": lambda x: jax.nn.logsumexp(x, -1),
}
MAPS = {
    "a later axis": lambda f: jax.vmap(f, 1, 1),
    "to the front": lambda f: jax.vmap(f, 1, 0),
    "the last axis": lambda f: jax.vmap(f, -1, -1),
    "two of them": lambda f: jax.vmap(jax.vmap(f, 1, 1), 1, 1),
    "two, apart": lambda f: jax.vmap(jax.vmap(f, 0, 0), 2, 0),
}


@pytest.mark.parametrize("name", ACTIVATIONS)
@pytest.mark.parametrize("mapped", MAPS)
def test_activations_keep_their_names(name, mapped) -> None:
    if name == "logsumexp" and mapped.startswith("two"):
        pytest.skip("one axis is left, which goes")
    fn = MAPS[mapped](ACTIVATIONS[name])
    first = passes.default.passes[:4]
    new, _ = rewritten(passes.Pipeline(first), fn, FINITE_OR_NOT)
    counts = new.count()
    assert set(counts) <= {name, "transpose"} and counts[name] == 1
    np.testing.assert_allclose(new(FINITE_OR_NOT), fn(FINITE_OR_NOT), rtol=2e-6)


@pytest.mark.parametrize("name", ["selu", "logsumexp"])
def test_values_and_gradients(name) -> None:
    fn = MAPS["a later axis"](ACTIVATIONS[name])
    graph = passes.simplify(passes.inline(trace(fn)(X)))
    if name == "selu":
        assert graph.count()["transpose"] <= 1
    assert_equivalent(fn, lambda x: graph(x), FINITE_OR_NOT)


def _masked(x, p):
    return jax.lax.select_n(p.T, x.T, jnp.zeros((4, 3)))


ROWS = array(3, 4)


def test_one_choice() -> None:
    assert_rewrites(SELECT, _masked, ROWS, ROWS > 0, times=1)
    new, _ = rewritten(SELECT, _masked, ROWS, ROWS > 0)
    assert new.count()["transpose"] == 1


def test_what_follows_a_choice() -> None:
    def fn(x, p):
        chosen = jax.lax.select_n(p, x, jnp.zeros((3, 4)))
        return jnp.expm1(2.0 * chosen.T)

    new, names = rewritten(AFTER, fn, ROWS, ROWS > 0)
    assert names == ["after_turned_select"] * 2
    assert new.nodes[-1].op == "transpose"
    assert_rewrites(AFTER, fn, ROWS, ROWS > 0, times=2)


@pytest.mark.parametrize(
    "fn",
    [
        # Not all alike.
        lambda x, p: jax.lax.select_n(p.T, x.reshape(4, 3), jnp.zeros((4, 3))),
        lambda x, p: jax.lax.select_n(
            jnp.transpose(p[None], (1, 2, 0)), jnp.transpose(x[None], (1, 0, 2)).reshape(3, 4, 1),
            jnp.zeros((3, 4, 1)),
        ),
        # Nothing is won: one transpose, or an array that is not moved.
        lambda x, p: jax.lax.select_n(p.T, jnp.ones((4, 3)), jnp.zeros((4, 3))),
        lambda x, p: jnp.where(p.T, x.T, jnp.arange(3.0)),
        # No choice, or one that is needed as it is too.
        lambda x, p: jnp.expm1(x.T),
        lambda x, p: (lambda y: (jnp.expm1(y.T), y))(jnp.where(p, x, 0)),
    ],
)  # fmt: skip
def test_others_stay(fn) -> None:
    assert_refuses(RuleSet(TURN_RULES.rules), fn, ROWS, ROWS > 0)
