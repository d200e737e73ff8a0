"""The equations of `einsum_dense`: which axes of x and w meet, and where the others go."""

from __future__ import annotations

import functools
import re
import string
from dataclasses import dataclass

from jaxpress.nnops.errors import OpError

__all__ = ["Equation", "canonical_equation", "parse_equation"]

_FORM = re.compile(r"([a-zA-Z]*(?:\.\.\.)?[a-zA-Z]*),([a-zA-Z]*)->([a-zA-Z]*(?:\.\.\.)?[a-zA-Z]*)")
_MEND = (
    'write it as "...d,dhk->...hk": the ellipsis leads, each axis of w is summed with one of x or '
    "comes out, and no axis of x is summed alone"
)


@dataclass(frozen=True)
class Equation:
    """An equation ``"...x,w->...out"``: the labels behind the ellipsis of x, of w, of the result.

    Attributes:
        x: the labels of x's last axes.
        w: the labels of all of w's axes.
        out: the labels of the result's last axes.
    """

    x: str
    w: str
    out: str

    @property
    def contracted(self) -> str:
        """The labels that are summed over, in w's order."""
        return "".join(c for c in self.w if c not in self.out)

    @property
    def batch(self) -> str:
        """The labels that x, w and the result share, in w's order: one product for each."""
        return "".join(c for c in self.w if c in self.x and c in self.out)

    @property
    def features(self) -> str:
        """The labels that the result has from w alone, in the result's order."""
        return "".join(c for c in self.out if c not in self.x)

    @property
    def bias(self) -> str:
        """The labels that a bias has: all that the result shares with w, in the result's order."""
        return "".join(c for c in self.out if c in self.w)

    @property
    def bias_axes(self) -> tuple[int, ...]:
        """The result's axes along which a bias runs, counted from the end."""
        return tuple(self.out.index(c) - len(self.out) for c in self.bias)

    def __str__(self) -> str:
        return f"...{self.x},{self.w}->...{self.out}"


@functools.lru_cache(maxsize=1024)
def parse_equation(equation: str) -> Equation:
    """A canonical equation, as the parameter of a node, in its parts."""
    left, out = equation.split("->")
    x, w = left.split(",")
    return Equation(x.removeprefix("..."), w, out.removeprefix("..."))


@functools.lru_cache(maxsize=1024)
def canonical_equation(equation: str, x_ndim: int | None = None) -> str:
    """An equation with an ellipsis in front and the letters a, b, c in their order.

    Leading axes that x and the result have in common, and w has not, are in the ellipsis.

    Args:
        equation: as for jnp.einsum with the two operands x and w.
        x_ndim: how many axes x has; needed only where an ellipsis does not lead.

    Returns:
        ``"...x,w->...out"``.

    Raises:
        OpError: it is no equation of this kind.

    Example:
        >>> canonical_equation("btd,dhk->bthk")
        '...a,abc->...bc'
    """
    found = _FORM.fullmatch(equation.replace(" ", "")) if isinstance(equation, str) else None
    if found is None:
        raise OpError("einsum_dense", f"equation is {equation!r}", mend=_MEND)
    x, w, out = found.groups()
    if ("..." in x) != ("..." in out):
        raise OpError(
            "einsum_dense", f"equation {equation!r} has an ellipsis on one side alone", mend=_MEND
        )
    if "..." in x and not (x.startswith("...") and out.startswith("...")):
        if x_ndim is None:
            raise OpError("einsum_dense", f"the ellipsis of {equation!r} does not lead", mend=_MEND)
        spare = [c for c in string.ascii_letters if c not in equation]
        between = "".join(spare[: x_ndim - len(x) + 3])
        x, out = x.replace("...", between), out.replace("...", between)
    x, out = x.removeprefix("..."), out.removeprefix("...")
    for labels in (x, w, out):
        if len(set(labels)) < len(labels):
            raise OpError("einsum_dense", f"a label comes twice in {equation!r}", mend=_MEND)
    while x and out and x[0] == out[0] and x[0] not in w:
        x, out = x[1:], out[1:]
    lost = set(x) - set(w) - set(out) | set(w) - set(x) - set(out)
    if lost or not set(out) <= set(x) | set(w):
        which = sorted(lost) or sorted(set(out) - set(x) - set(w))
        raise OpError(
            "einsum_dense",
            f"in {equation!r} {which} are on one side of the arrow alone",
            mend=_MEND,
        )
    names = {c: string.ascii_letters[i] for i, c in enumerate(dict.fromkeys(x + w))}
    return str(Equation(*("".join(names[c] for c in labels) for labels in (x, w, out))))
