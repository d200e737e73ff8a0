"""What the command line works on: ``package.module:function`` or ``file.py:function``.

The function is called without arguments and gives ``(fn, args)`` or ``(fn, args, kwargs)``: what
to trace, and what with. Arguments may be arrays or ``jax.ShapeDtypeStruct``.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import inspect
import os
import sys
import traceback
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import prod
from pathlib import Path
from types import FrameType, ModuleType
from typing import Any

from jaxpress.capture.errors import TargetError

__all__ = ["Target", "describe_error", "load_target"]

_HOW = 'write it as "package.module:function" or "path/file.py:function"'
_LONGEST = 600  # characters of another library's message


@dataclass(frozen=True)
class Target:
    """A function with arguments to trace it for.

    Attributes:
      name: as it was asked for.
      fn: the function.
      args: its positional arguments.
      kwargs: its keyword arguments.
    """

    name: str
    fn: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any] = field(default_factory=dict)

    def shapes_only(self) -> int:
        """How many arguments are shapes without values."""
        import jax

        leaves = jax.tree_util.tree_leaves((self.args, dict(self.kwargs)))
        return sum(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in leaves)

    def with_arrays(self) -> Target:
        """The same target with an array for each ``jax.ShapeDtypeStruct``.

        Floating arrays are drawn from a fixed seed. One that is an argument itself is taken for
        data: standard normal. One inside a container is taken for a weight: normal with variance
        1 / fan-in, so that values keep their size through many layers, and uniform between 0.5
        and 1.5 with one axis or none, since a variance must be positive. Integers and booleans
        are zeros, since any other index might be out of range.

        Raises:
          TargetError: a shape has a dimension without a number.
        """
        import jax

        def fill(path: Any, leaf: Any) -> Any:
            if not isinstance(leaf, jax.ShapeDtypeStruct):
                return leaf
            place = ("kwargs" if path[0].idx else "args") + jax.tree_util.keystr(path[1:])
            if not all(isinstance(n, int) for n in leaf.shape):
                raise TargetError(
                    f'target "{self.name}": {place} has the shape {_text(leaf.shape)}; running it '
                    "needs a number for every dimension"
                )
            # path[0] is args or kwargs, path[1] the argument.
            return _array(leaf, place, is_weight=len(path) > 2)

        filled = jax.tree_util.tree_map_with_path(fill, (self.args, dict(self.kwargs)))
        return replace(self, args=filled[0], kwargs=filled[1])


def load_target(text: str) -> Target:
    """Import a target and ask it for its function and arguments.

    The folder of the file (the current folder, for a module) is on ``sys.path`` meanwhile, and no
    longer. What the target prints goes to stderr.

    Args:
      text: ``package.module:function`` or ``path/file.py:function``; the function may be dotted
        (``Class.method``).

    Returns:
      The target.

    Raises:
      TargetError: the text has another form; the file, module or function is missing; importing
        or calling it fails; or it gives something else than ``(fn, args)``.
    """
    place, separator, attribute = text.rpartition(":")
    if not separator or not place or not attribute:
        missing = "no function" if not separator or not attribute else "no module or file"
        raise TargetError(f'target "{text}" names {missing}; {_HOW}')
    if not all(part.isidentifier() for part in attribute.split(".")):
        raise TargetError(f'target "{text}": "{attribute}" is no function\'s name; {_HOW}')
    is_file = place.endswith(".py") or os.sep in place or "/" in place
    folder = os.path.dirname(os.path.abspath(place)) if is_file else os.getcwd()
    with _importing_from(folder), contextlib.redirect_stdout(sys.stderr):
        module = _import_file(text, place) if is_file else _import_module(text, place)
        function = _attribute(text, module, attribute)
        return _call(text, function)


@contextlib.contextmanager
def _importing_from(folder: str) -> Iterator[None]:
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):  # the target may have changed the path itself
            sys.path.remove(folder)


def _import_file(text: str, place: str) -> ModuleType:
    path = Path(place)
    if not path.exists():
        named = Path(f"{place}.py")
        hint = f"; did you mean {named}?" if named.is_file() else ""
        raise TargetError(f'target "{text}": there is no file {path} in {Path.cwd()}{hint}')
    if path.suffix != ".py" or not path.is_file():
        raise TargetError(f'target "{text}": {path} is no Python file; {_HOW}')
    # A name of its own: a file called json.py must not stand in for the library.
    name = f"jaxpress_target_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pickle look their module up there
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        raise TargetError(
            f'target "{text}": importing it failed: {describe_error(error)}'
        ) from error
    return module


def _import_module(text: str, place: str) -> ModuleType:
    if not all(part.isidentifier() for part in place.split(".")):
        raise TargetError(f'target "{text}": "{place}" is no module\'s name; {_HOW}')
    importlib.invalidate_caches()
    try:
        return importlib.import_module(place)
    except ModuleNotFoundError as error:
        missing = error.name or ""
        if place == missing or place.startswith(f"{missing}."):
            raise TargetError(
                f'target "{text}": there is no module "{missing}" on Python\'s path or in '
                f"{Path.cwd()}"
            ) from error
        raise TargetError(
            f'target "{text}": importing it failed: {describe_error(error)}'
        ) from error
    except (Exception, SystemExit) as error:
        raise TargetError(
            f'target "{text}": importing it failed: {describe_error(error)}'
        ) from error


def _attribute(text: str, module: ModuleType, attribute: str) -> Callable[[], Any]:
    found: Any = module
    for part in attribute.split("."):
        try:
            found = getattr(found, part)
        except AttributeError:
            holder = module.__file__ if found is module else type(found).__name__
            raise TargetError(
                f'target "{text}": {holder} has no "{part}"{_functions_of(found)}'
            ) from None
    if not callable(found):
        raise TargetError(
            f'target "{text}": {attribute} is {_a(found)}, not a function that gives (fn, args)'
        )
    return found


def _functions_of(holder: Any) -> str:
    own = [
        name
        for name, value in vars(holder).items()
        if inspect.isfunction(value) and not name.startswith("_")
        if not isinstance(holder, ModuleType) or value.__module__ == holder.__name__
    ]
    return f"; its functions are {', '.join(own[:12])}" if own else ""


def _call(text: str, function: Callable[[], Any]) -> Target:
    try:
        inspect.signature(function).bind()
    except ValueError:  # a callable without a signature: calling it will tell
        pass
    except TypeError as error:
        raise TargetError(
            f'target "{text}" is called without arguments, and {error}; make a function that '
            "takes none and returns (fn, args)"
        ) from error
    try:
        given = function()
    except (Exception, SystemExit) as error:
        raise TargetError(f'target "{text}": calling it failed: {describe_error(error)}') from error
    wrong = _wrong(given)
    if wrong:
        raise TargetError(
            f'target "{text}" must return (fn, args) or (fn, args, kwargs), a function with the '
            f"arguments to trace it for, but {wrong}"
        )
    return Target(text, *given)


def _wrong(given: Any) -> str:
    """What is wrong with what a target gave; empty where nothing is."""
    if not isinstance(given, tuple):
        return f"it returned {_a(given)}"
    if len(given) not in (2, 3):
        return f"it returned a tuple of {len(given)}"
    fn, args, kwargs = (*given, {})[:3]
    if not callable(fn):
        return f"its fn is {_a(fn)}, which cannot be called"
    if not isinstance(args, tuple):
        return f"its args is {_a(args)}, not a tuple: write (fn, (x,))"
    if not isinstance(kwargs, Mapping) or not all(isinstance(key, str) for key in kwargs):
        return f"its kwargs is {_a(kwargs)}, not a dict with names as keys"
    return ""


def _a(thing: Any) -> str:
    return "None" if thing is None else f"a value of type {type(thing).__name__}"


def describe_error(error: BaseException, *, anywhere: bool = False) -> str:
    """An error in one line, with the last line of the user's own code that led to it.

    Args:
      error: what was raised.
      anywhere: where no line is the user's, whether to name the last one of a library's.
    """
    text = " ".join(str(error).split())
    if len(text) > _LONGEST:
        text = f"{text[:_LONGEST]} ..."
    said = f"{type(error).__name__}: {text}" if text else type(error).__name__
    if isinstance(error, SyntaxError):  # it carries its own place
        return said
    frames = list(traceback.walk_tb(error.__traceback__))
    own = [frame for frame in frames if _is_the_users(frame[0])] or (frames if anywhere else [])
    if not own:
        return said
    frame, line = own[-1]
    return f"{said} ({frame.f_code.co_filename}:{line})"


def _is_the_users(frame: FrameType) -> bool:
    """Whether a frame runs neither jaxpress itself nor an installed library."""
    name, file = frame.f_globals.get("__name__") or "", frame.f_code.co_filename
    if name.partition(".")[0] in ("jaxpress", "importlib") or file.startswith("<frozen"):
        return False
    return not any(part in ("site-packages", "dist-packages") for part in Path(file).parts)


def _text(shape: Sequence[Any]) -> str:
    return f"({', '.join(map(str, shape))})"


def _array(leaf: Any, place: str, *, is_weight: bool) -> Any:
    import jax
    import numpy as np

    if jax.numpy.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        for impl in ("threefry2x32", "rbg", "unsafe_rbg"):
            key = jax.random.key(0, impl=impl)
            if key.dtype == leaf.dtype:
                return jax.random.split(key, leaf.shape)
        raise TargetError(f"cannot make a random key of type {leaf.dtype}; give one as an argument")
    if not jax.numpy.issubdtype(leaf.dtype, jax.numpy.inexact):
        return jax.numpy.zeros(leaf.shape, leaf.dtype)
    rng = np.random.default_rng(zlib.crc32(place.encode()))
    if not is_weight:
        drawn = rng.standard_normal(leaf.shape)
    elif len(leaf.shape) < 2:
        drawn = rng.uniform(0.5, 1.5, leaf.shape)
    else:
        drawn = rng.standard_normal(leaf.shape) / np.sqrt(max(1, prod(leaf.shape[:-1])))
    return jax.numpy.asarray(drawn, leaf.dtype)
