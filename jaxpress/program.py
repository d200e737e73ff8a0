"""One optimised graph, compiled, and what a call is told apart by.

An `Optimized` holds one program for each set of shapes that it met.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.core import ShapedArray

from jaxpress.capture import Graph, Value, compat
from jaxpress.capture.collector import collector_at_rest
from jaxpress.capture.evaluate import evaluate, evaluate_prologue
from jaxpress.capture.numpy_eval import evaluate_with_numpy, split_for_numpy
from jaxpress.passes import Report
from jaxpress.weights import PreparedWeights

__all__ = ["Program", "RecentCall", "type_of"]


class Program:
    """One optimised graph, for one set of shapes, and its compiled forms."""

    def __init__(self, graph: Graph, report: Report):
        self.graph = graph
        self.report = report
        self.signature = graph.signature
        self.constants = [_on_device(v, x) for v, x in graph.constant_values.items()]
        prologue = graph.prologue
        hoisted = [] if prologue is None else list(prologue.constant_values.values())
        self.holds_tracers = any(map(compat.is_tracer, (*self.constants, *hoisted)))
        self.weights = PreparedWeights(self._run_prologue)

        def run(constants: list[Any], prepared: list[Any], flat: list[Any]) -> list[Any]:
            return evaluate(graph, flat, constants, prepared)

        run.__name__ = graph.name
        self.compiled = jax.jit(run)
        place = {v: i for i, v in enumerate(graph.inputs)}
        inputs = () if prologue is None else prologue.inputs
        # Where in the flat inputs the prologue finds the weights that it needs.
        self.weight_places = [place[v] for v in inputs]
        self._hoisted = hoisted
        self._prologue = None if prologue is None else _Prologue(prologue)
        self._is_lowered = False

    def run(self, prepared: list[Any], flat: list[Any]) -> list[Any]:
        """The compiled graph's results, flat."""
        jitted = not jax.config.jax_disable_jit  # type: ignore[attr-defined]
        if jitted and not (self._is_lowered or compat.under_trace()):
            # The call finds the lowering in JAX's cache. Compiling may take minutes, in which other
            # threads' garbage is collected as ever.
            with collector_at_rest():
                self.compiled.lower(self.constants, prepared, flat)
            self._is_lowered = True
        return self.compiled(self.constants, prepared, flat)

    def _run_prologue(self, weights: list[Any]) -> list[Any]:
        if self._prologue is None:
            return []
        with compat.outside_trace():
            return self._prologue(self._hoisted, weights)

    def prepared(self, flat: Sequence[Any]) -> list[Any]:
        """The prologue's results for these inputs; kept for weights that are concrete."""
        if self.graph.prologue is None:
            return []
        weights = [flat[i] for i in self.weight_places]
        if self.holds_tracers or any(map(compat.is_tracer, weights)):
            env = dict(zip(self.graph.inputs, flat, strict=True))
            env.update(self.graph.constant_values)
            return evaluate_prologue(self.graph, env)
        return self.weights(weights)


class _Prologue:
    """What prepares the weights: by NumPy where it can, and they lie in the host's memory."""

    def __init__(self, prologue: Graph):
        self._first, self._rest = split_for_numpy(prologue)
        self._compiled = _compiled(prologue)
        self._compiled_first = _compiled(self._first)

    def __call__(self, constants: list[Any], weights: list[Any]) -> list[Any]:
        if not self._rest.nodes or not all(map(_on_host, (*constants, *weights))):
            return self._compiled(constants, weights)
        handed = self._compiled_first(constants, weights) if self._first.nodes else []
        return evaluate_with_numpy(self._rest, [*weights, *handed], constants)


def _compiled(graph: Graph) -> Any:
    def run(constants: list[Any], weights: list[Any]) -> list[Any]:
        # `outside_trace` would run at once, each in a program of its own, what depends on no
        # argument: the ramps of an interpolation's weights, positions, random numbers.
        with compat.without_constant_folding():
            return evaluate(graph, weights, constants)

    return jax.jit(run)


class RecentCall:
    """The last call: most often the next one is like it, with the very same weights.

    An array that is known by identity needs no look at its type, and nothing has to be hashed.
    """

    __slots__ = ("_call", "_places", "program")

    def __init__(self, call: Any, flat: list[Any], types: tuple[Any, ...], program: Program):
        self._call = call
        self._places = [
            (weakref.ref(x) if isinstance(x, jax.Array) and not compat.is_tracer(x) else _nobody, t)
            for x, t in zip(flat, types, strict=True)
        ]
        self.program = program

    def fits(self, call: Any, flat: list[Any]) -> bool:
        """Whether a call has the structure and the types of this one."""
        if call != self._call:
            return False
        for x, (ref, kind) in zip(flat, self._places, strict=True):
            if ref() is not x and type_of(x) != kind:
                return False
        return True


def _nobody() -> None:
    """Stands for a weak reference to what cannot be held weakly, or may change in place."""


def type_of(x: Any) -> Any:
    """What a program's shapes are remembered by."""
    if not isinstance(x, jax.ShapeDtypeStruct):
        return jax.typeof(x)
    weak = getattr(x, "weak_type", False)
    if getattr(x, "sharding", None) is not None:
        return ShapedArray(x.shape, x.dtype, weak_type=weak, sharding=x.sharding)
    return ShapedArray(x.shape, x.dtype, weak_type=weak)


def _on_device(value: Value, constant: Any) -> Any:
    """A constant as a ``jax.Array``, so that no call has to transfer it.

    A NumPy array is copied: what was traced is the function as it was, and the array may change.
    """
    if isinstance(constant, jax.Array) or not isinstance(constant, np.ndarray):
        return constant
    with compat.outside_trace():
        return jax.device_put(np.array(constant, value.dtype, copy=True))


def _on_host(x: Any) -> bool:
    """Whether NumPy can read ``x`` without a transfer, and nobody says where it has to be."""
    if not isinstance(x, jax.Array):
        return True
    return not x.committed and all(d.platform == "cpu" for d in x.devices())
