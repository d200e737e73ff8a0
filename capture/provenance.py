"""Where a node comes from in the user's own code."""

from __future__ import annotations

import functools
import os
import re
from pathlib import Path
from typing import Any, NamedTuple

from jaxpress.capture import compat

__all__ = ["Source", "find_source", "is_at_user"]

# Packages whose frames stand between the user's line and the equation: JAX leaves out its own and
# Python's; these are the libraries that models are written with, and those that wrap their methods.
_LIBRARIES = re.compile(
    r"[/\\](?:site|dist)-packages[/\\]"
    r"(?:beartype|einops|equinox|flax|haiku|jax|jaxpress|jaxtyping|keras|optax|optree)[/\\]"
)
# jaxpress itself: one package where it is installed, five folders where it lies in a repository.
_PACKAGE = Path(__file__).parents[1]
_OWN = (
    (_PACKAGE,)
    if (_PACKAGE / "__init__.py").exists()
    else tuple(_PACKAGE / name for name in ("capture", "jaxpress", "nnops", "passes", "viz"))
)
for _folder in _OWN:
    # JAX leaves these out too then: in its own messages, and in what it tells XLA and profiles.
    compat.register_framework_file(str(_folder) + os.sep)
_WRAPPERS = re.compile("<@?beartype")


class Source(NamedTuple):
    """A place in the user's code: file, line (1-based) and function."""

    file: str
    line: int
    function: str

    def __str__(self) -> str:
        name = self.file.replace("\\", "/").rpartition("/")[2]
        return f"{name}:{self.line} ({self.function})"


def find_source(source_info: Any) -> Source | None:
    """The innermost frame outside JAX, the model libraries and jaxpress.

    Where every frame lies inside one of them (a model that a library ships), the innermost is
    better than nothing.
    """
    first = None
    for file, line, function in compat.source_frames(source_info):
        place = Source(file, line, function)
        if not is_library_file(file):
            return place
        first = first or place
    return first


def is_at_user(source_info: Any) -> bool:
    """Whether a frame is outside JAX, the model libraries and jaxpress."""
    return any(not is_library_file(file) for file, _, _ in compat.source_frames(source_info))


@functools.lru_cache(maxsize=4096)
def is_library_file(file: str) -> bool:
    """Whether a frame in ``file`` is looked past on the way to the user's line."""
    own = any(file.startswith(str(folder) + os.sep) for folder in _OWN)
    return own or bool(_LIBRARIES.search(file) or _WRAPPERS.match(file))
