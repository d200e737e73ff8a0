"""Whether a graph still computes the same after a pass, and which rewrite is to blame if not."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from jaxpress.capture import Graph, PassError, VerificationError
from jaxpress.capture.evaluate import check_inputs, evaluate
from jaxpress.passes.comparison import OutputError, as_numpy, compare_arrays, run_in_float64
from jaxpress.passes.record import Budget, Step

__all__ = ["StepCheck", "first_bad"]


class StepCheck:
    """Runs a graph on arguments, and versions of it after it.

    Args:
      graph: the original.
      args: the arguments of its function.
      tolerance: the largest relative error; by dtype, or three times the original's own, if left
        out.
      kwargs: its keyword arguments.

    Raises:
      PassError: the graph is a body.
      ArgumentError: the arguments are not those that it was traced with.
    """

    def __init__(
        self,
        graph: Graph,
        args: Sequence[Any],
        tolerance: float | None = None,
        kwargs: Mapping[str, Any] | None = None,
    ):
        if graph.signature is None:
            raise PassError(f"{graph.name!r} is a body: its values cannot be verified alone")
        self.inputs = graph.inputs
        self.tolerance = tolerance
        self.paths = graph.signature.result_paths
        self.flat = check_inputs(graph, graph.signature.flatten(tuple(args), dict(kwargs or {})))
        self._want = self._run(graph)
        self._exact, _ = run_in_float64(graph, self.flat, self._want)

    def _run(self, graph: Graph) -> list[np.ndarray]:
        out = jax.jit(lambda flat: evaluate(graph, flat))(self.flat)
        return [as_numpy(x) for x in out]

    def errors(self, graph: Graph) -> tuple[OutputError, ...]:
        """How far each output of a version is off."""
        return tuple(
            compare_arrays(path, want, got, np.asarray(exact), self.tolerance)
            for path, want, got, exact in zip(
                self.paths, self._want, self._run(graph), self._exact, strict=True
            )
        )

    def worst(self, graph: Graph) -> OutputError | None:
        """The output that is off by too much, the worst of them; ``None`` if all is well."""
        bad = [e for e in self.errors(graph) if not e.passed]
        return max(bad, key=lambda e: e.error / (e.tolerance or 1.0), default=None)

    def after(self, step: Step, stopped: Callable[[Budget], Graph] | None) -> None:
        """Check the graph that a pass has given.

        Args:
          step: what the pass did.
          stopped: the pass again, stopped after some of its rewrites; ``None`` for one that cannot
            be stopped.

        Raises:
          VerificationError: it gave other values. The message names the pass, the output, the
            error, and the rewrite that did it where the pass is made of rewrites.
        """
        if step.graph is step.graph_before or step.graph.inputs != self.inputs:
            return  # nothing changed; or other arguments, and with them another function
        worst = self.worst(step.graph)
        if worst is None:
            return
        text = f"pass {step.pass_name!r} changed {worst.path}: {worst.problem}"
        if stopped is not None:
            n = len(step.rewrites)
            place = first_bad(n, lambda i: self.worst(stopped(Budget(i))) is not None)
            if place is not None:
                text += f"\nrewrite {place} of {n} did it: {step.rewrites[place - 1]}"
        raise VerificationError(text, worst)


def first_bad(count: int, is_bad: Callable[[int], bool]) -> int | None:
    """The first of ``count`` steps after which ``is_bad``; ``None`` if it is not bad at the end.

    Found by bisection: ``is_bad(n)`` is asked about the state after the first ``n`` steps, and is
    taken to be false for none. Where it is true, then false and true again, any step that made it
    true may be found.
    """
    if count == 0 or not is_bad(count):
        return None
    good, bad = 0, count
    while bad - good > 1:
        middle = (good + bad) // 2
        if is_bad(middle):
            bad = middle
        else:
            good = middle
    return bad
