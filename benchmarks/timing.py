"""Times functions side by side, so that one machine's bad minute falls on all of them alike.

    from timing import compare, print_comparison

    result = compare({"jit": f, "jaxpress": g}, x)
    print_comparison("MobileNetV2", result)

Calls come in blocks, one function after another, over and over, with a pause between blocks: ONNX
Runtime's threads spin for a while after a run, and take a core from whoever comes next. A ratio is
the median over rounds of the ratio within a round, since the clock drifts less within one.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Comparison:
    """Times of every call, seconds, by function and by block."""

    blocks: Mapping[str, Sequence[Sequence[float]]]

    def times(self, name: str) -> dict[str, float]:
        """Median, minimum and quartiles over all calls of this function, in milliseconds."""
        calls = sorted(1e3 * t for block in self.blocks[name] for t in block)
        low, _, high = statistics.quantiles(calls, n=4, method="inclusive")
        return {"median": statistics.median(calls), "min": calls[0], "q1": low, "q3": high}

    def ratio(self, name: str, other: str) -> float:
        """How many times as long `name` takes as `other`: the median over rounds."""
        pairs = zip(self.blocks[name], self.blocks[other], strict=True)
        return statistics.median(statistics.median(a) / statistics.median(b) for a, b in pairs)

    def as_dict(self) -> dict[str, Any]:
        """Everything that a reader of the JSON needs; single calls are left out."""
        names = list(self.blocks)
        return {
            "unit": "ms",
            "rounds": len(next(iter(self.blocks.values()))),
            "times": {name: self.times(name) for name in names},
            "ratios": {a: {b: self.ratio(a, b) for b in names if b != a} for a in names},
        }


def compare(
    functions: Mapping[str, Callable[..., Any]],
    *args: Any,
    blocks: int = 10,
    calls: int = 10,
    pause: float = 0.05,
    warmup: int = 3,
) -> Comparison:
    """Times each function on the same arguments, `blocks` rounds of `calls` calls each.

    pause: seconds of rest before each block. Every call waits for its result. The order turns
    round from one round to the next, so no function always follows the same neighbour.
    Raises ValueError with fewer than two calls in all: quartiles need two.
    """
    import jax

    if not functions or blocks < 1 or calls < 1 or blocks * calls < 2:
        raise ValueError("compare needs a function, a block, and two calls in all")
    for function in functions.values():
        for _ in range(warmup):
            jax.block_until_ready(function(*args))
    taken: dict[str, list[list[float]]] = {name: [] for name in functions}
    order = list(functions)
    for _ in range(blocks):
        for name in order:
            function, block = functions[name], []
            time.sleep(pause)
            jax.block_until_ready(function(*args))  # wakes threads and caches, untimed
            for _ in range(calls):
                start = time.perf_counter()
                jax.block_until_ready(function(*args))
                block.append(time.perf_counter() - start)
            taken[name].append(block)
        order.reverse()
    return Comparison(taken)


def print_comparison(title: str, comparison: Comparison) -> None:
    """Prints times, and each function's time as a multiple of the first one's."""
    first = next(iter(comparison.blocks))
    rows = []
    for name in comparison.blocks:
        t = comparison.times(name)
        ratio = 1.0 if name == first else comparison.ratio(name, first)
        spread = f"{t['q1']:.3g} .. {t['q3']:.3g}"
        rows.append([name, f"{t['median']:.3g}", f"{t['min']:.3g}", spread, f"{ratio:.3f}"])
    print_table(title, ["", "median ms", "min", "quartiles", f"/ {first}"], rows)


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Prints a table with rich, or as plain text where rich is not installed.

    The first column is text, the others are numbers, flush right.
    """
    cells = [[str(cell) for cell in row] for row in rows]
    try:
        from rich.console import Console
        from rich.table import Table
    except ImportError:
        widths = [max(map(len, column)) for column in zip(columns, *cells, strict=True)]
        print(f"\n{title}")
        for row in [list(columns), *cells]:
            padded = [c.rjust(w) for c, w in zip(row, widths, strict=True)]
            print("  ".join([row[0].ljust(widths[0]), *padded[1:]]).rstrip())
        return
    print(f"\n{title}")  # rich would fold a title that is wider than its table
    table = Table()
    for index, column in enumerate(columns):
        table.add_column(column, justify="right" if index else "left", no_wrap=True)
    for row in cells:
        table.add_row(*row)
    # A pipe has no width of its own: never fold a table that goes to a file.
    Console(width=None if sys.stdout.isatty() else 160).print(table)


def machine_facts() -> dict[str, Any]:
    """What a reader needs to weigh the numbers: processor, cores, Python, versions, device."""
    import jax

    packages = ("jax", "jaxlib", "numpy", "keras", "flax", "dm-haiku", "equinox", "onnxruntime")
    return {
        "cpu": _cpu_name(),
        "cores": os.cpu_count(),
        "cores_usable": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None,
        "system": platform.platform(),
        "python": platform.python_version(),
        "versions": {package: _version(package) for package in (*packages, "torch")},
        "device": str(jax.devices()[0]),
        "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }


def write_json(path: str | os.PathLike[str], data: Any) -> None:
    """Writes data as JSON, whole or not at all."""
    text = json.dumps(data, indent=1) + "\n"
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(
        "w", dir=path.parent, prefix=path.name, delete=False, encoding="utf-8"
    ) as file:
        file.write(text)
    os.chmod(file.name, 0o644)
    os.replace(file.name, path)


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
