"""Masks that are drawn, known by the equations of ``jax.random.bernoulli`` and ``uniform``."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxpress.capture import Literal, Node, Value, compat, graph_of_jaxpr
from jaxpress.capture.edit import Editor
from jaxpress.capture.template import inline_calls
from jaxpress.passes.engine import rewrite
from jaxpress.passes.pattern import AnyValue, Op, Pattern, Scalar, State, through
from jaxpress.passes.pattern_base import done
from jaxpress.passes.rules.cleanup import CLEANUP_RULES
from jaxpress.passes.view import View, scalar_value

__all__ = [
    "RANDOM_OPS",
    "Draw",
    "draw_of",
    "floor_of",
    "is_random",
    "number_of",
]

# A probability that no model has, to see where it stands in the trace.
_PROBE = 0.3719582
_MOVES = ("broadcast_in_dim", "reshape")
RANDOM_OPS = ("random_", "threefry", "rng_", "philox")
MAX_NODES = 24


class Draw(NamedTuple):
    """A mask that is drawn from keys, one draw for each.

    Attributes:
      key: the keys that random bits are drawn with, of any shape.
      keep: the probability of True, in the dtype that it is compared in.
      shape: of the mask, the keys' axes in front.
      nodes: the nodes that make it.
    """

    key: Value
    keep: Any
    shape: tuple[int, ...]
    nodes: tuple[Node, ...]


def draw_of(view: View, mask: Value) -> Draw | None:
    """The draw of ``jax.random.bernoulli`` that ``mask`` is; ``None`` if it is none."""
    return _drawn(view, mask, "lt", _bernoulli)


def floor_of(view: View, mask: Value) -> Draw | None:
    """The draw that ``mask`` is, if it is ``floor(keep + uniform)``: zero or one."""
    return _drawn(view, mask, "floor", _floor)


def _drawn(view: View, mask: Value, op: str, fn: Callable[..., Any]) -> Draw | None:
    node = view.producer(mask)
    dtype = None if node is None or node.op != op else view.inputs(node)[0].dtype
    if node is None or dtype is None or not jnp.issubdtype(dtype, jnp.floating):
        return None
    state = State(view)
    if not _pattern(fn, np.dtype(dtype).name).match_node(node, state):
        return None
    shape = tuple(state.nodes["bits"].output.shape)
    keep = state.values["keep"]
    if shape != tuple(mask.shape) or not isinstance(keep, Literal) or not 0 < float(keep.val) < 1:
        return None
    return Draw(state.values["key"], keep.val, shape, tuple(state.matched))


def _bernoulli(key: Any, p: Any, shape: tuple[int, ...]) -> Any:
    return jax.random.bernoulli(key, p, shape)


def _floor(key: Any, p: Any, shape: tuple[int, ...]) -> Any:
    return jnp.floor(p + jax.random.uniform(key, shape, p.dtype))


def number_of(view: View, value: Value) -> Any:
    """As ``scalar_value``; of a number that is closed over as an array, too."""
    found = scalar_value(view, value)
    if found is not None:
        return found
    types = [value.dtype]
    while (node := view.producer(value)) is not None:
        if node.op not in (*_MOVES, "convert_element_type") or len(node.inputs) != 1:
            return None
        value = view.inputs(node)[0]
        types.append(value.dtype)
    array = view.constant_value(value)
    if not isinstance(array, jax.Array | np.ndarray) or compat.is_tracer(array):
        return None
    if array.size != 1 or not jnp.issubdtype(array.dtype, jnp.floating):
        return None
    number = np.asarray(array).reshape(())
    for dtype in reversed(types):
        number = number.astype(dtype)
    return number[()]


class _Probability(Pattern):
    """A number that is written in the program, or closed over: captured as ``keep``."""

    def match(self, value: Value, state: State, then: Callable[[], bool] = done) -> bool:
        found = number_of(state.view, value)
        if found is None:
            return state.fail(lambda: f"{value!r} is no number that is known", part=self)
        mark = state.mark()
        state.bind(state.values, "keep", Literal(found, value.aval))
        return then() or state.undo(mark)


class _Number(Scalar):
    """A number that is written in the program; an end of the range also as vmap closes over it."""

    def match(self, value: Value, state: State, then: Callable[[], bool] = done) -> bool:
        if scalar_value(state.view, value) is None:
            found = number_of(state.view, value)
            if found is not None and self._is_value(found, value.dtype):
                return then()
        return super().match(value, state, then)


class _PastOne(Pattern):
    """A pattern, perhaps times one: under vmap the width of the range is an array."""

    def __init__(self, inner: Pattern):
        self.inner = inner
        self.size = inner.size

    def match(self, value: Value, state: State, then: Callable[[], bool] = lambda: True) -> bool:
        if self.inner.match(value, state, then):
            return True
        node = state.view.producer(value)
        if node is None or node.op != "mul":
            return False
        for one, other in (state.view.inputs(node), state.view.inputs(node)[::-1]):
            if number_of(state.view, one) == 1:
                mark = state.mark()
                state.bind(state.matched, node, None)
                return self.inner.match(other, state, then) or state.undo(mark)
        return False


@functools.cache
def _pattern(fn: Callable[..., Any], dtype: str) -> Op:
    """The pattern of a draw by ``fn(key, probability, shape)``, the probability of this dtype."""
    with compat.enable_x64(dtype == "float64"):
        probability = np.asarray(_PROBE, dtype)
        key = jax.eval_shape(lambda: jax.random.key(0))
        closed = jax.make_jaxpr(lambda key: fn(key, probability, (2, 3)))(key)
        graph = rewrite(inline_calls(graph_of_jaxpr(closed)), CLEANUP_RULES)
    view = Editor(graph)
    keep = _Probability()

    def build(value: Value) -> Pattern:
        number = scalar_value(view, value)
        if number is not None:
            return keep if number == probability else _Number(number)
        node = graph.producer(value)
        assert node is not None
        if node.op in _MOVES:
            return build(node.inputs[0])
        if node.op == "random_bits":
            return Op(
                "random_bits",
                AnyValue("key"),
                name="bits",
                params={"bit_width": node.params["bit_width"]},
            )
        kept = {k: v for k, v in node.params.items() if k in ("new_dtype", "accuracy")}
        # vmap spreads out numbers that are computed, such as the width of the range.
        parts = (through(_PastOne(build(v)), *_MOVES) for v in node.inputs)
        return Op(node.op, *parts, params=kept)

    pattern = build(graph.outputs[0])
    assert isinstance(pattern, Op)
    return pattern


def is_random(view: View, mask: Value) -> bool:
    """Whether ``mask`` is made from random bits, within a few operations.

    What is known counts apart: it is gone once it is computed beforehand, and the answer must not
    change then.
    """
    stack, seen = [mask], (set(), set())
    while stack:
        value = stack.pop()
        node, visited = view.producer(value), seen[view.is_known(value)]
        if node is None or node in visited or len(visited) == MAX_NODES:
            continue
        visited.add(node)
        if node.op.startswith(RANDOM_OPS):
            return True
        stack.extend(view.inputs(node))
    return False
