"""A picture as plain data: boxes, edges and clusters, ready for any writer."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

__all__ = ["Box", "Cluster", "Edge", "Picture"]


@dataclass(frozen=True)
class Box:
    """One box.

    Attributes:
      id: unique in its picture; letters, digits and ``_`` alone.
      kind: ``"op"``, ``"group"``, ``"input"``, ``"output"`` or ``"port"`` (what a loop carries).
      title: the line in bold.
      caption: a small line above it: the scopes that hold this box alone.
      lines: small lines below it: weights, a fused epilogue, what a group holds.
      family: a key of ``jaxpress.viz.style.FAMILIES``.
      changed: whether a pass made it.
      detail: names and values for who looks closer.
    """

    id: str
    kind: str
    title: str
    caption: str = ""
    lines: tuple[str, ...] = ()
    family: str = "other"
    changed: bool = False
    detail: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Edge:
    """An array that goes from one box to another.

    Attributes:
      source: a box's id.
      target: a box's id.
      label: the array's shape, where it is news.
      kind: ``"data"``; ``"again"`` for what a loop or a repeated block hands to its next turn;
        ``"choice"`` from what chooses a branch to the branches.
    """

    source: str
    target: str
    label: str = ""
    kind: str = "data"


@dataclass(frozen=True)
class Cluster:
    """A frame around boxes: a scope, a function, a loop or one of its bodies.

    Attributes:
      id: unique in its picture.
      label: its name.
      kind: the kind of part that it frames, see ``jaxpress.viz.parts.Part``.
      members: boxes and clusters, in the order of the graph.
    """

    id: str
    label: str
    kind: str
    members: tuple[Box | Cluster, ...]

    def boxes(self) -> Iterator[Box]:
        """Every box in it, however deep."""
        for member in self.members:
            if isinstance(member, Box):
                yield member
            else:
                yield from member.boxes()


@dataclass(frozen=True)
class Picture:
    """What is drawn.

    Attributes:
      title: the line at the top.
      subtitle: totals, and the dtype that goes without saying.
      members: boxes and clusters that lie in no cluster, in the order of the graph.
      edges: between any two boxes.
    """

    title: str
    subtitle: str
    members: tuple[Box | Cluster, ...]
    edges: tuple[Edge, ...]

    def boxes(self) -> Iterator[Box]:
        """Every box of the picture."""
        return Cluster("", "", "", self.members).boxes()

    def clusters(self) -> Iterator[Cluster]:
        """Every cluster of the picture, the outer before the inner."""

        def walk(members: tuple[Box | Cluster, ...]) -> Iterator[Cluster]:
            for member in members:
                if isinstance(member, Cluster):
                    yield member
                    yield from walk(member.members)

        return walk(self.members)
