"""Changing a graph: by hand with ``graph.edit()``, and underneath every pass.

An :class:`Editor` holds a graph's nodes in a linked list with their uses, so that an insertion,
a replacement or a removal costs what it touches and nothing more. The graph that it started from
stays as it was.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax

from jaxpress.capture.errors import GraphError
from jaxpress.capture.graph import Graph, Literal, Node, Value
from jaxpress.capture.names import Names
from jaxpress.capture.order import Order
from jaxpress.capture.template import Template, template_of

__all__ = ["Editor"]


class Editor:
    """A graph under change.

    Attributes:
      graph: the graph it started from; after ``finish()``, or at the end of the ``with`` block,
        the new one. An exception in the block leaves it as it was.
    """

    def __init__(self, graph: Graph):
        self.graph = graph
        self._inputs = list(graph.inputs)
        self._outputs = list(graph.outputs)
        self._output_places: dict[Value, list[int]] = {}
        for i, v in enumerate(graph.outputs):
            self._output_places.setdefault(v, []).append(i)
        self._constants = dict(graph.constant_values)
        self._extra_outputs: dict[str, Value] = {}
        self._names = Names((v.name for v in (*graph.inputs, *graph.constants)), graph.next_id)
        self._next: dict[Node | None, Node | None] = {}
        self._prev: dict[Node | None, Node | None] = {}
        # Removed nodes and what followed them: an iteration may stand at one.
        self._gone: dict[Node | None, Node | None] = {}
        self._rewired: dict[Node, tuple[Value, ...]] = {}
        self._producer: dict[Value, Node] = {}
        self._users: dict[Value, dict[Node, None]] = {}
        self._known: set[Value] = {*graph.constants, *graph.weight_inputs, *graph.prepared}
        last: Node | None = None
        for node in graph.nodes:
            self._next[last] = node
            self._prev[node] = last
            last = node
            self._register(node)
        self._next[last] = None
        self._prev[None] = last
        self._order: Order | None = None

    # Context manager.

    def __enter__(self) -> Editor:
        return self

    def __exit__(self, kind: Any, error: Any, traceback: Any) -> None:
        if kind is None:
            self.finish().validate()

    # Questions, as of now.

    def __contains__(self, node: Node) -> bool:
        return node in self._prev

    def nodes(self) -> Iterator[Node]:
        """The nodes in order, those included that are inserted after the current one."""
        node = self._next[None]
        while node is not None:
            yield node
            if node in self:
                node = self._next[node]
            else:
                while node in self._gone:
                    node = self._gone[node]

    def inputs(self, node: Node) -> tuple[Value, ...]:
        """The operands of ``node``."""
        return self._rewired.get(node) or node.inputs

    def producer(self, value: Value) -> Node | None:
        """The node that makes ``value``, if one does."""
        return self._producer.get(value)

    def users(self, value: Value) -> tuple[Node, ...]:
        """The nodes that take ``value``, each once."""
        return tuple(self._users.get(value, ()))

    def is_output(self, value: Value) -> bool:
        """Whether the graph returns ``value``."""
        return value in self._output_places or value in self._extra_outputs.values()

    def use_count(self, value: Value) -> int:
        """How many nodes and outputs need ``value``."""
        return len(self._users.get(value, ())) + self.is_output(value)

    def is_known(self, value: Value) -> bool:
        """Whether ``value`` depends on weights and literals alone."""
        return value in self._known or isinstance(value, Literal)

    def constant_value(self, value: Value) -> Any:
        """The array behind a constant; ``None`` for any other value."""
        return self._constants.get(value)

    @property
    def order(self) -> Order:
        """Which node comes before which, as numbers; kept up to date once it is asked for."""
        if self._order is None:
            self._order = Order(self.nodes())
        return self._order

    # Changes.

    def replace(self, node: Node, fn: Callable[..., Any]) -> list[Value]:
        """Compute ``node``'s results by ``fn(*operands)`` instead.

        Args:
          node: the node to be replaced.
          fn: an ordinary JAX function of the operands that returns an array, or a tuple of them,
            of the same shapes and dtypes as the node's results.

        Returns:
          The new values.

        Raises:
          GraphError: the node is not in the graph, or the types differ.
        """
        self._check(node)
        new = self.emit(fn, self.inputs(node), at=node)
        self.substitute(node, new)
        return new

    def insert_after(self, value: Value, fn: Callable[..., Any]) -> Value:
        """Let everything that uses ``value`` use ``fn(value)``; returns that new value.

        Raises:
          GraphError: ``fn`` does not return one array of the same shape and dtype.
        """
        users, was_output = self.users(value), self.is_output(value)
        producer = self.producer(value)
        anchor = self._next[producer] if producer is not None else self._next[None]
        results = self.emit(fn, (value,), before=anchor, like=producer or anchor)
        if [(v.shape, v.dtype) for v in results] != [(value.shape, value.dtype)]:
            raise GraphError(
                f"insert_after: {value!r} would become {results!r}; what is inserted must give one "
                "array of the same shape and dtype"
            )
        new = results[0]
        for user in users:
            self._rewire(user, value, new)
        if was_output:
            self._replace_output(value, new)
        return new

    def tap(self, value: Value, callback: Callable[[Any], Any]) -> None:
        """Call ``callback(array)`` whenever ``value`` has been computed; nothing else changes."""

        def watch(x: Any) -> Any:
            jax.debug.callback(callback, x)
            return ()

        producer = self.producer(value)
        anchor = self._next[producer] if producer is not None else self._next[None]
        self.emit(watch, (value,), before=anchor, like=producer or anchor, cache=False)

    def add_output(self, value: Value, name: str) -> None:
        """Return ``value`` as well: the result becomes ``(result, {name: array, ...})``."""
        if self.graph.signature is None:
            raise GraphError("add_output: a body's outputs are fixed by the node that it is in")
        self._extra_outputs[name] = value

    def add_constant(self, array: Any, name: str | None = None) -> Value:
        """A new constant of the graph."""
        value = Value(name or self._names.fresh("const"), jax.typeof(array))
        self._constants[value] = array
        self._known.add(value)
        return value

    def remove(self, node: Node) -> None:
        """Take out a node whose results nobody uses.

        Raises:
          GraphError: somebody does, or the node has an effect.
        """
        self._check(node)
        for v in node.outputs:
            if self.use_count(v):
                raise GraphError(f"remove: {v!r} is still used; replace its uses first")
        if node.effects:
            raise GraphError(f"remove: {node!r} has effects {node.effects}")
        self._unlink(node)

    def replace_value(self, old: Value, new: Value) -> None:
        """Let every user of ``old``, and the outputs, use ``new``."""
        for user in self.users(old):
            self._rewire(user, old, new)
        self._replace_output(old, new)

    def emit(
        self,
        fn: Callable[..., Any],
        operands: Sequence[Value],
        *,
        at: Node | None = None,
        before: Node | None = None,
        like: Node | None = None,
        key: Any = None,
        origin: tuple[Node, ...] | None = None,
        cache: bool = True,
    ) -> list[Value]:
        """Trace ``fn`` over the operands' avals and insert its equations.

        Args:
          fn: an ordinary JAX function of the operands.
          operands: values that are computed before the place of insertion.
          at: insert before this node and take over its source line and scope.
          before, like: the same two things separately; ``before=None`` means the end.
          key: what ``fn`` depends on besides its operands, hashable: then traces are shared.
          origin: the nodes that the new ones are made from; ``at`` alone if left out.
          cache: whether the trace may be shared at all.

        Returns:
          The values of ``fn``'s flat outputs; an operand that is returned as it is, is itself.
        """
        return self.emit_nodes(
            fn, operands, at=at, before=before, like=like, key=key, origin=origin, cache=cache
        )[0]

    def emit_nodes(
        self,
        fn: Callable[..., Any],
        operands: Sequence[Value],
        *,
        at: Node | None = None,
        before: Node | None = None,
        like: Node | None = None,
        key: Any = None,
        origin: tuple[Node, ...] | None = None,
        cache: bool = True,
        scope: str = "",
    ) -> tuple[list[Value], list[Node]]:
        """As ``emit``, and the new nodes too; they are in ``scope``, inside that of ``like``."""
        if at is not None:
            before, like = at, at
        template = template_of(fn, tuple(v.aval for v in operands), key, cache)
        return self.splice(template, operands, before, like, origin, scope)

    def substitute(self, node: Node, new: Sequence[Value]) -> list[Node]:
        """Use ``new`` for the results of ``node``, and remove it with all that only it needed.

        Raises:
          GraphError: a shape or dtype is another one.
        """
        self.substitute_values(node, node.outputs, new)
        return self.prune(node)

    def substitute_values(self, at: Node, old: Sequence[Value], new: Sequence[Value]) -> None:
        """Use ``new`` for ``old``, which may be results of several nodes; ``at`` names errors.

        Raises:
          GraphError: a shape or dtype is another one.
        """
        self._check_values(at, old, new)
        for a, b in zip(old, new, strict=True):
            self.replace_value(a, b)

    def splice(
        self,
        template: Template,
        operands: Sequence[Value],
        before: Node | None,
        like: Node | None,
        origin: tuple[Node, ...] | None = None,
        scope: str = "",
    ) -> tuple[list[Value], list[Node]]:
        """Insert a traced template's nodes before a node; gives its results and those nodes."""
        place = None if like is None else like.source_info
        if place is not None and scope:
            place = place.replace(name_stack=place.name_stack.extend(scope))
        env: dict[Value, Value] = dict(zip(template.graph.inputs, operands, strict=True))
        for v in template.graph.constants:
            env[v] = self.add_constant(template.graph.constant_value(v))
        if origin is None:
            origin = (like,) if like is not None else ()
        inserted = []
        for node in template.graph.nodes:
            outs = [Value(self._names.fresh(node.op), v.aval) for v in node.outputs]
            env.update(zip(node.outputs, outs, strict=True))
            new_node = Node(
                node.primitive,
                tuple([v if isinstance(v, Literal) else env[v] for v in node.inputs]),
                tuple(outs),
                node.params,
                effects=node.effects,
                ctx=like.ctx if like is not None else node.ctx,
                source_info=node.source_info if place is None else place,
                origin=origin,
                bodies=node._bodies,
            )
            self._link(new_node, before)
            inserted.append(new_node)
        outputs = [v if isinstance(v, Literal) else env[v] for v in template.graph.outputs]
        return outputs, inserted

    def exchange(self, old: Node, new: Node) -> None:
        """Put ``new``, which has the same results, in ``old``'s place."""
        before = self._next[old]
        self._unlink(old)
        self._link(new, before)

    def insert(self, node: Node, before: Node | None) -> None:
        """Insert a ready-made node, whose operands are computed before that place."""
        self._link(node, before)

    def move(self, node: Node, before: Node) -> None:
        """Let ``node`` run earlier, where its operands are known too."""
        rewired = self._rewired.get(node)
        self._unlink(node)
        self._link(node, before)
        if rewired is not None:
            for v in node.inputs:
                self._users.get(v, {}).pop(node, None)
            self._rewired[node] = rewired
            for v in rewired:
                if not isinstance(v, Literal):
                    self._users.setdefault(v, {})[node] = None

    def prune(self, node: Node) -> list[Node]:
        """Remove ``node`` if nothing needs it, then what only it needed; returns the removed."""
        removed: list[Node] = []
        if self._is_needed(node):
            return removed
        stack = [node]
        while stack:
            candidate = stack.pop()
            if candidate not in self or self._is_needed(candidate):
                continue
            makers = [self.producer(v) for v in self.inputs(candidate)]
            self._unlink(candidate)
            removed.append(candidate)
            stack.extend(maker for maker in makers if maker is not None)
        return removed

    def finish(self) -> Graph:
        """The new graph; at the end of a ``with`` block it is checked too."""
        nodes = [
            node.with_inputs(self._rewired[node]) if node in self._rewired else node
            for node in self.nodes()
        ]
        signature = self.graph.signature
        # A dict's leaves come in the order of its sorted keys.
        outputs = [*self._outputs, *(v for _, v in sorted(self._extra_outputs.items()))]
        if self._extra_outputs and signature is not None:
            signature = signature.with_extra_outputs(tuple(self._extra_outputs))
        self.graph = self.graph.with_parts(
            nodes=nodes,
            inputs=self._inputs,
            outputs=outputs,
            constants=self._constants,
            signature=signature,
            next_id=self._names.next_id,
        )
        return self.graph

    # The linked list and the uses.

    def _is_needed(self, node: Node) -> bool:
        """Whether it has effects, or one of its results is used."""
        for v in node.outputs:
            if self._users.get(v) or v in self._output_places:
                return True
        return bool(node.effects) or any(v in self._extra_outputs.values() for v in node.outputs)

    def _replace_output(self, old: Value, new: Value) -> None:
        for i in self._output_places.pop(old, ()):
            self._outputs[i] = new
            self._output_places.setdefault(new, []).append(i)
        for name, v in self._extra_outputs.items():
            if v is old:
                self._extra_outputs[name] = new

    def _register(self, node: Node) -> None:
        known = self._known
        all_known = not node.effects
        for v in node.inputs:
            if isinstance(v, Literal):
                continue
            self._users.setdefault(v, {})[node] = None
            if v not in known:
                all_known = False
        for v in node.outputs:
            self._producer[v] = node
            if all_known:
                known.add(v)

    def _link(self, node: Node, before: Node | None) -> None:
        previous = self._prev[before]
        self._gone.pop(node, None)
        self._next[previous] = node
        self._prev[node] = previous
        self._next[node] = before
        self._prev[before] = node
        if self._order is not None:
            self._order.insert(node, previous, before, self)
        self._register(node)

    def _unlink(self, node: Node) -> None:
        previous, following = self._prev.pop(node), self._next.pop(node)
        self._gone[node] = following
        self._next[previous] = following
        self._prev[following] = previous
        if self._order is not None:
            self._order.remove(node)
        for v in self.inputs(node):
            self._users.get(v, {}).pop(node, None)
        for v in node.outputs:
            if self._producer.get(v) is node:
                del self._producer[v]
        self._rewired.pop(node, None)

    def _rewire(self, node: Node, old: Value, new: Value) -> None:
        self._rewired[node] = tuple([new if v is old else v for v in self.inputs(node)])
        self._users[old].pop(node, None)
        if not isinstance(new, Literal):
            self._users.setdefault(new, {})[node] = None
        # A rewired node may have come to depend on weights alone.
        if not node.effects and all(self.is_known(v) for v in self._rewired[node]):
            self._known.update(node.outputs)

    def _check(self, node: Node) -> None:
        if node not in self:
            raise GraphError(f"{node!r} is not in the graph {self.graph.name!r} any more")

    def _check_values(self, node: Node, old: Sequence[Value], new: Sequence[Value]) -> None:
        old_types = [(v.shape, v.dtype) for v in old]
        new_types = [(v.shape, v.dtype) for v in new]
        if old_types != new_types:
            raise GraphError(
                f"replace: {node!r} ({node.source or 'no source line'}) gives {old_types}, its "
                f"replacement {new_types}; a replacement must keep shapes and dtypes"
            )
