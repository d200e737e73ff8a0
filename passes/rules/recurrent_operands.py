"""The operands of a recurrent op, put together from where a cell's weights and inputs stand."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxpress.capture import Literal, Value
from jaxpress.passes.rules.recurrent_cells import Cell, Gate
from jaxpress.passes.rules.recurrent_refs import Ref
from jaxpress.passes.rules.recurrent_terms import Bias, Opaque, Product
from jaxpress.passes.rules.weights import as_vector

__all__ = ["data_of", "operands_for", "weights_of"]

Read = Callable[[Value], Any]
ReadColumns = Callable[[Ref], Any]


def weights_of(cell: Cell) -> list[Value]:
    """The values that a cell's weights and biases are parts of."""
    found: dict[Value, None] = {}
    for gate in cell.gates:
        for product in (*gate.hidden, *gate.inputs):
            found[product.weight] = None
        for term in (*gate.rest, *gate.hidden_biases):
            if isinstance(term, Bias) and not isinstance(term.value, Literal):
                found[term.value] = None
    return list(found)


def data_of(cell: Cell) -> list[Ref]:
    """The inputs of a cell, as columns of values."""
    found: dict[Ref, None] = {}
    for gate in cell.gates:
        found.update((p.source, None) for p in gate.inputs)
        found.update((t.ref, None) for t in gate.rest if isinstance(t, Opaque))
    return list(found)


def operands_for(cell: Cell, read: Read, columns: ReadColumns) -> dict[str, Any]:
    """x, w_ih, w_hh and biases as the named op takes them; without states.

    Args:
        cell: what was found.
        read: the array of a weight.
        columns: the array of an input's columns, in the op's order of axes.
    """
    gates = cell.gates
    out: dict[str, Any] = {"w_hh": _matrix([_one_source(g.hidden, g) for g in gates], read)}
    sources = list(dict.fromkeys(p.source for gate in gates for p in gate.inputs))
    tables = [[_of_source(g, source) for g in gates] for source in sources]
    opaque = any(isinstance(t, Opaque) for g in gates for t in g.rest)
    if sources and not opaque and all(all(table) for table in tables):
        out["x"] = _join([columns(s) for s in sources], -1).astype(cell.work)
        out["w_ih"] = _join([_matrix(table, read) for table in tables], 0)
    else:
        out["x"] = _projected(cell, sources, tables, read, columns)
    out["b"] = _vector([[t for t in g.rest if isinstance(t, Bias)] for g in gates], cell, read)
    if cell.kind == "gru":
        out["b_hh"] = _vector([list(g.hidden_biases) for g in gates], cell, read, signed=False)
    return out


Signed = tuple[Product, int]


def _one_source(products: Sequence[Product], gate: Gate) -> list[Signed]:
    return [(p, p.sign * gate.sign) for p in products]


def _of_source(gate: Gate, source: Ref) -> list[Signed]:
    return _one_source([p for p in gate.inputs if p.source == source], gate)


def _join(parts: list[Any], axis: int) -> Any:
    return parts[0] if len(parts) == 1 else jnp.concatenate(parts, axis)


def _matrix(gates: list[list[Signed]], read: Read) -> Any:
    """The gates' matrices side by side; neighbours in one matrix are taken as they stand."""
    if all(len(g) == 1 for g in gates):
        parts = []
        runs = _runs([g[0] for g in gates])
        for p, sign, lo, hi in runs:
            parts.append(_piece(p, sign, lo, hi, read))
        return _join(parts, 1)
    return _join([_total([_piece(p, s, *p.columns, read) for p, s in g]) for g in gates], 1)


def _runs(gates: list[Signed]) -> list[tuple[Product, int, Any, Any]]:
    """Neighbouring columns of one matrix, as few ranges as possible."""
    runs: list[tuple[Product, int, Any, Any]] = []
    for p, sign in gates:
        lo, hi = p.columns
        if runs:
            q, other, first, last = runs[-1]
            same = (q.weight, q.axis, q.rows, other) == (p.weight, p.axis, p.rows, sign)
            if same and last == lo:
                runs[-1] = (q, sign, first, hi)
                continue
        runs.append((p, sign, lo, hi))
    return runs


def _piece(p: Product, sign: int, lo: Any, hi: Any, read: Read) -> Any:
    """``p``'s part of its matrix as (in, out), with other columns."""
    w = read(p.weight)
    (first, last), (left, right) = ranges = (p.rows, (lo, hi))[:: 1 if p.axis == 0 else -1]
    if ranges != ((0, w.shape[0]), (0, w.shape[1])):
        w = lax.slice(w, (first, left), (last, right))
    w = w if p.axis == 0 else lax.transpose(w, (1, 0))
    return w if sign > 0 else -w


def _range(x: Any, axis: int, lo: Any, hi: Any) -> Any:
    if (lo, hi) == (0, x.shape[axis]):
        return x
    return lax.slice_in_dim(x, lo, hi, axis=axis)


def _total(parts: list[Any]) -> Any:
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return total


def _projected(
    cell: Cell,
    sources: list[Ref],
    tables: list[list[list[Signed]]],
    read: Read,
    columns: ReadColumns,
) -> Any:
    """The gates' inputs before their activation, biases left out: (..., gates * hidden)."""
    width = cell.hidden
    parts: list[list[Any]] = [[] for _ in cell.gates]
    precision = dict(cell.params)["precision"]
    for source, table in zip(sources, tables, strict=True):
        x = columns(source).astype(cell.work)
        if all(table):
            whole = jnp.matmul(x, _matrix(table, read), precision=precision)
            for i, part in enumerate(parts):
                part.append(_range(whole, whole.ndim - 1, i * width, (i + 1) * width))
        else:
            for part, gate in zip(parts, table, strict=True):
                if gate:
                    part.append(jnp.matmul(x, _matrix([gate], read), precision=precision))
    for part, gate in zip(parts, cell.gates, strict=True):
        for term in gate.rest:
            if isinstance(term, Opaque):
                x = columns(term.ref)
                part.append(x if term.sign * gate.sign > 0 else -x)
    some = next(x for part in parts for x in part)
    shape = (*some.shape[:-1], width)
    zero = jnp.zeros(shape, cell.work)
    return jnp.concatenate(
        [jnp.broadcast_to(_total(part), shape) if part else zero for part in parts], -1
    )


def _vector(gates: list[list[Bias]], cell: Cell, read: Read, signed: bool = True) -> Any:
    """The sum of the gates' biases, (gates * hidden,); None where there is none."""
    width, dtype = cell.hidden, cell.work
    numbers = np.zeros(len(gates))
    vectors: list[list[tuple[Bias, int]]] = [[] for _ in gates]
    for i, gate in enumerate(gates):
        for bias in gate:
            sign = bias.sign * (cell.gates[i].sign if signed else 1)
            number = _number(bias, dtype)
            if number is None:
                vectors[i].append((bias, sign))
            else:
                numbers[i] += sign * number
    parts = []
    # One vector of each gate makes one of all.
    for layer in range(max(map(len, vectors))):
        parts.append(
            _of_vectors([v[layer] if layer < len(v) else None for v in vectors], cell, read)
        )
    if numbers.any():
        parts.append(_join([jnp.full(width, n, dtype) for n in numbers], 0))
    return _total(parts) if parts else None


def _number(bias: Bias, dtype: Any) -> float | None:
    """A bias that is a number in the program, as it is in ``dtype``."""
    if not isinstance(bias.value, Literal):
        return None
    return float(np.asarray(bias.value.val).astype(dtype))


def _of_vectors(layer: list[tuple[Bias, int] | None], cell: Cell, read: Read) -> Any:
    """One bias of each gate, side by side; neighbours in one vector are taken as they stand."""
    width = cell.hidden
    first = layer[0]
    if first is not None and width != 1:
        base, sign = first
        whole = [
            (Bias(base.value, base.length, lo, lo + width, base.sign), sign)
            for lo in (base.lo + i * width for i in range(len(layer)))
        ]
        if layer == whole:
            v = as_vector(read(base.value), base.length, cell.work)
            v = _range(v, 0, base.lo, base.lo + len(layer) * width)
            return v if sign > 0 else -v
    parts = []
    for entry in layer:
        if entry is None:
            parts.append(jnp.zeros(width, cell.work))
            continue
        bias, sign = entry
        v = _range(as_vector(read(bias.value), bias.length, cell.work), 0, bias.lo, bias.hi)
        v = v if v.shape == (width,) else jnp.broadcast_to(v, (width,))
        parts.append(v if sign > 0 else -v)
    return _join(parts, 0)
