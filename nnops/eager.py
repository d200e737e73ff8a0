"""Ops called outside of any trace, as fast as a jitted function."""

from __future__ import annotations

import enum
import functools
import inspect
import types
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxpress.capture.compat import is_tracer, under_trace
from jaxpress.nnops.activation_spec import Activation
from jaxpress.nnops.errors import OpError, explained

__all__ = ["eagerly_jitted"]

Function = TypeVar("Function", bound=Callable[..., Any])

# What a parameter may be given, read off the signature: ``Any`` or no annotation may be an array.
_OPERAND = 0  # by position: arrays. A number there is an operand too, and no part of the program.
_EITHER = 1  # by keyword: arrays and settings, but for floats, which may be an operand as above.
_OPTIONS = 2  # ``**options``: arrays and settings.
_SETTING = 3  # all others.

_ATOMS = frozenset({bool, int, float, complex, str, type, np.dtype, Activation})
# Those that are settings wherever they are given by keyword, and are told apart by their types.
_PLAIN = frozenset({bool, int, str})
_OTHER_ATOMS = (
    *(type, np.dtype, enum.Enum, types.FunctionType),
    *(lax.ConvDimensionNumbers, lax.DotAlgorithm, type(jnp.float32)),
)
_ARRAY = "an array"


class _Unknown(Exception):
    """A call holds what cannot be part of a key."""


def eagerly_jitted(fn: Function) -> Function:
    """``fn``, its checks and its binding done once for each kind of call.

    Outside of any trace the whole function runs under `jax.jit`: one for each set of settings and
    of places that hold arrays. Everywhere else, and where an operand is a Python number or list, it
    is ``fn`` itself, so that a graph holds the op and no ``jit`` around it. For functions that read
    no operand's values. Errors are those of ``fn``, `explained`; it is called anew to raise them.
    """
    if not fn.__name__.startswith("_"):  # the errors of parts of an op are those of the op
        fn = explained(fn)
    parameters = inspect.signature(fn).parameters.values()
    positional = tuple(_kind(p) for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD)
    several = [_OPERAND] * 8 * any(p.kind is p.VAR_POSITIONAL for p in parameters)
    positional = (*positional, *several)
    named = {p.name: _kind(p) for p in parameters}
    others = _OPTIONS if any(p.kind is p.VAR_KEYWORD for p in parameters) else _SETTING

    @functools.lru_cache(maxsize=4096)
    def jitted(places: tuple[Any, ...], keywords: tuple[tuple[str, Any], ...]) -> Any:
        def run(*arrays: Any) -> Any:
            given = iter(arrays)
            args = [next(given) if p is _ARRAY else _decoded(p) for p in places]
            kwargs = {k: next(given) if p is _ARRAY else _decoded(p) for k, p in keywords}
            return fn(*args, **kwargs)

        run.__name__ = fn.__name__
        return jax.jit(run)

    array: Any = None

    @functools.wraps(fn)
    def call(*args: Any, **kwargs: Any) -> Any:
        nonlocal array
        if under_trace() or len(args) > len(positional):
            return fn(*args, **kwargs)
        if array is None:
            array = type(jnp.zeros(()))
        arrays: list[Any] = []
        places: list[Any] = []
        keywords: list[tuple[str, Any]] = []
        try:
            for value, kind in zip(args, positional, strict=False):
                if type(value) is array and kind is not _SETTING:
                    arrays.append(value)
                    places.append(_ARRAY)
                elif kind is _SETTING:
                    places.append(_encoded(value))
                else:
                    places.append(_place(value, kind, arrays))
            for name, value in kwargs.items():
                kind, which = named.get(name, others), type(value)
                if which is array and kind is not _SETTING:
                    arrays.append(value)
                    keywords.append((name, _ARRAY))
                elif which in _PLAIN and kind is not _OPERAND:  # as `_place` has it, without a call
                    keywords.append((name, (which, value)))
                else:
                    keywords.append((name, _place(value, kind, arrays)))
            fast = jitted(tuple(places), tuple(keywords))
        except (_Unknown, TypeError):  # TypeError: what cannot be hashed
            return fn(*args, **kwargs)
        try:
            return fast(*arrays)
        except OpError:
            pass
        return fn(*args, **kwargs)

    call.eagerly_jitted = True  # type: ignore[attr-defined]
    return call  # type: ignore[return-value]


def _kind(parameter: inspect.Parameter) -> int:
    if parameter.kind is parameter.VAR_KEYWORD:
        return _OPTIONS
    if parameter.annotation not in ("Any", Any, parameter.empty):
        return _SETTING
    return _EITHER if parameter.kind is parameter.KEYWORD_ONLY else _OPERAND


def _place(value: Any, kind: int, arrays: list[Any]) -> Any:
    """What a call's key holds for a value; an array joins ``arrays``."""
    if value is None:
        return None
    which = type(value)
    if which not in _ATOMS and kind is not _SETTING and _is_array(value, which):
        arrays.append(value)
        return _ARRAY
    if kind is _OPERAND or (kind is _EITHER and isinstance(value, float | complex)):
        raise _Unknown
    return _encoded(value)


# Of types that were seen: JAX answers by a function in Python, which takes its time.
_ARRAYS: dict[type, bool] = {}


def _is_array(value: Any, which: type) -> bool:
    known = _ARRAYS.get(which)
    if known is None:
        if is_tracer(value):  # one that outlived its trace
            raise _Unknown
        known = isinstance(value, np.ndarray | np.generic | jax.Array)
        if known:
            _ARRAYS[which] = known
    return known


def _encoded(value: Any) -> Any:
    """A setting as a key holds it: 1, 1.0 and True are three, and lists can be hashed."""
    kind = type(value)
    if kind is float or kind is complex:
        return kind, value, value or repr(value)  # 0.0 and -0.0 are two
    if kind in _ATOMS:
        return kind, value
    if kind is tuple:
        kinds = tuple(map(type, value))
        if float not in kinds and complex not in kinds and _ATOMS.issuperset(kinds):
            return kind, value, kinds
    if kind is tuple or kind is list:
        return kind, tuple([_encoded(v) for v in value])
    if kind is dict:
        return kind, tuple([(_encoded(k), _encoded(v)) for k, v in value.items()])
    if value is None or isinstance(value, _OTHER_ATOMS):
        return kind, value
    raise _Unknown


def _decoded(place: Any) -> Any:
    """The setting again, lists and dicts as new ones."""
    if place is None:
        return None
    kind, value, *told = place
    if told:
        return value
    if kind is tuple or kind is list:
        return kind([_decoded(v) for v in value])
    if kind is dict:
        return {_decoded(k): _decoded(v) for k, v in value}
    return value
