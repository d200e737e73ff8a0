"""Ops called outside of any trace, as fast as a jitted function."""

from __future__ import annotations

import enum
import functools
import inspect
import types
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxpress.capture.compat import is_tracer, under_trace
from jaxpress.nnops.activation_spec import Activation
from jaxpress.nnops.errors import explained

__all__ = ["eagerly_jitted"]

Function = TypeVar("Function", bound=Callable[..., Any])

# What a parameter may be given, read off the signature: ``Any`` or no annotation may be an array.
_OPERAND = 0  # by position: arrays. A number there is an operand too, and no part of the program.
_EITHER = 1  # by keyword: arrays and settings, but for floats, which may be an operand as above.
_OPTIONS = 2  # ``**options``: arrays and settings.
_SETTING = 3  # all others.

# Settings that jit tells apart as they are: by their types and by ``==``.
_ATOMS = (
    *(bool, int, str, type, np.dtype, enum.Enum, types.FunctionType),
    *(lax.ConvDimensionNumbers, lax.DotAlgorithm, type(jnp.float32)),
)
# Settings that it does not: 0.0 and -0.0, NaN, (1,) and (True,), and what cannot be hashed.
_NUMBERS = frozenset({float, complex})
_DELICATE = _NUMBERS | {tuple, list, dict, Activation}
# The types in the tuples that it tells apart.
_INTEGERS = frozenset((int,) * n for n in range(9))
# A program makes new types, or as many kinds of calls, only if something is amiss.
_MOST_PLANS = 1024


class _Unknown(Exception):
    """A call holds what cannot be part of a program."""


class _Plan(NamedTuple):
    """How calls with values of certain types run."""

    run: Callable[..., Any] | None  # None: as they are, that is, by the function itself
    places: tuple[int, ...]  # of settings by position that are `_encoded`
    names: tuple[str, ...]  # of those by keyword


_AS_IT_IS = _Plan(None, (), ())


def eagerly_jitted(fn: Function) -> Function:
    """``fn``, its checks and its binding done once for each kind of call.

    Outside of any trace the whole function runs under `jax.jit`: one for each set of the arguments'
    types, settings being static. Everywhere else, and where an operand is a Python number or list,
    it is ``fn`` itself, so that a graph holds the op and no ``jit`` around it. For functions that
    read no operand's values. Errors are those of ``fn``, `explained`; it is called anew to raise
    them.
    """
    if not fn.__name__.startswith("_"):  # the errors of parts of an op are those of the op
        fn = explained(fn)
    parameters = inspect.signature(fn).parameters.values()
    positional = tuple(_kind(p) for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD)
    several = [_OPERAND] * 8 * any(p.kind is p.VAR_POSITIONAL for p in parameters)
    positional = (*positional, *several)
    named = {p.name: _kind(p) for p in parameters}
    others = _OPTIONS if any(p.kind is p.VAR_KEYWORD for p in parameters) else _SETTING
    plans: dict[tuple[Any, ...], _Plan] = {}

    def planned(args: tuple[Any, ...], kwargs: dict[str, Any]) -> _Plan:
        if len(args) > len(positional):
            return _AS_IT_IS
        try:
            place = {i: _is_setting(v, positional[i]) for i, v in enumerate(args)}
            name = {k: _is_setting(v, named.get(k, others)) for k, v in kwargs.items()}
        except _Unknown:
            return _AS_IT_IS
        static = [i for i, setting in place.items() if setting]
        static_names = [k for k, setting in name.items() if setting]
        places = tuple(i for i in static if type(args[i]) in _DELICATE)
        names = tuple(k for k in static_names if type(kwargs[k]) in _DELICATE)

        def run(*args: Any, **kwargs: Any) -> Any:
            return fn(*map(_decoded, args), **{k: _decoded(v) for k, v in kwargs.items()})

        run.__name__ = fn.__name__
        return _Plan(
            jax.jit(run, static_argnums=static, static_argnames=static_names), places, names
        )

    @functools.wraps(fn)
    def call(*args: Any, **kwargs: Any) -> Any:
        if under_trace():
            return fn(*args, **kwargs)
        kinds = tuple(map(type, args))
        if kwargs:
            kinds = (*kinds, *kwargs, *map(type, kwargs.values()))
        plan = plans.get(kinds)
        if plan is None:
            if len(plans) == _MOST_PLANS:
                plans.clear()
            plan = plans[kinds] = planned(args, kwargs)
        run, places, names = plan
        if run is None:
            return fn(*args, **kwargs)
        try:
            for i in places:
                if not _told_apart(args[i]):
                    return run(*_encoded_at(places, args), **_encoded_at(names, kwargs))
            for k in names:
                if not _told_apart(kwargs[k]):
                    return run(*_encoded_at(places, args), **_encoded_at(names, kwargs))
            return run(*args, **kwargs)
        except _Unknown:
            plan = None
        except (TypeError, ValueError):
            pass
        out = fn(*args, **kwargs)  # raises the error, if it is one
        if plan is not None:
            # A NumPy number that is a setting, say, and that jit took for an operand.
            plans[kinds] = _AS_IT_IS
        return out

    call.eagerly_jitted = True  # type: ignore[attr-defined]
    return call  # type: ignore[return-value]


def _kind(parameter: inspect.Parameter) -> int:
    if parameter.kind is parameter.VAR_KEYWORD:
        return _OPTIONS
    if parameter.annotation not in ("Any", Any, parameter.empty):
        return _SETTING
    return _EITHER if parameter.kind is parameter.KEYWORD_ONLY else _OPERAND


def _is_setting(value: Any, kind: int) -> bool:
    """Whether a value is a setting, told by its type; it is an array, or None, otherwise.

    Raises:
        _Unknown: it is neither.
    """
    if value is None:
        return False
    if is_tracer(value):  # one that outlived its trace
        raise _Unknown
    if kind is not _SETTING and isinstance(value, np.ndarray | np.generic | jax.Array):
        return False
    which = type(value)
    if kind is _OPERAND or (kind is _EITHER and which in _NUMBERS):
        raise _Unknown
    if which in _DELICATE or issubclass(which, _ATOMS):
        return True
    raise _Unknown


def _told_apart(value: Any) -> bool:
    """Whether jit tells a `_DELICATE` setting apart as it is."""
    kind = type(value)
    if kind is tuple:
        return tuple(map(type, value)) in _INTEGERS
    if kind is Activation:
        return not value.params
    return kind is float and value != 0 and value == value


class _Encoded(NamedTuple):
    """A setting as jit may tell it apart: 1, 1.0 and True are three, and lists can be hashed."""

    kind: type
    value: Any  # text for floats: 0.0 and -0.0 are two, NaN is one


def _encoded_at(places: Any, values: Any) -> Any:
    """``values``, a tuple or a dict, with the settings at ``places`` encoded."""
    encoded = dict(values) if isinstance(values, dict) else list(values)
    for place in places:
        encoded[place] = _encoded(values[place])
    return encoded


def _encoded(value: Any) -> _Encoded:
    kind = type(value)
    if kind in _NUMBERS:
        return _Encoded(kind, repr(value))
    if kind is tuple or kind is list:
        return _Encoded(kind, tuple(map(_encoded, value)))
    if kind is dict:
        return _Encoded(kind, tuple([(_encoded(k), _encoded(v)) for k, v in value.items()]))
    if kind is Activation:
        return _Encoded(kind, (value.name, _encoded(value.params)))
    if value is None or issubclass(kind, _ATOMS):
        return _Encoded(kind, value)
    raise _Unknown


def _decoded(value: Any) -> Any:
    """What was given, lists and dicts as new ones."""
    if type(value) is not _Encoded:
        return value
    if value.kind is tuple or value.kind is list:
        return value.kind(map(_decoded, value.value))
    if value.kind is dict:
        return {_decoded(k): _decoded(v) for k, v in value.value}
    if value.kind is Activation:
        return Activation(*map(_decoded, value.value))
    return value.kind(value.value) if value.kind in _NUMBERS else value.value
