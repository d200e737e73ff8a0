"""Graph -> JSON: all of a graph as plain data, for other programs to read.

The layout of the document is stable. A change that a reader could notice raises ``VERSION``.

- ``schema`` and ``version``: what this is.
- ``graphs``: the function's graph first, then each body once, however often it is used. Each has
  ``id``, ``name``, ``inputs``, ``outputs`` and ``constants`` (ids of values), ``values``,
  ``nodes``, ``edges`` and ``scopes``, and ``prologue``, the id of the graph that prepares the
  weights, or null.
- a value: ``id``, ``name``, ``kind`` (input, constant, literal, result, or prepared by the
  prologue), ``shape``, ``dtype``, and ``value`` for a literal.
- a node: ``id``, ``op``, ``scope``, ``source`` (file, line, function), ``inputs``, ``outputs``,
  ``params`` (as text) and ``subgraphs`` (name, and the id of a graph).
- an edge: ``source`` and ``target`` (a node, or null for the outside) and ``value``.
- a scope: its ``name`` and its ``nodes``.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from jaxpress.capture.graph import Graph, Literal, Node, Value
from jaxpress.passes.record import Report
from jaxpress.viz.text import param_text

__all__ = ["VERSION", "graph_document", "json_text", "report_document"]

VERSION = 1
MAX_PARAM = 2000


def json_text(thing: Graph | Report) -> str:
    """A graph's or a report's document as text, the same for the same graph."""
    document = report_document(thing) if isinstance(thing, Report) else graph_document(thing)
    return json.dumps(document, indent=1, ensure_ascii=True, allow_nan=False) + "\n"


def graph_document(graph: Graph) -> dict[str, Any]:
    """The graph and its bodies as plain data; see the module for the layout."""
    return _Document().write(graph)


def report_document(report: Report) -> dict[str, Any]:
    """The graphs before and after, and each pass with its rewrites.

    A rewrite names the nodes of ``after`` that it made and that are still there.
    """
    after = _Document()
    after_document = after.write(report.after)
    return {
        "schema": "jaxpress.report",
        "version": VERSION,
        "before": graph_document(report.before),
        "after": after_document,
        "steps": [
            {
                "pass": step.pass_name,
                "seconds": step.seconds,
                "nodes_before": step.nodes_before,
                "nodes_after": step.nodes_after,
                "rewrites": [
                    {
                        "rule": rewrite.rule,
                        "numerics": rewrite.numerics,
                        "note": rewrite.note,
                        "ops_before": [node.op for node in rewrite.before],
                        "ops_after": [node.op for node in rewrite.after],
                        "nodes": after.makers(rewrite.after),
                    }
                    for rewrite in step.rewrites
                ],
            }
            for step in report.steps
        ],
    }


class _Document:
    """One document in the making: what has an id, and the graphs still to be written."""

    def __init__(self) -> None:
        self.graphs: dict[Graph, str] = {}
        self.made: dict[Value, str] = {}

    def graph_id(self, graph: Graph) -> str:
        return self.graphs.setdefault(graph, f"g{len(self.graphs)}")

    def makers(self, nodes: Iterable[Node]) -> list[str]:
        """Ids of the nodes that make what ``nodes`` made, where any still does.

        A pass that changes an operand makes a node anew; its results stay.
        """
        values = (v for node in nodes for v in node.outputs)
        return list(dict.fromkeys(self.made[v] for v in values if v in self.made))

    def write(self, graph: Graph) -> dict[str, Any]:
        self.graph_id(graph)
        written = []
        # Writing a graph gives ids to its bodies, so the list grows while it is gone through.
        while len(written) < len(self.graphs):
            written.append(self.one(list(self.graphs)[len(written)]))
        return {"schema": "jaxpress.graph", "version": VERSION, "graphs": written}

    def one(self, graph: Graph) -> dict[str, Any]:
        prefix = self.graph_id(graph)
        ids: dict[Value, str] = {}
        values: list[dict[str, Any]] = []

        def value_id(value: Value, kind: str) -> str:
            if value not in ids:
                ids[value] = f"{prefix}.v{len(ids)}"
                values.append(_value(ids[value], value, kind))
            return ids[value]

        def operand(value: Value) -> str:
            return value_id(value, "literal" if isinstance(value, Literal) else "result")

        inputs = [value_id(v, "input") for v in graph.inputs]
        constants = [value_id(v, "constant") for v in graph.constants]
        for v in graph.prepared:
            value_id(v, "prepared")
        nodes, edges = [], []
        scopes: dict[str, list[str]] = {}
        made: dict[Value, str] = {}
        for i, node in enumerate(graph.nodes):
            node_id = f"{prefix}.n{i}"
            nodes.append(
                {
                    "id": node_id,
                    "op": node.op,
                    "scope": node.scope,
                    "source": _source(node),
                    "inputs": [operand(v) for v in node.inputs],
                    "outputs": [value_id(v, "result") for v in node.outputs],
                    "params": {k: param_text(v, MAX_PARAM) for k, v in sorted(node.params.items())},
                    "subgraphs": [
                        {"name": body.name, "graph": self.graph_id(body)} for body in node.subgraphs
                    ],
                }
            )
            if node.scope:
                scopes.setdefault(node.scope, []).append(node_id)
            made.update(dict.fromkeys(node.outputs, node_id))
            self.made.update(dict.fromkeys(node.outputs, node_id))
            edges += [
                {"source": made.get(v), "target": node_id, "value": ids[v]}
                for v in node.inputs
                if not isinstance(v, Literal)
            ]
        outputs = [operand(v) for v in graph.outputs]
        edges += [
            {"source": made.get(v), "target": None, "value": ids[v]}
            for v in graph.outputs
            if not isinstance(v, Literal)
        ]
        prologue = graph.prologue
        return {
            "id": prefix,
            "name": graph.name,
            "prologue": None if prologue is None else self.graph_id(prologue),
            "inputs": inputs,
            "outputs": outputs,
            "constants": constants,
            "values": values,
            "nodes": nodes,
            "edges": edges,
            "scopes": [{"name": name, "nodes": held} for name, held in scopes.items()],
        }


def _value(value_id: str, value: Value, kind: str) -> dict[str, Any]:
    row: dict[str, Any] = {
        "id": value_id,
        "name": value.name,
        "kind": kind,
        "shape": [n if isinstance(n, int) else str(n) for n in value.shape],
        "dtype": None if value.dtype is None else str(value.dtype),
    }
    if isinstance(value, Literal):
        row["value"] = param_text(value.val)
    return row


def _source(node: Node) -> dict[str, Any] | None:
    source = node.source
    if source is None:
        return None
    return {"file": source.file, "line": source.line, "function": source.function}
