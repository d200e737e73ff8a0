"""A function goes in, the same function comes out, rewritten: ``jaxpress.optimize``."""

from __future__ import annotations

import copy
import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any

import jax

from jaxpress.capture import ArgumentError, Graph, VerificationError, compat, trace
from jaxpress.capture.arguments import check_arrays, check_places, function_name, tuple_of
from jaxpress.capture.evaluate import evaluate
from jaxpress.capture.trace import static_places
from jaxpress.copying import made_again, recipe
from jaxpress.passes import Pipeline, Report, pipeline_of, select_kernels
from jaxpress.passes.pipeline import Pass
from jaxpress.passes.select_kernels import preferences_of
from jaxpress.program import Program, RecentCall, type_of

__all__ = ["Optimized", "optimize"]


def optimize(
    fn: Callable[..., Any],
    passes: Any = None,
    weight_argnums: int | Sequence[int] = (),
    kernels: Any = "auto",
    verify: bool = False,
    *,
    static_argnums: int | Sequence[int] = (),
    static_argnames: str | Sequence[str] = (),
) -> Optimized:
    """The same function, rewritten to run faster.

    The result compiles itself when it is called outside a trace, and is inlined inside one, so it
    works under ``jit``, ``grad``, ``vmap``, ``scan`` and ``jax.export``. What depends on weights
    alone (closed-over arrays and ``weight_argnums``) is computed once, not on every call.

    Args:
      fn: any function that JAX can trace.
      passes: a pipeline, a preset's name (``"default"``, ``"inference"``, ``"training"``,
        ``"cleanup"``), or a list of passes, rules and names; ``None`` for the default, which is
        safe on anything.
      weight_argnums: positions of the arguments that hold weights. Prepared weights are kept while
        the same arrays come (by identity, weakly held); new ones are prepared anew.
      kernels: ``"auto"``, ``"reference"``, or op names with a kernel's name each.
      verify: compare with ``fn`` on the first call for each set of shapes; a difference names the
        pass and the rewrite that made it.
      static_argnums, static_argnames: arguments that are Python values, as in ``jax.jit``.

    Returns:
      A callable with ``fn``'s signature, and ``graph``, ``report``, ``lower`` and ``export``.

    Raises:
      PassError: a pass or a kernel is unknown.
      ArgumentError: ``fn`` is not callable, or an argument number is out of range.

    >>> import jax.numpy as jnp
    >>> w = jnp.ones((3, 4))
    >>> fast = optimize(lambda x: jnp.tanh(x @ w))
    >>> fast(jnp.ones((2, 3))).shape
    (2, 4)
    >>> fast.graph(jnp.ones((2, 3))).count()
    Counter({'dense': 1})
    """
    if not callable(fn):
        raise ArgumentError(f"optimize takes a function, got {type(fn).__name__}: {fn!r}")
    preferences_of(kernels, "cpu")  # unknown names are refused now, not on the first call
    pipeline = pipeline_of(passes)
    if kernels != "auto":
        chosen = functools.partial(select_kernels_with, kernels=kernels)
        summary = select_kernels.summary
        pipeline = pipeline.replaced("select_kernels", Pass("select_kernels", chosen, summary))
    return Optimized(fn, pipeline, weight_argnums, verify, static_argnums, static_argnames)


def select_kernels_with(graph: Graph, record: Any = None, *, kernels: Any) -> Graph:
    """The pass ``select_kernels`` with preferences other than the platform's."""
    from jaxpress.passes.select_kernels import select_kernels as select

    return select(graph, record, kernels=kernels)


class Optimized:
    """A function that ``optimize`` made; call it like the original.

    A copy has programs and prepared weights of its own; ``copy.deepcopy`` copies the function too.
    ``pickle`` keeps the function and the names of the passes.

    Attributes:
      fn: the original.
      pipeline: the passes.
    """

    def __init__(
        self,
        fn: Callable[..., Any],
        pipeline: Pipeline,
        weight_argnums: int | Sequence[int] = (),
        verify: bool = False,
        static_argnums: int | Sequence[int] = (),
        static_argnames: str | Sequence[str] = (),
    ):
        self.fn = fn
        self.pipeline = pipeline
        self._static_argnums, self._static_argnames = static_places(
            fn, static_argnums, static_argnames
        )
        self._weight_argnums = tuple_of(
            int, weight_argnums, "weight_argnums", "positions of arguments, such as 0 or (0, 1)"
        )
        check_places(fn, "weight_argnums", self._weight_argnums)
        self._weight_names = _names_at(fn, self._weight_argnums)
        self._verify = verify
        self._programs: dict[Any, Program] = {}
        self._recent: RecentCall | None = None
        functools.update_wrapper(self, fn, updated=())
        self.__name__ = function_name(fn)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """What ``fn(*args, **kwargs)`` gives."""
        flat, program = self._program(args, kwargs)
        prepared = program.prepared(flat)
        if compat.under_jit():
            out = evaluate(program.graph, flat, program.constants, prepared)
        else:
            # Alone, or under a transformation that runs step by step, such as grad: compiled.
            try:
                out = program.run(prepared, flat)
            except TypeError:
                if any(isinstance(x, jax.ShapeDtypeStruct) for x in flat):
                    raise ArgumentError(
                        f"{self.__name__} was called with a jax.ShapeDtypeStruct, which has no "
                        "values; graph, report, lower and export take one"
                    ) from None
                raise
        assert program.signature is not None
        return jax.tree_util.tree_unflatten(program.signature.out_tree, out)

    def graph(self, *args: Any, **kwargs: Any) -> Graph:
        """The optimised graph for these arguments (arrays or ``jax.ShapeDtypeStruct``)."""
        return self._program(args, kwargs)[1].graph

    def report(self, *args: Any, **kwargs: Any) -> Report:
        """What each pass did for these arguments; print it for a table."""
        return self._program(args, kwargs)[1].report

    def lower(self, *args: Any, **kwargs: Any) -> Any:
        """The ``jax.stages.Lowered`` of the whole function, closed-over weights included."""
        return self._as_jit().lower(*args, **kwargs)

    def export(self, *args: Any, **kwargs: Any) -> Any:
        """The ``jax.export.Exported`` of the whole function; shapes may be symbolic."""
        from jax import export

        return export.export(self._as_jit())(*args, **kwargs)

    def _as_jit(self) -> Any:
        @functools.wraps(self.fn, updated=())
        def call(*args: Any, **kwargs: Any) -> Any:
            return self(*args, **kwargs)

        return jax.jit(
            call, static_argnums=self._static_argnums, static_argnames=self._static_argnames
        )

    # Programs by shapes.

    def _program(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[list, Program]:
        static, dynamic_args, dynamic_kwargs = self._split(args, kwargs)
        flat, tree = jax.tree_util.tree_flatten((dynamic_args, dynamic_kwargs))
        call = (tree, static, compat.context_key())
        if self._recent is not None and self._recent.fits(call, flat):
            return flat, self._recent.program
        try:
            types = tuple(map(type_of, flat))
        except TypeError:
            check_arrays(self.__name__, dynamic_args, dynamic_kwargs)
            raise
        program = self._programs.get((call, types))
        if program is None:
            program = self._make(args, kwargs, dynamic_args, dynamic_kwargs)
            # A program that holds tracers belongs to the trace that it was made in.
            if program.holds_tracers:
                return flat, program
            self._programs[call, types] = program
            if self._verify and not self.pipeline.new_arguments:
                try:
                    self._check(args, kwargs, program.report.before)
                except BaseException:  # or the next call would give the wrong answer
                    self._programs.pop((call, types), None)
                    self._recent = None
                    raise
        self._recent = RecentCall(call, flat, types, program)
        return flat, program

    def _split(
        self, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[Any, tuple[Any, ...], dict[str, Any]]:
        if not self._static_argnums and not self._static_argnames:
            return (), args, kwargs
        n = len(args)
        places = {i % n for i in self._static_argnums if -n <= i < n}
        static = tuple((i, args[i]) for i in sorted(places))
        named = tuple((k, kwargs[k]) for k in sorted(kwargs) if k in self._static_argnames)
        return (
            (static, named),
            tuple(a for i, a in enumerate(args) if i not in places),
            {k: v for k, v in kwargs.items() if k not in self._static_argnames},
        )

    def _make(
        self,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        dynamic_args: tuple[Any, ...],
        dynamic_kwargs: dict[str, Any],
    ) -> Program:
        for i in self._weight_argnums:
            if not -len(args) <= i < max(len(args), 1) and not kwargs:
                raise ArgumentError(
                    f"weight_argnums has {i}, but {self.__name__} was called with {len(args)} "
                    f"positional argument{'s' * (len(args) != 1)}, which are counted from 0"
                )
        capture = trace(
            self.fn, static_argnums=self._static_argnums, static_argnames=self._static_argnames
        )
        added = self.pipeline.new_arguments
        all_kwargs = kwargs
        if added:  # fn itself knows nothing of them
            kwargs = {k: v for k, v in kwargs.items() if k not in added}
            dynamic_kwargs = {k: v for k, v in dynamic_kwargs.items() if k not in added}
        graph = capture(*args, **kwargs)
        marks = self._weight_marks(args, dynamic_args, dynamic_kwargs)
        if any(marks):
            weights = frozenset(v for v, mark in zip(graph.inputs, marks, strict=True) if mark)
            graph = graph.with_parts(weight_inputs=weights)
        graph, report = self.pipeline.run(graph)
        if added:
            _check_types(graph, args, all_kwargs)
        return Program(graph, report)

    def _weight_marks(
        self, args: tuple[Any, ...], dynamic_args: tuple[Any, ...], dynamic_kwargs: dict[str, Any]
    ) -> list[bool]:
        """For each flat input, whether it is a weight."""
        n = len(args)
        static = {i % n for i in self._static_argnums if -n <= i < n}
        weights = {i % n for i in self._weight_argnums if -n <= i < n}
        dynamic = [i for i in range(n) if i not in static]
        marked_args = tuple(
            jax.tree_util.tree_map(lambda _, i=i: i in weights, a)
            for i, a in zip(dynamic, dynamic_args, strict=True)
        )
        marked_kwargs = {
            k: jax.tree_util.tree_map(lambda _, k=k: k in self._weight_names, v)
            for k, v in dynamic_kwargs.items()
        }
        return jax.tree_util.tree_leaves((marked_args, marked_kwargs))

    def _check(self, args: tuple[Any, ...], kwargs: dict[str, Any], graph: Graph) -> None:
        leaves = jax.tree_util.tree_leaves((args, kwargs))
        concrete = not any(
            compat.is_tracer(x) or isinstance(x, jax.ShapeDtypeStruct) for x in leaves
        )
        if not concrete or compat.under_trace():
            return
        from jaxpress.verification import verify

        try:
            verify(self.fn, self)(*args, **kwargs)
        except VerificationError as error:
            raise VerificationError(
                f"{error}\n{self._blame(graph, args, kwargs)}", error.result
            ) from None

    def _blame(self, graph: Graph, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
        """Which pass it was, and which of its rewrites."""
        try:
            self.pipeline.run(graph, verify=args, verify_kwargs=kwargs)
        except VerificationError as error:
            return str(error)
        return "no single pass changed what the graph computes"

    def __copy__(self) -> Optimized:
        return made_again(self, self.fn)

    def __deepcopy__(self, memo: dict[int, Any]) -> Optimized:
        return made_again(self, copy.deepcopy(self.fn, memo))

    def __reduce__(self) -> Any:
        return recipe(self)

    def __repr__(self) -> str:
        return f"<optimized {self.__name__}: {self.pipeline.name}>"


def _check_types(graph: Graph, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Whether a call fits a graph that passes have added arguments to.

    Raises:
      ArgumentError: one is missing, unknown, or of another type.
    """
    assert graph.signature is not None
    for value, x in zip(graph.inputs, graph.signature.flatten(args, kwargs), strict=True):
        got = type_of(x)
        if (got.shape, got.dtype) != (value.shape, value.dtype):
            raise ArgumentError(
                f"argument {value.name} of {graph.name!r} is {got.str_short()}, and has to be "
                f"{value.aval.str_short()}"
            )


def _names_at(fn: Callable[..., Any], places: tuple[int, ...]) -> frozenset[str]:
    """The names under which positional arguments may be given as keywords."""
    try:
        names = list(inspect.signature(fn).parameters)
    except (TypeError, ValueError):  # a callable without a signature
        return frozenset()
    return frozenset(names[i] for i in places if -len(names) <= i < len(names))
