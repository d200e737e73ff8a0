"""Small graphs run by NumPy: what prepares weights is not worth compiling.

Folding a batch norm takes a few hundred cheap operations on weights, once. XLA would take a
second to compile what NumPy does in milliseconds.

What rules made of the weights is computed in double precision and rounded once, at its end: an
error in a weight is the same at every position, and so does not average out as that of an
activation does. What the user wrote is rounded at every step, as written.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from jaxpress.capture.graph import Graph, Literal, Node, Value

__all__ = ["evaluate_with_numpy", "split_for_numpy"]

# A product of more pairs of numbers than this takes NumPy, in double precision, longer than XLA.
MAX_PRODUCTS = 1 << 27


def _broadcast(node: Node, x: Any) -> Any:
    shape, dims = node.params["shape"], node.params["broadcast_dimensions"]
    spread = [1] * len(shape)
    for axis, d in zip(dims, x.shape, strict=True):
        spread[axis] = d
    return np.broadcast_to(np.reshape(x, spread), shape)


def _like_output(node: Node, x: Any) -> Any:
    return np.reshape(x, node.outputs[0].shape)


def _integer_pow(node: Node, x: Any) -> Any:
    y = node.params["y"]
    return np.power(x, y) if y >= 0 else 1 / np.power(x, -y)


def _dot_general(node: Node, a: Any, b: Any) -> Any:
    (sum_a, sum_b), (batch_a, batch_b) = node.params["dimension_numbers"]
    rest_a = [i for i in range(a.ndim) if i not in (*sum_a, *batch_a)]
    rest_b = [i for i in range(b.ndim) if i not in (*sum_b, *batch_b)]
    inner, batch, rows, columns = (
        math.prod(v.shape[i] for i in axes)
        for v, axes in ((a, sum_a), (a, batch_a), (a, rest_a), (b, rest_b))
    )
    a = np.transpose(np.asarray(a, np.float64), (*batch_a, *rest_a, *sum_a))
    b = np.transpose(np.asarray(b, np.float64), (*batch_b, *sum_b, *rest_b))
    product = np.matmul(np.reshape(a, (batch, rows, inner)), np.reshape(b, (batch, inner, columns)))
    return np.reshape(product, node.output.shape)


def _iota(node: Node) -> Any:
    shape, axis = node.params["shape"], node.params["dimension"]
    spread = [-1 if i == axis else 1 for i in range(len(shape))]
    return np.broadcast_to(np.reshape(np.arange(shape[axis]), spread), shape)


def _slice(node: Node, x: Any) -> Any:
    start, stop, strides = (node.params[k] for k in ("start_indices", "limit_indices", "strides"))
    return x[tuple(map(slice, start, stop, strides or (1,) * x.ndim))]


_FLOAT_OPS: dict[str, Callable[..., Any]] = {
    "add": lambda node, a, b: a + b,
    "add_any": lambda node, a, b: a + b,
    "sub": lambda node, a, b: a - b,
    "mul": lambda node, a, b: a * b,
    "div": lambda node, a, b: a / b,
    "neg": lambda node, a: -a,
    "abs": lambda node, a: np.abs(a),
    "max": lambda node, a, b: np.maximum(a, b),
    "min": lambda node, a, b: np.minimum(a, b),
    "sqrt": lambda node, a: np.sqrt(a),
    "rsqrt": lambda node, a: 1 / np.sqrt(a),
    "square": lambda node, a: a * a,
    "integer_pow": _integer_pow,
    "pow": lambda node, a, b: np.power(a, b),
    "exp": lambda node, a: np.exp(a),
    "log": lambda node, a: np.log(a),
    # Sums are never kept in less than double precision; XLA keeps them in float32.
    "reduce_sum": lambda node, a: np.sum(a, tuple(node.params["axes"]), np.float64),
    "dot_general": _dot_general,
}
# These hand on what they get, in whatever precision it is.
_MOVES = {
    *("broadcast_in_dim", "reshape", "squeeze", "expand_dims", "copy", "transpose"),
    *("concatenate", "rev", "slice"),
}
_ANY_OPS: dict[str, Callable[..., Any]] = {
    "broadcast_in_dim": _broadcast,
    "reshape": _like_output,
    "squeeze": _like_output,
    "expand_dims": _like_output,
    "copy": lambda node, a: a,
    "transpose": lambda node, a: np.transpose(a, node.params["permutation"]),
    "concatenate": lambda node, *parts: np.concatenate(parts, node.params["dimension"]),
    "rev": lambda node, a: np.flip(a, tuple(node.params["dimensions"])),
    "slice": _slice,
    "iota": _iota,
    "and": lambda node, a, b: a & b,
    "or": lambda node, a, b: a | b,
    "not": lambda node, a: ~a,
    "convert_element_type": lambda node, a: a.astype(node.params["new_dtype"]),
    "eq": lambda node, a, b: a == b,
    "ne": lambda node, a, b: a != b,
    "lt": lambda node, a, b: a < b,
    "le": lambda node, a, b: a <= b,
    "gt": lambda node, a, b: a > b,
    "ge": lambda node, a, b: a >= b,
    "select_n": lambda node, which, *cases: np.where(which, cases[1], cases[0]),
}


def split_for_numpy(graph: Graph) -> tuple[Graph, Graph]:
    """What has to be compiled, and what NumPy can do after it, to rounding the same.

    The first part has the nodes that NumPy cannot run and all that they are made of; its outputs
    are further inputs of the second, behind the graph's own. Either may have no nodes.
    """
    made_by = {v: node for node in graph.nodes for v in node.outputs}
    compiled: set[Node] = set()
    stack = [node for node in graph.nodes if not _is_plain(node)]
    while stack:
        node = stack.pop()
        if node not in compiled:
            compiled.add(node)
            stack.extend(made_by[v] for v in node.inputs if v in made_by)
    first = [node for node in graph.nodes if node in compiled]
    rest = [node for node in graph.nodes if node not in compiled]
    read = dict.fromkeys([*(v for node in rest for v in node.inputs), *graph.outputs])
    handed = tuple(v for v in read if made_by.get(v) in compiled)
    return (
        graph.with_parts(nodes=first, outputs=handed),
        graph.with_parts(nodes=rest, inputs=(*graph.inputs, *handed)),
    )


def _is_plain(node: Node) -> bool:
    if len(node.outputs) != 1 or node.effects:
        return False
    types = [v.dtype for v in (*node.inputs, node.output)]
    if not all(isinstance(t, np.dtype) for t in types):
        return False  # random keys and the like
    if node.op in _FLOAT_OPS:
        return all(_is_float(t) for t in types) and _is_usual_sum(node)
    if node.op not in _ANY_OPS:
        return False
    match node.op:
        case "reshape":  # its dimensions may be symbolic, or put in another order first
            return len(node.inputs) == 1 and node.params["dimensions"] is None
        case "convert_element_type":
            # NumPy and XLA differ in what becomes of a float that no integer can hold.
            return _is_float(types[1]) or types[0].kind in "biu"
        case "select_n":
            return types[0] == np.bool_ and len(node.inputs) == 3
        case "broadcast_in_dim":
            return len(node.inputs) == 1
        case "iota":  # a size may be symbolic
            return not node.inputs
        case _:
            return True


def _is_usual_sum(node: Node) -> bool:
    """Whether a sum or product, if it is one, is over axes of its own, and no large one."""
    if node.op == "reduce_sum":
        return all(isinstance(a, int) for a in node.params["axes"])
    if node.op != "dot_general":
        return True
    shape, (summed, _) = node.inputs[0].shape, node.params["dimension_numbers"]
    sizes = (*node.output.shape, *(shape[i] for i in summed[0]))
    return all(isinstance(n, int) for n in sizes) and math.prod(sizes) <= MAX_PRODUCTS


def _is_float(dtype: Any) -> bool:
    return dtype.kind == "f" or dtype.name == "bfloat16"


def evaluate_with_numpy(
    graph: Graph, flat: Sequence[Any], constants: Sequence[Any]
) -> list[jax.Array]:
    """Run a graph, all of which NumPy can do, on arrays that lie in the host's memory.

    Returns:
      Arrays of the outputs' dtypes, on JAX's default device.
    """
    env: dict[Value, Any] = {v: np.asarray(x) for v, x in zip(graph.inputs, flat, strict=True)}
    env.update(zip(graph.constants, map(np.asarray, constants), strict=True))
    results = {v for v in graph.outputs if not isinstance(v, Literal)}

    def read(v: Value) -> Any:
        return np.asarray(v.val).astype(v.dtype) if isinstance(v, Literal) else env[v]

    with np.errstate(all="ignore"):
        for node in graph.nodes:
            ins = [read(v) for v in node.inputs]
            wide = node.op in _FLOAT_OPS and _is_made(node)
            if wide:
                ins = [np.asarray(x, np.float64) for x in ins]
            elif node.op not in _MOVES:
                ins = [np.asarray(x, v.dtype) for x, v in zip(ins, node.inputs, strict=True)]
            work = _FLOAT_OPS.get(node.op) or _ANY_OPS[node.op]
            out = np.asarray(work(node, *ins))
            rounds = node.output in results or not (wide or node.op in _MOVES)
            env[node.output] = np.asarray(out, node.output.dtype) if rounds else out
    # One transfer for all, and nothing compiled: jax.numpy.asarray copies by a small program for
    # each shape.
    return jax.device_put([np.asarray(read(v), v.dtype, order="C") for v in graph.outputs])


def _is_made(node: Node) -> bool:
    """Whether a rule made the node, and it is no copy of one that was captured."""
    return len(node.origin) > 1 or any(o.primitive is not node.primitive for o in node.origin)
