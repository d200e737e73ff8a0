"""Every layer of every framework becomes the named op that it is, and stays the same function."""

import os

import pytest
from recognition.case import missing
from recognition.table import TABLE

import jaxpress as jp

os.environ.setdefault("KERAS_BACKEND", "jax")

CELLS = [
    pytest.param(case, framework == "plain JAX", id=f"{framework}: {layer}")
    for framework, cases in TABLE.items()
    for layer, case in cases.items()
]


# Layers of other frameworks are differentiated in the tests of the rules that raise them.
@pytest.mark.parametrize(("case", "gradients"), CELLS)
def test_layer(case, gradients):
    fn, args = case.build()
    for preset in ("inference", "default"):
        fast = jp.optimize(fn, passes=preset)
        problem = missing(case, fast.graph(*args))
        assert not problem, f"{preset}: {problem}\n{fast.graph(*args)}"
    jp.verify(fn, fast, gradients=gradients)(*args)
