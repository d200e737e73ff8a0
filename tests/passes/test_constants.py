"""Folding constants: what depends on weights alone is the prologue's, and nothing else is."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from work import assert_linear

from helpers import array, assert_close
from jaxpress.capture import trace
from jaxpress.passes import inline
from jaxpress.passes.constants import fold_constants

W, B = array(3, 4), array(4, seed=2)
X = array(2, 3)


def fold(fn, *args, weights=()):
    """The folded graph, which is valid, settled, and computes the same."""
    graph = inline(trace(fn)(*args))
    marked = frozenset(graph.inputs[i] for i in weights)
    new = fold_constants(graph.with_parts(weight_inputs=marked)).validate()
    assert_close(new(*args), fn(*args), 1e-6)
    assert_close(jax.jit(new)(*args), fn(*args), 1e-6)
    again = fold_constants(new)
    assert again.count() == new.count()
    return new


def prologue_ops(graph):
    return [] if graph.prologue is None else [n.op for n in graph.prologue.nodes]


def test_what_depends_on_closed_over_arrays_moves() -> None:
    new = fold(lambda x: x @ (W * 2.0) + jnp.exp(B), X)
    assert sorted(prologue_ops(new)) == ["broadcast_in_dim", "exp", "mul"]
    assert sorted(new.count()) == ["add", "dot_general"]
    assert len(new.prepared) == 2 and new.constants == ()


def test_declared_weights_are_known() -> None:
    def fn(w, x):
        return x @ (w * 2.0)

    assert prologue_ops(fold(fn, W, X)) == []
    assert prologue_ops(fold(fn, W, X, weights=(0,))) == ["mul"]


def test_what_depends_on_data_stays() -> None:
    def fn(w, x):
        return x * (w.sum() + x.sum()), w.sum() * 3

    new = fold(fn, W, X, weights=(0,))
    assert new.count()["reduce_sum"] == 1 and prologue_ops(new).count("reduce_sum") >= 1


def test_a_result_that_is_known_is_prepared() -> None:
    new = fold(lambda x: (x, jnp.sin(W)), X)
    assert prologue_ops(new) == ["sin"] and new.outputs[1] in new.prepared


def test_nothing_known_gives_the_same_graph() -> None:
    graph = trace(lambda w, x: x @ w)(W, X)
    assert fold_constants(graph) is graph
    graph = trace(lambda x: x @ W)(X)
    assert fold_constants(graph) is graph


def test_what_only_spreads_weights_stays_with_its_users() -> None:
    new = fold(lambda x: x + jnp.broadcast_to(jnp.exp(B), (2, 1000, 4)), array(2, 1000, 4))
    assert prologue_ops(new) == ["exp"]
    assert new.count()["broadcast_in_dim"] >= 1
    assert all(np.prod(v.shape) <= 4 for v in new.prepared)


def test_another_shape_of_a_weight_is_kept_unless_it_is_a_large_copy() -> None:
    for rows, moves in ((100, True), (100_000, False)):
        w = jnp.ones((rows, 4))
        new = fold(lambda x, w=w, n=rows: x @ w.reshape(2 * n, 2), array(1, 2 * rows))
        assert prologue_ops(new) == ["reshape"] * moves


def test_what_grows_large_stays() -> None:
    def fn(x):
        return x + jnp.exp(B)[:, None] * jnp.arange(100_000.0)[None]

    new = fold(fn, jnp.float32(1.0))
    assert all(np.prod(v.shape) <= 100_000 for v in new.prepared)
    small = fold_constants(inline(trace(fn)(jnp.float32(1.0))), max_growth=1 << 30)
    assert any(np.prod(v.shape) == 400_000 for v in small.prepared)


def test_effects_never_move(capfd) -> None:
    def fn(x):
        jax.debug.print("w={}", W[0, 0])
        return x @ (W * 2)

    graph = fold_constants(inline(trace(fn)(X))).validate()
    assert graph.prologue is not None
    for _ in range(2):
        jax.block_until_ready(jax.jit(graph)(X))
    jax.effects_barrier()
    assert capfd.readouterr().out.count("w=") == 2


def test_a_second_round_adds_to_the_prologue() -> None:
    first = fold_constants(inline(trace(lambda x: x @ (W * 2.0))(X)))
    with first.edit() as editor:
        (dot,) = first.find("dot_general")
        editor.replace(dot, lambda x, w: x @ jnp.sin(w))
    second = fold_constants(editor.graph).validate()
    assert prologue_ops(second) == ["mul", "sin"] and len(second.prepared) == 1
    assert_close(second(X), X @ jnp.sin(W * 2.0), 1e-6)


def test_random_draws_from_a_known_key_are_the_same_numbers() -> None:
    key = jax.random.key(3)
    fold(lambda x: x + jax.random.normal(key, x.shape) + jax.random.normal(key, x.shape), X)


def test_loops_and_branches_over_weights_move_whole() -> None:
    def fn(x):
        power = lax.fori_loop(0, 3, lambda _, w: w @ w.T @ w / 10, W)
        return x @ lax.cond(B.sum() > 0, lambda w: w, lambda w: -w, power)

    new = fold(fn, X)
    assert {"scan", "cond"} <= set(prologue_ops(new)) or {"while", "cond"} <= set(prologue_ops(new))
    assert set(new.count()) == {"dot_general"}


def test_integer_weights_and_tables() -> None:
    table = np.arange(12).reshape(3, 4)
    new = fold(lambda x: (x, jnp.cumsum(table, 0)[1] * 2), X)
    assert new.prologue is not None


def test_a_function_of_weights_alone() -> None:
    new = fold(lambda: (jnp.sin(W), B))
    assert prologue_ops(new) == ["sin"] and new.count() == {}
    new = fold(lambda w: w.sum(), W, weights=(0,))
    assert new.count() == {}


def test_gradients_go_through_the_prologue() -> None:
    def fn(w, x):
        return jnp.tanh(x @ (w * 2.0)).sum()

    graph = trace(fn)(W, X)
    new = fold_constants(graph.with_parts(weight_inputs=frozenset(graph.inputs[:1])))
    assert new.prologue is not None
    assert_close(jax.grad(new, (0, 1))(W, X), jax.grad(fn, (0, 1))(W, X))
    ws = jnp.stack([W, 2 * W])
    assert_close(jax.vmap(new, (0, None))(ws, X), jax.vmap(fn, (0, None))(ws, X))


def test_weights_of_zero_size() -> None:
    empty = jnp.zeros((0, 4))
    fold(lambda x: jnp.concatenate([x @ W, empty * 2]), X)


def test_the_cost_grows_linearly() -> None:
    def graph_of(n):
        def fn(x):
            for i in range(n):
                x = x * jnp.exp(B * float(i))
            return x

        return trace(fn)(B)

    assert_linear(fold_constants, graph_of(50), graph_of(400), 8)
