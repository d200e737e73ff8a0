"""Passes with names, and pipelines of them with a report."""

from __future__ import annotations

import functools
import inspect
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from jaxpress.capture import Graph, GraphError, PassError
from jaxpress.capture.collector import collector_at_rest
from jaxpress.passes.engine import rewrite
from jaxpress.passes.record import Budget, Report, Rewrite, Step
from jaxpress.passes.rule import Rule, RuleSet
from jaxpress.passes.step_check import StepCheck

__all__ = ["Pass", "Pipeline"]


class Pass:
    """A named transformation ``Graph -> Graph``; call it on a graph.

    Args:
      name: what reports and ``Pipeline.without`` call it.
      work: rules, or a function ``graph -> graph``, which may take ``record=`` for its rewrites and
        ``notes=`` for what a reader of the report should know.
      summary: one line on what it does.
      makes_rules: ``work`` is a function that gives the rules instead, for the op names that occur
        in a graph (``None`` for all of them), for rules that are costly to make.
      new_arguments: the keyword arguments that ``work`` adds to a function, see
        ``jaxpress.passes.new_arguments``.
      after: names of passes that must not come later than this one in a pipeline only.
      before: names of passes that must not come earlier than this one only.

    >>> from jaxpress.passes.pattern import any_value, op
    >>> rule = Rule("no_double_neg", op("neg", op("neg", any_value("x"))), lambda x: x)
    >>> tidy = Pass("tidy", rule)
    """

    def __init__(
        self,
        name: str,
        work: Rule | RuleSet | Callable[..., Any],
        summary: str = "",
        *,
        makes_rules: bool = False,
        new_arguments: Iterable[str] = (),
        after: Iterable[str] = (),
        before: Iterable[str] = (),
    ):
        self.name = name
        self.after = (after,) if isinstance(after, str) else tuple(after)
        self.before = (before,) if isinstance(before, str) else tuple(before)
        self.new_arguments = frozenset(new_arguments)
        self.summary = summary or (inspect.getdoc(work) or "").split("\n", 1)[0]
        self._rules: RuleSet | None = None
        self._make_rules: Callable[[Any], RuleSet] | None = None
        self._fn: Callable[..., Graph] | None = None
        self._takes: frozenset[str] = frozenset()
        if isinstance(work, Rule):
            self._rules = RuleSet((work,))
        elif isinstance(work, RuleSet):
            self._rules = work
        elif makes_rules:
            self._make_rules = work
        elif callable(work):
            self._fn = work
            self._takes = frozenset(inspect.signature(work).parameters) & {"record", "notes"}
        else:
            raise PassError(f"pass {name!r} takes rules or a function, not {work!r}")

    @property
    def rules(self) -> RuleSet:
        """Its rules; empty for a pass that is a function."""
        if self._rules is None:
            self._rules = RuleSet() if self._make_rules is None else self._make_rules(None)
        return self._rules

    @property
    def is_made_of_rules(self) -> bool:
        """Whether it applies rules, rather than a function to the whole graph."""
        return self._fn is None

    def _rules_for(self, graph: Graph) -> RuleSet:
        if self._rules is None and self._make_rules is not None:
            return self._make_rules(graph.count())
        return self.rules

    def __call__(
        self,
        graph: Graph,
        record: list[Rewrite] | None = None,
        budget: Budget | None = None,
        notes: list[str] | None = None,
    ) -> Graph:
        """The new graph.

        Args:
          graph: the graph; it stays as it is.
          record: a list to which rewrites are added.
          budget: how many rewrites there may be. A pass that is a function counts as one, and is
            not run where there is room for none.
          notes: a list to which what a reader should know is added.
        """
        if not isinstance(graph, Graph):
            raise PassError(
                f"pass {self.name!r} takes a Graph, got {graph!r:.60}; jaxpress.trace(fn)(*args) "
                "makes one"
            )
        if self._fn is None:
            rules = self._rules_for(graph)
            return rewrite(graph, rules, pass_name=self.name, record=record, budget=budget)
        if budget is not None and budget.is_spent:
            return graph
        lists = {"record": record, "notes": notes}
        new = self._fn(graph, **{name: lists[name] for name in self._takes})
        if budget is not None and new is not graph:
            budget.take()
        return new

    def without(self, *rules: str) -> Pass:
        """This pass with some rules switched off.

        Raises:
          PassError: it has no rule of such a name.
        """
        self.rules.without(*rules)  # whether there are such rules
        return self.leaving_out(*rules)

    def leaving_out(self, *rules: str) -> Pass:
        """As ``without``, where there need not be such rules."""
        make, work = self._make_rules, self._fn
        if make is not None:
            work = functools.partial(_made_without, make, rules)
        elif work is None:
            work = self.rules.leaving_out(*rules)
        return Pass(
            self.name,
            work,
            self.summary,
            makes_rules=make is not None,
            new_arguments=self.new_arguments,
            after=self.after,
            before=self.before,
        )

    def __repr__(self) -> str:
        return f"<Pass {self.name}: {self.summary}>"


def _made_without(make: Callable[[Any], RuleSet], names: Sequence[str], ops: Any) -> RuleSet:
    return make(ops).leaving_out(*names)


class Pipeline:
    """Passes in order. Slices, ``+``, ``without``, ``only`` and ``inserted`` give new pipelines.

    Raises:
      PassError: a pass is unknown, or stands where its ``after`` or ``before`` forbids it.

    >>> from jaxpress import passes
    >>> [p.name for p in passes.cleanup]
    ['inline', 'simplify', 'cse', 'dce']
    """

    def __init__(self, passes: Iterable[Any] = (), name: str = "pipeline"):
        self.name = name
        self.passes: tuple[Pass, ...] = tuple(q for p in passes for q in _as_passes(p))
        _check_order(self.passes)

    @property
    def new_arguments(self) -> frozenset[str]:
        """The keyword arguments that its passes add to a function."""
        return frozenset(name for p in self.passes for name in p.new_arguments)

    def __call__(self, graph: Graph) -> Graph:
        """The graph after all passes."""
        return self.run(graph)[0]

    def run(
        self,
        graph: Graph,
        *,
        check: bool = False,
        verify: Sequence[Any] | None = None,
        verify_kwargs: Mapping[str, Any] | None = None,
        tolerance: float | None = None,
        budget: Budget | None = None,
        on_step: Callable[[Step], None] | None = None,
    ) -> tuple[Graph, Report]:
        """Run all passes and report what each did.

        Args:
          graph: what to start from; it stays as it is.
          check: whether to check the graph's structure after each pass.
          verify: arguments of the function, to run the graph on after each pass that changed it
            and compare with the original, both against float64. Structure is checked too.
          verify_kwargs: its keyword arguments.
          tolerance: for ``verify``, the largest relative error; by dtype if left out.
          budget: how many rewrites there may be in all.
          on_step: called with each step as it ends.

        Raises:
          PassError: a pass failed, broke the graph or gave something else; it is named.
          VerificationError: a pass changed what the graph computes; pass, output, error and the
            rewrite that did it are named.
        """
        watch = None if verify is None else StepCheck(graph, verify, tolerance, verify_kwargs)
        with collector_at_rest():
            return self._run(graph, check or watch is not None, watch, budget, on_step)

    def _run(
        self,
        graph: Graph,
        check: bool,
        watch: StepCheck | None,
        budget: Budget | None,
        on_step: Callable[[Step], None] | None,
    ) -> tuple[Graph, Report]:
        report = Report(graph)
        for p in self.passes:
            record: list[Rewrite] = []
            notes: list[str] = []
            started = time.perf_counter()
            try:
                new = p(graph, record, budget, notes)
            except PassError:
                raise
            except Exception as error:  # of somebody's own pass: whatever it is, it is named
                raise PassError(f"pass {p.name!r} failed: {error}") from error
            if not isinstance(new, Graph):
                raise PassError(f"pass {p.name!r} gave {type(new).__name__} instead of a Graph")
            seconds = time.perf_counter() - started
            step = Step(p.name, seconds, tuple(record), graph, new, tuple(notes))
            if check:
                try:
                    new.validate()
                except GraphError as error:
                    raise PassError(f"pass {p.name!r} broke the graph: {error}") from error
            if watch is not None:
                watch.after(step, functools.partial(p, graph, []) if p.is_made_of_rules else None)
            graph = new
            report.steps.append(step)
            if on_step is not None:
                on_step(step)
        return graph, report

    def without(self, *names: str) -> Pipeline:
        """The pipeline without the passes, or the single rules, of these names.

        Raises:
          PassError: nothing has such a name.
        """
        passes = list(self.passes)
        for name in names:
            kept = [p for p in passes if p.name != name]
            if len(kept) == len(passes):
                holders = [p for p in passes if any(rule.name == name for rule in p.rules)]
                if not holders:
                    known = [p.name for p in self.passes]
                    raise PassError(f"no pass or rule is called {name!r}; passes are {known}")
                # Another pass may have a rule that stands for it, or make it for some graphs.
                kept = [p.leaving_out(name) if p.is_made_of_rules else p for p in passes]
            passes = kept
        return Pipeline(passes, self.name)

    def replaced(self, name: str, new: Any) -> Pipeline:
        """The pipeline with the pass of this name exchanged."""
        return Pipeline([new if p.name == name else p for p in self.passes], self.name)

    def only(self, *names: str) -> Pipeline:
        """The passes of these names, in the order in which they stand here.

        Raises:
          PassError: nothing has such a name.
        """
        for name in names:
            self[name]
        return Pipeline([p for p in self.passes if p.name in names], self.name)

    def inserted(self, new: Any, *, after: str = "", before: str = "") -> Pipeline:
        """The pipeline with more passes, behind the last of a name or in front of the first.

        Raises:
          PassError: nothing has that name, or both or neither is given.
        """
        if bool(after) == bool(before):
            raise PassError("inserted: give after= or before=, the name of a pass")
        self[after or before]
        places = [i for i, p in enumerate(self.passes) if p.name == (after or before)]
        i = places[-1] + 1 if after else places[0]
        return Pipeline((*self.passes[:i], *_several(new), *self.passes[i:]), self.name)

    def __iter__(self) -> Iterator[Pass]:
        return iter(self.passes)

    def __len__(self) -> int:
        return len(self.passes)

    def __getitem__(self, which: Any) -> Any:
        if isinstance(which, slice):
            return Pipeline(self.passes[which], self.name)
        if isinstance(which, str):
            for p in self.passes:
                if p.name == which:
                    return p
            raise PassError(f"no pass is called {which!r}; {[p.name for p in self.passes]}")
        return self.passes[which]

    def __add__(self, other: Any) -> Pipeline:
        return Pipeline((*self.passes, *_several(other)))

    def __radd__(self, other: Any) -> Pipeline:
        return Pipeline((*_several(other), *self.passes))

    def __repr__(self) -> str:
        return f"<Pipeline {self.name}: {', '.join(p.name for p in self.passes)}>"


def _check_order(passes: Sequence[Pass]) -> None:
    names = [p.name for p in passes]
    for i, p in enumerate(passes):
        for other in p.after:
            if other in names and other not in names[:i]:
                raise PassError(
                    f"pass {p.name!r} must come after {other!r}, which stands behind it in {names}"
                )
        for other in p.before:
            if other in names and other not in names[i + 1 :]:
                raise PassError(
                    f"pass {p.name!r} must come before {other!r}, which stands in front of it in "
                    f"{names}"
                )


def _several(p: Any) -> Iterable[Any]:
    """What is joined to a pipeline: several passes, or one, which may itself be iterable."""
    single = isinstance(p, str | RuleSet) or not isinstance(p, Iterable)
    return (p,) if single else p


def _as_passes(p: Any) -> tuple[Pass, ...]:
    if isinstance(p, Pass):
        return (p,)
    if isinstance(p, Pipeline):
        return p.passes
    if isinstance(p, Rule):
        return (Pass(p.name, p),)
    if isinstance(p, RuleSet):
        return (Pass("rewrite", p),)
    if isinstance(p, str):
        from jaxpress.passes.presets import passes_by_name

        return passes_by_name(p)
    if callable(p):
        return (Pass(getattr(p, "__name__", type(p).__name__), p),)
    raise PassError(f"{p!r} is no pass: give a Pass, a rule, a name, or a function of a graph")
