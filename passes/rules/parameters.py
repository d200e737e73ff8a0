"""Which values are parameters: the same for every sample, and not computed from the data."""

from __future__ import annotations

from jaxpress.capture import Literal, Value
from jaxpress.passes.rules.axes import MOVES
from jaxpress.passes.view import View

__all__ = ["is_parameter"]

_MAX_NODES = 24
_SIMPLE = MOVES | {
    "abs",
    "add",
    "concatenate",
    "cos",
    "div",
    "dynamic_slice",
    "eq",
    "exp",
    "exp2",
    "expm1",
    "gather",
    "ge",
    "gt",
    "integer_pow",
    "le",
    "log",
    "log1p",
    "logistic",
    "lt",
    "max",
    "min",
    "mul",
    "ne",
    "neg",
    "pow",
    "rev",
    "rsqrt",
    "select_n",
    "sign",
    "sin",
    "slice",
    "sqrt",
    "square",
    "squeeze",
    "sub",
    "tanh",
}


def is_parameter(view: View, value: Value, data: Value) -> bool:
    """Whether ``value`` is known before the data, or made element by element from inputs.

    A gate that is computed from the data (by a mean, a matrix product) is none, even where it has
    a parameter's shape; nor is anything made from ``data``.
    """
    seen: set[Value] = set()
    stack = [value]
    while stack:
        v = stack.pop()
        if v is data:
            return False
        if isinstance(v, Literal) or v in seen or view.is_known(v):
            continue
        seen.add(v)
        node = view.producer(v)
        if node is None:
            continue
        if node.op not in _SIMPLE or len(seen) > _MAX_NODES:
            return False
        stack.extend(view.inputs(node))
    return True
