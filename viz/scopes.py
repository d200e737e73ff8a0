"""Name stacks: what the scopes of a node are called, and which siblings belong together."""

from __future__ import annotations

import re
from collections.abc import Sequence

from jaxpress.viz.text import clean

__all__ = ["family_prefixes", "split_scope", "stem"]

_TAGS = {"transpose": "backward", "jvp": "forward", "vmap": "", "rematted_computation": "again"}


def _scope_label(part: str) -> tuple[list[str], str]:
    """One component of a name stack without the transformations written around it.

    Returns:
      The scope names inside, and a tag: ``"transpose(jvp(a/b))"`` is ``["a", "b"]`` with the
      tag ``"backward"``.
    """
    tags = []
    while part.endswith(")") and "(" in part:
        head, _, rest = part.partition("(")
        if head not in _TAGS:
            break
        tags.append(_TAGS[head])
        part = rest[:-1]
    tag = "backward" if "backward" in tags else next((t for t in tags if t), "")
    return [p for p in part.split("/") if p], tag


def split_scope(scope: str) -> tuple[str, ...]:
    """A name stack's components, each as it is shown; text in parentheses stays together.

    >>> split_scope("transpose(jvp(Model))/Dense_0")
    ('Model (backward)', 'Dense_0')
    """
    parts, depth, start = [], 0, 0
    for i, ch in enumerate(scope):
        depth += (ch == "(") - (ch == ")")
        if ch == "/" and depth <= 0:
            parts.append(scope[start:i])
            start = i + 1
    parts.append(scope[start:])
    shown: list[str] = []
    for part in parts:
        names, tag = _scope_label(part)
        names = [clean(n, 60) for n in names]
        if names and tag:
            names[0] = f"{names[0]} ({tag})"
        shown += names
    return tuple(shown)


def stem(name: str) -> str:
    """A name with its numbers taken out, so that the layers of a stack share one.

    >>> stem("layer_12") == stem("layer_3")
    True
    """
    return re.sub(r"\d+", "#", name)


def family_prefixes(names: Sequence[str]) -> list[str]:
    """For each of the neighbouring sibling names, the block that it belongs to, or ``""``.

    Flat models number their blocks in the layers' names: ``block_1_expand``, ``block_1_project``.
    A prefix that ends in a number makes a block where neighbours with different names share it.
    The longest run is taken, and a prefix that all of them share says nothing.

    >>> family_prefixes(["stem", "block_1_conv", "block_1_bn", "block_2_conv", "block_2_bn"])
    ['', 'block_1', 'block_1', 'block_2', 'block_2']
    """
    found = [""] * len(names)
    start = 0
    while start < len(names):
        end, prefix = start + 1, ""
        for candidate in _prefixes(names[start]):
            if all(name.startswith(candidate + "_") for name in names):
                continue
            stop = start + 1
            while stop < len(names) and names[stop].startswith(candidate + "_"):
                stop += 1
            if len(set(names[start:stop])) > 1 and stop > end:
                end, prefix = stop, candidate
        found[start:end] = [prefix] * (end - start)
        start = end
    return found


def _prefixes(name: str) -> list[str]:
    """The prefixes of ``name`` that end in a number and have something after them."""
    tokens = name.split("_")
    return [
        "_".join(tokens[: i + 1])
        for i, token in enumerate(tokens[:-1])
        if token and any(ch.isdigit() for ch in token)
    ]
