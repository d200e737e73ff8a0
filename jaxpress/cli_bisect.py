"""What ``jaxpress bisect`` does."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import Any

from jaxpress.bisect import bisect
from jaxpress.capture import TargetError, trace
from jaxpress.cli_commands import check_writable, numbers_of, pipeline_named, with_arrays
from jaxpress.cli_output import note, print_json, tracing
from jaxpress.targets import load_target

__all__ = ["bisect_command"]


def bisect_command(
    text: str,
    out: Path,
    *,
    passes: str | None,
    weights: str | None,
    tolerance: float | None,
    json: bool,
) -> bool:
    """``jaxpress bisect``: whether a rewrite breaks the function, and which."""
    pipeline, numbers = pipeline_named(passes), numbers_of(weights)
    if out.suffix != ".py":
        raise TargetError(f'bisect writes a Python script, and "{out}" is no .py file')
    check_writable(out)
    target = with_arrays(load_target(text))
    with tracing(target):
        trace(target.fn)(*target.args, **target.kwargs)
    with contextlib.redirect_stdout(sys.stderr):  # the function may print while it is traced
        found = bisect(
            target.fn,
            *target.args,
            passes=pipeline,
            tolerance=tolerance,
            weight_argnums=numbers,
            out=out,
            **target.kwargs,
        )
    if json:
        document: dict[str, Any] = {"target": text, "found": bool(found), "rewrites": found.total}
        if found:
            assert found.error is not None
            document |= {
                "index": found.index,
                "pass": found.pass_name,
                "rule": found.rewrite.rule if found.rewrite is not None else None,
                "output": found.error.path,
                "error": found.error.error,
                "tolerance": found.error.tolerance,
                "script": str(found.path),
            }
        print_json(document)
    else:
        print(found)
    if found:
        note(f"wrote {found.path}")
    return bool(found)
