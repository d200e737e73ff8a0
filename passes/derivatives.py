"""What JAX has differentiated already, which some passes cannot change alone."""

from __future__ import annotations

from collections.abc import Callable

from jaxpress.capture import Graph, Node, PassError

__all__ = [
    "before_differentiating",
    "has_derivatives",
    "refuse_differentiated",
    "runs_backwards",
    "runs_forwards",
]

# JAX notes its transformations in the name stack: forwards "jvp(…)", backwards "transpose(jvp(…))".
_FORWARDS, _BACKWARDS = "jvp(", "transpose("


def runs_backwards(node: Node) -> bool:
    """Whether JAX made the node by transposing, as it does for gradients."""
    return _BACKWARDS in node.scope


def runs_forwards(node: Node) -> bool:
    """Whether JAX made the node while it differentiated, or it belongs to what was."""
    return _FORWARDS in node.scope


def has_derivatives(graph: Graph) -> bool:
    """Whether JAX has differentiated a part of the graph."""
    return any(_FORWARDS in node.scope for node in graph.walk())


def before_differentiating(name: str) -> str:
    """What to do instead, for a message of the pass that is called so."""
    return (
        f"give the pass the loss, and differentiate what comes out, as in "
        f'jax.grad(jaxpress.optimize(loss, [{name}(...), "default"]))'
    )


def refuse_differentiated(graph: Graph, chosen: Callable[[Node], bool], name: str) -> None:
    """Refuse to change what has been differentiated: its derivative would stay the old one.

    Raises:
      PassError: a chosen node is part of a gradient.
    """

    def visit(graph: Graph, inside: bool) -> None:
        for node in graph.nodes:
            here = inside or _FORWARDS in node.scope
            if here and chosen(node):
                raise PassError(
                    f"{name}: {node!r} ({node.source or 'no source line'}) is differentiated in "
                    f"this function already; {before_differentiating(name)}"
                )
            for body in node.subgraphs:
                visit(body, here)

    visit(graph, False)
