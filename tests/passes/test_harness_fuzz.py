"""JAX's own use cases of its primitives through the pipelines: valid, settled, of one type."""

from __future__ import annotations

import zlib
from typing import Any

import harnesses
import jax
import numpy as np
import pytest

from jaxpress import passes
from jaxpress.capture import trace
from jaxpress.verification import tolerance_of

CHUNKS = 6
PIPELINES = (passes.default, passes.inference)
# What rules are about; of all other groups a few will do.
GROUPS = ("conv_general_dilated", "dot_general", "reduce_window", "custom_jvp", "logistic", "max")


def sample(n: int) -> list[Any]:
    """``n`` harnesses, half of them from the groups above; the same ones in every run."""
    ranked = sorted(harnesses.load(), key=lambda h: zlib.crc32(h.fullname.encode()))
    first = [h for h in ranked if h.group_name.startswith(GROUPS)]
    rest = [h for h in ranked if not h.group_name.startswith(GROUPS)]
    return first[: n // 2] + rest[: n - n // 2]


@pytest.mark.parametrize("i", range(CHUNKS))
def test_every_use_case_stays_valid_and_settles(i: int) -> None:
    wrong = {}
    for harness in harnesses.load()[i::CHUNKS]:
        graph = trace(harness.dyn_fun)(*harnesses.arguments(harness))
        before = graph.to_jaxpr()
        for pipeline in PIPELINES:
            found = problem_of(pipeline, graph, before)
            if found:
                wrong[f"{pipeline.name} {harness.fullname}"] = found
    assert not wrong, "\n".join(f"{name}: {why}" for name, why in list(wrong.items())[:5])


def problem_of(pipeline: passes.Pipeline, graph: Any, before: Any) -> str:
    """What is wrong with the pipeline's result; empty where nothing is."""
    try:
        new, _ = pipeline.run(graph, check=True)
        lowered = new.to_jaxpr()
        again, report = pipeline.run(new, check=True)
    except Exception as error:  # whatever it is, the test reports it with the harness's name
        return f"{type(error).__name__}: {error}"
    for kind in ("in_avals", "out_avals"):
        # As text too, which shows weak types.
        a, b = getattr(before, kind), getattr(lowered, kind)
        if list(a) != list(b) or list(map(str, a)) != list(map(str, b)):
            return f"{kind} were {a} and are {b}"
    if report.rewrites:
        return f"a second run still finds {report.rewrites[0]}"
    if again.count() != new.count():
        return f"a second run turns {new.count()} into {again.count()}"
    return ""


@pytest.mark.parametrize("i", range(CHUNKS))
def test_values_are_the_same(i: int) -> None:
    """Bit for bit where only exact rules applied."""
    check_values(sample(200)[i::CHUNKS])


def check_values(chosen: list[Any]) -> None:
    wrong = []
    for harness in chosen:
        args = harnesses.arguments(harness)
        graph = trace(harness.dyn_fun)(*args)
        new, report = passes.inference.run(graph)
        want = jax.tree.leaves(jax.jit(harness.dyn_fun)(*args))
        got = jax.tree.leaves(jax.jit(new)(*args))
        exact = all(r.numerics == "exact" for r in report.rewrites)
        if not same(want, got, exact):
            rules = sorted({r.rule for r in report.rewrites})
            wrong.append(f"{harness.fullname} after {rules}: {want} and {got}")
    assert not wrong, "\n".join(wrong[:5])


def same(want: list[Any], got: list[Any], exact: bool) -> bool:
    """Equal types, weak types and values: to the bit, or to the rounding of their dtype."""
    for a, b in zip(want, got, strict=True):
        if jax.typeof(a) != jax.typeof(b):
            return False
        if jax.numpy.issubdtype(a.dtype, jax.dtypes.prng_key):
            a, b = jax.random.key_data(a), jax.random.key_data(b)
        a, b = np.asarray(a), np.asarray(b)
        if exact:
            if a.tobytes() != b.tobytes():
                return False
            continue
        a, b = a.astype(np.complex128), b.astype(np.complex128)
        finite = np.abs(a[np.isfinite(a)])
        room = tolerance_of(want[0].dtype) * finite.max(initial=0.0)
        if not np.allclose(b, a, rtol=0.0, atol=room, equal_nan=True):
            return False
    return True


def test_same_sees_a_bit_and_an_error() -> None:
    x = np.float32([1.0, np.nan])
    assert same([x], [x.copy()], exact=True)
    assert not same([x], [np.nextafter(x, np.float32(2))], exact=True)
    assert same([x], [np.nextafter(x, np.float32(2))], exact=False)
    assert not same([x], [x * np.float32(1.001)], exact=False)
    assert not same([x], [x.astype(np.float16)], exact=False)
