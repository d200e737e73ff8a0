"""Errors of the named ops.

Each message names the op, what is wrong, the operands with their types and shapes, and the mend.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["OpError", "OpTypeError", "describe"]


def describe(value: Any) -> str:
    """The type and shape of ``value`` in a few letters, such as ``float32(8, 32)``."""
    shape, dtype = getattr(value, "shape", None), getattr(value, "dtype", None)
    if shape is None or dtype is None:
        return repr(value)
    dims = ", ".join(map(str, shape)) + ("," if len(shape) == 1 else "")
    return f"{dtype}({dims})"


class OpError(ValueError):
    """An op was given operands or parameters that it cannot take.

    Args:
        op: name of the op.
        problem: what is wrong, in one sentence.
        operands: name to array (anything with ``shape`` and ``dtype``).
        mend: what to do about it.
    """

    def __init__(
        self, op: str, problem: str, operands: Mapping[str, Any] | None = None, mend: str = ""
    ):
        """Builds the message; see the class."""
        shown = {} if operands is None else {k: v for k, v in operands.items() if v is not None}
        parts = [f"{op}: {problem}"]
        if shown:
            parts.append("operands: " + ", ".join(f"{k} {describe(v)}" for k, v in shown.items()))
        if mend:
            parts.append(f"to mend it: {mend}")
        super().__init__("\n  ".join(parts))
        self.op = op
        self.problem = problem
        self.mend = mend

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickles the message alone: arrays in an error would keep their memory alive."""
        return (_rebuild, (type(self), str(self), self.op, self.problem, self.mend))


class OpTypeError(OpError, TypeError):
    """An operand or parameter has a type or dtype that the op cannot take."""


def _rebuild(cls: type[OpError], text: str, op: str, problem: str, mend: str) -> OpError:
    error = cls.__new__(cls)
    ValueError.__init__(error, text)
    error.op, error.problem, error.mend = op, problem, mend
    return error
