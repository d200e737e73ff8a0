"""How much work a function does, as a number of calls: the same in every run, unlike a time."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

__all__ = ["assert_linear", "calls_of"]


def calls_of(fn: Callable[[], Any], at_most: float = float("inf")) -> int:
    """Calls of Python and C functions while ``fn()`` runs; fails as soon as there are too many."""
    count = 0

    def note(frame: Any, event: str, arg: Any) -> None:
        nonlocal count
        if event in ("call", "c_call"):
            count += 1
            assert count <= at_most, f"more than {at_most} calls"

    before = sys.getprofile()
    sys.setprofile(note)
    try:
        fn()
    finally:
        sys.setprofile(before)
    return count


def assert_linear(fn: Callable[[Any], Any], small: Any, large: Any, factor: int) -> None:
    """Assert that ``fn(large)`` does about ``factor`` times the work of ``fn(small)``, not more."""
    fn(small)  # what is done once only must not count
    fn(large)
    assert calls_of(lambda: fn(large)) <= 1.3 * factor * calls_of(lambda: fn(small))
