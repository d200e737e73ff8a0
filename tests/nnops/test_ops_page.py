"""docs/ops.md: every op is on it, and no op is worse than it says."""

import importlib.util
import sys
from pathlib import Path

import pytest

from jaxpress import nnops

DOCS = Path(__file__).parents[2] / "docs"
MEND = "run: python docs/generate_ops.py"


@pytest.fixture(scope="module")
def generate():
    spec = importlib.util.spec_from_file_location("generate_ops", DOCS / "generate_ops.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    before = list(sys.path)
    spec.loader.exec_module(module)
    sys.path[:] = before
    return module


def test_every_op_has_an_oracle_and_a_row(generate):
    stated = generate.stated(generate.PAGE.read_text())
    assert set(nnops.registry()) == set(generate.ORACLES) == set(stated), MEND
    # A page of large errors would be one of wrong ops.
    for errors in stated.values():
        assert errors["float32"] < 1e-6 and errors.get("gradient", 0) < 3e-6
        assert errors["float64"] < 2e-15
        assert errors["float16"] < 4e-3 and errors["bfloat16"] < 3e-2


@pytest.mark.slow
def test_no_op_is_worse_than_the_page_says(generate):
    stated, measured = generate.stated(generate.PAGE.read_text()), generate.measure()
    # Other versions of XLA round elsewhere: by an ulp or two of the dtype.
    least = {"float32": 4e-7, "gradient": 1e-6, "float64": 1e-15, "float16": 1e-3, "bfloat16": 8e-3}
    worse = {
        (name, column): (error, stated[name][column])
        for name, errors in measured.items()
        for column, error in errors.items()
        if error > max(2 * stated[name][column], least[column])
    }
    assert worse == {}, MEND
    assert {n: set(e) for n, e in measured.items()} == {n: set(e) for n, e in stated.items()}
