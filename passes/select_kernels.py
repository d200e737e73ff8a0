"""Each named op gets the kernel that is fastest where it will run."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import jax

from jaxpress import nnops
from jaxpress.capture import Graph, Node, PassError, Value
from jaxpress.nnops.conv_geometry import specs
from jaxpress.passes.engine import map_bodies, rewrite
from jaxpress.passes.record import Rewrite
from jaxpress.passes.rules.batch_groups import BATCH_GROUP_RULES, MAX_GROUPS
from jaxpress.passes.rules.batch_groups import MAX_TAPS as TAPS

__all__ = ["KERNEL_PREFERENCES", "select_kernels"]

# Which kernels to try, best first, by platform and op. Measured with 2 cores in float32 on JAX
# 0.10 and 0.12 (``benchmarks/kernels.py`` measures again). Platforms that are not listed have
# tuned convolutions of their own, and keep the reference.
KERNEL_PREFERENCES: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "cpu": {
        "conv": (
            "depthwise_shifted",
            "pointwise_dot",
            "tiles_dot",
            "grouped_split",
            "planes",
            "patches_dot",
        ),
        "avg_pool": ("shifted", "separable"),
        "max_pool": ("shifted", "separable"),
    },
}

# A sum over more taps than this makes a program too large to compile quickly.
MAX_TAPS = {"depthwise_shifted": TAPS, "shifted": 9, "patches_dot": TAPS}

# Below so many weights a convolution is quick in any form.
FEW_WEIGHTS = 1 << 14
# With so few positions and so many weights a convolution does not keep all cores busy.
FEW_POSITIONS, MANY_WEIGHTS = 64, 1 << 19


def select_kernels(
    graph: Graph,
    record: list[Rewrite] | None = None,
    *,
    platform: str | None = None,
    kernels: str | Mapping[str, Any] = "auto",
) -> Graph:
    """Set the ``kernel`` of every named op that has a better one than its reference.

    Args:
      graph: the graph.
      record: a list to which each choice is added.
      platform: ``"cpu"``, ``"gpu"`` or ``"tpu"``; JAX's default backend if left out.
      kernels: ``"auto"``, ``"reference"`` for none, or op names with a kernel's name (or several,
        best first) each: those are used wherever they apply, on any platform.

    Raises:
      PassError: an op or a kernel is unknown.
    """
    platform = platform or jax.default_backend()
    preferences = preferences_of(kernels, platform)
    memo: dict[int, Graph] = {}

    def one(g: Graph) -> Graph:
        exchanged: dict[Node, Node] = {}
        for node in g.nodes:
            names = preferences.get(node.op)
            if names and node.params.get("kernel") == "reference":
                chosen = _choose(node, names)
                if chosen is not None:
                    exchanged[node] = chosen
                    if record is not None:
                        kernel = chosen.params["kernel"]
                        record.append(
                            Rewrite(kernel, "select_kernels", "reassociates", (node,), (chosen,))
                        )
        if exchanged:
            g = g.with_parts(nodes=[exchanged.get(node, node) for node in g.nodes])
        return map_bodies(g, one, memo)

    if kernels == "auto" and platform == "cpu":
        # First: these make convolutions, for which there may be kernels.
        graph = rewrite(graph, BATCH_GROUP_RULES, pass_name="select_kernels", record=record)
    return one(graph) if preferences else graph


def preferences_of(kernels: Any, platform: str) -> Mapping[str, tuple[str, ...]]:
    """The kernels to try for each op.

    Raises:
      PassError: an op or a kernel is unknown.
    """
    if kernels == "auto":
        return KERNEL_PREFERENCES.get(platform, {})
    if kernels in ("reference", None):
        return {}
    if not isinstance(kernels, Mapping):
        raise PassError(
            f"kernels is {kernels!r}; give 'auto', 'reference', or a mapping from op names to "
            "kernels"
        )
    chosen = {}
    for op, names in kernels.items():
        names = (names,) if isinstance(names, str) else tuple(names)
        definition = nnops.registry().get(op)
        if definition is None:
            raise PassError(f"kernels: there is no named op {op!r}")
        for name in names:
            if name not in definition.kernels:
                raise PassError(
                    f"kernels: {op} has no kernel {name!r}; there are {sorted(definition.kernels)}"
                )
        chosen[op] = names
    return chosen


def _choose(node: Node, names: tuple[str, ...]) -> Node | None:
    fitting = nnops.registry()[node.op].fitting_kernels(node.inputs, node.params)
    for name in names:
        if name in fitting and name != "reference" and _suits(node, name):
            return Node(
                node.primitive,
                node.inputs,
                node.outputs,
                {**node.params, "kernel": name},
                effects=node.effects,
                ctx=node.ctx,
                source_info=node.source_info,
                origin=(node,),
            )
    return None


def _suits(node: Node, kernel: str) -> bool:
    """Whether a kernel that fits is worth while for these sizes."""
    window = node.params.get("window_shape")
    if window is not None and all(
        w == 1 or w == n for w, n in zip(window, node.inputs[0].shape, strict=True)
    ):
        return False  # a window over everything is a plain reduction
    if kernel in ("pointwise_dot", "tiles_dot") and _positions(node) <= 1:
        # XLA compiles a product with one row into a loop of its own, ten milliseconds each, which
        # is no faster than the convolution that it calls.
        return False
    if kernel == "depthwise_shifted" and node.params["groups"] == 1:
        return False  # of one channel there is an ordinary convolution, and its gradient is faster
    if kernel == "grouped_split" and node.params["groups"] > MAX_GROUPS:
        return False
    if kernel == "patches_dot" and not _is_small(node):
        return False
    return _taps(node) <= MAX_TAPS.get(kernel, math.inf)


def _is_small(node: Node) -> bool:
    """Whether an image is smaller than the kernel, or nearly all of the work is to read weights."""
    x, w = node.inputs[:2]
    numbers = specs(node.params["dimension_numbers"])
    image, weights = _size(x.shape[i] for i in numbers.lhs_spec[2:]), _size(w.shape)
    if not math.isfinite(weights):
        return False
    if image < _taps(node):
        return weights >= FEW_WEIGHTS
    return _positions(node) <= FEW_POSITIONS and weights >= MANY_WEIGHTS


def _positions(node: Node) -> float:
    """At how many places a kernel stands that does not overlap itself, batch included."""
    numbers = specs(node.params["dimension_numbers"])
    if node.params["transposed"]:
        shape, channels = node.inputs[0].shape, numbers.lhs_spec[1]
    else:
        shape, channels = node.output.shape, numbers.out_spec[1]
    return _size(n for i, n in enumerate(shape) if i != channels)


def _size(shape: Iterable[Any]) -> float:
    """The product of dimensions; infinite where one is symbolic, and may be large."""
    shape = list(shape)
    return math.prod(shape) if all(isinstance(n, int) for n in shape) else math.inf


def _taps(node: Node) -> int:
    """How many positions a window or a kernel has."""
    shape: Any
    if "window_shape" in node.params:
        shape = node.params["window_shape"]
    else:
        w: Value = node.inputs[1]
        numbers = specs(node.params["dimension_numbers"])
        shape = [w.shape[i] for i in numbers.rhs_spec[2:]]
    return math.prod(shape)
