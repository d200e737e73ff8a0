"""Inlining, dead code and common subexpressions: less of it, and never another function."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from helpers import array, assert_close, rewritten
from jaxpress import passes
from jaxpress.capture import Literal, trace
from jaxpress.passes.cleanup import eliminate_common_subexpressions as cse
from jaxpress.passes.cleanup import eliminate_dead_code as dce
from jaxpress.passes.cleanup import inline

X = array(2, 3)


def ops(graph):
    return [node.op for node in graph.nodes]


def same(fn, pass_, *args):
    """The graph after the pass, which computes the same to the bit and is valid."""
    graph = pass_(trace(fn)(*args)).validate()
    want, got = (jax.tree.leaves(f(*args)) for f in (fn, graph))
    for a, b in zip(want, got, strict=True):
        assert jax.typeof(a) == jax.typeof(b)
        np.testing.assert_array_equal(a, b)
    again = pass_(graph)
    assert ops(again) == ops(graph)
    return graph


# inline


def test_calls_are_spelled_out_at_all_depths() -> None:
    fn = jax.jit(lambda x: jax.jit(lambda y: jnp.sin(y) * 2)(x) + 1)
    assert ops(same(fn, inline, X)) == ["sin", "mul", "add"]
    graph = same(lambda x: lax.fori_loop(0, 2, lambda _, y: fn(y), x), inline, X)
    assert not graph.find("jit") and graph.count()["sin"] == 1


def test_inlined_nodes_keep_line_scope_and_origin() -> None:
    @jax.jit
    def inner(x):
        with jax.named_scope("inside"):
            return jnp.sin(x)

    def fn(x):
        with jax.named_scope("outside"):
            return inner(x)

    (node,) = same(fn, inline, X).nodes
    assert node.scope == "outside/jit(inner)/inside" or node.scope.startswith("outside")
    assert node.scope.endswith("inside")
    assert node.source.function.endswith("inner")
    assert [n.op for n in node.origin] == ["sin"]


def test_a_body_used_twice_is_copied_with_values_of_its_own() -> None:
    inner = jax.jit(lambda x: jnp.sin(x) + 1)
    graph = same(lambda x: inner(inner(x)) * inner(x), inline, X)
    assert graph.count() == {"sin": 3, "add": 3, "mul": 1}
    names = [v.name for n in graph.nodes for v in n.outputs]
    assert len(set(names)) == len(names)


def test_literals_inputs_and_constants_as_results_of_a_call() -> None:
    table = jnp.arange(3.0)

    def fn(x):
        a, b, c, d = jax.jit(lambda y: (y, 2.0, table, y + table))(x)
        return a, b, c, d

    graph = same(fn, inline, X)
    assert graph.count()["add"] == 1 and len(graph.constants) == 1
    assert graph.outputs[0] is graph.inputs[0] and graph.outputs[2] is graph.constants[0]
    assert isinstance(graph.outputs[1], Literal)


def test_an_array_that_two_calls_close_over_is_one_constant() -> None:
    table = np.arange(3.0, dtype=np.float32)

    def fn(x):
        return jax.jit(lambda y: y * table)(x) + jax.jit(lambda y: y - table)(x)

    assert len(same(fn, inline, X).constants) == 1


@pytest.mark.parametrize("what", ["donate_argnums", "in_shardings", "out_shardings"])
def test_a_call_that_asks_for_something_stays(what) -> None:
    sharding = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    options = {what: 0 if what == "donate_argnums" else sharding}
    fn = jax.jit(lambda x: jnp.sin(x) * 2, **options)
    assert ops(inline(trace(lambda x: fn(x) + 1)(X))) == ["jit", "add"]


def test_custom_derivatives_and_remat_stay() -> None:
    @jax.custom_vjp
    def clipped(x):
        return x * 1

    clipped.defvjp(lambda x: (x * 1, None), lambda _, g: (jnp.clip(g, -1, 1),))
    graph = inline(trace(lambda x: jax.checkpoint(clipped)(jax.nn.relu(x)))(X))
    assert ops(graph) == ["custom_jvp_call", "remat2"] or "checkpoint" in ops(graph)
    assert graph.find("custom_vjp_call")
    want, got = (
        jax.grad(lambda x, f=f: (f(x) * 5).sum())(X)
        for f in (lambda x: clipped(jax.nn.relu(x)), graph)
    )
    np.testing.assert_array_equal(want, got)


def test_effects_inside_calls_keep_their_order(capfd) -> None:
    @jax.jit
    def inner(x):
        jax.debug.print("inner {}", x, ordered=True)
        return x + 1

    def fn(x):
        y = inner(x)
        jax.debug.print("outer {}", y, ordered=True)
        return inner(y)

    graph = inline(trace(fn)(1.0))
    jax.block_until_ready(jax.jit(graph)(1.0))
    jax.effects_barrier()
    assert capfd.readouterr().out.split("\n")[:3] == ["inner 1.0", "outer 2.0", "inner 2.0"]


def test_calls_nested_deep() -> None:
    def nest(depth):
        if depth == 0:
            return jnp.sin
        inner = nest(depth - 1)
        return jax.jit(lambda x: inner(x))

    assert ops(inline(trace(nest(40))(X))) == ["sin"]


# dead code


def test_what_nothing_needs_is_left_out() -> None:
    def fn(x, unused):
        jnp.cos(x)
        return jnp.sin(x)

    graph = same(fn, dce, X, X)
    assert ops(graph) == ["sin"] and len(graph.inputs) == 2


def test_nothing_dead_gives_the_same_graph() -> None:
    graph = trace(jnp.sin)(X)
    assert dce(graph) is graph


def test_chains_and_constants_go_too() -> None:
    table = jnp.arange(3.0)

    def fn(x):
        jnp.exp(jnp.cos(x * table))
        return x

    graph = same(fn, dce, X)
    assert ops(graph) == [] and graph.constants == ()


def test_a_node_with_one_needed_result_stays() -> None:
    graph = same(lambda x: lax.top_k(x, 2)[1], dce, X)
    assert "top_k" in ops(graph)


def test_effects_are_never_dead(capfd) -> None:
    def fn(x):
        y = jnp.sin(x)
        jax.debug.print("y={}", y[0, 0])
        ref = jax.new_ref(x)
        ref[0, 0] = 7.0
        return x

    graph = dce(trace(fn)(X))
    assert {"sin", "debug_print"} <= set(ops(graph)) or "debug_callback" in ops(graph)
    jax.block_until_ready(jax.jit(graph)(X))
    jax.effects_barrier()
    assert capfd.readouterr().out.startswith("y=")


def test_writes_to_references_stay() -> None:
    def fn(x):
        ref = jax.new_ref(x)
        ref[...] = x * 2
        ref[0] += 1.0
        return ref[...]

    same(fn, dce, X)
    same(fn, passes.cleanup, X)


# common subexpressions


def test_equal_nodes_are_one() -> None:
    graph = same(lambda x: jnp.sin(x) * 2 + jnp.sin(x) * 2, cse, X)
    assert ops(graph) == ["sin", "mul", "add"]


def test_parameters_types_and_operands_tell_nodes_apart() -> None:
    def fn(x, i):
        return (
            jnp.sum(x, 0), jnp.sum(x, 0), x.astype("float16"), x.astype("bfloat16"),
            x * 2.0, x * 2.5, i * 2, i * 3, i * True, lax.integer_pow(x, 2), lax.integer_pow(x, 3),
        )  # fmt: skip

    graph = same(fn, cse, X, jnp.arange(3))
    assert graph.count()["reduce_sum"] == 1
    assert graph.count()["convert_element_type"] >= 2
    assert graph.count()["mul"] >= 4 and graph.count()["integer_pow"] == 2


def test_the_two_zeros_are_two() -> None:
    graph = same(lambda x: (lax.div(x, 0.0), lax.div(x, -0.0)), cse, jnp.float32(1.0))
    assert graph.count()["div"] == 2


def test_weak_and_strong_results_are_two() -> None:
    graph = cse(trace(lambda x: (x * 2, jnp.float32(x) * 2))(1.0))
    assert [v.aval.weak_type for v in graph.outputs] == [True, False]


def test_outputs_that_become_one_value() -> None:
    graph = same(lambda x: (jnp.sin(x), jnp.sin(x), x), cse, X)
    assert graph.outputs[0] is graph.outputs[1]


def test_random_draws_are_never_merged() -> None:
    def fn(key):
        return jax.random.normal(key, (3,)) + jax.random.normal(key, (3,))

    for key in (jax.random.key(0), jax.random.PRNGKey(0)):
        graph = inline(trace(fn)(key))
        before, after = (
            sum(n for op, n in g.count().items() if "random" in op or "threefry" in op)
            for g in (graph, cse(graph))
        )
        assert before == after > 0
        same(fn, lambda g: cse(inline(g)), key)


def test_effects_are_never_merged(capfd) -> None:
    def fn(x):
        jax.debug.print("{}", x)
        jax.debug.print("{}", x)
        return x

    jax.block_until_ready(jax.jit(cse(trace(fn)(1.0)))(1.0))
    jax.effects_barrier()
    assert capfd.readouterr().out == "1.0\n1.0\n"


def test_reads_of_a_reference_around_a_write_are_two() -> None:
    def fn(x):
        ref = jax.new_ref(x)
        a = ref[...]
        ref[...] = a * 2
        return a, ref[...]

    same(fn, cse, X)


def test_barriers_are_never_merged() -> None:
    def fn(x):
        return lax.optimization_barrier(x) + jnp.sin(lax.optimization_barrier(x))

    assert cse(trace(fn)(X)).count()["optimization_barrier"] == 2


def test_nodes_with_bodies_are_left_alone() -> None:
    def fn(x):
        return jax.checkpoint(jnp.sin)(x) + jax.checkpoint(jnp.sin)(x)

    assert len(cse(trace(fn)(X)).nodes) == 3


def test_unhashable_parameters_are_left_alone() -> None:
    def fn(x):
        shape = jax.ShapeDtypeStruct(x.shape, x.dtype)
        return jax.pure_callback(np.sin, shape, x) + jax.pure_callback(np.sin, shape, x)

    graph = cse(trace(fn)(X))
    assert_close(graph(X), 2 * jnp.sin(X))


def test_scalars_written_in_the_program_are_compared_by_value() -> None:
    graph = same(
        lambda x: lax.add(lax.sin(x), 1.0) * lax.add(lax.sin(x), 1.0), cse, jnp.float32(1.0)
    )
    assert graph.count() == {"sin": 1, "add": 1, "mul": 1}
    assert any(isinstance(v, Literal) for n in graph.nodes for v in n.inputs)


def test_the_preset_does_all_of_it() -> None:
    def fn(x):
        y = jax.jit(lambda z: -lax.neg(jnp.sin(z).reshape(6).reshape(2, 3)))(x)
        return y * 1.0 + jnp.sin(x)

    new, _ = rewritten(passes.cleanup, fn, X)
    assert new.count() == {"sin": 1, "add": 1}


def test_bodies_of_loops_and_branches_are_tidied_too() -> None:
    def fn(x, p):
        def step(h, w):
            unused = jnp.exp(h @ w).sum()  # noqa: F841
            return jnp.sin(h) + jnp.sin(h) * w[0], jnp.cos(h)

        h, _ = jax.lax.scan(step, x, jnp.ones((3, 4, 4)))
        return jax.lax.cond(p, lambda h: jnp.tanh(h) * jnp.tanh(h), lambda h: h, h)

    x = jnp.arange(8.0).reshape(2, 4)
    graph = inline(trace(fn)(x, True))
    new = dce(cse(graph)).validate()
    assert "exp" not in new.count() and "dot_general" not in new.count()
    assert new.count()["sin"] == new.count()["tanh"] == 1
    for p in (True, False):
        np.testing.assert_array_equal(jax.jit(new)(x, p), jax.jit(graph)(x, p))
    again = dce(cse(new))
    assert again is new


def test_the_body_of_a_custom_derivative_stays_as_it_is() -> None:
    @jax.custom_jvp
    def f(x):
        return jnp.sin(x) + jnp.sin(x)

    f.defjvp(lambda p, t: (f(*p), t[0]))
    graph = trace(lambda x: f(x))(1.0)
    assert cse(graph) is graph
    assert dce(graph) is graph


def test_effects_in_bodies_stay(capfd) -> None:
    def fn(x):
        def step(h, _):
            jax.debug.print("h={}", h.sum())
            return h * 2, None

        return jax.lax.scan(step, x, None, 3)[0]

    new = dce(inline(trace(fn)(jnp.ones(2))))
    jax.block_until_ready(jax.jit(new)(jnp.ones(2)))
    jax.effects_barrier()
    assert capfd.readouterr().out.count("h=") == 3
