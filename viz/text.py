"""Names, shapes and numbers as short, safe text."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from typing import Any

from jaxpress.capture.graph import Literal, Value, short_dtype

__all__ = ["BODY", "array_text", "clean", "count_text", "literal_text", "param_text", "shape_text"]

# Characters that no XML document may hold, or that would turn the text around them: controls,
# surrogates, and the marks that switch the direction of writing.
_UNPRINTABLE = {"Cc", "Cs", "Cf", "Zl", "Zp", "Cn", "Co"}
BODY = "(body)"
_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")


def clean(name: Any, limit: int = 60) -> str:
    r"""``name`` as one printable line of at most ``limit`` characters.

    A character that cannot be printed is shown by its escape, so that nothing is hidden and
    any format can hold the result. What a format itself needs escaped is left to its writer.

    >>> clean("a\nb")
    'a\\nb'
    """
    text = "".join(
        ch if unicodedata.category(ch) not in _UNPRINTABLE else _escape(ch) for ch in str(name)
    )
    return text if len(text) <= limit else text[: limit - 1] + "…"


def _escape(ch: str) -> str:
    short = {"\n": "\\n", "\t": "\\t", "\r": "\\r"}
    return short.get(ch) or (f"\\x{ord(ch):02x}" if ord(ch) < 256 else f"\\u{ord(ch):04x}")


def shape_text(shape: Iterable[Any]) -> str:
    """``"1×56×56×64"``; a scalar's shape is ``"scalar"``. Symbolic sizes keep their name."""
    return "×".join(clean(n, 20) for n in shape) or "scalar"


def array_text(value: Value, usual: str = "") -> str:
    """A value's shape, and its dtype unless that is the ``usual`` one: ``"8×128 bf16"``."""
    if value.dtype is None:
        return clean(value.aval, 30)
    dtype = short_dtype(value.dtype)
    shape = shape_text(value.shape)
    return shape if dtype == usual else f"{shape} {clean(dtype, 16)}"


def literal_text(value: Any) -> str:
    """A scalar as a person would write it: ``0.5``, ``1e-05``, ``True``, ``-inf``."""
    val = value.val if isinstance(value, Literal) else value
    try:
        item = val.item()
    except AttributeError:
        item = val
    if isinstance(item, float):
        return f"{item:.4g}"
    if isinstance(item, int) and not isinstance(item, bool):
        item = int(item)  # a subclass of int may print in its own way
    return clean(item, 16)


def count_text(n: float) -> str:
    """A large number in three digits: ``"987"``, ``"12.3k"``, ``"3.54M"``.

    >>> count_text(3_538_984)
    '3.54M'
    """
    for unit in ("", "k", "M", "G", "T", "P"):
        if abs(n) < 999.5 or unit == "P":
            break
        n /= 1000
    digits = f"{n:.3g}" if abs(n) < 1000 else f"{n:.0f}"
    return digits + unit


def param_text(param: Any, limit: int = 120) -> str:
    """A node's parameter as one line that is the same in every run.

    Functions are told by name, bodies by what they are, and memory addresses are left out.
    """
    if isinstance(param, tuple | list) and not hasattr(param, "_fields"):
        inner = ", ".join(param_text(p, limit) for p in param)
        return clean(f"({inner})", limit)
    if hasattr(param, "eqns") or hasattr(param, "jaxpr"):
        return BODY
    if callable(param) and not isinstance(param, type):
        name = getattr(param, "__name__", None)
        if name is not None or type(param).__repr__ is object.__repr__:
            return clean(name or type(param).__name__, limit)
    return clean(_ADDRESS.sub("", str(param)), limit)
