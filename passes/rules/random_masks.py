"""Boolean masks that are drawn: ``jax.random.bernoulli``, known by its equations."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxpress.capture import Node, Value, compat, graph_of_jaxpr
from jaxpress.capture.edit import Editor
from jaxpress.capture.template import inline_calls
from jaxpress.passes.engine import rewrite
from jaxpress.passes.pattern import AnyValue, Op, Pattern, Scalar, State, through
from jaxpress.passes.rules.cleanup import CLEANUP_RULES
from jaxpress.passes.view import View, scalar_value

__all__ = ["RANDOM_OPS", "Draw", "draw_of", "is_random"]

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
      shape: of the mask as it is drawn, the keys' axes in front.
      axes: where each of its axes stands in the mask as it is used.
      nodes: the nodes that make it.
    """

    key: Value
    keep: Any
    shape: tuple[int, ...]
    axes: tuple[int, ...]
    nodes: tuple[Node, ...]


def draw_of(view: View, mask: Value) -> Draw | None:
    """The draw that ``mask`` is, or is spread out from; ``None`` if it is none."""
    axes = list(range(mask.ndim))
    moved: list[Node] = []
    node = view.producer(mask)
    while node is not None and node.op == "broadcast_in_dim" and len(node.inputs) == 1:
        axes = [axes[int(d)] for d in node.params["broadcast_dimensions"]]
        moved.append(node)
        mask = view.inputs(node)[0]
        node = view.producer(mask)
    if node is None or node.op != "lt" or axes != sorted(axes):
        return None
    for dtype in ("float32", "float64"):
        state = State(view)
        if _bernoulli(dtype).match_node(node, state):
            bits = state.nodes["bits"]
            shape = tuple(bits.output.shape)
            if shape != tuple(mask.shape):
                return None
            keep = scalar_value(view, view.inputs(node)[1])
            nodes = (*moved, *state.matched)
            return Draw(state.values["key"], keep, shape, tuple(axes), nodes)
    return None


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
            array = state.view.constant_value(one)
            if array is not None and np.size(array) == 1 and np.all(np.asarray(array) == 1):
                mark = state.mark()
                state.bind(state.matched, node, None)
                return self.inner.match(other, state, then) or state.undo(mark)
        return False


@functools.cache
def _bernoulli(dtype: str) -> Op:
    """The pattern of ``jax.random.bernoulli`` with a probability of this dtype."""
    with compat.enable_x64(dtype == "float64"):
        probability = np.asarray(_PROBE, dtype)
        key = jax.eval_shape(lambda: jax.random.key(0))
        closed = jax.make_jaxpr(lambda key: jax.random.bernoulli(key, probability, (2, 3)))(key)
        graph = rewrite(inline_calls(graph_of_jaxpr(closed)), CLEANUP_RULES)
    view = Editor(graph)

    def build(value: Value) -> Pattern:
        number = scalar_value(view, value)
        if number is not None:
            return Scalar(name="keep") if number == probability else Scalar(number)
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
    assert isinstance(pattern, Op) and pattern.names == {"lt"}
    return pattern


def is_random(view: View, mask: Value) -> bool:
    """Whether ``mask`` is made from random bits, within a few operations."""
    stack, seen = [mask], set()
    while stack and len(seen) < MAX_NODES:
        node = view.producer(stack.pop())
        if node is None or node in seen:
            continue
        seen.add(node)
        if node.op.startswith(RANDOM_OPS):
            return True
        stack.extend(view.inputs(node))
    return False
