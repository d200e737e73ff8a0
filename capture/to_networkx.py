"""A graph as a networkx multigraph, for networkx's own algorithms and for other tools."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from jaxpress.capture.flops import nbytes
from jaxpress.capture.graph import Graph, Literal, Node, Value
from jaxpress.capture.params import param_texts

if TYPE_CHECKING:
    from jaxpress.capture.network import Network

__all__ = ["to_networkx"]


def to_networkx(graph: Graph, *, plain: bool = False) -> Network:
    """The graph's inputs, constants, nodes and outputs, joined by its values.

    Ids are strings, and the same for the same trace: an operation goes by the name of its first
    result (``"conv_3"``; one without results by ``"debug_callback:7"``, its place), an input or
    constant by its own name, an output by ``"output:0"``.

    Node attributes:

    - ``kind``: ``"input"``, ``"constant"``, ``"prepared"`` (made by the prologue), ``"op"`` or
      ``"output"``;
    - ``name``: an input's name, an output's path in the result, otherwise the id;
    - ``shape``, ``dtype``: of the first result, a tuple of ints and the dtype's name;
    - ``types``: of all results, as text, such as ``("float32[2,3]",)``;
    - for inputs: ``weight``, whether it was declared to be one;
    - for inputs and constants: ``bytes``;
    - for ops: ``op``, ``scope``, ``source`` (``"model.py:12 (call)"``, or ``""``), ``params`` (a
      dict of short strings), ``literals`` (``"operand_1"`` to text) and, where an op has bodies,
      ``bodies``: their names.

    Edges go from maker to user, with the operand's index as key, and carry ``name`` (the value's),
    ``shape``, ``dtype``, ``operand`` (the index again) and ``result`` (which of its maker's results
    it is). The multigraph's own ``graph`` has ``name``, ``inputs`` and ``outputs`` (ids in order).

    Bodies and the prologue are multigraphs like this one, in attributes of the object, so that
    networkx can write all the rest to a file: ``network.bodies["scan_1"]["jaxpr"]`` and
    ``network.prologue``, which may be None. A body that several ops share is one object.

    Args:
      graph: what to convert.
      plain: whether tuples and dicts are given as text. GraphML and GEXF know nothing else than
        numbers and text; GML and JSON (``networkx.node_link_data``) take both forms.

    >>> import jax.numpy as jnp
    >>> from jaxpress.capture import trace
    >>> g = to_networkx(trace(lambda x: jnp.sin(x) * x)(1.0))
    >>> sorted(g.edges(keys=True))
    [('mul_1', 'output:0', 0), ('sin_0', 'mul_1', 0), ('x', 'mul_1', 1), ('x', 'sin_0', 0)]
    """
    memo: dict[Graph, Network] = {}
    out = _convert(graph, memo)
    if plain:
        for network in memo.values():
            _flatten(network.graph)
            for _, data in network.nodes(data=True):
                _flatten(data)
            for _, _, data in network.edges(data=True):
                _flatten(data)
    return out


def _convert(graph: Graph, memo: dict[Graph, Network]) -> Network:
    if graph in memo:
        return memo[graph]
    from jaxpress.capture.network import Network

    out = memo[graph] = Network(name=graph.name)
    prologue = graph.prologue
    out.prologue = _convert(prologue, memo) if prologue is not None else None
    # Where each value comes from: the id of its maker, and which of the results it is.
    makers: dict[Value, tuple[str, int]] = {}

    def add(wanted: str, values: tuple[Value, ...], **attributes: Any) -> str:
        name = wanted
        while name in out:
            name += "'"
        attributes.setdefault("name", name)
        if values:
            attributes.update(shape=_shape(values[0]), dtype=_dtype(values[0]))
        out.add_node(name, types=tuple(map(_type, values)), **attributes)
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
            shape=_shape(v),
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
        name = make(wanted, node.outputs, **_attributes(node))
        if node.subgraphs:
            out.bodies[name] = {body.name: _convert(body, memo) for body in node.subgraphs}
        for index, v in enumerate(node.inputs):
            if not isinstance(v, Literal):
                join(v, name, index)
    paths = graph.signature.result_paths if graph.signature is not None else ()
    outputs = out.graph["outputs"] = []
    for i, v in enumerate(graph.outputs):
        path = paths[i] if i < len(paths) else f"output:{i}"
        literals = {"operand_0": v.name} if isinstance(v, Literal) else {}
        outputs.append(add(f"output:{i}", (v,), kind="output", name=path, literals=literals))
        if not literals:
            join(v, outputs[-1], 0)
    return out


def _attributes(node: Node) -> dict[str, Any]:
    # GML asks of keys that they start with a letter.
    attributes: dict[str, Any] = {
        "kind": "op",
        "op": node.op,
        "scope": node.scope,
        "source": str(node.source or ""),
        "params": {key.lstrip("_"): text for key, text in param_texts(node).items()},
        "literals": {
            f"operand_{i}": v.name for i, v in enumerate(node.inputs) if isinstance(v, Literal)
        },
    }
    if node.subgraphs:
        attributes["bodies"] = tuple(body.name for body in node.subgraphs)
    return attributes


def _shape(value: Value) -> tuple[int | str, ...]:
    """The shape, with symbolic dimensions as text."""
    return tuple(n if isinstance(n, int) else str(n) for n in value.shape)


def _dtype(value: Value) -> str:
    return str(value.dtype) if value.dtype is not None else str(value.aval)


def _type(value: Value) -> str:
    return f"{_dtype(value)}[{','.join(map(str, value.shape))}]"


def _flatten(attributes: dict[str, Any]) -> None:
    for key, value in attributes.items():
        if isinstance(value, dict):
            attributes[key] = ", ".join(f"{k}={v}" for k, v in value.items())
        elif isinstance(value, tuple | list):
            attributes[key] = ", ".join(map(str, value))
