"""Sums and means of all losses move into the loss, as its ``reduction``."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax.numpy as jnp

from jaxpress.capture import Node, Value
from jaxpress.nnops import registry
from jaxpress.passes.pattern import State
from jaxpress.passes.rule import Match, Rule
from jaxpress.passes.rules.arithmetic import same_number
from jaxpress.passes.rules.loss_parts import Above, plain_loss
from jaxpress.passes.rules.scalars import number
from jaxpress.passes.view import View

__all__ = ["LOSSES", "REDUCE_LOSS"]

LOSSES = frozenset(
    {
        "binary_cross_entropy",
        "cosine_distance",
        "cosine_similarity",
        "huber",
        "kl_divergence",
        "mean_absolute_error",
        "mean_squared_error",
        "softmax_cross_entropy",
    }
)
_MOVES = frozenset({"reshape", "squeeze", "expand_dims"})
# What may come in front of a mean, and is as well done behind it.
_NICE = (1.0, 0.5, 2.0)
_LONGEST = 10


class _Chain(NamedTuple):
    """``over / under * sum(losses)``."""

    over: float
    under: float
    loss: Node
    nodes: tuple[Node, ...]


def _chain(view: View, root: Node) -> _Chain | str:
    """What is done to all losses until they are one number."""
    over = under = 1.0
    sums = signs = 0
    nodes: list[Node] = []
    node: Node | None = root
    while node is not None and node.op not in LOSSES and len(nodes) < _LONGEST:
        nodes.append(node)
        inputs = view.inputs(node)
        value: Value | None = inputs[0]
        if node.op == "reduce_sum":
            sums += 1
        elif node.op == "neg":
            over, signs = -over, signs + 1
        elif node.op == "div":
            n = number(view, inputs[1])
            if not n:
                return "it is divided by what is no number"
            under *= n
        elif node.op == "mul":
            n, value = _times(view, inputs)
            if n is None:
                return "it is multiplied by what is no number"
            over *= n
        elif node.op == "select_n" and len(inputs) == 3:
            # 0 where there are no losses at all, as Keras has it.
            which = number(view, inputs[0])
            if which is None:
                return "it is chosen among"
            value = inputs[1 + bool(which)]
        elif node.op == "convert_element_type":
            if not _is_wider(node.output, inputs[0]) and not _is_wider(inputs[0], node.output):
                return "it becomes no floating-point number"
        elif node.op not in _MOVES and not _adds_axes(node):
            return f"{node.op} is no part of a mean"
        node = None if value is None else view.producer(value)
    if node is None or node.op not in LOSSES:
        return "it is not of losses"
    if not sums and signs < 2:
        return "it is no sum"
    return _Chain(over, under, node, tuple(nodes))


def _adds_axes(node: Node) -> bool:
    """Whether a broadcast repeats nothing."""
    same = len(node.inputs) == 1 and node.inputs[0].aval.size == node.output.aval.size
    return node.op == "broadcast_in_dim" and same


def _times(view: View, inputs: tuple[Value, ...]) -> tuple[float | None, Value | None]:
    for value, factor in (inputs, inputs[::-1]):
        n = number(view, factor)
        if n is not None:
            return n, value
    return None, None


def _is_wider(wide: Value, narrow: Value) -> bool:
    types = (wide.dtype, narrow.dtype)
    return (
        all(jnp.issubdtype(t, jnp.floating) for t in types)
        and jnp.promote_types(*types) == (types[0])
    )


class _ReducedPattern:
    """``sum(losses)``, ``sum(losses) / n`` and their like, of losses that count alike."""

    names = frozenset({"reduce_sum", "div", "mul", "neg", "select_n", "convert_element_type"})
    size = 1

    def find(self, state: State, node: Node) -> Match | None:
        view = state.view
        if node.output.ndim:
            state.fail("it is no single number", node)
            return None
        found = _chain(view, node)
        if isinstance(found, str):
            state.fail(found, node)
            return None
        loss = found.loss
        if not plain_loss(view, loss, ("none", "sum")):
            state.fail("some losses count more than others, or they are reduced already", loss)
            return None
        count = _count(view, loss)
        if not count:
            state.fail("nobody knows how many losses there are, or there are none", loss)
            return None
        scale = found.over / found.under * count
        info: dict[str, Any] = {"over": found.over, "under": found.under, "reduction": "sum"}
        # A mean in whichever order its numbers are multiplied.
        for nice in _NICE:
            if same_number(abs(scale), nice, "float32") and (count > 1 or found.under != 1):
                info = {"over": nice if scale > 0 else -nice, "under": 1.0, "reduction": "mean"}
        info["operands"] = loss.params["operands"]
        values = dict(zip(loss.params["operands"], view.inputs(loss), strict=True))
        return Match(view, node, values, {"loss": loss}, (*found.nodes, loss), info)


def _count(view: View, loss: Node) -> int | None:
    """How many losses there are: the elements of the result, where nothing is summed yet."""
    shape = loss.output.shape
    if loss.params["reduction"] == "sum":
        shape = list(view.inputs(loss)[0].shape)
        if "axis" in loss.params:
            del shape[loss.params["axis"]]
    count = 1
    for n in shape:
        if not isinstance(n, int):
            return None
        count *= n
    return count


def _guard(match: Match) -> str | None:
    loss, out = match.nodes["loss"].output, match.root.output
    if loss.dtype != out.dtype:
        return f"losses are {loss.dtype}, and what is made of them {out.dtype}"
    return None


def _raise(*, match: Match, **operands: Any) -> Any:
    node, info = match.nodes["loss"], match.info
    params = {k: v for k, v in node.params.items() if k != "operands"}
    out = registry()[node.op].rebind(operands, **{**params, "reduction": info["reduction"]})
    over, under = info["over"], info["under"]
    if over < 0:
        out, over = -out, -over
    out = out if over == 1 else out * over
    return out if under == 1 else out / under


# sum(losses) -> losses(reduction="sum");  sum(losses) / n -> losses(reduction="mean")
REDUCE_LOSS = Rule(
    "reduce_loss",
    Above(
        _ReducedPattern(),
        LOSSES,
        (
            "reduce_sum",
            "div",
            "mul",
            "neg",
            "select_n",
            "convert_element_type",
            *_MOVES,
            "broadcast_in_dim",
        ),
    ),
    _raise,
    _guard,
    numerics="reassociates",
)
