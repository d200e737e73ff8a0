"""What a graph costs: operations, bytes, parameters, what is alive; totals are sums."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax import export, lax
from jax.sharding import AbstractMesh, AxisType
from jax.sharding import PartitionSpec as P
from programs import PROGRAMS, f32, fn_of_depth

from jaxpress import nnops
from jaxpress.capture import Graph, Node, Value, compat, trace
from jaxpress.capture.cost import amount, graph_cost


def flops(fn: Any, *args: Any) -> int:
    return trace(fn)(*args).cost().flops


def test_a_while_counts_as_one_turn_and_says_so() -> None:
    def fn(x):
        return lax.while_loop(lambda y: y.sum() < 9, lambda y: y * 2, x)

    cost = trace(fn)(f32(5)).cost()
    assert cost.flops == 5 + 1 + 5
    assert cost.notes == ("a while loop counts as one turn",)
    assert "(a while loop counts as one turn)" in str(cost)


def test_a_linear_solve_counts_its_solve_alone() -> None:
    def fn(a, b):
        return lax.custom_linear_solve(
            lambda v: a @ v, b, lambda _, b: b / 2, transpose_solve=lambda _, b: b * b * b
        )

    assert flops(fn, f32(3, 3), f32(3)) == 3


def test_what_cannot_be_counted_is_told() -> None:
    spec = jax.ShapeDtypeStruct((3,), jnp.float32)
    cost = trace(lambda x: jax.pure_callback(lambda v: v, spec, x) * 2)(f32(3)).cost()
    assert cost.flops == 3
    assert cost.notes == ("not counted: pure_callback",)
    exported = export.export(jax.jit(jnp.sin))(f32(3))
    assert trace(exported.call)(f32(3)).cost().notes == ("not counted: call_exported",)


def test_symbolic_sizes_count_as_one() -> None:
    (n,) = export.symbolic_shape("n")

    def fn(x):
        total = lax.scan(lambda c, row: (c + row, None), jnp.zeros(4), x)[0]
        return (
            (x @ x.T).sum() + total.sum() + jax.nn.softmax(x).reshape(-1).sum() + jnp.sort(x)[0, 0]
        )

    cost = trace(fn)(jax.ShapeDtypeStruct((n, 4), jnp.float32)).cost()
    assert "a symbolic dimension counts as 1" in cost.notes
    assert cost.flops > 0 and cost.peak_live_bytes > 0


def test_a_shard_map_counts_all_devices() -> None:
    mesh = AbstractMesh((4, 2), ("x", "y"), axis_types=(AxisType.Auto,) * 2)
    spec = {"mesh": mesh, "in_specs": P("x"), "out_specs": P("x")}
    whole = jax.shard_map(jnp.sin, **spec)
    partly = jax.shard_map(jnp.sin, axis_names={"x"}, **spec)
    x = jax.ShapeDtypeStruct((8,), jnp.float32)
    assert flops(whole, x) == 16  # the second axis computes the same twice
    assert flops(jax.jit(partly), x) == 8


@pytest.mark.parametrize("activation", [None, "relu"])
def test_named_ops_cost_what_their_reference_costs(activation: str | None) -> None:
    x, w, b = f32(1, 8, 8, 4), f32(3, 3, 4, 8), f32(8)
    cost = trace(lambda x: nnops.conv(x, w, b, activation=activation))(x).cost()
    expected = 2 * 8 * 8 * 8 * 9 * 4 + 8 * 8 * 8 * (1 if activation is None else 2)
    assert cost.flops == cost.flops_by_op["conv"] == expected
    assert cost.bytes_read == 4 * (x.size + w.size + b.size)
    assert cost.bytes_written == 4 * 8 * 8 * 8
    assert cost.parameter_bytes == 4 * (w.size + b.size)
    assert not cost.notes


def test_a_named_op_costs_the_same_with_every_kernel() -> None:
    x, w = f32(1, 8, 8, 4), f32(3, 3, 1, 4)
    graph = trace(lambda x: nnops.conv(x, w, groups=4))(x)
    (node,) = graph.nodes
    kernels = nnops.registry()["conv"].fitting_kernels(node.inputs, node.params)
    assert len(kernels) > 1
    costs = set()
    for kernel in kernels:
        primitive, params = node.primitive, {**node.params, "kernel": kernel}
        chosen = trace(lambda x, p=primitive, k=params: p.bind(x, w, **k))(x)
        costs.add(chosen.cost().flops)
    assert len(costs) == 1


def test_a_primitive_from_outside_is_looked_into_if_it_can_be() -> None:
    def primitive(name: str, impl: Any) -> Any:
        made = compat.Primitive(name)
        made.def_impl(impl)
        made.def_abstract_eval(lambda x: jax.core.ShapedArray((), x.dtype))
        return made

    traceable = primitive("mine", lambda x: (x * 2).sum())
    assert flops(lambda x: traceable.bind(x), f32(5)) == 10

    def fails(x):
        raise RuntimeError("not under a trace")

    opaque = primitive("theirs", fails)
    assert trace(lambda x: opaque.bind(x))(f32(5)).cost().notes == ("not counted: theirs",)


# Bytes.


def test_bytes_read_and_written() -> None:
    cost = trace(lambda x: (x * x, x.astype(jnp.int8)))(f32(10)).cost()
    assert (cost.bytes_read, cost.bytes_written) == (40 + 40, 40 + 10)
    # A slice reads what it picks.
    cost = trace(lambda x: lax.slice(x, (2,), (4,)))(f32(10)).cost()
    assert (cost.bytes_read, cost.bytes_written) == (8, 8)
    # Keys and references have sizes of their own.
    cost = trace(lambda k: jax.random.split(k, 3))(jax.random.key(0)).cost()
    assert (cost.bytes_read, cost.bytes_written) == (8, 24)


def test_parameters_are_constants_and_weights_each_once() -> None:
    w, v = f32(10), f32(7)

    def fn(p, x):
        return jax.jit(lambda y: y * w)(x) + jax.jit(lambda y: y + w)(x) + x[0] * v.sum() + p

    graph = trace(fn)(f32(1), f32(10))
    assert graph.cost().parameter_bytes == 4 * (10 + 7)
    graph = graph.with_parts(weight_inputs=frozenset(graph.inputs[:1]))
    assert graph.cost().parameter_bytes == 4 * (10 + 7 + 1)


def test_the_prologue_is_counted_apart() -> None:
    graph = trace(lambda w, x: (w * 2) + x)(f32(10), f32(10))
    mul, add = graph.nodes
    prologue = Graph("prologue", graph.inputs[:1], (mul,), mul.outputs)
    cost = graph.with_parts(nodes=(add,), prologue=prologue).cost()
    assert cost.flops == 10
    assert cost.prologue is not None and cost.prologue.flops == 10
    assert cost.peak_live_bytes == 4 * 40  # two inputs, what is prepared, the result


def test_peak_live_bytes() -> None:
    kb = f32(256)  # 1 kB each

    def chain(x):
        for _ in range(10):
            x = jnp.sin(x)
        return x

    # The input, one intermediate and the next.
    assert trace(chain)(kb).cost().peak_live_bytes == 3 * 1024
    assert trace(lambda x: [jnp.sin(x), jnp.cos(x)])(kb).cost().peak_live_bytes == 3 * 1024
    # All of them are alive until they are joined.
    assert trace(lambda x: sum([x + i for i in range(4)]))(kb).cost().peak_live_bytes >= 5 * 1024
    # What lives inside a body lives while it runs.
    inside = trace(lambda x: jax.jit(lambda y: (jnp.outer(y, y) @ y).sum())(x))(kb).cost()
    assert inside.peak_live_bytes >= 256 * 1024 + 2 * 1024
    assert trace(lambda x: x)(kb).cost().peak_live_bytes == 1024


# The whole.


@pytest.mark.parametrize("name", PROGRAMS)
def test_totals_are_sums(name: str) -> None:
    fn, args = PROGRAMS[name]()
    graph = trace(fn)(*args)
    cost = graph_cost(graph)
    assert list(cost.per_node) == list(graph.nodes)
    for field in ("flops", "bytes_read", "bytes_written"):
        assert getattr(cost, field) == sum(getattr(c, field) for c in cost.per_node.values())
    assert cost.flops == sum(cost.flops_by_op.values())
    assert set(cost.flops_by_op) <= set(graph.count())
    # Only what calls into Python cannot be counted.
    assert not any("not counted" in n for n in cost.notes) or name == "printing"


def test_a_body_run_many_times_is_counted_as_often() -> None:
    cost = trace(fn_of_depth(40))(f32(3)).cost()
    assert cost.flops == cost.flops_by_op["cos"] == 3 * 2**40


def test_the_cost_of_a_large_graph() -> None:
    (node,) = trace(lax.sin)(f32(3)).nodes
    x = Value("x", node.inputs[0].aval)
    values, nodes = [x], []
    for i in range(100_000):
        values.append(Value(f"sin_{i}", x.aval))
        made = Node(
            node.primitive,
            (values[-2],),
            (values[-1],),
            node.params,
            ctx=node.ctx,
            source_info=node.source_info,
        )
        nodes.append(made)
    cost = Graph("chain", (x,), nodes, values[-1:]).cost()
    assert (cost.flops, cost.peak_live_bytes) == (300_000, 36)


@given(st.integers(0, 10**18))
def test_amounts_are_short(n: int) -> None:
    text = amount(n)
    assert len(text) <= 8
    digits, _, unit = text.partition(" ")
    assert math.isclose(float(digits) * 1000 ** " kMGTP".index(unit or " "), n, rel_tol=6e-3)
