"""Changing a graph by hand, the bodies of its nodes included."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from jaxpress.capture import compat
from jaxpress.capture.edit import Editor
from jaxpress.capture.errors import GraphError
from jaxpress.capture.graph import Graph, Literal, Node, Value

__all__ = ["NestedEditor"]

# Derivatives of these come from a rule of their own, which a change of the body would not reach.
_RULED = compat.CUSTOM_JVP_NAMES | compat.CUSTOM_VJP_NAMES


class NestedEditor(Editor):
    """What ``graph.edit()`` gives: an editor that also changes what is inside of bodies.

    Nodes and values of a body, as ``graph.find`` lists them, are changed in that body. A body that
    several nodes share stays shared: a change holds wherever it is used. The body of a function
    with a derivative rule cannot be changed, since the rule would not follow.

    >>> import jax, jax.numpy as jnp
    >>> from jaxpress.capture import trace
    >>> graph = trace(lambda xs: jax.lax.scan(lambda c, x: (c + jnp.sin(x), None), 0.0, xs)[0])(
    ...     jnp.zeros(3)
    ... )
    >>> with graph.edit() as editor:
    ...     for node in graph.find("sin"):
    ...         _ = editor.replace(node, jnp.cos)
    >>> float(editor.graph(jnp.zeros(3)))
    3.0
    """

    def __init__(self, graph: Graph):
        super().__init__(graph)
        self._inner: dict[Graph, Editor] = {}
        self._homes: dict[Node | Value, tuple[Graph, bool]] | None = None

    def replace(self, node: Node, fn: Callable[..., Any]) -> list[Value]:
        editor = self._editor_of(node, "replace")
        return super().replace(node, fn) if editor is self else editor.replace(node, fn)

    def remove(self, node: Node) -> None:
        editor = self._editor_of(node, "remove")
        super().remove(node) if editor is self else editor.remove(node)

    def insert_after(self, value: Value, fn: Callable[..., Any]) -> Value:
        editor = self._editor_of(value, "insert_after")
        return super().insert_after(value, fn) if editor is self else editor.insert_after(value, fn)

    def tap(self, value: Value, callback: Callable[[Any], Any]) -> None:
        editor = self._editor_of(value, "tap")
        super().tap(value, callback) if editor is self else editor.tap(value, callback)

    def replace_value(self, old: Value, new: Value) -> None:
        _check_value(old, "replace_value")
        _check_value(new, "replace_value")
        if (old.shape, old.dtype) != (new.shape, new.dtype):
            raise GraphError(
                f"replace_value: {old!r} would become {new!r}; the new value must have the same "
                "shape and dtype"
            )
        if not self._is_here(old) or not (self._is_here(new) or isinstance(new, Literal)):
            raise GraphError(
                f"replace_value: {old!r} and {new!r} must both be values of the graph "
                f"{self.graph.name!r} itself"
            )
        super().replace_value(old, new)

    def add_output(self, value: Value, name: str) -> None:
        """Return ``value`` as well: the result becomes ``(result, {name: array, ...})``.

        Raises:
          GraphError: the value is inside of a body, or unknown; or the name is taken.
        """
        _check_value(value, "add_output")
        if name in self._extra_outputs:
            raise GraphError(f"add_output: there is an output {name!r} already")
        if not self._is_here(value):
            raise GraphError(
                f"add_output: {value!r} is not a value of the graph {self.graph.name!r} itself; "
                "look at a value inside of a body with tap"
            )
        super().add_output(value, name)

    def finish(self) -> Graph:
        if self._inner:
            memo: dict[Graph, Graph] = {}
            for node in list(self.nodes()):
                changed = self._with_new_bodies(node, memo)
                if changed is not node:
                    self.exchange(node, changed.with_inputs(self.inputs(node)))
        return super().finish()

    def _with_new_bodies(self, node: Node, memo: dict[Graph, Graph]) -> Node:
        old = node.subgraphs
        new = tuple([self._new_body(body, memo) for body in old])
        if all(a is b for a, b in zip(old, new, strict=True)):
            return node
        changed = node.with_subgraphs(new)
        inside = {e for body in new for inner in body.nodes for e in inner.effects}
        own = {e for e in inside if not compat.is_of_an_operand(e)}
        changed.effects = frozenset({*node.effects, *own})
        return changed

    def _new_body(self, body: Graph, memo: dict[Graph, Graph]) -> Graph:
        if body not in memo:
            editor = self._inner.get(body)
            new = editor.finish() if editor is not None else body
            nodes = tuple([self._with_new_bodies(node, memo) for node in new.nodes])
            if any(a is not b for a, b in zip(nodes, new.nodes, strict=True)):
                new = new.with_parts(nodes=nodes)
            memo[body] = new
        return memo[body]

    def _where_else(self, what: Node | Value) -> str:
        prologue = self.graph.prologue
        made = prologue.nodes if prologue is not None else ()
        if what in made or any(what in node.outputs for node in made):
            return (
                "is in the graph's prologue, which makes weights ready; change what comes of it, "
                "one of graph.prepared"
            )
        return f"is not in the graph {self.graph.name!r}, or not any more"

    def _is_here(self, what: Node | Value) -> bool:
        if isinstance(what, Node):
            return what in self
        return self.producer(what) is not None or what in self._outside_values()

    def _outside_values(self) -> set[Value]:
        return {*self.graph.inputs, *self.graph.prepared, *self._constants}

    def _editor_of(self, what: Node | Value, action: str) -> Editor:
        if action in ("replace", "remove"):
            if not isinstance(what, Node):
                raise GraphError(f"{action} takes a node, such as one of graph.nodes; got {what!r}")
        else:
            _check_value(what, action)
        if isinstance(what, Literal):
            raise GraphError(f"{action}: {what!r} is written into the program; replace its user")
        if self._is_here(what):
            return self
        if self._homes is None:
            self._homes = {}
            _note_homes(self.graph, False, self._homes)
        home, ruled = self._homes.get(what, (None, False))
        if home is None:
            for editor in self._inner.values():  # made in a body by an earlier change
                if what in editor if isinstance(what, Node) else editor.producer(what) is not None:
                    return editor
            raise GraphError(f"{action}: {what!r} {self._where_else(what)}")
        if ruled and action != "tap":
            raise GraphError(
                f"{action}: {what!r} is inside of a function with a derivative rule, which would "
                "not follow; change the node that calls the function"
            )
        return self._inner.setdefault(home, Editor(home))


def _check_value(value: Any, action: str) -> None:
    if not isinstance(value, Value):
        raise GraphError(
            f"{action} takes a value, such as node.output or one of graph.inputs; got {value!r}"
        )


def _note_homes(graph: Graph, ruled: bool, homes: dict[Node | Value, tuple[Graph, bool]]) -> None:
    for node in graph.nodes:
        for body in node.subgraphs:
            inside = ruled or node.op in _RULED
            first = (*body.nodes, *body.inputs, *body.constants)[:1]
            if first and first[0] in homes and homes[first[0]][1] >= inside:
                continue  # a shared body that was seen already
            for inner in body.nodes:
                homes[inner] = (body, inside)
                for v in inner.outputs:
                    homes[v] = (body, inside)
            for v in (*body.inputs, *body.constants):
                homes[v] = (body, inside)
            _note_homes(body, inside, homes)
