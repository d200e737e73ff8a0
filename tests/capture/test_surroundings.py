"""Graphs inside export, other types, meshes, error checks."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export, lax
from jax.experimental import checkify
from jax.sharding import AbstractMesh, AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxprs import difference, rebuild, same_bits
from programs import PROGRAMS, f32

from jaxpress.capture import ArgumentError, trace


def test_export() -> None:
    fn, args = PROGRAMS["training_step"]()
    exported = export.export(jax.jit(trace(fn)(*args)))(*args)
    same_bits(jax.jit(fn)(*args), export.deserialize(exported.serialize()).call(*args))


def test_an_exported_function_is_captured() -> None:
    exported = export.export(jax.jit(jnp.sin))(f32(3))
    graph = trace(exported.call)(f32(3))
    assert graph.count()["call_exported"] == 1
    np.testing.assert_array_equal(rebuild(graph)(f32(3)), jnp.sin(f32(3)))


def test_symbolic_dimensions() -> None:
    (n,) = export.symbolic_shape("n")

    def fn(x):
        pooled = lax.scan(lambda c, row: (c + row, row * 2), jnp.zeros(2), x)
        return jax.nn.softmax(x, 0).mean() + jnp.arange(x.shape[0]).sum(), pooled, x.reshape(-1)

    spec = jax.ShapeDtypeStruct((n, 2), jnp.float32)
    original = jax.make_jaxpr(fn)(spec)
    graph = trace(fn)(spec)
    assert not difference(original, graph.to_jaxpr())
    assert not difference(original, rebuild(graph).to_jaxpr())
    exported = export.export(jax.jit(graph))(spec)
    same_bits(jax.jit(fn)(f32(5, 2)), exported.call(f32(5, 2)))
    same_bits(graph(f32(5, 2)), exported.call(f32(5, 2)))
    with pytest.raises(ArgumentError, match=r"traced with f32\[n,2\]"):
        graph(f32(5, 3))


def test_64_bit_types() -> None:
    with jax.enable_x64(True):

        def fn(x):
            return lax.scan(lambda c, z: (c + z, z), 0.0, x)[0] * 2, x.astype(int)

        x = np.arange(3.0)
        graph = trace(fn)(x)
        assert graph.inputs[0].dtype == np.float64
        assert not difference(jax.make_jaxpr(fn)(x), rebuild(graph).to_jaxpr())
        same_bits(fn(x), graph(x))


def test_lowering_is_remembered_per_context() -> None:
    graph = trace(lambda x: x @ x)(f32(3, 3))
    assert graph.to_jaxpr() is graph.to_jaxpr()
    first = graph.to_jaxpr()
    with jax.default_matmul_precision("highest"):
        assert graph.to_jaxpr() is not first


@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit])
@pytest.mark.parametrize("check_vma", [True, False])
def test_shard_map_on_eight_devices(kind: Any, check_vma: bool) -> None:
    """Traced only: the mesh is abstract, and there is one device here."""
    mesh = AbstractMesh((4, 2), ("x", "y"), axis_types=(kind, kind))
    spec = jax.ShapeDtypeStruct((8,), jnp.float32, sharding=NamedSharding(mesh, P("x")))
    if kind is AxisType.Auto:
        spec = jax.ShapeDtypeStruct((8,), jnp.float32)

    def body(a):
        inner = jax.jit(lambda b: lax.psum(jnp.sin(b), "x"))(a)
        return lax.fori_loop(0, 2, lambda i, c: c * i, inner) + lax.psum(lax.axis_index("x"), "x")

    fn = jax.shard_map(body, mesh=mesh, in_specs=P("x"), out_specs=P(), check_vma=check_vma)
    partly = jax.shard_map(
        lambda a: lax.psum(a, "x"), mesh=mesh, in_specs=P("x"), out_specs=P(), axis_names={"x"}
    )
    for f in (fn, jax.grad(lambda a: fn(a).sum()), jax.jit(partly)):
        original = jax.make_jaxpr(f)(spec)
        graph = trace(f)(spec)
        for mode in (graph, rebuild(graph)):
            assert not difference(original, mode.to_jaxpr())
            assert str(original) == str(mode.to_jaxpr())


def test_shard_map_runs() -> None:
    mesh = jax.make_mesh((1,), ("x",), axis_types=(AxisType.Auto,))
    fn = jax.shard_map(
        lambda a: lax.psum(jnp.sin(a), "x"), mesh=mesh, in_specs=P("x"), out_specs=P()
    )
    graph = rebuild(trace(fn)(f32(4)))
    same_bits(jax.jit(fn)(f32(4)), jax.jit(graph)(f32(4)))


def test_sharding_constraints_and_explicit_shardings_are_kept() -> None:
    mesh = jax.make_mesh((1,), ("x",), axis_types=(AxisType.Explicit,))
    sharding = NamedSharding(mesh, P("x"))
    with jax.set_mesh(mesh):
        x = jax.device_put(f32(4), sharding)

        def fn(a):
            return jax.jit(lambda b: b * 2)(a) + jnp.sin(a)

        graph = trace(fn)(x)
        assert str(graph.outputs[0].aval.sharding.spec) == str(sharding.spec)
        assert not difference(jax.make_jaxpr(fn)(x), rebuild(graph).to_jaxpr())
        assert graph(x).sharding == fn(x).sharding
    auto = jax.make_mesh((1,), ("x",), axis_types=(AxisType.Auto,))

    def constrained(a):
        return lax.with_sharding_constraint(a * 2, NamedSharding(auto, P("x")))

    original = jax.make_jaxpr(constrained)(f32(4))
    assert not difference(original, trace(constrained)(f32(4)).to_jaxpr())


def test_checkify() -> None:
    def fn(x):
        checkify.check(x.sum() > 0, "sum is {s}", s=x.sum())
        return jnp.log(x)

    graph = trace(checkify.checkify(fn))(f32(3))
    error, _ = graph(-jnp.ones(3))
    with pytest.raises(checkify.JaxRuntimeError, match="sum is -3"):
        error.throw()
    error, _ = checkify.checkify(trace(checkify.checkify(fn))(f32(3)))(jnp.ones(3))
    error.throw()
