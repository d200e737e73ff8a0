"""Windowed maxima and means become ``max_pool`` and ``avg_pool``."""

from __future__ import annotations

import math
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxpress import nnops
from jaxpress.capture import Node
from jaxpress.passes.pattern import any_of, any_value, op, scalar, through
from jaxpress.passes.rule import Match, Rule, RuleSet
from jaxpress.passes.view import View

__all__ = ["POOL_RULES"]


def _is_window(view: View, node: Node) -> bool:
    """A window that slides over an array as it is, and covers more than one element."""
    params = node.params
    return all(d == 1 for d in params["base_dilation"]) and (
        math.prod(params["window_dimensions"]) > 1
    )


def _windows(node: Node) -> dict[str, Any]:
    params = node.params
    return {
        "window_shape": tuple(int(n) for n in params["window_dimensions"]),
        "strides": tuple(int(n) for n in params["window_strides"]),
        "padding": tuple((int(a), int(b)) for a, b in params["padding"]),
        "dilation": tuple(int(n) for n in params["window_dilation"]),
    }


def _max_pool(x: Any, *, match: Match) -> Any:
    return nnops.registry()["max_pool"].rebind({"x": x}, **_windows(match.root))


def _has_a_least_value(match: Match) -> str | None:
    """Integers have one, and floats that know infinity; both ops pad with that."""
    dtype = match["x"].dtype
    if jnp.issubdtype(dtype, jnp.integer):
        return None
    if jnp.issubdtype(dtype, jnp.floating) and np.isinf(np.array(-np.inf, dtype)):
        return None
    return f"x is {dtype}"


# reduce_window_max(x) -> max_pool(x)
RAISE_MAX_POOL = Rule(
    "raise_max_pool",
    op("reduce_window_max", any_value("x"), where=_is_window),
    _max_pool,
    _has_a_least_value,
)


def _avg_pool(x: Any, *, match: Match) -> Any:
    counted = "count" not in match.nodes
    return nnops.registry()["avg_pool"].rebind(
        {"x": x}, count_include_pad=counted, **_windows(match.nodes["sum"])
    )


def _divides_by_count(match: Match) -> str | None:
    if not jnp.issubdtype(match["x"].dtype, jnp.floating):
        return f"x is {match['x'].dtype}"
    window = match.nodes["sum"]
    if "count" not in match.nodes:
        size = math.prod(window.params["window_dimensions"])
        got = match["size"].val  # type: ignore[attr-defined]
        return None if float(got) == size else f"it divides by {got}, not by {size}"
    if math.prod(window.params["window_dimensions"]) > 2.0 ** (
        jnp.finfo(match["x"].dtype).nmant + 1
    ):
        return f"{match['x'].dtype} cannot count so far"
    a, b = _windows(window), _windows(match.nodes["count"])
    skip = len(a["window_shape"]) - len(b["window_shape"])
    lead_is_plain = all(n == 1 for n in a["window_shape"][:skip] + a["strides"][:skip])
    if not lead_is_plain or any(a[k][skip:] != b[k] for k in a):
        return "it divides by the count of another window"
    counted, summed = match.nodes["count"].inputs[0].shape, match["x"].shape[skip:]
    for n, m, w in zip(counted, summed, b["window_shape"], strict=True):
        if n != m and not (n == 1 and w == 1):
            return "it counts the elements of another array"
    return None


# reduce_window_sum(x) / n -> avg_pool(x);  reduce_window_sum(x) / reduce_window_sum(1) likewise
RAISE_AVG_POOL = Rule(
    "raise_avg_pool",
    op(
        "div",
        op("reduce_window_sum", any_value("x"), name="sum", where=_is_window),
        any_of(
            scalar(name="size"),
            through(
                op("reduce_window_sum", scalar(1.0), name="count"), "broadcast_in_dim", "reshape"
            ),
        ),
    ),
    _avg_pool,
    _divides_by_count,
)

POOL_RULES = RuleSet((RAISE_MAX_POOL, RAISE_AVG_POOL))
