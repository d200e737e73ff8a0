"""Types as short text."""

from __future__ import annotations

import functools
from typing import Any

__all__ = ["short_aval", "short_dtype"]

_DTYPES = {"float": "f", "bfloat": "bf", "int": "i", "uint": "u", "complex": "c"}


@functools.lru_cache(maxsize=256)
def short_dtype(dtype: Any) -> str:
    """``"f32"`` for ``float32``; a dtype without a short form keeps its name."""
    name = getattr(dtype, "name", str(dtype))
    stem = name.rstrip("0123456789")
    return _DTYPES[stem] + name[len(stem) :] if stem in _DTYPES and stem != name else name


def short_aval(aval: Any) -> str:
    """``"f32[2,3]"`` for a float32 array of shape (2, 3)."""
    if hasattr(aval, "inner_aval"):  # a reference
        return f"Ref{{{short_aval(aval.inner_aval)}}}"
    if not hasattr(aval, "shape") or not hasattr(aval, "dtype"):
        return str(aval)
    return f"{short_dtype(aval.dtype)}[{','.join(map(str, aval.shape))}]"
