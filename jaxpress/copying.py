"""Copies of optimised functions, and what ``pickle`` keeps of them."""

from __future__ import annotations

import pickle
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from jaxpress.capture import PassError
from jaxpress.passes import Pipeline, pipeline_of

if TYPE_CHECKING:
    from jaxpress.optimize import Optimized

__all__ = ["made_again", "recipe"]


def made_again(made: Optimized, fn: Callable[..., Any]) -> Optimized:
    """The same passes and options for another function; nothing is compiled or prepared yet."""
    return type(made)(fn, made.pipeline, *_options(made))


def recipe(made: Optimized) -> Any:
    """What ``pickle`` asks of ``__reduce__``: the function, and the passes by name.

    Compiled programs and prepared weights belong to the process that made them.

    Raises:
      pickle.PicklingError: a pass is none that jaxpress has by name.
    """
    module = sys.modules.get(getattr(made.fn, "__module__", None) or "")
    name = getattr(made.fn, "__qualname__", "")
    if getattr(module, name, None) is made:
        return name  # a decorated function, which is found where it was defined
    names = [p.name for p in made.pipeline]
    try:
        known = pipeline_of(names).passes
    except PassError:
        known = ()
    if known != tuple(made.pipeline.passes):
        raise pickle.PicklingError(
            f"{made!r} cannot be pickled: it has passes, or kernels, of its own; pickle the "
            "original function, and call jaxpress.optimize on it again"
        )
    return _from_recipe, (type(made), made.fn, names, made.pipeline.name, _options(made))


def _from_recipe(
    kind: type[Optimized],
    fn: Callable[..., Any],
    names: Sequence[str],
    title: str,
    options: tuple[Any, ...],
) -> Optimized:
    return kind(fn, Pipeline(pipeline_of(names).passes, title), *options)


def _options(made: Optimized) -> tuple[Any, ...]:
    places = made._static_argnums, made._static_argnames
    return (made._weight_argnums, made._verify, *places)
