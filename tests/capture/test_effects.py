"""Effects happen once, and in order."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.experimental import io_callback
from jaxprs import rebuild, same_bits
from programs import PROGRAMS, f32

from jaxpress.capture import graph_of_jaxpr, trace
from jaxpress.capture.evaluate import evaluate


def effectful(log: dict[str, list[Any]]) -> Callable[..., Any]:
    """Two kinds of ordered effects; JAX orders each of them for itself."""

    def note(kind: str, tag: str, result: bool = False) -> Callable[[Any], Any]:
        def write(v: Any) -> Any:
            log[kind].append((tag, float(v)))
            return v if result else None

        return write

    def fn(x, flag):
        jax.debug.callback(note("debug", "start"), x, ordered=True)

        def branch(v):
            jax.debug.callback(note("debug", "branch"), v, ordered=True)
            return v * 2

        x = lax.cond(flag, branch, lambda v: v, x)

        def step(i, v):
            spec = jax.ShapeDtypeStruct((), jnp.float32)
            return io_callback(note("io", "loop", True), spec, v + 1, ordered=True)

        x = lax.fori_loop(0, 2, step, x)
        jax.debug.callback(note("debug", "end"), x, ordered=True)
        io_callback(note("io", "unused"), None, x, ordered=True)
        return x

    return fn


@pytest.mark.parametrize("flag", [True, False])
def test_effects_happen_once_and_in_order(flag: bool) -> None:
    log: dict[str, list[Any]] = {"debug": [], "io": []}
    fn = effectful(log)
    graph = trace(fn)(jnp.float32(1), flag)
    assert log == {"debug": [], "io": []}

    def happened(f: Callable[..., Any]) -> dict[str, list[Any]]:
        for happenings in log.values():
            happenings.clear()
        jax.block_until_ready(f(jnp.float32(1), flag))
        jax.effects_barrier()
        return {kind: list(happenings) for kind, happenings in log.items()}

    want = happened(fn)
    assert [len(happenings) for happenings in want.values()] == [2 + flag, 3]
    for mode in (graph, rebuild(graph)):
        for f in (mode, jax.jit(mode), jax.jit(lambda *a, m=mode: lax.cond(True, m, m, *a))):
            assert happened(f) == want


def test_references_keep_their_order() -> None:
    fn, (x,) = PROGRAMS["mutable_references"]()
    graph = rebuild(trace(fn)(x))
    np.testing.assert_array_equal(jax.jit(graph)(x), fn(x))
    same_bits(jax.vmap(fn)(f32(2, 3)), jax.vmap(graph)(f32(2, 3)))


def test_a_reference_as_argument() -> None:
    def fn(ref, x):
        ref[...] = ref[...] + x
        return ref[0] * 2

    def use(f):
        ref = jax.new_ref(f32(3))
        return f(ref, f32(3)), f(ref, f32(3)), ref[...]

    graph = graph_of_jaxpr(jax.make_jaxpr(fn)(jax.new_ref(f32(3)), f32(3)))
    same_bits(use(fn), use(lambda *a: evaluate(graph, a)[0]))
    same_bits(jax.jit(lambda: use(fn))(), jax.jit(lambda: use(lambda *a: evaluate(graph, a)[0]))())
