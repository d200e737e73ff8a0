"""What a graph does and costs, by kind of operation, as rows and as a table for a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from jaxpress.capture.graph import Graph, Value
from jaxpress.viz.boxes import size_of
from jaxpress.viz.site import Site
from jaxpress.viz.text import clean, count_text

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["OpRow", "op_rows", "op_table"]


class OpRow(NamedTuple):
    """All operations of one kind.

    Attributes:
      op: the operation's name.
      count: how often it occurs, bodies included.
      flops: floating-point operations of one run, in bodies as often as they run.
      bytes: bytes read and written in one run; what a body moves stands in the row of the node
        that runs it.
      params: how many numbers its weights hold, each array counted once in a row.
    """

    op: str
    count: int
    flops: int
    bytes: int
    params: int


def op_rows(graph: Graph) -> list[OpRow]:
    """One row for each kind of operation, the most expensive first.

    >>> import jax.numpy as jnp
    >>> from jaxpress.capture import trace
    >>> w = jnp.ones((3, 4))
    >>> op_rows(trace(lambda x: jnp.tanh(x @ w))(jnp.ones((2, 3))))[0]
    OpRow(op='dot_general', count=1, flops=48, bytes=104, params=12)
    """
    cost = graph.cost()
    site = Site(graph, top=True)
    counts = graph.count()
    moved = dict.fromkeys(counts, 0)
    weights: dict[str, dict[Value, None]] = {op: {} for op in counts}
    for node in graph.nodes:
        spent = cost.per_node[node]
        moved[node.op] += spent.bytes_read + spent.bytes_written
        for value in node.inputs:
            weights[node.op].update(dict.fromkeys(site.of(value).roots))
    rows = [
        OpRow(op, n, cost.flops_by_op.get(op, 0), moved[op], sum(map(size_of, weights[op])))
        for op, n in counts.items()
    ]
    return sorted(rows, key=lambda row: (-row.flops, -row.bytes, -row.count, row.op))


def op_table(graph: Graph, title: str | None = None) -> Table:
    """The rows as a table, with totals; print it with ``rich.print``.

    Args:
      graph: a graph.
      title: the line above; the graph's name by default.

    Returns:
      A ``rich.table.Table`` of operation, count, FLOPs, bytes and parameters.

    >>> from jaxpress.capture import trace
    >>> table = op_table(trace(lambda x: x * 2.0 + 1.0)(1.0))
    >>> [str(column.header) for column in table.columns]
    ['op', 'count', 'FLOPs', 'bytes', 'params']
    """
    from rich.table import Table
    from rich.text import Text

    rows, cost = op_rows(graph), graph.cost()
    # As Text, since a name in brackets would be read as markup.
    table = Table(title=Text(clean(title if title is not None else graph.name, 120)))
    table.add_column("op")
    for name in ("count", "FLOPs", "bytes", "params"):
        table.add_column(name, justify="right")
    for row in rows:
        numbers = (count_text(n) if n else "" for n in row[2:])
        table.add_row(Text(clean(row.op)), str(row.count), *numbers)
    table.add_section()
    moved = cost.bytes_read + cost.bytes_written
    roots = Site(graph, top=True).weights()
    table.add_row(
        "total",
        str(sum(row.count for row in rows)),
        *map(count_text, (cost.flops, moved, sum(map(size_of, roots)))),
    )
    if cost.notes:
        table.caption = Text("; ".join(clean(note, 120) for note in cost.notes))
    return table
