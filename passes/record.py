"""What passes leave behind: every rewrite as data, each step, and the whole report."""

from __future__ import annotations

import weakref
from dataclasses import dataclass, field
from typing import Any

from jaxpress.capture import Graph, Node, Value

__all__ = ["Budget", "Report", "Rewrite", "Step"]

NUMERICS = ("exact", "reassociates", "approximate")


class Budget:
    """How many rewrites there may be, for who looks for one among them.

    Rewriting is deterministic: with room for ``limit`` rewrites, just the first ones are made.

    Attributes:
      limit: how many; ``None`` for all of them.
      used: how many were made.
      before_last: the graph, or the body, just before the last one that there was room for.
    """

    def __init__(self, limit: int | None = None):
        self.limit = limit
        self.used = 0
        self.before_last: Graph | None = None

    @property
    def is_spent(self) -> bool:
        """Whether there is no room for another one."""
        return self.limit is not None and self.used >= self.limit

    def take(self) -> bool:
        """Whether there is room for one more, which is taken."""
        if self.is_spent:
            return False
        self.used += 1
        return True


@dataclass(frozen=True)
class Rewrite:
    """One application of one rule.

    Attributes:
      rule: the rule's name.
      pass_name: the pass that it ran in.
      numerics: what it may do to values: ``"exact"`` (bit-equal), ``"reassociates"`` (equal in
        real arithmetic, another order of rounding) or ``"approximate"``.
      before: the nodes that it replaced.
      after: the nodes that it made.
      note: a word on why, where there is one.
      replaced: each value that was replaced, with the one that took its place.
    """

    rule: str
    pass_name: str
    numerics: str
    before: tuple[Node, ...]
    after: tuple[Node, ...]
    note: str = ""
    replaced: tuple[tuple[Value, Value], ...] = ()

    def __str__(self) -> str:
        old = ", ".join(node.op for node in self.before)
        new = ", ".join(node.op for node in self.after) or "nothing"
        where = next((str(n.source) for n in self.before if n.source), "")
        return f"{self.rule}: {old} -> {new}" + (f"  # {where}" if where else "")


@dataclass(frozen=True)
class Step:
    """What one pass did.

    Attributes:
      pass_name: the pass.
      seconds: how long it took.
      rewrites: each application of a rule.
      graph_before: the graph that it was given.
      graph: the graph that it gave.
      notes: what else it has to say, such as what it did not understand.
    """

    pass_name: str
    seconds: float
    rewrites: tuple[Rewrite, ...]
    graph_before: Graph
    graph: Graph
    notes: tuple[str, ...] = ()

    @property
    def nodes_before(self) -> int:
        """How many nodes the graph had, subgraphs not included."""
        return len(self.graph_before.nodes)

    @property
    def nodes_after(self) -> int:
        """How many nodes it has, subgraphs and prologue not included."""
        return len(self.graph.nodes)

    @property
    def flops_before(self) -> float:
        """Floating-point operations of one run before; counted when asked for."""
        return _totals(self.graph_before)[0]

    @property
    def flops_after(self) -> float:
        """Floating-point operations of one run after, the prologue not included."""
        return _totals(self.graph)[0]

    @property
    def bytes_before(self) -> float:
        """Bytes that one run read and wrote before; counted when asked for."""
        return _totals(self.graph_before)[1]

    @property
    def bytes_after(self) -> float:
        """Bytes that one run reads and writes after, the prologue not included."""
        return _totals(self.graph)[1]

    def matches(self) -> dict[str, int]:
        """How often each rule applied."""
        counts: dict[str, int] = {}
        for rewrite in self.rewrites:
            counts[rewrite.rule] = counts.get(rewrite.rule, 0) + 1
        return counts


# One step's graph is the next one's, and most passes leave it as it is.
_counted: weakref.WeakKeyDictionary[Graph, tuple[int, int]] = weakref.WeakKeyDictionary()


def _totals(graph: Graph) -> tuple[int, int]:
    """Floating-point operations of one run, and the bytes that it reads and writes."""
    if graph not in _counted:
        cost = graph.cost()
        _counted[graph] = cost.flops, cost.bytes_read + cost.bytes_written
    return _counted[graph]


@dataclass
class Report:
    """What a pipeline did to a graph; ``print`` it for a table.

    Attributes:
      before: the graph as captured.
      steps: one entry per pass, in order.
    """

    before: Graph
    steps: list[Step] = field(default_factory=list)

    @property
    def after(self) -> Graph:
        """The graph after the last pass."""
        return self.steps[-1].graph if self.steps else self.before

    @property
    def rewrites(self) -> list[Rewrite]:
        """Every application of a rule, in order."""
        return [rewrite for step in self.steps for rewrite in step.rewrites]

    @property
    def notes(self) -> list[str]:
        """What the passes have to say beside their rewrites, each line with the pass's name."""
        return [f"{step.pass_name}: {note}" for step in self.steps for note in step.notes]

    @property
    def seconds(self) -> float:
        """How long all passes took."""
        return sum(step.seconds for step in self.steps)

    def to_dict(self) -> dict[str, Any]:
        """The report as plain data for JSON: no arrays, no graphs."""
        return {
            "function": self.before.name,
            "seconds": self.seconds,
            "nodes_before": len(self.before.nodes),
            "nodes_after": len(self.after.nodes),
            "ops_after": dict(sorted(self.after.count().items())),
            "steps": [
                {
                    "pass": step.pass_name,
                    "seconds": step.seconds,
                    "nodes_before": step.nodes_before,
                    "nodes_after": step.nodes_after,
                    "flops_before": step.flops_before,
                    "flops_after": step.flops_after,
                    "bytes_before": step.bytes_before,
                    "bytes_after": step.bytes_after,
                    "rules": step.matches(),
                    "notes": list(step.notes),
                }
                for step in self.steps
            ],
        }

    def __str__(self) -> str:
        lines = [
            f"{self.before.name}: {len(self.before.nodes)} -> {len(self.after.nodes)} nodes, "
            f"{len(self.rewrites)} rewrites in {self.seconds * 1e3:.0f} ms",
            f"{'pass':<18} {'nodes':>15} {'MFLOPs':>17} {'MB moved':>15} {'ms':>7}  rules",
        ]
        for step in self.steps:
            lines.append(_step_line(step))
        lines.extend(self.notes)
        return "\n".join(lines)


def _step_line(step: Step) -> str:
    nodes = f"{step.nodes_before} -> {step.nodes_after}"
    flops = f"{step.flops_before / 1e6:.1f} -> {step.flops_after / 1e6:.1f}"
    moved = f"{step.bytes_before / 1e6:.1f} -> {step.bytes_after / 1e6:.1f}"
    rules = ", ".join(f"{rule} {n}" for rule, n in sorted(step.matches().items()))
    return (
        f"{step.pass_name:<18} {nodes:>15} {flops:>17} {moved:>15} "
        f"{step.seconds * 1e3:>7.1f}  {rules}"
    ).rstrip()
