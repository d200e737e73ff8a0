"""Copies of optimised functions, and pickles."""

from __future__ import annotations

import copy
import pickle
import sys
import types

import jax.numpy as jnp
import numpy as np
import pytest

import jaxpress as jp
from helpers import array

X = array(2, 3)


class Model:
    """A callable that holds its weights."""

    def __init__(self):
        self.w = array(3, 4, seed=1)

    def __call__(self, x):
        return jnp.tanh(x @ self.w)


def test_a_deep_copy_is_of_the_function_too() -> None:
    model = Model()
    fast = jp.optimize(model, passes="inference")
    before = fast(X)
    again, shallow = copy.deepcopy(fast), copy.copy(fast)
    assert shallow.fn is model and again.fn is not model
    again.fn.w = again.fn.w * 2
    np.testing.assert_allclose(again(X), jnp.tanh(X @ (model.w * 2)), rtol=1e-5)
    for same in (fast, shallow):
        np.testing.assert_array_equal(same(X), before)
    assert again.pipeline.name == "inference" and again.__name__ == "Model"


@pytest.mark.parametrize("passes", [None, "training", ["inline", "raise_ops"]])
def test_a_pickle_keeps_the_function_and_the_passes(passes: object) -> None:
    fast = jp.optimize(jnp.var, passes=passes, static_argnames="axis")
    expected = fast(X, axis=1)
    again = pickle.loads(pickle.dumps(fast))
    np.testing.assert_array_equal(again(X, axis=1), expected)
    assert again.pipeline.passes == fast.pipeline.passes
    assert again.pipeline.name == fast.pipeline.name


def test_what_cannot_be_pickled_says_why() -> None:
    for options in ({"passes": [lambda graph: graph]}, {"kernels": "reference"}):
        fast = jp.optimize(jnp.sin, **options)
        with pytest.raises(pickle.PicklingError, match=r"passes, or kernels, of its own"):
            pickle.dumps(fast)
        assert copy.deepcopy(fast)(X).shape == X.shape
    with pytest.raises((pickle.PicklingError, AttributeError), match="lambda"):
        pickle.dumps(jp.optimize(lambda x: x))


def test_a_decorated_function_is_found_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("somewhere")
    monkeypatch.setitem(sys.modules, "somewhere", module)
    exec("import jax.numpy as jnp\ndef f(x):\n    return jnp.sin(x)", vars(module))
    vars(module)["f"] = fast = jp.optimize(vars(module)["f"])
    assert pickle.loads(pickle.dumps(fast)) is fast
