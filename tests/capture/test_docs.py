"""The examples in the docstrings run, and give what they say."""

from __future__ import annotations

import doctest
import importlib
import pkgutil

import pytest

import jaxpress.capture

MODULES = [m.name for m in pkgutil.iter_modules(jaxpress.capture.__path__)]
WITH_EXAMPLES = {"cost", "graph", "names", "nested", "params", "text", "to_networkx", "trace"}


@pytest.mark.parametrize("name", MODULES)
def test_examples(name: str) -> None:
    module = importlib.import_module(f"jaxpress.capture.{name}")
    result = doctest.testmod(module)
    assert result.failed == 0
    assert result.attempted or name not in WITH_EXAMPLES
    assert module.__doc__ and all(hasattr(module, public) for public in module.__all__)
