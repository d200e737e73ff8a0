"""What ``jaxpress demo`` prints."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator
from math import prod
from pathlib import Path
from typing import Any

from jaxpress.capture.errors import JaxpressError
from jaxpress.cli_commands import (
    bench_document,
    bench_text,
    optimized,
    time_against_jit,
    verify_document,
)
from jaxpress.cli_output import StepPrinter, print_json
from jaxpress.demo import draw, mobilenet
from jaxpress.targets import Target

__all__ = ["demo_command"]

# Fifty layers with random weights turn a rounding at their start into 1e-5 at their end (1e-4 for
# the smallest images), with jax.jit as well; one batch norm folded wrongly gives 1e-1.
_TOLERANCE = 1e-3


def demo_command(out: Path, *, json: bool, size: int, blocks: int) -> None:
    """Build, trace, optimise, verify, time and draw MobileNetV2, and say what came of it.

    Raises:
      JaxpressError: something is not installed, ``out`` cannot be a folder, ...
      VerificationError: the optimised network differs.
    """
    from jaxpress.verification import verify

    started = time.perf_counter()

    def say(text: str = "") -> None:
        print(text, file=sys.stderr if json else sys.stdout, flush=True)

    with _folder(out):
        say(f"Keras' MobileNetV2 on JAX, {size} x {size}, random weights, and a photograph ...")
        model = mobilenet(size)
        say(f"  {model.parameters:,} weights; built in {time.perf_counter() - started:.1f} s")

        say("\nTracing and optimising ...")
        target = Target("demo", model.fn, (model.x,))
        with StepPrinter(stderr=json) as on_step:
            fast, report = optimized(target, on_step=on_step)
        before, after = report.before, report.after
        say(f"  before: {len(before.nodes)} nodes: {_ops(before)}")
        say(f"  after:  {len(after.nodes)} nodes: {_ops(after)}")

        say("\nComparing both with a run in float64 ...")
        errors = verify(model.fn, fast, tolerance=_TOLERANCE)(model.x)
        say(
            f"  largest error: jaxpress {errors.error:.1e}, jax.jit {errors.original_error:.1e} "
            f"(of the largest of {_outputs(errors)} outputs)"
        )

        say("\nTiming both in turns ...")
        times = time_against_jit(model.fn, fast, model.x, blocks=blocks)
        say("  " + bench_text(times).replace("\n", "\n  "))

        say("\nDrawing ...")
        files, advice = draw(report, out)
        for file in files:
            say(f"  {file}")
        if advice:
            say(f"  No pictures: {advice}")
    seconds = time.perf_counter() - started
    speedup = times.ratio("jax.jit", "jaxpress")
    say(
        f"\nMobileNetV2 runs {speedup:.1f} times as fast as with jax.jit, with a largest error of "
        f"{errors.error:.1e}.\nThe demo took {seconds:.0f} s; its files are in {out.resolve()}."
    )
    if json:
        print_json(
            {
                "model": "MobileNetV2",
                "size": size,
                "report": report.to_dict(),
                "verify": verify_document(errors),
                "bench": bench_document(times),
                "files": [str(file.resolve()) for file in files],
                "advice": advice,
                "seconds": seconds,
            }
        )


def _ops(graph: Any) -> str:
    counts = graph.count().most_common()
    shown = ", ".join(f"{n} {op}" for op, n in counts[:6])
    rest = sum(n for _, n in counts[6:])
    return f"{shown}, {rest} others" if rest else shown


def _outputs(errors: Any) -> int:
    return sum(prod(o.shape) for o in errors.outputs)


@contextlib.contextmanager
def _folder(out: Path) -> Iterator[None]:
    """Make the folder first, since that may fail; take it away again if the rest fails."""
    was_there = out.is_dir()
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise JaxpressError(f'cannot make the folder "{out}": {error.strerror}') from error
    try:
        yield
    except BaseException:
        if not was_there:
            with contextlib.suppress(OSError):
                out.rmdir()
        raise
