"""What a pattern may ask of a value: shape, axes, dtype, users, whether it is known."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

from helpers import array, assert_refuses, rewritten
from jaxpress.capture import PassError, trace
from jaxpress.passes import Rule, any_value, op
from jaxpress.passes.constraints import Constraint

X, Y = array(2, 3), array(3, 3)


def rule(*operands, name="add", **options):
    return Rule("r", op(name, *operands, **options), lambda x, **_: jnp.sin(x))


@pytest.mark.parametrize(
    ("shape", "fits"),
    [
        ((2, 3), True), ((2, None), True), ((None, None), True), (("n", "m"), True),
        ((..., 3), True), ((2, ...), True), ((...,), True), ((2, ..., 3), True),
        (("n", "n"), False), ((3, 2), False), ((None,), False), ((2, 3, ...), True),
        ((2, ..., 3, 3), False), ((), False),
    ],
)  # fmt: skip
def test_shapes(shape, fits) -> None:
    one = rule(any_value("x", shape=shape), 1.0)
    if fits:
        assert rewritten(one, lambda x: x + 1, X)[1] == ["r"]
    else:
        assert_refuses(one, lambda x: x + 1, X, because="does not have the shape")


def test_a_named_size_is_one_size_in_the_whole_pattern() -> None:
    square = Rule(
        "square",
        op("dot_general", any_value("x", shape=("n", "k")), any_value("w", shape=("k", "n"))),
        lambda x, w: jnp.sin(x)[:, : x.shape[0]],
    )
    assert rewritten(square, lambda x, w: x @ w, X, X.T)[1] == ["square"]
    graph = trace(lambda x, w: x @ w)(X, X.T)
    assert not square.why_not(graph, graph.nodes[0])
    assert_refuses(square, lambda x, w: x @ w, X, Y)


@pytest.mark.parametrize(
    ("dtype", "fits"),
    [
        ("float32", True), (jnp.float32, True), (np.dtype("float32"), True), ("floating", True),
        ("inexact", True), ("number", True), (("bfloat16", "float32"), True),
        ({"integer", "floating"}, True), ("bfloat16", False), ("integer", False),
        ("complex", False), ("bool", False), (("integer", "bool"), False), (np.floating, True),
    ],
)  # fmt: skip
def test_dtypes(dtype, fits) -> None:
    one = rule(any_value("x", dtype=dtype), 1.0)
    if fits:
        assert rewritten(one, lambda x: x + 1, X)[1] == ["r"]
    else:
        assert_refuses(one, lambda x: x + 1, X, because="has dtype float32, not")


def test_axes() -> None:
    one = rule(any_value("x", ndim=2), 1.0)
    assert rewritten(one, lambda x: x + 1, X)[1] == ["r"]
    assert_refuses(one, lambda x: x + 1, X[0], because="has 1 axes, not 2")


def test_users() -> None:
    def twice(x):
        y = jnp.cos(x)
        return y + 1, y * 2

    for users in (1, lambda n: n < 2):
        one = rule(op("cos", any_value("x"), users=users), 1.0)
        assert rewritten(one, lambda x: jnp.cos(x) + 1, X)[1] == ["r"]
        assert_refuses(one, twice, X, because="has 2 users")
    two = Rule("r", op("cos", any_value("x"), users=2), lambda x: jnp.sin(x), shared=True)
    assert rewritten(two, twice, X)[1] == ["r"]


def test_known() -> None:
    one = rule(any_value("x"), any_value("w", known=True))
    assert rewritten(one, lambda x: x + X, X)[1] == ["r"]
    assert_refuses(one, lambda x, y: x + y, X, X, because="depends on the data")
    data = rule(any_value("x", known=False), 1.0)
    assert_refuses(data, lambda: X + 1, because="does not depend on the data")


def test_constraints_on_the_result() -> None:
    one = Rule("r", op("convert_element_type", any_value("x"), dtype="integer"),
               lambda x: jnp.zeros(x.shape, jnp.int32))  # fmt: skip
    assert rewritten(one, lambda x: x.astype(jnp.int32), X)[1][:1] == ["r"]
    assert_refuses(one, lambda x: x.astype(jnp.bfloat16), X, because="not integer")


@pytest.mark.parametrize(
    "options", [{"dtype": "float33"}, {"shape": (..., 3, ...)}, {"dtype": ("integer", "nonesuch")}]
)
def test_what_cannot_be_read_is_refused(options) -> None:
    with pytest.raises(PassError):
        Constraint(**options)
