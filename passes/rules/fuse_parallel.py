"""Parallel linear ops on one input become one wider op, whose result is cut in pieces.

The projections of queries, keys and values, a gate and what it gates, the 1x1 convolutions of an
Inception block. Weights have to be known: they are joined once, in the prologue. Where they are
data they would be joined at every call, which costs more than is won.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from typing import Any

import jax.numpy as jnp
from jax import lax

from jaxpress import nnops
from jaxpress.capture import Graph, Node, Value
from jaxpress.capture.edit import Editor
from jaxpress.capture.flops import known
from jaxpress.capture.order import makers_after, move_before
from jaxpress.nnops.conv_geometry import specs
from jaxpress.nnops.einsum_equation import parse_equation
from jaxpress.passes.engine import map_bodies
from jaxpress.passes.known import mark_known
from jaxpress.passes.record import Rewrite
from jaxpress.passes.rules.cleanup_moves import is_plain, slice_bounds
from jaxpress.passes.rules.weights import bias_shape, operands_of, rebind

__all__ = [
    "MAX_ROWS",
    "feature_labels",
    "fuse_parallel",
    "joined_weights",
    "result_axis",
    "weight_axis",
]

# With more rows than this, two products keep all cores busy one by one, and cutting the result in
# pieces costs more than the wider product saves. Measured with 2 cores on JAX 0.10 and 0.12: whole
# transformers of 1 to 512 rows are as fast or up to 1.1 times as fast, 1x1 convolutions of 64 to
# 3136 rows as fast or up to 1.2 times; two products of 4096 rows by themselves 0.92 to 0.97 times.
MAX_ROWS = 4096

_OPS = frozenset({"conv", "dense", "einsum_dense"})


def fuse_parallel(
    graph: Graph, record: list[Rewrite] | None = None, *, max_rows: int = MAX_ROWS
) -> Graph:
    """Linear ops on one input with known weights become one, whose result is cut in pieces.

    They must agree in all but their features: the equation of ``einsum_dense`` and all axes of the
    weights but one; strides, padding, dilation, layout, window and activation of ``conv``, whose
    results are too large to go through once more. Other activations that differ follow the cut;
    where some have no bias, it is zero. Two of which one gates the other end in ``glu``. Those
    whose residuals are neighbouring slices of one array, as gates of a recurrent convolution have
    them, are joined too, whatever their activations. Ops with other residuals, grouped and
    transposed convolutions, and those mapped over several weights stay as they are.

    Args:
      graph: the graph; closed-over constants and ``weight_inputs`` are what is known.
      record: a list to which each fusion is added.
      max_rows: inputs of more rows (batch and positions) than this are left alone.

    Returns:
      A new graph, or the same where nothing is parallel.
    """
    memo: dict[int, Any] = {}
    record = [] if record is None else record

    def one(g: Graph, top: bool) -> Graph:
        # Constants of a body that is no loop would be joined at every call.
        if top or not g.constants:
            g = _fuse(g, record, max_rows)
        return map_bodies(g, lambda body: one(body, False), memo)

    marked = mark_known(graph)
    before = len(record)
    new = one(marked, True)
    return new if len(record) > before else graph


def _fuse(graph: Graph, record: list[Rewrite], max_rows: int) -> Graph:
    if sum(node.op in _OPS for node in graph.nodes) < 2:
        return graph
    editor: Editor | None = None
    by_input: dict[Any, list[Node]] = {}
    for node in graph.nodes:
        if node.op in _OPS and node.params["operands"][0] == "x":
            by_input.setdefault((node.op, node.inputs[0]), []).append(node)
    count = len(record)
    for nodes in by_input.values():
        if len(nodes) < 2:
            continue
        editor = Editor(graph) if editor is None else editor
        for group, label in _groups(editor, nodes, max_rows):
            _join(editor, sorted(group, key=editor.order.__getitem__), label, record)
    # What the others have become is what they add.
    for nodes in by_input.values():
        adding = [n for n in nodes if "residual" in n.params["operands"]]
        if len(adding) > 1:
            editor = Editor(graph) if editor is None else editor
            for group, label in _adding_groups(editor, adding, max_rows):
                _join(editor, group, label, record)
    return editor.finish() if editor is not None and len(record) > count else graph


def _groups(editor: Editor, nodes: list[Node], max_rows: int) -> Iterable[tuple[list[Node], str]]:
    """Those that can be joined, and the label of the axis along which their weights are."""
    fitting: dict[Any, list[Node]] = {}
    for node in nodes:
        if _is_joinable(editor, node, max_rows):
            apart = ("operands",) if node.op == "conv" else ("activation", "operands")
            named = (
                tuple(sorted((k, v) for k, v in node.params.items() if k not in apart)),
                node.output.dtype,
                node.ctx,
            )
            fitting.setdefault(named, []).append(node)
    for alike in fitting.values():
        rest = alike
        for label in feature_labels(alike[0]) if len(alike) > 1 else "":
            by_shape: dict[Any, list[Node]] = {}
            for node in rest:
                shape = list(editor.inputs(node)[1].shape)
                del shape[weight_axis(node, label)]
                by_shape.setdefault(tuple(shape), []).append(node)
            for group in by_shape.values():
                if len(group) > 1:
                    yield group, label
                    rest = [node for node in rest if node not in group]


def _adding_groups(
    editor: Editor, nodes: list[Node], max_rows: int
) -> Iterable[tuple[list[Node], str]]:
    """Those whose residuals lie side by side in one array, in that order, and the label."""
    fitting: dict[Any, list[tuple[int, int, Node]]] = {}
    for node in nodes:
        label = feature_labels(node)[:1]
        if not label or not _is_joinable(editor, node, max_rows, adds=True):
            continue
        piece = _slice_along(editor, operands_of(editor, node)["residual"], node, label)
        if piece is None:
            continue
        source, start, stop = piece
        apart = ("activation", "operands")
        shape = list(editor.inputs(node)[1].shape)
        del shape[weight_axis(node, label)]
        params = tuple(sorted((k, v) for k, v in node.params.items() if k not in apart))
        kind = (source, label, params, tuple(shape), node.output.dtype, node.ctx)
        fitting.setdefault(kind, []).append((start, stop, node))
    for (_, label, *_), found in fitting.items():
        found.sort(key=lambda piece: piece[0])
        beside = all(a[1] == b[0] for a, b in itertools.pairwise(found))
        if len(found) > 1 and beside:
            yield [node for _, _, node in found], label


def _slice_along(
    editor: Editor, value: Value, node: Node, label: str
) -> tuple[Value, int, int] | None:
    """What ``value`` is a slice of, along the features alone, from where and to where."""
    maker, axis = editor.producer(value), result_axis(node, label)
    if maker is None or maker.op != "slice":
        return None
    source = editor.inputs(maker)[0]
    if not is_plain(source, value):
        return None
    bounds = slice_bounds(maker, source)
    whole = [(0, n, 1) for n in source.shape]
    start, stop, stride = bounds[axis]
    alike = bounds[:axis] + bounds[axis + 1 :] == whole[:axis] + whole[axis + 1 :]
    return (source, start, stop) if stride == 1 and alike else None


def _is_joinable(editor: Editor, node: Node, max_rows: int, adds: bool = False) -> bool:
    operands = operands_of(editor, node)
    if node.params.get("mapped") or ("residual" in operands) != adds:
        return False
    if not all(editor.is_known(v) for k, v in operands.items() if k not in ("x", "residual")):
        return False
    if list(operands.values()).count(operands["x"]) != 1:
        return False
    if editor.is_known(operands["x"]) or not jnp.issubdtype(node.output.dtype, jnp.floating):
        return False
    if node.op == "conv" and (node.params["groups"] != 1 or node.params["transposed"]):
        return False
    features = math.prod(
        known(node.output.shape[result_axis(node, c)]) for c in feature_labels(node)
    )
    return math.prod(map(known, node.output.shape)) <= max_rows * max(features, 1)


def feature_labels(node: Node) -> str:
    """A label for each axis of the features: ``einsum_dense``'s letters, for others one made up."""
    return parse_equation(node.params["equation"]).features if node.op == "einsum_dense" else "o"


def weight_axis(node: Node, label: str) -> int:
    """Where the weights have a label."""
    if node.op == "einsum_dense":
        return parse_equation(node.params["equation"]).w.index(label)
    return 1 if node.op == "dense" else specs(node.params["dimension_numbers"]).rhs_spec[0]


def _bias_axis(node: Node, label: str) -> int:
    if node.op != "einsum_dense":
        return 0
    return parse_equation(node.params["equation"]).bias.index(label)


def result_axis(node: Node, label: str) -> int:
    """Where the result has a label."""
    ndim = node.output.ndim
    if node.op == "einsum_dense":
        out = parse_equation(node.params["equation"]).out
        return ndim - len(out) + out.index(label)
    return ndim - 1 if node.op == "dense" else specs(node.params["dimension_numbers"]).out_spec[1]


def joined_weights(
    node: Node, label: str, weights: Sequence[Any], biases: Sequence[Any], shapes: Sequence[Any]
) -> dict[str, Any]:
    """The weights and bias of the op that parallel ones become.

    Args:
      node: one of them.
      label: the axis of the features along which they are joined.
      weights: theirs, in order.
      biases: theirs, None for zero.
      shapes: of the biases, given or not.
    """
    operands = {"w": lax.concatenate(weights, weight_axis(node, label))}
    if any(b is not None for b in biases):
        pieces = [
            lax.full(shape, 0, node.output.dtype) if b is None else b
            for b, shape in zip(biases, shapes, strict=True)
        ]
        operands["b"] = lax.concatenate(pieces, _bias_axis(node, label))
    return operands


def _join(editor: Editor, group: list[Node], label: str, record: list[Rewrite]) -> None:
    first = min(group, key=editor.order.__getitem__)
    operands = [operands_of(editor, node) for node in group]
    weights: list[Value] = [given["w"] for given in operands]
    biases: list[Value] = [given["b"] for given in operands if "b" in given]
    slices = [editor.producer(given["residual"]) for given in operands if "residual" in given]
    added = tuple(editor.inputs(node)[0] for node in slices[:1] if node is not None)
    moving = makers_after(editor, (*weights, *biases, *added), first, group)
    if moving is None:
        return
    move_before(editor, moving, first)
    has_bias = tuple("b" in given for given in operands)
    activations = tuple(node.params["activation"] for node in group)
    shared = activations[0] if len(set(activations)) == 1 else None
    at_weight, at_result = weight_axis(first, label), result_axis(first, label)
    shapes = tuple(bias_shape(node) for node in group)
    gating = _gating(editor, group, at_result)
    start_at = 0
    if added and slices[0] is not None:
        start_at = slice_bounds(slices[0], added[0])[at_result][0]

    def joined(x: Any, *arrays: Any) -> Any:
        rest = iter(arrays[len(group) :])
        shifts = [next(rest) if given else None for given in has_bias]
        wider = joined_weights(first, label, arrays[: len(group)], shifts, shapes)
        if added:
            r, n = arrays[-1], wider["w"].shape[at_weight]
            whole = r.shape[at_result] == n
            cut = r if whole else lax.slice_in_dim(r, start_at, start_at + n, axis=at_result)
            wider["residual"] = cut
        y = rebind(first, {"x": x, **wider}, activation=shared)
        if gating is not None:
            return (nnops.glu(y, axis=at_result - y.ndim),)
        parts, start = [], 0
        for array, activation in zip(arrays, activations, strict=False):
            stop = start + array.shape[at_weight]
            part = lax.slice_in_dim(y, start, stop, axis=at_result)
            parts.append(part if shared == activation else activation(part))
            start = stop
        return tuple(parts)

    params = tuple(sorted((k, v) for k, v in first.params.items() if k != "operands"))
    how = (label, shapes, gating is None, bool(added), start_at)
    key = (fuse_parallel, first.op, params, has_bias, activations, how)
    x = operands[0]["x"]
    ends = group if gating is None else [gating]
    origin = tuple(dict.fromkeys((*group, *ends)))
    outs, nodes = editor.emit_nodes(
        joined, (x, *weights, *biases, *added), before=first, like=first, key=key, origin=origin
    )
    for node, out in zip(ends, outs, strict=True):
        editor.substitute(node, [out])
    replaced = tuple((node.output, out) for node, out in zip(ends, outs, strict=True))
    record.append(
        Rewrite(
            "fuse_parallel",
            "fuse_parallel",
            "reassociates",
            origin,
            tuple(nodes),
            replaced=replaced,
        )
    )


# dense(x, v) * dense(x, w, activation=sigmoid) -> glu(dense(x, [v, w]))
def _gating(editor: Editor, group: list[Node], axis: int) -> Node | None:
    """The product of two linear ops that nothing else uses, the second one through a sigmoid."""
    linear, gate = group[0], group[-1]
    if len(group) != 2 or linear.params["activation"] is not None:
        return None
    if gate.params["activation"] != nnops.to_activation("sigmoid"):
        return None
    if linear.output.shape[axis] != gate.output.shape[axis]:
        return None
    users = editor.users(linear.output)
    if not users or any(editor.use_count(node.output) != 1 for node in group):
        return None
    product = users[0]
    return product if product.op == "mul" and gate.output in editor.inputs(product) else None
