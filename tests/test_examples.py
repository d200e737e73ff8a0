"""The examples that use nnops run, and do what they say. (The README's own: test_docs.py.)"""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_digits(capsys: pytest.CaptureFixture[str]) -> None:
    assert load("digits").main() > 0.88  # of writers that it has not seen
    *_, before, after = capsys.readouterr().out.splitlines()
    assert "'batch_norm': 1" in before
    assert "batch_norm" not in after and "'conv': 1" in after


def test_nnops_in_frameworks() -> None:
    flax, equinox = load("nnops_in_frameworks").main()
    assert flax["layer_norm"] == flax["dot_product_attention"] == 1
    assert flax["dense"] == 4
    assert equinox["lstm"] == equinox["log_softmax"] == 1
