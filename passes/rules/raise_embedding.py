"""Rows taken from a table of weights become ``embedding``; tied scores become ``attend``."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxpress import nnops
from jaxpress.capture import Node, Value
from jaxpress.passes.pattern import State
from jaxpress.passes.rule import Match, Rule, RuleSet
from jaxpress.passes.rules.one_hot_of import one_hot_of
from jaxpress.passes.view import View, is_parameter_like, scalar_value

__all__ = ["EMBEDDING_RULES"]

_MODES = {
    lax.GatherScatterMode.FILL_OR_DROP: "fill",
    lax.GatherScatterMode.CLIP: "clip",
    lax.GatherScatterMode.PROMISE_IN_BOUNDS: "promise_in_bounds",
}
_ADDS_AXES = frozenset({"broadcast_in_dim", "reshape", "expand_dims"})
# A table has few users; a value with more of them is none, or not worth the search.
_MAX_USERS = 64


def _is_table(view: View, table: Value) -> bool:
    if table.ndim < 2 or not is_parameter_like(view, table):
        return False
    return view.is_known(table) or jnp.issubdtype(table.dtype, jnp.floating)


class _LookupPattern:
    """A ``gather`` of whole rows, with the arithmetic that lets negative ids count from the end."""

    names = frozenset({"gather"})
    size = 4

    def find(self, state: State, node: Node) -> Match | None:
        view = state.view
        table, starts = view.inputs(node)[:2]
        params = node.params
        numbers, sizes = params["dimension_numbers"], tuple(params["slice_sizes"])
        mode = _MODES.get(lax.GatherScatterMode.from_any(params["mode"]))
        rows = (1, *table.shape[1:])
        reason = None
        if not _is_table(view, table):
            reason = f"{table!r} is no table of weights"
        elif mode is None:
            reason = f"its mode is {params['mode']}"
        elif sizes != rows or tuple(numbers.collapsed_slice_dims) not in ((0,), ()):
            reason = "it does not take whole rows"
        elif tuple(getattr(numbers, "operand_batching_dims", ())):
            reason = "every batch has a table of its own"
        elif not jnp.issubdtype(starts.dtype, jnp.integer):
            reason = f"ids are {starts.dtype}"
        if reason is not None:
            state.fail(reason, node)
            return None
        found = _first_column(view, starts, tuple(numbers.start_index_map), mode)
        if found is None:
            state.fail("its indices are of other axes than the rows", node)
            return None
        column, passed = found
        ids, from_end, wrapped, order = _from_end(view, column, table.shape[0])
        kept = len(sizes) - len(numbers.collapsed_slice_dims)
        info = {
            "mode": mode,
            "from_end": from_end,
            "order": order,
            "fill_value": _fill_value(params.get("fill_value"), table.dtype, mode),
            "offset": tuple(int(d) for d in numbers.offset_dims),
            "kept": kept,
        }
        values = {"ids": ids, "table": table}
        return Match(view, node, values, matched=(*passed, *wrapped), info=info)


def _first_column(
    view: View, starts: Value, index_map: tuple[int, ...], mode: str | None
) -> tuple[Value, list[Node]] | None:
    """The indices into rows, perhaps with a trailing axis of size 1."""
    if index_map == (0,):
        return starts, []
    # With several columns the others say where in a row to start: at 0, since all of it is taken,
    # and what would run over is moved back.
    node = view.producer(starts)
    if mode != "clip" or index_map[:1] != (0,) or node is None or node.op != "concatenate":
        return None
    first = view.inputs(node)[0]
    if node.params["dimension"] != starts.ndim - 1 or first.shape[-1] != 1:
        return None
    return first, [node]


def _from_end(
    view: View, ids: Value, rows: Any
) -> tuple[Value, bool, list[Node], tuple[int, ...] | None]:
    """``i`` of ``where(i < 0, i + rows, i)``, whether it was that, and the operations.

    The last is how it is transposed after, as under ``vmap`` over a later axis.
    """
    value, passed = ids, []
    node = view.producer(value)
    while node is not None and (
        (node.op in _ADDS_AXES and len(view.inputs(node)) == 1 and _adds_last_axis(view, node))
        or _widens(view, node)
    ):
        passed.append(node)
        value = view.inputs(node)[0]
        node = view.producer(value)
    order, turned = None, []
    if node is not None and node.op == "transpose":
        order, turned = tuple([int(i) for i in node.params["permutation"]]), [node]
        node = view.producer(view.inputs(node)[0])
    if node is not None and node.op == "select_n" and len(view.inputs(node)) == 3:
        which, plain, added = view.inputs(node)
        less, plus = view.producer(which), view.producer(added)
        if (
            less is not None
            and plus is not None
            and less.op == "lt"
            and plus.op == "add"
            and view.inputs(less)[0] is plain
            and plain in view.inputs(plus)
            and _is_scalar(view, view.inputs(less)[1], 0)
            and any(_is_scalar(view, v, rows) for v in view.inputs(plus) if v is not plain)
        ):
            passed.extend((*turned, node, less, plus))
            return _narrowest(view, plain, passed), True, passed, order
    # Ids that cannot be negative are as good as ids that would count from the end.
    unsigned = jnp.issubdtype(value.dtype, jnp.unsignedinteger)
    return value, unsigned, passed, None


def _adds_last_axis(view: View, node: Node) -> bool:
    x, y = view.inputs(node)[0], node.output
    if y.shape != (*x.shape, 1):
        return False
    if node.op != "broadcast_in_dim":
        return True
    return tuple(node.params["broadcast_dimensions"]) == tuple(range(x.ndim))


def _widens(view: View, node: Node) -> bool:
    """A conversion that the op makes by itself."""
    if node.op != "convert_element_type":
        return False
    x, y = view.inputs(node)[0], node.output
    return jnp.issubdtype(x.dtype, jnp.integer) and x.dtype.itemsize < 4 and y.dtype == jnp.int32


def _narrowest(view: View, ids: Value, passed: list[Node]) -> Value:
    node = view.producer(ids)
    if node is None or not _widens(view, node):
        return ids
    passed.append(node)
    return view.inputs(node)[0]


def _is_scalar(view: View, value: Value, wanted: Any) -> bool:
    found = scalar_value(view, value)
    return found is not None and isinstance(wanted, int) and int(found) == wanted


def _fill_value(value: Any, dtype: Any, mode: str | None) -> float | None:
    """What is filled in; None for what JAX fills in by itself."""
    if mode != "fill" or value is None:
        return None
    if jnp.issubdtype(dtype, jnp.inexact):
        return None if np.isnan(value) else float(value)
    if dtype == jnp.bool_:
        return None if value else 0.0
    info = jnp.iinfo(dtype)
    default = info.min if jnp.issubdtype(dtype, jnp.signedinteger) else info.max
    return None if int(value) == default else float(value)


def _lookup_guard(match: Match) -> str | None:
    fill = match.info["fill_value"]
    if fill is not None and np.asarray(fill).astype(match["table"].dtype) != fill:
        return f"it fills in {fill}"
    if match["table"].shape[0] == 0:
        return "the table is empty"
    return None


def _raise_embedding(ids: Any, table: Any, *, match: Match) -> Any:
    info = match.info
    out = match.root.output
    offset, kept = info["offset"], info["kept"]
    batch = tuple(n for i, n in enumerate(out.shape) if i not in offset)
    if info["order"] is not None:
        ids = lax.transpose(ids, info["order"])
    if ids.shape != batch:
        ids = lax.reshape(ids, batch)
    y = nnops.embedding(
        ids,
        table,
        mode=info["mode"],
        fill_value=info["fill_value"],
        from_end=info["from_end"],
    )
    if kept == table.ndim:
        y = lax.expand_dims(y, (len(batch),))
    made = iter(range(len(batch)))
    rows = {d: len(batch) + i for i, d in enumerate(offset)}
    order = [rows[d] if d in rows else next(made) for d in range(out.ndim)]
    return y if order == list(range(out.ndim)) else lax.transpose(y, order)


# gather(table, where(ids < 0, ids + rows, ids)) -> embedding(ids, table)
RAISE_EMBEDDING = Rule(
    "raise_embedding", _LookupPattern(), _raise_embedding, _lookup_guard, shared=True
)


class _RowPattern:
    """A ``dynamic_slice`` of one row of a known table: how ``table[i]`` looks for a single id."""

    names = frozenset({"dynamic_slice"})
    size = 4

    def find(self, state: State, node: Node) -> Match | None:
        view = state.view
        table, row = view.inputs(node)[:2]
        # An array that is an input may well be data, one slice of which is taken after another.
        if table.ndim < 2 or not view.is_known(table) or view.is_known(row):
            state.fail(lambda: f"{table!r} is no table that is known before the data", node)
            return None
        if tuple(node.params["slice_sizes"]) != (1, *table.shape[1:]):
            state.fail("it does not take a whole row", node)
            return None
        ids, from_end, wrapped, _ = _from_end(view, row, table.shape[0])
        info = {"from_end": from_end}
        return Match(view, node, {"ids": ids, "table": table}, matched=wrapped, info=info)


def _raise_row(ids: Any, table: Any, *, match: Match) -> Any:
    y = nnops.embedding(ids, table, mode="clip", from_end=match.info["from_end"])
    return lax.expand_dims(y, (0,))


# dynamic_slice(table, id) -> embedding(id, table)
RAISE_EMBEDDED_ROW = Rule("raise_embedded_row", _RowPattern(), _raise_row, shared=True)


class _OneHotProductPattern:
    """``one_hot(ids) @ table``, on either side."""

    names = frozenset({"dot_general"})
    size = 4

    def find(self, state: State, node: Node) -> Match | None:
        view = state.view
        ((left_axes, right_axes), (batch, _)) = node.params["dimension_numbers"]
        left, right = view.inputs(node)
        if len(batch) or len(left_axes) != 1:
            state.fail("it contracts several axes, or has batch axes", node)
            return None
        for hot, table, hot_axis, table_axis in (
            (left, right, left_axes[0], right_axes[0]),
            (right, left, right_axes[0], left_axes[0]),
        ):
            found = one_hot_of(view, hot) if table.ndim == 2 else None
            if found is None or found.axis != hot_axis or not is_parameter_like(view, table):
                continue
            if hot.dtype != table.dtype or node.output.dtype != table.dtype:
                state.fail("it changes the dtype", node)
                return None
            if node.params.get("out_sharding") is not None:
                state.fail("it says how its result is sharded", node)
                return None
            info = {
                "axis": found.axis,
                "squeezed": found.squeezed,
                "table_axis": int(table_axis),
                "table_first": table is left,
            }
            values = {"ids": found.ids, "table": table}
            return Match(view, node, values, matched=found.nodes, info=info)
        state.fail("neither operand is a one-hot encoding of integers", node)
        return None


def _raise_one_hot_product(ids: Any, table: Any, *, match: Match) -> Any:
    info = match.info
    if info["squeezed"]:
        ids = lax.squeeze(ids, (info["axis"],))
    y = nnops.embedding(
        ids,
        lax.transpose(table, (1, 0)) if info["table_axis"] else table,
        mode="one_hot",
        precision=match.root.params["precision"],
    )
    return jnp.moveaxis(y, -1, 0) if info["table_first"] else y


# dot_general(one_hot(ids), table) -> embedding(ids, table, mode="one_hot")
RAISE_ONE_HOT_EMBEDDING = Rule(
    "raise_one_hot_embedding",
    _OneHotProductPattern(),
    _raise_one_hot_product,
    numerics="reassociates",
    shared=True,
)


class _OneHotPattern:
    names = frozenset({"convert_element_type"})
    size = 3

    def find(self, state: State, node: Node) -> Match | None:
        found = one_hot_of(state.view, node.output)
        if found is None:
            state.fail("it is no one-hot encoding of integers", node)
            return None
        info = {"axis": found.axis, "squeezed": found.squeezed}
        return Match(state.view, node, {"x": found.ids}, matched=found.nodes, info=info)


def _raise_one_hot(x: Any, *, match: Match) -> Any:
    axis, out = match.info["axis"], match.root.output
    if match.info["squeezed"]:
        x = lax.squeeze(x, (axis,))
    return nnops.one_hot(x, out.shape[axis], dtype=out.dtype, axis=axis)


# convert(ids == iota) -> one_hot(ids)
RAISE_ONE_HOT = Rule("raise_one_hot", _OneHotPattern(), _raise_one_hot, shared=True)


class _AttendPattern:
    """A product with a table, turned round, of which rows are looked up elsewhere."""

    names = frozenset({"dot_general"})
    size = 2

    def find(self, state: State, node: Node) -> Match | None:
        view = state.view
        ((left_axes, right_axes), (batch, _)) = node.params["dimension_numbers"]
        left, right = view.inputs(node)
        if len(batch) or len(left_axes) != 1 or left.dtype != right.dtype:
            state.fail("it is no plain product along one axis", node)
            return None
        if node.params.get("out_sharding") is not None:
            state.fail("it says how its result is sharded", node)
            return None
        for x, w, x_axis, w_axis in (
            (left, right, left_axes[0], right_axes[0]),
            (right, left, right_axes[0], left_axes[0]),
        ):
            if w.ndim != 2 or x.ndim < 1:
                continue
            turned = view.producer(w)
            passed: tuple[Node, ...] = ()
            if turned is not None and turned.op == "transpose":
                w, w_axis, passed = view.inputs(turned)[0], 1 - w_axis, (turned,)
            if w_axis != 1 or not is_parameter_like(view, w) or not _is_looked_up(view, w):
                continue
            info = {"axis": int(x_axis), "table_first": x is right}
            return Match(view, node, {"x": x, "table": w}, matched=passed, info=info)
        state.fail("neither operand is a table of which rows are looked up", node)
        return None


def _is_looked_up(view: View, table: Value) -> bool:
    """Whether rows of a table are taken somewhere, in its own dtype or another."""
    node = view.producer(table)
    if node is not None and node.op == "convert_element_type":
        table = view.inputs(node)[0]
    for user in view.users(table)[:_MAX_USERS]:
        if _looks_up(view, user, table):
            return True
        if user.op == "convert_element_type":
            wide = user.output
            if any(_looks_up(view, u, wide) for u in view.users(wide)[:_MAX_USERS]):
                return True
    return False


def _looks_up(view: View, node: Node, table: Value) -> bool:
    if node.op == "embedding":
        return view.inputs(node)[1] is table
    if node.op not in ("gather", "dynamic_slice") or view.inputs(node)[0] is not table:
        return False
    return tuple(node.params["slice_sizes"]) == (1, *table.shape[1:])


def _raise_attend(x: Any, table: Any, *, match: Match) -> Any:
    params, info = match.root.params, match.info
    y = nnops.attend(
        jnp.moveaxis(x, info["axis"], -1),
        table,
        precision=params["precision"],
        preferred_element_type=params["preferred_element_type"],
    )
    return jnp.moveaxis(y, -1, 0) if info["table_first"] else y


# dot_general(x, transpose(table)) -> attend(x, table), beside embedding(ids, table)
RAISE_ATTEND = Rule(
    "raise_attend", _AttendPattern(), _raise_attend, numerics="reassociates", shared=True
)

EMBEDDING_RULES = RuleSet(
    (
        RAISE_EMBEDDING,
        RAISE_EMBEDDED_ROW,
        RAISE_ONE_HOT_EMBEDDING,
        RAISE_ONE_HOT,
        RAISE_ATTEND,
    )
)
