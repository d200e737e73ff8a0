"""Where a node comes from in the user's own code."""

from __future__ import annotations

from typing import Any, NamedTuple

from jaxpress.capture import compat

__all__ = ["Source", "find_source"]

# Packages whose frames stand between the user's line and the equation. JAX's own are left out
# by JAX; these are the libraries that models are written with, and jaxpress itself.
_LIBRARY_PARTS = tuple(
    f"/site-packages/{name}/"
    for name in ("flax", "haiku", "equinox", "keras", "optax", "jax", "optree", "einops", "jaxpress")
)


class Source(NamedTuple):
    """A place in the user's code: file, line (1-based) and function."""

    file: str
    line: int
    function: str

    def __str__(self) -> str:
        return f"{self.file.rpartition('/')[2]}:{self.line} ({self.function})"


def find_source(source_info: Any) -> Source | None:
    """The innermost frame outside JAX and the model libraries.

    Where every frame lies inside a library (a model that a library ships), the innermost of
    those is better than nothing.
    """
    first = None
    for file, line, function in compat.source_frames(source_info):
        place = Source(file, line, function)
        if not any(part in file.replace("\\", "/") for part in _LIBRARY_PARTS):
            return place
        first = first or place
    return first
