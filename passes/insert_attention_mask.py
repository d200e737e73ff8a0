"""Masks on attention: causal, sliding window, key padding, packed sequences, or any other."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxpress import nnops
from jaxpress.capture import Graph, Node, PassError, Value, compat
from jaxpress.capture.edit import Editor
from jaxpress.passes.derivatives import (
    before_differentiating,
    has_derivatives,
    refuse_differentiated,
)
from jaxpress.passes.known import LOOPS_AND_BRANCHES
from jaxpress.passes.more_inputs import with_more_inputs
from jaxpress.passes.new_arguments import add_arguments
from jaxpress.passes.opened import parts_hint
from jaxpress.passes.pipeline import Pass
from jaxpress.passes.record import Rewrite
from jaxpress.passes.rules.weights import operands_of, rebind
from jaxpress.passes.weight_masks import raised
from jaxpress.passes.weight_sites import Where, chooser

__all__ = ["insert_attention_mask"]

NAME = "insert_attention_mask"
OP = "dot_product_attention"
ARGUMENTS = {"key_padding": "lengths", "segments": "segment_ids"}
KINDS = ("causal", "sliding_window", *ARGUMENTS)
# Where a body may change without the operation being given more operands.
_CALLS = LOOPS_AND_BRANCHES | compat.JIT_NAMES | compat.CALL_NAMES

Operands = dict[str, Any]


def insert_attention_mask(
    mask: Any,
    where: Where = None,
    *,
    window: Any = None,
    argument: str | None = None,
) -> Pass:
    """A pass that masks attention, in addition to whatever is masked already.

    The function is raised to named ops first, so attention that is written out is masked too.
    Give it the loss, and differentiate what comes out.

    Args:
      mask: one of

        - ``"causal"``: query i sees keys 0 to i;
        - ``"sliding_window"``: query i sees keys i - left to i + right, see ``window``;
        - ``"key_padding"``: keys from each sequence's length on are not seen; the lengths are a
          new argument, integers of the batch's shape;
        - ``"segments"``: several sequences to a row see themselves alone; their ids are a new
          argument, integers (batch, T), such as ``nnops.pack_sequences`` makes them;
        - a boolean array (T, S) or (batch, N, T, S), each dimension that or 1: True takes part.
      where: which attention: None for all of it; a pattern for scopes, such as ``"*/decoder/*"``;
        a predicate of the node; or several of these, of which any will do.
      window: ``(left, right)``, or one number for both.
      argument: the new argument's name; ``"lengths"`` or ``"segment_ids"`` if left out.

    Returns:
      The pass. What it makes takes the new argument by name: ``graph(x, lengths=n)``, and so does
      what ``optimize`` makes. It raises a PassError where no attention is chosen, where shapes do
      not fit, or where an attention cannot be reached, or is differentiated already.

    Raises:
      PassError: the mask is unknown, or the options do not fit it.

    >>> import jax, jax.numpy as jnp
    >>> import jaxpress as jp
    >>> attend = lambda x: jax.nn.dot_product_attention(x, x, x)
    >>> causal = jp.optimize(attend, [insert_attention_mask("causal"), "default"])
    >>> x = jnp.arange(3.0).reshape(3, 1, 1)
    >>> causal(x)[0].item()
    0.0
    >>> padded = jp.optimize(attend, [insert_attention_mask("key_padding"), "default"])
    >>> padded(x, lengths=jnp.int32(1)).ravel().tolist()
    [0.0, 0.0, 0.0]
    """
    kind = mask if isinstance(mask, str) else "array"
    if isinstance(mask, str) and mask not in KINDS:
        raise PassError(f"{NAME}: there is no mask {mask!r}; give one of {KINDS}, or an array")
    if (window is None) == (kind == "sliding_window"):
        raise PassError(f"{NAME}: window=(left, right) goes with 'sliding_window', and only there")
    if argument is not None and kind not in ARGUMENTS:
        raise PassError(f"{NAME}: argument goes with {tuple(ARGUMENTS)}, whose masks are arguments")
    if window is not None:
        window = tuple(window) if isinstance(window, tuple | list) else (window, window)
        if len(window) != 2 or not all(w is None or isinstance(w, int) for w in window):
            raise PassError(f"{NAME}: window is {window!r}; give (left, right), whole numbers")
    if kind == "array":
        mask = _as_mask(mask)
    name = argument or ARGUMENTS.get(kind)
    chosen = chooser(where)

    def work(graph: Graph, record: list[Rewrite] | None = None) -> Graph:
        graph = raised(graph)
        all_sites = graph.find(OP)
        sites = [node for node in all_sites if chosen(node, "")]
        if not sites:
            scopes = sorted({node.scope for node in all_sites})
            known = f"there is some in {scopes}" if scopes else "there is none"
            if not scopes and has_derivatives(graph):
                known += f"; of what is differentiated already, {before_differentiating(NAME)}"
            known += parts_hint(graph, (OP,))
            raise PassError(f"{NAME}: no attention is chosen by {where!r}; {known}")
        refuse_differentiated(graph, set(sites).__contains__, NAME)
        given: Value | None = None
        if name is not None:
            shape = _shape_of_argument(kind, sites)
            aval = jax.ShapeDtypeStruct(shape, jnp.int32)
            graph, new = add_arguments(graph, {name: aval})
            given = new[name]
        elif kind == "array":
            editor = Editor(graph)
            given = editor.add_constant(mask)
            graph = editor.finish()
        inserter = _Inserter(
            {id(node) for node in sites},
            given,
            _change(kind, window),
            [] if record is None else record,
        )
        return inserter.run(graph)

    return Pass(
        NAME,
        work,
        "Attention is masked.",
        new_arguments=() if name is None else (name,),
    )


def _as_mask(mask: Any) -> Any:
    try:
        array = np.asarray(mask)
    except Exception as error:  # a tracer: JAX's own classes of errors, by version
        raise PassError(f"{NAME}: {mask!r} has no values yet; give a concrete array") from error
    if array.dtype != np.bool_ or array.ndim < 2:
        raise PassError(
            f"{NAME}: the mask is {array.dtype}{array.shape}; give booleans (T, S), or (batch, N, "
            "T, S) with dimensions of 1"
        )
    return jnp.asarray(array)


def _shape_of_argument(kind: str, sites: list[Node]) -> tuple[Any, ...]:
    """The shape that lengths or ids have; the same for all attention that is chosen."""
    shapes = {}
    for node in sites:
        if "mapped" in node.params:
            raise PassError(
                f"{NAME}: {_name(node)} is mapped over some of its operands, and takes no further "
                "ones; leave it out with where="
            )
        query, key = (v.shape for v in node.inputs[:2])
        if kind == "segments" and query[-3] != key[-3]:
            raise PassError(
                f"{NAME}: {_name(node)} has {query[-3]} queries and {key[-3]} keys; segments are "
                "of self-attention, so leave it out with where="
            )
        shape = key[:-3] if kind == "key_padding" else key[:-2]
        # Keys of another number are another sequence, with lengths of its own.
        shapes.setdefault((shape, key[-3]), node)
    if len(shapes) > 1:
        found = ", ".join(f"{_name(n)} with {s[0]} of {s[1]} keys" for s, n in shapes.items())
        raise PassError(f"{NAME}: one argument cannot serve {found}; choose with where=")
    return next(iter(shapes))[0]


def _name(node: Node) -> str:
    return f"{node!r} ({node.source or 'no source line'})"


def _change(kind: str, window: Any) -> Callable[..., dict[str, Any]]:
    """``change(node, operands, given)``: changes the operands in place, gives new parameters."""
    match kind:
        case "causal":
            return lambda node, operands, given: {"is_causal": True}
        case "sliding_window":
            return lambda node, operands, given: {
                "local_window_size": _narrower(node.params["local_window_size"], window)
            }
        case "key_padding":
            return _shorten
        case _:
            return _mask_more if kind == "array" else _mask_segments


def _narrower(first: Any, second: Any) -> tuple[Any, Any]:
    """Where both windows let through."""
    pairs = zip(first or (None, None), second, strict=True)
    left, right = (min((w for w in pair if w is not None), default=None) for pair in pairs)
    return left, right


def _shorten(node: Node, operands: Operands, given: Any) -> dict[str, Any]:
    before = operands.get("key_value_seq_lengths")
    operands["key_value_seq_lengths"] = given if before is None else jnp.minimum(before, given)
    return {}


def _mask_segments(node: Node, operands: Operands, given: Any) -> dict[str, Any]:
    return _mask_more(node, operands, nnops.segment_mask(given))


def _mask_more(node: Node, operands: Operands, given: Any) -> dict[str, Any]:
    before, rank = operands.get("mask"), operands["query"].ndim
    if given.ndim == 2 or given.ndim == rank - 1:
        given = given.reshape((1,) * (rank - given.ndim) + given.shape)
    operands["mask"] = given if before is None else nnops.combine_masks(before, given)
    return {}


class _Inserter:
    """Masks the chosen nodes of a graph and its bodies.

    Args:
      sites: identities of the chosen nodes.
      given: the value that masks are made from, if there is one, of the whole graph.
      change: what is done to a node's operands and parameters.
      record: a list to which each rewrite is added.
    """

    def __init__(
        self,
        sites: set[int],
        given: Value | None,
        change: Callable[..., dict[str, Any]],
        record: list[Rewrite],
    ):
        self._sites = sites
        self._given = given
        self._change = change
        self._record = record
        # Bodies that several nodes share stay shared: each with what stands in it for ``given``.
        self._done: dict[int, tuple[Graph, Graph, Value | None]] = {}

    def run(self, graph: Graph) -> Graph:
        """The graph with its masks."""
        return self._insert(graph, self._given)

    def _insert(self, graph: Graph, given: Value | None) -> Graph:
        editor, changed = Editor(graph), False
        for node in list(editor.nodes()):
            if id(node) in self._sites:
                self._mask(editor, node, given)
                changed = True
            elif node.subgraphs and self._enter(editor, node, given):
                changed = True
        return editor.finish() if changed else graph

    def _enter(self, editor: Editor, node: Node, given: Value | None) -> bool:
        """Whether a body of ``node`` has changed."""
        results = [self._of_body(body) for body in node.subgraphs]
        bodies = [new for new, _ in results]
        if all(a is b for a, b in zip(bodies, node.subgraphs, strict=True)):
            return False
        handed = [
            [] if placeholder is None or given is None or new is old else [(placeholder, given)]
            for old, (new, placeholder) in zip(node.subgraphs, results, strict=True)
        ]
        reachable = node.op in (LOOPS_AND_BRANCHES if any(handed) else _CALLS)
        if not reachable or (any(handed) and node.op == "scan" and node.effects):
            raise PassError(
                f"{NAME}: attention inside of {_name(node)} cannot be masked: a {node.op} with "
                "effects or a derivative rule of its own takes no mask; leave it out with where="
            )
        if any(handed):
            with_more_inputs(editor, node, bodies, handed)
        else:
            changed = node.with_subgraphs(bodies).with_inputs(editor.inputs(node))
            editor.exchange(node, changed)
        return True

    def _of_body(self, body: Graph) -> tuple[Graph, Value | None]:
        found = self._done.get(id(body))
        if found is None:
            given = self._given
            placeholder = None if given is None else Value(f"{given.name}'", given.aval)
            new = self._insert(body, placeholder)
            # The old body is kept beside, so that its identity is not given to another.
            found = self._done[id(body)] = (new, body, placeholder)
        return found[0], found[2]

    def _mask(self, editor: Editor, node: Node, given: Value | None) -> None:
        operands = operands_of(editor, node)
        names = list(operands)

        def masked(*arrays: Any) -> Any:
            rest = list(arrays)
            extra = rest.pop() if given is not None else None
            named = dict(zip(names, rest, strict=True))
            changes = self._change(node, named, extra)
            return rebind(node, named, **changes)

        values = [*operands.values(), *([] if given is None else [given])]
        try:
            outs, nodes = editor.emit_nodes(masked, values, at=node, cache=False)
        except nnops.OpError as error:
            raise PassError(f"{NAME}: {_name(node)} cannot take the mask: {error}") from error
        editor.substitute(node, outs)
        self._record.append(Rewrite(NAME, NAME, "approximate", (node,), tuple(nodes)))
