"""One use of a graph in a picture, and what is known of each value there.

A body that several nodes share is drawn at each of them, so a value of the body stands for
different arrays at different places. A ``Site`` is one such place.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from typing import NamedTuple

from jaxpress.capture.graph import Graph, Literal, Node, Value
from jaxpress.viz.labels import operand_role
from jaxpress.viz.style import family_of
from jaxpress.viz.text import array_text, clean, literal_text

__all__ = [
    "CONST",
    "DATA",
    "DERIVED",
    "INLINE",
    "WEIGHT",
    "Binding",
    "Info",
    "Site",
    "leaf_name",
    "root_of",
]

DATA = "data"  # depends on the arguments: drawn as an edge
WEIGHT = "weight"  # a weight as it is, or reshaped: written into the box that uses it
CONST = "const"  # made from literals alone: written into the box that uses it
DERIVED = "derived"  # computed cheaply from weights alone: written into the box that uses it
INLINE = frozenset({WEIGHT, CONST, DERIVED})


class Info(NamedTuple):
    """What is known of a value: its kind, how to write it, and the arrays that it comes from."""

    kind: str
    text: str = ""
    roots: tuple[Value, ...] = ()


_DATA = Info(DATA)
# Work on weights that is not worth a box of its own. A product of two weights is.
_CHEAP = {"elementwise", "move", "activation", "reduce"}
MAX_ROOTS = 16


class Binding(NamedTuple):
    """What a body's input stands for: values of the site around it, or a port in the picture.

    A port stands for what changes from one step of a loop to the next: ``role`` is ``"carry"``
    or ``"slice"``, and ``again`` is the body's value that the next step starts from.
    """

    outer: tuple[tuple[Site, Value], ...]
    role: str = ""
    again: Value | None = None


@dataclass(eq=False)
class Site:
    """One use of ``graph``: the whole function, or a body at the node that runs it."""

    graph: Graph
    bindings: dict[Value, Binding] = field(default_factory=dict)
    weight_names: frozenset[str] | None = None
    top: bool = False

    def __post_init__(self) -> None:
        self.info: dict[Value, Info] = {}
        self._classify()

    def of(self, value: Value) -> Info:
        """What is known of ``value``."""
        if isinstance(value, Literal):
            return Info(CONST, literal_text(value))
        return self.info.get(value, _DATA)

    def is_inline(self, node: Node) -> bool:
        """Whether the node's results are written into the boxes that use them."""
        return bool(node.outputs) and self.of(node.outputs[0]).kind in INLINE

    def weights(self) -> list[Value]:
        """The arrays that the graph's nodes take as weights, each once."""
        found: dict[Value, None] = {}
        for node in self.graph.nodes:
            for value in node.inputs:
                found.update(dict.fromkeys(self.of(value).roots))
        return list(found)

    def _classify(self) -> None:
        graph = self.graph
        for value in graph.constants:
            self.info[value] = _constant_info(graph, value)
        if self.top:
            weights = weight_inputs(graph, self.weight_names)
            for value in graph.inputs:
                if value in weights:
                    self.info[value] = Info(WEIGHT, leaf_name(value.name), (value,))
            for value in graph.prepared:
                self.info.setdefault(value, Info(WEIGHT, "", (value,)))
        else:
            for value, binding in self.bindings.items():
                site, outer = binding.outer[0]
                info = site.of(outer)
                if binding.role != "carry" and info.kind in (
                    INLINE if not binding.role else {WEIGHT}
                ):
                    self.info[value] = info
        for node in graph.nodes:
            info = self._node_info(node)
            if info is not _DATA:
                self.info.update(dict.fromkeys(node.outputs, info))

    def _node_info(self, node: Node) -> Info:
        family = family_of(node.op)
        if node.effects or family not in _CHEAP or not node.outputs:
            return _DATA
        infos = [self.of(v) for v in node.inputs]
        if any(info.kind == DATA for info in infos):
            return _DATA
        roots = tuple(dict.fromkeys(root for info in infos for root in info.roots))[:MAX_ROOTS]
        if not roots:
            return Info(CONST, _made_constant(node, infos))
        if family == "move" and len(roots) == 1 and infos[0].kind == WEIGHT:
            return infos[0]
        return Info(DERIVED, "", roots)


def _made_constant(node: Node, infos: list[Info]) -> str:
    if node.op == "iota":
        return f"iota {array_text(node.output)}"
    if node.op == "dim_as_value":
        return clean(node.params.get("dim", node.op), 24)
    if len(infos) != 1:
        return f"const {array_text(node.output)}"
    # A scalar that is spread out or converted is the same number; any other work changes it.
    same = node.op == "convert_element_type" or family_of(node.op) == "move"
    return infos[0].text if same else f"{node.op}({infos[0].text})"


def _constant_info(graph: Graph, value: Value) -> Info:
    if math.prod(n if isinstance(n, int) else 2 for n in value.shape) == 1:
        try:
            return Info(CONST, literal_text(graph.constant_value(value)))
        except (TypeError, ValueError, RuntimeError):
            pass  # a key array, one that is being traced, or one that is deleted
    return Info(WEIGHT, "", (value,))


# Which arguments are weights. Where the graph does not say, names and places do.

_SURE = re.compile(
    r"(params?|parameters|weights?|variables|theta|kernels?|bias(es)?|gammas?|betas?|tables?"
    r"|trainable_variables|non_trainable_variables|tv|ntv|batch_stats"
    r"|w(_?([a-z]|ih|hh|in|out))?)_?\d*"
)
# An argument called `b` is a bias beside a `w`, and one of two arrays beside an `a`.
_BIAS = re.compile(r"b(_?([a-z]|ih|hh|in|out))?_?\d*")
_LEAF = re.compile(
    r"(kernel|bias|scale|embedding|weight|mean|var|offset|gamma|beta|table|pos_embed"
    r"|moving_mean|moving_variance|moving_var|w|b)(_?[a-z0-9]{1,3})?"
)
_WEIGHT_ROLES = {"w", "b", "mean", "var", "scale", "bias", "table", "w_ih", "w_hh"}


def root_of(name: str) -> str:
    """The argument that a leaf's name belongs to: ``"params['w']"`` is of ``"params"``."""
    return re.split(r"[\[.]", name, maxsplit=1)[0]


def leaf_name(name: str) -> str:
    """The part of a leaf's name that tells it apart: ``"params['Dense_0']['w']"`` is ``"w"``."""
    keys = re.findall(r"\['([^']*)'\]|\.([A-Za-z_]\w*)", name)
    keys = [k for pair in keys for k in pair if k and k not in ("value", "raw_value")]
    return clean(keys[-1] if keys else name, 24)


def weight_inputs(graph: Graph, names: frozenset[str] | None) -> set[Value]:
    """The inputs that are to be drawn as weights.

    Args:
      graph: a whole function's graph.
      names: the arguments that are weights, if the caller has said so.
    """
    leaves: dict[str, list[Value]] = {}
    for value in graph.inputs:
        leaves.setdefault(root_of(value.name), []).append(value)
    if names is not None:
        return {v for root, values in leaves.items() if root in names for v in values}
    if graph.weight_inputs:
        return set(graph.weight_inputs)
    found: set[Value] = set()
    sure = {root for root in leaves if _SURE.fullmatch(root.lower())}
    if sure:
        sure |= {root for root in leaves if _BIAS.fullmatch(root.lower())}
    for root, values in leaves.items():
        named = [v for v in values if _LEAF.fullmatch(leaf_name(v.name))]
        many = len(values) >= 4 and (2 * len(named) > len(values) or len(values) > 24)
        if root in sure or many:
            found.update(values)
        else:
            found.update(v for v in values if _only_a_weight(graph, v))
    # A picture of weights alone would be empty: then they are the data.
    return set() if len(found) == len(set(graph.inputs)) else found


def _only_a_weight(graph: Graph, value: Value) -> bool:
    users = graph.users(value)
    return bool(users) and all(
        operand_role(node, i) in _WEIGHT_ROLES
        for node in users
        for i, v in enumerate(node.inputs)
        if v is value
    )
