"""Dropout put into a function, with its key as a new argument, or taken out of it."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp

from jaxpress import nnops
from jaxpress.capture import Graph, Node, PassError, Value
from jaxpress.capture.edit import Editor
from jaxpress.passes.cleanup import eliminate_dead_code
from jaxpress.passes.derivatives import (
    before_differentiating,
    has_derivatives,
    refuse_differentiated,
)
from jaxpress.passes.engine import rewrite
from jaxpress.passes.known import LOOPS_AND_BRANCHES
from jaxpress.passes.more_inputs import with_more_inputs
from jaxpress.passes.new_arguments import add_arguments
from jaxpress.passes.numbers_inside import numbers_inside
from jaxpress.passes.opened import composites, is_part_of
from jaxpress.passes.pattern import State
from jaxpress.passes.pipeline import Pass
from jaxpress.passes.record import Rewrite
from jaxpress.passes.rule import Match, Rule, RuleSet
from jaxpress.passes.rules.weights import rebind
from jaxpress.passes.view import View, is_parameter_like
from jaxpress.passes.weight_masks import raised
from jaxpress.passes.weight_sites import Where, chooser

__all__ = ["insert_dropout", "remove_dropout"]

NAME = "insert_dropout"
# What a scope's name means; another op is meant by its own name, or by a predicate.
LAYERS = frozenset({"dense", "conv", "einsum_dense", "dot_product_attention", "embedding"})


def remove_dropout(where: Where = None) -> Pass:
    """A pass that takes dropout out, as when a model is not trained.

    The function is raised to named ops first, so dropout that is written out goes too, and so does
    that of attention's weights. A key that nothing else needs stays an argument.

    Args:
      where: which dropout: None for all of it; a pattern for scopes, such as ``"*/decoder/*"``; a
        predicate of the node; or several of these, of which any will do.

    Returns:
      The pass. A graph without dropout stays what it is. Where random numbers are still drawn, by
      noise or a dropout that was not recognised, the report has a note that says where.

    Raises:
      PassError: ``where`` is none of these.

    >>> import jax, jax.numpy as jnp
    >>> import jaxpress as jp
    >>> def model(x, key):
    ...     return x + jp.nnops.dropout(x, key, rate=0.5)
    >>> plain = jp.optimize(model, [remove_dropout(), "default"])
    >>> plain(jnp.ones(2), jax.random.key(0)).tolist()
    [2.0, 2.0]
    """
    chosen = chooser(where)
    how: dict[str, Any] = {"numerics": "approximate", "shared": True}
    rules = RuleSet(
        (
            Rule("remove_dropout", _ChosenDropout(chosen), _undropped, **how),
            Rule("remove_attention_dropout", _ChosenAttention(chosen), _all_attended, **how),
        )
    )

    def work(
        graph: Graph, record: list[Rewrite] | None = None, notes: list[str] | None = None
    ) -> Graph:
        graph = rewrite(raised(graph), rules, pass_name="remove_dropout", record=record)
        # A mask that is drawn once for all steps of a loop is ones now, which it multiplies with.
        graph = numbers_inside(graph)
        if notes is not None:
            notes.extend(_still_drawn(graph))
        return graph

    return Pass("remove_dropout", work, "Dropout is taken out.")


def _still_drawn(graph: Graph) -> list[str]:
    """What else draws random numbers: by a dropout that was not recognised, perhaps."""
    found = []
    for node in eliminate_dead_code(graph).walk():
        if node.op in ("random_bits", "threefry2x32", "rng_bit_generator", "rng_uniform"):
            (out, *_) = node.outputs
            where = node.source or "no source line"
            found.append(
                f"random numbers of shape {tuple(out.shape)} are still drawn ({where}): no dropout "
                "was recognised in what is made of them"
            )
    return list(dict.fromkeys(found))


class _ChosenDropout:
    """A dropout that is chosen, with all its operands."""

    names = frozenset({"dropout", "stochastic_depth"})
    size = 1

    def __init__(self, chosen: Callable[[Node, str], bool]):
        self.chosen = chosen

    def find(self, state: State, node: Node) -> Match | None:
        if not self.chosen(node, ""):
            state.fail("it is not among those that are chosen", node)
            return None
        operands = zip(("x", "other"), state.view.inputs(node), strict=True)
        return Match(state.view, node, dict(operands))


def _undropped(x: Any, other: Any, *, match: Match) -> Any:
    def fn(x: Any, other: Any) -> Any:
        return x

    # Where keys were mapped and x was not, each key had a result of its own.
    for axes in match.root.params.get("mapped", ()):
        fn = jax.vmap(fn, in_axes=axes)
    return fn(x, other)


class _ChosenAttention:
    """An attention that is chosen, and drops some of its weights."""

    names = frozenset({"dot_product_attention"})
    size = 1

    def __init__(self, chosen: Callable[[Node, str], bool]):
        self.chosen = chosen

    def find(self, state: State, node: Node) -> Match | None:
        names = node.params["operands"]
        if "dropout_key" not in names or not self.chosen(node, ""):
            state.fail("it drops nothing, or is not among those that are chosen", node)
            return None
        return Match(state.view, node, dict(zip(names, state.view.inputs(node), strict=True)))


def _all_attended(*, match: Match, **operands: Any) -> Any:
    def fn(*arrays: Any) -> Any:
        given = dict(zip(operands, arrays, strict=True))
        del given["dropout_key"]
        return rebind(match.root, given, dropout_rate=0.0, dropout_broadcast_dims=(), mapped=())

    for axes in match.root.params.get("mapped", ()):
        fn = jax.vmap(fn, in_axes=axes)
    return fn(*operands.values())


def insert_dropout(
    where: Where,
    rate: float,
    *,
    broadcast_dims: int | Iterable[int] = (),
    argument: str = "dropout_key",
) -> Pass:
    """A pass that drops parts of the chosen layers' results; its key is a new argument.

    The function is raised to named ops first. Give it the loss, and differentiate what comes out.
    A layer's bias is added before its result is dropped. Each place draws with a key of its own,
    and each turn of a ``scan`` does.

    Args:
      where: after what: the name of an op, such as ``"gelu"`` or ``"multi_head_attention"`` (once,
        after its whole result); a pattern for scopes, such as ``"*/mlp/*"`` (its layers with
        weights, and attention); a predicate of the node; or several of these, of which any will do.
      rate: share of the entries that become 0, as in nnops.dropout.
      broadcast_dims: axes along which entries share their fate, as there.
      argument: the new argument's name.

    Returns:
      The pass. What it makes takes a typed key by name, ``graph(x, dropout_key=key)``, and so does
      what ``optimize`` makes. It raises a PassError where nothing is chosen, where a place is
      differentiated already, or where it cannot be reached: in the body of a ``while`` loop or of
      a custom derivative.

    Raises:
      PassError: ``where`` or ``rate`` is none of these.

    >>> import jax, jax.numpy as jnp
    >>> import jaxpress as jp
    >>> model = lambda x: jp.nnops.gelu(x)
    >>> train = jp.optimize(model, [insert_dropout("gelu", 0.5), "default"])
    >>> y = train(jnp.full(1000, 3.0), dropout_key=jax.random.key(0))
    >>> bool(abs(jnp.mean(y == 0) - 0.5) < 0.1)
    True
    """
    if where is None:
        raise PassError(f"{NAME}: where is None; say after which ops or scopes")
    if not isinstance(rate, int | float) or not 0 <= rate < 1:
        raise PassError(f"{NAME}: rate is {rate!r}; give a number from 0 to below 1")
    dims = tuple(broadcast_dims) if isinstance(broadcast_dims, Iterable) else (broadcast_dims,)
    chosen, whole = _any_of(where, _site_chooser), _any_of(where, _composite_chooser)

    def work(graph: Graph, record: list[Rewrite] | None = None) -> Graph:
        record = [] if record is None else record
        # What is made of others, and chosen itself, has one result, not those of its parts.
        closed = {node.op for node in graph.walk() if whole(node)}
        graph = raised(graph, closed)
        if not closed and not any(map(chosen, graph.walk())):
            raise PassError(f"{NAME}: nothing is chosen by {where!r}{_known(graph)}")
        refuse_differentiated(graph, lambda node: whole(node) or chosen(node), NAME)
        key = jax.eval_shape(lambda: jax.random.key(0))
        graph, new = add_arguments(graph, {argument: key})
        place = graph.inputs.index(new[argument])
        first = 0
        if closed:
            inserter = _Inserter(whole, float(rate), dims, record)
            graph = raised(inserter.run(graph, new[argument]))
            first = len(graph.nodes)  # of other keys than those that are there
        inserter = _Inserter(chosen, float(rate), dims, record)
        return inserter.run(graph, graph.inputs[place], first)

    return Pass(NAME, work, "Results are dropped.", new_arguments=(argument,))


def _any_of(where: Where, choose: Callable[[Where], Callable[[Node], bool]]) -> Callable[..., bool]:
    """By what is given, or by any of several."""
    if isinstance(where, Iterable) and not isinstance(where, str):
        several = [_any_of(part, choose) for part in where]
        return lambda node: any(one(node) for one in several)
    return choose(where)


def _site_chooser(where: Where) -> Callable[[Node], bool]:
    """A predicate of nodes: a scope's name means its layers, an op's name that op."""
    ops = nnops.registry().keys() - composites() - {"dropout", "stochastic_depth"}
    if not isinstance(where, str) or where in ops:
        inner = chooser(where)
        return lambda node: node.op in ops and inner(node, "")
    # The parts of an op of that name are inside of what is dropped, if it is an op's.
    whole = where in composites()
    return lambda node: (
        node.op in LAYERS
        and fnmatch.fnmatchcase(node.scope, where)
        and not (whole and is_part_of(node, where))
    )


def _composite_chooser(where: Where) -> Callable[[Node], bool]:
    """Likewise for the ops that are made of others, by name or predicate."""
    ops = composites()
    if isinstance(where, str):
        return lambda node: node.op in ops and node.op == where
    inner = chooser(where)
    return lambda node: node.op in ops and inner(node, "")


def _known(graph: Graph) -> str:
    """What there is to choose from, for a message."""
    scopes = sorted({node.scope for node in graph.walk() if node.op in LAYERS})
    differentiated = has_derivatives(graph)
    hint = f"; of what is differentiated, {before_differentiating(NAME)}" if differentiated else ""
    return f"; layers are in {scopes}{hint}"


class _Inserter:
    """Puts dropout after the chosen nodes of a graph and its bodies."""

    def __init__(
        self,
        chosen: Callable[[Node], bool],
        rate: float,
        dims: tuple[int, ...],
        record: list[Rewrite],
    ):
        self._chosen = chosen
        self._rate = rate
        self._dims = dims
        self._record = record

    def run(self, graph: Graph, key: Value, first: int = 0) -> Graph:
        """The graph with its dropout, drawn from ``key``, a value of it.

        The places' own keys are those from number ``first`` on.
        """
        editor = Editor(graph)
        places: list[Node] = []
        for node in graph.nodes:
            if self._chosen(node):
                places.append(_with_bias(editor, node))
            elif any(self._chosen(n) for body in node.subgraphs for n in body.walk()):
                places.append(node)
        # A key for each place, whatever else is in the graph.
        for i, node in enumerate(dict.fromkeys(places), first):
            if node.subgraphs and not self._chosen(node):
                self._enter(editor, node, key, i)
            else:
                self._drop(editor, node, key, i)
        return editor.finish()

    def _drop(self, editor: Editor, node: Node, key: Value, i: int) -> None:
        if len(node.outputs) != 1 or not jnp.issubdtype(node.output.dtype, jnp.floating):
            raise PassError(f"{NAME}: {_name(node)} gives no floating-point array")

        def dropped(*arrays: Any) -> Any:
            *operands, key = arrays
            y = node.primitive.bind(*operands, **node.primitive.get_bind_params(node.params))
            key = jax.random.fold_in(key, i)
            return nnops.dropout(y, key, rate=self._rate, broadcast_dims=self._dims)

        values = [*editor.inputs(node), key]
        outs, nodes = editor.emit_nodes(dropped, values, at=node, cache=False)
        editor.substitute(node, outs)
        self._record.append(Rewrite(NAME, NAME, "approximate", (node,), tuple(nodes)))

    def _enter(self, editor: Editor, node: Node, key: Value, i: int) -> None:
        reachable = node.op in LOOPS_AND_BRANCHES and node.op != "while"
        if not reachable or (node.op == "scan" and node.effects):
            raise PassError(
                f"{NAME}: what is inside of {_name(node)} cannot be dropped: a {node.op} "
                "takes no key; leave it out with where="
            )
        turns = node.params["length"] if node.op == "scan" else None

        def own_key(key: Any) -> Any:
            key = jax.random.fold_in(key, i)
            return key if turns is None else jax.random.split(key, turns)

        (own,) = editor.emit(own_key, (key,), at=node, cache=False)
        bodies, handed = [], []
        for body in node.subgraphs:
            placeholder = Value(f"{key.name}'", key.aval)
            wanted = any(map(self._chosen, body.walk()))
            bodies.append(self.run(body, placeholder) if wanted else body)
            handed.append([(placeholder, own)] if wanted else [])
        if turns is None:
            with_more_inputs(editor, node, bodies, handed)
        else:
            with_more_inputs(editor, node, bodies, [[]], rows=handed[0])


def _with_bias(view: View, node: Node) -> Node:
    """The sum with a bias that follows a layer, if one does; the node itself otherwise."""
    if node.op not in LAYERS:
        return node
    users = view.users(node.output)
    if len(users) != 1 or view.is_output(node.output) or users[0].op != "add":
        return node
    (add,) = users
    others = [v for v in view.inputs(add) if v is not node.output]
    fits = add.output.shape == node.output.shape and len(others) == 1
    if not fits or sum(n != 1 for n in others[0].shape) > 1:
        bias = None if not fits else view.producer(others[0])
        if bias is None or bias.op != "broadcast_in_dim":
            return node
        others = [view.inputs(bias)[0]]
    return add if is_parameter_like(view, others[0]) else node


def _name(node: Node) -> str:
    return f"{node!r} ({node.source or 'no source line'})"
