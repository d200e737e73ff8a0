"""Factors that are zero or one, or that over a number, made of a random mask.

``mask / keep``, ``1 - mask``, ``floor(keep + uniform)``, spread out and transposed as broadcasting
and vmap do.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxpress.capture import Node, Value
from jaxpress.passes.rules.random_masks import (
    Draw,
    draw_of,
    floor_of,
    is_random,
    number_of,
)
from jaxpress.passes.view import View, scalar_value

__all__ = ["Gate", "gate_of", "scaled_by"]

_MAX_STEPS = 12
_MOVES = frozenset({"broadcast_in_dim", "copy", "expand_dims", "reshape", "squeeze", "transpose"})
# A probability and what is divided by may be rounded apart.
_SAME = 1e-6


class Gate(NamedTuple):
    """A random mask, and how it becomes the factor that it is used as.

    Attributes:
      mask: boolean, or a number that is zero or one.
      axes: where each of its axes stands in the factor; None for one of a single element that was
        dropped.
      negated: whether the factor is zero where the mask is true.
      share: what the factor is divided by; None if it is not.
      exact: whether that is a true division.
      draw: how the mask is drawn, where that is known.
      nodes: what makes the factor of the mask.
    """

    mask: Value
    axes: tuple[int | None, ...]
    negated: bool
    share: Any
    exact: bool
    draw: Draw | None
    nodes: tuple[Node, ...]

    @property
    def probability(self) -> float | None:
        """That of a factor that is not zero; None if it is not known."""
        if self.draw is None:
            return None
        return 1 - float(self.draw.keep) if self.negated else float(self.draw.keep)

    def keeps(self, share: Any) -> bool:
        """Whether ``share`` is known to be kept, so that means stay what they are."""
        p = self.probability
        unit = float(jnp.finfo(np.result_type(share)).eps) * float(share)
        return p is not None and abs(p - float(share)) <= max(_SAME, unit)


def scaled_by(view: View, node: Node) -> tuple[Value, Any, bool] | None:
    """What is divided by a number, the number, and whether it is a true quotient."""
    if node.op not in ("div", "mul"):
        return None
    a, b = view.inputs(node)
    number = number_of(view, b)
    if node.op == "div":
        return None if number is None else (a, number, True)
    if number is None:
        a, b, number = b, a, number_of(view, a)
    if number is None or number == 0 or not jnp.issubdtype(node.output.dtype, jnp.floating):
        return None
    return a, np.asarray(1 / np.float64(number), number.dtype)[()], False


def gate_of(view: View, value: Value) -> Gate | None:
    """The random mask that ``value`` is made of, if it is zero or one, or that over a number."""
    axes: list[int | None] = list(range(value.ndim))
    nodes: list[Node] = []
    negated, share, exact = False, None, True
    rounded = False
    for _ in range(_MAX_STEPS):
        node = view.producer(value)
        if node is None:
            return None
        end = _end(view, value, node)
        if end is not None:
            mask, draw = end
            return Gate(mask, tuple(axes), negated, share, exact, draw, tuple(nodes))
        moved = _moved(view, node, axes)
        if moved is not None:
            value, axes = moved
        elif node.op == "convert_element_type":
            # A mask that is a number already is the same in any type; over a number it is not.
            rounded = rounded or view.inputs(node)[0].dtype != node.output.dtype
            value = view.inputs(node)[0]
        elif node.op == "not" and value.dtype == np.dtype(bool):
            negated = not negated
            value = view.inputs(node)[0]
        elif node.op == "sub" and scalar_value(view, view.inputs(node)[0]) == 1:
            negated = not negated
            rounded = True  # what is under it is no quotient
            value = view.inputs(node)[1]
        else:
            found = scaled_by(view, node)
            if found is None or share is not None or rounded:
                return None
            value, share, exact = found
        nodes.append(node)
    return None


def _end(view: View, value: Value, node: Node) -> tuple[Value, Draw | None] | None:
    """The mask itself, and how it is drawn."""
    if value.dtype == np.dtype(bool):
        draw = draw_of(view, value)
        if draw is not None:
            return value, draw
        looked_into = node.op in _MOVES or node.op in ("not", "convert_element_type")
        return None if looked_into or not is_random(view, value) else (value, None)
    draw = floor_of(view, value)
    return None if draw is None else (value, draw)


def _moved(view: View, node: Node, axes: list[int | None]) -> tuple[Value, list[int | None]] | None:
    """The operand of what only moves elements, and where its axes stand."""
    inputs = view.inputs(node)
    if node.op == "copy":
        return inputs[0], axes
    if node.op == "broadcast_in_dim" and len(inputs) == 1:
        return inputs[0], [axes[int(d)] for d in node.params["broadcast_dimensions"]]
    if node.op == "transpose":
        permutation = [int(p) for p in node.params["permutation"]]
        return inputs[0], [axes[permutation.index(i)] for i in range(len(permutation))]
    if node.op in _MOVES and len(inputs) == 1:
        (before,) = inputs
        wide = [i for i, n in enumerate(node.output.shape) if n != 1]
        if [n for n in before.shape if n != 1] != [node.output.shape[i] for i in wide]:
            return None
        places = iter(wide)
        return before, [None if n == 1 else axes[next(places)] for n in before.shape]
    return None
