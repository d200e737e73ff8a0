"""Names for new values, none of which a graph has already."""

from __future__ import annotations

from collections.abc import Iterable

__all__ = ["Names"]


class Names:
    """Gives out ``"sin_12"``: a stem and the next free number.

    Numbers rise over a whole graph and its later versions, so that a name is never used again.

    Attributes:
      next_id: the next number to be tried.
    """

    def __init__(self, taken: Iterable[str], next_id: int = 0):
        # What an argument is called is up to the user: it may well be called "sin_12".
        self._taken = frozenset(taken)
        self.next_id = next_id

    def fresh(self, stem: str) -> str:
        """A name that starts with ``stem`` and is new.

        >>> names = Names(["sin_0"])
        >>> names.fresh("sin"), names.fresh("cos")
        ('sin_1', 'cos_2')
        """
        while True:
            name = f"{stem}_{self.next_id}"
            self.next_id += 1
            if name not in self._taken:
                return name
