"""Ops called outside of any trace, as fast as a jitted function."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp

from jaxpress.capture.compat import under_trace

__all__ = ["eagerly_jitted"]

Function = TypeVar("Function", bound=Callable[..., Any])


def eagerly_jitted(fn: Function) -> Function:
    """``fn``, its checks and its binding done once for each kind of call.

    Where all operands are arrays, given by position, and nothing is traced, the whole function runs
    under `jax.jit`, one for each set of keywords. Everywhere else it is ``fn`` itself, so that
    a graph holds the op and no ``jit`` around it. For functions that read no operand's values.
    """

    @functools.lru_cache(maxsize=4096)
    def jitted(settings: tuple[tuple[str, type, Any], ...]) -> Any:
        return jax.jit(functools.partial(fn, **{k: v for k, _, v in settings}))

    array = None

    @functools.wraps(fn)
    def call(*args: Any, **kwargs: Any) -> Any:
        nonlocal array
        if array is None:
            array = type(jnp.zeros(()))
        for value in args:
            if type(value) is not array:
                return fn(*args, **kwargs)
        if under_trace():
            return fn(*args, **kwargs)
        try:
            fast = jitted(tuple([(k, type(v), v) for k, v in kwargs.items()]))
        except TypeError:  # a keyword that is an array, or a list
            return fn(*args, **kwargs)
        return fast(*args)

    return call  # type: ignore[return-value]
