"""Functions traced into pieces of graph; calls spelled out."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from programs import PROGRAMS, f32, fn_of_depth

from jaxpress.capture import Graph, trace
from jaxpress.capture.template import inline_calls, template_of


@pytest.mark.parametrize("name", PROGRAMS)
def test_inlining_changes_nothing_but_the_calls(name: str) -> None:
    fn, args = PROGRAMS[name]()
    graph = trace(fn)(*args)
    inlined = inline_calls(graph).validate()
    left = [n for n in inlined.nodes if n.op in ("jit", "closed_call")]
    assert all(any(n.params.get("donated_invars", ())) for n in left)
    assert inlined.inputs == graph.inputs and inlined.signature is graph.signature
    assert [v.aval for v in inlined.outputs] == [v.aval for v in graph.outputs]
    names = [v.name for n in inlined.nodes for v in n.outputs]
    names += [v.name for v in (*inlined.inputs, *inlined.constants)]
    assert len(set(names)) == len(names)
    assert inline_calls(inlined).nodes == inlined.nodes or left
    # Everything else is there as before, and in the same order.
    flat = [n.op for n in spelled_out(graph)]
    assert [n.op for n in inlined.nodes] == flat


def spelled_out(graph: Graph) -> list[Any]:
    nodes = []
    for node in graph.nodes:
        plain = node.op == "jit" and not any(node.params["donated_invars"])
        nodes.extend(spelled_out(node.subgraphs[0]) if plain else [node])
    return nodes


@pytest.mark.parametrize("name", ["shared_jit", "deep_jit", "named_scopes", "indexing", "mapped"])
def test_inlined_graphs_compute_the_same(name: str) -> None:
    fn, args = PROGRAMS[name]()
    inlined = inline_calls(trace(fn)(*args))
    want, got = jax.jit(fn)(*args), jax.jit(inlined)(*args)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), want, got)


def test_arrays_of_inner_calls_become_constants_once() -> None:
    w = f32(3)
    calls = [jax.jit(lambda x, k=k: x * w + k) for k in range(3)]
    graph = trace(lambda x: calls[0](x) + calls[1](x) + calls[2](x) * w)(f32(3))
    inlined = inline_calls(graph)
    assert len(inlined.constants) == 1
    assert inlined.constant_value(inlined.constants[0]) is w


def test_inlined_nodes_keep_scope_source_and_origin() -> None:
    def fn(x):
        with jax.named_scope("outer"):
            return jax.jit(named)(x)

    def named(x):
        with jax.named_scope("inner"):
            return jnp.sin(x)

    graph = trace(fn)(1.0)
    (node,) = inline_calls(graph).nodes
    (original,) = graph.find("sin")
    assert node.scope == "outer/inner"
    assert node.source == original.source
    assert node.origin == (original,)
    assert str(inline_calls(graph).to_jaxpr().jaxpr.eqns[0].source_info.name_stack) == "outer/inner"


def test_what_is_inside_of_a_function_of_jax_is_on_the_line_that_called_it() -> None:
    def fn(x: Any) -> Any:
        y = jnp.cumsum(x, 0)
        return jnp.var(y)

    lines = [node.source.line for node in inline_calls(trace(fn)(f32(3, 4))).nodes]
    first = fn.__code__.co_firstlineno
    assert lines == sorted(lines) and set(lines) == {first + 1, first + 2}


def test_results_of_calls_may_be_inputs_literals_and_constants() -> None:
    w = f32(3)
    call = jax.jit(lambda x, y: (y, x, 2.0, w))
    inlined = inline_calls(trace(lambda x, y: (call(x, y), call(y, x)))(1.0, 2.0))
    assert not inlined.nodes
    want = ((2.0, 1.0, 2.0), (1.0, 2.0, 2.0))
    assert tuple(tuple(map(float, out[:3])) for out in inlined(1.0, 2.0)) == want


def test_calls_that_ask_for_something_stay() -> None:
    donating = jax.jit(jnp.sin, donate_argnums=0)
    placed = jax.jit(jnp.cos, out_shardings=jax.sharding.SingleDeviceSharding(jax.devices()[0]))
    graph = trace(lambda x: jax.jit(lambda y: donating(y) + placed(y))(x))(f32(3))
    inlined = inline_calls(graph)
    assert [n.op for n in inlined.nodes] == ["jit", "jit", "add"]


def test_calls_nested_beyond_the_recursion_limit() -> None:
    graph = trace(fn_of_depth(9))(1.0)
    assert [n.op for n in inline_calls(graph).nodes] == ["cos"] * 2**9


def test_traces_are_shared_by_function_types_and_context() -> None:
    def double(x):
        return x * 2

    aval = jax.typeof(f32(3))
    first = template_of(double, (aval,), None, True)
    assert template_of(double, (aval,), None, True) is first
    assert template_of(double, (jax.typeof(f32(4)),), None, True) is not first
    assert template_of(double, (aval,), None, False) is not first
    weak = jax.typeof(2.0)
    assert template_of(double, (weak,), None, True).graph.outputs[0].aval.weak_type
    strong = template_of(double, (jax.typeof(jnp.float32(2)),), None, True)
    assert not strong.graph.outputs[0].aval.weak_type
    with jax.enable_x64(True):
        assert template_of(double, (aval,), None, True) is not first


def test_a_key_tells_apart_functions_of_the_same_code() -> None:
    aval = jax.typeof(1.0)

    def scaled(k):
        return template_of(lambda x: x * k, (aval,), ("scaled", k), True)

    assert scaled(2.0) is scaled(2.0)
    assert scaled(2.0) is not scaled(3.0)
    assert [float(scaled(k).graph(1.0)[0]) for k in (2.0, 3.0)] == [2.0, 3.0]


@settings(max_examples=25, deadline=None)
@given(st.recursive(st.sampled_from(["sin", "cos"]), lambda s: st.lists(s, min_size=1, max_size=3)))
def test_any_nesting_of_calls_is_spelled_out(shape: Any) -> None:
    def build(shape):
        if isinstance(shape, str):
            return getattr(jnp, shape)
        inner = [build(part) for part in shape]

        @jax.jit
        def call(x):
            for fn in inner:
                x = fn(x)
            return x

        return call

    def flat(shape):
        return [shape] if isinstance(shape, str) else [op for part in shape for op in flat(part)]

    assert [n.op for n in inline_calls(trace(build(shape))(1.0)).nodes] == flat(shape)
