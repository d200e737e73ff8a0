"""Errors of the named ops.

Each message names the op, what is wrong, the operands with their types and shapes, and the mend.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

__all__ = ["OpError", "OpTypeError", "describe", "explained"]

Function = TypeVar("Function", bound=Callable[..., Any])


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
        # Described at once: arrays in an error would keep their memory alive.
        self._settle(op, problem, _described(operands or {}), mend)

    def _settle(self, op: str, problem: str, operands: str, mend: str) -> None:
        parts = [f"{op}: {problem}"]
        if operands:
            parts.append(f"operands: {operands}")
        if mend:
            parts.append(f"to mend it: {mend}")
        ValueError.__init__(self, "\n  ".join(parts))
        self.op, self.problem, self.operands, self.mend = op, problem, operands, mend

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickles the parts of the message."""
        return (_rebuild, (type(self), self.op, self.problem, self.operands, self.mend))


class OpTypeError(OpError, TypeError):
    """An operand or parameter has a type or dtype that the op cannot take."""


def explained(fn: Function) -> Function:
    """``fn``, a public op whose errors are all `OpError`, and name it and its operands.

    What JAX raises of an operand that no array can be made of, or of a dtype that an equation does
    not take, becomes an `OpTypeError`, which is a ValueError and a TypeError too. An error of
    another op that ``fn`` is made of gets ``fn``'s name in front.
    """
    name = fn.__name__
    signature = inspect.signature(fn)

    @functools.wraps(fn)
    def call(*args: Any, **kwargs: Any) -> Any:
        try:
            return fn(*args, **kwargs)
        except OpError as error:
            if error.op == name and error.operands:
                raise
            inner = error.problem if error.op == name else f"{error.op}: {error.problem}"
            operands = error.operands or _described(_given(signature, args, kwargs)[0])
            raise _rebuild(type(error), name, inner, operands, error.mend) from error
        except (TypeError, ValueError) as error:
            # Errors with a meaning of their own are of subclasses: of tracers, of symbolic sizes.
            own = type(error) in (TypeError, ValueError)
            frame = error.__traceback__
            if not own or frame is None or frame.tb_next is None:  # a call that fn does not take
                raise
            arrays, settings = _given(signature, args, kwargs)
            what = str(error).strip().partition("\n")[0]
            if settings:
                what += ", given " + ", ".join(f"{k}={v!r}" for k, v in settings.items())
            mend = "give arrays and settings of the kinds that its documentation names"
            raise OpTypeError(name, what, arrays, mend) from error

    return call  # type: ignore[return-value]


def _given(signature: inspect.Signature, args: Any, kwargs: Any) -> tuple[Any, Any]:
    """What a call was given by name: arrays, and all else."""
    given = dict(signature.bind(*args, **kwargs).arguments)
    for several, values in [(k, v) for k, v in given.items() if isinstance(v, tuple)]:
        if signature.parameters[several].kind is inspect.Parameter.VAR_POSITIONAL:
            del given[several]
            given |= {f"{several}[{i}]": v for i, v in enumerate(values)}
    arrays = {k: v for k, v in given.items() if hasattr(v, "shape") and hasattr(v, "dtype")}
    return arrays, {k: v for k, v in given.items() if k not in arrays and v is not None}


def _described(arrays: Mapping[str, Any]) -> str:
    return ", ".join(f"{k} {describe(v)}" for k, v in arrays.items() if v is not None)


def _rebuild(cls: type[OpError], op: str, problem: str, operands: str, mend: str) -> OpError:
    error = cls.__new__(cls)
    error._settle(op, problem, operands, mend)
    return error
