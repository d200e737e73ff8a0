"""Gated recurrent unit: one step, and a whole sequence, as named ops."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from jaxpress.nnops.eager import eagerly_jitted
from jaxpress.nnops.recurrent import Recurrence, bind_cell, bind_sequence, define_recurrence
from jaxpress.nnops.recurrent_tangent import Steps, activate, slope

__all__ = ["gru", "gru_cell"]

# As measured best by benchmarks/recurrent.py.
UNROLL = 1


def _prepare(operands: Mapping[str, Any], params: Mapping[str, Any]) -> Any:
    """``(w_hh, bias of n)``, or w_hh of r and z, and of n, where r comes before the product."""
    w = operands["w_hh"]
    n = w.shape[0]
    if not params["reset_after"]:
        return w[:, : 2 * n], w[:, 2 * n :]
    bias = operands.get("b_hh")
    return w, None if bias is None else bias[2 * n :]


def _input_bias(operands: Mapping[str, Any], params: Mapping[str, Any]) -> Any:
    bias, more = operands.get("b"), operands.get("b_hh")
    if more is not None and params["reset_after"]:
        n = more.shape[0] // 3
        more = jnp.concatenate([more[: 2 * n], jnp.zeros_like(more[2 * n :])])
    if bias is None or more is None:
        return more if bias is None else bias
    return bias + more


def _step(z: Any, state: Any, weights: Any, params: Mapping[str, Any]) -> Any:
    (h,) = state
    act, gate = (partial(activate, params[k]) for k in ("activation", "gate_activation"))
    x_rz, x_n = _two_and_one(z)
    if params["reset_after"]:
        w, bias = weights
        h_rz, q = _two_and_one(_product(h, w, z, params))
        q = q if bias is None else q + bias
        r, u = jnp.split(gate(x_rz + h_rz), 2, axis=-1)
        n = act(x_n + r * q)
        kept = [r, u, n, q]
    else:
        w_rz, w_n = weights
        r, u = jnp.split(gate(x_rz + _product(h, w_rz, z, params)), 2, axis=-1)
        n = act(x_n + _product(r * h, w_n, z, params))
        kept = [r, u, n]
    return (n + u * (h - n),), jnp.concatenate(kept, axis=-1)


def _product(x: Any, w: Any, like: Any, params: Mapping[str, Any]) -> Any:
    return jnp.matmul(x.astype(like.dtype), w, precision=params["precision"])


def _two_and_one(z: Any) -> tuple[Any, Any]:
    n = z.shape[-1] // 3
    return z[..., : 2 * n], z[..., 2 * n :]


def _tangent(steps: Steps) -> Any:
    return _tangent_after(steps) if steps.params["reset_after"] else _tangent_before(steps)


def _tangent_after(steps: Steps) -> Any:
    (h,) = steps.before
    act, gate = steps.params["activation"], steps.params["gate_activation"]
    r, z, n, q = jnp.split(steps.kept.astype(h.dtype), 4, axis=-1)
    kn = (1 - z) * slope(act, n)
    kr, kz, kq = kn * q * slope(gate, r), (h - n) * slope(gate, z), kn * r
    known = None
    d_hidden = steps.through("w_hh", h)
    if "b_hh" in steps.d_weights:
        # That of r and z came with the input's bias.
        bias = steps.d_weights["b_hh"]
        bias = bias.at[: 2 * (bias.shape[0] // 3)].set(0)
        d_hidden = bias if d_hidden is None else d_hidden + bias
    for d, last in ((steps.d_input, kn), (d_hidden, kq)):
        if d is not None:
            part = _weighted(d, kr, kz, last)
            known = part if known is None else known + part

    def step(d: Any, x: Any) -> Any:
        (dh,) = d
        z, kr, kz, kq, known = x
        new = z * dh + _weighted(steps.product(dh, steps.weights[0]), kr, kz, kq)
        return (new if known is None else new + known,)

    return (z, kr, kz, kq, known), step


def _weighted(d: Any, *by: Any) -> Any:
    a, b, c = (x * k for x, k in zip(jnp.split(d, 3, axis=-1), by, strict=True))
    return a + b + c


def _tangent_before(steps: Steps) -> Any:
    (h,) = steps.before
    w_rz, w_n = steps.weights
    act, gate = steps.params["activation"], steps.params["gate_activation"]
    r, z, n = jnp.split(steps.kept.astype(h.dtype), 3, axis=-1)
    kr, kz, kn = h * slope(gate, r), (h - n) * slope(gate, z), (1 - z) * slope(act, n)
    known = None
    d_gates = steps.d_input
    if "w_hh" in steps.d_weights:
        d_rz, d_n = _two_and_one(steps.d_weights["w_hh"])
        d_hidden = jnp.concatenate([steps.product(h, d_rz), steps.product(r * h, d_n)], axis=-1)
        d_gates = d_hidden if d_gates is None else d_gates + d_hidden
    if d_gates is not None:
        dr, dz, dn = jnp.split(d_gates, 3, axis=-1)
        known = kr * dr, kz * dz + kn * dn

    def step(d: Any, x: Any) -> Any:
        (dh,) = d
        r, z, kr, kz, kn, known = x
        dr, dz = jnp.split(steps.product(dh, w_rz), 2, axis=-1)
        reset = r * dh + kr * dr
        new = z * dh + kz * dz
        if known is not None:
            reset, new = reset + known[0], new + known[1]
        return (new + kn * steps.product(reset, w_n),)

    return (r, z, kr, kz, kn, known), step


_KIND = Recurrence(
    name="gru",
    states=("h",),
    gates=3,
    biases=("b", "b_hh"),
    defaults={"activation": "tanh", "gate_activation": "sigmoid", "reset_after": True},
    prepare=_prepare,
    input_bias=_input_bias,
    step=_step,
    kept=lambda params: 4 if params["reset_after"] else 3,
    tangent=_tangent,
)
_GRU, _GRU_CELL = define_recurrence(_KIND)


@eagerly_jitted
def gru(
    x: Any,
    h0: Any,
    w_ih: Any,
    w_hh: Any,
    b: Any = None,
    b_hh: Any = None,
    *,
    lengths: Any = None,
    mask: Any = None,
    reverse: bool = False,
    reset_after: bool = True,
    activation: Any = "tanh",
    gate_activation: Any = "sigmoid",
    masked_output: str = "zero",
    precision: Any = None,
    unroll: int = UNROLL,
) -> tuple[jax.Array, jax.Array]:
    """Gated recurrent unit over a sequence.

    ``r = sigmoid(x_r + h_r)``, ``z = sigmoid(x_z + h_z)``, ``n = tanh(x_n + r * h_n)`` and
    ``h = (1 - z) * n + z * h``, where ``x_t @ w_ih + b`` is split into x_r, x_z, x_n, and
    ``h @ w_hh + b_hh`` into h_r, h_z, h_n. Without ``reset_after`` it is
    ``n = tanh(x_n + (r * h) @ w_n + b_n)``, as in the paper.

    The gates stand in the columns of the weights in the order r, z, n, as in torch; Keras and Haiku
    have z before r. Steps beyond a sequence's length leave its state as it is; with ``reverse``
    each sequence is read from its own last step to its first, and ``y`` stays in the order of x.

    Args:
        x: (..., time, features), any batch dimensions or none.
        h0: (..., hidden), the first state, or None for zeros. A dtype wider than that of the
            weights is kept from step to step.
        w_ih: (features, 3 * hidden); None where x is the projected input (..., time, 3 * hidden).
        w_hh: (hidden, 3 * hidden).
        b: (3 * hidden,), the input's bias, or None.
        b_hh: (3 * hidden,), the recurrent bias, or None.
        lengths: (...), integers: how many steps of each sequence count. None: all.
        mask: (..., time), booleans, True for steps that count, in place of ``lengths``.
        reverse: from the last step to the first.
        reset_after: whether r scales the product or what enters it.
        activation: of n; a name or `Activation`.
        gate_activation: of r and z.
        masked_output: ``"zero"``, or ``"hold"`` to repeat h, at steps that do not count.
        precision: of the products, as in jax.lax.dot_general.
        unroll: how many steps of the loop are written out in one turn.

    Returns:
        ``(y, h)``: h after each step (..., time, hidden), and the last state.

    Raises:
        OpError: shapes do not fit; nothing is broadcast.
        OpTypeError: weights or states are integers, the mask is not boolean.

    Source: Cho et al., 2014, arXiv:1406.1078; with ``reset_after``, torch.nn.GRU.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxpress import nnops
        >>> y, h = nnops.gru(jnp.ones((7, 3)), None, jnp.ones((3, 15)), jnp.ones((5, 15)))
        >>> y.shape, bool((y[-1] == h).all())
        ((7, 5), True)
    """
    operands = {
        "x": x, "h0": h0, "w_ih": w_ih, "w_hh": w_hh, "b": b, "b_hh": b_hh, "mask": mask,
    }  # fmt: skip
    params = {
        "activation": activation,
        "gate_activation": gate_activation,
        "reset_after": reset_after,
        "reverse": reverse,
        "masked_output": masked_output,
        "precision": precision,
        "unroll": unroll,
    }
    y, h = bind_sequence(_KIND, _GRU, operands, lengths, params)
    return y, h


@eagerly_jitted
def gru_cell(
    x: Any,
    h: Any,
    w_ih: Any,
    w_hh: Any,
    b: Any = None,
    b_hh: Any = None,
    *,
    reset_after: bool = True,
    activation: Any = "tanh",
    gate_activation: Any = "sigmoid",
    precision: Any = None,
) -> jax.Array:
    """One step of a gated recurrent unit; see `gru`.

    Args:
        x: (..., features), any batch dimensions or none.
        h: (..., hidden).
        w_ih: (features, 3 * hidden), gates r, z, n; None where x is projected already.
        w_hh: (hidden, 3 * hidden).
        b: (3 * hidden,), the input's bias, or None.
        b_hh: (3 * hidden,), the recurrent bias, or None.
        reset_after: whether r scales the product or what enters it.
        activation: of n.
        gate_activation: of r and z.
        precision: of the products, as in jax.lax.dot_general.

    Returns:
        The next h.

    Raises:
        OpError: shapes do not fit; nothing is broadcast.
        OpTypeError: weights or state are integers.

    Source: as for `gru`.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxpress import nnops
        >>> w = jnp.zeros((2, 6))
        >>> nnops.gru_cell(jnp.zeros(2), jnp.ones(2), w, w).tolist()
        [0.5, 0.5]
    """
    operands = {"x": x, "h": h, "w_ih": w_ih, "w_hh": w_hh, "b": b, "b_hh": b_hh}
    params = {
        "activation": activation,
        "gate_activation": gate_activation,
        "reset_after": reset_after,
        "precision": precision,
    }
    return bind_cell(_KIND, _GRU_CELL, operands, params)[0]
