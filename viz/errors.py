"""The errors of rendering. Each says what was wrong and how to mend it."""

from __future__ import annotations

from jaxpress.capture.errors import JaxpressError

__all__ = [
    "NotRenderable",
    "OptionError",
    "OutputError",
    "RenderError",
    "RendererNotFound",
    "UnknownFormat",
]


class RenderError(JaxpressError):
    """The base of rendering's errors; raised itself where the layout engine fails."""


class NotRenderable(RenderError, TypeError):
    """What was to be drawn is neither a graph nor a report."""

    def __init__(self, thing: object):
        super().__init__(
            f"render draws a Graph or a Report, got {type(thing).__name__}. "
            "jaxpress.trace(fn)(*args) makes a Graph, and "
            "jaxpress.optimize(fn).report(*args) a Report."
        )


class OptionError(RenderError, ValueError):
    """An option of rendering has a value that means nothing."""


class RendererNotFound(RenderError, ImportError):
    """Nothing on this machine can lay out a picture.

    Attributes:
      suffix: the format that was asked for, such as ``".svg"``.
    """

    def __init__(self, suffix: str, reason: str = ""):
        self.suffix = suffix
        super().__init__(
            f"Writing {suffix} needs Graphviz, and neither a `dot` program nor pygraphviz was "
            f"found{f' ({reason})' if reason else ''}. Install it with "
            'pip install "jaxpress[graphviz]", or put Graphviz\'s `dot` on the PATH. '
            "Writing .dot and .json works without."
        )


class OutputError(RenderError, OSError):
    """The file could not be written; what stood there before is still there."""


class UnknownFormat(RenderError, ValueError):
    """The path's suffix names no format that can be written.

    Attributes:
      suffix: the path's own suffix.
    """

    def __init__(self, suffix: str, known: tuple[str, ...]):
        self.suffix = suffix
        had = f"the suffix {suffix!r}" if suffix else "no suffix"
        super().__init__(f"The path has {had}; a picture can be one of {', '.join(known)}.")
