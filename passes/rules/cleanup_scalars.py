"""Arithmetic of scalars that are written in the program is done beforehand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxpress.capture import Literal, Node, Value
from jaxpress.passes.pattern import State
from jaxpress.passes.rule import Match, Rule
from jaxpress.passes.view import View

__all__ = ["FOLD_SCALARS"]

MAX_DEPTH = 8

# What IEEE 754 rounds correctly everywhere, and so gives the same bits at any time.
_ARITHMETIC: dict[str, Callable[..., Any]] = {
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "div": np.divide,
    "neg": np.negative,
    "max": np.maximum,
    "min": np.minimum,
    "sqrt": np.sqrt,
    "stop_gradient": np.positive,
}


class _ScalarArithmetic:
    """Arithmetic whose operands are all written in the program."""

    names = frozenset(_ARITHMETIC)
    size = 1

    def find(self, state: State, node: Node) -> Match | None:
        if node.output.ndim or not jnp.issubdtype(node.output.dtype, jnp.floating):
            state.fail("it is of no floating-point scalars", node)
            return None
        result = _value(state.view, node.output)
        if result is None:
            state.fail("its operands are not all written in the program", node)
            return None
        return Match(state.view, node, {}, info={"bytes": result.tobytes()})


def _value(view: View, value: Value, depth: int = 0) -> Any:
    """A scalar as an array of its dtype; ``None`` if the program does not say what it is."""
    if isinstance(value, Literal):
        return np.asarray(value.val, value.dtype)
    node = view.producer(value)
    if node is None or depth == MAX_DEPTH or value.ndim:
        return None
    if node.op not in _ARITHMETIC and node.op != "convert_element_type":
        return None
    operands = [_value(view, v, depth + 1) for v in view.inputs(node)]
    if any(v is None for v in operands):
        return None
    with np.errstate(all="ignore"):
        if node.op == "convert_element_type":
            return operands[0].astype(value.dtype)
        if any(v.dtype != value.dtype for v in operands):
            return None
        return np.asarray(_ARITHMETIC[node.op](*operands), value.dtype)


def _literal(*, match: Match) -> Any:
    return np.frombuffer(match.info["bytes"], match.root.output.dtype)[0]


# 1 - 0.1 -> 0.9, of scalars that are written in the program
FOLD_SCALARS = Rule("fold_scalars", _ScalarArithmetic(), _literal)
