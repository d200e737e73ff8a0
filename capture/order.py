"""Which of two nodes of a changing list comes first, and moving nodes up in it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jaxpress.capture.edit import Editor
    from jaxpress.capture.graph import Node, Value

__all__ = ["Order", "makers_after", "move_before"]

# Room for this many insertions at one place before all labels are given anew.
_GAP = 1 << 128
# What stands between two places and has to move is looked for no further than this.
_MOST_MOVED = 1024


class Order:
    """A number for each node of a linked list that grows along it.

    A node that is inserted is given one between its neighbours', so that a comparison costs the
    same wherever the two stand.
    """

    def __init__(self, nodes: Iterable[Node]):
        self._labels: dict[Node, int] = {}
        self._relabel(nodes)

    def _relabel(self, nodes: Iterable[Node]) -> None:
        self._labels = {node: (i + 1) * _GAP for i, node in enumerate(nodes)}

    def __getitem__(self, node: Node) -> int:
        return self._labels[node]

    def insert(self, node: Node, before: Node | None, after: Node | None, editor: Editor) -> None:
        """Give ``node``, which stands between ``before`` and ``after``, its number."""
        low = 0 if before is None else self._labels[before]
        high = low + 2 * _GAP if after is None else self._labels[after]
        middle = (low + high) // 2
        if low < middle < high:
            self._labels[node] = middle
        else:
            self._relabel(editor.nodes())

    def remove(self, node: Node) -> None:
        """Forget ``node``."""
        self._labels.pop(node, None)


def makers_after(
    editor: Editor, values: Iterable[Value], anchor: Node, apart: Iterable[Node]
) -> list[Node] | None:
    """What has to move up for ``values`` to be known before ``anchor``, in its order.

    Args:
      editor: the graph.
      values: what is needed.
      anchor: where it is needed.
      apart: nodes that must not be among them, ``anchor`` included.

    Returns:
      The nodes; ``None`` if a value depends on one of ``apart``, or what makes it has an effect,
      or is too much.
    """
    order = editor.order
    place = order[anchor]
    blocked = set(apart)
    found: dict[Node, None] = {}
    stack = [editor.producer(v) for v in values]
    while stack:
        node = stack.pop()
        if node is None or node in found or (order[node] < place and node not in blocked):
            continue
        if node in blocked or node.effects or len(found) == _MOST_MOVED:
            return None
        found[node] = None
        stack.extend(editor.producer(v) for v in editor.inputs(node))
    return sorted(found, key=order.__getitem__)


def move_before(editor: Editor, nodes: Iterable[Node], anchor: Node) -> None:
    """Move ``nodes``, in their order, to the place before ``anchor``."""
    for node in nodes:
        editor.move(node, anchor)
