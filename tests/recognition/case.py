"""What a cell of the recognition table is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

__all__ = ["Case", "data", "missing", "named_ops", "other_ops"]

# The plain equations that move data and compute nothing; a layer may need some around its op.
MOVES = frozenset(
    {
        "broadcast_in_dim",
        "concatenate",
        "convert_element_type",
        "copy",
        "expand_dims",
        "iota",
        "reshape",
        "slice",
        "split",
        "squeeze",
        "transpose",
        "unstack",
    }
)


@dataclass(frozen=True)
class Case:
    """A layer and what must be left of it.

    Attributes:
        build: gives a function of data, with its weights closed over, and its arguments.
        ops: named ops that the optimised graph has, and how many.
        moves: whether equations that only move data may be left as well.
        rest: other equations that may be left, and why.
    """

    build: Callable[[], tuple[Callable[..., Any], tuple[Any, ...]]]
    ops: Mapping[str, int]
    moves: bool = False
    rest: Mapping[str, str] = field(default_factory=dict)


def data(*shape: int, seed: int = 0) -> Any:
    """Input numbers, the same in every run."""
    import jax.numpy as jnp

    return jnp.asarray(np.random.default_rng([seed, *shape]).normal(size=shape), "float32")


def named_ops(graph: Any) -> Counter:
    """The named ops of a graph, without what its prologue computes."""
    from jaxpress import nnops

    return Counter({op: n for op, n in graph.count().items() if op in nnops.registry()})


def other_ops(graph: Any) -> Counter:
    """The equations of a graph that are no named ops, without what its prologue computes."""
    from jaxpress import nnops

    return Counter({op: n for op, n in graph.count().items() if op not in nnops.registry()})


def missing(case: Case, graph: Any) -> str:
    """What is wrong with the graph of a layer; empty where nothing is."""
    named, others = named_ops(graph), other_ops(graph)
    allowed = {*case.rest, *(MOVES if case.moves else ())}
    stray = {op: n for op, n in others.items() if op not in allowed}
    problems = []
    if named != Counter(case.ops):
        problems.append(f"named ops are {dict(named)}, not {dict(case.ops)}")
    if stray:
        problems.append(f"left over: {stray}")
    return "; ".join(problems)
