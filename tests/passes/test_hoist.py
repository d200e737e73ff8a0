"""Work that is the same in every round leaves the loop, and the loop computes what it did."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import jaxpress as jp
from helpers import array, assert_close, conv, positive
from jaxpress import nnops
from jaxpress.capture import trace
from jaxpress.passes import default, fold_constants, inline
from jaxpress.passes.hoist import hoist

LAYERS, N = 3, 4
X, C = array(2, N), array(N, N)
W, S = array(LAYERS, N, N), positive(LAYERS, N)


def hoisted(fn, *args, weights=()):
    """The graph after the pass: valid, settled, and the same function."""
    graph = inline(trace(fn)(*args))
    graph = graph.with_parts(weight_inputs=frozenset(graph.inputs[i] for i in weights))
    new = hoist(graph).validate()
    assert_close(jax.jit(new)(*args), jax.jit(fn)(*args), 1e-6)
    assert hoist(new) is new
    return new


def body_ops(graph, op="scan", which=0):
    (node,) = graph.find(op)
    return node.subgraphs[which].count()


def test_what_depends_on_a_scans_constants_alone() -> None:
    def fn(x, c):
        return lax.scan(lambda h, _: (jnp.tanh(h @ (c.T * 3.0)), h.sum()), x, None, LAYERS)

    new = hoisted(fn, X, C)
    assert body_ops(new) == {"dot_general": 1, "tanh": 1, "reduce_sum": 1}
    assert [n.op for n in new.nodes] == ["transpose", "mul", "scan"]
    assert new.nodes[0].source is not None and "test_hoist" in new.nodes[0].source.file
    want, got = (jax.grad(lambda c, f=f: jnp.sum(f(X, c)[0] ** 2))(C) for f in (fn, new))
    np.testing.assert_allclose(got, want, rtol=1e-5)
    many = jnp.stack([C, -C])
    assert_close(jax.vmap(new, (None, 0))(X, many), jax.vmap(fn, (None, 0))(X, many), 1e-6)


def test_rows_of_known_arrays_are_worked_on_all_at_once() -> None:
    def fn(x, w):
        def layer(h, row):
            v, s = row
            return jnp.tanh(h @ (v * s)), None

        return lax.scan(layer, x, (w, S))[0]

    # Unless w is known, each round still multiplies its row.
    assert body_ops(hoisted(fn, X, W))["mul"] == 1
    new = hoisted(fn, X, W, weights=(1,))
    assert "mul" not in body_ops(new)
    assert fold_constants(new).count()["scan"] == 1 and len(fold_constants(new).nodes) == 1
    want, got = (jax.grad(lambda w, f=f: jnp.sum(f(X, w) ** 2))(W) for f in (fn, new))
    np.testing.assert_allclose(got, want, rtol=1e-5)


def test_reverse_scans_results_for_each_row_and_no_rows_at_all() -> None:
    def fn(x):
        return lax.scan(lambda h, w: (h @ (2 * w + C), jnp.sum(w, 1)), x, W, reverse=True, unroll=2)

    new = hoisted(fn, X)
    (scan,) = new.find("scan")
    assert scan.params["reverse"] and scan.params["unroll"] == 2
    assert body_ops(new) == {"dot_general": 1}
    empty = W[:0]
    hoisted(lambda x: lax.scan(lambda h, w: (h @ (w + C), None), x, empty)[0], X)


def test_while_loops_and_their_conditions() -> None:
    def fn(x, n):
        return lax.while_loop(
            lambda c: (c[0] < n) & (jnp.sum(C * C) > 0),
            lambda c: (c[0] + 1, jnp.tanh(c[1] @ (C.T * 3.0))),
            (0, x),
        )[1]

    for n in (0, 3):  # a loop that never runs computes nothing that shows
        new = hoisted(fn, X, n)
    assert "reduce_sum" not in body_ops(new, "while", 0)
    assert "mul" not in body_ops(new, "while", 1)
    assert [n.op for n in fold_constants(new).nodes] == ["while"]


def test_what_is_carried_and_never_changes_is_a_constant() -> None:
    def fn(x):
        return lax.fori_loop(0, 3, lambda i, c: (c[0] @ (c[1] * 2.0), c[1]), (x, C))[0]

    assert "mul" not in body_ops(hoisted(fn, X), "scan" if trace(fn)(X).find("scan") else "while")

    def changing(x):
        return lax.fori_loop(0, 3, lambda i, c: (c[0] @ (c[1] * 2.0), c[1] + 1), (x, C))[0]

    graph = inline(trace(changing)(X))
    assert hoist(graph) is graph


def test_branches_and_remat_give_away_what_weights_alone_make() -> None:
    def fn(x, p, c):
        y = jax.checkpoint(lambda x: jnp.sin(x @ (c * 3.0)))(x)
        return lax.cond(p, lambda x: x @ (c * 2.0), lambda x: x @ (c @ c + 1.0), y)

    graph = inline(trace(fn)(X, True, C))
    assert hoist(graph) is graph  # data may not be computed for a branch that is not taken
    for p in (True, False):
        new = hoisted(fn, X, p, C, weights=(2,))
        want, got = (jax.grad(lambda x, f=f, p=p: f(x, p, C).sum())(X) for f in (fn, new))
        np.testing.assert_allclose(got, want, rtol=1e-5)
    assert body_ops(new, "remat2") == {"dot_general": 1, "sin": 1}
    assert body_ops(new, "cond", 0) == body_ops(new, "cond", 1) == {"dot_general": 1}
    prepared = fold_constants(new)
    assert not {"mul", "add"} & set(prepared.count())
    # The weights themselves are needed no more.
    assert prepared.inputs[2] not in {v for node in prepared.nodes for v in node.inputs}


def test_loops_in_loops() -> None:
    def fn(x):
        def outer(h, w):
            inner = lax.scan(lambda g, _: (jnp.tanh(g @ (C.T + w * 2.0)), None), h, None, 2)[0]
            return inner, None

        return lax.scan(outer, x, W)[0]

    new = hoisted(fn, X)
    (outer,) = [n for n in new.nodes if n.op == "scan"]
    assert outer.subgraphs[0].count() == {"scan": 1, "dot_general": 1, "tanh": 1}
    assert len(fold_constants(new).nodes) == 1


def test_effects_random_draws_and_barriers_stay(capfd) -> None:
    key = jax.random.key(0)

    def printing(x):
        def step(h, _):
            jax.debug.print("c={}", C[0, 0])
            return h @ (C * 2.0), None

        return lax.scan(step, x, None, 2)[0]

    graph = inline(trace(printing)(X))
    assert hoist(graph) is graph

    def drawing(x):
        return lax.scan(lambda h, _: (h + jax.random.normal(key, h.shape), None), x, None, 2)[0]

    assert "random_bits" in body_ops(hoisted(drawing, X))

    def behind_a_barrier(x):
        step = lambda h, _: (h @ lax.optimization_barrier(C), None)  # noqa: E731
        return lax.scan(step, x, None, 2)[0]

    assert body_ops(hoisted(behind_a_barrier, X))["optimization_barrier"] == 1


def test_effects_in_a_while_loop_happen_as_often_as_before(capfd) -> None:
    def fn(x):
        def step(c):
            jax.debug.print("round {}", c[0])
            return c[0] + 1, c[1] @ (C * 2.0)

        return lax.while_loop(lambda c: c[0] < 3, step, (0, x))[1]

    new = hoist(inline(trace(fn)(X))).validate()
    assert "mul" not in body_ops(new, "while", 1)
    jax.block_until_ready(jax.jit(new)(X))
    jax.effects_barrier()
    assert capfd.readouterr().out.count("round") == 3


def test_what_grows_large_and_what_is_a_number_stays() -> None:
    def numbers(x, s):
        return lax.scan(lambda h, _: (h * jnp.sqrt(s), None), x, None, 2)[0]

    graph = inline(trace(numbers)(X, 2.0))
    assert hoist(graph) is graph

    def large(x, c):
        return lax.scan(lambda h, _: ((c[:, None] * c) @ h, None), x, None, 2)[0]

    c = jnp.ones(600)
    graph = inline(trace(large)(c[:, None], c))
    assert hoist(graph) is graph
    assert "mul" not in body_ops(hoist(graph, max_growth=1 << 24))

    def small_in_the_end(x, c):
        return lax.scan(lambda h, _: ((c[:, None] * c).sum() + h, None), x, None, 2)[0]

    graph = inline(trace(small_in_the_end)(X, c))
    assert body_ops(hoist(graph)) == {"add": 1}


def test_references_are_left_alone() -> None:
    def fn(x):
        ref = jax.new_ref(x)

        def step(_, w):
            ref[...] = ref[...] @ (C * 2.0)
            return None, None

        lax.scan(step, None, W)
        return ref[...]

    graph = inline(trace(fn)(X))
    assert hoist(graph) is graph


def test_normalised_layers_in_a_scan_are_folded_for_all_layers() -> None:
    """Stacked weights, as ``flax.linen.scan`` and handwritten scans over layers have them."""
    w, b = array(LAYERS, 3, 3, N, N), array(LAYERS, N)
    mean, var = array(LAYERS, N, seed=3), positive(LAYERS, N)
    x = array(2, 5, 5, N)

    def layer(x, p):
        w, b, mean, var = p
        y = conv(x, w)
        y = (y + b - mean) * lax.rsqrt(var + 1e-5)
        return jax.nn.relu(y), None

    def closed(x):
        return lax.scan(layer, x, (w, b, mean, var))[0]

    def given(p, x):
        return lax.scan(layer, x, p)[0]

    graph = jp.optimize(closed).graph(x)
    assert graph.count() == {"scan": 1, "conv": 1}
    fast = jp.optimize(given, weight_argnums=(0,))
    params = (w, b, mean, var)
    assert fast.graph(params, x).count() == {"scan": 1, "conv": 1}
    for seed in (1.0, 2.0):
        p = jax.tree.map(lambda v, s=seed: v * s, params)
        assert_close(fast(p, x), given(p, x))
    want, got = (jax.grad(lambda p, f=f: jnp.sum(jnp.sin(f(p, x))))(params) for f in (given, fast))
    assert_close(got, want, 1e-4)
    # Weights that are data are not folded: that would be work in each round.
    assert jp.optimize(given).graph(params, x).find("conv")


@pytest.mark.parametrize("remat", [False, True])
def test_a_transformer_block_under_scan(remat) -> None:
    scale, shift = positive(LAYERS, N), array(LAYERS, N)

    def block(h, p):
        w, s, t = p
        return h + nnops.silu(nnops.dense(nnops.layer_norm(h, s, t), w)) @ C, None

    step = jax.checkpoint(block) if remat else block

    def fn(x):
        return lax.scan(step, x, (W, scale, shift))[0]

    new, report = default.run(trace(fn)(X), check=True)
    assert "fold_norm" in {r.rule for r in report.rewrites}
    assert new.prologue is not None
    assert_close(jax.jit(new)(X), fn(X))
    (norm,) = new.find("layer_norm")
    assert len(norm.inputs) == 1
    again, report = default.run(new, check=True)
    assert not report.rewrites and again.count() == new.count()
