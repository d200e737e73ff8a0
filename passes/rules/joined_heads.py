"""Arrays that several heads have one by one, as one array with an axis of heads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

from jax import lax

from jaxpress.capture import Node, Value
from jaxpress.passes.rules.axis_tracking import Axes, arrange, spread
from jaxpress.passes.rules.cleanup_moves import is_plain
from jaxpress.passes.rules.slice_tidying import piece_of
from jaxpress.passes.rules.weights import operands_of, rebind
from jaxpress.passes.view import View

__all__ = ["Join", "Joining", "are_one", "joined"]

_NORMS = frozenset({"rms_norm", "layer_norm", "l2_normalize"})
_MAX_DEPTH = 6


class _Cut(NamedTuple):
    """``array[..., start + i * step + offset :][..., :size]`` for head i."""

    array: str
    start: int
    step: int
    offset: int
    size: int


class _Dense(NamedTuple):
    """``dense`` of one input by weights of each head's own."""

    node: Node
    x: str
    weights: tuple[str, ...]
    biases: tuple[str, ...]


class _Through(NamedTuple):
    """One op of what each head has, its other operands the same for all."""

    node: Node
    x: Join
    rest: tuple[tuple[str, str], ...]


class Join(NamedTuple):
    """An array with an axis of heads before the last axis.

    Attributes:
      made: how; of it.
      axes: its axes before, in the order that they had in each head's array.
      heads: how many there are.
    """

    made: _Cut | _Dense | _Through
    axes: Axes
    heads: int


class Joining:
    """Looks for what heads have in common, and keeps what it needs.

    Args:
      view: the graph.

    Attributes:
      values: the arrays that the joined ones are made of, by name.
      nodes: what each head had of its own, and has no more.
    """

    def __init__(self, view: View):
        self._view = view
        self.values: dict[str, Value] = {}
        self.nodes: list[Node] = []

    def name(self, value: Value) -> str:
        """A name for a value."""
        for name, known in self.values.items():
            if known is value:
                return name
        name = f"v{len(self.values)}"
        self.values[name] = value
        return name

    def join(self, values: Sequence[Value], depth: int = _MAX_DEPTH) -> Join | None:
        """Arrays of one type, one for each head, as one; ``None`` if they are made apart."""
        view, first = self._view, values[0]
        behind = [spread(view, v, broadcasts=False) for v in values]
        axes, source = behind[0].axes, behind[0].source
        used = [a for a in axes if a is not None]
        if any(b.axes != axes or b.source.aval != source.aval for b in behind):
            return None
        # Axes of size 1 come and go; the others stay in order, the features last.
        if not used or used != sorted(used) or axes[-1] != source.ndim - 1:
            return None
        makers = [view.producer(b.source) for b in behind]
        nodes = [m for m in makers if m is not None]
        if depth == 0 or len(nodes) < len(makers) or any(m.op != nodes[0].op for m in nodes):
            return None
        sources = [b.source for b in behind]
        if nodes[0].op in ("slice", "split"):
            made: Any = self._cut(sources)
        elif nodes[0].op == "dense":
            made = self._dense(nodes)
        else:
            made = self._through(nodes, depth)
        if made is None or not is_plain(first, source):
            return None
        self.nodes += [n for b in behind for n in b.nodes]
        return Join(made, axes, len(values))

    def _cut(self, values: Sequence[Value]) -> _Cut | None:
        pieces = [_piece(self._view, v) for v in values]
        array = pieces[0][0]
        if array is values[0] or any(p[0] is not array for p in pieces):
            return None
        numbers = [start for _, start in pieces]
        size, total = values[0].shape[-1], array.shape[-1]
        if not isinstance(total, int):
            return None
        steps = {b - a for a, b in pairwise(numbers)}
        step = steps.pop()
        if steps or step < size:
            return None
        # Cut into steps, each of them has its own piece in one place.
        offset = 0 if step == size else numbers[0] % step
        if offset + size > step or numbers[0] - offset + len(values) * step > total:
            return None
        return _Cut(self.name(array), numbers[0] - offset, step, offset, size)

    def _dense(self, nodes: Sequence[Node]) -> _Dense | None:
        view = self._view
        operands = [operands_of(view, n) for n in nodes]
        same = all(_params(n) == _params(nodes[0]) for n in nodes) and all(
            o.keys() == operands[0].keys() and o["x"] is operands[0]["x"] for o in operands
        )
        if not same or "residual" in operands[0] or "mapped" in nodes[0].params:
            return None
        # Weights that are data would be joined at every call.
        if not all(view.is_known(v) for o in operands for k, v in o.items() if k != "x"):
            return None
        self.nodes += nodes
        return _Dense(
            nodes[0],
            self.name(operands[0]["x"]),
            tuple([self.name(o["w"]) for o in operands]),
            tuple([self.name(o["b"]) for o in operands if "b" in o]),
        )

    def _through(self, nodes: Sequence[Node], depth: int) -> _Through | None:
        view, node = self._view, nodes[0]
        if node.op == "convert_element_type":
            rest: dict[str, Value] = {}
        elif node.op in _NORMS or node.op == "rotary_embedding":
            operands = [operands_of(view, n) for n in nodes]
            rest = {k: v for k, v in operands[0].items() if k != "x"}
            if any(o.keys() != operands[0].keys() for o in operands):
                return None
            if any(not are_one(view, o[k], v) for o in operands for k, v in rest.items()):
                return None
            last = node.params.get("axis", -1) == -1 or node.op == "rotary_embedding"
            if not last or "mapped" in node.params:
                return None
        else:
            return None
        if any(_params(n) != _params(node) for n in nodes):
            return None
        x = self.join([view.inputs(n)[0] for n in nodes], depth - 1)
        if x is None:
            return None
        self.nodes += nodes
        return _Through(node, x, tuple([(k, self.name(v)) for k, v in rest.items()]))


def joined(found: Join, arrays: Mapping[str, Any], *, single: bool = False) -> Any:
    """The array, from those that were named.

    Args:
      found: how it is joined.
      arrays: what it is made of.
      single: each head's array has an axis of heads already, of size 1; it is left out.
    """
    made, n = found.made, found.heads
    if isinstance(made, _Cut):
        x = lax.slice_in_dim(arrays[made.array], made.start, made.start + n * made.step, axis=-1)
        x = lax.reshape(x, (*x.shape[:-1], n, made.step))
        if made.step != made.size:
            x = lax.slice_in_dim(x, made.offset, made.offset + made.size, axis=-1)
    elif isinstance(made, _Dense):
        operands = {"x": arrays[made.x], "w": lax.concatenate([arrays[w] for w in made.weights], 1)}
        if made.biases:
            operands["b"] = lax.concatenate([arrays[b] for b in made.biases], 0)
        x = rebind(made.node, operands)
        x = lax.reshape(x, (*x.shape[:-1], n, x.shape[-1] // n))
    else:
        x = joined(made.x, arrays)
        rest = {k: arrays[name] for k, name in made.rest}
        if made.node.op == "convert_element_type":
            x = lax.convert_element_type(x, made.node.params["new_dtype"])
        elif made.node.op == "rotary_embedding":
            tables = {k: lax.expand_dims(v, (v.ndim - 1,)) for k, v in rest.items()}
            x = rebind(made.node, {"x": x, **tables})
        else:
            x = rebind(made.node, {"x": x, **rest})
    before = found.axes[: -2 if single else -1]
    return arrange(x, (*before, x.ndim - 2, x.ndim - 1))


def _piece(view: View, value: Value) -> tuple[Value, int]:
    """The array that ``value`` is a piece of, along the last axis, and where it starts there."""
    start = 0
    for _ in range(_MAX_DEPTH):
        piece = piece_of(view, value)
        if piece is None:
            break
        array, (*others, last), _ = piece
        if others != [(0, n, 1) for n in array.shape[:-1]] or last[2] != 1:
            break
        value, start = array, start + last[0]
    return value, start


def are_one(view: View, a: Value, b: Value) -> bool:
    """Whether two values are one, or one array that each has spread for itself."""
    if a is b or a.aval != b.aval:
        return a is b
    behind = spread(view, a), spread(view, b)
    return behind[0].source is behind[1].source and behind[0].axes == behind[1].axes


def _params(node: Node) -> dict[str, Any]:
    return {k: v for k, v in node.params.items() if k != "sharding"}
