"""Ops called outside of any trace, as fast as a jitted function."""

from __future__ import annotations

import enum
import functools
import inspect
import math
import operator
import types
from collections.abc import Callable, Sequence
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
_SETTING = 2  # all others.

# Settings that jit tells apart as they are: by their types and by ``==``.
_ATOMS = (
    *(bool, int, str, type, np.dtype, enum.Enum, types.FunctionType),
    *(lax.ConvDimensionNumbers, lax.DotAlgorithm, type(jnp.float32)),
)
# Settings that it does not: 0.0 and -0.0, NaN, (1,) and (True,), and what cannot be hashed.
_NUMBERS = frozenset({float, complex})
_DELICATE = _NUMBERS | {tuple, list, dict, Activation}
# A program makes new types, or as many kinds of calls, only if something is amiss.
_MOST_PLANS = 1024


class _Unknown(Exception):
    """A call holds what cannot be part of a program."""


class _Plan(NamedTuple):
    """How calls with values of certain types run."""

    run: Callable[..., Any] | None  # None: as they are, that is, by the function itself
    pick: Callable[[Any], Any]  # of a call's values, those that ``run`` takes
    delicate: tuple[int, ...]  # where among all values settings are that may have to be `_encoded`


_AS_IT_IS = _Plan(None, tuple, ())


def eagerly_jitted(fn: Function) -> Function:
    """``fn``, its checks and its binding done once for each kind of call.

    Outside of any trace the whole function runs under `jax.jit`: one for each set of the arguments'
    types, settings being static. Everywhere else, and where an operand is a Python number or list,
    it is ``fn`` itself, so that a graph holds the op and no ``jit`` around it. For functions that
    read no operand's values and take no ``**options``. Errors are those of ``fn``, `explained`; it
    is called anew to raise them.
    """
    if not fn.__name__.startswith("_"):  # the errors of parts of an op are those of the op
        fn = explained(fn)
    parameters = tuple(inspect.signature(fn).parameters.values())
    several = any(p.kind is p.VAR_POSITIONAL for p in parameters)
    keywords = tuple(p.name for p in parameters if p.kind is p.KEYWORD_ONLY)
    positional = len(parameters) - len(keywords)
    kinds = tuple(map(_kind, parameters))
    plans: dict[tuple[Any, ...], _Plan] = {}

    def itself(values: Sequence[Any]) -> Any:
        """``fn`` called with all of a call's values."""
        if several:
            return fn(*values)
        return fn(*values[:positional], **dict(zip(keywords, values[positional:], strict=True)))

    def planned(values: tuple[Any, ...]) -> _Plan:
        of = kinds * len(values) if several else kinds
        try:
            settings = [i for i, v in enumerate(values) if _is_setting(v, of[i])]
        except _Unknown:
            return _AS_IT_IS
        # What is None is so for every call of these types, and costs each some time in jit.
        given = [i for i, v in enumerate(values) if v is not None]
        count = len(values)  # the values themselves are not to be kept alive

        def run(*picked: Any) -> Any:
            whole: list[Any] = [None] * count
            for i, value in zip(given, picked, strict=True):
                whole[i] = _decoded(value)
            return itself(whole)

        run.__name__ = fn.__name__
        return _Plan(
            jax.jit(run, static_argnums=[n for n, i in enumerate(given) if i in settings]),
            _picker(given),
            tuple(i for i in settings if type(values[i]) in _DELICATE),
        )

    def dispatch(types: tuple[type, ...], values: tuple[Any, ...]) -> Any:
        if under_trace():
            return itself(values)
        plan = plans.get(types)
        if plan is None:
            if len(plans) == _MOST_PLANS:
                plans.clear()
            plan = plans[types] = planned(values)
        run, pick, delicate = plan
        if run is None:
            return itself(values)
        try:
            for i in delicate:
                if not _told_apart(values[i]):
                    return run(*pick(_encoded_at(delicate, values)))
            return run(*pick(values))
        except _Unknown:
            plan = None
        except (TypeError, ValueError):
            pass
        out = itself(values)  # raises the error, if it is one
        if plan is not None:
            # A NumPy number that is a setting, say, and that jit took for an operand.
            plans[types] = _AS_IT_IS
        return out

    call = functools.wraps(fn)(_with_signature(fn.__name__, parameters, dispatch))
    call.eagerly_jitted = True  # type: ignore[attr-defined]
    return call  # type: ignore[return-value]


def _with_signature(
    name: str, parameters: Sequence[inspect.Parameter], dispatch: Callable[..., Any]
) -> Any:
    """``dispatch`` of all values in order, behind a signature.

    Python sorts a call's arguments by a signature much faster than any function in Python could,
    hence the generated text. It holds the parameters' names and nothing else that varies.
    """
    several = any(p.kind is p.VAR_POSITIONAL for p in parameters)
    if any(p.kind is p.VAR_KEYWORD for p in parameters) or (several and len(parameters) > 1):
        raise TypeError("an op dispatched as a whole has named parameters, or *several and no more")
    header, types, values = [], "", ""
    for i, p in enumerate(parameters):
        if p.kind is p.KEYWORD_ONLY and "*" not in header:
            header.append("*")
        star = "*" if several else ""
        header.append(f"{star}{p.name}" + f"=_defaults[{i}]" * (p.default is not p.empty))
        values += f"{star}{p.name}, "
        types += f"*map(_type, {p.name}), " if several else f"_type({p.name}), "
    defaults = [p.default for p in parameters]
    space = {"_dispatch": dispatch, "_defaults": defaults, "_type": type}
    text = f"def call({', '.join(header)}): return _dispatch(({types}), ({values}))"
    # In a file of this folder, so that it is never taken for the line in the user's code.
    exec(compile(text, f"{__file__}: {name}", "exec"), space)
    return space["call"]


def _picker(places: Sequence[int]) -> Callable[[Any], Any]:
    """A function, not one in Python, that gives the values at ``places`` as a sequence."""
    first = places[0] if places else 0
    if list(places) == list(range(first, first + len(places))):
        return operator.itemgetter(slice(first, first + len(places)))
    return operator.itemgetter(*places)


def _kind(parameter: inspect.Parameter) -> int:
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
        for entry in value:  # written out: this is on the way of every such call
            if type(entry) is not int and (type(entry) is not tuple or not _told_apart(entry)):
                return False
        return True
    if kind is float:
        return value == value and (value != 0 or math.copysign(1, value) > 0)
    return kind is Activation and not value.params


class _Encoded(NamedTuple):
    """A setting as jit may tell it apart: 1, 1.0 and True are three."""

    kind: type
    value: Any  # text for floats: 0.0 and -0.0 are two, NaN is one


class _Several(tuple[Any, ...]):
    """A list that jit tells apart, were it a tuple."""


def _encoded_at(places: Sequence[int], values: Sequence[Any]) -> list[Any]:
    """``values`` with the settings at ``places`` encoded, if they have to be."""
    encoded = list(values)
    for place in places:
        encoded[place] = _encoded(values[place])
    return encoded


def _encoded(value: Any) -> Any:
    if _told_apart(value):
        return value
    if type(value) is list and _told_apart(several := tuple(value)):
        return _Several(several)
    return _encoded_inside(value)


def _encoded_inside(value: Any) -> Any:
    """A setting, or a part of one: parts are compared by ``==`` alone."""
    kind = type(value)
    if kind is int or kind is str or (kind is tuple and _told_apart(value)):
        return value
    if kind in _NUMBERS:
        return _Encoded(kind, repr(value))
    if kind is tuple or kind is list:
        return _Encoded(kind, tuple(map(_encoded_inside, value)))
    if kind is dict:
        return _Encoded(kind, tuple([tuple(map(_encoded_inside, kv)) for kv in value.items()]))
    if kind is Activation:
        return _Encoded(kind, (value.name, _encoded_inside(value.params)))
    if value is None or issubclass(kind, _ATOMS):
        return _Encoded(kind, value)
    raise _Unknown


def _decoded(value: Any) -> Any:
    """What was given, lists and dicts as new ones."""
    if type(value) is _Several:
        return list(value)
    if type(value) is not _Encoded:
        return value
    if value.kind is tuple or value.kind is list:
        return value.kind(map(_decoded, value.value))
    if value.kind is dict:
        return {_decoded(k): _decoded(v) for k, v in value.value}
    if value.kind is Activation:
        return Activation(*map(_decoded, value.value))
    return value.kind(value.value) if value.kind in _NUMBERS else value.value
