"""A graph as a networkx multigraph, for networkx's own algorithms and for other tools."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from jaxpress.capture.flops import nbytes
from jaxpress.capture.graph import Graph, Literal, Node, Value
from jaxpress.capture.params import param_texts

if TYPE_CHECKING:
    import networkx

__all__ = ["to_networkx"]


def to_networkx(graph: Graph) -> networkx.MultiDiGraph:
    """The graph's inputs, constants, nodes and outputs, joined by its values.

    Ids are strings, and the same for the same trace: an operation goes by the name of its first
    result (``"conv_3"``; one without results by ``"debug_callback:7"``, its place), an input or
    constant by its own name, an output by ``"output:0"``.

    Node attributes:

    - ``kind``: ``"input"``, ``"constant"``, ``"prepared"`` (made by the prologue), ``"op"`` or
      ``"output"``;
    - ``name``: an input's name, an output's path in the result, otherwise the id;
    - ``shapes``, ``dtypes``: of the results, one each; tuples of ints, and names of dtypes;
    - for inputs: ``weight``, whether it was declared to be one;
    - for inputs and constants: ``bytes``;
    - for ops: ``op``, ``scope``, ``source`` (``"model.py:12 (call)"``, or ``""``), ``params`` (a
      dict of short strings) and ``literals`` (operand index to text). An op with bodies has them in
      ``subgraphs``: a dict from ``"jaxpr"``, ``"branches[0]"``, ... to a multigraph like this one;
      a body that several ops share is one object.

    Edges go from maker to user, with the operand's index as key, and carry ``name`` (the value's),
    ``shape``, ``dtype``, ``operand`` (the index again) and ``result`` (which of its maker's results
    it is). The multigraph itself has ``name``, ``inputs`` and ``outputs`` (ids in order), and
    ``prologue``, a multigraph or None.

    >>> import jax.numpy as jnp
    >>> from jaxpress.capture import trace
    >>> g = to_networkx(trace(lambda x: jnp.sin(x) * x)(1.0))
    >>> sorted(g.edges(keys=True))
    [('mul_1', 'output:0', 0), ('sin_0', 'mul_1', 0), ('x', 'mul_1', 1), ('x', 'sin_0', 0)]
    """
    return _convert(graph, {})


def _convert(graph: Graph, memo: dict[Graph, Any]) -> networkx.MultiDiGraph:
    if graph in memo:
        return memo[graph]
    import networkx

    out = memo[graph] = networkx.MultiDiGraph(name=graph.name)
    prologue = graph.prologue
    out.graph["prologue"] = _convert(prologue, memo) if prologue is not None else None
    # Where each value comes from: the id of its maker, and which of the results it is.
    makers: dict[Value, tuple[str, int]] = {}

    def add(wanted: str, values: tuple[Value, ...], **attributes: Any) -> str:
        name = wanted
        while name in out:
            name += "'"
        shapes = tuple(v.shape for v in values)
        dtypes = tuple(_dtype(v) for v in values)
        attributes.setdefault("name", name)
        out.add_node(name, shapes=shapes, dtypes=dtypes, **attributes)
        return name

    def make(wanted: str, values: tuple[Value, ...], **attributes: Any) -> str:
        name = add(wanted, values, **attributes)
        makers.update({v: (name, i) for i, v in enumerate(values)})
        return name

    def join(v: Value, user: str, index: int) -> None:
        maker, result = makers[v]
        out.add_edge(
            maker,
            user,
            key=index,
            name=v.name,
            shape=v.shape,
            dtype=_dtype(v),
            operand=index,
            result=result,
        )

    out.graph["inputs"] = [
        make(v.name, (v,), kind="input", weight=v in graph.weight_inputs, bytes=nbytes(v))
        for v in graph.inputs
    ]
    for v in graph.constants:
        make(v.name, (v,), kind="constant", bytes=nbytes(v))
    for v in graph.prepared:
        if v not in makers:  # an input or constant may be handed through
            make(v.name, (v,), kind="prepared")
    for i, node in enumerate(graph.nodes):
        wanted = node.outputs[0].name if node.outputs else f"{node.op}:{i}"
        name = make(wanted, node.outputs, **_attributes(node, memo))
        for index, v in enumerate(node.inputs):
            if not isinstance(v, Literal):
                join(v, name, index)
    paths = graph.signature.result_paths if graph.signature is not None else ()
    outputs = out.graph["outputs"] = []
    for i, v in enumerate(graph.outputs):
        path = paths[i] if i < len(paths) else f"output:{i}"
        literals = {0: v.name} if isinstance(v, Literal) else {}
        outputs.append(add(f"output:{i}", (v,), kind="output", name=path, literals=literals))
        if not literals:
            join(v, outputs[-1], 0)
    return out


def _attributes(node: Node, memo: dict[Graph, Any]) -> dict[str, Any]:
    attributes = {
        "kind": "op",
        "op": node.op,
        "scope": node.scope,
        "source": str(node.source or ""),
        "params": param_texts(node),
        "literals": {i: v.name for i, v in enumerate(node.inputs) if isinstance(v, Literal)},
    }
    if node.subgraphs:
        attributes["subgraphs"] = {body.name: _convert(body, memo) for body in node.subgraphs}
    return attributes


def _dtype(value: Value) -> str:
    return str(value.dtype) if value.dtype is not None else str(value.aval)
