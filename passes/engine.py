"""The rewriting engine: many rules in one sweep, by a worklist, to a fixpoint."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

from jaxpress.capture import Graph, Node, PassError, RewriteLoopError, Value, compat
from jaxpress.capture.edit import Editor
from jaxpress.passes.calls import open_calls
from jaxpress.passes.known import mark_known
from jaxpress.passes.record import Budget, Rewrite
from jaxpress.passes.rule import Match, Rule, RuleSet

__all__ = ["map_bodies", "rewrite"]

# A node that was made from a node that was made from ... this often is a loop among rules; more
# often only by as many nodes as there were, each of which one rewrite may have swallowed.
MAX_GENERATIONS = 64
# So are this many rewrites for each node that there was, as where one node becomes two of its kind.
MAX_REWRITES_PER_NODE = 64
# So is a body in a node that was made in a body of a node that was made in ... this often.
MAX_NESTING = 16
# What moves or repeats elements, treats all alike, parts or joins them, and how many in a row
# patterns look past; and a norm in a wider type, with the conversions around it.
MOVES = (
    frozenset({"reshape", "squeeze", "expand_dims", "transpose", "copy", "broadcast_in_dim"})
    | frozenset({"avg_pool", "global_avg_pool", "max_pool", "min_pool", "global_max_pool"})
    | frozenset({"pad", "slice", "concatenate", "stack", "add", "sub", "split"})
    | frozenset({"convert_element_type", "batch_norm"})
)
MAX_MOVES = 4
# What may hand a scale or shift to all of its users at once.
GIVES = frozenset({"layer_norm", "rms_norm"})

# The higher-order operations whose bodies passes rewrite; all others' stay as they are.
REWRITABLE = (
    compat.JIT_NAMES
    | compat.CALL_NAMES
    | compat.REMAT_NAMES
    | compat.CUSTOM_JVP_NAMES
    | compat.CUSTOM_VJP_NAMES
    | {"scan", "while", "cond", "shard_map"}
)


def rewrite(
    graph: Graph,
    rules: Rule | RuleSet | Iterable[Rule],
    *,
    pass_name: str = "rewrite",
    record: list[Rewrite] | None = None,
    budget: Budget | None = None,
) -> Graph:
    """Apply ``rules`` everywhere, bodies included, until none applies any more.

    Where matches overlap, the rule with the larger pattern wins; of equals the one that ends
    later, then the one given first. A pattern that lies across the boundary of a plain ``jit`` is
    found, and the call is spelled out then; other calls stay. The boundary of a custom derivative
    is never crossed: see ``jaxpress.passes.body``. The cost grows linearly with the graph.

    Args:
      graph: what to rewrite; it stays as it is.
      rules: a rule, several, or a set of rules.
      pass_name: what records call this sweep.
      record: a list to which each rewrite is added.
      budget: how many rewrites there may be; the first ones are always the same.

    Returns:
      The new graph; ``graph`` itself if nothing applied.

    Raises:
      RewriteLoopError: rules undo each other for ever; they are named.
    """
    if not isinstance(graph, Graph):
        raise PassError(f"rewrite takes a Graph, got {graph!r:.60}; jaxpress.trace makes one")
    if isinstance(rules, Rule):
        rules = RuleSet((rules,))
    elif not isinstance(rules, RuleSet):
        rules = RuleSet(rules)
    record = [] if record is None else record
    chosen = rules
    budget = Budget() if budget is None else budget
    memo: dict[int, Any] = {}
    nesting = 0

    def sweep(g: Graph) -> Graph:
        if budget.is_spent:
            return g
        made: set[Node] = set()
        opened = open_calls(g, chosen, _try)
        new = _sweep(opened, chosen, pass_name, record, made, budget)
        if new is opened:
            new = g

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

    # What a loop's body is given of the weights is known there too.
    marked = mark_known(graph)
    new = sweep(marked)
    return graph if new is marked else new


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
                # Replacements are traced where the body is: under a shard_map's axes.
                with compat.body_context(node.op, node.params):
                    memo[id(body)] = body, fn(body, node)
            new.append(memo[id(body)][1])
        if any(a is not b for a, b in zip(new, node.subgraphs, strict=True)):
            exchanged[node] = node.with_subgraphs(new)
    if not exchanged:
        return graph
    return graph.with_parts(nodes=[exchanged.get(node, node) for node in graph.nodes])


def _try(graph: Graph, rules: RuleSet) -> list[Rewrite]:
    """What a sweep over the graph itself would do."""
    record: list[Rewrite] = []
    _sweep(graph, rules, "", record, set(), Budget())
    return record


def _sweep(
    graph: Graph,
    rules: RuleSet,
    pass_name: str,
    record: list[Rewrite],
    made: set[Node],
    budget: Budget,
) -> Graph:
    if not any(rules.at(node.op) for node in graph.nodes):
        return graph
    editor = Editor(graph)
    # What nobody needs is no second user of anything, and need not be rewritten.
    for node in reversed(graph.nodes):
        if node in editor:
            editor.prune(node)
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
        found = _best(rules, editor, node)
        if found is None:
            continue
        if not budget.take():
            break
        rule, match = found
        if budget.is_spent:
            budget.before_last = editor.finish()
        # Before: where a number takes a value's place, nobody knows its users any more.
        users = [user for value in match.outputs for user in _readers(editor, value)]
        values, nodes = rule.apply(editor, match)
        count += 1
        record.append(
            Rewrite(
                rule.name,
                pass_name,
                rule.numerics,
                match.matched,
                tuple(nodes),
                rule.note,
                tuple(zip(match.outputs, values, strict=True)),
            )
        )
        age = 1 + max(generation.get(old, 0) for old in match.matched)
        if age > oldest or count > limit:
            raise RewriteLoopError(_loop_message(record, node))
        again = [*nodes, *users]
        for value in values:
            producer = editor.producer(value)
            if producer is not None:
                again.append(producer)
        kept = [v for old in match.matched if old in editor for v in old.outputs]
        for value in (*values, *match.operands(), *kept):
            # A value that one node is left to use may be swallowed now.
            left = editor.users(value)
            if len(left) == 1:
                again.extend(left)
            # What makes it may go to users that it could not go to before.
            maker = None if editor.is_known(value) else editor.producer(value)
            if maker is not None and (len(left) == 1 or maker.op in GIVES):
                again.append(maker)
        if match.root is not node:
            again.append(node)
        for new in nodes:
            generation[new] = age
        made.update(nodes)
        for candidate in again:
            if candidate not in waiting and candidate in editor:
                waiting.add(candidate)
                queue.append(candidate)
    return editor.finish() if count else graph


def _readers(editor: Editor, value: Value) -> list[Node]:
    """The users of a value, and those of what only moves its elements, which patterns look past."""
    found = list(editor.users(value))
    moved = [node for node in found if node.op in MOVES]
    for _ in range(MAX_MOVES):
        users = [user for node in moved for v in node.outputs for user in editor.users(v)]
        found.extend(users)
        moved = [node for node in users if node.op in MOVES]
    return found


def _best(rules: RuleSet, editor: Editor, node: Node) -> tuple[Rule, Match] | None:
    """The rule to apply at ``node``, or at a node that it would swallow, if that one is larger."""
    found = None
    for rule in rules.at(node.op):
        match = rule.match(editor, node)
        if match is not None:
            found = rule, match
            break
    while found is not None:
        larger = _larger_inside(rules, editor, *found)
        if larger is None:
            return found
        found = larger
    return None


def _larger_inside(
    rules: RuleSet, editor: Editor, rule: Rule, match: Match
) -> tuple[Rule, Match] | None:
    for inner in match.matched[1:]:
        for other in rules.at(inner.op):
            if other.size <= rule.size:
                break
            overlapping = other.match(editor, inner) if inner in editor else None
            if overlapping is not None:
                return other, overlapping
    return None


def _loop_message(record: list[Rewrite], node: Node) -> str:
    names = list(dict.fromkeys(r.rule for r in record[-2 * MAX_GENERATIONS :]))
    return (
        f"rules {names} rewrite {node!r} ({node.source or 'no source line'}) again and again; "
        "give one of them a guard that refuses what the other makes, or disable one"
    )
