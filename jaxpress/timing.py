"""Times functions side by side, so that one machine's bad minute falls on all of them alike.

>>> import jax.numpy as jnp
>>> found = compare({"sin": jnp.sin, "cos": jnp.cos}, jnp.ones(3), blocks=2, calls=3, pause=0.0)
>>> sorted(found.times("sin"))
['median', 'min', 'q1', 'q3']

Calls come in blocks, one function after another, over and over, with a pause between blocks: some
runtimes' threads spin for a while after a run, and take a core from whoever comes next. A ratio is
the median over rounds of the ratio within a round, since the clock drifts less within one.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["Comparison", "compare", "usable_cores"]


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
        """How many times as long ``name`` takes as ``other``: the median over rounds."""
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
    """Time each function on the same arguments, ``blocks`` rounds of ``calls`` calls each.

    Every call waits for its result. The order turns round from one round to the next, so no
    function always follows the same neighbour.

    Args:
      functions: what to time, by name.
      *args: what every function is called with.
      blocks: how many rounds.
      calls: timed calls of each function in a round.
      pause: seconds of rest before each block.
      warmup: calls of each function before the first round, to compile it.

    Returns:
      The times of all calls.

    Raises:
      ValueError: fewer than two calls in all; quartiles need two.
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


def usable_cores() -> int:
    """How many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
