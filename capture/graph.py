"""The graph: what a captured function looks like to people and to passes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxpress.capture import compat
from jaxpress.capture.avals import short_aval, short_dtype
from jaxpress.capture.fixed import Fixed
from jaxpress.capture.provenance import Source, find_source

if TYPE_CHECKING:
    from jaxpress.capture.cost import GraphCost
    from jaxpress.capture.nested import NestedEditor
    from jaxpress.capture.network import Network
    from jaxpress.capture.signature import Signature

__all__ = ["Graph", "Literal", "Node", "Value", "short_aval", "short_dtype"]


class Value(Fixed):
    """An edge of a graph: an array that one node makes and others use.

    Values are compared by identity. Who makes and who uses one is asked of the graph
    (``graph.producer(v)``, ``graph.users(v)``), so that versions of a graph share their values.

    Attributes:
      name: unique within its graph; an argument's own name where it has one.
      aval: the abstract value (shape, dtype, weak type, sharding).
      shape: the array's shape; empty for a scalar, a token or a reference without one.
      dtype: the array's dtype; ``None`` for a value that has none, such as a token.
    """

    __slots__ = ("__weakref__", "aval", "dtype", "name", "shape")

    def __init__(self, name: str, aval: Any):
        self.name = name
        self.aval = aval
        self.shape: tuple[Any, ...] = tuple(getattr(aval, "shape", ()))
        self.dtype: Any = getattr(aval, "dtype", None)

    @property
    def ndim(self) -> int:
        """How many axes the array has."""
        return len(self.shape)

    def __repr__(self) -> str:
        return f"{self.name}:{short_aval(self.aval)}"


class Literal(Value):
    """A scalar written into the program, such as the ``2.0`` of ``x * 2.0``.

    Attributes:
      val: the scalar itself.
    """

    __slots__ = ("val",)

    def __init__(self, val: Any, aval: Any):
        super().__init__(str(np.asarray(val)), aval)
        self.val = val


class Node(Fixed):
    """One equation: an operation with its operands, results and parameters. Immutable.

    Attributes:
      primitive: the JAX primitive that computes it.
      op: the operation's name: the primitive's, so ``"conv"`` for a named op.
      inputs: the operands.
      outputs: the results; every one is a Value of its own, used or not.
      params: the primitive's parameters, bodies included as JAX gave them.
      effects: JAX's effects, such as printing or writing to a reference.
      ctx: the JAX context it was traced under (mesh, compute type, ...).
      source_info: JAX's own record of where it comes from.
      origin: the nodes of an earlier graph that it was made from; empty for a captured node.
    """

    __slots__ = (
        "__weakref__",
        "_bodies",
        "ctx",
        "effects",
        "inputs",
        "op",
        "origin",
        "outputs",
        "params",
        "primitive",
        "source_info",
    )

    def __init__(
        self,
        primitive: Any,
        inputs: tuple[Value, ...],
        outputs: tuple[Value, ...],
        params: dict[str, Any],
        *,
        effects: Any = frozenset(),
        ctx: Any,
        source_info: Any,
        origin: tuple[Node, ...] = (),
        bodies: Bodies | None = None,
    ):
        self.primitive = primitive
        self.op: str = primitive.name
        self.inputs = inputs
        self.outputs = outputs
        self.params = params
        self.effects = effects
        self.ctx = ctx
        self.source_info = source_info
        self.origin = origin
        self._bodies = bodies

    @property
    def output(self) -> Value:
        """The first result, for the many operations that have just one."""
        return self.outputs[0]

    @property
    def scope(self) -> str:
        """The name stack it was traced under, for instance ``"ResNet/Conv_0"``."""
        return str(self.source_info.name_stack)

    @property
    def source(self) -> Source | None:
        """The user's file, line and function; libraries' own files are looked past."""
        return find_source(self.source_info)

    @property
    def subgraphs(self) -> tuple[Graph, ...]:
        """The bodies of a ``scan``, ``cond``, ``jit``, ... as graphs; empty for most nodes."""
        return self._bodies.graphs(self.params) if self._bodies is not None else ()

    @property
    def bodies_changed(self) -> bool:
        """Whether the bodies were rewritten, so that the parameters must be built anew."""
        return self._bodies is not None and self._bodies.changed

    def with_inputs(self, inputs: tuple[Value, ...]) -> Node:
        """The same operation on other operands; results and provenance stay."""
        return Node(
            self.primitive,
            inputs,
            self.outputs,
            self.params,
            effects=self.effects,
            ctx=self.ctx,
            source_info=self.source_info,
            origin=self.origin,
            bodies=self._bodies,
        )

    def with_subgraphs(self, graphs: Sequence[Graph]) -> Node:
        """The same operation with rewritten bodies, in the order of ``subgraphs``."""
        return Node(
            self.primitive,
            self.inputs,
            self.outputs,
            self.params,
            effects=self.effects,
            ctx=self.ctx,
            source_info=self.source_info,
            origin=self.origin or (self,),
            bodies=Bodies(tuple(graphs)),
        )

    def __repr__(self) -> str:
        outs = ", ".join(map(repr, self.outputs))
        return f"<{outs} = {self.op}({', '.join(v.name for v in self.inputs)})>"


class Bodies:
    """The bodies of one node: captured on first use, or given by a pass."""

    __slots__ = ("_graphs", "_memo", "changed")

    def __init__(self, graphs: tuple[Graph, ...] | None = None, memo: dict | None = None):
        self._graphs = graphs
        self._memo = memo
        self.changed = graphs is not None

    def graphs(self, params: dict[str, Any]) -> tuple[Graph, ...]:
        if self._graphs is None:
            from jaxpress.capture.from_jaxpr import graph_of_body

            self._graphs = tuple(
                graph_of_body(body, where, self._memo)
                for where, body in compat.bodies_in_params(params)
            )
        return self._graphs


class Graph(Fixed):
    """One function body: inputs, nodes in topological order, outputs, constants. Immutable.

    A pass or ``graph.edit()`` gives a new graph; versions share nodes and values.

    Attributes:
      name: the function's name, or the body's place in its node (``"branches[1]"``).
      inputs: the arguments, flattened.
      nodes: the equations, in an order in which they may run.
      outputs: the results, flattened.
      constants: the closed-over arrays.
      signature: how to get from a function's pytrees to ``inputs`` and from ``outputs`` back;
        ``None`` for a body.
      weight_inputs: the inputs that were declared to be weights: known before the data.
      prologue: what depends on weights alone, as a graph of its own: its inputs and constants
        are this graph's, its outputs are values that this graph's nodes use. It runs before the
        nodes, once per set of weights. ``None`` where there is nothing of the kind.
    """

    __slots__ = (
        "__weakref__",
        "_constant_values",
        "_lowered",
        "_producers",
        "_users",
        "constants",
        "inputs",
        "name",
        "next_id",
        "nodes",
        "outputs",
        "prologue",
        "signature",
        "weight_inputs",
    )

    def __init__(
        self,
        name: str,
        inputs: Sequence[Value],
        nodes: Sequence[Node],
        outputs: Sequence[Value],
        constants: Mapping[Value, Any] | None = None,
        *,
        signature: Signature | None = None,
        weight_inputs: frozenset[Value] = frozenset(),
        prologue: Graph | None = None,
        next_id: int = 0,
    ):
        self.name = name
        self.inputs = tuple(inputs)
        self.nodes = tuple(nodes)
        self.outputs = tuple(outputs)
        self._constant_values = dict(constants or {})
        self.constants = tuple(self._constant_values)
        self.signature = signature
        self.weight_inputs = weight_inputs
        self.prologue = prologue
        self.next_id = next_id
        self._producers: dict[Value, Node] | None = None
        self._users: dict[Value, tuple[Node, ...]] | None = None
        self._lowered: dict[Any, Any] = {}

    def with_parts(self, **parts: Any) -> Graph:
        """A copy with some parts exchanged: any of the constructor's arguments."""
        given = {
            "name": self.name,
            "inputs": self.inputs,
            "nodes": self.nodes,
            "outputs": self.outputs,
            "constants": self._constant_values,
            "signature": self.signature,
            "weight_inputs": self.weight_inputs,
            "prologue": self.prologue,
            "next_id": self.next_id,
        }
        return Graph(**{**given, **parts})

    @property
    def prepared(self) -> tuple[Value, ...]:
        """The values that the prologue hands to the nodes; empty without a prologue."""
        return self.prologue.outputs if self.prologue is not None else ()

    # Questions about edges.

    @property
    def constant_values(self) -> Mapping[Value, Any]:
        """Each constant with its array."""
        return MappingProxyType(self._constant_values)

    def constant_value(self, value: Value) -> Any:
        """The array behind one of ``constants``; KeyError for any other value."""
        return self._constant_values[value]

    def producer(self, value: Value) -> Node | None:
        """The node that makes ``value``; ``None`` for an input, a constant or a literal."""
        if self._producers is None:
            self._producers = {v: node for node in self.nodes for v in node.outputs}
        return self._producers.get(value)

    def users(self, value: Value) -> tuple[Node, ...]:
        """The nodes that take ``value`` as an operand, each once, in the graph's order.

        That a value is an output of the graph is another kind of use: see ``graph.outputs``.
        """
        if self._users is None:
            users: dict[Value, list[Node]] = {}
            for node in self.nodes:
                for v in dict.fromkeys(node.inputs):
                    users.setdefault(v, []).append(node)
            self._users = {v: tuple(nodes) for v, nodes in users.items()}
        return self._users.get(value, ())

    # Questions about the whole.

    def walk(self) -> Iterator[Node]:
        """Every node, those of subgraphs included; a body that is shared is seen at each use."""
        for node in self.nodes:
            yield node
            for body in node.subgraphs:
                yield from body.walk()

    def find(self, what: str | Callable[[Node], Any]) -> list[Node]:
        """The nodes with the op name ``what``, or for which ``what(node)`` is true.

        Subgraphs are searched too; a node of a body that is shared is listed for each use.
        """
        return self._find((lambda node: node.op == what) if isinstance(what, str) else what, {})

    def _find(self, match: Callable[[Node], Any], memo: dict[int, list[Node]]) -> list[Node]:
        # A body that is shared by many nodes is searched once, and what is in it listed for each.
        if id(self) not in memo:
            found = memo[id(self)] = []
            for node in self.nodes:
                if match(node):
                    found.append(node)
                for body in node.subgraphs:
                    found.extend(body._find(match, memo))
        return memo[id(self)]

    def count(self) -> Counter[str]:
        """How often each op occurs, subgraphs included."""
        return Counter(self._count(memo={}))

    def _count(self, memo: dict[int, Counter[str]]) -> Counter[str]:
        # A body that is shared by many nodes is counted once and then added up.
        if id(self) not in memo:
            total = Counter(node.op for node in self.nodes)
            for node in self.nodes:
                for body in node.subgraphs:
                    total.update(body._count(memo))
            memo[id(self)] = total
        return memo[id(self)]

    def __len__(self) -> int:
        return len(self.nodes)

    # Running, lowering, showing, editing.

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the graph on the function's own pytrees; works under any JAX transformation.

        Raises:
          ArgumentError: the arguments do not fit those that the graph was traced with.
        """
        from jaxpress.capture.evaluate import call_graph

        return call_graph(self, args, kwargs)

    def to_jaxpr(self) -> Any:
        """The graph as a ``jax.extend.core.ClosedJaxpr``."""
        from jaxpress.capture.evaluate import graph_to_jaxpr

        return graph_to_jaxpr(self)

    def to_networkx(self, *, plain: bool = False) -> Network:
        """The graph as a ``networkx.MultiDiGraph``: nodes, inputs and constants, edges with shapes.

        ``jaxpress.capture.to_networkx`` tells its attributes; ``plain`` makes all of them text or
        numbers, as GraphML needs.
        """
        from jaxpress.capture.to_networkx import to_networkx

        return to_networkx(self, plain=plain)

    def cost(self) -> GraphCost:
        """FLOPs, bytes moved, parameter and peak live bytes, per node and in total."""
        from jaxpress.capture.cost import graph_cost

        return graph_cost(self)

    def edit(self) -> NestedEditor:
        """A context manager for changes by hand, at any depth.

        See ``jaxpress.capture.edit.Editor`` for what it can do, and ``NestedEditor`` for bodies.

        >>> import jax.numpy as jnp
        >>> from jaxpress.capture import trace
        >>> graph = trace(lambda x: jnp.sin(x) * 2)(1.0)
        >>> with graph.edit() as editor:
        ...     for node in graph.find("sin"):
        ...         _ = editor.replace(node, jnp.cos)
        >>> float(editor.graph(0.0))
        2.0
        """
        from jaxpress.capture.nested import NestedEditor

        return NestedEditor(self)

    def validate(self) -> Graph:
        """Check the structure and return the graph itself.

        Raises:
          GraphError: a value is used before it is made, made twice, or unknown.
        """
        from jaxpress.capture.validate import validate

        validate(self)
        return self

    def text(self, max_nodes: int | None = None) -> str:
        """The graph as text, one line a node; all of them unless ``max_nodes`` is given."""
        from jaxpress.capture.text import graph_text

        return graph_text(self, max_nodes)

    def summary(self) -> str:
        """A short table: inputs, outputs, op counts, parameters and FLOPs."""
        from jaxpress.capture.text import graph_summary

        return graph_summary(self)

    def __str__(self) -> str:
        return self.text(max_nodes=48)

    def __repr__(self) -> str:
        ins = ", ".join(map(repr, self.inputs[:4])) + (", ..." if len(self.inputs) > 4 else "")
        return f"<Graph {self.name}({ins}): {len(self.nodes)} nodes>"
