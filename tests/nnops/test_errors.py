"""Messages of op errors."""

import pickle

import jax.numpy as jnp
import pytest

from jaxpress import nnops
from jaxpress.nnops.errors import describe


def test_message_names_op_operands_shapes_and_mend():
    x, w = jnp.ones((2, 3)), jnp.ones((4, 5))
    error = nnops.OpError("dense", "does not fit", {"x": x, "w": w, "b": None}, "transpose w")
    assert str(error) == (
        "dense: does not fit\n"
        "  operands: x float32(2, 3), w float32(4, 5)\n"
        "  to mend it: transpose w"
    )
    assert (error.op, error.problem, error.mend) == ("dense", "does not fit", "transpose w")


def test_errors_are_the_builtin_kinds_too():
    assert issubclass(nnops.OpError, ValueError)
    assert issubclass(nnops.OpTypeError, nnops.OpError)
    assert issubclass(nnops.OpTypeError, TypeError)


@pytest.mark.parametrize("kind", [nnops.OpError, nnops.OpTypeError])
def test_errors_survive_pickling(kind):
    error = pickle.loads(pickle.dumps(kind("conv", "wrong", {"x": jnp.ones(3)}, "do this")))
    assert type(error) is kind
    assert str(error) == "conv: wrong\n  operands: x float32(3,)\n  to mend it: do this"
    assert (error.op, error.mend) == ("conv", "do this")


def test_describe_falls_back_to_repr():
    assert describe(3) == "3"
    assert describe(jnp.ones((), jnp.bfloat16)) == "bfloat16()"
