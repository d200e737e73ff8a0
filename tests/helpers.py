"""What tests of rewrites share: one assertion for what must hold, one for what must not happen."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxpress.capture import Graph, trace
from jaxpress.passes import Pass, Pipeline, Report, Rule, rewrite
from jaxpress.testing import assert_equivalent

HWC = ("NHWC", "HWIO", "NHWC")
CHW = ("NCHW", "OIHW", "NCHW")


@contextmanager
def quick_compiles(quick: bool = True) -> Iterator[None]:
    """Compiles without optimisations: compiling is what takes many tests long."""
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", quick)
    try:
        yield
    finally:
        jax.config.update("jax_disable_most_optimizations", before)


def array(*shape: int, seed: int = 0, low: float = -2.0, high: float = 2.0, dtype: Any = "float32"):
    """Numbers without pattern, the same in every run; a constant of the graph where closed over."""
    rng = np.random.default_rng([seed, *shape])
    return jnp.asarray(rng.uniform(low, high, shape), dtype)


def positive(*shape: int, seed: int = 1, dtype: Any = "float32"):
    """A variance or a scale."""
    return array(*shape, seed=seed, low=0.5, high=1.5, dtype=dtype)


def conv(x: Any, w: Any, numbers: Any = HWC, strides: Any = None, **options: Any) -> Any:
    """A convolution as frameworks write it: the equation, not the named op."""
    strides = strides or (1,) * (x.ndim - 2)
    padding = options.pop("padding", "SAME")
    return jax.lax.conv_general_dilated(
        x, w, strides, padding, dimension_numbers=numbers, **options
    )


def rewritten(rules: Any, fn: Callable[..., Any], *args: Any) -> tuple[Graph, list[str]]:
    """``fn``'s graph after rules, a pass or a pipeline, and the names of the rules that applied."""
    graph = trace(fn)(*args)
    record: list[Any] = []
    if isinstance(rules, Pipeline):
        new, report = rules.run(graph, check=True)
        record = report.rewrites
    elif isinstance(rules, Pass):
        new = rules(graph, record)
    else:
        new = rewrite(graph, rules, record=record)
    return new.validate(), [r.rule for r in record]


def assert_optimizes(
    pipeline: Pipeline,
    fn: Callable[..., Any],
    *args: Any,
    ops: Mapping[str, int] | None = None,
    absent: tuple[str, ...] = (),
    gradients: bool = True,
    tolerance: float | None = None,
) -> Graph:
    """Assert that a pipeline keeps ``fn`` what it is, and makes of it what is expected.

    The graph is valid after each pass, its op counts are ``ops`` (all of them: the prologue's are
    not counted) and none of ``absent``; values equal a float64 run's, gradients the original's,
    ``vmap`` and ``jit`` agree, and a second run changes nothing.
    """
    graph = trace(fn)(*args)
    new, _ = pipeline.run(graph, check=True)
    if ops is not None:
        assert new.count() == dict(ops), f"{dict(new.count())} in\n{new}"
    for op in absent:
        assert not new.find(op), f"{op} is left in\n{new}"
    again, report = pipeline.run(new, check=True)
    assert not report.rewrites, f"a second run: {report.rewrites[0]}"
    assert again.count() == new.count()
    run = jax.jit(new)
    assert_equivalent(fn, run, *args, gradients=gradients, vmap=False, tolerance=tolerance)
    if args:
        many = jax.tree.map(lambda x: jnp.stack([x, x[..., ::-1] if x.ndim else x]), args)
        want, got = (jax.jit(jax.vmap(f))(*many) for f in (fn, new))
        assert_close(got, want)
    return new


def assert_close(got: Any, want: Any, tolerance: float = 2e-5) -> None:
    """Equal structures, shapes and dtypes; values within ``tolerance`` of the largest."""
    assert jax.tree.structure(got) == jax.tree.structure(want)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
        wide = np.complex128 if jnp.iscomplexobj(b) else np.float64
        a, b = np.asarray(a, wide), np.asarray(b, wide)
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * np.max(np.abs(b), initial=1e-30))


def assert_applies(
    rules: Any,
    fn: Callable[..., Any],
    *args: Any,
    times: int | None = None,
    tolerance: float = 2e-5,
    gradients: bool = True,
) -> Graph:
    """Assert that rules apply to ``fn``, settle, and keep its values and gradients.

    What ``assert_rewrites`` asserts, but for ``vmap`` and special values, and compiled once: for
    rules with so many cases that they would take minutes.
    """
    graph = trace(fn)(*args)
    record: list[Any] = []
    new = rewrite(graph, rules, record=record).validate()
    assert record if times is None else len(record) == times, f"{record} in\n{graph}"
    again: list[Any] = []
    rewrite(new, rules, record=again)
    assert not again, f"a second run: {again[0]} in\n{new}"

    def outcome(f: Callable[..., Any]) -> Any:
        out, back = jax.vjp(f, *args)
        # Weights that differ from entry to entry, so that no error cancels.
        spread = [jnp.cos(jnp.arange(x.size)).reshape(x.shape) for x in jax.tree.leaves(out)]
        weights = [w.astype(x.dtype) for w, x in zip(spread, jax.tree.leaves(out), strict=True)]
        return out, back(jax.tree.unflatten(jax.tree.structure(out), weights))

    run = outcome if gradients else lambda f: f(*args)
    want, got = jax.jit(lambda: (run(fn), run(new)))()
    assert_close(got, want, tolerance)
    return new


def assert_refuses(rules: Any, fn: Callable[..., Any], *args: Any, because: str = "") -> None:
    """Assert that no rule applies anywhere in ``fn``.

    Args:
      rules: a rule, several, or a set of rules.
      fn: a function in whose graph one could think that they apply.
      *args: its arguments.
      because: a part of what the rule's ``why_not`` says at some node; for a single rule.
    """
    graph = trace(fn)(*args)
    record: list[Any] = []
    new = rewrite(graph, rules, record=record)
    assert not record, f"{record[0]} in\n{graph}"
    assert new is graph
    if because:
        assert isinstance(rules, Rule)
        nodes = [n for n in graph.walk() if n.op in rules.names]
        reasons = [str(rules.why_not(graph, n)) for n in nodes]
        assert any(because in reason for reason in reasons), "\n".join(reasons)


def rules_of(report: Report) -> dict[str, int]:
    """How often each rule applied, over all passes."""
    counts: dict[str, int] = {}
    for step in report.steps:
        for rule, n in step.matches().items():
            counts[rule] = counts.get(rule, 0) + n
    return counts
