"""Every layer of every framework becomes the named op that it is, and stays the same function."""

import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from recognition.case import missing
from recognition.losses import LOSSES
from recognition.table import TABLE

import jaxpress as jp

os.environ.setdefault("KERAS_BACKEND", "jax")

CELLS = [
    pytest.param(case, framework == "plain JAX", id=f"{framework}: {layer}")
    for framework, cases in TABLE.items()
    for layer, case in cases.items()
]
LOSS_CELLS = [
    pytest.param(case, id=f"{framework}: {loss}")
    for framework, cases in LOSSES.items()
    for loss, case in cases.items()
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


@pytest.mark.parametrize("case", LOSS_CELLS)
def test_loss(case):
    fn, args = case.build()
    fast = jp.optimize(fn)
    problem = missing(case, fast.graph(*args))
    assert not problem, f"{problem}\n{fast.graph(*args)}"

    floats = [jnp.issubdtype(x.dtype, jnp.floating) for x in args]

    def slopes(f, args):
        """A loss and its derivatives by the operands that are no class indices."""

        def of_floats(*given):
            left = iter(given)
            return f(*(next(left) if is_it else x for x, is_it in zip(args, floats, strict=True)))

        value, back = jax.vjp(
            of_floats, *(x for x, is_it in zip(args, floats, strict=True) if is_it)
        )
        return value, back(jnp.ones_like(value))

    # One program for both, since compiling is what takes long.
    want, got = jax.jit(lambda *a: (slopes(fn, a), slopes(fast, a)))(*args)
    for a, b in zip(*map(jax.tree.leaves, (got, want)), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-7)
