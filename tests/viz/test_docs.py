"""The examples in the docstrings of viz run, and its public names exist."""

import doctest
import importlib
import pkgutil

import pytest

from jaxpress import viz

MODULES = sorted(m.name for m in pkgutil.walk_packages(viz.__path__, viz.__name__ + "."))


@pytest.mark.parametrize("name", MODULES)
def test_examples_run(name: str) -> None:
    assert doctest.testmod(importlib.import_module(name)).failed == 0


def test_public_functions_have_examples() -> None:
    for function in (viz.render, viz.op_rows, viz.op_table):
        assert ">>> " in (function.__doc__ or "")


def test_all_names_exist_once() -> None:
    for name in [viz.__name__, *MODULES]:
        module = importlib.import_module(name)
        assert len(set(module.__all__)) == len(module.__all__)
        assert all(hasattr(module, n) for n in module.__all__)
