"""Patterns: what must hold around a node for a rule to apply.

A pattern is built of small parts that read like the expression they match::

    op("mul", any_value("x"), op("logistic", any_value("x")))  # x * sigmoid(x)

Operands of commutative operations match in either order, a name that occurs twice must be the
same value, and constants compare by value. Patterns know nothing of shapes unless told to.
Every order and choice is tried until all of the pattern fits and the rule's guard agrees.

Further parts: ``passes/traced.py`` (a pattern from an ordinary function), ``passes/outputs.py``
(several results), ``passes/body.py`` (the body of a ``scan`` or a custom derivative).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from jaxpress.capture import Value
from jaxpress.capture.compat import Primitive
from jaxpress.passes.pattern_base import AnyValue, Ops, Pattern, Scalar, State
from jaxpress.passes.pattern_ops import COMMUTATIVE, AnyOf, Op, Repeated, Through
from jaxpress.passes.view import View

__all__ = [
    "COMMUTATIVE",
    "AnyOf",
    "AnyValue",
    "Op",
    "Pattern",
    "Repeated",
    "Scalar",
    "State",
    "Through",
    "any_of",
    "any_value",
    "op",
    "optional",
    "repeated",
    "scalar",
    "through",
]


def any_value(
    name: str = "", where: Callable[[View, Value], bool] | None = None, **constraints: Any
) -> AnyValue:
    """Any value, captured under ``name``.

    ``shape``, ``ndim``, ``dtype``, ``users`` and ``known`` ask for more, see
    :class:`~jaxpress.passes.constraints.Constraint`.

    >>> matrix = any_value("w", shape=("k", "n"), dtype="floating", known=True)
    """
    return AnyValue(name, where, **constraints)


def scalar(value: float | None = None, name: str = "") -> Scalar:
    """A scalar that is written in the program: this value, or any, captured under ``name``."""
    return Scalar(value, name)


def op(names: Ops, *operands: Pattern | float, **options: Any) -> Op:
    """An operation, by name or primitive; a number among the operands stands for that scalar.

    Options are those of :class:`Op`.

    >>> silu = op("mul", any_value("x"), op("logistic", any_value("x"), users=1))
    """
    parts = (p if isinstance(p, Pattern) else Scalar(p) for p in operands)
    return Op(names, *parts, **options)


def any_of(*choices: Pattern) -> AnyOf:
    """Any of several patterns, the first that fits."""
    return AnyOf(*choices)


def through(inner: Pattern, *names: str | Primitive) -> Through:
    """``inner``, possibly behind any number of operations of these names."""
    return Through(inner, names)


def optional(inner: Pattern, *names: str | Primitive) -> Through:
    """``inner``, possibly behind one operation of these names."""
    return Through(inner, names, most=1)


def repeated(inner: Pattern, at_least: int = 1) -> Repeated:
    """The rest of an operation's operands, each of which fits ``inner``.

    A name in it is captured as a tuple, and the replacement is given a list of arrays.

    >>> joined = op("concatenate", repeated(op("neg", any_value("parts"))))
    """
    return Repeated(inner, at_least)
