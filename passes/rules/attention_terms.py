"""What is done to attention's logits on their way to the softmax, taken together."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxpress.capture import Literal, Value
from jaxpress.passes.rules.attention_bands import Leaf, take_apart
from jaxpress.passes.rules.attention_logits import Term
from jaxpress.passes.rules.axis_parts import Labels
from jaxpress.passes.rules.axis_tracking import Axes, constant, spread
from jaxpress.passes.view import View

__all__ = ["Added", "Terms", "Unscaled", "unscaled"]

_MAX_FACTORS = 4


class Added(NamedTuple):
    """What is added to the logits.

    Attributes:
      value: a bias; or a condition where ``shift`` is given.
      factor: what the bias is multiplied with.
      axes: for each axis of ``value``, the axis of the product along which it runs, the part of
        it, or several joined.
      shift: the number that is added where the condition does not hold.
      negated: it is added where the condition holds.
    """

    value: Value
    factor: float
    axes: Labels
    shift: float | None = None
    negated: bool = False


class Terms:
    """All that is done to the logits.

    Attributes:
      scale: the number that they are multiplied with.
      cap: of the hyperbolic tangent that they are put through after that, or ``None``.
      factors: arrays that they are multiplied with, or divided by, the same for all keys.
      added: what is added, after that.
      leaves: the conditions that all have to hold, after that.
      fill: what a masked logit becomes; ``None`` where nothing is masked.
      dtype: the widest in which any of it is done; ``None`` where nothing is.
    """

    def __init__(self, view: View, keys: tuple[int, ...]):
        self._view = view
        self._keys = keys
        self.scale = 1.0
        self.cap: float | None = None
        self.factors: list[Added] = []
        self.added: list[Added] = []
        self.leaves: list[Leaf] = []
        self.fill: float | None = None
        self.dtype: Any = None

    def add(self, term: Term) -> bool:
        """Take in what is done next; false if attention has no such thing."""
        if term.kind == "convert":
            return True
        wider = term.dtype if self.dtype is None else jnp.promote_types(self.dtype, term.dtype)
        self.dtype = jnp.dtype(wider)
        if term.kind == "cap":
            if self.cap is not None or self.added or self.fill is not None or term.number <= 0:
                return False
            # n tanh(x) is n tanh((n x) / n).
            self.scale, self.cap = self.scale * term.number, term.number
            return True
        if term.kind in ("scale", "factor") and self.cap is not None:
            return False
        if term.kind == "scale":
            self.scale *= term.number
            self.added = [
                a._replace(factor=a.factor * term.number)
                if a.shift is None
                else a._replace(shift=a.shift * term.number)
                for a in self.added
            ]
            self.fill = None if self.fill is None else self.fill * term.number
            return True
        assert term.value is not None
        if term.kind == "mask":
            if self.fill is not None and self.fill != term.number:
                return False
            self.fill = term.number
            self.leaves += take_apart(self._view, term.value, term.axes, term.negated, self._keys)
            return True
        if self.fill is not None:
            return False
        if term.kind == "factor":
            if self.added or any(not isinstance(a, int) for a in term.axes if a is not None):
                return False
            if any(a in term.axes for a in self._keys):
                return False
            self.factors.append(Added(term.value, 1.0, term.axes, negated=term.negated))
        elif term.kind == "bias":
            self.added.append(Added(term.value, -1.0 if term.negated else 1.0, term.axes))
        else:
            self.added.append(Added(term.value, 1.0, term.axes, term.number, term.negated))
        return True


class Unscaled(NamedTuple):
    """Queries or keys before they were rearranged and multiplied with a number.

    Attributes:
      value: the array.
      axes: for each axis of what was rearranged, that of ``value``.
      factor: the number.
    """

    value: Value
    axes: Axes
    factor: float


def unscaled(view: View, value: Value) -> Unscaled:
    """An operand of a product before it was rearranged and scaled."""
    behind = spread(view, value, broadcasts=False)
    value, axes, factor = behind.source, behind.axes, 1.0
    for _ in range(_MAX_FACTORS):
        node = view.producer(value)
        if node is None or node.op not in ("mul", "div"):
            break
        data, other = view.inputs(node)
        number = constant(view, other)
        if number is None and node.op == "mul":
            data, other = other, data
            number = constant(view, other)
        if number is None or not np.isfinite(float(number)) or number == 0:
            break
        if data.shape != value.shape or isinstance(data, Literal):
            break
        factor = factor / float(number) if node.op == "div" else factor * float(number)
        behind = spread(view, data, broadcasts=False)
        axes = tuple([None if a is None else behind.axes[a] for a in axes])
        value = behind.source
    return Unscaled(value, axes, factor)
