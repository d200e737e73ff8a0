"""Patterns: what they match, what they bind, and what they leave unbound when they fail."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from helpers import array
from jaxpress.capture import Literal, PassError, trace
from jaxpress.capture.edit import Editor
from jaxpress.passes import any_of, any_value, op, optional, repeated, scalar, through
from jaxpress.passes.pattern import State

X, Y = array(2, 3), array(2, 3, seed=1)


def match(pattern, fn, *args):
    """The state after a match at the function's result; ``None`` if it fails."""
    graph = trace(fn)(*args)
    state = State(Editor(graph), explain=True)
    found = pattern.match(graph.outputs[0], state)
    if not found:
        assert not state.values and not state.nodes and not state.matched, "bindings are left"
        return None
    return state


def test_an_op_matches_by_name_and_operands() -> None:
    pattern = op("mul", op("sin", any_value("x")), any_value("y"), name="root")
    state = match(pattern, lambda x, y: jnp.sin(x) * y, X, Y)
    assert [v.name for v in state.values.values()] == ["x", "y"]
    assert state.nodes["root"].op == "mul"
    assert [n.op for n in state.matched] == ["mul", "sin"]
    assert match(pattern, lambda x, y: jnp.cos(x) * y, X, Y) is None
    assert match(pattern, lambda x, y: jnp.sin(x) + y, X, Y) is None
    assert match(pattern, lambda x, y: x, X, Y) is None


def test_an_op_may_be_given_as_a_primitive() -> None:
    for pattern in (op(lax.sin_p, any_value("x")), op((lax.sin_p, "cos"), any_value("x"))):
        assert match(pattern, jnp.sin, X) and not match(pattern, jnp.tanh, X)
    assert match(through(op(lax.sin_p), lax.neg_p), lambda x: -jnp.sin(x), X)
    for wrong in (jnp.sin, ["sin", 2]):
        with pytest.raises(PassError, match="by its name or primitive"):
            op(wrong, any_value("x"))


@pytest.mark.parametrize("name", ["add", "mul", "max", "min"])
def test_commutative_operands_match_in_either_order(name) -> None:
    f = getattr(lax, name)
    pattern = op(name, any_value("x"), op("sin", any_value("y")))
    for fn in (lambda x, y: f(x, lax.sin(y)), lambda x, y: f(lax.sin(y), x)):
        state = match(pattern, fn, X, Y)
        assert (state.values["x"].name, state.values["y"].name) == ("x", "y")


def test_other_operands_match_in_their_order() -> None:
    pattern = op("sub", op("sin", any_value("x")), any_value("y"))
    assert match(pattern, lambda x, y: lax.sin(x) - y, X, Y)
    assert match(pattern, lambda x, y: y - lax.sin(x), X, Y) is None
    either = op("sub", op("sin", any_value("x")), any_value("y"), commutative=True)
    assert match(either, lambda x, y: y - lax.sin(x), X, Y)


@pytest.mark.parametrize("first", [True, False])
def test_every_order_is_tried_until_all_names_fit(first) -> None:
    # One order of the product binds x to the wrong value, which only the sine beside it shows.
    pattern = op("add", op("mul", any_value("x"), any_value("y")), op("sin", any_value("x")))

    def fn(x, y):
        product, sine = x * y, lax.sin(y)
        return product + sine if first else sine + product

    assert match(pattern, fn, X, Y).values["x"].name == "y"


def test_every_choice_and_depth_is_tried_until_all_names_fit() -> None:
    negated = op("neg", any_value("x"))
    pattern = op("sub", any_of(any_value("x"), negated), op("sin", any_value("x")))
    assert match(pattern, lambda x: -x - lax.sin(x), X).values["x"].name == "x"
    pattern = op("sub", through(any_value("x"), "neg"), op("sin", any_value("x")))
    state = match(pattern, lambda x: lax.neg(lax.neg(x)) - lax.sin(x), X)
    assert state.values["x"].name == "x" and len(state.matched) == 4


def test_a_name_that_occurs_twice_is_one_value() -> None:
    pattern = op("mul", any_value("x"), op("logistic", any_value("x")))
    assert match(pattern, lambda x, y: x * lax.logistic(x), X, Y)
    assert match(pattern, lambda x, y: x * lax.logistic(y), X, Y) is None


def test_a_nameless_value_is_anything() -> None:
    pattern = op("mul", any_value(), any_value())
    state = match(pattern, lambda x, y: x * y, X, Y)
    assert state.values == {}


def test_a_value_may_have_a_condition() -> None:
    pattern = op("mul", any_value("x", lambda view, v: v.name == "y"), any_value("other"))
    assert match(pattern, lambda x, y: x * y, X, Y).values["other"].name == "x"
    assert match(pattern, lambda x, y: x * x, X, Y) is None


@pytest.mark.parametrize(
    ("written", "wanted", "fits"),
    [
        (2.0, 2, True),
        (2.0, 2.5, False),
        (0.1, 0.1, True),  # 0.1 in float32 is not the Python number
        (np.inf, np.inf, True),
        (np.nan, np.nan, True),
        (0.0, 0.0, True),
        (-0.0, 0.0, False),  # 1 / x tells them apart
        (0.0, -0.0, False),
    ],
)
def test_scalars_match_by_value_in_their_dtype(written, wanted, fits) -> None:
    # Through a broadcast, as an operand of an equation is.
    state = match(
        op("atan2", any_value("x"), wanted), lambda x: lax.atan2(x, lax.full_like(x, written)), X
    )
    assert (state is not None) == fits


def test_scalars_are_captured_as_literals() -> None:
    pattern = op("mul", any_value("x"), scalar(name="c"))
    found = match(pattern, lambda x: x * 2.5, X).values["c"]
    assert isinstance(found, Literal) and found.val == 2.5
    both = op("add", op("mul", any_value("x"), scalar(name="c")), scalar(name="c"))
    assert match(both, lambda x: x * 2.5 + 2.5, X)
    assert match(both, lambda x: x * 2.5 + 3, X) is None


def test_arrays_are_no_scalars() -> None:
    pattern = op("mul", any_value("x"), scalar(name="c"))
    two = jnp.float32(2)
    assert match(pattern, lambda x, y: x * y, X, Y) is None
    assert match(pattern, lambda x: x * two, X) is None, "a constant's value is the model's data"


def test_a_scalar_is_rounded_through_every_dtype_on_its_way() -> None:
    def fn(x):
        return x * lax.convert_element_type(jnp.float16(1e-8), jnp.float32)

    assert match(op("mul", any_value("x"), 1e-8), fn, X) is None
    assert match(op("mul", any_value("x"), 0.0), fn, X)


def test_any_of_takes_the_first_that_fits() -> None:
    pattern = op("neg", any_of(op("sin", any_value("s")), op("cos", any_value("c"))))
    assert set(match(pattern, lambda x: -lax.cos(x), X).values) == {"c"}
    assert match(pattern, lambda x: -lax.tan(x), X) is None
    joined = op("sin", any_value("s")) | op("cos", any_value("c"))
    assert set(match(joined, lambda x: lax.sin(x), X).values) == {"s"}


def test_a_failed_choice_leaves_nothing_bound() -> None:
    pattern = any_of(
        op("add", op("sin", any_value("a")), op("cos", any_value("b"))),
        op("add", any_value("c"), any_value("d")),
    )
    state = match(pattern, lambda x, y: lax.sin(x) + lax.tan(y), X, Y)
    assert set(state.values) == {"c", "d"}
    assert [n.op for n in state.matched] == ["add"]


def test_through_looks_behind_any_number_of_operations() -> None:
    pattern = op("neg", through(op("sin", any_value("x")), "reshape", "transpose"))
    assert match(pattern, lambda x: -lax.sin(x), X)
    state = match(pattern, lambda x: -lax.reshape(lax.sin(x), (6,)).reshape(3, 2).T, X)
    assert sorted(n.op for n in state.matched) == ["neg", "reshape", "reshape", "sin", "transpose"]
    assert match(pattern, lambda x: -lax.exp(lax.sin(x)), X) is None


def test_params_by_value_and_by_predicate() -> None:
    def fn(x):
        return jnp.sum(x, axis=1)

    assert match(op("reduce_sum", any_value("x"), params={"axes": (1,)}), fn, X)
    assert match(op("reduce_sum", any_value("x"), params={"axes": (0,)}), fn, X) is None
    assert match(op("reduce_sum", any_value("x"), params={"axes": lambda a: 1 in a}), fn, X)
    assert match(op("reduce_sum", any_value("x"), params={"nonesuch": 1}), fn, X) is None


def test_a_condition_on_the_node() -> None:
    pattern = op("sin", any_value("x"), where=lambda view, node: node.output.ndim == 2)
    assert match(pattern, jnp.sin, X)
    assert match(pattern, jnp.sin, X[0]) is None


def test_which_result_is_meant() -> None:
    def fn(x):
        return jax.lax.top_k(x, 2)[1] * 1

    indices = op("top_k", any_value("x"), output=1)
    values = op("top_k", any_value("x"))
    graph = trace(fn)(X)
    top = graph.find("top_k")[0]
    for pattern, outputs in ((indices, [False, True]), (values, [True, False])):
        got = [pattern.match(v, State(Editor(graph))) for v in top.outputs]
        assert got == outputs


def test_a_node_that_occurs_twice_under_one_name_is_one_node() -> None:
    pattern = op("add", op("sin", any_value("a"), name="s"), op("sin", any_value("b"), name="s"))

    def once(x):
        s = lax.sin(x)
        return s + s

    assert match(pattern, once, X)
    assert match(pattern, lambda x, y: lax.sin(x) + lax.sin(y), X, Y) is None


def test_several_names() -> None:
    pattern = op(("sin", "cos"), any_value("x"))
    assert match(pattern, jnp.sin, X) and match(pattern, jnp.cos, X)
    assert match(pattern, jnp.tan, X) is None


def test_operands_left_out_are_any() -> None:
    assert match(op("add"), lambda x, y: x + y, X, Y)
    assert match(op("add", any_value("x")), lambda x, y: x + y, X, Y) is None, "one of two"


def test_the_nearest_miss_is_told() -> None:
    graph = trace(lambda x, y: lax.exp(lax.sin(lax.cos(x))) * y)(X, Y)
    state = State(Editor(graph), explain=True)
    pattern = op("mul", op("exp", op("sin", op("tan", any_value("x")))), any_value("y"))
    assert not pattern.match(graph.outputs[0], state)
    assert "tan" in state.miss[1] and "cos" in state.miss[1]


def test_size_is_the_number_of_operations() -> None:
    pattern = op("add", op("mul", any_value(), 2.0), any_of(op("sin", op("cos")), op("exp")))
    assert pattern.size == 4


def test_one_optional_wrapper() -> None:
    pattern = op("sin", optional(op("exp", any_value("x")), "convert_element_type", "reshape"))
    assert match(pattern, lambda x: lax.sin(lax.exp(x)), X)
    assert match(pattern, lambda x: lax.sin(lax.reshape(lax.exp(x), (6,))), X)
    assert match(pattern, lambda x: lax.sin(lax.exp(x).reshape(6).astype("bfloat16")), X) is None
    assert match(pattern, lambda x: lax.sin(lax.neg(lax.exp(x))), X) is None


def test_repeated_operands_are_captured_as_a_tuple() -> None:
    pattern = op("concatenate", repeated(op("neg", any_value("parts"))))
    state = match(pattern, lambda x, y: lax.concatenate([-x, -y, -x], 0), X, Y)
    assert [v.name for v in state.lists["parts"]] == ["x", "y", "x"]
    assert [n.op for n in state.matched].count("neg") == 3
    assert match(pattern, lambda x, y: lax.concatenate([-x, y], 0), X, Y) is None


def test_repeated_operands_after_others_and_how_many() -> None:
    pattern = op("concatenate", any_value("first"), repeated(any_value("rest"), at_least=2))
    state = match(pattern, lambda x, y: lax.concatenate([x, y, y], 0), X, Y)
    assert state.values["first"].name == "x" and len(state.lists["rest"]) == 2
    assert match(pattern, lambda x, y: lax.concatenate([x, y], 0), X, Y) is None


def test_a_name_that_is_bound_before_is_the_same_in_every_repetition() -> None:
    scaled = op("mul", any_value("x"), any_value("s"))
    pattern = op("concatenate", scaled, repeated(op("mul", any_value("y"), any_value("s"))))
    fits = match(pattern, lambda x, y, s: lax.concatenate([x * s, y * s, x * s], 0), X, Y, X + 2)
    assert fits and set(fits.lists) == {"y"}
    fn = lambda x, y, s: lax.concatenate([x * s, y * s, x * y], 0)  # noqa: E731
    assert match(pattern, fn, X, Y, X + 2) is None


def test_repeated_operands_that_may_be_of_two_kinds_or_none() -> None:
    kinds = any_of(op("neg", any_value("a")), op("exp", any_value("b")))
    pattern = op("concatenate", any_value(), any_value(), repeated(kinds, at_least=0))
    state = match(pattern, lambda x: lax.concatenate([x, x, -x, jnp.exp(x), -(x + 1)], 0), X)
    assert [len(state.lists[name]) for name in "ab"] == [2, 1]
    state = match(pattern, lambda x: lax.concatenate([x, x], 0), X)
    assert state.lists == {"a": (), "b": ()}


def test_a_size_is_the_same_in_all_repeated_operands() -> None:
    pattern = op("concatenate", repeated(any_value("parts", shape=("n", "m"))))
    assert match(pattern, lambda x, y: lax.concatenate([x, y], 0), X, Y).sizes == {"n": 2, "m": 3}
    assert match(pattern, lambda x, y: lax.concatenate([x, y[:1]], 0), X, Y) is None
    with pytest.raises(PassError, match="captured"):
        repeated(op("neg", any_value("x"), name="one"))


def test_only_the_last_operand_is_repeated() -> None:
    with pytest.raises(PassError, match="last operand"):
        op("concatenate", repeated(any_value("x")), any_value("y"))


def test_a_part_that_occurs_twice_is_matched_once() -> None:
    part = any_value("x")
    for _ in range(60):  # as a tree, this has 2 ** 60 nodes
        part = op("add", part, part)

    def fn(x):
        for _ in range(60):
            x = x + x
        return x

    assert match(part, fn, X)


def test_patterns_read_as_expressions() -> None:
    pattern = op("mul", any_value("x"), op(("sin", "cos"), scalar(2.0)), commutative=False)
    assert str(pattern) == "mul(x, cos/sin(2))"
    assert str(any_of(pattern, any_value())) == "mul(x, cos/sin(2)) | _"
    assert str(op("concatenate", repeated(any_value("x")))) == "concatenate(x, ...)"


def test_alternatives_may_be_a_root() -> None:
    pattern = any_of(op("sin", any_value("x")), op("cos", op("neg", any_value("x"))))
    assert pattern.names == {"sin", "cos"} and pattern.size == 2
    graph = trace(lambda x: lax.cos(lax.neg(x)))(X)
    state = State(Editor(graph))
    assert pattern.match_node(graph.nodes[-1], state) and state.values["x"].name == "x"
    with pytest.raises(PassError, match="is no operation"):
        any_value("x").match_node(graph.nodes[-1], state)
