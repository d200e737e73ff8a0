"""DOT -> SVG, PNG and PDF by a layout engine, and files that are whole or not there."""

from __future__ import annotations

import contextlib
import os
import secrets
import threading
from pathlib import Path

from jaxpress.viz.errors import OutputError, RendererNotFound, RenderError

__all__ = ["layout", "write_file"]

# Graphviz as a library keeps global state.
_one_at_a_time = threading.Lock()


def layout(dot: str, suffix: str, wanted: str = "") -> bytes:
    """Lay out DOT text.

    The ``dot`` program is used where it is on the PATH (through the package graphviz), and
    pygraphviz, which brings its own engine, elsewhere.

    Args:
      dot: the text of a DOT graph.
      suffix: ``"svg"``, ``"png"`` or ``"pdf"``.
      wanted: the suffix of the file that it is for, where that is another; for messages.

    Returns:
      The file's content.

    Raises:
      RendererNotFound: neither is installed.
      RenderError: the engine failed.
    """
    found = _by_program(dot, suffix)
    return found if found is not None else _by_library(dot, suffix, wanted or f".{suffix}")


def _by_program(dot: str, suffix: str) -> bytes | None:
    """The picture by the ``dot`` program; ``None`` where there is none."""
    try:
        import graphviz
    except ImportError:
        return None
    try:
        return graphviz.Source(dot).pipe(format=suffix, quiet=True)
    except graphviz.ExecutableNotFound:
        return None
    except graphviz.CalledProcessError as error:
        raise RenderError(f"Graphviz could not draw the graph: {error}") from error


def _by_library(dot: str, suffix: str, wanted: str) -> bytes:
    try:
        import pygraphviz
    except ImportError as error:
        raise RendererNotFound(wanted, str(error)) from error
    try:
        with _one_at_a_time:
            drawn = pygraphviz.AGraph(string=dot).draw(format=suffix, prog="dot")
    except (OSError, ValueError, pygraphviz.DotError) as error:
        raise RenderError(f"Graphviz could not draw the graph: {error}") from error
    if not drawn:
        raise RenderError(f"Graphviz drew nothing as {suffix}.")
    return drawn


def write_file(path: str | os.PathLike[str], data: bytes) -> None:
    """Write ``data`` to ``path``, all of it or nothing.

    Raises:
      OutputError: the folder is missing, or may not be written to; an older file stays as it was.
    """
    # A link stays a link, and what it points at is replaced.
    target = Path(os.path.realpath(path))
    temporary = target.with_name(f".{target.name[:80]}.{secrets.token_hex(4)}")
    try:
        if target.is_dir():
            raise IsADirectoryError(None, "it is a folder")
        with open(temporary, "xb") as file:
            file.write(data)
        os.replace(temporary, target)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise OutputError(f"Cannot write {os.fspath(path)}: {error.strerror or error}") from error
