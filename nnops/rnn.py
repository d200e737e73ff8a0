"""The simple (Elman) recurrent network: one step, and a whole sequence, as named ops."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jaxpress.nnops.eager import eagerly_jitted
from jaxpress.nnops.recurrent import Recurrence, bind_cell, bind_sequence, define_recurrence
from jaxpress.nnops.recurrent_tangent import Steps, activate, slope

__all__ = ["rnn", "rnn_cell"]

# As measured best by benchmarks/recurrent.py.
UNROLL = 1


def _step(z: Any, state: Any, w_hh: Any, params: Mapping[str, Any]) -> Any:
    (h,) = state
    z = z + jnp.matmul(h.astype(z.dtype), w_hh, precision=params["precision"])
    return (activate(params["activation"], z).astype(h.dtype),), None


def _tangent(steps: Steps) -> Any:
    k = slope(steps.params["activation"], steps.after[0])
    d_gates = steps.d_gates(steps.through("w_hh", steps.before[0]))
    known = None if d_gates is None else k * d_gates

    def step(d: Any, x: Any) -> Any:
        k, known = x
        new = k * steps.product(d[0], steps.weights)
        return (new if known is None else new + known,)

    return (k, known), step


_KIND = Recurrence(
    name="rnn",
    states=("h",),
    gates=1,
    biases=("b",),
    defaults={"activation": "tanh"},
    prepare=lambda operands, params: operands["w_hh"],
    input_bias=lambda operands, params: operands.get("b"),
    step=_step,
    kept=lambda params: 0,
    tangent=_tangent,
)
_RNN, _RNN_CELL = define_recurrence(_KIND)


@eagerly_jitted
def rnn(
    x: Any,
    h0: Any,
    w_ih: Any,
    w_hh: Any,
    b: Any = None,
    *,
    lengths: Any = None,
    mask: Any = None,
    reverse: bool = False,
    activation: Any = "tanh",
    masked_output: str = "zero",
    precision: Any = None,
    unroll: int = UNROLL,
) -> tuple[jax.Array, jax.Array]:
    """A simple recurrent network over a sequence.

    ``h = activation(x_t @ w_ih + h @ w_hh + b)``

    Steps beyond a sequence's length leave its state as it is; with ``reverse`` each sequence is
    read from its own last step to its first, and ``y`` stays in the order of x.

    Args:
        x: (..., time, features), any batch dimensions or none.
        h0: (..., hidden), the first state, or None for zeros. A dtype wider than that of the
            weights is kept from step to step.
        w_ih: (features, hidden); None where x is the projected input (..., time, hidden).
        w_hh: (hidden, hidden).
        b: (hidden,), or None.
        lengths: (...), integers: how many steps of each sequence count. None: all.
        mask: (..., time), booleans, True for steps that count, in place of ``lengths``.
        reverse: from the last step to the first.
        activation: such as ``"tanh"`` or ``"relu"``; None for none.
        masked_output: ``"zero"``, or ``"hold"`` to repeat h, at steps that do not count.
        precision: of the products, as in jax.lax.dot_general.
        unroll: how many steps of the loop are written out in one turn.

    Returns:
        ``(y, h)``: h after each step (..., time, hidden), and the last state.

    Raises:
        OpError: shapes do not fit; nothing is broadcast.
        OpTypeError: weights or state are integers, the mask is not boolean.

    Source: Elman, 1990, doi:10.1207/s15516709cog1402_1; torch.nn.RNN.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxpress import nnops
        >>> one = jnp.ones((1, 1))
        >>> y, h = nnops.rnn(jnp.ones((4, 1)), None, one, one, activation="relu")
        >>> y[:, 0].tolist()
        [1.0, 2.0, 3.0, 4.0]
    """
    operands = {"x": x, "h0": h0, "w_ih": w_ih, "w_hh": w_hh, "b": b, "mask": mask}
    params = {
        "activation": activation,
        "reverse": reverse,
        "masked_output": masked_output,
        "precision": precision,
        "unroll": unroll,
    }
    y, h = bind_sequence(_KIND, _RNN, operands, lengths, params)
    return y, h


@eagerly_jitted
def rnn_cell(
    x: Any,
    h: Any,
    w_ih: Any,
    w_hh: Any,
    b: Any = None,
    *,
    activation: Any = "tanh",
    precision: Any = None,
) -> jax.Array:
    """One step of a simple recurrent network; see `rnn`.

    Args:
        x: (..., features), any batch dimensions or none.
        h: (..., hidden).
        w_ih: (features, hidden); None where x is projected already.
        w_hh: (hidden, hidden).
        b: (hidden,), or None.
        activation: such as ``"tanh"`` or ``"relu"``; None for none.
        precision: of the products, as in jax.lax.dot_general.

    Returns:
        The next h.

    Raises:
        OpError: shapes do not fit; nothing is broadcast.
        OpTypeError: weights or state are integers.

    Source: as for `rnn`.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxpress import nnops
        >>> one = jnp.ones((1, 1))
        >>> nnops.rnn_cell(jnp.ones(1), jnp.ones(1), one, one, activation="relu").tolist()
        [2.0]
    """
    operands = {"x": x, "h": h, "w_ih": w_ih, "w_hh": w_hh, "b": b}
    params = {"activation": activation, "precision": precision}
    return bind_cell(_KIND, _RNN_CELL, operands, params)[0]
