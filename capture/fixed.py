"""What never changes needs no copies."""

from __future__ import annotations

import pickle
from typing import Any

__all__ = ["Fixed"]


class Fixed:
    """The base of graphs and their parts: immutable, so that a copy is the thing itself.

    A pickle is refused: an equation holds JAX's own primitives, rules and traces, which belong to
    the process.
    """

    __slots__ = ()

    def __copy__(self) -> Any:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        return self

    def __reduce__(self) -> Any:
        raise pickle.PicklingError(
            f"{self!r} cannot be pickled, since JAX's primitives and traces belong to the process; "
            "pickle the function and trace it again, or write the graph with jax.export"
        )
