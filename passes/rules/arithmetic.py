"""Elementwise arithmetic in a normal form: products of factors, and polynomials of one array.

People write ``0.5 * x * (1 + t)``, ``x * (1 + t) / 2`` and ``x * (0.5 + 0.5 * t)``. As a number
times factors, with each factor a polynomial of one thing, they are all the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxpress.capture import Node, Value
from jaxpress.passes.view import View, scalar_value

__all__ = ["Product", "number_of", "polynomial_in", "product_of", "same_number", "stretches"]

MAX_NODES = 12
MAX_DEGREE = 4

# A polynomial: power to coefficient.
Terms = dict[int, float]


class Product:
    """``coefficient * over[0] * over[1] ... / under[0] / under[1] ...``, all of one shape.

    Attributes:
      coefficient: the product of all numbers.
      over: factors that are no numbers.
      under: what is divided by, likewise.
      nodes: the nodes that make the product of its factors, the root first.
    """

    __slots__ = ("coefficient", "nodes", "over", "under")

    def __init__(self) -> None:
        self.coefficient = 1.0
        self.over: list[Value] = []
        self.under: list[Value] = []
        self.nodes: list[Node] = []


def number_of(view: View, value: Value) -> float | None:
    """The number that ``value`` is everywhere: written in the program, or computed beforehand.

    ``jnp.sqrt(2 / jnp.pi)`` outside of a trace is an array that the function closes over.
    """
    number = scalar_value(view, value)
    while number is None:
        array = view.constant_value(value)
        if array is not None:
            if np.shape(array) != () or not jnp.issubdtype(value.dtype, jnp.floating):
                return None
            return float(np.asarray(array))
        node = view.producer(value)
        if node is None or node.op not in ("broadcast_in_dim", "reshape"):
            return None
        value = view.inputs(node)[0]
        if value.ndim:
            return None
    return float(np.real(number)) if np.isreal(number) else None


def stretches(shape: Sequence[Any], to: Sequence[Any]) -> bool:
    """Whether axes of size 1 are all that keeps an array from another's shape."""
    return len(shape) == len(to) and all(n in (1, m) for n, m in zip(shape, to, strict=True))


def product_of(
    view: View, root: Node, max_factors: int = 4, *, repeats: bool = False
) -> Product | None:
    """A tree of products, quotients and negations as one product; ``None`` for a larger one.

    A product that is used elsewhere as well is a factor of its own. With ``repeats`` factors may
    have axes of size 1 where the product is longer.
    """
    product = Product()
    shape = root.output.shape
    stack: list[tuple[Value, bool]] = [(root.output, False)]
    while stack:
        value, inverted = stack.pop()
        number = number_of(view, value)
        if number is not None:
            with np.errstate(all="ignore"):
                product.coefficient *= 1 / np.float64(number) if inverted else number
            continue
        node = view.producer(value)
        inner = node is not None and (node is root or view.use_count(value) == 1)
        if node is not None and inner and node.op in ("mul", "div", "neg"):
            inputs = view.inputs(node)
            product.nodes.append(node)
            if node.op == "neg":
                product.coefficient = -product.coefficient
            for i, v in enumerate(inputs):
                stack.append((v, inverted != (node.op == "div" and i == 1)))
            if len(product.nodes) > MAX_NODES:
                return None
            continue
        if value.shape != shape and not (repeats and stretches(value.shape, shape)):
            return None
        (product.under if inverted else product.over).append(value)
        if len(product.over) + len(product.under) > max_factors:
            return None
    return product


def polynomial_in(
    view: View, value: Value, x: Value, nodes: list[Node], depth: int = 0
) -> Terms | None:
    """``value`` as a polynomial of ``x``: power to coefficient; ``None`` if it is none.

    Args:
      view: the graph.
      value: what to read.
      x: the variable.
      nodes: the nodes that compute it are added.
      depth: of this value in what is read.
    """
    if value is x:
        return {1: 1.0}
    number = number_of(view, value)
    if number is not None:
        return {0: number}
    node = view.producer(value)
    if node is None or depth >= MAX_NODES or len(nodes) >= 2 * MAX_NODES:
        return None
    if node.op not in ("add", "sub", "mul", "div", "neg", "square", "integer_pow", "pow"):
        return None
    if value.shape != x.shape or value.dtype != x.dtype:
        return None
    nodes.append(node)
    inputs = view.inputs(node)
    first = polynomial_in(view, inputs[0], x, nodes, depth + 1)
    if first is None:
        return None
    if node.op == "neg":
        return {k: -c for k, c in first.items()}
    if node.op in ("square", "integer_pow", "pow"):
        power = _exponent(view, node)
        if power is None or not 0 < power <= MAX_DEGREE:
            return None
        out: Terms | None = first
        for _ in range(power - 1):
            out = None if out is None else _times(out, first)
        return out
    second = polynomial_in(view, inputs[1], x, nodes, depth + 1)
    if second is None:
        return None
    if node.op == "mul":
        return _times(first, second)
    if node.op == "div":
        divisor = second.get(0, 0.0)
        if set(second) != {0} or divisor == 0:
            return None
        return {k: c / divisor for k, c in first.items()}
    sign = -1.0 if node.op == "sub" else 1.0
    out = dict(first)
    for k, c in second.items():
        out[k] = out.get(k, 0.0) + sign * c
    return out


def _exponent(view: View, node: Node) -> int | None:
    if node.op == "square":
        return 2
    if node.op == "integer_pow":
        return int(node.params["y"])
    number = number_of(view, view.inputs(node)[1])
    if number is None or not number.is_integer():
        return None
    return int(number)


def _times(a: Terms, b: Terms) -> Terms | None:
    out: Terms = {}
    for i, c in a.items():
        for k, d in b.items():
            if i + k > MAX_DEGREE:
                return None
            out[i + k] = out.get(i + k, 0.0) + c * d
    return out


def same_number(a: float, b: float, dtype: Any) -> bool:
    """Whether two numbers are one as far as ``dtype`` goes, after a few roundings."""
    eps = float(jnp.finfo(dtype).eps)
    # Constants are written with some eight digits; half precision rounds them once or twice.
    return abs(a - b) <= (eps if eps > 1e-4 else 4 * eps) * abs(b)
