"""Pieces of a loss that its gradient needs too, where both are traced as one function.

The gradient multiplies with what the loss was made of. These pieces stay for it, so that it keeps
every bit, and the loss has its name all the same: the op begins with the same equations, and XLA
computes them once. Whatever else needs a piece is no gradient, and the rule refuses.
"""

from __future__ import annotations

from collections.abc import Callable

import jax.numpy as jnp

from jaxpress.capture import Node, Value
from jaxpress.passes.rule import Match
from jaxpress.passes.rules.loss_parts import square_of
from jaxpress.passes.view import scalar_value

__all__ = ["only_indices_shared", "only_with_gradient"]

# How the derivatives of abs, min and max begin.
_COMPARES = frozenset({"eq", "ge", "gt", "le", "lt", "sign"})


def only_indices_shared(match: Match) -> str | None:
    """A guard: of a match's pieces indices may be used elsewhere, and no numbers.

    But for a ``logsumexp`` that is squared beside the loss (and its gradient): what keeps the
    normaliser of a language model near 1, the z-loss.
    """
    view = match.view

    def is_squared(node: Node, v: Value, user: Node) -> bool:
        if node.op != "logsumexp":
            return False
        square = square_of(view, user.output) if len(user.outputs) == 1 else None
        twice = user.op == "mul" and any(scalar_value(view, x) == 2 for x in view.inputs(user))
        return twice or (square is not None and square[0] is v)

    return _first_stranger(match, is_squared)


def only_with_gradient(match: Match) -> str | None:
    """A guard: a match's pieces may be used elsewhere as the gradient of a loss uses them."""
    view = match.view

    def derives(node: Node, v: Value, user: Node) -> bool:
        inputs = view.inputs(user)
        if user.op in _COMPARES:
            return True
        if user.op == "mul":  # of a square, or of a product with the labels
            other = inputs[inputs[0] is v]
            return scalar_value(view, other) == 2 or _is_of_labels(match, node)
        if user.op == "select_n":  # as logaddexp leaves infinities out
            compare = view.producer(inputs[0])
            return compare is not None and compare.op == "eq" and view.inputs(compare)[0] is v
        return False

    return _first_stranger(match, derives)


def _is_of_labels(match: Match, node: Node) -> bool:
    labels = match.get("labels")
    return all(
        v is labels or scalar_value(match.view, v) is not None for v in match.view.inputs(node)
    )


def _first_stranger(match: Match, allowed: Callable[[Node, Value, Node], bool]) -> str | None:
    view, covered = match.view, set(match.matched)
    for node in match.matched:
        for v in () if node is match.root else node.outputs:
            if view.is_known(v) or not jnp.issubdtype(v.dtype, jnp.inexact):
                continue
            others = [
                user.op
                for user in view.users(v)
                if user not in covered and not allowed(node, v, user)
            ]
            if others or view.is_output(v):
                return f"{v!r} is used by {others[0] if others else 'an output'} as well"
    return None
