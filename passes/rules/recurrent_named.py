"""A named op of one step, such as ``lstm_cell``, read as the cell that it is."""

from __future__ import annotations

from typing import Any

from jaxpress import nnops
from jaxpress.capture import Node, Value
from jaxpress.passes.rules.recurrent_cells import Cell, Gate
from jaxpress.passes.rules.recurrent_polynomial import Unfit
from jaxpress.passes.rules.recurrent_refs import Ref
from jaxpress.passes.rules.recurrent_terms import Bias, Opaque, Product, Reader

__all__ = ["find_named"]

_KINDS = {"lstm_cell": ("lstm", 4), "gru_cell": ("gru", 3), "rnn_cell": ("rnn", 1)}


def find_named(reader: Reader, news: tuple[Value, ...], olds: tuple[Value, ...]) -> Cell:
    """The cell whose results are ``news``, in the named op's order, and whose state is ``olds``.

    Raises:
        Unfit: they are not those of a named op of one step.
    """
    node = reader.view.producer(news[0])
    if node is None or node.op not in _KINDS or "mapped" in node.params:
        raise Unfit("no named cell makes the state")
    kind, gates = _KINDS[node.op]
    given = nnops.registry()[node.op].operands(reader.view.inputs(node), node.params)
    states = (given["h"], given["c"]) if kind == "lstm" else (given["h"],)
    if len(news) != len(states) or any(a is not b for a, b in zip(news, node.outputs, strict=True)):
        raise Unfit(f"the state is not what {node.op} gives")
    if any(a is not b for a, b in zip(states, olds, strict=True)):
        raise Unfit(f"the state is not what {node.op} takes")
    weights = [v for k, v in given.items() if k.startswith(("w_", "b"))]
    if not reader.is_plain(given["x"]) or not all(map(reader.is_weight, weights)):
        raise Unfit(f"{node.op} takes what changes with the state")
    work = given["w_hh"].dtype
    if any(v.dtype != work for v in (*weights, given["x"])) or olds[0].dtype != news[0].dtype:
        raise Unfit(f"{node.op} has operands of different dtypes")
    hidden = given["w_hh"].shape[0]
    params = {k: v for k, v in node.params.items() if k != "operands"}
    return Cell(
        kind,
        tuple(_gate(node, given, i, hidden) for i in range(gates)),
        olds[0],
        olds[1] if kind == "lstm" else None,
        tuple(sorted(params.items())),
        hidden,
        work,
        news[0].dtype,
        (),
    )


def _gate(node: Node, given: dict[str, Value], i: int, hidden: Any) -> Gate:
    """The ``i``-th gate: its columns of the weights and biases."""
    columns = (i * hidden, (i + 1) * hidden)
    out = Ref(node.output, Ref.whole(node.output).axes, 0, hidden)
    x = Ref.whole(given["x"])

    def product(source: Ref, weight: Value) -> Product:
        rows = (0, weight.shape[0])
        precision = node.params["precision"]
        return Product(out, source, weight, 0, rows, columns, 1, precision)

    def bias(name: str) -> tuple[Bias, ...]:
        if name not in given:
            return ()
        return (Bias(given[name], given[name].shape[0], *columns, 1),)

    inputs: tuple[Product, ...] = ()
    rest: tuple[Bias | Opaque, ...] = bias("b")
    if "w_ih" in given:
        inputs = (product(x, given["w_ih"]),)
    else:
        rest = (Opaque(Ref(x.value, x.axes, *columns), 1), *rest)
    recurrent = bias("b_hh")
    # A bias of n inside of the reset gate stays there; any other is as good as the input's.
    inside = i == 2 and node.params.get("reset_after", False)
    return Gate(
        (product(Ref.whole(given["h"]), given["w_hh"]),),
        inputs,
        rest if inside else (*rest, *recurrent),
        recurrent if inside else (),
    )
