"""What a pattern may ask of a value besides where it comes from: shape, dtype, users."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import jax.numpy as jnp
import numpy as np

from jaxpress.capture import PassError, Value
from jaxpress.passes.view import View

__all__ = ["Constraint", "constraint_of"]

_KINDS = {
    "bool": np.bool_,
    "complex": np.complexfloating,
    "floating": np.floating,
    "inexact": np.inexact,
    "integer": np.integer,
    "number": np.number,
}


class _Sizes(Protocol):
    """The part of a match that remembers which size a name stands for."""

    view: View
    sizes: dict[str, Any]

    def bind(self, table: dict, key: Any, what: Any) -> None: ...


class Constraint:
    """Conditions on one value; ``why_not`` says which of them fails.

    Args:
      shape: one entry per axis: a number, ``None`` for any size, a name for a size that is the
        same wherever the name occurs in the pattern, and once ``...`` for any number of axes.
      ndim: how many axes it has.
      dtype: a dtype, or a kind of them (``"floating"``, ``"integer"``, ``"complex"``,
        ``"inexact"``, ``"number"``, ``"bool"``), or several of either.
      users: how many nodes and outputs need it: a number, or a predicate of the number.
      known: whether it depends on weights and literals alone.

    Raises:
      PassError: a shape or a dtype cannot be read.
    """

    def __init__(
        self,
        *,
        shape: tuple[Any, ...] | None = None,
        ndim: int | None = None,
        dtype: Any = None,
        users: int | Callable[[int], bool] | None = None,
        known: bool | None = None,
    ):
        if shape is not None and sum(d is ... for d in shape) > 1:
            raise PassError(f"the shape {shape} of a pattern has more than one '...'")
        self.shape = shape
        self.ndim = ndim
        several = dtype if isinstance(dtype, tuple | list | set | frozenset) else (dtype,)
        self.dtypes = None if dtype is None else tuple(map(_dtype_or_kind, several))
        self.users = users
        self.known = known

    def why_not(self, value: Value, state: _Sizes) -> str | None:
        """Which condition ``value`` does not meet; ``None`` if it meets all."""
        if self.ndim is not None and value.ndim != self.ndim:
            return f"{value!r} has {value.ndim} axes, not {self.ndim}"
        if self.dtypes is not None and not any(_is_of(value.dtype, d) for d in self.dtypes):
            wanted = " or ".join(getattr(d, "__name__", str(d)) for d in self.dtypes)
            return f"{value!r} has dtype {value.dtype}, not {wanted}"
        view = state.view
        if self.known is not None and view.is_known(value) != self.known:
            return f"{value!r} {'depends' if self.known else 'does not depend'} on the data"
        if self.users is not None:
            count = view.use_count(value)
            if not (self.users(count) if callable(self.users) else count == self.users):
                return f"{value!r} has {count} users"
        if self.shape is not None and not self._fits(value, state):
            return f"{value!r} does not have the shape {_shape_text(self.shape)}"
        return None

    def _fits(self, value: Value, state: _Sizes) -> bool:
        assert self.shape is not None
        wanted, got = self.shape, value.shape
        if ... in wanted:
            i = wanted.index(...)
            rest = len(wanted) - i - 1
            if len(got) < len(wanted) - 1:
                return False
            wanted = wanted[:i] + wanted[i + 1 :]
            got = got[:i] + got[len(got) - rest :]
        if len(wanted) != len(got):
            return False
        sizes = dict(state.sizes)
        for want, size in zip(wanted, got, strict=True):
            if isinstance(want, str):
                if sizes.setdefault(want, size) != size:
                    return False
            elif want is not None and want != size:
                return False
        for name, size in sizes.items():
            if name not in state.sizes:
                state.bind(state.sizes, name, size)
        return True


def constraint_of(options: dict[str, Any]) -> Constraint | None:
    """A constraint from keyword arguments; ``None`` if all are left out."""
    given = {k: v for k, v in options.items() if v is not None}
    return Constraint(**given) if given else None


def _dtype_or_kind(dtype: Any) -> Any:
    if isinstance(dtype, str) and dtype in _KINDS:
        return _KINDS[dtype]
    if isinstance(dtype, type) and issubclass(dtype, np.generic) and dtype in _KINDS.values():
        return dtype
    try:
        return jnp.dtype(dtype)
    except TypeError as error:
        raise PassError(
            f"{dtype!r} is no dtype, and none of the kinds {', '.join(_KINDS)}"
        ) from error


def _is_of(dtype: Any, wanted: Any) -> bool:
    if dtype is None:
        return False
    return jnp.issubdtype(dtype, wanted) if isinstance(wanted, type) else dtype == wanted


def _shape_text(shape: tuple[Any, ...]) -> str:
    names = {None: "any", ...: "..."}
    return f"[{', '.join(names.get(d) or str(d) for d in shape)}]"
