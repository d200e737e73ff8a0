"""Every error that jaxpress raises on purpose, except those of the named ops and of rendering.

Each message says what was wrong, where (the node and the user's line, if there is one) and how
to mend it.
"""

from __future__ import annotations

__all__ = [
    "ArgumentError",
    "GraphError",
    "JaxpressError",
    "PassError",
    "RewriteLoopError",
    "TargetError",
    "TraceError",
    "VerificationError",
]


class JaxpressError(Exception):
    """The base of jaxpress's own errors."""


class TraceError(JaxpressError, TypeError):
    """A function could not be traced: its Python code asks for a value that is not known yet."""


class ArgumentError(JaxpressError, TypeError):
    """A graph was called with arguments that do not fit those it was traced with."""


class GraphError(JaxpressError, ValueError):
    """A graph is not well formed, or an edit would make it so."""


class PassError(JaxpressError, ValueError):
    """A pass is unknown, or failed."""


class RewriteLoopError(PassError):
    """Rules rewrote the same place again and again without coming to an end."""


class TargetError(JaxpressError, ValueError):
    """A command-line target could not be found or does not give a function with arguments."""


class VerificationError(JaxpressError, AssertionError):
    """An optimised function differs from the original by more than was allowed.

    Attributes:
      result: the full comparison, a ``jaxpress.verification.Verification``.
    """

    def __init__(self, message: str, result: object = None):
        super().__init__(message)
        self.result = result
