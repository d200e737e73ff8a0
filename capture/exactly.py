"""Values of parameters as keys hold them: Python calls more of them equal than are the same."""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["exactly"]


def exactly(value: Any) -> Any:
    """``value``, hashable if it is, equal to that of another value only where both are the same.

    1, 1.0 and True are equal, and so are 0.0 and -0.0.

    >>> exactly((1, 0.0)) == exactly((True, 0.0)), exactly(0.0) == exactly(-0.0)
    (False, False)
    """
    kind = type(value)
    if kind is tuple:
        return kind, tuple([exactly(v) for v in value])
    if isinstance(value, float | complex | np.inexact):
        return kind, repr(value)
    return kind, value
