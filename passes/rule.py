"""Rules: a pattern, a guard, a replacement, and what the rewrite does to numerics."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax

from jaxpress.capture import Graph, Literal, Node, PassError, Value, compat
from jaxpress.capture.edit import Editor
from jaxpress.capture.exactly import exactly
from jaxpress.capture.order import makers_after, move_before
from jaxpress.passes.match import Match, inner_values_are_private, is_replaceable, is_whole
from jaxpress.passes.pattern_base import Pattern, State
from jaxpress.passes.record import NUMERICS
from jaxpress.passes.traced import number_of, traced
from jaxpress.passes.view import View
from jaxpress.passes.why_not import WhyNot, nearest

__all__ = ["Match", "Rule", "RuleSet", "WhyNot"]


class Rule:
    """One rewrite.

    Args:
      name: what reports and ``disable`` call it.
      pattern: a pattern for the node to replace, such as :func:`~jaxpress.passes.op`; an ordinary
        function, which is :func:`~jaxpress.passes.traced`; or an object with ``names`` (op names
        that its root may have), ``size`` and ``find(state, node) -> Match | None`` for what
        patterns cannot say.
      replacement: an ordinary function over ``jnp`` and ``nnops``. Its parameters are captured
        names (``**kwargs`` takes them all); it gives the root's results, or those of a pattern of
        several. A keyword-only ``match`` is given the :class:`Match`, for its nodes' parameters. A
        captured scalar comes as a number, a repeated operand as a list.
      guard: ``guard(match)`` gives ``None`` (apply) or the reason not to; then the pattern's other
        ways to match are tried.
      numerics: ``"exact"``, ``"reassociates"`` or ``"approximate"``.
      shared: apply even where an inner value is used outside the match as well.
      note: a word for the record.
      stands_for: ``stands_for(match)`` is the name of another rule, of whose rewrite this match is
        a different spelling: where that rule is switched off, so is this match.
      scope: a name for what the new nodes are in, inside the scope of what they replace.

    >>> from jaxpress.passes.pattern import any_value, op
    >>> rule = Rule("double_negation", op("neg", op("neg", any_value("x"))), lambda x: x)
    >>> same = Rule("double_negation", lambda x: -(-x), lambda x: x)
    """

    def __init__(
        self,
        name: str,
        pattern: Any,
        replacement: Callable[..., Any],
        guard: Callable[[Match], str | None] | None = None,
        *,
        numerics: str = "exact",
        shared: bool = False,
        note: str = "",
        stands_for: Callable[[Match], str] | None = None,
        scope: str = "",
    ):
        if numerics not in NUMERICS:
            raise PassError(f"rule {name!r}: numerics is one of {NUMERICS}, not {numerics!r}")
        self.name = name
        if not isinstance(pattern, Pattern) and not hasattr(pattern, "names"):
            if not callable(pattern):
                raise PassError(f"rule {name!r}: {pattern!r} is no pattern, and no function of one")
            pattern = traced(pattern)
        self.pattern = pattern
        self.replacement = replacement
        self.guard = guard
        self.numerics = numerics
        self.shared = shared
        self.note = note
        self.stands_for = stands_for
        self.scope = scope
        signature = inspect.signature(replacement)
        parameters = signature.parameters.values()
        self._wants_match = "match" in signature.parameters
        self._wants_all = any(p.kind is p.VAR_KEYWORD for p in parameters)
        self._parameters = tuple(
            p.name for p in parameters if p.name != "match" and p.kind is not p.VAR_KEYWORD
        )
        needed = [p for p in parameters if p.default is p.empty and p.name in self._parameters]
        self._required = [p.name for p in needed if p.kind is not p.VAR_POSITIONAL]
        # As jnp's own functions have them.
        self._positional = tuple(p.name for p in parameters if p.kind is p.POSITIONAL_ONLY)

    def without(self, *names: str) -> Rule:
        """This rule, but for the matches that stand for rules of these names."""
        stands_for, guard = self.stands_for, self.guard
        if stands_for is None:
            return self

        def refuses(match: Match) -> str | None:
            name = stands_for(match)
            if name in names:
                return f"{name} is switched off"
            return None if guard is None else guard(match)

        rule = copy.copy(self)
        rule.guard = refuses
        return rule

    @property
    def names(self) -> frozenset[str]:
        """The names of the operations that it may start at."""
        return frozenset(self.pattern.names)

    @property
    def size(self) -> int:
        """How many operations the pattern covers; larger matches win."""
        return self.pattern.size

    def match(self, view: View, node: Node, state: State | None = None) -> Match | None:
        """The match rooted at ``node``, or ``None``."""
        pattern = self.pattern
        if state is None:
            if isinstance(pattern, Pattern) and not pattern.may_fit(view, node):
                return None
            state = State(view)
        if not is_whole(node, state):
            return None
        if not isinstance(pattern, Pattern):
            match = pattern.find(state, node)
            return match if match is not None and self._accepts(match, state) else None
        found: list[Match] = []

        def accepts() -> bool:
            match = Match(
                view,
                node,
                self._values(state),
                dict(state.nodes),
                state.matched,
                outputs=tuple(state.results.values()) or None,
                lists=state.lists,
            )
            if not self._accepts(match, state):
                return False
            found.append(match)
            return True

        pattern.match_node(node, state, accepts)
        return found[0] if found else None

    def _values(self, state: State) -> dict[str, Value]:
        """What is captured; a function's scalars as they were written: 0.2, not 0.20000000298."""
        values = dict(state.values)
        for name in getattr(self.pattern, "scalars", ()):
            values[name] = Literal(number_of(values[name]), values[name].aval)
        return values

    def _accepts(self, match: Match, state: State) -> bool:
        """Whether the match may be made: nothing else needs what goes, and the guard agrees."""
        if not all(is_whole(node, state) for node in match.matched):
            return False
        if not is_replaceable(match, state):
            return False
        if not self.shared and not inner_values_are_private(match, state):
            return False
        reason = None if self.guard is None else self.guard(match)
        return not reason or state.fail(reason, match.root, complete=True)

    def apply(self, editor: Editor, match: Match) -> tuple[list[Value], list[Node]]:
        """Replace the match in ``editor``; gives the new values and nodes."""
        literals: dict[str, Any] = {}
        operands: list[Value] = []
        # Each name with how many operands it takes, None for a single one.
        names: list[tuple[str, int | None]] = []
        for name in (*match.values, *match.lists) if self._wants_all else self._parameters:
            value = match.values.get(name)
            if isinstance(value, Literal):
                literals[name] = value.val
            elif value is not None:
                names.append((name, None))
                operands.append(value)
            elif name in match.lists:
                names.append((name, len(match.lists[name])))
                operands.extend(match.lists[name])
        captured = {**match.values, **match.lists}
        missing = [name for name in self._required if name not in captured]
        if missing:
            raise PassError(
                f"rule {self.name!r}: its replacement takes {', '.join(missing)}, and its pattern "
                f"captures {', '.join(captured) or 'nothing'}; give both the same names"
            )
        replacement = self.replacement
        if self._wants_match:
            literals["match"] = match

        types = tuple(v.aval for v in match.outputs)

        def run(*arrays: Any) -> Any:
            rest = iter(arrays)
            given = {
                name: next(rest) if n is None else [next(rest) for _ in range(n)]
                for name, n in names
            }
            given |= literals
            first = [given.pop(name) for name in self._positional if name in given]
            out = replacement(*first, **given)
            leaves = jax.tree_util.tree_leaves(out)
            if len(leaves) != len(types):
                return leaves
            return [compat.with_weak_type(x, a) for x, a in zip(leaves, types, strict=True)]

        run.__name__ = self.name
        makers = match.makers()
        anchor = match.root
        try:
            if len(makers) > 1:
                anchor = min(makers, key=editor.order.__getitem__)
                move_before(editor, makers_after(editor, operands, anchor, makers) or (), anchor)
            outs, nodes = editor.emit_nodes(
                run,
                operands,
                before=anchor,
                like=match.like,
                key=(replacement, tuple(names), types, self._static_key(match, literals)),
                origin=match.matched,
                scope=self.scope,
            )
            editor.substitute_values(match.root, match.outputs, outs)
            for node in makers:
                editor.prune(node)
        except Exception as error:  # of somebody's own rule: whatever it is, it is named
            where = match.root.source or "no source line"
            message = (
                f"rule {self.name!r} failed at {match.root!r} ({where}): {error}\n  to go on "
                f"without it: optimize(fn, passes=jaxpress.passes.default.without({self.name!r}))"
            )
            raise PassError(message) from error
        return outs, nodes

    def _static_key(self, match: Match, literals: dict[str, Any]) -> Any:
        """What the replacement may read besides its operands' avals."""
        scalars = tuple((k, _exactly(v)) for k, v in literals.items() if k != "match")
        if not self._wants_match:
            return scalars
        values = tuple(
            (name, v.aval, _exactly(v.val) if isinstance(v, Literal) else None)
            for name, v in match.values.items()
        )
        nodes = tuple(
            (name, node.op, _hashable(node.params), _avals(node.inputs), _avals(node.outputs))
            for name, node in (*(("", n) for n in match.makers()), *match.nodes.items())
        )
        return scalars, values, nodes, tuple(sorted(match.info.items()))

    def why_not(self, graph: Graph, node: Node | None = None) -> WhyNot:
        """The nearest miss: which part of the pattern, which condition, and on which line.

        Args:
          graph: the graph, as it is when the rule is to apply: after the passes before it.
          node: where the rule should apply, at any depth; left out, the nearest miss anywhere.

        Raises:
          PassError: the node is not in the graph.
        """
        return nearest(self, graph, node)

    def __add__(self, other: Rule | RuleSet) -> RuleSet:
        return RuleSet((self,)) + other

    def __repr__(self) -> str:
        return f"<Rule {self.name}, {self.numerics}>"


class RuleSet:
    """Several rules, joined by ``+`` and indexed by the op that they start at."""

    def __init__(self, rules: Iterable[Rule] = ()):
        self.rules = tuple(dict.fromkeys(rules))
        for rule in self.rules:
            if not isinstance(rule, Rule):
                raise PassError(f"{rule!r:.60} is no Rule; make one with Rule(name, pattern, fn)")
        # Made when it is first asked for: a function's pattern has to be traced for it.
        self._index: dict[str, list[Rule]] | None = None

    def at(self, op: str) -> list[Rule]:
        """The rules whose root may be ``op``, larger patterns first."""
        if self._index is None:
            self._index = {}
            # Larger matches win; among equals, the order in which they were given.
            for rule in sorted(self.rules, key=lambda rule: -rule.size):
                for name in rule.names:
                    self._index.setdefault(name, []).append(rule)
        return self._index.get(op, [])

    def without(self, *names: str) -> RuleSet:
        """The rules but for those named, and for what stands for one of them.

        Raises:
          PassError: there is no rule of such a name.
        """
        known = {rule.name for rule in self.rules}
        for name in names:
            if name not in known:
                raise PassError(f"no rule is called {name!r}; there are {sorted(known)}")
        return self.leaving_out(*names)

    def leaving_out(self, *names: str) -> RuleSet:
        """As ``without``, where there need not be such rules."""
        kept = (rule for rule in self.rules if rule.name not in names)
        return RuleSet(rule.without(*names) for rule in kept)

    def __add__(self, other: Rule | Iterable[Rule]) -> RuleSet:
        more = (other,) if isinstance(other, Rule) else tuple(other)
        return RuleSet((*self.rules, *more))

    def __iter__(self) -> Iterator[Rule]:
        return iter(self.rules)

    def __len__(self) -> int:
        return len(self.rules)

    def __repr__(self) -> str:
        return f"RuleSet({', '.join(rule.name for rule in self.rules)})"


def _exactly(scalar: Any) -> tuple[str, str, str]:
    """A scalar with its type, since 1, 1.0 and True are equal."""
    return type(scalar).__name__, str(getattr(scalar, "dtype", "")), repr(scalar)


def _avals(values: Iterable[Value]) -> tuple[Any, ...]:
    return tuple(v.aval for v in values)


def _hashable(params: dict[str, Any]) -> Any:
    return tuple([(k, exactly(params[k])) for k in sorted(params)])
