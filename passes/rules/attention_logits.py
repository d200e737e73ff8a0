"""What lies between attention's two products: the softmax, and how its logits were made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxpress.capture import Literal, Node, Value
from jaxpress.passes.pattern import State
from jaxpress.passes.rules.axis_parts import Labels, inverse, regrouped
from jaxpress.passes.rules.axis_tracking import Axes, axes_before, constant, spread
from jaxpress.passes.rules.raise_log_softmax import log_softmax_at
from jaxpress.passes.rules.raise_softmax import softmax_at
from jaxpress.passes.view import View

__all__ = ["Logits", "Softmax", "Term", "logits_behind", "softmax_behind"]

_MAX_NODES = 48


class Softmax(NamedTuple):
    """A softmax in the graph.

    Attributes:
      x: its operand.
      axes: along which it runs.
      nodes: the operations that it is made of, the last one first.
      where: which elements count, all if ``None``; of x's rank.
    """

    x: Value
    axes: tuple[int, ...]
    nodes: tuple[Node, ...]
    where: Value | None = None


class Term(NamedTuple):
    """What is done to the logits on their way to the softmax, one operation.

    Attributes:
      kind: ``"scale"`` (by a number), ``"factor"`` (by an array), ``"cap"`` (the number times
        the hyperbolic tangent), ``"bias"``, ``"mask"``,
        ``"shift"`` (a number is added where a condition does not hold) or ``"convert"``.
      value: the factor, the bias, or the condition.
      number: the scale, what masked logits become, or what is added to them.
      negated: divided by the factor; the bias is taken away; masked is where the condition holds.
      axes: for each axis of ``value``, the axis of the product along which it runs, the part of
        it, or several joined.
      dtype: of the logits after it.
    """

    kind: str
    value: Value | None
    number: Any
    negated: bool
    axes: Labels
    dtype: Any


class Logits(NamedTuple):
    """How a softmax's operand comes from a product.

    Attributes:
      product: the ``dot_general``.
      axes: for each axis of the softmax's operand, the axis of the product, the part of it, or
        those joined in it.
      terms: what is done in between, first to last.
      nodes: the operations in between, the last one first.
    """

    product: Node
    axes: Labels
    terms: tuple[Term, ...]
    nodes: tuple[Node, ...]


def softmax_behind(view: View, value: Value) -> Softmax | None:
    """The softmax that makes ``value``, as the named op or written out."""
    node = view.producer(value)
    if node is None:
        return None
    if node.op == "softmax":
        x, *where = view.inputs(node)
        return None if "mapped" in node.params else _softmax(x, node.params, (node,), where)
    found = _written_out(view, node) if node.op == "div" else None
    if found is not None:
        return found
    match, nodes = softmax_at(view, node), (node,)
    if match is None and node.op == "exp":
        log = view.producer(view.inputs(node)[0])
        match = None if log is None else log_softmax_at(view, log)
        nodes = () if log is None else (node, log)
    if match is None:
        return None
    where = [match.values["where"]] if "where" in match.values else []
    nodes = tuple(dict.fromkeys((*nodes, *match.matched)))
    return _softmax(match["x"], match.info, nodes, where)


def _softmax(
    x: Value, info: Mapping[str, Any], nodes: tuple[Node, ...], where: Sequence[Value]
) -> Softmax | None:
    axes = info["axis"] if isinstance(info["axis"], tuple) else (info["axis"],)
    axes = tuple([a % x.ndim for a in axes])
    return Softmax(x, axes, nodes, where[0] if where else None) if axes else None


def _written_out(view: View, node: Node) -> Softmax | None:
    """``exp(x - max(x)) / sum(exp(x - max(x)))``, rearranged in between as ``vmap`` does."""
    e, total = view.inputs(node)
    exp = view.producer(e)
    if exp is None or exp.op != "exp" or total.shape not in (e.shape, _any_one(total, e)):
        return None
    summed = spread(view, total, also=_narrowing(view))
    reduce = view.producer(summed.source)
    if reduce is None or reduce.op != "reduce_sum" or len(reduce.params["axes"]) != 1:
        return None
    axis = int(reduce.params["axes"][0])
    nodes = [node, exp, *summed.nodes, reduce]
    summand = view.inputs(reduce)[0]
    widen = view.producer(summand)
    narrow = any(n.op == "convert_element_type" for n in summed.nodes)
    if narrow or np.dtype(e.dtype).itemsize < 4:
        # jnp.sum of a narrow type is taken in float32.
        if not narrow or widen is None or widen.op != "convert_element_type":
            return None
        if summand.dtype != np.dtype("float32"):
            return None
        nodes.append(widen)
        summand = view.inputs(widen)[0]
    if summand is not e or not _reduced_axes_fit(summed.axes, axis, e.ndim, total.shape):
        return None
    sub = view.producer(view.inputs(exp)[0])
    if sub is None or sub.op != "sub":
        return None
    x, largest = view.inputs(sub)
    stopped: list[Node] = []

    def stopping(n: Node) -> Value | None:
        if n.op == "stop_gradient":
            stopped.append(n)
            return view.inputs(n)[0]
        if n.op == "max":
            a, b = view.inputs(n)
            for low, rest in ((a, b), (b, a)):
                number = constant(view, low)
                if number is not None and np.isneginf(float(number)):
                    return rest
        return None

    found = spread(view, largest, also=stopping)
    reduce_max = view.producer(found.source)
    if reduce_max is None or reduce_max.op != "reduce_max" or not stopped:
        return None
    if len(reduce_max.params["axes"]) != 1:
        return None
    at = int(reduce_max.params["axes"][0])
    own, other = spread(view, x), spread(view, view.inputs(reduce_max)[0])
    # Both may be rearrangements of one array, taken before and after an axis was moved.
    if x is view.inputs(reduce_max)[0]:
        own = other = own._replace(source=x, axes=tuple(range(x.ndim)), nodes=())
    if own.source is not other.source:
        return None
    for i in range(x.ndim):
        low = found.axes[i]
        behind = None if low is None else other.axes[low if low < at else low + 1]
        if i == axis:
            if (low is not None and x.shape[i] != 1) or other.axes[at] != own.axes[i]:
                return None
        elif behind != own.axes[i] and x.shape[i] != 1:
            return None
    nodes += [sub, *found.nodes, reduce_max, *(n for n in other.nodes if n not in own.nodes)]
    return Softmax(x, (axis,), tuple(nodes))


def _any_one(total: Value, e: Value) -> Any:
    """``total``'s shape, if it stretches to that of ``e``."""
    fits = total.ndim == e.ndim and all(
        a in (1, b) for a, b in zip(total.shape, e.shape, strict=True)
    )
    return total.shape if fits else None


def _narrowing(view: View) -> Any:
    return lambda n: view.inputs(n)[0] if n.op == "convert_element_type" else None


def _reduced_axes_fit(axes: Axes, axis: int, ndim: int, shape: Any) -> bool:
    """Whether a reduction along ``axis`` was put back where it was."""
    for i in range(ndim):
        found = axes[i]
        behind = None if found is None else (found if found < axis else found + 1)
        if i == axis:
            if found is not None and shape[i] != 1:
                return False
        elif behind != i and shape[i] != 1:
            return False
    return True


class _Step(NamedTuple):
    """One operation on the way back from the softmax: its result, and what is behind it."""

    node: Node
    data: Value
    before: Axes  # for each axis of the node's result, that of ``data``; none of a regrouping
    kind: str
    term: Value | None = None
    number: Any = None
    negated: bool = False
    beside: tuple[Node, ...] = ()


def logits_behind(state: State, x: Value) -> Logits | None:
    """The product behind a softmax's operand, and what is done to it on the way."""
    budget = [_MAX_NODES]
    steps = _walk(state.view, x, budget)
    if steps is None:
        state.fail("no product of queries and keys is behind the softmax")
        return None
    found = steps[-1].data if steps else x
    product = state.view.producer(found)
    assert product is not None
    # Axes of each step's result in those of the product, from the product forwards.
    axes: Labels = tuple(range(found.ndim))
    terms: list[Term] = []
    for step in reversed(steps):
        if step.kind == "regroup":
            cut = regrouped(axes, step.data.shape, step.node.output.shape)
            if cut is None:
                state.fail("axes of the logits are mixed", step.node)
                return None
            axes = cut
            continue
        axes = tuple([None if a is None else axes[a] for a in step.before])
        if step.kind != "move":
            operand_axes: Labels = ()
            value = step.term
            if value is not None and value.ndim:
                behind = spread(state.view, value)
                value = behind.source
                operand_axes = inverse(behind.axes, axes, value.shape)
            terms.append(
                Term(
                    step.kind,
                    value,
                    step.number,
                    step.negated,
                    operand_axes,
                    step.node.output.dtype,
                )
            )
    nodes = tuple(n for s in steps for n in (s.node, *s.beside))
    return Logits(product, axes, tuple(terms), nodes)


def _walk(view: View, value: Value, budget: list[int]) -> list[_Step] | None:
    """From a value back to the product, the last operation first; ``None`` if there is none."""
    node = view.producer(value)
    budget[0] -= 1
    if node is None or budget[0] < 0:
        return None
    if node.op == "dot_general":
        return []
    for step in _steps(view, node):
        rest = _walk(view, step.data, budget)
        if rest is not None:
            return [step, *rest]
    return None


def _steps(view: View, node: Node) -> list[_Step]:
    """The ways in which a node may be one that is done to logits."""
    inputs, shape = view.inputs(node), node.output.shape
    same: Axes = tuple(range(len(shape)))
    before = axes_before(view, node)
    if before is not None:
        whole = all(a is not None or d == 1 for a, d in zip(before, shape, strict=True))
        return [_Step(node, inputs[0], before, "move")] if whole else []
    if node.op == "reshape" and node.params.get("dimensions") is None:
        return [_Step(node, inputs[0], (), "regroup")]
    if node.op == "convert_element_type":
        floats = _is_float(inputs[0].dtype) and _is_float(node.output.dtype)
        return [_Step(node, inputs[0], same, "convert")] if floats else []
    if node.op == "select_n":
        return _select(view, node, same)
    if node.op not in ("mul", "div", "add", "sub"):
        return []
    steps = []
    for data, other, first in ((inputs[0], inputs[1], True), (inputs[1], inputs[0], False)):
        if data.shape != shape or isinstance(data, Literal) or constant(view, data) is not None:
            continue
        number = constant(view, other)
        if node.op in ("mul", "div"):
            if node.op == "div" and not first:
                continue
            if number is None:
                divided = node.op == "div"
                steps.append(_Step(node, data, same, "factor", other, negated=divided))
                continue
            number = float(number)
            if node.op == "div":
                number = 1 / number if number else float("nan")
            if np.isfinite(number) and number != 0:
                inner = view.producer(data)
                if inner is not None and inner.op == "tanh":
                    before = view.inputs(inner)[0]
                    steps.append(_Step(node, before, same, "cap", number=number, beside=(inner,)))
                    continue
                steps.append(_Step(node, data, same, "scale", number=number))
        elif first or node.op == "add":
            negated = node.op == "sub"
            steps.append(_Step(node, data, same, "bias", other, negated=negated))
    return steps


def _select(view: View, node: Node, same: Axes) -> list[_Step]:
    if len(view.inputs(node)) != 3:
        return []
    condition, if_false, if_true = view.inputs(node)
    if condition.shape != node.output.shape or condition.dtype != np.bool_:
        return []
    for data, fill, negated in ((if_true, if_false, False), (if_false, if_true, True)):
        number = constant(view, fill)
        if number is not None and not np.isnan(float(number)):
            return [_Step(node, data, same, "mask", condition, float(number), negated)]
        # where(condition, x - 1e9, x), as Keras has it: a bias of -1e9 where it is true.
        change = view.producer(fill)
        if change is not None and change.op in ("add", "sub"):
            a, b = view.inputs(change)
            number = constant(view, b)
            if a is data and number is not None:
                number = -float(number) if change.op == "sub" else float(number)
                beside = (change,)
                return [_Step(node, data, same, "shift", condition, number, negated, beside)]
    return []


def _is_float(dtype: Any) -> bool:
    return dtype is not None and (
        np.issubdtype(dtype, np.floating) or str(dtype).startswith(("bfloat16", "float8"))
    )
