"""Recurrent ops in both directions and in several layers: functions that call the named ops."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jaxpress.nnops.errors import OpError
from jaxpress.nnops.gru import gru
from jaxpress.nnops.lstm import lstm
from jaxpress.nnops.rnn import rnn

__all__ = ["bidirectional", "recurrent_layers"]

_OPS = {"lstm": lstm, "gru": gru, "rnn": rnn}


def bidirectional(
    op: str,
    x: Any,
    forward: Mapping[str, Any],
    backward: Mapping[str, Any],
    *,
    states: Sequence[Any] | None = None,
    lengths: Any = None,
    mask: Any = None,
    **options: Any,
) -> tuple[jax.Array, tuple[Any, Any]]:
    """A recurrent op over a sequence from both ends, side by side.

    ``y = concatenate([op(x, **forward), op(x, **backward, reverse=True)])`` along the features.

    Args:
        op: ``"lstm"``, ``"gru"`` or ``"rnn"``.
        x: (..., time, features).
        forward: the op's weights by name: ``w_ih``, ``w_hh``, ``b``, ``b_hh``.
        backward: those of the other direction.
        states: the first state of each direction, or None for zeros; one is ``h0``, or
            ``(h0, c0)`` for an LSTM, or None.
        lengths: (...), how many steps of each sequence count; the backward direction starts at
            each sequence's own last step.
        mask: (..., time), in place of ``lengths``.
        **options: of the op, such as ``activation``.

    Returns:
        ``(y, (forward state, backward state))``, y of shape (..., time, 2 * hidden).

    Raises:
        OpError: the op is unknown, or operands do not fit it.

    Source: Schuster and Paliwal, 1997, doi:10.1109/78.650093; torch's ``bidirectional=True``.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxpress import nnops
        >>> w = {"w_ih": jnp.ones((3, 15)), "w_hh": jnp.ones((5, 15))}
        >>> y, (h, h_back) = nnops.bidirectional("gru", jnp.ones((7, 3)), w, w)
        >>> y.shape, bool((y[-1, :5] == h).all()), bool((y[0, 5:] == h_back).all())
        ((7, 10), True, True)
    """
    first = (None, None) if states is None else states
    if len(first) != 2:
        raise OpError(op, f"states has {len(first)} entries", mend="give one of each direction")
    outs = [
        _run(op, x, weights, state, lengths=lengths, mask=mask, reverse=reverse, **options)
        for weights, state, reverse in zip((forward, backward), first, (False, True), strict=True)
    ]
    (y, state), (y_back, state_back) = outs
    return jnp.concatenate([y, y_back], axis=-1), (state, state_back)


def recurrent_layers(
    op: str,
    x: Any,
    layers: Sequence[Any],
    *,
    states: Sequence[Any] | None = None,
    **options: Any,
) -> tuple[jax.Array, list[Any]]:
    """Several layers of a recurrent op, each over what the one before gives at each step.

    Args:
        op: ``"lstm"``, ``"gru"`` or ``"rnn"``.
        x: (..., time, features).
        layers: one entry a layer: its weights by name, or a pair of these for both directions.
        states: the first state of each layer as `bidirectional` and the op take it, or None.
        **options: of the op, such as ``lengths`` and ``reverse``.

    Returns:
        ``(y, states)``: what the last layer gives at each step, and the last state of each layer.

    Raises:
        OpError: the op is unknown, operands do not fit it, or there are not as many states.

    Source: torch's ``num_layers``.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxpress import nnops
        >>> first = {"w_ih": jnp.ones((3, 20)), "w_hh": jnp.ones((5, 20))}
        >>> second = {"w_ih": jnp.ones((5, 20)), "w_hh": jnp.ones((5, 20))}
        >>> y, states = nnops.recurrent_layers("lstm", jnp.ones((2, 7, 3)), [first, second])
        >>> y.shape, [(h.shape, c.shape) for h, c in states]
        ((2, 7, 5), [((2, 5), (2, 5)), ((2, 5), (2, 5))])
    """
    given = [None] * len(layers) if states is None else list(states)
    if len(given) != len(layers):
        raise OpError(
            op, f"there are {len(layers)} layers and {len(given)} states", mend="give one of each"
        )
    last = []
    for weights, state in zip(layers, given, strict=True):
        if isinstance(weights, Mapping):
            x, after = _run(op, x, weights, state, **options)
        else:
            x, after = bidirectional(op, x, *weights, states=state, **options)
        last.append(after)
    return x, last


def _run(op: str, x: Any, weights: Mapping[str, Any], state: Any, **options: Any) -> Any:
    fn = _OPS.get(op)
    if fn is None:
        raise OpError(op, "no recurrent op has this name", mend=f"give one of {sorted(_OPS)}")
    if op == "lstm":
        h0, c0 = (None, None) if state is None else state
        first = {"h0": h0, "c0": c0}
    else:
        first = {"h0": state}
    return fn(x, **first, **{**options, **weights})
