"""Times of functions side by side as tables and JSON, with what a reader needs to weigh them.

    from timing import compare, print_comparison

    result = compare({"jit": f, "jaxpress": g}, x)
    print_comparison("MobileNetV2", result)

How the times are taken is in `jaxpress.timing`.
"""

from __future__ import annotations

import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from jaxpress.timing import Comparison, compare, usable_cores

__all__ = [
    "Comparison",
    "compare",
    "machine_facts",
    "print_comparison",
    "print_table",
    "write_json",
]


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
        "cores_usable": usable_cores(),
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
