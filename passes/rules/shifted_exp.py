"""What softmax, log_softmax and logsumexp have in common: ``exp(x - max(x))`` and sums of it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np

from jaxpress.capture import Literal, Node, Value
from jaxpress.passes.rule import Match
from jaxpress.passes.view import View, broadcast_operand, scalar_value

__all__ = [
    "Exponentials",
    "Place",
    "Reduced",
    "axes_from_end",
    "below_spread",
    "exponentials_of",
    "masked_by",
    "only_among_themselves",
    "place_of",
    "reduced",
]

# How far a product of a derivative may be from the quotient in it.
_MAX_STEPS = 16
_SAME_ELEMENTS = frozenset({"reshape", "squeeze", "expand_dims"})
# What else may use the pieces: another function of this family, of the same array.
_FAMILY = frozenset(
    {
        "abs",
        "add",
        "broadcast_in_dim",
        "convert_element_type",
        "div",
        "exp",
        "expand_dims",
        "is_finite",
        "log",
        "max",
        "reduce_max",
        "reduce_sum",
        "reshape",
        "select_n",
        "squeeze",
        "stop_gradient",
        "sub",
        "transpose",
    }
)


class Reduced(NamedTuple):
    """A reduction, and what was done to its result.

    Attributes:
      node: the reduction.
      axes: its axes.
      passed: the operations behind it, the last first.
      stopped: whether its gradient is stopped.
      finite: whether 0 stands for what is not finite.
    """

    node: Node
    axes: tuple[int, ...]
    passed: tuple[Node, ...]
    stopped: bool
    finite: bool


class Place(NamedTuple):
    """A value as what is spread over an array.

    Attributes:
      value: it.
      labels: for each of its axes, which axis of the array it runs along; ``None`` for one of
        length 1.
      ndim: how many axes the array has.
    """

    value: Value
    labels: tuple[int | None, ...]
    ndim: int


def place_of(value: Value) -> Place:
    """A value over itself."""
    return Place(value, tuple(range(value.ndim)), value.ndim)


def below_spread(view: View, place: Place) -> tuple[Place, tuple[Node, ...]]:
    """What is spread out, and the broadcasts, reshapes and transposes that do it."""
    passed: list[Node] = []
    node = view.producer(place.value)
    while node is not None:
        lower = _through(view, node, place)
        if lower is None:
            break
        passed.append(node)
        place = lower
        node = view.producer(place.value)
    return place, tuple(passed)


def _through(view: View, node: Node, place: Place) -> Place | None:
    """The operand of an operation that keeps the elements of each axis together."""
    value, labels, ndim = place
    if node.op == "transpose":
        of_axis = dict(zip(node.params["permutation"], labels, strict=True))
        operand = view.inputs(node)[0]
        return Place(operand, tuple(of_axis[i] for i in range(operand.ndim)), ndim)
    found = broadcast_operand(view, value)
    if found is not None:
        operand, dims = found
        return Place(operand, tuple(labels[d] for d in dims), ndim)
    if node.op not in _SAME_ELEMENTS:
        return None
    wide = [(a, n) for a, n in zip(labels, value.shape, strict=True) if n != 1]
    operand = view.inputs(node)[0]
    if [n for n in operand.shape if n != 1] != [n for _, n in wide]:
        return None
    left = iter([a for a, _ in wide])
    return Place(operand, tuple(next(left) if n != 1 else None for n in operand.shape), ndim)


def reduced(view: View, place: Place, op: str) -> Reduced | None:
    """The reduction behind a value, whose axes are left out, are 1, or are spread out again."""
    passed: list[Node] = []
    stopped = finite = False
    node = view.producer(place.value)
    while node is not None and node.op != op:
        inputs = view.inputs(node)
        lower = _through(view, node, place)
        if lower is not None:
            place = lower
        elif node.op == "max" and op == "reduce_max":
            # max(-inf, m) is m, and there for an axis of length zero.
            lows = [scalar_value(view, v) for v in inputs]
            if (lows[0] is None) == (lows[1] is None):
                return None
            value, low = (inputs[0], lows[1]) if lows[0] is None else (inputs[1], lows[0])
            if not np.isneginf(low) or value.shape != node.output.shape:
                return None
            place = place._replace(value=value)
        elif node.op == "select_n" and op == "reduce_max" and not finite:
            check = view.producer(inputs[0])
            if check is None or check.op != "is_finite" or len(inputs) != 3:
                return None
            zero = scalar_value(view, inputs[1])
            if view.inputs(check)[0] is not inputs[2] or zero is None or zero != 0:
                return None
            finite = True
            passed.append(check)
            place = place._replace(value=inputs[2])
        elif node.op == "stop_gradient" and op == "reduce_max":
            stopped = True
            place = place._replace(value=inputs[0])
        elif node.op == "convert_element_type" and op == "reduce_sum":
            place = place._replace(value=inputs[0])
        else:
            return None
        passed.append(node)
        node = view.producer(place.value)
    if node is None:
        return None
    ndim = view.inputs(node)[0].ndim
    axes = tuple(sorted(int(a) for a in node.params["axes"]))
    kept = [i for i in range(ndim) if i not in axes]
    if place.ndim not in (ndim, len(kept)) or node.output.ndim != len(kept):
        return None
    wanted = kept if place.ndim == ndim else range(ndim)
    for label, axis, size in zip(place.labels, wanted, place.value.shape, strict=False):
        if label != axis and not (label is None and size == 1):
            return None
    return Reduced(node, axes, tuple(passed), stopped, finite)


class Exponentials(NamedTuple):
    """``sum(exp(x - max(x)))``.

    Attributes:
      x: the array.
      where: which elements count; ``None`` for all.
      axes: what is summed over.
      shifted: ``x - max(x)``.
      exp: the exponential of that.
      largest: the maximum.
      order: which axis of what the maximum was taken of each axis of ``x`` is.
      nodes: the operations.
    """

    x: Value
    where: Value | None
    axes: tuple[int, ...]
    shifted: Node
    exp: Node
    largest: Reduced
    order: tuple[int, ...]
    nodes: tuple[Node, ...]

    def is_largest(self, view: View, place: Place) -> Reduced | None:
        """The reduction behind a value, which is the very maximum that was taken away."""
        labels = place.labels
        if self.order != tuple(range(self.x.ndim)):
            kept = list(range(self.x.ndim))
            if place.ndim < self.x.ndim:
                kept = [i for i in kept if i not in self.axes]
            moved = [self.order[i] for i in kept]
            if place.ndim < self.x.ndim:
                moved = [sorted(moved).index(i) for i in moved]
            labels = tuple(None if i is None else moved[i] for i in labels)
        found, own = reduced(view, place._replace(labels=labels), "reduce_max"), self.largest
        if found is None or found.node is not own.node:
            return None
        return found if (found.finite, found.stopped) == (own.finite, own.stopped) else None


def exponentials_of(view: View, total: Place) -> Exponentials | str:
    """What a value is the sum of, shaped or spread out; or why it is no such sum."""
    summed = reduced(view, total, "reduce_sum")
    if summed is None:
        return f"{total.value!r} is not a sum that is put back where it was"
    found = _summand(view, summed, total.value.dtype)
    if found is None:
        return "the sum is in another precision than jnp.sum computes it in"
    value, widened = found
    nodes = [summed.node, *summed.passed, *widened]
    where: Value | None = None
    exp = view.producer(value)
    if exp is not None and exp.op == "select_n":
        masked = masked_by(view, exp, 0.0)
        if masked is None:
            return "it sums a choice of two arrays"
        where, value = masked
        nodes.append(exp)
        exp = view.producer(value)
    if exp is None or exp.op != "exp":
        return f"{value!r}, which is summed, is no exponential"
    sub = view.producer(view.inputs(exp)[0])
    if sub is None or sub.op != "sub":
        return "the exponent is no difference"
    x, subtracted = view.inputs(sub)
    if x.shape != sub.output.shape or subtracted.ndim != x.ndim:
        return "what is taken away is not the largest of the same array"
    largest = reduced(view, place_of(subtracted), "reduce_max")
    turned, order = _turned(view, x)
    if turned is not x and (largest is None or view.inputs(largest.node)[0] is turned):
        # Under vmap a maximum is taken where the axes are, and x is moved after.
        largest = reduced(view, Place(subtracted, order, x.ndim), "reduce_max")
    if largest is None:
        return "what is taken away is no largest element"
    nodes += [exp, sub, largest.node, *largest.passed]
    peak, axes = view.inputs(largest.node)[0], largest.axes
    if peak is turned and turned is not x:
        axes = tuple(i for i, a in enumerate(order) if a in axes)
        peak = x
    else:
        order = tuple(range(x.ndim))
    if axes != summed.axes:
        return "sum and maximum are over different axes"
    if where is not None:
        unmasked = _unmask(view, x, peak, where, nodes)
        if unmasked is None:
            return "sum and maximum are of different elements"
        x = unmasked
    elif peak is not x:
        return "what is taken away is not the largest of the same array"
    return Exponentials(x, where, summed.axes, sub, exp, largest, order, tuple(nodes))


def _turned(view: View, x: Value) -> tuple[Value, tuple[int, ...]]:
    """What ``x`` is a transpose of, and which of its axes each of x's is."""
    node = view.producer(x)
    if node is None or node.op != "transpose":
        return x, tuple(range(x.ndim))
    return view.inputs(node)[0], tuple(int(i) for i in node.params["permutation"])


def _unmask(view: View, x: Value, peak: Value, where: Value, nodes: list[Node]) -> Value | None:
    """The array before elements that do not count were exchanged for -inf, or 0."""
    low = view.producer(peak)
    masked = masked_by(view, low, -np.inf)
    if low is None or masked is None or masked[0] is not where:
        return None
    nodes.append(low)
    inner = masked[1]
    if x is not peak and x is not inner:
        return None
    if x is inner:
        # jax.nn.logsumexp has 0 there first, so that no NaN gets into a gradient.
        zero = view.producer(inner)
        masked = masked_by(view, zero, 0.0)
        if zero is None or masked is None or masked[0] is not where:
            return None
        nodes.append(zero)
        inner = masked[1]
    return inner


def masked_by(view: View, node: Node | None, fill: float) -> tuple[Value, Value] | None:
    """``(where, x)`` of a node that is ``select(where, x, fill)``."""
    if node is None:
        return None
    inputs = view.inputs(node)
    if node.op != "select_n" or len(inputs) != 3 or inputs[0].dtype != np.bool_:
        return None
    found = scalar_value(view, inputs[1])
    if found is None or found != fill or inputs[0].ndim != inputs[2].ndim:
        return None
    return inputs[0], inputs[2]


def _summand(view: View, summed: Reduced, dtype: Any) -> tuple[Value, list[Node]] | None:
    """What is summed, in float32 where ``dtype`` is a narrower one, as ``jnp.sum`` does."""
    source = view.inputs(summed.node)[0]
    narrowed = [n for n in summed.passed if n.op == "convert_element_type"]
    if dtype.itemsize >= 4:
        return None if narrowed else (source, [])
    widen = view.producer(source)
    if widen is None or widen.op != "convert_element_type" or len(narrowed) != 1:
        return None
    wide, (narrow,) = np.dtype("float32"), narrowed
    if source.dtype != wide or narrow.output.dtype != dtype:
        return None
    return view.inputs(widen)[0], [widen]


def only_among_themselves(match: Match) -> str | None:
    """A guard: pieces may serve several of these functions and their derivatives, nothing else.

    Softmax and log_softmax of one array share most of their equations. A gradient that is traced
    with the value has the exponentials times what was divided by their sum: these pieces stay for
    it, bit for bit, and the op begins with the same equations, which XLA computes once.
    """
    view, covered = match.view, set(match.matched)
    strangers: list[tuple[Node, Value, Node]] = []
    for node in match.matched:
        if node is match.root:
            continue
        for v in node.outputs:
            if view.is_known(v):
                continue
            if view.is_output(v):
                return f"{v!r} is used by an output as well"
            strangers += [
                (node, v, user)
                for user in view.users(v)
                if user not in covered and user.op not in _FAMILY and not _is_dead(view, user)
            ]
            strangers += [
                (node, v, user)
                for user in view.users(v)
                if user.op == "div" and user not in covered and _divides_by(view, user, v)
                if node.op != "exp"
            ]
    below = {u for node, v, u in strangers if node.op != "exp" and _divides_by(view, u, v)}
    for node, v, user in strangers:
        if user not in below and not (node.op == "exp" and _is_times(view, user, v, below)):
            return f"{v!r} is used by {user.op} as well"
    if strangers and _is_turned_between(match):
        return "its maximum is taken of other axes: XLA would compute the exponentials twice"
    return None


def _is_turned_between(match: Match) -> bool:
    """Whether the maximum is of an array that is transposed after, as ``vmap`` has it."""
    view = match.view
    peaks = [view.inputs(node)[0] for node in match.matched if node.op == "reduce_max"]
    turned, _ = _turned(view, match["x"])
    return turned is not match["x"] and any(peak is turned for peak in peaks)


def _divides_by(view: View, user: Node, total: Value) -> bool:
    """Whether a derivative begins so with a sum: divides by it, or asks for its sign."""
    inputs = view.inputs(user)
    if user.op == "div":
        return inputs[1] is total and inputs[0] is not total
    if user.op == "integer_pow":
        return user.params["y"] < 0
    return user.op == "ge" and scalar_value(view, inputs[1]) == 0


def _is_times(view: View, user: Node, e: Value, quotients: set[Node]) -> bool:
    """Whether exponentials are multiplied with what is made of quotients by their sum."""
    if user.op != "mul":
        return False
    stack = [v for v in view.inputs(user) if v is not e]
    seen: set[Node] = set()
    while stack and len(seen) < _MAX_STEPS:
        node = view.producer(stack.pop(0))
        if node is None or node in seen:
            continue
        if node in quotients:
            return True
        seen.add(node)
        stack.extend(v for v in view.inputs(node) if not isinstance(v, Literal))
    return False


def _is_dead(view: View, node: Node) -> bool:
    """Whether nobody takes what a node makes, such as the sign that logsumexp need not return."""
    return not node.effects and not any(view.use_count(v) for v in node.outputs)


def axes_from_end(axes: Iterable[int], ndim: int) -> int | tuple[int, ...]:
    """Axes as ops keep them: counted from the end, one of them by itself."""
    out = tuple(sorted(a - ndim for a in axes))
    return out[0] if len(out) == 1 else out
