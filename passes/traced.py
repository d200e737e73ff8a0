"""Patterns from ordinary functions: ``traced(fn)`` matches what ``fn`` computes, in any shape.

::

    def swish(x, *, beta):
        return x * jax.nn.sigmoid(beta * x)


    Rule("raise_swish", swish, lambda x, beta: ...)  # traced(swish)

The function is traced twice. Once with examples, when the rule is first used: its operations give
a pattern in which shapes, dtypes and parameters play no part, and which binds the arguments. Then,
where that fits, with the very types that were bound: what it computes of them must be what is
there, parameter for parameter (``passes/same_graph.py``). So an axis, a dtype or a mean over
another count cannot slip through, and none of them is written in the rule.

Arguments are captures; keyword-only arguments are scalars that are written in the program. A
keyword-only argument whose default is no number (``axis=None``, ``approximate=True``) is fixed.
"""

from __future__ import annotations

import inspect
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import ShapedArray

from jaxpress.capture import Graph, Literal, Node, PassError, Value, compat, graph_of_jaxpr
from jaxpress.capture.template import inline_calls
from jaxpress.passes.pattern_base import AnyValue, Pattern, State, done
from jaxpress.passes.same_graph import Comparison
from jaxpress.passes.skeleton import Skeleton, skeleton_of
from jaxpress.passes.view import GraphView

__all__ = ["Traced", "traced"]

# Shapes to try for functions that come without examples: those of elementwise functions, of
# products with a bias, of convolutions, of vectors.
_SHAPES = ((3, 3), (3, 3, 3, 3), (3,), ())
# A number that no model has, to see where a scalar stands in the trace.
_PROBE = 0.3719582
_MOST_INSTANCES = 512


class _Instance(NamedTuple):
    """The function traced with the types that a match has bound."""

    graph: Graph
    # As the captured graph is before it is tidied, and after.
    tidied: Graph


class Traced(Pattern):
    """What a function computes.

    Attributes:
      fn: the function.
      arrays: the names of its arguments that are captured.
      scalars: the names of its keyword-only numbers.
    """

    def __init__(
        self,
        fn: Callable[..., Any],
        *examples: Any,
        captures: Mapping[str, AnyValue] | None = None,
    ):
        self.fn = fn
        self.name = getattr(fn, "__name__", type(fn).__name__)
        parameters = inspect.signature(fn).parameters.values()
        positional = [
            p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)
        ]
        if any(p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in parameters):
            raise PassError(
                f"the pattern {self.name!r} takes *args or **kwargs; name its arguments"
            )
        needed = [p.name for p in positional if p.default is p.empty]
        if examples and not len(needed) <= len(examples) <= len(positional):
            raise PassError(
                f"the pattern {self.name!r} takes {len(positional)} arguments, and was given "
                f"{len(examples)} examples"
            )
        self.arrays = (
            tuple(p.name for p in positional[: len(examples)]) if examples else tuple(needed)
        )
        self.scalars = tuple(
            p.name
            for p in parameters
            if p.kind is p.KEYWORD_ONLY and (p.default is p.empty or _is_number(p.default))
        )
        self.examples = tuple(map(_as_type, examples))
        self.captures = {**self._vectors(), **(captures or {})}
        unknown = set(self.captures) - set(self.arrays)
        if unknown:
            raise PassError(f"the pattern {self.name!r} has no argument {sorted(unknown)}")
        self._instances: OrderedDict[Any, _Instance] = OrderedDict()

    def _vectors(self) -> dict[str, AnyValue]:
        """Patterns for the arguments that have fewer axes than the others."""
        most = max((len(t.shape) for t in self.examples), default=0)
        given = zip(self.arrays, self.examples, strict=False)
        return {k: AnyValue(k, ndim=len(t.shape)) for k, t in given if len(t.shape) < most}

    # The pattern, made when it is first needed.

    @cached_property
    def skeletons(self) -> tuple[Skeleton, ...]:
        """What binds the arguments: one pattern for each form that the trace takes."""
        examples = self.example_types
        found: list[Skeleton] = []
        # In float64 constants are exact; a narrow type is computed with by way of float32.
        for dtype in ("float64", "bfloat16"):
            avals = [_with_dtype(a, dtype) for a in examples]
            try:
                one = self._traced(avals, self._probes(0))
            except TypeError:  # a function of one dtype
                continue
            try:
                other = self._traced([_twice_as_large(a) for a in avals], self._probes(1))
            except (TypeError, ValueError, IndexError):  # a function of one size
                other = self._traced(avals, self._probes(1))
            forms = zip((one.graph, one.tidied), (other.graph, other.tidied), strict=True)
            for graph, again in forms:
                skeleton = skeleton_of(
                    graph, again, self.arrays, self._probes(0), self.captures, self.name
                )
                if all(skeleton.key != s.key for s in found):
                    found.append(skeleton)
        if not found:
            raise PassError(f"the pattern {self.name!r} cannot be traced with {examples}")
        return tuple(found)

    @cached_property
    def example_types(self) -> tuple[Any, ...]:
        """The types that the pattern is first traced with.

        Raises:
          PassError: none were given, and none of those that were tried fits.
        """
        if self.examples:
            return self.examples
        failure: Exception | None = None
        for shape in _SHAPES:
            avals = [jax.ShapeDtypeStruct(shape, np.float32)] * len(self.arrays)
            try:
                jax.eval_shape(lambda *a: self.fn(*a, **self._probes(0)), *avals)
                return tuple(avals)
            except (TypeError, ValueError, IndexError) as error:
                failure = failure or error
        raise PassError(
            f"the pattern {self.name!r} cannot be traced with arrays of shape {_SHAPES[0]} "
            f"({failure}); give examples: traced({self.name}, jax.ShapeDtypeStruct(...), ...)"
        ) from failure

    def _probes(self, which: int) -> dict[str, float]:
        return {k: (_PROBE + which) * (1 + i / 16) for i, k in enumerate(self.scalars)}

    @property
    def names(self) -> frozenset[str]:  # type: ignore[override]
        """The operations that its first result may be made by."""
        return frozenset().union(*(s.root.names for s in self.skeletons))

    @property
    def size(self) -> int:  # type: ignore[override]
        """How many operations it has, but for those that only move elements."""
        return max(s.root.size for s in self.skeletons)

    # Matching.

    def match(self, value: Value, state: State, then: Callable[[], bool] = done) -> bool:
        node = state.view.producer(value)
        if node is None:
            return state.fail(lambda: f"{value!r} is made by no operation", part=self)
        outer = state.results

        def as_operand() -> bool:
            inner = state.results
            if inner[0] is not value:
                return False
            state.results = outer
            if then():
                return True
            state.results = inner
            return False

        return self.match_node(node, state, as_operand)

    def match_node(self, node: Node, state: State, then: Callable[[], bool] = done) -> bool:
        """Whether ``node`` makes its result, or the first of them."""
        outer = state.results
        for skeleton in self.skeletons:
            if node.op not in skeleton.root.names:
                continue
            state.results = {}
            if skeleton.root.match_node(
                node, state, lambda: self._is_it(tuple(state.results.values()), state, then)
            ):
                return True
        state.results = outer
        return False

    def match_values(
        self, values: tuple[Value, ...], state: State, then: Callable[[], bool] = done
    ) -> bool:
        """Whether it computes just these values."""
        return any(
            skeleton.root.match_values(values, state, lambda: self._is_it(values, state, then))
            for skeleton in self.skeletons
        )

    def _is_it(self, values: tuple[Value, ...], state: State, then: Callable[[], bool]) -> bool:
        """Whether the function computes ``values`` from what is bound, parameter for parameter."""
        captured = {name: state.values[name] for name in self.arrays}
        scalars = {name: number_of(state.values[name]) for name in self.scalars}
        try:
            instance = self._instance([v.aval for v in captured.values()], scalars)
        except (TypeError, ValueError, IndexError) as error:
            text = str(error).partition("\n")[0]
            return state.fail(f"{self.name} does not take what is there: {text}", part=self)
        nearest: Comparison | None = None
        for graph in dict.fromkeys((instance.graph, instance.tidied)):
            arguments = dict(zip(graph.inputs, captured.values(), strict=True))
            comparison = Comparison(state.view, GraphView(graph), arguments)
            matched = comparison.of(values, graph.outputs)
            if matched is None:
                if nearest is None or comparison.depth > nearest.depth:
                    nearest = comparison
                continue
            mark = state.mark()
            for node in matched:
                if node not in state.matched:
                    state.bind(state.matched, node, None)
            if then():
                return True
            state.undo(mark)
            return False
        assert nearest is not None
        return state.fail(nearest.reason, nearest.node, close=True, part=self)

    def _instance(self, avals: Sequence[Any], scalars: dict[str, Any]) -> _Instance:
        key = (tuple(avals), tuple(sorted(scalars.items())), compat.context_key())
        found = self._instances.get(key)
        if found is None:
            found = self._instances[key] = self._traced(avals, scalars)
            if len(self._instances) > _MOST_INSTANCES:
                self._instances.popitem(last=False)
        return found

    def _traced(self, avals: Sequence[Any], scalars: dict[str, Any]) -> _Instance:
        from jaxpress.passes.engine import rewrite
        from jaxpress.passes.rules.cleanup import CLEANUP_RULES

        def flat(*arrays: Any) -> list[Any]:
            return jax.tree_util.tree_leaves(self.fn(*arrays, **scalars))

        wide = any(getattr(a.dtype, "itemsize", 0) == 8 for a in avals)
        with compat.enable_x64(wide or compat.context_key()[0]):
            closed = compat.trace_flat(flat, [_as_aval(a) for a in avals])
            graph = inline_calls(graph_of_jaxpr(closed, self.name))
            return _Instance(graph, rewrite(graph, CLEANUP_RULES))

    @property
    def parts(self) -> tuple[Pattern, ...]:
        return tuple(s.root for s in self.skeletons)

    def __str__(self) -> str:
        arguments = ", ".join((*self.arrays, *self.scalars))
        return f"{self.name}({arguments})"


def traced(
    fn: Callable[..., Any], *examples: Any, captures: Mapping[str, AnyValue] | None = None
) -> Traced:
    """A pattern of what an ordinary function over ``jnp``, ``jax.nn`` and ``nnops`` computes.

    It fits in any shape and dtype that the function takes, and knows no more names of operations
    than the function does. A function that gives a tuple is a pattern of several results.

    Args:
      fn: the function. Its positional arguments are captured under their names; keyword-only
        numbers are captured scalars.
      *examples: arrays, ``jax.ShapeDtypeStruct`` or shapes to trace it with at first. Needed only
        where arrays of one shape do not fit. An argument that has fewer axes than the largest, such
        as a bias of (3,) beside data of (2, 3), is captured with just as many: the vector behind a
        broadcast rather than what is broadcast.
      captures: patterns for arguments of which more is asked, such as
        ``{"w": any_value("w", known=True)}``.

    Raises:
      PassError: an argument cannot be captured; or, at first use, the function cannot be traced.

    >>> import jax, jax.numpy as jnp
    >>> from jaxpress.capture import trace
    >>> from jaxpress.passes import Rule, rewrite
    >>> rule = Rule("tan", lambda x: jnp.sin(x) / jnp.cos(x), jnp.tan, numerics="reassociates")
    >>> graph = trace(lambda x: jnp.sin(x) / jnp.cos(x) + 1)(jnp.ones((2, 3, 4)))
    >>> sorted(rewrite(graph, rule).count())
    ['add', 'tan']
    """
    return Traced(fn, *examples, captures=captures)


def number_of(value: Value) -> Any:
    """A captured scalar as Python's shortest number: 0.2, not 0.20000000298."""
    assert isinstance(value, Literal)
    array = np.asarray(value.val)
    if not jnp.issubdtype(array.dtype, jnp.floating):
        return array.item()
    number = array.astype(value.dtype)
    for text in (f"{float(number):.{n}g}" for n in range(1, 18)):
        if np.asarray(float(text)).astype(value.dtype) == number:
            return float(text)
    return float(number)


def _is_number(x: Any) -> bool:
    return isinstance(x, int | float | complex | np.number) and not isinstance(x, bool)


def _as_type(example: Any) -> Any:
    if isinstance(example, tuple) and all(isinstance(d, int) for d in example):
        return jax.ShapeDtypeStruct(example, np.float32)
    if isinstance(example, jax.ShapeDtypeStruct):
        return example
    aval = jax.typeof(example)
    return jax.ShapeDtypeStruct(aval.shape, aval.dtype)


def _with_dtype(example: Any, dtype: str) -> Any:
    wide = dtype if jnp.issubdtype(example.dtype, jnp.floating) else example.dtype
    return jax.ShapeDtypeStruct(example.shape, jnp.dtype(wide) if isinstance(wide, str) else wide)


def _twice_as_large(example: Any) -> Any:
    return jax.ShapeDtypeStruct(tuple(2 * d for d in example.shape), example.dtype)


def _as_aval(x: Any) -> Any:
    return ShapedArray(x.shape, x.dtype) if isinstance(x, jax.ShapeDtypeStruct) else x
