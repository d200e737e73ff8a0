"""Every layer of every framework becomes the named op that it is, and stays the same function."""

import os

import pytest
from recognition.case import missing
from recognition.table import TABLE

import jaxpress as jp

os.environ.setdefault("KERAS_BACKEND", "jax")

CELLS = [
    pytest.param(case, id=f"{framework}: {layer}")
    for framework, cases in TABLE.items()
    for layer, case in cases.items()
]


@pytest.mark.parametrize("preset", ["default", "inference"])
@pytest.mark.parametrize("case", CELLS)
def test_layer(case, preset):
    fn, args = case.build()
    fast = jp.optimize(fn, passes=preset)
    problem = missing(case, fast.graph(*args))
    assert not problem, f"{problem}\n{fast.graph(*args)}"
    if preset == "default":
        jp.verify(fn, fast, gradients=True)(*args)
