"""Named ops called outside of any trace beside the jitted plain functions, for every op.

    python benchmarks/eager.py
    python benchmarks/eager.py --ops relu lstm --json out.json

The calls are those of tests/nnops/samples.py, on arrays of a few numbers, so that dispatch is what
is timed. The plain function is what defines the op, jitted once for all calls.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from pathlib import Path
from typing import Any

import jax
from timing import compare, machine_facts, print_table, write_json

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "nnops"))

from samples import SAMPLES, as_list, plain


def measure(name: str) -> tuple[dict[str, Any], float]:
    """Times of the op and of its plain function in ms, and the ratio of the two."""
    sample = SAMPLES[name]
    args = sample.arrays()
    jitted = jax.jit(plain(as_list(sample.call)))
    result = compare({"plain, jitted": lambda *a: jitted(*a), "op": sample.call}, *args)
    times = {which: result.times(which) for which in result.blocks}
    return times, result.ratio("op", "plain, jitted")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ops", nargs="+", default=sorted(SAMPLES), choices=sorted(SAMPLES))
    parser.add_argument("--json", type=Path, default=None, help="write every number there")
    options = parser.parse_args()
    rows, records = [], []
    for name in options.ops:
        times, ratio = measure(name)
        records.append({"op": name, "times_ms": times, "ratio": ratio})
        us = [f"{1000 * times[which]['median']:.1f}" for which in ("op", "plain, jitted")]
        rows.append([name, *us, f"{ratio:.2f}"])
    print_table("Eager calls", ["", "median us", "plain, jitted", "ratio"], rows)
    ratios = [record["ratio"] for record in records]
    print(f"median ratio {statistics.median(ratios):.2f}, largest {max(ratios):.2f}")
    if options.json:
        write_json(options.json, {"machine": machine_facts(), "cases": records})


if __name__ == "__main__":
    main()
