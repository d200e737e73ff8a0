"""A graph as text: one line a node, short however large the graph is, the same in every run."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from jaxpress.capture.avals import short_aval
from jaxpress.capture.cost import amount, graph_cost
from jaxpress.capture.flops import nbytes
from jaxpress.capture.graph import Graph, Node, Value
from jaxpress.capture.params import one_line, param_texts

__all__ = ["graph_summary", "graph_text", "node_text"]

_MAX_VALUES = 8  # of a list of inputs, outputs or operands
_MAX_NAME = 60
_SUMMARY_OPS = 12


def graph_text(graph: Graph, max_nodes: int | None = None) -> str:
    """The graph as text.

    A header tells inputs, outputs, constants and the prologue. Each node is one line: its results
    with their types, the call with the parameters that say something, its scope and the user's
    line. The bodies of a node are indented below it; a body that several nodes share is shown
    below the first.

    Args:
      graph: what to show.
      max_nodes: how many nodes to show at most; where there are more, those in the middle are left
        out. ``None`` shows all.

    >>> from jax import lax
    >>> from jaxpress.capture import trace
    >>> print(graph_text(trace(lambda x: lax.sin(x) * 2.0)(1.0), 0))
    <lambda>(x: f32[]) -> f32[]
      ... 2 more nodes ..., graph.text() shows all
      return mul_1
    """
    return "\n".join([*_header(graph), *_Printer().lines(graph, max_nodes, "  ", "")])


def graph_summary(graph: Graph) -> str:
    """A table of the operations that cost most, below the header of ``graph.text()``.

    Counts include bodies, a shared one at each use; FLOPs are those of one run.
    """
    cost, counts = graph_cost(graph), graph.count()
    total = sum(counts.values())
    nodes = f"  nodes: {len(graph.nodes)}" + (
        f", {total} with bodies" * (total != len(graph.nodes))
    )
    lines = [*_header(graph), nodes, *(f"  {line}" for line in str(cost).splitlines())]

    def rank(op: str) -> tuple[int, int, str]:
        return -cost.flops_by_op.get(op, 0), -counts[op], op

    ranked = sorted(counts, key=rank)
    if not ranked:
        return "\n".join(lines)
    shown = ranked if len(ranked) <= _SUMMARY_OPS + 1 else ranked[:_SUMMARY_OPS]
    rows = [(one_line(op, 40), counts[op], cost.flops_by_op.get(op, 0)) for op in shown]
    if rest := ranked[len(shown) :]:
        flops = sum(cost.flops_by_op.get(op, 0) for op in rest)
        rows.append((f"{len(rest)} other ops", sum(counts[op] for op in rest), flops))
    width = max(len(name) for name, _, _ in rows)
    lines.append(f"  {'op':<{width}} {'count':>8} {'FLOPs':>8}  share")
    for name, count, flops in rows:
        share = f"{flops / cost.flops:6.1%}" if cost.flops else "     -"
        lines.append(f"  {name:<{width}} {count:>8} {amount(flops).strip():>8} {share}")
    return "\n".join(lines)


def _header(graph: Graph) -> list[str]:
    lines = [_signature(graph)]
    if graph.constants:
        size = amount(sum(map(nbytes, graph.constants)))
        lines.append(f"  constants: {len(graph.constants)}, {size}B: {_typed(graph.constants)}")
    if graph.weight_inputs:
        size = amount(sum(map(nbytes, graph.weight_inputs)))
        lines.append(f"  weights: {_plural(len(graph.weight_inputs), 'input')}, {size}B")
    if graph.prologue is not None:
        n, m = len(graph.prologue.nodes), len(graph.prologue.outputs)
        lines.append(f"  prologue: {_plural(n, 'node')} -> {_plural(m, 'prepared value')}")
    return lines


class _Printer:
    """Remembers which bodies it has shown, and where."""

    def __init__(self) -> None:
        self._shown: dict[Graph, str] = {}

    def lines(self, graph: Graph, budget: int | None, indent: str, path: str) -> Iterator[str]:
        """The nodes of one body, and its results."""
        nodes = graph.nodes
        if budget is None or len(nodes) <= budget:
            head, tail = nodes, nodes[:0]
        else:
            budget = max(0, budget)
            n_tail = budget // 3
            head, tail = nodes[: budget - n_tail], nodes[len(nodes) - n_tail :]
        left_out = len(nodes) - len(head) - len(tail)
        # What the nodes here leave of the budget is shared out among their bodies.
        share = None
        if budget is not None:
            bodies = sum(len(node.subgraphs) for part in (head, tail) for node in part)
            share = (budget - len(head) - len(tail)) // max(1, bodies)
        for node in head:
            yield from self._node(node, share, indent, path)
        if left_out:
            yield f"{indent}... {left_out} more nodes ..., graph.text() shows all"
        for node in tail:
            yield from self._node(node, share, indent, path)
        results = _listed(graph.outputs, lambda v: one_line(v.name, _MAX_NAME))
        yield f"{indent}return {results}".rstrip()

    def _node(self, node: Node, share: int | None, indent: str, path: str) -> Iterator[str]:
        bodies = node.subgraphs
        if bodies and share is not None and share < 2:
            inside = "; ".join(map(brief, bodies))
            yield indent + node_text(node, f" {{ {inside} }}")
            return
        yield indent + node_text(node)
        for body in bodies:
            where = f"{path}{node.outputs[0].name if node.outputs else node.op}.{body.name}"
            if body in self._shown:
                yield f"{indent}  {body.name}: the same as {self._shown[body]}"
                continue
            self._shown[body] = where
            name = body.name
            yield f"{indent}  {name}({_typed(body.inputs)}):" + (
                f"  # constants: {_typed(body.constants)}" if body.constants else ""
            )
            yield from self.lines(body, share, indent + "    ", f"{where}/")


def node_text(node: Node, inside: str = "") -> str:
    """One node as one line, without its bodies.

    Args:
      node: the node.
      inside: what to show of its bodies, behind the call.
    """
    outs = _typed(node.outputs)
    call = f"{node.op}({', '.join((*_operands(node), *_params(node)))}){inside}"
    scope = one_line(node.scope, _MAX_NAME)
    source = node.source
    place = (
        f"{source.file.replace(chr(92), '/').rpartition('/')[2]}:{source.line}" if source else ""
    )
    comment = " · ".join(part for part in (scope, place) if part)
    text = f"{outs} = {call}" if outs else call
    return f"{text}  # {comment}" if comment else text


def brief(graph: Graph, depth: int = 3) -> str:
    """A body in a few words: its operations if they are few."""
    nodes = graph.nodes
    if len(nodes) > 3:
        return f"{len(nodes)} nodes"
    if len(nodes) == 1 and nodes[0].subgraphs and depth:
        inside = "; ".join(brief(body, depth - 1) for body in nodes[0].subgraphs)
        return f"{nodes[0].op} {{ {inside} }}"
    return ", ".join(node.op for node in nodes) or "nothing"


def _signature(graph: Graph) -> str:
    outs = _listed(graph.outputs, lambda v: short_aval(v.aval))
    outs = outs if len(graph.outputs) == 1 else f"({outs})"
    return f"{one_line(graph.name, _MAX_NAME)}({_typed(graph.inputs)}) -> {outs}"


def _operands(node: Node) -> Iterator[str]:
    # Of an op with optional operands, a reader needs to know which ones are there.
    names = node.params.get("operands")
    names = names if isinstance(names, tuple) and len(names) == len(node.inputs) else None
    texts = [
        f"{names[i]}={one_line(v.name, _MAX_NAME)}" if names and i else one_line(v.name, _MAX_NAME)
        for i, v in enumerate(node.inputs)
    ]
    yield from _few(texts)


def _params(node: Node) -> Iterator[str]:
    for key, text in param_texts(node).items():
        yield f"{key}={text}"


def _typed(values: Sequence[Value]) -> str:
    return _listed(values, lambda v: f"{one_line(v.name, _MAX_NAME)}: {short_aval(v.aval)}")


def _listed(values: Sequence[Value], show: Callable[[Value], str]) -> str:
    if len(values) <= _MAX_VALUES:
        return ", ".join(map(show, values))
    # The first ones, and the last: a model's data comes after its many parameters.
    head, tail = values[: _MAX_VALUES // 2], values[-2:]
    more = f"... {len(values) - len(head) - len(tail)} more ..."
    return ", ".join((*map(show, head), more, *map(show, tail)))


def _few(texts: list[str]) -> list[str]:
    if len(texts) <= _MAX_VALUES:
        return texts
    n = _MAX_VALUES // 2
    return [*texts[:n], f"... {len(texts) - n - 2} more ...", *texts[-2:]]


def _plural(n: int, noun: str) -> str:
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"
