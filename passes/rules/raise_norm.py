"""Norms by statistics of the data, however they were written, become the named ops that they are.

Layer, root mean square, group and instance norm, batch norm in training, weight standardisation
and l2 normalisation.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from jax import lax

from jaxpress import nnops
from jaxpress.capture import Node, Value
from jaxpress.passes.pattern import State
from jaxpress.passes.rule import Match, Rule
from jaxpress.passes.rules.axes import leaves
from jaxpress.passes.rules.norm_form import UNIT
from jaxpress.passes.rules.norm_search import Found, data_under, search
from jaxpress.passes.rules.polynomial import Frozen, freeze, value_of
from jaxpress.passes.rules.running_statistics import Running, running_of
from jaxpress.passes.view import View

__all__ = ["RAISE_NORM"]

# Those that take x alone.
_BARE = ("l2_normalize", "standardize", "weight_standardize")


class _NormPattern:
    """Starts at the square root that every norm has; ends where the last link ends."""

    names = frozenset({"rsqrt", "sqrt", "pow"})
    size = 12

    def find(self, state: State, node: Node) -> Match | None:
        view = state.view
        if not jnp.issubdtype(node.output.dtype, jnp.floating) or view.is_known(node.output):
            state.fail("it is no square root of floating-point data", node)
            return None
        for x in data_under(view, node):
            found = search(state, node, x)
            if found is not None:
                return _match(view, found) if found else None
        state.fail("under the root is no variance, mean square or sum of squares", node)
        return None


def _match(view: View, found: list[Found]) -> Match:
    values: dict[str, Value] = {}
    outputs = [one.nodes[0].output for one in found]
    nodes = [node for one in found for node in one.nodes]
    norms = tuple(_facts(one, f"{i}_", values) for i, one in enumerate(found))
    info: dict[str, Any] = {"norms": norms}
    if found[0].leaks:
        kept = _running(view, found[0])
        if kept:
            for name, one in kept.items():
                values[name] = one.old
                nodes.extend(one.nodes)
                outputs.append(one.new)
            info["momentum"] = kept["mean"].momentum
            info["statistics"] = tuple((name, one.new.shape) for name, one in kept.items())
        else:
            outputs.extend(found[0].leaks)
            info["statistics"] = tuple(
                ("mean" if found[0].reading.is_mean(v) else "var", v.shape) for v in found[0].leaks
            )
    root = found[0].nodes[0]
    single = len(outputs) == 1
    return Match(
        view, root, values, matched=nodes, info=info, outputs=None if single else tuple(outputs)
    )


def _running(view: View, found: Found) -> dict[str, Running]:
    """The running mean and variance, if both are kept alike and nothing else is used."""
    out: dict[str, Running] = {}
    for v in found.leaks:
        kept = running_of(view, v, set(found.nodes))
        name = "mean" if found.reading.is_mean(v) else "var"
        if kept is None or name in out:
            return {}
        out[name] = kept
    same = len(out) == 2 and out["mean"].momentum == out["var"].momentum
    return {name: out[name] for name in ("mean", "var")} if same else {}


def _facts(found: Found, prefix: str, values: dict[str, Value]) -> tuple[tuple[str, Any], ...]:
    """What the replacement has to know of one norm; its operands go into ``values``."""
    norm, root = found.norm, found.nodes[0]
    atoms = list(dict.fromkeys((*norm.gain.values(), *norm.bias.values())))
    values[f"{prefix}x"] = norm.x or found.reading.x
    values.update({f"{prefix}{i}": v for i, v in enumerate(atoms)})
    # What was read after the norm was found may have split its axes further.
    axes = leaves(norm.leaves)
    position = {axis: i for i, axis in enumerate(axes)}
    facts = {
        "op": norm.op,
        "prefix": prefix,
        "params": tuple(sorted(norm.params.items())),
        "shape": root.output.shape,
        "dtype": root.output.dtype,
        "along": norm.along,
        "features": norm.features,
        "lead": norm.lead,
        "gain": freeze(norm.gain, atoms),
        "bias": freeze(norm.bias, atoms),
        "factor": norm.factor,
        "outside": norm.outside,
        "sizes": tuple(axis.size for axis in axes),
        "places": tuple(
            tuple(position[a] for dims in found.reading.parameters[v] for a in leaves(dims))
            for v in atoms
        ),
    }
    return tuple(facts.items())


def _raise(*, match: Match, **values: Any) -> Any:
    statistics = match.info.get("statistics", ())
    momentum = match.info.get("momentum")
    results, extra = [], []
    for facts in map(dict, match.info["norms"]):
        x = jnp.reshape(values[f"{facts['prefix']}x"], facts["shape"])
        wide = jnp.promote_types(facts["dtype"], x.dtype)
        if jnp.promote_types(wide, jnp.float32) != jnp.promote_types(x.dtype, jnp.float32):
            # A result in float64 of float32, for which the op would compute in float32.
            x = lax.convert_element_type(x, wide)
        scale, bias = _parameters(x, facts, values)
        factor: Any = facts["factor"]
        if facts["outside"]:
            scale, factor = None, scale if factor == 1 else scale * factor
        elif bias is not None and factor != 1:
            scale, factor = lax.full(bias.shape, factor, bias.dtype), 1.0
        is_bare, dtype = isinstance(factor, float) and factor == 1, facts["dtype"]
        if not is_bare:
            # Rounded once, at the end.
            facts["dtype"] = jnp.promote_types(dtype, jnp.float32)
        if facts["op"] == "batch_norm_train" or statistics:
            y, news = _batch_norm(x, scale, bias, facts, momentum, values)
            extra = [jnp.reshape(news[name], shape) for name, shape in statistics]
        else:
            y = _norm(x, scale, bias, facts)
        if not is_bare:
            y = lax.convert_element_type(y * jnp.asarray(factor, y.dtype), dtype)
        results.append(y)
    return (*results, *extra)


def _parameters(x: Any, facts: dict[str, Any], values: dict[str, Any]) -> tuple[Any, Any]:
    """Scale and bias, along the axes along which the op takes them."""
    shape = tuple(x.shape[i] for i in facts["along"])
    arrays = []
    for i, positions in enumerate(facts["places"]):
        apart = jnp.reshape(values[f"{facts['prefix']}{i}"], [facts["sizes"][p] for p in positions])
        if positions != tuple(range(len(facts["sizes"]))):
            apart = lax.broadcast_in_dim(apart, facts["sizes"], positions)
        arrays.append(jnp.reshape(apart, shape))
    is_one = facts["gain"] == freeze(UNIT, [])
    scale = None if is_one else _vector(facts["gain"], arrays, shape)
    return scale, _vector(facts["bias"], arrays, shape) if facts["bias"] else None


def _vector(frozen: Frozen, arrays: list[Any], shape: Any) -> Any:
    """The value of a polynomial in parameters; a single one stays as it is."""
    if len(frozen) == 1 and frozen[0][0] == 1 and len(frozen[0][1]) == 1:
        ((_, ((i, power),)),) = frozen
        if power == 1:
            return arrays[i]
    # As precise as the op itself will be.
    dtype = jnp.promote_types(jnp.result_type(*arrays), jnp.float32)
    wide = [lax.convert_element_type(a, dtype) for a in arrays]
    return value_of(frozen, wide, lax.full(shape, 1, dtype))


def _norm(x: Any, scale: Any, bias: Any, facts: dict[str, Any]) -> Any:
    op, params, dtype = getattr(nnops, facts["op"]), dict(facts["params"]), facts["dtype"]
    if facts["op"] in _BARE:
        wide = lax.convert_element_type(x, jnp.promote_types(x.dtype, dtype))
        return lax.convert_element_type(op(wide, **params), dtype)
    lead = facts["lead"]
    if lead is not None and lead != 1:
        x = lax.collapse(x, 0, lead) if lead else lax.expand_dims(x, (0,))
    y = op(x, scale, bias, **params, dtype=_other_dtype(x, scale, bias, dtype))
    return jnp.reshape(y, facts["shape"])


def _batch_norm(
    x: Any, scale: Any, bias: Any, facts: dict[str, Any], momentum: float | None, values: Any
) -> tuple[Any, dict[str, Any]]:
    """The batch norm, and its running statistics; with no momentum the batch's own."""
    axis = facts["features"]
    shape = (x.shape[axis],)
    if momentum is None:
        zeros = lax.full(shape, 0, jnp.promote_types(x.dtype, jnp.float32))
        mean = var = zeros
    else:
        mean, var = (jnp.reshape(values[k], shape) for k in ("mean", "var"))
    y, (new_mean, new_var) = nnops.batch_norm_train(
        x,
        mean,
        var,
        scale,
        bias,
        axis=axis - x.ndim,
        momentum=momentum or 0.0,
        **{k: v for k, v in facts["params"] if k in ("epsilon", "placement")},
        dtype=_other_dtype(x, scale, bias, facts["dtype"]),
    )
    return y, {"mean": new_mean, "var": new_var}


def _other_dtype(x: Any, scale: Any, bias: Any, dtype: Any) -> Any:
    """``dtype`` where it is not the one to which the operands promote."""
    promoted = jnp.result_type(*(v for v in (x, scale, bias) if v is not None))
    return None if promoted == dtype else dtype


# (x - mean(x)) / sqrt(var(x) + epsilon) * scale + bias -> layer_norm(x, scale, bias), and so on
RAISE_NORM = Rule("raise_norm", _NormPattern(), _raise, numerics="reassociates")
