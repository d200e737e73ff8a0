"""The multigraph that a graph becomes for networkx; imported only where one is made."""

from __future__ import annotations

from typing import Any

import networkx

__all__ = ["Network"]


class Network(networkx.MultiDiGraph):
    """A ``networkx.MultiDiGraph`` that also holds the multigraphs of bodies and of the prologue.

    Attributes:
      bodies: by an op's id, its bodies by name, such as ``{"scan_1": {"jaxpr": ...}}``.
      prologue: what runs once per set of weights; None where there is nothing of the kind.
    """

    def __init__(self, *args: Any, **attributes: Any):
        super().__init__(*args, **attributes)
        self.bodies: dict[str, dict[str, Network]] = {}
        self.prologue: Network | None = None
