"""Windowed maxima, minima and means become ``max_pool``, ``min_pool`` and ``avg_pool``."""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.core import ShapedArray

from jaxpress import nnops
from jaxpress.capture import Literal, Node
from jaxpress.passes.pattern import State, any_of, any_value, op, scalar, through
from jaxpress.passes.rule import Match, Rule, RuleSet
from jaxpress.passes.rules.raise_global_pool import GLOBAL_POOL_RULES
from jaxpress.passes.rules.split_pool import SPLIT_POOL_RULES
from jaxpress.passes.view import View, scalar_value

__all__ = ["POOL_RULES", "pool_rules"]


def _is_window(view: View, node: Node) -> bool:
    """A window that slides over an array as it is, and covers more than one element."""
    params = node.params
    return all(d == 1 for d in params["base_dilation"]) and (
        math.prod(params["window_dimensions"]) > 1
    )


def _is_undilated(view: View, node: Node) -> bool:
    return all(d == 1 for d in node.params["base_dilation"])


def _is_sampling(view: View, node: Node) -> bool:
    """A window of one element, as a stride alone has it."""
    return _is_undilated(view, node) and math.prod(node.params["window_dimensions"]) == 1


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


def _min_pool(x: Any, *, match: Match) -> Any:
    return nnops.registry()["min_pool"].rebind({"x": x}, **_windows(match.root))


def _negated_max_pool(x: Any, *, match: Match) -> Any:
    params = {k: v for k, v in match.nodes["pool"].params.items() if k != "kernel"}
    return nnops.registry()["min_pool"].rebind({"x": x}, **params)


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
    op("reduce_window_max", any_value("x"), where=_is_undilated),
    _max_pool,
    _has_a_least_value,
)


# reduce_window_min(x) -> min_pool(x)
RAISE_MIN_POOL = Rule(
    "raise_min_pool",
    op("reduce_window_min", any_value("x"), where=_is_undilated),
    _min_pool,
    _has_a_least_value,
)


def _is_floating(match: Match) -> str | None:
    # The least integer has no negative.
    return None if jnp.issubdtype(match["x"].dtype, jnp.floating) else f"x is {match['x'].dtype}"


# -max_pool(-x) -> min_pool(x)
RAISE_NEGATED_MAX_POOL = Rule(
    "raise_negated_max_pool",
    op("neg", op("max_pool", op("neg", any_value("x")), name="pool")),
    _negated_max_pool,
    _is_floating,
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


class _MovedSumPattern:
    """A windowed sum that is moved about before it is divided, as Equinox has it."""

    names = frozenset({"div"})
    size = 3

    def find(self, state: State, node: Node) -> Match | None:
        view = state.view
        total, number = view.inputs(node)
        size = scalar_value(view, number)
        moves: list[Node] = []
        maker = view.producer(total)
        while maker is not None and maker.op in ("squeeze", "transpose") and len(moves) < 4:
            moves.append(maker)
            maker = view.producer(view.inputs(maker)[0])
        if maker is None or maker.op != "reduce_window_sum" or not moves or size is None:
            state.fail("it is no windowed sum, moved and divided by a number", node)
            return None
        if not _is_window(view, maker):
            state.fail("its window covers one element, or its input is dilated", maker)
            return None
        nodes = {f"move{i}": m for i, m in enumerate(moves)} | {"sum": maker}
        values = {"x": view.inputs(maker)[0], "size": Literal(size, ShapedArray((), size.dtype))}
        return Match(view, node, values, nodes, (*moves, maker))


def _moved_avg_pool(x: Any, *, match: Match) -> Any:
    y = _avg_pool(x, match=match)
    moves = [match.nodes[name] for name in sorted(match.nodes) if name != "sum"]
    for node in reversed(moves):
        y = node.primitive.bind(y, **node.params)
    return y


# move(reduce_window_sum(x)) / n -> move(avg_pool(x))
RAISE_MOVED_AVG_POOL = Rule(
    "raise_moved_avg_pool", _MovedSumPattern(), _moved_avg_pool, _divides_by_count
)


def _sampled(x: Any, *, match: Match) -> Any:
    windows = _windows(match.root)
    return nnops.registry()["avg_pool"].rebind({"x": x}, count_include_pad=True, **windows)


# reduce_window_sum(x) over windows of one element -> avg_pool(x)
RAISE_SAMPLED_SUM = Rule(
    "raise_sampled_sum",
    op("reduce_window_sum", any_value("x"), where=_is_sampling),
    _sampled,
    _is_floating,
)

_WINDOW_RULES = RuleSet(
    (
        RAISE_MAX_POOL,
        RAISE_MIN_POOL,
        RAISE_NEGATED_MAX_POOL,
        RAISE_AVG_POOL,
        RAISE_MOVED_AVG_POOL,
        RAISE_SAMPLED_SUM,
    )
)
POOL_RULES = _WINDOW_RULES + GLOBAL_POOL_RULES + SPLIT_POOL_RULES


def pool_rules(ops: Collection[str] | None = None) -> RuleSet:
    """The rules for pooling.

    Args:
      ops: the op names of a graph; rules that cannot apply in it are left out.
    """
    names = () if ops is None else [op for op in ops if op.startswith("reduce_") or "pool" in op]
    return POOL_RULES if ops is None or names else RuleSet()
