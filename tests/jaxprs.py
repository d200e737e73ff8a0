"""Are two jaxprs the same, or two results; does lowering a graph's bodies anew keep them so?"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import source_info_util

from jaxpress.capture import Graph, compat


def rebuild(graph: Graph, memo: dict[int, Any] | None = None) -> Graph:
    """The same graph, with every body marked as rewritten, so that all of them are lowered anew."""
    memo = {} if memo is None else memo
    if id(graph) not in memo:
        nodes = [
            node.with_subgraphs([rebuild(body, memo) for body in node.subgraphs])
            if node.subgraphs
            else node
            for node in graph.nodes
        ]
        # The old graph is kept beside the new one, so that its identity stays its own.
        memo[id(graph)] = (graph.with_parts(nodes=nodes), graph)
    return memo[id(graph)][0]


def same_bits(want: Any, got: Any) -> None:
    """Equal trees, types and bits."""
    assert jax.tree.structure(want) == jax.tree.structure(got)
    for x, y in zip(jax.tree.leaves(want), jax.tree.leaves(got), strict=True):
        assert jax.typeof(x) == jax.typeof(y)
        if jnp.issubdtype(jax.typeof(x).dtype, jax.dtypes.prng_key):
            x, y = jax.random.key_data(x), jax.random.key_data(y)
        # Python's own numbers are wider than the arrays that they become.
        x, y = jnp.asarray(x), jnp.asarray(y)
        assert np.asarray(x).tobytes() == np.asarray(y).tobytes()


def difference(a: Any, b: Any) -> str:
    """The first thing in which two jaxprs differ; empty where they are the same.

    Compared are types (weak types and shardings too), equations in order, parameters, nested
    bodies, effects, contexts, name stacks, source lines, constants, names of arguments and
    results. Opaque callables (derivative rules) are not looked into.
    """
    return _bodies("", a, b, {})


def _bodies(where: str, a: Any, b: Any, seen: dict[tuple[int, int], Any]) -> str:
    if a is b or (id(a), id(b)) in seen:
        return ""
    seen[id(a), id(b)] = (a, b)
    (open_a, consts_a), (open_b, consts_b) = compat.closed_parts(a), compat.closed_parts(b)
    if len(consts_a) != len(consts_b):
        return f"{where}: {len(consts_a)} and {len(consts_b)} constants"
    for x, y in zip(consts_a, consts_b, strict=True):
        if x is not y and np.asarray(x).tobytes() != np.asarray(y).tobytes():
            return f"{where}: constants {x} and {y}"
    names: dict[Any, Any] = {}

    def atoms(what: str, left: Any, right: Any, fresh: bool) -> str:
        if len(left) != len(right):
            return f"{where}: {len(left)} and {len(right)} {what}"
        for x, y in zip(left, right, strict=True):
            if x.aval != y.aval or str(x.aval) != str(y.aval):
                return f"{where}: {what} {x.aval} and {y.aval}"
            x_is_literal = isinstance(x, compat.Literal)
            if x_is_literal != isinstance(y, compat.Literal):
                return f"{where}: {what} {x} and {y}, a literal and none"
            if x_is_literal:
                if np.asarray(x.val).tobytes() != np.asarray(y.val).tobytes():
                    return f"{where}: {what} {x.val!r} and {y.val!r}"
            elif fresh:
                names[x] = y
            elif names[x] is not y:
                return f"{where}: {what} {x} and {y}, which are not the same variable"
        return ""

    def parts(eqn_a: Any, eqn_b: Any, i: int) -> str:
        here = f"{where}/{i} {eqn_a.primitive}"
        if eqn_a.primitive is not eqn_b.primitive:
            return f"{here} and {eqn_b.primitive}"
        if _effects(eqn_a, eqn_a.invars) != _effects(eqn_b, eqn_b.invars):
            return f"{here}: effects {eqn_a.effects} and {eqn_b.effects}"
        if str(eqn_a.ctx) != str(eqn_b.ctx):
            return f"{here}: context {eqn_a.ctx} and {eqn_b.ctx}"
        x, y = eqn_a.source_info, eqn_b.source_info
        if str(x.name_stack) != str(y.name_stack):
            return f"{here}: name stack {x.name_stack} and {y.name_stack}"
        x, y = source_info_util.summarize(x), source_info_util.summarize(y)
        if x != y:
            return f"{here}: source {x} and {y}"
        return _params(here, eqn_a.params, eqn_b.params, seen)

    found = (
        atoms("constants", open_a.constvars, open_b.constvars, True)
        or atoms("inputs", open_a.invars, open_b.invars, True)
        or (len(open_a.eqns) != len(open_b.eqns) and f"{where}: other equations:\n{a}\n{b}")
        or (
            _effects(open_a, (*open_a.constvars, *open_a.invars))
            != _effects(open_b, (*open_b.constvars, *open_b.invars))
            and f"{where}: effects {open_a.effects} and {open_b.effects}"
        )
    )
    for i, (eqn_a, eqn_b) in enumerate(zip(open_a.eqns, open_b.eqns, strict=False)):
        found = (
            found
            or parts(eqn_a, eqn_b, i)
            or atoms(f"operands of {eqn_a.primitive}", eqn_a.invars, eqn_b.invars, False)
            or atoms(f"results of {eqn_a.primitive}", eqn_a.outvars, eqn_b.outvars, True)
        )
    found = found or atoms("outputs", open_a.outvars, open_b.outvars, False)
    for what in ("func_name", "arg_names", "result_paths"):
        x, y = getattr(open_a.debug_info, what), getattr(open_b.debug_info, what)
        found = found or (x != y and f"{where}: {what} {x} and {y}")
    return found or ""


def _effects(owner: Any, operands: Any) -> list[tuple[str, Any]]:
    """Effects by kind; those on a reference with the operand's place, since variables differ."""
    found = []
    for effect in owner.effects:
        operand = getattr(effect, "input", getattr(effect, "input_index", None))
        if operand is None:
            found.append((str(effect), -1))
        else:
            place = operand if isinstance(operand, int) else list(operands).index(operand)
            found.append((type(effect).__name__, place))
    return sorted(found)


def _params(where: str, a: dict[str, Any], b: dict[str, Any], seen: dict) -> str:
    if a.keys() != b.keys():
        return f"{where}: parameters {sorted(a)} and {sorted(b)}"
    for key in a:
        # JAX itself turns values that a function with a derivative rule closes over into
        # arguments when such an equation is bound again, and wraps the rule accordingly.
        if key == "bwd" or (key == "num_consts" and "call_jaxpr" in a):
            continue
        found = _param(f"{where}.{key}", a[key], b[key], seen)
        if found:
            return found
    return ""


def _param(where: str, x: Any, y: Any, seen: dict) -> str:
    if x is y:
        return ""
    if type(x) is not type(y):
        return f"{where}: {x!r} and {y!r}"
    if compat.is_body(x):
        return _bodies(where, x, y, seen)
    if isinstance(x, tuple | list) and len(x) == len(y):
        pairs = enumerate(zip(x, y, strict=True))
        return next(filter(None, (_param(f"{where}[{i}]", p, q, seen) for i, (p, q) in pairs)), "")
    if callable(x):
        return ""
    same = x == y if not isinstance(x, np.ndarray) else np.array_equal(x, y)
    return "" if same or repr(x) == repr(y) else f"{where}: {x!r} and {y!r}"
