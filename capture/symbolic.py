"""Graphs with symbolic dimensions, run at sizes that are known."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax

from jaxpress.capture import compat
from jaxpress.capture.errors import ArgumentError
from jaxpress.capture.graph import Graph

__all__ = ["has_symbols", "run_at_sizes"]


def has_symbols(shape: Sequence[Any]) -> bool:
    """Whether a dimension is a symbol of ``jax.export.symbolic_shape``."""
    return not all(isinstance(n, int) for n in shape)


def run_at_sizes(graph: Graph, flat: Sequence[Any]) -> list[Any]:
    """The graph's flat outputs, with its symbols replaced by the sizes of ``flat``.

    Symbols stand in parameters and types all over a graph, also as parts of sums and products.
    ``jax.export`` knows how to give them values, so the graph is exported once, and that is called:
    it works alone, under ``jit`` and under ``grad``, as far as an exported function does.

    Raises:
      ArgumentError: the sizes contradict each other, or the symbols' constraints.
    """
    from jax import export

    constants = list(graph.constant_values.values())
    key = ("at_sizes", compat.context_key())
    if key not in graph._lowered:
        from jaxpress.capture.evaluate import evaluate

        def run(constants: list[Any], flat: list[Any]) -> list[Any]:
            return evaluate(graph, flat, constants)

        run.__name__ = graph.name
        specs = [
            [jax.ShapeDtypeStruct(v.shape, v.dtype) for v in values]
            for values in (graph.constants, graph.inputs)
        ]
        graph._lowered[key] = export.export(jax.jit(run))(*specs)
    try:
        return graph._lowered[key].call(constants, list(flat))
    except ValueError as error:
        raise ArgumentError(
            f"{graph.name} was traced with symbolic sizes that do not fit these: {error}"
        ) from error
