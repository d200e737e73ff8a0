"""Derivatives from what the forward run kept, so that nothing is computed twice.

The general rule computes a tangent by `jax.jvp` of the reference, and leaves it to XLA to merge
that with what the op computed. XLA merges no loops, and nothing that it has rewritten in one of
both places. An op that is defined with ``keeps=True`` has a second primitive, of the same name: its
further results are what the tangent needs, as `jax.linearize` of the reference finds it.

Static parameters of that primitive, beside the op's own:

- ``keeps``: positions of the operands with a tangent;
- ``keeps_mapped``, where ``vmap`` came after the derivative: as ``mapped``.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import jax
from jax.extend.core import Literal, jaxpr_as_fun

from jaxpress.capture.compat import without_constant_folding

if TYPE_CHECKING:
    from jaxpress.nnops.opdef import OpDef

__all__ = ["Kept", "keeping_implementation", "kept"]

_SHAPES = frozenset({"broadcast_in_dim", "reshape", "squeeze", "transpose"})


@dataclass(frozen=True)
class Kept:
    """What the primitive with further results computes, and how the tangent is read off.

    Attributes:
        compute: operands -> the op's results, the kept ones, then what is among these already.
        picked: which of these the primitive gives.
        tree: the structure of the op's results and the tangent's function.
        leaves: where each leaf of it is found: whether among the operands, at which position, and
            the equations that give it another shape.
    """

    compute: Callable[..., Sequence[Any]]
    picked: tuple[int, ...]
    tree: Any
    leaves: tuple[tuple[bool, int, tuple[Any, ...]], ...]

    def run(self, *arrays: Any) -> list[Any]:
        """The results of the primitive."""
        everything = self.compute(*arrays)
        return [everything[i] for i in self.picked]

    def read(self, operands: Sequence[Any], results: Sequence[Any]) -> tuple[list[Any], Any]:
        """The op's own results, and the function from tangents to theirs."""
        flat = []
        for given, i, steps in self.leaves:
            leaf = (operands if given else results)[i]
            for eqn in steps:
                leaf = eqn.primitive.bind(leaf, **eqn.primitive.get_bind_params(eqn.params))
            flat.append(leaf)
        outs, tangent = jax.tree.unflatten(self.tree, flat)
        return list(outs), tangent


def kept(op: OpDef, avals: Sequence[Any], params: Mapping[str, Any]) -> Kept:
    """What an op with ``keeps`` among its parameters computes for operands of these types."""
    static = {k: v for k, v in params.items() if k not in ("keeps", "keeps_mapped")}
    linearized = _linearized(op, params["keeps"], tuple(sorted(static.items())))
    with without_constant_folding():
        traced = linearized.trace(*avals)
    closed = traced.jaxpr
    places: dict[Any, tuple[bool, int, tuple[Any, ...]]] = {
        v: (True, i, ()) for i, v in enumerate(closed.jaxpr.invars)
    }
    for eqn in closed.jaxpr.eqns:
        # A weight that is broadcast, say: a loop would keep it once for each turn.
        if eqn.primitive.name in _SHAPES and len(eqn.invars) == 1:
            at = None if isinstance(eqn.invars[0], Literal) else places.get(eqn.invars[0])
            if at is not None:
                places[eqn.outvars[0]] = (True, at[1], (*at[2], eqn))
    own = traced.out_tree.children()[0].num_leaves
    picked: list[int] = []
    leaves: list[tuple[bool, int, tuple[Any, ...]]] = []
    for i, v in enumerate(closed.jaxpr.outvars):
        # An operand or a result that the tangent needs is not given twice.
        known = None if i < own or isinstance(v, Literal) else places.get(v)
        if known is None:
            known = (False, len(picked), ())
            picked.append(i)
            if not isinstance(v, Literal):
                places.setdefault(v, known)
        leaves.append(known)
    return Kept(jaxpr_as_fun(closed), tuple(picked), traced.out_tree, tuple(leaves))


def keeping_implementation(op: OpDef, params: Mapping[str, Any]) -> Callable[..., Any]:
    """What the primitive with further results computes, operands by position."""

    def compute(*arrays: Any) -> list[Any]:
        return kept(op, [jax.typeof(a) for a in arrays], params).run(*arrays)

    fn: Callable[..., Any] = compute
    for axes in params.get("keeps_mapped", ()):
        fn = jax.vmap(fn, in_axes=axes)
    return fn


@functools.lru_cache(maxsize=4096)
def _linearized(op: OpDef, live: tuple[int, ...], params: tuple[tuple[str, Any], ...]) -> Any:
    fn = op.implementation(dict(params))

    def linearized(*arrays: Any) -> Any:
        def of_live(*given: Any) -> tuple[Any, ...]:
            full = list(arrays)
            for i, array in zip(live, given, strict=True):
                full[i] = array
            out = fn(*full)
            return tuple(out) if op.primitive.multiple_results else (out,)

        return jax.linearize(of_live, *(arrays[i] for i in live))

    return jax.jit(linearized)
