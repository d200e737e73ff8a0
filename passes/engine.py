"""The rewriting engine: many rules in one sweep, by a worklist, to a fixpoint."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

from jaxpress.capture import Graph, Node, RewriteLoopError, compat
from jaxpress.capture.edit import Editor
from jaxpress.passes.record import Rewrite
from jaxpress.passes.rule import Rule, RuleSet

__all__ = ["map_bodies", "rewrite"]

# A node that was made from a node that was made from ... this often is a loop among rules; more
# often only by as many nodes as there were, each of which one rewrite may have swallowed.
MAX_GENERATIONS = 64
# So are this many rewrites for each node that there was, as where one node becomes two of its kind.
MAX_REWRITES_PER_NODE = 64
# So is a body in a node that was made in a body of a node that was made in ... this often.
MAX_NESTING = 16

# The higher-order operations whose bodies passes rewrite; all others' stay as they are.
REWRITABLE = (
    compat.JIT_NAMES
    | compat.CALL_NAMES
    | compat.REMAT_NAMES
    | compat.CUSTOM_JVP_NAMES
    | compat.CUSTOM_VJP_NAMES
    | {"scan", "while", "cond"}
)


def rewrite(
    graph: Graph,
    rules: Rule | RuleSet | Iterable[Rule],
    *,
    pass_name: str = "rewrite",
    record: list[Rewrite] | None = None,
) -> Graph:
    """Apply ``rules`` everywhere, bodies included, until none applies any more.

    Where several rules match at a node, the larger pattern wins, then the one given first. The
    cost grows linearly with the graph.

    Args:
      graph: what to rewrite; it stays as it is.
      rules: a rule, several, or a set of rules.
      pass_name: what records call this sweep.
      record: a list to which each rewrite is added.

    Returns:
      The new graph; ``graph`` itself if nothing applied.

    Raises:
      RewriteLoopError: rules undo each other for ever; they are named.
    """
    if isinstance(rules, Rule):
        rules = RuleSet((rules,))
    elif not isinstance(rules, RuleSet):
        rules = RuleSet(rules)
    record = [] if record is None else record
    chosen = rules
    memo: dict[int, Any] = {}
    nesting = 0

    def sweep(g: Graph) -> Graph:
        made: set[Node] = set()
        new = _sweep(g, chosen, pass_name, record, made)

        def inside(body: Graph, node: Node) -> Graph:
            nonlocal nesting
            if node not in made:
                return sweep(body)
            if nesting == MAX_NESTING:
                raise RewriteLoopError(_loop_message(record, node))
            nesting += 1
            try:
                return sweep(body)
            finally:
                nesting -= 1

        return _map_bodies(new, inside, memo)

    return sweep(graph)


def map_bodies(
    graph: Graph, fn: Callable[[Graph], Graph], memo: dict[int, Any] | None = None
) -> Graph:
    """``graph`` with ``fn`` applied to every body that passes may rewrite.

    A body that several nodes share is rewritten once and stays shared.
    """
    return _map_bodies(graph, lambda body, _: fn(body), {} if memo is None else memo)


def _map_bodies(graph: Graph, fn: Callable[[Graph, Node], Graph], memo: dict[int, Any]) -> Graph:
    exchanged: dict[Node, Node] = {}
    for node in graph.nodes:
        if node._bodies is None or node.op not in REWRITABLE:
            continue
        new = []
        for body in node.subgraphs:
            if id(body) not in memo:
                # The body is kept beside, so that its identity is not given to another.
                memo[id(body)] = body, fn(body, node)
            new.append(memo[id(body)][1])
        if any(a is not b for a, b in zip(new, node.subgraphs, strict=True)):
            exchanged[node] = node.with_subgraphs(new)
    if not exchanged:
        return graph
    return graph.with_parts(nodes=[exchanged.get(node, node) for node in graph.nodes])


def _sweep(
    graph: Graph, rules: RuleSet, pass_name: str, record: list[Rewrite], made: set[Node]
) -> Graph:
    if not any(rules.at(node.op) for node in graph.nodes):
        return graph
    editor = Editor(graph)
    # From the results backwards: a large pattern ends later than the small ones inside it.
    queue: deque[Node] = deque(reversed(graph.nodes))
    waiting = set(graph.nodes)
    generation: dict[Node, int] = {}
    count, limit = 0, MAX_REWRITES_PER_NODE * (len(graph.nodes) + 1)
    oldest = MAX_GENERATIONS + len(graph.nodes)
    while queue:
        node = queue.popleft()
        waiting.discard(node)
        if node not in editor:
            continue
        for rule in rules.at(node.op):
            match = rule.match(editor, node)
            if match is None:
                continue
            values, nodes = rule.apply(editor, match)
            count += 1
            record.append(
                Rewrite(rule.name, pass_name, rule.numerics, match.matched, tuple(nodes), rule.note)
            )
            age = 1 + max(generation.get(old, 0) for old in match.matched)
            if age > oldest or count > limit:
                raise RewriteLoopError(_loop_message(record, node))
            again = list(nodes)
            for value in values:
                again.extend(editor.users(value))
                producer = editor.producer(value)
                if producer is not None:
                    again.append(producer)
            for new in nodes:
                generation[new] = age
            made.update(nodes)
            for candidate in again:
                if candidate not in waiting and candidate in editor:
                    waiting.add(candidate)
                    queue.append(candidate)
            break
    return editor.finish() if count else graph


def _loop_message(record: list[Rewrite], node: Node) -> str:
    names = list(dict.fromkeys(r.rule for r in record[-2 * MAX_GENERATIONS :]))
    return (
        f"rules {names} rewrite {node!r} ({node.source or 'no source line'}) again and again; "
        "give one of them a guard that refuses what the other makes, or disable one"
    )
