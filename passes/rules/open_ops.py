"""Named ops that are made of other named ops become these.

All other rules, and every pass that inserts something, know of the parts alone.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from jaxpress import nnops
from jaxpress.capture import Node
from jaxpress.passes.pattern import State
from jaxpress.passes.rule import Match, Rule, RuleSet
from jaxpress.passes.rules.weights import operands_of

__all__ = ["open_rules"]


class _MadeOfOps:
    """An op that is defined with ``made_of_ops``."""

    size = 1

    def __init__(self, name: str):
        self.names = frozenset({name})

    def find(self, state: State, node: Node) -> Match | None:
        return Match(state.view, node, operands_of(state.view, node))


def _parts(*, match: Match, **operands: Any) -> Any:
    node = match.root
    return nnops.registry()[node.op].implementation(node.params)(*operands.values())


def open_rules(ops: Collection[str] | None = None) -> RuleSet:
    """A rule for every such op; for those among ``ops``, if given."""
    made = [n for n, op in nnops.registry().items() if op.made_of_ops and (ops is None or n in ops)]
    return RuleSet(
        [
            # multi_head_attention(...) -> dense(dot_product_attention(dense(...), ...))
            # separable_conv(...) -> conv(conv(...))
            Rule(f"open_{name}", _MadeOfOps(name), _parts, numerics="exact", scope=name)
            for name in made
        ]
    )
