"""Batch norm with running statistics, however it was written, becomes ``batch_norm``."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from jax import lax

from jaxpress import nnops
from jaxpress.capture import Literal, Node, Value
from jaxpress.passes.pattern import State
from jaxpress.passes.rule import Match, Rule
from jaxpress.passes.rules.polynomial import (
    Deviation,
    Polynomial,
    divide_by_monomial,
    freeze,
    polynomial_of,
    value_of,
)
from jaxpress.passes.rules.weights import as_vector
from jaxpress.passes.view import View, scalar_value

__all__ = ["RAISE_BATCH_NORM"]

_AFFINE = frozenset({"add", "sub", "mul", "div", "neg"})
_MAX_CHAIN = 12
_SEARCH_DEPTH = 5
_MAX_PARAMETER_NODES = 32
_MOVES = frozenset({"broadcast_in_dim", "reshape", "squeeze", "expand_dims", "transpose"})
_CHANNELWISE = _AFFINE | {
    "broadcast_in_dim",
    "convert_element_type",
    "eq",
    "expand_dims",
    "integer_pow",
    "max",
    "ne",
    "pow",
    "reshape",
    "rsqrt",
    "select_n",
    "sqrt",
    "square",
    "squeeze",
}


class _Step:
    """One link of a chain: ``y = node(x, parameter)``, on either side."""

    __slots__ = ("data", "first", "node", "parameter")

    def __init__(self, node: Node, data: Value, parameter: Value | None, first: bool):
        self.node = node
        self.data = data
        self.parameter = parameter
        self.first = first


class _BatchNormPattern:
    """A chain of per-channel sums and products that comes to ``(x - mean) / sqrt(var + eps)``."""

    names = frozenset({"add", "sub", "mul", "div"})
    size = 8

    def find(self, state: State, node: Node) -> Match | None:
        view = state.view
        if not jnp.issubdtype(node.output.dtype, jnp.floating) or node.output.ndim < 1:
            state.fail("batch norm is of real floating-point arrays", node)
            return None
        chain = _chain(view, node)
        if not any(_mentions_root(view, step.parameter) for step in chain):
            state.fail("no square root scales it along one axis", node)
            return None
        # The longest chain that is a batch norm wins: a scale further up belongs to it too.
        for start in range(len(chain), 0, -1):
            match = self._try(state, node, chain[:start])
            if match is not None:
                return match
        return None

    def _try(self, state: State, root: Node, chain: list[_Step]) -> Match | None:
        view = state.view
        axes: set[int] = set()
        scale, shift = Polynomial.constant(1.0), Polynomial({})
        for step in reversed(chain):
            result = _apply(view, step, scale, shift, axes)
            if result is None:
                state.fail("its operands are no polynomials along one axis", step.node)
                return None
            scale, shift = result
        if len(axes) != 1:
            state.fail(lambda: f"its operands vary along axes {sorted(axes)}, not along one", root)
            return None
        (axis,) = axes
        x = chain[-1].data
        parts = _as_batch_norm(scale, shift)
        if parts is None or x.shape != root.output.shape or x.dtype != root.output.dtype:
            state.fail("it is not (x - mean) * scale / sqrt(var + epsilon) + bias", root)
            return None
        deviation, gain, mean, bias = parts
        channels = x.shape[axis]
        atoms = list(dict.fromkeys((*gain.values(), *mean.values(), *bias.values())))
        for v in (deviation.var, *atoms):
            if v.dtype != x.dtype or not _fits(v, channels):
                state.fail(lambda v=v: f"{v!r} is not one number per channel in {x.dtype}", root)
                return None
        if not _fits(deviation.var, channels, whole=True):
            state.fail("its variance is one number for all channels", root)
            return None
        values = {"x": x, "var": deviation.var}
        values.update({f"a{i}": v for i, v in enumerate(atoms)})
        info = {
            "axis": axis,
            "epsilon": deviation.epsilon,
            "atoms": len(atoms),
            "parts": tuple(freeze(p, atoms) for p in (gain, mean, bias)),
        }
        return Match(view, root, values, matched=(s.node for s in chain), info=info)


def _fits(v: Value, channels: Any, whole: bool = False) -> bool:
    n = 1
    for d in v.shape:
        n = n * d
    return n == channels or (n == 1 and not whole)


def _chain(view: View, root: Node) -> list[_Step]:
    """From ``root`` down: each node's data operand is made by the next, for it alone."""
    chain: list[_Step] = []
    node: Node | None = root
    while node is not None and node.op in _AFFINE and len(chain) < _MAX_CHAIN:
        if (chain and view.use_count(node.output) != 1) or _is_mean(view, node):
            break
        step = _split(view, node)
        if step is None:
            break
        chain.append(step)
        node = view.producer(step.data)
    return chain


def _is_mean(view: View, node: Node) -> bool:
    """Whether a sum becomes a mean here: that belongs to pooling, not to a norm after it."""
    if node.op not in ("div", "mul"):
        return False
    inputs = view.inputs(node)
    for total, number in zip(inputs, reversed(inputs), strict=True):
        if scalar_value(view, number) is None:
            continue
        maker = view.producer(total)
        while maker is not None and maker.op in _MOVES:
            maker = view.producer(view.inputs(maker)[0])
        if maker is not None and maker.op in ("reduce_sum", "reduce_window_sum"):
            return True
    return False


def _split(view: View, node: Node) -> _Step | None:
    """Which operand is the data, and which the parameter."""
    inputs = view.inputs(node)
    if node.op == "neg":
        return _Step(node, inputs[0], None, True)
    a, b = inputs
    if a is b:
        return None
    # Where one is known the other is data, whatever it is made of: most chains end here.
    a_is = node.op != "div" and view.is_known(a)
    b_is = view.is_known(b)
    if not (a_is or b_is):
        b_is = _may_be_parameter(view, b)
        a_is = not b_is and node.op != "div" and _may_be_parameter(view, a)
    elif b_is:
        a_is = False
    if b_is:
        return _Step(node, a, b, True) if a.shape == node.output.shape else None
    if a_is:
        return _Step(node, b, a, False) if b.shape == node.output.shape else None
    return None


def _may_be_parameter(view: View, v: Value) -> bool:
    """Whether ``v`` is the same for every sample: weights, or made channel by channel from inputs.

    A gate that is computed from the data has the shape of a parameter for a batch of one, and
    would keep the batch norm before it from being folded.
    """
    if isinstance(v, Literal) or view.is_known(v):
        return True
    seen: set[Value] = set()
    stack = [v]
    while stack:
        value = stack.pop()
        if value in seen or isinstance(value, Literal) or view.is_known(value):
            continue
        seen.add(value)
        node = view.producer(value)
        if node is None:
            # An input: a vector for all samples, not a batch of them.
            if sum(d != 1 for d in value.shape) > 1:
                return False
            continue
        if len(seen) > _MAX_PARAMETER_NODES or node.op not in _CHANNELWISE:
            return False
        if node.op == "broadcast_in_dim" or sum(d != 1 for d in value.shape) <= 1:
            stack.extend(view.inputs(node))
        else:
            return False
    return True


def _mentions_root(view: View, value: Value | None) -> bool:
    """Whether a square root is near in what makes ``value``: the cheap test before the real one."""
    frontier = [] if value is None else [value]
    for _ in range(_SEARCH_DEPTH):
        following = []
        for v in frontier[:8]:
            node = view.producer(v)
            if node is None:
                continue
            if node.op in ("rsqrt", "sqrt", "pow"):
                return True
            if node.op in ("broadcast_in_dim", "reshape", "squeeze", "mul", "div", "neg", "add"):
                following.extend(view.inputs(node))
        frontier = following
    return False


def _apply(
    view: View, step: _Step, scale: Polynomial, shift: Polynomial, axes: set[int]
) -> tuple[Polynomial, Polynomial] | None:
    """``x * scale + shift`` after one more link."""
    if step.parameter is None:
        return -scale, -shift
    p = polynomial_of(view, step.parameter, axes)
    if p is None:
        return None
    match step.node.op:
        case "mul":
            return scale * p, shift * p
        case "div":
            inverse = p.inverse()
            return None if inverse is None else (scale * inverse, shift * inverse)
        case "add":
            return scale, shift + p
        case _:
            return (scale, shift - p) if step.first else (-scale, p - shift)


def _as_batch_norm(
    scale: Polynomial, shift: Polynomial
) -> tuple[Deviation, Polynomial, Polynomial, Polynomial] | None:
    """``(deviation, scale, mean, bias)`` of the batch norm that ``x * scale + shift`` is."""
    if len(scale.terms) != 1:
        return None
    ((monomial, coefficient),) = scale.terms.items()
    roots = [(a, p) for a, p in monomial if isinstance(a, Deviation)]
    if len(roots) != 1 or roots[0][1] != -1:
        return None
    deviation = roots[0][0]
    # shift = bias - mean * scale
    quotient, rest = divide_by_monomial(shift, monomial, coefficient)
    if rest.deviations() or quotient.deviations():
        return None
    gain = Polynomial({frozenset((a, p) for a, p in monomial if a != deviation): coefficient})
    return deviation, gain, -quotient, rest


def _raise_batch_norm(x: Any, var: Any, *, match: Match, **atoms: Any) -> Any:
    info = match.info
    channels = (x.shape[info["axis"]],)
    arrays = [as_vector(atoms[f"a{i}"], channels[0], x.dtype) for i in range(info["atoms"])]
    var = lax.reshape(var, channels)
    one = lax.full(channels, 1, x.dtype)
    gain, mean, bias = info["parts"]
    is_one = gain == ((1.0, ()),)
    return nnops.batch_norm(
        x,
        value_of(mean, arrays, one),
        var,
        None if is_one else value_of(gain, arrays, one),
        value_of(bias, arrays, one) if bias else None,
        axis=info["axis"],
        epsilon=info["epsilon"],
    )


def _guard(match: Match) -> str | None:
    """The whole chain, or none of it: a batch norm that goes on is matched at its end."""
    view, root = match.view, match.root
    users = view.users(root.output)
    if len(users) == 1 and not view.is_output(root.output):
        step = _split(view, users[0]) if users[0].op in _AFFINE else None
        if step is not None and step.data is root.output:
            axes: set[int] = set()
            parameter = step.parameter
            p = None if parameter is None else polynomial_of(view, parameter, axes)
            if parameter is None or (p is not None and axes <= {match.info["axis"]}):
                return "the chain goes on; it is matched at its end"
    return None


# any per-channel chain that equals it -> batch_norm(x, mean, var, scale, bias)
RAISE_BATCH_NORM = Rule(
    "raise_batch_norm",
    _BatchNormPattern(),
    _raise_batch_norm,
    _guard,
    numerics="reassociates",
)
