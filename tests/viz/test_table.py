import io

import jax
import jax.numpy as jnp
from jax import lax
from rich.console import Console

from jaxpress.capture import Graph, trace
from jaxpress.viz.table import op_rows, op_table


def printed(graph: Graph, **options) -> str:
    file = io.StringIO()
    Console(width=100, color_system=None, file=file).print(op_table(graph, **options))
    return file.getvalue()


def test_rows_hold_counts_costs_and_weights(mlp: Graph) -> None:
    rows = {row.op: row for row in op_rows(mlp)}
    product = rows["dot_general"]
    assert product.count == 2
    assert product.flops == 2 * (2 * 8 * 16 + 2 * 16 * 4)
    read = (2 * 8 + 8 * 16) + (2 * 16 + 16 * 4)
    assert product.bytes == 4 * (read + 2 * 16 + 2 * 4)
    assert product.params == 8 * 16 + 16 * 4
    assert rows["add"].params == 16 + 4


def test_the_most_expensive_comes_first(mlp: Graph) -> None:
    flops = [row.flops for row in op_rows(mlp)]
    assert flops == sorted(flops, reverse=True)
    assert op_rows(mlp) == op_rows(mlp)


def test_rows_add_up_to_the_graphs_cost(mlp: Graph, rnn: Graph, stack: Graph) -> None:
    for graph in (mlp, rnn, stack):
        rows, cost = op_rows(graph), graph.cost()
        assert sum(r.flops for r in rows) == cost.flops
        assert sum(r.bytes for r in rows) == cost.bytes_read + cost.bytes_written
        assert {r.op: r.count for r in rows} == dict(graph.count())


def test_a_loop_body_counts_as_often_as_it_runs() -> None:
    def fn(x):
        return lax.scan(lambda c, y: (c * y, None), x[0], x)[0]

    rows = {r.op: r for r in op_rows(trace(fn)(jnp.ones((10, 3))))}
    assert rows["mul"].count == 1
    assert rows["mul"].flops == 30
    assert rows["scan"].bytes > 0


def test_the_table_has_a_line_for_each_and_totals(mlp: Graph) -> None:
    text = printed(mlp)
    assert "mlp" in text
    for name in ("op", "count", "FLOPs", "bytes", "params", "dot_general", "total"):
        assert name in text
    total = next(line for line in text.splitlines() if "total" in line)
    assert "212" in total


def test_what_is_estimated_is_said() -> None:
    graph = trace(lambda x: lax.while_loop(lambda c: c < 3.0, lambda c: c * 2.0, x))(1.0)
    assert "while loop counts as one turn" in " ".join(printed(graph).split())


def test_names_are_not_read_as_markup() -> None:
    def fn(x):
        return jax.lax.sin(x)

    fn.__name__ = "[bold red]x[/]"
    graph = trace(fn)(1.0)
    assert "[bold red]x[/]" in printed(graph)
    assert "[link]" in printed(graph, title="[link]")
