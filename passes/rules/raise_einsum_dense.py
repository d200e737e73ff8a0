"""Products with weights of several axes, or along several, become ``einsum_dense``.

What can be a ``dense``, one axis summed with a matrix of weights, is one; see ``raise_linear``. All
others come in one form, whichever library wrote them: the summed axes are x's last and the first of
w, and the result has x's others in front of w's. So ``"...a,abc->...bc"`` splits features into
heads, and ``"...ab,abc->...c"`` merges them.
"""

from __future__ import annotations

import string
from collections.abc import Sequence
from typing import Any

from jax import lax

from jaxpress import nnops
from jaxpress.capture import Node, Value
from jaxpress.passes.pattern import State
from jaxpress.passes.rule import Match, Rule, RuleSet
from jaxpress.passes.view import View, is_parameter_like

__all__ = ["EINSUM_DENSE_RULES"]


class _EinsumDensePattern:
    """A ``dot_general`` of any array with weights, on either side of it.

    Args:
      turned: axes of x or w are not in the canonical order; the result is the same but for
        rounding.
    """

    names = frozenset({"dot_general"})
    size = 1

    def __init__(self, turned: bool):
        self.turned = turned

    def find(self, state: State, node: Node) -> Match | None:
        view = state.view
        left, right = view.inputs(node)
        ((left_axes, right_axes), (batch, _)) = node.params["dimension_numbers"]
        reason = None
        if len(batch):
            reason = "it has axes that both operands share"
        elif not len(left_axes):
            reason = "it sums over no axis"
        elif left.dtype != right.dtype:
            reason = f"operands are {left.dtype} and {right.dtype}"
        elif node.params.get("out_sharding") is not None:
            reason = "it says how its result is sharded"
        if reason is not None:
            state.fail(reason, node)
            return None
        second = _may_be_weights(view, right, right_axes, left, left_axes)
        first = _may_be_weights(view, left, left_axes, right, right_axes) and (
            # Weights in front of a single vector may as well be data.
            view.is_known(left) or right.ndim > len(right_axes)
        )
        if first and second and not view.is_known(right):
            # Either might be data; data has its features last, and these are what is summed.
            second = not _are_last(right, right_axes) or _are_last(left, left_axes)
        if second:
            x, w, x_axes, w_axes = left, right, left_axes, right_axes
        elif first:
            x, w, x_axes, w_axes = right, left, right_axes, left_axes
        else:
            state.fail("neither operand is weights of several axes", node)
            return None
        info = _orders(x, w, x_axes, w_axes)
        info["weights_first"] = w is left
        plain = info["x_order"] == tuple(range(x.ndim)) and info["w_order"] == tuple(range(w.ndim))
        if self.turned == (plain and not info["weights_first"]):
            state.fail(f"the axes are{'' if plain else ' not'} in order", node)
            return None
        return Match(view, node, {"x": x, "w": w}, info=info)


def _may_be_weights(
    view: View, w: Value, w_axes: Sequence[int], x: Value, x_axes: Sequence[int]
) -> bool:
    """Whether one operand is weights, and no matrix that ``dense`` takes."""
    if w.ndim <= len(w_axes) or (w.ndim == 2 and len(w_axes) == 1) or w is x:
        return False
    if view.is_known(w):
        return True
    # In a gradient of weights, data meets data along its leading axes: no weights are there.
    leading = sorted(x_axes) == list(range(len(x_axes))) and len(x_axes) < x.ndim
    return is_parameter_like(view, w) and not leading and not view.is_known(x)


def _are_last(x: Value, axes: Sequence[int]) -> bool:
    return sorted(map(int, axes)) == list(range(x.ndim - len(axes), x.ndim))


def _orders(x: Value, w: Value, x_axes: Sequence[int], w_axes: Sequence[int]) -> dict[str, Any]:
    """How x's and w's axes are to be ordered, and how many are summed."""
    n = len(x_axes)
    pairs = list(zip(map(int, x_axes), map(int, w_axes), strict=True))
    if sorted(i for i, _ in pairs) == list(range(x.ndim - n, x.ndim)):
        pairs.sort()  # x stays as it is: weights are turned once, data at every call
    else:
        pairs.sort(key=lambda pair: pair[1])
    summed_x, summed_w = [i for i, _ in pairs], [j for _, j in pairs]
    return {
        "summed": n,
        "x_order": (*(i for i in range(x.ndim) if i not in summed_x), *summed_x),
        "w_order": (*summed_w, *(j for j in range(w.ndim) if j not in summed_w)),
    }


def _raise_einsum_dense(x: Any, w: Any, *, match: Match) -> Any:
    params, info = match.root.params, match.info
    n, features = info["summed"], w.ndim - info["summed"]
    letters = string.ascii_letters[: w.ndim]
    y = nnops.einsum_dense(
        _ordered(x, info["x_order"]),
        _ordered(w, info["w_order"]),
        equation=f"...{letters[:n]},{letters}->...{letters[n:]}",
        precision=params["precision"],
        preferred_element_type=params["preferred_element_type"],
    )
    if not info["weights_first"]:
        return y
    lead = y.ndim - features
    return _ordered(y, (*range(lead, y.ndim), *range(lead)))


def _ordered(x: Any, order: Sequence[int]) -> Any:
    return x if tuple(order) == tuple(range(x.ndim)) else lax.transpose(x, order)


# dot_general(x, w) -> einsum_dense(x, w)
RAISE_EINSUM_DENSE = Rule(
    "raise_einsum_dense", _EinsumDensePattern(turned=False), _raise_einsum_dense
)

# dot_general(w, x) -> transpose(einsum_dense(transpose(x), transpose(w)))
RAISE_TURNED_EINSUM_DENSE = Rule(
    "raise_turned_einsum_dense",
    _EinsumDensePattern(turned=True),
    _raise_einsum_dense,
    numerics="reassociates",
)


class _GroupedPattern:
    """A ``dot_general`` with known weights that both operands have some axes of, such as heads.

    Where weights are data, nothing tells them from keys that queries are compared with.
    """

    names = frozenset({"dot_general"})
    size = 1

    def find(self, state: State, node: Node) -> Match | None:
        view = state.view
        left, right = view.inputs(node)
        (summed, batch) = node.params["dimension_numbers"]
        known = view.is_known(left), view.is_known(right)
        reason = None
        if not len(batch[0]) or not len(summed[0]):
            reason = "it has no axes that both operands share, or sums over none"
        elif known[0] == known[1]:
            reason = "not just one operand is known before the data"
        elif left.dtype != right.dtype:
            reason = f"operands are {left.dtype} and {right.dtype}"
        elif node.params.get("out_sharding") is not None:
            reason = "it says how its result is sharded"
        elif (right if known[1] else left).ndim == len(batch[0]) + len(summed[0]):
            reason = "the weights make no features"
        if reason is not None:
            state.fail(reason, node)
            return None
        x, w = (left, right) if known[1] else (right, left)
        return Match(view, node, {"x": x, "w": w}, info={"weights_first": known[0]})


def _raise_grouped(x: Any, w: Any, *, match: Match) -> Any:
    params = match.root.params
    (summed, batch) = params["dimension_numbers"]
    weights_first = match.info["weights_first"]
    left, right = (w, x) if weights_first else (x, w)
    letters = iter(string.ascii_letters)
    of_left = {i: next(letters) for i in range(left.ndim)}
    of_right = {
        int(j): of_left[int(i)]
        for pairs in (zip(*summed, strict=True), zip(*batch, strict=True))
        for i, j in pairs
    }
    own = [j for j in range(right.ndim) if j not in of_right]
    of_right.update({j: next(letters) for j in own})
    gone = {of_left[int(i)] for i in (*summed[0], *batch[0])}
    out = [of_left[int(i)] for i in batch[0]]
    out += [c for c in of_left.values() if c not in gone] + [of_right[j] for j in own]
    labels = ["".join(of[i] for i in range(len(of))) for of in (of_left, of_right)]
    first, second = labels[::-1] if weights_first else labels
    return nnops.einsum_dense(
        x,
        w,
        equation=f"{first},{second}->{''.join(out)}",
        precision=params["precision"],
        preferred_element_type=params["preferred_element_type"],
    )


# dot_general(x, w, batch axes) -> einsum_dense(x, w)
RAISE_GROUPED_DENSE = Rule(
    "raise_grouped_dense", _GroupedPattern(), _raise_grouped, numerics="reassociates"
)

EINSUM_DENSE_RULES = RuleSet((RAISE_EINSUM_DENSE, RAISE_TURNED_EINSUM_DENSE, RAISE_GROUPED_DENSE))
