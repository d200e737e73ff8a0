"""What the tests of the command line share: targets on disk, and a way to run a command."""

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from typer.testing import CliRunner

from jaxpress.cli_app import make_app

TARGETS = '''
import functools

import jax
import jax.numpy as jnp
import numpy as np

import sibling


def scaled():
    """A matrix product with a scale that folds into the weights."""
    print("the target talks")
    w = np.arange(12, dtype="float32").reshape(3, 4)
    def net(x):
        print("so does its function")
        return {"y": jnp.tanh((x @ w) * np.float32(sibling.SCALE))}
    return net, (np.ones((2, 3), "float32"),)


def shapes():
    """Weights and data as shapes only, and a keyword."""
    def net(params, x, ids, *, gain):
        return jax.nn.relu(x @ params["w"] + params["b"])[ids] * gain
    w = {"w": jax.ShapeDtypeStruct((3, 4), "float32"), "b": jax.ShapeDtypeStruct((4,), "float32")}
    args = (w, jax.ShapeDtypeStruct((2, 3), "float32"), jax.ShapeDtypeStruct((5,), "int32"))
    return net, args, {"gain": jax.ShapeDtypeStruct((), "float32")}


class Nested:
    @staticmethod
    def sine():
        return jnp.sin, (1.0,)


def needs_argument(x):
    return jnp.sin, (x,)


def raises():
    raise RuntimeError("no weights\\nhere")


def leaves():
    raise SystemExit(3)


def untraceable():
    return (lambda x: x if x > 0 else -x), (np.float32(1),)


def fails_in_trace():
    def net(x):
        return x @ jnp.ones((7, 7))
    return net, (np.ones((2, 3), "float32"),)


def leaves_in_trace():
    def net(x):
        raise SystemExit(4)
    return net, (1.0,)


def symbolic():
    x = jax.ShapeDtypeStruct(jax.export.symbolic_shape("b, 3"), "float32")
    return (lambda x: jnp.sin(x)), (), {"x": x}


def too_large():
    return jnp.sin, (jax.ShapeDtypeStruct((10**9, 10**9), "float32"),)


def takes_text():
    return (lambda x: x), ("text",)


def gives_none(): return None
def gives_function(): return jnp.sin
def gives_four(): return 1, 2, 3, 4
def gives_no_function(): return 3, (1.0,)
def gives_bare_array(): return jnp.sin, np.ones(3)
def gives_bad_kwargs(): return jnp.sin, (1.0,), {1: 2}

not_callable = 3
'''


@dataclass
class Done:
    """What a command did."""

    code: int
    out: str
    err: str


Run = Callable[..., Done]


@pytest.fixture
def run() -> Run:
    """Runs the command line in this process."""

    def run(*args: object) -> Done:
        result = CliRunner().invoke(make_app(), [str(arg) for arg in args])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return Done(result.exit_code, result.stdout, result.stderr)

    return run


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A working folder with targets.py, a module that it imports, and one that does not parse."""
    (tmp_path / "targets.py").write_text(TARGETS)
    (tmp_path / "sibling.py").write_text("SCALE = 0.5\n")
    (tmp_path / "broken.py").write_text("def f(:\n")
    (tmp_path / "imports_nothing.py").write_text("import there_is_no_such_module\n")
    (tmp_path / "notes.txt").write_text("no code\n")
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    for name, module in list(sys.modules.items()):
        if str(getattr(module, "__file__", None)).startswith(str(tmp_path)):
            del sys.modules[name]
