"""Capture, rewrite and render JAX functions as graphs.

>>> import jax.numpy as jnp
>>> import jaxpress as jp
>>> w = jnp.ones((3, 4))
>>> graph = jp.trace(lambda x: jnp.tanh(x @ w))(jnp.ones((2, 3)))
>>> graph.count()
Counter({'dot_general': 1, 'tanh': 1})
>>> fast = jp.optimize(lambda x: jnp.tanh(x @ w))
>>> fast.graph(jnp.ones((2, 3))).count()
Counter({'dense': 1})
"""

from __future__ import annotations

from typing import Any

from jaxpress import nnops, passes, testing
from jaxpress.bisect import Bisection, bisect
from jaxpress.capture import (
    ArgumentError,
    Graph,
    GraphError,
    JaxpressError,
    Node,
    PassError,
    RewriteLoopError,
    TargetError,
    TraceError,
    Value,
    VerificationError,
    trace,
)
from jaxpress.optimize import Optimized, optimize
from jaxpress.verification import Verification, verify

__version__ = "0.1.0"

__all__ = [
    "ArgumentError",
    "Bisection",
    "Graph",
    "GraphError",
    "JaxpressError",
    "Node",
    "Optimized",
    "PassError",
    "RewriteLoopError",
    "TargetError",
    "TraceError",
    "Value",
    "Verification",
    "VerificationError",
    "bisect",
    "nnops",
    "optimize",
    "passes",
    "render",
    "testing",
    "trace",
    "verify",
]


def render(graph_or_report: Any, path: Any = None, **options: Any) -> Any:
    """Draw a graph or a report; see ``jaxpress.viz.render`` for all options.

    Args:
      graph_or_report: a :class:`Graph`, or what ``fast.report(...)`` gave.
      path: the file to write; its suffix (svg, png, pdf, dot, html, json) says how.
      **options: of ``jaxpress.viz.render``, such as ``depth``.

    Returns:
      The path; without one, the picture as DOT text.
    """
    from jaxpress.viz import render as draw

    return draw(graph_or_report, path, **options)
