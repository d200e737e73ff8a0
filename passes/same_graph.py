"""Whether a part of a graph computes what a traced function computes of the same values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxpress.capture import Literal, Node, Value, compat
from jaxpress.passes.layout import Moved, moved_from
from jaxpress.passes.pattern_base import equal_scalars
from jaxpress.passes.pattern_ops import COMMUTATIVE, same_param
from jaxpress.passes.view import View, scalar_value

__all__ = ["Comparison"]

# Parameters that do not say what is computed; sharding and weak types are the values' own.
_IDLE = frozenset({"kernel", "name", "sharding", "weak_type"})
# Their parameters are functions; whether they are the same is asked of what those compute.
_DERIVATIVES = compat.CUSTOM_JVP_NAMES | compat.CUSTOM_VJP_NAMES
_SUMS = frozenset({"add", "add_any"})
# Operations whose operands are spread out to one shape; what was spread out before counts as well.
_SPREADING = COMMUTATIVE | frozenset(
    {"atan2", "div", "ge", "gt", "le", "lt", "pow", "rem", "select_n", "sub"}
)
# Constants that are larger than this are compared by identity alone.
_MOST_BYTES = 1 << 20


class Comparison:
    """Compares values of a graph with those of a trace, from their results down.

    Args:
      view: the graph.
      trace: the function's trace, with the types of the values that it is compared with.
      arguments: which value of the graph each input of the trace stands for.

    Attributes:
      reason: the difference that was met furthest down.
      node: where it was met.
      depth: how far down that was.
    """

    def __init__(self, view: View, trace: View, arguments: Mapping[Value, Value]):
        self.view = view
        self.trace = trace
        self.arguments = arguments
        self.reason = ""
        self.node: Node | None = None
        self.depth = -1
        self._bound = {v for v in arguments.values() if not isinstance(v, Literal)}
        # For each pair of values: the nodes that were compared and the pairs below; None if unlike.
        self._memo: dict[tuple[Value, Value, bool], tuple[Any, Any] | None] = {}

    def of(self, values: Sequence[Value], results: Sequence[Value]) -> list[Node] | None:
        """The graph's nodes that compute ``values`` as the trace does ``results``, or ``None``."""
        pairs = [(v, r, False) for v, r in zip(values, results, strict=True)]
        if not all(self._same(*pair, 0) for pair in pairs):
            return None
        nodes: dict[Node, None] = {}
        seen = set()
        stack = pairs
        while stack:
            pair = stack.pop()
            found = self._memo[pair]
            if pair not in seen and found is not None:
                seen.add(pair)
                nodes.update(dict.fromkeys(found[0]))
                stack.extend(found[1])
        return list(nodes)

    def _differs(self, depth: int, node: Node | None, reason: str) -> bool:
        if depth > self.depth:
            self.reason, self.node, self.depth = reason, node, depth
        return False

    def _same(self, value: Value, wanted: Value, spread: bool, depth: int) -> bool:
        """Whether two values are the same; ``spread``: or are once they are spread out."""
        pair = (value, wanted, spread)
        if pair not in self._memo:
            self._memo[pair] = None
            found = self._compare(*pair, depth)
            self._memo[pair] = found or None
        return self._memo[pair] is not None

    def _compare(self, value: Value, wanted: Value, spread: bool, depth: int) -> Any:
        number = scalar_value(self.trace, wanted)
        if number is not None:
            got = scalar_value(self.view, value)
            producer = self.view.producer(value)
            if got is None:
                return self._differs(depth, producer, f"{value!r} is not the scalar {number}")
            if value.dtype != wanted.dtype or not equal_scalars(got, number, wanted.dtype):
                return self._differs(depth, producer, f"{got} is not {number}")
            return (), ()
        here = moved_from(self.view, value, self._bound.__contains__)
        there = moved_from(self.trace, wanted, self.arguments.__contains__)
        below = self._bases(here, there, depth)
        if below is None:
            return False
        at = here.nodes[0] if here.nodes else self.view.producer(value)
        if here.dtypes != there.dtypes:
            a, b = (" -> ".join(map(str, m.dtypes)) for m in (here, there))
            return self._differs(depth, at, f"{value!r} is converted {a}, where it should be {b}")
        if here.layout != there.layout and not (spread and _same_once_spread(here, there)):
            return self._differs(
                depth,
                at,
                f"the elements of {here.base!r} are not where they should be in {value!r}",
            )
        nodes, pairs = below
        return (*here.nodes, *nodes), pairs

    def _bases(self, here: Moved, there: Moved, depth: int) -> Any:
        """The nodes and pairs below two values that are not moved about; ``None`` if unlike."""
        value, wanted = here.base, there.base
        if wanted in self.arguments:
            argument = self.arguments[wanted]
            if argument is value or _same_literal(argument, value):
                return (), ()
            self._differs(depth, self.view.producer(value), f"{value!r} is not {argument!r}")
            return None
        node, model = self.view.producer(value), self.trace.producer(wanted)
        if model is None:
            known = self.view.constant_value(value)
            if known is not None and _same_array(known, self.trace.constant_value(wanted)):
                return (), ()
            self._differs(depth, node, f"{value!r} is not the constant that it should be")
            return None
        if node is None:
            self._differs(depth, None, f"{value!r} is made by no {model.op}")
            return None
        reason = self._unlike(node, model, value, wanted)
        if reason:
            self._differs(depth, node, reason)
            return None
        mine, theirs = self.view.inputs(node), model.inputs
        orders, spread = [theirs], node.op in _SPREADING
        if len(theirs) == 2 and model.op in COMMUTATIVE:
            orders.append(theirs[::-1])
        for order in orders:
            pairs = tuple((a, b, spread) for a, b in zip(mine, order, strict=True))
            if all(self._same(*pair, depth + 1) for pair in pairs):
                break
        else:
            return None
        # Last, since a difference further down says more.
        for got, should in zip(node.outputs, model.outputs, strict=True):
            if (got.shape, got.dtype) != (should.shape, should.dtype):
                self._differs(depth, node, f"{got!r} should have the type {should.aval}")
                return None
        return (node,), pairs

    def _unlike(self, node: Node, model: Node, value: Value, wanted: Value) -> str:
        """How two operations differ, but for their operands; empty if they do not."""
        if node.op != model.op and not {node.op, model.op} <= _SUMS:
            return f"it is {node.op}, where it should be {model.op}"
        if node.outputs.index(value) != model.outputs.index(wanted):
            return f"{value!r} is another result of {node.op}"
        if node.effects:
            return f"{node.op} has an effect"
        if len(self.view.inputs(node)) != len(model.inputs):
            return f"{node.op} has {len(self.view.inputs(node))} operands"
        keys = node.params.keys() | model.params.keys() if node.op not in _DERIVATIVES else ()
        for key in keys:
            a, b = node.params.get(key), model.params.get(key)
            if key in _IDLE or _holds_body(a):
                continue
            if not same_param(_plain(key, a, node), _plain(key, b, model)):
                return f"{node.op} has {key}={a!r}, where it should be {b!r}"
        return _unlike_bodies(node, model)


def _same_once_spread(here: Moved, there: Moved) -> bool:
    """Whether two layouts differ only in axes that the one repeats and the other leaves at one."""
    if len(here.layout) != 2 or len(there.layout) != 2:
        return False
    (shape, strides), (wanted, steps) = here.layout, there.layout
    if not all(isinstance(d, int) for d in (*shape, *wanted)) or len(shape) != len(wanted):
        return False
    return all(
        s == t and (d == e or (s == 0 and 1 in (d, e)))
        for d, e, s, t in zip(shape, wanted, strides, steps, strict=True)
    )


def _unlike_bodies(node: Node, model: Node) -> str:
    if not model.subgraphs:
        return ""
    from jaxpress.passes.rules.canonical import body_texts, custom_jvp_signature

    if node.op in compat.CUSTOM_JVP_NAMES:
        mine = custom_jvp_signature(node)
        same = mine is not None and mine == custom_jvp_signature(model)
        return "" if same else f"{node.op} has another value or derivative"
    if node.op in compat.CUSTOM_VJP_NAMES:
        return f"derivatives of {node.op} cannot be compared"
    mine, theirs = body_texts(node), body_texts(model)
    return "" if mine is not None and mine == theirs else f"the body of {node.op} is another one"


def _plain(key: str, value: Any, node: Node) -> Any:
    """A parameter as it is meant where it is left out."""
    if key == "preferred_element_type" and value is not None and value == node.output.dtype:
        return None
    if (
        key == "precision"
        and isinstance(value, tuple)
        and str(value[0]) == str(value[1]) == "DEFAULT"
    ):
        return None
    return value


def _holds_body(x: Any) -> bool:
    return compat.is_body(x) or (isinstance(x, tuple | list) and any(map(compat.is_body, x)))


def _same_literal(a: Value, b: Value) -> bool:
    if not (isinstance(a, Literal) and isinstance(b, Literal)) or a.dtype != b.dtype:
        return False
    return equal_scalars(a.val, b.val, a.dtype)


def _same_array(a: Any, b: Any) -> bool:
    if a is b:
        return True
    if b is None or (np.shape(a), getattr(a, "dtype", None)) != (np.shape(b), b.dtype):
        return False
    if getattr(a, "nbytes", _MOST_BYTES + 1) > _MOST_BYTES:
        return False
    return bool(np.array_equal(np.asarray(a), np.asarray(b)))
