"""The derivative of the recurrent ops, from what their forward run kept.

All that does not depend on the tangent of the step before is computed for all steps at once. The
loop that is left is linear, with one product in it; transposed it is the backward pass, and the
products with tangents of the weights, which are outside of it, become one product each.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import jax.numpy as jnp
from jax import lax

from jaxpress.nnops.recurrent_shapes import types_of

if TYPE_CHECKING:
    from jaxpress.nnops.recurrent import Recurrence

__all__ = ["Steps", "activate", "has_slope", "slope", "tangents_of"]

# The derivative of an activation, from its value alone.
_SLOPES: dict[str | None, Any] = {
    None: jnp.ones_like,
    "sigmoid": lambda y: y * (1 - y),
    "tanh": lambda y: 1 - y * y,
    "relu": lambda y: (y > 0).astype(y.dtype),
}


def has_slope(params: Mapping[str, Any]) -> bool:
    """Whether the derivative of every activation is known from its value."""
    given = [v for k, v in params.items() if k.endswith("activation")]
    return all(v is None or v.name in _SLOPES for v in given)


def slope(activation: Any, y: Any) -> Any:
    """The derivative of ``activation`` where its value is ``y``."""
    return _SLOPES[None if activation is None else activation.name](y)


def activate(activation: Any, x: Any) -> Any:
    """``activation(x)`` as the plain function that it is; x itself for None."""
    return x if activation is None else activation.reference(x)


@dataclass(frozen=True)
class Steps:
    """What a cell's tangent is computed from; arrays over time, which leads.

    Attributes:
        before: the states before each step.
        after: the states after each step.
        kept: what the forward run kept, or None.
        d_input: the tangent of the projected input, biases included; None where it is zero.
        d_weights: tangents of w_hh and b_hh, those that are not zero.
        weights: what the cell's ``prepare`` gave.
        work: the dtype of gates.
        params: the op's parameters.
    """

    before: tuple[Any, ...]
    after: tuple[Any, ...]
    kept: Any
    d_input: Any
    d_weights: Mapping[str, Any]
    weights: Any
    work: Any
    params: Mapping[str, Any]

    def product(self, x: Any, w: Any) -> Any:
        """``x @ w`` at the op's precision, in the dtype of gates."""
        return jnp.matmul(x.astype(self.work), w, precision=self.params["precision"])

    def d_gates(self, *parts: Any) -> Any:
        """The sum of ``d_input`` and ``parts`` but for those that are None; None for no sum."""
        given = [p for p in (self.d_input, *parts) if p is not None]
        return functools.reduce(jnp.add, given) if given else None

    def through(self, name: str, x: Any) -> Any:
        """``x @ d_weights[name]`` over all steps; None where that tangent is zero."""
        return self.product(x, self.d_weights[name]) if name in self.d_weights else None


def tangents_of(
    kind: Recurrence,
    operands: Mapping[str, Any],
    live: Mapping[str, Any],
    full: Any,
    params: Mapping[str, Any],
) -> tuple[list[Any], list[Any]]:
    """The sequence op's results and their tangents.

    Args:
        kind: the cell.
        operands: primals.
        live: tangents that are not zero.
        full: results of the op with residuals, its output held where it is masked.
        params: the op's parameters.
    """
    n = len(kind.states)
    y, last, more, kept = full[0], full[1 : 1 + n], full[1 + n : 2 * n], full[2 * n :]
    work, state = types_of(operands, kind.states, "0")
    over = {k: v.astype(work) for k, v in operands.items() if k.startswith(("w_", "b"))}
    dx = {k: v.astype(work) for k, v in live.items() if not k.endswith("0")}
    after = tuple(jnp.moveaxis(v, -2, 0) for v in (y, *more))
    steps = Steps(
        before=tuple(
            _shifted(operands[f"{s}0"].astype(state), a, params["reverse"])
            for s, a in zip(kind.states, after, strict=True)
        ),
        after=after,
        kept=jnp.moveaxis(kept[0], -2, 0) if kept else None,
        d_input=_d_input(kind, operands, over, dx, work, params),
        d_weights={k: v for k, v in dx.items() if k in ("w_hh", "b_hh")},
        weights=kind.prepare({**operands, **over}, params),
        work=work,
        params=params,
    )
    xs, step = kind.tangent(steps)
    mask = operands.get("mask")
    if mask is not None:
        mask = jnp.moveaxis(mask, -1, 0)[..., None]
    hold = params["masked_output"] == "hold"

    def masked_step(d: Any, inputs: Any) -> Any:
        x, on = inputs
        new = step(d, x)
        dy = new[0]
        if on is not None:
            new = tuple(jnp.where(on, a, b) for a, b in zip(new, d, strict=True))
            dy = new[0] if hold else jnp.where(on, dy, 0)
        return new, dy

    first = tuple(
        live[f"{s}0"].astype(state) if f"{s}0" in live else jnp.zeros_like(v)
        for s, v in zip(kind.states, last, strict=True)
    )
    d_last, dy = lax.scan(
        masked_step, first, (xs, mask), reverse=params["reverse"], unroll=params["unroll"]
    )
    if mask is not None and not hold:
        y = jnp.where(operands["mask"][..., None], y, 0)
    return [y, *last], [jnp.moveaxis(dy, 0, -2), *d_last]


def _shifted(first: Any, after: Any, reverse: bool) -> Any:
    """The states before each step."""
    if reverse:
        return lax.concatenate([after[1:], first[None]], 0)[: after.shape[0]]
    return lax.concatenate([first[None], after], 0)[: after.shape[0]]


def _d_input(kind: Recurrence, operands: Any, over: Any, live: Any, work: Any, params: Any) -> Any:
    """The tangent of ``x @ w_ih + b`` over time."""

    def projected(x: Any, w_ih: Any) -> Any:
        x = jnp.moveaxis(x, -2, 0).astype(work)
        return x if w_ih is None else jnp.matmul(x, w_ih, precision=params["precision"])

    total = None

    def add(part: Any) -> None:
        nonlocal total
        total = part if total is None else total + part

    if "x" in live:
        add(projected(live["x"], over.get("w_ih")))
    if "w_ih" in live:
        add(projected(operands["x"], live["w_ih"]))
    bias = kind.input_bias(live, params)
    if bias is not None:
        x = operands["x"]
        shape = (x.shape[-2], *x.shape[:-2], bias.shape[0])
        add(bias if total is not None else jnp.broadcast_to(bias, shape))
    return total
