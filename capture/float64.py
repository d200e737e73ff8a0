"""A graph run in double precision: the reference that errors are measured against.

Every floating-point type becomes float64 (complex64 becomes complex128), wherever it stands:
inputs, constants, literals, parameters and bodies. Integers, bits and random keys stay as they
are, so that the same random numbers are drawn.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextvars import ContextVar
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxpress.capture import compat
from jaxpress.capture.evaluate import evaluate_prologue
from jaxpress.capture.from_jaxpr import graph_of_jaxpr
from jaxpress.capture.graph import Graph, Literal, Node, Value

__all__ = ["evaluate_in_float64"]

# These look at the bits of a number, are about one precision, or leave JAX for something that
# takes the types it was promised: they run as they were traced.
_OF_ONE_PRECISION = frozenset(
    {
        "bitcast_convert_type",
        "call_exported",
        "ffi_call",
        "io_callback",
        "nextafter",
        "pure_callback",
        "reduce_precision",
    }
)


# Whether 64-bit types were on for the caller, whose graph this is: they are on for all that is run.
_HAD_X64: ContextVar[bool] = ContextVar("had_x64", default=False)


def evaluate_in_float64(graph: Graph, flat: Sequence[Any]) -> list[np.ndarray]:
    """Run ``graph`` with float64 in place of every narrower floating-point type.

    Args:
      graph: what to run, as it was captured.
      flat: one concrete array per input, of the types that it was traced with.

    Returns:
      One NumPy array per output; random keys come as their bits.
    """
    # A random key is no NumPy array; it crosses into the 64-bit world as it is. A number of Python
    # has the type that it was traced with.
    arrays = [
        x if _is_key(x) else np.asarray(x, v.dtype) for x, v in zip(flat, graph.inputs, strict=True)
    ]
    constants = [x if _is_key(x) else np.asarray(x) for x in graph.constant_values.values()]
    _HAD_X64.set(compat.context_key()[0])
    with compat.outside_trace(), compat.enable_x64():
        # By NumPy: JAX would compile two small programs for each shape.
        wide, wide_constants = (
            [x if _is_key(x) else x.astype(_wide_type(x.dtype)) for x in given]
            for given in (arrays, constants)
        )

        def run(constants: Any, flat: Any) -> Any:
            # As one program; what depends on no argument would be compiled piece by piece.
            with compat.without_constant_folding():
                return _run(graph, flat, constants)

        out = jax.jit(run)(wide_constants, wide)
        return [np.asarray(jax.random.key_data(x) if _is_key(x) else x) for x in out]


def _is_key(x: Any) -> bool:
    return jnp.issubdtype(getattr(x, "dtype", np.float32), jax.dtypes.prng_key)


def _wide_type(dtype: Any) -> Any:
    if jnp.issubdtype(dtype, jnp.floating):
        return np.dtype(np.float64)
    if jnp.issubdtype(dtype, jnp.complexfloating):
        return np.dtype(np.complex128)
    return dtype


def _widen(x: Any) -> Any:
    return x if _is_key(x) else jnp.asarray(x, _wide_type(jnp.asarray(x).dtype))


def _run(graph: Graph, flat: Sequence[Any], constants: Sequence[Any]) -> list[Any]:
    env: dict[Value, Any] = dict(zip(graph.inputs, flat, strict=True))
    env.update(zip(graph.constants, constants, strict=True))
    if graph.prologue is not None:
        env.update(zip(graph.prologue.outputs, evaluate_prologue(graph, env), strict=True))

    def read(v: Value) -> Any:
        if isinstance(v, Literal):
            return np.asarray(v.val).astype(_wide_type(v.dtype))
        return env[v]

    for node in graph.nodes:
        if node.effects and not node.outputs:
            continue  # printing twice helps nobody
        env.update(zip(node.outputs, _run_node(node, list(map(read, node.inputs))), strict=True))
    return [_widen(read(v)) for v in graph.outputs]


def _run_body(graph: Graph, flat: Sequence[Any]) -> list[Any]:
    return _run(graph, flat, [_widen(x) for x in graph.constant_values.values()])


def _run_node(node: Node, ins: list[Any]) -> list[Any]:
    special = _SPECIAL.get(node.op)
    if special is not None:
        return special(node, ins)
    if node.subgraphs and node.op in _CALLS:
        return _run_body(_forward_body(node), ins)
    if _keeps_precision(node):
        return ins
    if "keeps" in node.params:
        return _run_body(_what_it_computes(node), ins)
    if node.op in _OF_ONE_PRECISION or node.subgraphs:
        return _as_traced(node, ins)
    params = {k: _wide_type(v) if isinstance(v, np.dtype) else v for k, v in node.params.items()}
    with compat.provenance(node.source_info, node.ctx):
        return compat.bind(node.primitive, ins, params)


_CALLS = (
    compat.JIT_NAMES
    | compat.CALL_NAMES
    | compat.REMAT_NAMES
    | compat.CUSTOM_JVP_NAMES
    | compat.CUSTOM_VJP_NAMES
)


def _forward_body(node: Node) -> Graph:
    """The body that gives the value of a call."""
    for where, body in compat.bodies_in_params(node.params):
        if where in ("call_jaxpr", "jaxpr", "fun_jaxpr"):
            return graph_of_jaxpr(body, where)
    return node.subgraphs[0]


def _what_it_computes(node: Node) -> Graph:
    """The plain operations of a named op that also gives what its derivative needs.

    Which results those are depends on the types, and on how numbers are promoted, so that both
    have to be as they were in the trace.
    """

    def compute(*arrays: Any) -> Any:
        return node.primitive.impl(*arrays, **node.params)

    with compat.enable_x64(_HAD_X64.get()):
        closed = compat.trace_closed(compute, [v.aval for v in node.inputs])
    return graph_of_jaxpr(closed, node.op)


def _keeps_precision(node: Node) -> bool:
    """Whether a node rounds to the type that it has anyway, as JAX marks rematerialised values."""
    if node.op != "reduce_precision":
        return False
    info = jnp.finfo(node.output.dtype)
    bits = node.params["exponent_bits"], node.params["mantissa_bits"]
    return bits == (info.nexp, info.nmant)


def _as_traced(node: Node, ins: list[Any]) -> list[Any]:
    """In the precision that it was traced with, and back."""
    narrow = [
        x if _is_key(x) or v.dtype is None else jnp.asarray(x).astype(v.dtype)
        for x, v in zip(ins, node.inputs, strict=True)
    ]
    with compat.provenance(node.source_info, node.ctx):
        return [_widen(x) for x in compat.bind(node.primitive, narrow, node.params)]


def _scan(node: Node, ins: list[Any]) -> list[Any]:
    (body,) = node.subgraphs
    n_consts, n_carry = compat.scan_counts(node.params)
    consts, carry, xs = (
        ins[:n_consts],
        ins[n_consts : n_consts + n_carry],
        ins[n_consts + n_carry :],
    )

    def step(carry: list[Any], x: list[Any]) -> tuple[list[Any], list[Any]]:
        out = _run_body(body, [*consts, *carry, *x])
        return out[:n_carry], out[n_carry:]

    last, ys = lax.scan(
        step,
        [_widen(c) for c in carry],
        xs,
        length=node.params["length"],
        reverse=node.params["reverse"],
    )
    return [*last, *ys]


def _while(node: Node, ins: list[Any]) -> list[Any]:
    cond, body = node.subgraphs
    n_cond, n_body = node.params["cond_nconsts"], node.params["body_nconsts"]
    cond_consts, body_consts = ins[:n_cond], ins[n_cond : n_cond + n_body]
    return lax.while_loop(
        lambda carry: _run_body(cond, [*cond_consts, *carry])[0],
        lambda carry: _run_body(body, [*body_consts, *carry]),
        [_widen(c) for c in ins[n_cond + n_body :]],
    )


def _cond(node: Node, ins: list[Any]) -> list[Any]:
    index, *operands = ins
    branches = [lambda *xs, body=body: _run_body(body, xs) for body in node.subgraphs]
    return lax.switch(jnp.asarray(index, jnp.int32), branches, *operands)


_SPECIAL: dict[str, Callable[[Node, list[Any]], list[Any]]] = {
    "scan": _scan,
    "while": _while,
    "cond": _cond,
}
