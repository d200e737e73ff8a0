"""Which rewrite breaks a function? ``jaxpress.bisect``."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxpress.capture import ArgumentError, Graph, Node, Value
from jaxpress.capture.arguments import check_values
from jaxpress.capture.evaluate import evaluate
from jaxpress.optimize import Optimized
from jaxpress.passes import Pipeline, pipeline_of
from jaxpress.passes.comparison import OutputError, check_tolerance
from jaxpress.passes.record import Budget, Report, Rewrite
from jaxpress.passes.step_check import StepCheck, first_bad
from jaxpress.repro import Region, write_repro

__all__ = ["Bisection", "bisect"]


@dataclass(frozen=True)
class Bisection:
    """What ``jaxpress.bisect`` found; false where nothing is wrong.

    Attributes:
      total: how many rewrites the passes make; a pass that is no set of rules counts as one.
      index: the number of the one that breaks the function, from 1; 0 where none does.
      pass_name: the pass that it belongs to.
      rewrite: its record; ``None`` for a pass that is a function.
      error: the output that is off by the most after it.
      path: the script that shows it.
    """

    total: int
    index: int = 0
    pass_name: str = ""
    rewrite: Rewrite | None = None
    error: OutputError | None = None
    path: Path | None = None

    def __bool__(self) -> bool:
        return self.index > 0

    def __str__(self) -> str:
        if not self:
            return f"none of {self.total} rewrites changes the function beyond the tolerance"
        what = f"pass {self.pass_name}" if self.rewrite is None else str(self.rewrite)
        assert self.error is not None
        lines = [
            f"rewrite {self.index} of {self.total}, in pass {self.pass_name}: {what}",
            f"{self.error.path}: {self.error.problem}",
        ]
        if self.path is not None:
            lines.append(f"to see it alone: python {self.path}")
        return "\n".join(lines)


def bisect(
    fn: Callable[..., Any],
    *args: Any,
    passes: Any = None,
    tolerance: float | None = None,
    weight_argnums: int | Sequence[int] = (),
    out: str | os.PathLike[str] | None = None,
    **kwargs: Any,
) -> Bisection:
    """Find the single rewrite that makes a function give other values, and write a script of it.

    Runs the passes again and again, stopped after the n-th rewrite, with n by bisection, and
    compares the graph's values with a run of ``fn`` in float64.

    Args:
      fn: the function.
      args, kwargs: its arguments, concrete arrays.
      passes, weight_argnums: as of ``jaxpress.optimize``.
      tolerance: the largest relative error; by dtype (2e-5 for float32), or three times that of
        ``jax.jit(fn)``, if left out.
      out: the script to write; ``bisect_<function>.py`` in the current folder if left out. The
        values that it needs stand beside it, in a file of that name that ends in ``.npz``.

    Returns:
      What was found; false, and nothing is written, where no rewrite breaks the tolerance.

    Raises:
      ArgumentError: ``out`` does not end in ``.py``, or an argument is no array.
      PassError: a pass is unknown, or fails.

    >>> import jax.numpy as jnp
    >>> print(bisect(lambda x: jnp.sin(x) * 1, jnp.ones(3)))
    none of 2 rewrites changes the function beyond the tolerance
    """
    path = Path(f"bisect_{_file_name(fn)}.py" if out is None else out)
    if path.suffix != ".py":
        raise ArgumentError(f"bisect writes a Python script: out is {str(path)!r}, not a .py file")
    pipeline = pipeline_of(passes)
    check_tolerance(tolerance)
    check_values(args, kwargs)
    before = Optimized(fn, Pipeline(), weight_argnums).report(*args, **kwargs).before
    check = StepCheck(before, args, tolerance, kwargs)
    everything = Budget()
    pipeline.run(before, budget=everything)

    def is_bad(n: int) -> bool:
        return check.worst(pipeline.run(before, budget=Budget(n))[0]) is not None

    index = first_bad(everything.used, is_bad)
    if index is None:
        return Bisection(everything.used)
    budget = Budget(index)
    graph, report = pipeline.run(before, budget=budget)
    step = next(s for s in reversed(report.steps) if s.graph is not s.graph_before)
    rewrite = step.rewrites[-1] if pipeline[step.pass_name].is_made_of_rules else None
    error = check.worst(graph)
    assert error is not None
    good = pipeline.run(before, budget=Budget(index - 1))[0]
    region = _region(check, good, graph, rewrite, budget.before_last, report)
    found = Bisection(everything.used, index, step.pass_name, rewrite, error, path)
    write_repro(path, region, str(found).rsplit("\n", 1)[0], before.name, error.tolerance)
    return found


def _file_name(fn: Any) -> str:
    name = getattr(fn, "__name__", type(fn).__name__)
    return re.sub(r"[^A-Za-z0-9_]+", "_", name).strip("_")[:40] or "function"


def _region(
    check: StepCheck,
    good: Graph,
    bad: Graph,
    rewrite: Rewrite | None,
    around: Graph | None,
    report: Report,
) -> Region:
    """The smallest part of the two graphs that differs, and the values that go into it."""
    if rewrite is not None and around is not None and around.signature is not None:
        old = Graph("before", (), _in_order(rewrite.before), [a for a, _ in rewrite.replaced])
        new = Graph("after", (), rewrite.after, [b for _, b in rewrite.replaced])
        return Region.of(old, new, _values_in(check, around))
    # In the body of another node, or a pass that is a function: the outermost nodes that differ.
    pair = _nodes_that_differ(good, bad)
    if pair is not None:
        old, new = (Graph(name, (), [n], n.outputs) for name, n in zip(_NAMES, pair, strict=True))
        return Region.of(old, new, _values_in(check, good), _values_in(check, bad))
    return Region.whole(good, bad, check.flat)


_NAMES = ("before", "after")


def _in_order(nodes: Sequence[Node]) -> list[Node]:
    """Nodes so that each comes after those that it needs."""
    makers = {v: node for node in nodes for v in node.outputs}
    ordered: dict[Node, None] = {}

    def visit(node: Node) -> None:
        if node not in ordered:
            for v in node.inputs:
                if v in makers and makers[v] is not node:
                    visit(makers[v])
            ordered[node] = None

    for node in nodes:
        visit(node)
    return list(ordered)


def _values_in(check: StepCheck, graph: Graph) -> Callable[[Sequence[Value]], list[Any]]:
    """A function that gives the arrays of values of a graph in a run on the arguments."""

    def values(wanted: Sequence[Value]) -> list[Any]:
        inner = graph.with_parts(outputs=tuple(wanted), signature=None)
        return evaluate(inner, check.flat)

    return values


def _nodes_that_differ(good: Graph, bad: Graph) -> tuple[Node, Node] | None:
    """The one node with a body that differs between two versions of a graph."""
    theirs = {node.outputs[0].name: node for node in bad.nodes if node.outputs}
    pairs = []
    for node in good.nodes:
        if not node.subgraphs:
            continue
        other = theirs.get(node.outputs[0].name) if node.outputs else None
        if other is not None and other.op == node.op and _texts(node) != _texts(other):
            pairs.append((node, other))
    return pairs[0] if pairs else None


def _texts(node: Node) -> list[str]:
    return [body.text() for body in node.subgraphs]
