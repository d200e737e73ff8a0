"""Measures every named op against its oracle, and writes docs/ops.md.

    python docs/generate_ops.py

The calls are those of tests/nnops/samples.py, the oracles those of tests/nnops/oracles.py. A test
measures again, and fails where an op is worse than the page says or not on it.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "ops.md"
sys.path.insert(0, str(ROOT / "tests" / "nnops"))

from oracles import ORACLES  # noqa: E402

from samples import SAMPLES, as_list, is_real, loss  # noqa: E402

DTYPES = ("float32", "float64", "float16", "bfloat16")
COLUMNS = ("float32", "gradient", "float64", "float16", "bfloat16")
HEAD = """<!-- Written by docs/generate_ops.py: change the code, and run it. -->
# Ops

Every named op, what it was measured against, and the worst error: the largest difference from the
oracle in float64, relative to the oracle's largest value. A column named after a dtype is of the
op's results in it, on operands that it can hold; `gradient` is that of the sum of the sines of the
results, in float32. A formula is one in plain `jax.numpy`. 0 is exact.

[Adding an op](adding-an-op.md) tells how to add your own. `examples/digits.py` trains a model made
of `nnops` layers; `examples/nnops_in_frameworks.py` calls the functions in Flax and Equinox.

| op | oracle | float32 | gradient | float64 | float16 | bfloat16 |
| --- | --- | --- | --- | --- | --- | --- |
"""


def measure() -> dict[str, dict[str, float]]:
    """The errors of each op, by column; a column that makes no sense is absent."""
    with jax.enable_x64(True):
        given = {
            n: {d: _cast(s.arrays(jnp.float64), d) for d in DTYPES} for n, s in SAMPLES.items()
        }
        # All in two programs, ours and theirs: each alone takes longer to compile than to run.
        ours = jax.jit(lambda given: {n: _ours(n, a) for n, a in given.items()})(given)
        theirs = jax.jit(lambda given: {n: _theirs(n, a) for n, a in given.items()})(given)
    return {
        n: {c: max(map(_error, ours[n][c], theirs[n][c])) for c in COLUMNS if c in ours[n]}
        for n in sorted(SAMPLES)
    }


def _ours(name: str, given: dict[str, Any]) -> dict[str, Any]:
    sample, f = SAMPLES[name], as_list(SAMPLES[name].call)
    out = {d: f(*args) for d, args in given.items()}
    return out | _gradient(sample, f, given["float32"])


def _theirs(name: str, given: dict[str, Any]) -> dict[str, Any]:
    sample, f = SAMPLES[name], as_list(ORACLES[name][1])
    wide = {d: _cast(args, "float64") for d, args in given.items()}
    out = {d: f(*args) for d, args in wide.items()}
    return out | _gradient(sample, f, wide["float32"])


def _gradient(sample: Any, f: Any, args: Any) -> dict[str, Any]:
    reals = [args[i] for i in sample.floats()]
    if not reals:
        return {}
    return {"gradient": list(jax.grad(loss(f, sample, args), range(len(reals)))(*reals))}


def _cast(args: Any, dtype: str) -> list[Any]:
    return [a.astype(dtype) if is_real(a) else a for a in args]


def _error(got: Any, want: Any) -> float:
    got, want = np.asarray(got, np.float64), np.asarray(want, np.float64)
    assert got.shape == want.shape
    np.testing.assert_array_equal(np.isfinite(got), np.isfinite(want))
    both = np.isfinite(want)
    scale = np.abs(want[both]).max(initial=0)
    return float(np.abs(got - want)[both].max(initial=0) / (scale or 1))


def page(errors: dict[str, dict[str, float]]) -> str:
    """docs/ops.md."""
    rows = []
    for name, found in errors.items():
        shown = " | ".join(f"{found[c]:.0e}" if found.get(c) else _zero(found, c) for c in COLUMNS)
        rows.append(f"| `{name}` | {_code(ORACLES[name][0])} | {shown} |\n")
    return HEAD + "".join(rows)


def _zero(found: dict[str, float], column: str) -> str:
    return "0" if column in found else ""


def _code(who: str) -> str:
    return f"`{who}`" if re.fullmatch(r"[\w.]+", who) and "." in who else who


def stated(text: str) -> dict[str, dict[str, float]]:
    """The errors that a page states."""
    rows = re.findall(
        r"^\| `(\w+)` \| [^|]* " + r"\| ([^|]*) " * len(COLUMNS) + r"\|$", text, re.MULTILINE
    )
    return {
        name: {c: float(e) for c, e in zip(COLUMNS, given, strict=True) if e.strip()}
        for name, *given in rows
    }


def main() -> None:
    PAGE.write_text(page(measure()))


if __name__ == "__main__":
    main()
