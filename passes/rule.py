"""Rules: a pattern, a guard, a replacement, and what the rewrite does to numerics."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax

from jaxpress.capture import Graph, Literal, Node, PassError, Value, compat
from jaxpress.capture.edit import Editor
from jaxpress.passes.pattern import Op, State
from jaxpress.passes.record import NUMERICS
from jaxpress.passes.view import View

__all__ = ["Match", "Rule", "RuleSet", "WhyNot"]


class Match:
    """A place where a rule applies.

    Attributes:
      root: the node whose results are replaced.
      values: captured values by name; ``match["x"]`` reads one.
      nodes: captured nodes by name.
      matched: every node that the pattern covers, the root first.
      info: hashable facts that a programmed pattern found, such as an axis.
    """

    __slots__ = ("info", "matched", "nodes", "root", "values", "view")

    def __init__(
        self,
        view: View,
        root: Node,
        values: dict[str, Value],
        nodes: dict[str, Node] | None = None,
        matched: Iterable[Node] = (),
        info: dict[str, Any] | None = None,
    ):
        self.view = view
        self.root = root
        self.values = values
        self.nodes = nodes or {}
        self.matched = tuple(dict.fromkeys((root, *matched)))
        self.info = info or {}

    def __getitem__(self, name: str) -> Value:
        return self.values[name]

    def get(self, name: str) -> Value | None:
        """A captured value that may be missing."""
        return self.values.get(name)


class WhyNot:
    """Why a rule does not apply at a node: the nearest miss.

    Prints as a sentence; false where the rule does apply.

    Attributes:
      rule: the rule's name.
      node: the node that was asked about.
      reason: which condition failed; empty where the rule does apply.
      at: the node where it failed, if it was another one.
    """

    def __init__(self, rule: str, node: Node, reason: str, at: Node | None = None):
        self.rule = rule
        self.node = node
        self.reason = reason
        self.at = at

    def __bool__(self) -> bool:
        return bool(self.reason)

    def __str__(self) -> str:
        if not self.reason:
            return f"{self.rule} applies to {self.node!r}"
        place = self.at or self.node
        return (
            f"{self.rule} does not apply to {self.node!r}: {self.reason}"
            f"  # {place.source or 'no source line'}"
        )

    __repr__ = __str__


class Rule:
    """One rewrite.

    Args:
      name: what reports and ``disable`` call it.
      pattern: an :class:`~jaxpress.passes.pattern.Op` pattern for the node to replace, or an
        object with ``names`` (op names that its root may have), ``size`` and
        ``find(state, node) -> Match | None`` for what patterns cannot say.
      replacement: an ordinary function over ``jnp`` and ``nnops``. Its parameters are captured
        names (``**kwargs`` takes them all); it gives the root's results. A keyword-only
        ``match`` is given the :class:`Match`, for its nodes' parameters. A captured scalar comes
        as a Python number.
      guard: ``guard(match)`` gives ``None`` (apply) or the reason not to.
      numerics: ``"exact"``, ``"reassociates"`` or ``"approximate"``.
      shared: apply even where an inner value is used outside the match as well.
      note: a word for the record.

    >>> from jaxpress.passes.pattern import any_value, op
    >>> rule = Rule("double_negation", op("neg", op("neg", any_value("x"))), lambda x: x)
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
    ):
        if numerics not in NUMERICS:
            raise PassError(f"rule {name!r}: numerics is one of {NUMERICS}, not {numerics!r}")
        self.name = name
        self.pattern = pattern
        self.replacement = replacement
        self.guard = guard
        self.numerics = numerics
        self.shared = shared
        self.note = note
        self.names: frozenset[str] = frozenset(pattern.names)
        signature = inspect.signature(replacement)
        parameters = signature.parameters.values()
        self._wants_match = "match" in signature.parameters
        self._wants_all = any(p.kind is p.VAR_KEYWORD for p in parameters)
        self._parameters = tuple(
            p.name for p in parameters if p.name != "match" and p.kind is not p.VAR_KEYWORD
        )
        # As jnp's own functions have them.
        self._positional = tuple(p.name for p in parameters if p.kind is p.POSITIONAL_ONLY)

    @property
    def size(self) -> int:
        """How many operations the pattern covers; larger matches win."""
        return self.pattern.size

    def match(self, view: View, node: Node, state: State | None = None) -> Match | None:
        """The match rooted at ``node``, or ``None``."""
        state = State(view) if state is None else state
        if isinstance(self.pattern, Op):
            if not self.pattern.match_node(node, state):
                return None
            match = Match(view, node, state.values, state.nodes, state.matched)
        else:
            match = self.pattern.find(state, node)
            if match is None:
                return None
        if not self.shared and not _inner_values_are_private(match, state):
            return None
        if self.guard is not None:
            reason = self.guard(match)
            if reason:
                state.fail(reason, node)
                return None
        return match

    def apply(self, editor: Editor, match: Match) -> tuple[list[Value], list[Node]]:
        """Replace the match in ``editor``; gives the new values and nodes."""
        literals: dict[str, Any] = {}
        names: list[str] = []
        for name in match.values if self._wants_all else self._parameters:
            value = match.values.get(name)
            if isinstance(value, Literal):
                literals[name] = value.val
            elif value is not None:
                names.append(name)
        replacement = self.replacement
        if self._wants_match:
            literals["match"] = match

        types = tuple(v.aval for v in match.root.outputs)

        def run(*arrays: Any) -> Any:
            given = {**dict(zip(names, arrays, strict=True)), **literals}
            first = [given.pop(name) for name in self._positional if name in given]
            out = replacement(*first, **given)
            leaves = jax.tree_util.tree_leaves(out)
            if len(leaves) != len(types):
                return leaves
            return [compat.with_weak_type(x, a) for x, a in zip(leaves, types, strict=True)]

        run.__name__ = self.name
        try:
            outs, nodes = editor.emit_nodes(
                run,
                [match[name] for name in names],
                at=match.root,
                key=(replacement, tuple(names), types, self._static_key(match, literals)),
                origin=match.matched,
            )
            editor.substitute(match.root, outs)
        except Exception as error:  # of somebody's own rule: whatever it is, it is named
            where = match.root.source or "no source line"
            message = f"rule {self.name!r} failed at {match.root!r} ({where}): {error}"
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
            for name, node in (("", match.root), *match.nodes.items())
        )
        return scalars, values, nodes, tuple(sorted(match.info.items()))

    def why_not(self, graph: Graph, node: Node) -> WhyNot:
        """The nearest miss at ``node``: which condition failed, and where."""
        editor = Editor(graph)
        if node not in editor:
            for outer in graph.nodes:
                for body in outer.subgraphs:
                    if any(inner is node for inner in body.walk()):
                        return self.why_not(body, node)
            raise PassError(f"{node!r} is not in the graph {graph.name!r}")
        state = State(editor, explain=True)
        if node.op not in self.names:
            wanted = ", ".join(sorted(self.names))
            return WhyNot(self.name, node, f"it starts at {wanted}, not at {node.op}")
        if self.match(editor, node, state) is not None:
            return WhyNot(self.name, node, "")
        return WhyNot(self.name, node, state.miss[1], state.miss[2])

    def __add__(self, other: Rule | RuleSet) -> RuleSet:
        return RuleSet((self,)) + other

    def __repr__(self) -> str:
        return f"<Rule {self.name}, {self.numerics}>"


class RuleSet:
    """Several rules, joined by ``+`` and indexed by the op that they start at."""

    def __init__(self, rules: Iterable[Rule] = ()):
        self.rules = tuple(dict.fromkeys(rules))
        index: dict[str, list[Rule]] = {}
        # Larger matches win; among equals, the order in which they were given.
        for rule in sorted(self.rules, key=lambda rule: -rule.size):
            for name in rule.names:
                index.setdefault(name, []).append(rule)
        self._index = index

    def at(self, op: str) -> list[Rule]:
        """The rules whose root may be ``op``, larger patterns first."""
        return self._index.get(op, [])

    def without(self, *names: str) -> RuleSet:
        """The rules but for those named.

        Raises:
          PassError: there is no rule of such a name.
        """
        known = {rule.name for rule in self.rules}
        for name in names:
            if name not in known:
                raise PassError(f"no rule is called {name!r}; there are {sorted(known)}")
        return RuleSet(rule for rule in self.rules if rule.name not in names)

    def __add__(self, other: Rule | RuleSet) -> RuleSet:
        more = (other,) if isinstance(other, Rule) else other.rules
        return RuleSet((*self.rules, *more))

    def __iter__(self) -> Iterator[Rule]:
        return iter(self.rules)

    def __len__(self) -> int:
        return len(self.rules)

    def __repr__(self) -> str:
        return f"RuleSet({', '.join(rule.name for rule in self.rules)})"


def _inner_values_are_private(match: Match, state: State) -> bool:
    """Whether no value that the rewrite swallows is needed elsewhere.

    Values that depend on weights alone do not count: computing them again costs nothing per call.
    """
    view, covered = match.view, set(match.matched)
    for node in match.matched:
        if node is match.root:
            continue
        for v in node.outputs:
            if view.is_known(v):
                continue
            others = [user for user in view.users(v) if user not in covered]
            if others or view.is_output(v):
                who = others[0].op if others else "an output"
                state.fail(lambda v=v, who=who: f"{v!r} is used by {who} as well", node)
                return False
    return True


def _exactly(scalar: Any) -> tuple[str, str, str]:
    """A scalar with its type, since 1, 1.0 and True are equal."""
    return type(scalar).__name__, str(getattr(scalar, "dtype", "")), repr(scalar)


def _avals(values: Iterable[Value]) -> tuple[Any, ...]:
    return tuple(v.aval for v in values)


def _hashable(params: dict[str, Any]) -> Any:
    return tuple(sorted(params.items(), key=lambda item: item[0]))
