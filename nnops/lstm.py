"""Long short-term memory: one step, and a whole sequence, as named ops."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from jaxpress.nnops.eager import eagerly_jitted
from jaxpress.nnops.recurrent import Recurrence, bind_cell, bind_sequence, define_recurrence
from jaxpress.nnops.recurrent_tangent import Steps, activate, slope

__all__ = ["lstm", "lstm_cell"]

# As measured best by benchmarks/recurrent.py.
UNROLL = 1


def _step(z: Any, state: Any, w_hh: Any, params: Mapping[str, Any]) -> Any:
    h, c = state
    act, gate = (partial(activate, params[k]) for k in ("activation", "gate_activation"))
    z = z + jnp.matmul(h.astype(z.dtype), w_hh, precision=params["precision"])
    i, f, g, o = jnp.split(z, 4, axis=-1)
    i, f, g, o = gate(i), gate(f), act(g), gate(o)
    c = f * c + i * g
    return (o * act(c), c), jnp.concatenate([i, f, g, o], axis=-1)


def _tangent(steps: Steps) -> Any:
    h, c = steps.before
    act, gate = steps.params["activation"], steps.params["gate_activation"]
    i, f, g, o = jnp.split(steps.kept.astype(c.dtype), 4, axis=-1)
    out = activate(act, steps.after[1])
    # What the tangents of the four gates, before their activation, come to in c (three) and h.
    k = jnp.concatenate(
        [g * slope(gate, i), c * slope(gate, f), i * slope(act, g), out * slope(gate, o)], axis=-1
    )
    through = o * slope(act, out)
    d_gates = steps.d_gates(steps.through("w_hh", h))
    known = None if d_gates is None else _sums(k * d_gates)

    def step(d: Any, x: Any) -> Any:
        dh, dc = d
        k, f, through, known = x
        to_h, to_c = _sums(k * steps.product(dh, steps.weights))
        if known is not None:
            to_h, to_c = to_h + known[0], to_c + known[1]
        dc = f * dc + to_c
        return through * dc + to_h, dc

    return (k, f, through, known), step


def _sums(d: Any) -> tuple[Any, Any]:
    i, f, g, o = jnp.split(d, 4, axis=-1)
    return o, i + f + g


_KIND = Recurrence(
    name="lstm",
    states=("h", "c"),
    gates=4,
    biases=("b",),
    defaults={"activation": "tanh", "gate_activation": "sigmoid"},
    prepare=lambda operands, params: operands["w_hh"],
    input_bias=lambda operands, params: operands.get("b"),
    step=_step,
    kept=lambda params: 4,
    tangent=_tangent,
)
_LSTM, _LSTM_CELL = define_recurrence(_KIND)


@eagerly_jitted
def lstm(
    x: Any,
    h0: Any,
    c0: Any,
    w_ih: Any,
    w_hh: Any,
    b: Any = None,
    *,
    lengths: Any = None,
    mask: Any = None,
    reverse: bool = False,
    activation: Any = "tanh",
    gate_activation: Any = "sigmoid",
    masked_output: str = "zero",
    precision: Any = None,
    unroll: int = UNROLL,
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    """Long short-term memory over a sequence.

    ``i, f, g, o = split(x_t @ w_ih + h @ w_hh + b)``, then
    ``c = sigmoid(f) * c + sigmoid(i) * tanh(g)`` and ``h = sigmoid(o) * tanh(c)``.

    The gates stand in the columns of the weights in the order i, f, g, o, as in torch and Keras.
    Steps beyond a sequence's length leave its state as it is; with ``reverse`` each sequence is
    read from its own last step to its first, and ``y`` stays in the order of ``x``.

    Args:
        x: (..., time, features), any batch dimensions or none.
        h0: (..., hidden), the first state, or None for zeros. A dtype wider than that of the
            weights is kept from step to step.
        c0: (..., hidden), or None for zeros.
        w_ih: (features, 4 * hidden); None where x is the projected input (..., time, 4 * hidden).
        w_hh: (hidden, 4 * hidden).
        b: (4 * hidden,), or None. torch's ``bias_ih`` and ``bias_hh`` are added up to it.
        lengths: (...), integers: how many steps of each sequence count. None: all.
        mask: (..., time), booleans, True for steps that count, in place of ``lengths``.
        reverse: from the last step to the first.
        activation: of g and of the cell state; a name or `Activation`.
        gate_activation: of i, f and o.
        masked_output: ``"zero"``, or ``"hold"`` to repeat h, at steps that do not count.
        precision: of the products, as in jax.lax.dot_general.
        unroll: how many steps of the loop are written out in one turn.

    Returns:
        ``(y, (h, c))``: h after each step (..., time, hidden), and the last state.

    Raises:
        OpError: shapes do not fit; nothing is broadcast.
        OpTypeError: weights or states are integers, the mask is not boolean.

    Source: Hochreiter and Schmidhuber, 1997, doi:10.1162/neco.1997.9.8.1735; Gers et al., 2000.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxpress import nnops
        >>> x, w_ih, w_hh = jnp.ones((2, 7, 3)), jnp.ones((3, 20)), jnp.ones((5, 20))
        >>> y, (h, c) = nnops.lstm(x, None, None, w_ih, w_hh, lengths=jnp.array([7, 4]))
        >>> y.shape, h.shape, bool((y[1, 3] == h[1]).all()), float(y[1, 4:].max())
        ((2, 7, 5), (2, 5), True, 0.0)
    """
    operands = {"x": x, "h0": h0, "c0": c0, "w_ih": w_ih, "w_hh": w_hh, "b": b, "mask": mask}
    params = {
        "activation": activation,
        "gate_activation": gate_activation,
        "reverse": reverse,
        "masked_output": masked_output,
        "precision": precision,
        "unroll": unroll,
    }
    y, h, c = bind_sequence(_KIND, _LSTM, operands, lengths, params)
    return y, (h, c)


@eagerly_jitted
def lstm_cell(
    x: Any,
    h: Any,
    c: Any,
    w_ih: Any,
    w_hh: Any,
    b: Any = None,
    *,
    activation: Any = "tanh",
    gate_activation: Any = "sigmoid",
    precision: Any = None,
) -> tuple[jax.Array, jax.Array]:
    """One step of long short-term memory; see `lstm`.

    Args:
        x: (..., features), any batch dimensions or none.
        h: (..., hidden).
        c: (..., hidden).
        w_ih: (features, 4 * hidden), gates i, f, g, o; None where x is projected already.
        w_hh: (hidden, 4 * hidden).
        b: (4 * hidden,), or None.
        activation: of g and of the cell state.
        gate_activation: of i, f and o.
        precision: of the products, as in jax.lax.dot_general.

    Returns:
        The next ``(h, c)``.

    Raises:
        OpError: shapes do not fit; nothing is broadcast.
        OpTypeError: weights or states are integers.

    Source: as for `lstm`.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxpress import nnops
        >>> zero, w = jnp.zeros(2), jnp.zeros((2, 8))
        >>> h, c = nnops.lstm_cell(zero, zero, jnp.ones(2), w, w)
        >>> c.tolist()
        [0.5, 0.5]
    """
    operands = {"x": x, "h": h, "c": c, "w_ih": w_ih, "w_hh": w_hh, "b": b}
    params = {"activation": activation, "gate_activation": gate_activation, "precision": precision}
    new_h, new_c = bind_cell(_KIND, _LSTM_CELL, operands, params)
    return new_h, new_c
