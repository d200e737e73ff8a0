"""A function becomes a Graph, a Graph becomes a function."""

from jaxpress.capture.errors import (
    ArgumentError,
    GraphError,
    JaxpressError,
    PassError,
    RewriteLoopError,
    TargetError,
    TraceError,
    VerificationError,
)
from jaxpress.capture.from_jaxpr import graph_of_jaxpr
from jaxpress.capture.graph import Graph, Literal, Node, Value
from jaxpress.capture.provenance import Source
from jaxpress.capture.trace import trace

__all__ = [
    "ArgumentError",
    "Graph",
    "GraphError",
    "JaxpressError",
    "Literal",
    "Node",
    "PassError",
    "RewriteLoopError",
    "Source",
    "TargetError",
    "TraceError",
    "Value",
    "VerificationError",
    "graph_of_jaxpr",
    "trace",
]
