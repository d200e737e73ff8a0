"""Graphs run in double precision, to measure errors against."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export, lax
from programs import PROGRAMS, f32

from jaxpress import nnops
from jaxpress.capture import Graph, trace
from jaxpress.capture.float64 import evaluate_in_float64


def is_key(x: Any) -> bool:
    return jnp.issubdtype(jax.typeof(x).dtype, jax.dtypes.prng_key)


def wide(x: Any) -> np.ndarray:
    x = np.asarray(jax.random.key_data(x) if is_key(x) else x)
    if jnp.issubdtype(x.dtype, jnp.floating):
        return x.astype(np.float64)
    return x.astype(np.complex128) if x.dtype.kind == "c" else x


def run(graph: Graph, *args: Any) -> list[np.ndarray]:
    assert graph.signature is not None
    return evaluate_in_float64(graph, graph.signature.flatten(args, {}))


@pytest.mark.parametrize("name", PROGRAMS)
def test_every_program_runs_close_to_itself(name: str) -> None:
    fn, args = PROGRAMS[name]()
    graph = trace(fn)(*args)
    got, want = run(graph, *args), jax.tree.leaves(jax.jit(fn)(*args))
    assert len(got) == len(want)
    for x, y in zip(got, want, strict=True):
        y = wide(y)
        assert x.dtype == y.dtype and x.shape == y.shape
        # bfloat16 has eight bits; all else here is float32.
        tolerance = 1e-2 if name == "weak_types" else 2e-5
        np.testing.assert_allclose(x, y, rtol=tolerance, atol=tolerance)


# Without constants such as 0.1 that the function itself would take at 64 bits, and the graph at the
# 32 that it was captured with.
@pytest.mark.parametrize(
    "name",
    [
        "scan_with_constants",
        "nested_scan",
        "while_with_constants",
        "cond_with_closures",
        "remat",
        "custom_derivatives",
        "gradient_of_custom_derivatives",
        "convolution",
        "contractions",
        "mapped",
    ],
)
def test_it_is_double_precision_throughout(name: str) -> None:
    """The same as the function itself on float64, which is a million times closer than float32."""
    fn, args = PROGRAMS[name]()
    got = run(trace(fn)(*args), *args)
    with jax.enable_x64(True):
        want = jax.tree.leaves(jax.jit(fn)(*jax.tree.map(wide, args)))
    for x, y in zip(got, want, strict=True):
        if y.dtype == np.float64:  # where the function itself does not say float32
            np.testing.assert_allclose(x, y, rtol=1e-11, atol=1e-11)


def test_it_sees_what_float32_cannot() -> None:
    graph = trace(lambda x: (x + 1e8) - 1e8)(f32(3))
    assert np.abs(np.asarray(graph(f32(3))) - np.asarray(f32(3))).max() > 0.1
    np.testing.assert_allclose(run(graph, f32(3))[0], wide(f32(3)), atol=1e-7)


def test_constants_weights_and_the_prologue() -> None:
    w = f32(3) / 3
    graph = trace(lambda p, x: (p * w) + x)(f32(3), f32(3))
    mul, add = graph.nodes
    prologue = Graph("prologue", graph.inputs[:1], (mul,), mul.outputs, graph.constant_values)
    split = graph.with_parts(nodes=(add,), prologue=prologue)
    (want,), (got,) = run(graph, f32(3), f32(3)), run(split, f32(3), f32(3))
    np.testing.assert_array_equal(got, want)
    exact = wide(f32(3)) * wide(w) + wide(f32(3))
    np.testing.assert_array_equal(want, exact)


def test_named_ops() -> None:
    x, w = f32(1, 6, 6, 3), f32(3, 3, 3, 4)
    (got,) = run(trace(lambda x: nnops.conv(x, w, activation="gelu"))(x), x)
    with jax.enable_x64(True):
        want = nnops.conv(wide(x), wide(w), activation="gelu")
    np.testing.assert_allclose(got, want, rtol=1e-12, atol=1e-12)


def test_the_same_random_numbers_are_drawn() -> None:
    def fn(key, x):
        return x + jax.random.bernoulli(key, 0.5, x.shape), jax.random.bits(key, (4,))

    key, x = jax.random.key(3), f32(64)
    got = run(trace(fn)(key, x), key, x)
    for a, b in zip(got, fn(key, x), strict=True):
        np.testing.assert_allclose(a, wide(b), rtol=1e-6)


def test_bits_and_strangers_keep_their_types() -> None:
    spec = jax.ShapeDtypeStruct((3,), jnp.float32)
    seen: list[Any] = []

    def fn(x):
        bits = lax.bitcast_convert_type(x, jnp.int32)
        y = jax.pure_callback(lambda v: (seen.append(v.dtype), v * 2)[1], spec, x)
        return bits, y * 0.1, exported(x) * 0.1, lax.reduce_precision(x, 5, 10)

    exported = export.export(jax.jit(lambda x: x + 1))(f32(3)).call
    bits, y, z, low = run(trace(fn)(f32(3)), f32(3))
    np.testing.assert_array_equal(bits, lax.bitcast_convert_type(f32(3), jnp.int32))
    assert seen == [np.float32]
    np.testing.assert_allclose(y, wide(f32(3)) * 0.2, rtol=1e-7)
    assert y.dtype == z.dtype == low.dtype == np.float64


def test_under_a_trace_it_is_still_concrete() -> None:
    x = f32(3)
    graph = trace(jnp.sin)(x)

    @jax.jit
    def outer(y):
        (out,) = run(graph, x)
        assert isinstance(out, np.ndarray)
        return y + out[0]

    assert float(outer(0.0)) == float(np.float32(np.sin(float(x[0]))))


def test_rounding_to_its_own_type_is_no_rounding() -> None:
    x = f32(3)
    fn = lambda bits: lambda x: lax.reduce_precision(x * x, 8, bits)  # noqa: E731
    (exact,), (rounded,) = (run(trace(fn(bits))(x), x) for bits in (23, 10))
    np.testing.assert_array_equal(exact, wide(x) * wide(x))
    assert np.abs(rounded - exact).max() > 1e-5


def test_printing_happens_once() -> None:
    seen: list[Any] = []
    graph = trace(lambda x: (jax.debug.callback(seen.append, x), x)[1])(1.0)
    run(graph, 1.0)
    jax.effects_barrier()
    assert not seen


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("x64", [False, True], ids=["x64 off", "x64 on"])
def test_derivatives_of_named_ops_run_in_float64(dtype, x64) -> None:
    # What such an op keeps for its derivative depends on the types, and is not that of float64.
    x = np.linspace(-2, 3, 12).reshape(3, 4)

    def total(x):
        return jnp.sum(jnp.tanh(nnops.layer_norm(x)) + nnops.squareplus(x))

    with jax.enable_x64(x64):
        graph = trace(jax.grad(total))(jnp.asarray(x, dtype))
        assert any("keeps" in node.params for node in graph.nodes)
        (got,) = evaluate_in_float64(graph, [np.asarray(jnp.asarray(x, dtype))])
    with jax.enable_x64(True):
        want = jax.grad(total)(jnp.asarray(jnp.asarray(x, dtype), "float64"))
    np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-6)
