"""What operands the recurrent ops take: shapes and dtypes, and errors for all others."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import jax.numpy as jnp

from jaxpress.nnops.errors import OpError, OpTypeError

if TYPE_CHECKING:
    from jaxpress.nnops.recurrent import Recurrence

__all__ = ["check_operands", "check_type", "types_of"]


def types_of(operands: Mapping[str, Any], states: tuple[str, ...], suffix: str) -> tuple[Any, Any]:
    """The dtype in which gates are computed, and that of states and outputs.

    The first is what input, weights and biases promote to. A state of a wider dtype stays wide, as
    where weights are bfloat16 and the state is kept in float32.
    """
    names = {s + suffix for s in states}
    work = jnp.result_type(*(v for k, v in operands.items() if k not in names and k != "mask"))
    given = [v for k, v in operands.items() if k in names]
    return work, jnp.result_type(work, *given)


def check_type(op: str, operands: Mapping[str, Any]) -> None:
    """Raises OpTypeError where the gates would be of integers, or the mask is not boolean."""
    for name, value in operands.items():
        if name == "mask":
            if value.dtype != jnp.bool_:
                raise OpTypeError(
                    op,
                    f"mask is {value.dtype}",
                    operands,
                    "give booleans, True for steps that take part",
                )
        elif not jnp.issubdtype(value.dtype, jnp.inexact) and name.startswith(("w_", "h", "c")):
            raise OpTypeError(op, f"{name} is {value.dtype}", operands, f"cast {name} to a float")


def check_operands(kind: Recurrence, operands: Mapping[str, Any], *, sequence: bool) -> None:
    """Raises OpError where an operand's shape does not fit the others'; nothing is broadcast."""
    name = kind.name if sequence else f"{kind.name}_cell"
    suffix = "0" if sequence else ""
    x, w_hh = operands["x"], operands["w_hh"]
    least = 2 if sequence else 1
    if x.ndim < least:
        layout = "(..., time, features)" if sequence else "(..., features)"
        raise OpError(name, f"x has {x.ndim} dimensions", operands, f"give x as {layout}")
    if w_hh.ndim != 2 or w_hh.shape[1] != kind.gates * w_hh.shape[0]:
        raise OpError(
            name,
            f"w_hh has shape {w_hh.shape}",
            operands,
            f"w_hh is (hidden, {_times(kind)}hidden); transpose it if it is the other way round",
        )
    hidden = w_hh.shape[0]
    columns = kind.gates * hidden
    w_ih = operands.get("w_ih")
    if w_ih is None:
        if x.shape[-1] != columns:
            raise OpError(
                name,
                f"without w_ih, x holds the projected input; it has {x.shape[-1]} features, and "
                f"w_hh {columns} columns",
                operands,
                "give w_ih, or project x",
            )
    elif w_ih.ndim != 2 or w_ih.shape != (x.shape[-1], columns):
        raise OpError(
            name,
            f"w_ih has shape {w_ih.shape}, x has {x.shape[-1]} features and w_hh {columns} columns",
            operands,
            f"w_ih is (features, {_times(kind)}hidden); transpose it if it is the other way round",
        )
    for key in kind.biases:
        if key in operands and operands[key].shape != (columns,):
            raise OpError(
                name,
                f"{key} has shape {operands[key].shape}, and w_hh {columns} columns",
                operands,
                f"give {key} the shape ({columns},)",
            )
    lead = x.shape[:-2] if sequence else x.shape[:-1]
    for s in kind.states:
        state = operands.get(s + suffix)
        if state is not None and state.shape != (*lead, hidden):
            raise OpError(
                name,
                f"{s}{suffix} has shape {state.shape}, and batch and hidden size are "
                f"{(*lead, hidden)}",
                operands,
                f"give {s}{suffix} that shape",
            )
    mask = operands.get("mask")
    if mask is not None and mask.shape != x.shape[:-1]:
        raise OpError(
            name,
            f"mask has shape {mask.shape}, and x has batch and time {x.shape[:-1]}",
            operands,
            "give the mask one entry for each step of each sequence",
        )


def _times(kind: Recurrence) -> str:
    return f"{kind.gates} * " if kind.gates > 1 else ""
