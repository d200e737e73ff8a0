"""Loops, branches and ``remat`` whose bodies are given more than they were."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from jax import lax

from jaxpress.capture import Graph, Node, Value, compat
from jaxpress.capture.edit import Editor
from jaxpress.capture.evaluate import evaluate
from jaxpress.capture.graph import Bodies
from jaxpress.passes.known import body_inputs

__all__ = ["with_more_inputs"]

_SCAN_OPTIONS = ("length", "reverse", "unroll", "_split_transpose")

Pairs = Sequence[tuple[Value, Value]]


def with_more_inputs(
    editor: Editor,
    node: Node,
    bodies: Sequence[Graph],
    handed: Sequence[Pairs],
    rows: Pairs = (),
) -> None:
    """Put in place of ``node`` the same operation with new bodies, which take more inputs.

    Operands that no body needs any more are left out.

    Args:
      editor: of the graph that ``node`` is in.
      node: a ``scan``, ``while``, ``cond`` or ``remat``. A ``scan`` has no effects: it is traced
        anew, and the old one would have to stay.
      bodies: the new bodies, whose ``inputs`` are still the old ones.
      handed: for each body, values that it uses and does not make, each with the value of the
        graph that is to be handed in, the same whenever the body runs.
      rows: for ``scan``, likewise with stacked arrays, of which each round gets a row.
    """
    if node.op == "scan":
        _scan(editor, node, bodies[0], handed[0], rows)
        return
    bodies = list(bodies)
    operands = editor.inputs(node)
    params, sources = dict(node.params), body_inputs(node)
    if node.op == "while":
        # Both bodies have constants of their own in front; what they carry is the same.
        kept: list[Value] = []
        for i, key in enumerate(("cond_nconsts", "body_nconsts")):
            n = params[key]
            carry = bodies[i].inputs[n:]
            consts = _used(bodies[i], bodies[i].inputs[:n])
            inputs = [*consts, *(v for v, _ in handed[i]), *carry]
            place = {
                v: s.operand for v, s in zip(node.subgraphs[i].inputs, sources[i], strict=True)
            }
            kept += [*(operands[place[v]] for v in consts), *(x for _, x in handed[i])]
            params[key] = len(inputs) - len(carry)
            bodies[i] = _with_inputs(bodies[i], inputs)
        first = node.params["cond_nconsts"] + node.params["body_nconsts"]
        new_operands = [*kept, *operands[first:]]
    else:
        first = 1 if node.op == "cond" else 0
        needed = [
            i
            for i in range(len(bodies[0].inputs))
            if any(_used(body, (body.inputs[i],)) for body in bodies)
        ]
        pairs = [pair for given in handed for pair in given]
        for b, body in enumerate(bodies):
            own = dict(handed[b])
            more = [v if v in own else Value(f"{v.name}'", v.aval) for v, _ in pairs]
            bodies[b] = _with_inputs(body, [*(body.inputs[i] for i in needed), *more])
        new_operands = [
            *operands[:first],
            *(operands[first + i] for i in needed),
            *(x for _, x in pairs),
        ]
    new = Node(
        node.primitive,
        tuple(new_operands),
        node.outputs,
        params,
        effects=node.effects,
        ctx=node.ctx,
        source_info=node.source_info,
        origin=(node,),
        bodies=Bodies(tuple(bodies)),
    )
    editor.exchange(node, new)


def _scan(
    editor: Editor,
    node: Node,
    body: Graph,
    handed: Pairs,
    rows: Pairs,
) -> None:
    operands, params = editor.inputs(node), node.params
    place = {v: i for i, v in enumerate(body.inputs)}
    n_consts, n_carry = compat.scan_counts(params)
    consts = _used(body, body.inputs[:n_consts])
    carry = body.inputs[n_consts : n_consts + n_carry]
    xs = _used(body, body.inputs[n_consts + n_carry :])
    given = [
        *(operands[place[v]] for v in consts), *(x for _, x in handed),
        *(operands[place[v]] for v in carry),
        *(operands[place[v]] for v in xs), *(x for _, x in rows),
    ]  # fmt: skip
    inputs = [*consts, *(v for v, _ in handed), *carry, *xs, *(v for v, _ in rows)]
    new_body = _with_inputs(body, inputs)
    first = len(consts) + len(handed)

    def run(*arrays: Any) -> list[Any]:
        fixed, init, stacked = (
            arrays[:first], list(arrays[first : first + n_carry]), list(arrays[first + n_carry :]),
        )  # fmt: skip

        def step(carried: Any, row: Any) -> Any:
            outs = evaluate(new_body, [*fixed, *carried, *row])
            return outs[:n_carry], outs[n_carry:]

        options = {k: params[k] for k in _SCAN_OPTIONS if k in params}
        last, made = lax.scan(step, init, stacked, **options)
        types = [v.aval for v in node.outputs]
        return [compat.with_weak_type(x, a) for x, a in zip([*last, *made], types, strict=True)]

    outs = editor.emit(run, given, at=node, origin=(node,), cache=False)
    editor.substitute(node, outs)


def _used(body: Graph, values: Iterable[Value]) -> list[Value]:
    """Those of ``values`` that the body needs."""
    needed = {v for node in body.nodes for v in node.inputs} | set(body.outputs)
    return [v for v in values if v in needed]


def _with_inputs(body: Graph, inputs: Sequence[Value]) -> Graph:
    needed = {v for node in body.nodes for v in node.inputs} | set(body.outputs)
    constants = {v: x for v, x in body.constant_values.items() if v in needed}
    marks = body.weight_inputs & frozenset(inputs)
    return body.with_parts(inputs=inputs, constants=constants, weight_inputs=marks)
