"""What ``jaxpress show``, ``optimize`` and ``render`` do."""

from __future__ import annotations

import contextlib
import functools
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from jaxpress.capture import Graph, TargetError, VerificationError, trace
from jaxpress.cli_output import StepPrinter, note, print_json, tracing
from jaxpress.optimize import Optimized
from jaxpress.passes import Pipeline, Report, Step, pipeline_of
from jaxpress.targets import Target, load_target
from jaxpress.timing import Comparison, compare, usable_cores

__all__ = [
    "bench_document",
    "bench_text",
    "check_writable",
    "numbers_of",
    "optimize_command",
    "optimized",
    "pipeline_named",
    "render_command",
    "show_command",
    "time_against_jit",
    "verify_document",
    "with_arrays",
]


class _Watched(Pipeline):
    """A pipeline that tells when it starts, and of each step as it ends."""

    def __init__(self, inner: Pipeline, on_step: Callable[[Step], None] | None):
        super().__init__(inner.passes, inner.name)
        self.started = False
        self._on_step = on_step

    def run(self, graph: Graph, **options: Any) -> tuple[Graph, Report]:
        self.started = True
        return super().run(graph, on_step=self._on_step, **options)


def show_command(
    text: str,
    *,
    full: bool,
    optimized: bool,
    passes: str | None,
    weights: str | None,
    json: bool,
) -> None:
    """``jaxpress show``: a summary, or every node, as text or JSON."""
    pipeline, numbers = pipeline_named(passes), numbers_of(weights)
    target = load_target(text)
    if optimized:
        graph = _optimized(target, pipeline, numbers)[1].after
    else:
        with tracing(target):
            graph = trace(target.fn)(*target.args, **target.kwargs)
    if json:
        print_json(_graph_document(target, graph, full))
    else:
        print(graph.text() if full else graph.summary())


def optimize_command(
    text: str,
    *,
    check: bool,
    bench: bool,
    passes: str | None,
    weights: str | None,
    blocks: int,
    json: bool,
) -> None:
    """``jaxpress optimize``: the report, then errors and times where they were asked for.

    Raises:
      VerificationError: the results differ; everything else was printed before.
    """
    pipeline, numbers = pipeline_named(passes), numbers_of(weights)
    target = load_target(text)
    arrays = with_arrays(target) if check or bench else target  # may fail, so before the report
    with StepPrinter(stderr=json) as on_step:
        fast, report = _optimized(target, pipeline, numbers, on_step)
    document: dict[str, Any] = {"target": text, "report": report.to_dict()}
    if not json:
        print(
            f"{report.before.name}: {len(report.before.nodes)} -> {len(report.after.nodes)} nodes, "
            f"{len(report.rewrites)} rewrites in {report.seconds * 1e3:.0f} ms"
        )
    failure = None
    if check:
        failure, document["verify"] = _verify(arrays, fast, json)
    if bench and failure is None:
        with contextlib.redirect_stdout(sys.stderr):
            found = time_against_jit(arrays.fn, fast, *arrays.args, blocks=blocks, **arrays.kwargs)
        document["bench"] = bench_document(found)
        if not json:
            print(f"\n{bench_text(found)}")
    if json:
        print_json(document)
    if failure is not None:
        raise VerificationError(
            f'target "{text}": the optimised function differs from the original'
        ) from failure


def render_command(
    text: str,
    out: Path,
    *,
    optimized: bool,
    depth: int | None,
    passes: str | None,
    weights: str | None,
) -> None:
    """``jaxpress render``: a picture of the graph, or of what the passes made of it."""
    from jaxpress.viz.render import SUFFIXES, render

    pipeline, numbers = pipeline_named(passes), numbers_of(weights)
    # Tracing a large model takes a while: say now what would fail at the end.
    if out.suffix.lower() not in SUFFIXES:
        raise TargetError(
            f'cannot tell from "{out}" what to draw; its suffix must be one of '
            f"{', '.join(SUFFIXES)}"
        )
    check_writable(out)
    target = load_target(text)
    if optimized:
        drawn: Graph | Report = _optimized(target, pipeline, numbers)[1]
    else:
        with tracing(target):
            drawn = trace(target.fn)(*target.args, **target.kwargs)
    render(drawn, out, depth=depth)
    note(f"wrote {out} ({out.stat().st_size:,} bytes)")


def check_writable(out: Path) -> None:
    """Say before the work what would fail after it.

    Raises:
      TargetError: there is no such folder, it may not be written to, or the path is a folder.
    """
    if not out.parent.is_dir():
        raise TargetError(f'cannot write "{out}": there is no folder {out.parent}')
    if out.is_dir():
        raise TargetError(f'cannot write "{out}": it is a folder')
    if not os.access(out.parent, os.W_OK):
        raise TargetError(f'cannot write "{out}": the folder {out.parent} may not be written to')


def optimized(
    target: Target,
    pipeline: Pipeline | None = None,
    weights: tuple[int, ...] = (),
    on_step: Callable[[Step], None] | None = None,
) -> tuple[Optimized, Report]:
    """A target optimised, and the report; ``on_step`` is told of each step as it ends."""
    watched = _Watched(pipeline_of(pipeline), on_step)
    fast = Optimized(target.fn, watched, weights)
    try:
        with tracing(target):
            return fast, fast.report(*target.args, **target.kwargs)
    except TargetError as error:
        if watched.started and error.__cause__ is not None:
            raise error.__cause__ from None  # a pass failed, not the target
        raise


_optimized = optimized  # the commands have an argument of that name


def time_against_jit(
    fn: Callable[..., Any], fast: Callable[..., Any], *args: Any, blocks: int = 10, **kwargs: Any
) -> Comparison:
    """Time ``jax.jit(fn)`` and ``fast`` in alternating blocks of as many calls as fit in 0.2 s."""
    import jax

    def original(*args: Any, **kwargs: Any) -> Any:
        return fn(*args, **kwargs)  # jax.jit takes no callable that cannot be hashed

    functions = {
        "jax.jit": functools.partial(jax.jit(original), **kwargs),
        "jaxpress": functools.partial(fast, **kwargs),
    }
    slowest = 0.0
    for function in functions.values():
        jax.block_until_ready(function(*args))  # compiles
        started = time.perf_counter()
        jax.block_until_ready(function(*args))
        slowest = max(slowest, time.perf_counter() - started)
    calls = min(50, max(1, int(0.2 / max(slowest, 1e-6))))
    return compare(functions, *args, blocks=blocks, calls=calls, warmup=1)


def bench_document(found: Comparison) -> dict[str, Any]:
    """A comparison with ``jax.jit`` as plain data."""
    return {
        **found.as_dict(),
        "speedup": found.ratio("jax.jit", "jaxpress"),
        "cores": usable_cores(),
    }


def bench_text(found: Comparison) -> str:
    """A comparison with ``jax.jit`` as a table."""
    lines = [f"{'':<10} {'median ms':>10} {'quartiles':>20}"]
    for name in found.blocks:
        t = found.times(name)
        spread = f"{t['q1']:.3g} .. {t['q3']:.3g}"
        lines.append(f"{name:<10} {t['median']:>10.3g} {spread:>20}")
    rounds = len(found.blocks["jaxpress"])
    cores = usable_cores()
    lines.append(
        f"jax.jit takes {found.ratio('jax.jit', 'jaxpress'):.2f} times as long "
        f"({rounds} rounds, {cores} core{'s' * (cores != 1)})"
    )
    return "\n".join(lines)


def verify_document(result: Any) -> dict[str, Any]:
    """A ``Verification`` as plain data."""
    return {
        "passed": result.passed,
        "reference": result.reference,
        "error": result.error,
        "jit_error": result.original_error,
        "note": result.note,
        "outputs": [
            {
                "path": o.path,
                "shape": list(o.shape),
                "dtype": o.dtype,
                "error": o.error,
                "jit_error": o.original_error,
                "tolerance": o.tolerance,
                "problem": o.problem,
            }
            for o in result.outputs
        ],
    }


def _verify(
    target: Target, fast: Optimized, json: bool
) -> tuple[VerificationError | None, dict[str, Any]]:
    from jaxpress.verification import Verification, verify

    failure = None
    try:
        with contextlib.redirect_stdout(sys.stderr):  # the function may print while it is traced
            result: Any = verify(target.fn, fast)(*target.args, **target.kwargs)
    except VerificationError as error:
        failure, result = error, error.result
    if not isinstance(result, Verification):  # the results cannot even be compared
        assert failure is not None
        raise failure
    if not json:
        print(f"\n{result}")
    return failure, verify_document(result)


def with_arrays(target: Target) -> Target:
    """The target with arrays in place of shapes; a note says so."""
    shapes = target.shapes_only()
    if shapes:
        note(
            f"{shapes} argument{'s' * (shapes != 1)} given as shapes: using random arrays with a "
            "fixed seed, and zeros for integers"
        )
    return target.with_arrays()


def pipeline_named(names: str | None) -> Pipeline:
    """What ``--passes`` means."""
    parts = [part.strip() for part in ("default" if names is None else names).split(",")]
    return pipeline_of(parts[0] if len(parts) == 1 else parts)


def numbers_of(text: str | None) -> tuple[int, ...]:
    """What ``--weights`` means."""
    try:
        return tuple(int(part) for part in (text or "").split(",") if part.strip())
    except ValueError:
        raise TargetError(
            f"--weights is {text!r}; give positions of arguments, such as 0 or 0,1"
        ) from None


def _graph_document(target: Target, graph: Graph, full: bool) -> dict[str, Any]:
    from jaxpress.viz.json_out import graph_document
    from jaxpress.viz.table import op_rows

    cost = graph.cost()
    document: dict[str, Any] = {
        "target": target.name,
        "function": graph.name,
        "nodes": len(graph.nodes),
        "inputs": [repr(v) for v in graph.inputs],
        "outputs": [repr(v) for v in graph.outputs],
        "flops": cost.flops,
        "bytes_read": cost.bytes_read,
        "bytes_written": cost.bytes_written,
        "parameter_bytes": cost.parameter_bytes,
        "peak_live_bytes": cost.peak_live_bytes,
        "ops": [row._asdict() for row in op_rows(graph)],
    }
    if full:
        document["graph"] = graph_document(graph)
    return document
