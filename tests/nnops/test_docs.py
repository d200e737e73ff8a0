"""The examples in the docstrings of nnops run, and every public function has one."""

import doctest
import importlib
import inspect
import pkgutil

import pytest

from jaxpress import nnops

MODULES = sorted(
    m.name for m in pkgutil.walk_packages(nnops.__path__, nnops.__name__ + ".") if not m.ispkg
)


@pytest.mark.parametrize("name", MODULES)
def test_examples_run(name):
    module = importlib.import_module(name)
    result = doctest.testmod(module, optionflags=doctest.ELLIPSIS)
    assert result.failed == 0


def test_every_public_function_has_an_example():
    functions = {n: getattr(nnops, n) for n in nnops.__all__}
    functions = {n: f for n, f in functions.items() if inspect.isfunction(f)}
    assert {"dense", "conv", "relu", "max_pool"} <= set(functions)
    assert [n for n, f in functions.items() if ">>> " not in (f.__doc__ or "")] == []


def test_all_names_exist_once():
    assert len(set(nnops.__all__)) == len(nnops.__all__)
    assert all(hasattr(nnops, name) for name in nnops.__all__)
