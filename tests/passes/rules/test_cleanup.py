"""Rules that tidy: exact to the bit, for every dtype, and never x + 0, x * 0, x - x or x / x."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from helpers import array, assert_refuses, rewritten
from jaxpress.capture import Node, Value, trace
from jaxpress.passes import rewrite
from jaxpress.passes.rules.cleanup import CLEANUP_RULES
from jaxpress.testing import assert_rewrites, check_rule

X = array(2, 3)
RULES = {rule.name: rule for rule in CLEANUP_RULES}

# rule, a function in which it applies once, the ops that are left
CASES = {
    "drop_copy": (lambda x: jnp.copy(lax.sin(x)), {"sin": 1}),
    "drop_reshape": (
        lambda x: lax.reshape_p.bind(
            lax.sin(x), new_sizes=x.shape, dimensions=None, sharding=None
        ),
        {"sin": 1},
    ),
    "drop_transpose": (lambda x: lax.transpose_p.bind(lax.sin(x), permutation=(0, 1)), {"sin": 1}),
    "double_negation": (lambda x: lax.neg(lax.neg(x)), {}),
    "multiply_by_one": (lambda x: lax.mul(lax.sin(x), lax.full_like(x, 1)), {"sin": 1}),
    "divide_by_one": (lambda x: lax.div(lax.sin(x), lax.full_like(x, 1)), {"sin": 1}),
    "transpose_twice": (lambda x: lax.sin(x).T.T * 2, None),
    "reshape_chain": (
        lambda x: lax.reshape(lax.reshape(lax.sin(x), (6,)), (3, 2)), {"sin": 1, "reshape": 1},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_each_rule_applies_and_keeps_every_bit(name, dtype) -> None:
    fn, left = CASES[name]
    new = assert_rewrites(RULES[name], fn, X.astype(dtype), times=1)
    if left is not None:
        found = {op: n for op, n in new.count().items() if op != "broadcast_in_dim"}
        assert found == left
    assert RULES[name].numerics == "exact"


def test_a_conversion_to_the_type_it_has() -> None:
    # JAX makes none itself, but a pass may leave one.
    graph = trace(lambda x: lax.sin(x).astype("bfloat16"))(X)
    sin, old = graph.nodes
    same = Node(
        old.primitive,
        old.inputs,
        (Value("y", sin.output.aval),),
        {**old.params, "new_dtype": np.dtype("float32")},
        ctx=old.ctx,
        source_info=old.source_info,
    )
    graph = graph.with_parts(nodes=[sin, same], outputs=same.outputs).validate()
    new = rewrite(graph, RULES["drop_convert"])
    assert new.count() == {"sin": 1}
    np.testing.assert_array_equal(new(X), graph(X))


@pytest.mark.parametrize("name", ["double_negation", "multiply_by_one", "divide_by_one"])
def test_elementwise_rules_hold_for_all_shapes_and_dtypes(name) -> None:
    check_rule(RULES[name])


@pytest.mark.parametrize("name", ["multiply_by_one", "divide_by_one"])
def test_one_is_no_identity_of_complex_infinity(name) -> None:
    x, fn = jnp.array([complex(np.inf, 1.0)]), CASES[name][0]
    graph = trace(lambda x: fn(x.astype("complex64")))(x)
    assert RULES[name].why_not(graph).reason.startswith("of complex numbers")


@pytest.mark.parametrize("dtype", ["int32", "uint8", "int8", "complex64", "float16"])
def test_numbers_of_other_kinds(dtype) -> None:
    x = jnp.arange(6).reshape(2, 3).astype(dtype)
    new, rules = rewritten(
        CLEANUP_RULES, lambda x: lax.neg(lax.neg(x)) * jnp.ones((), x.dtype) * 1, x
    )
    assert {"double_negation"} <= set(rules)
    assert new.outputs[0].dtype == x.dtype
    np.testing.assert_array_equal(new(x), x)


@pytest.mark.parametrize(
    "fn",
    [
        lambda x: x + 0.0,
        lambda x: x - 0.0,
        lambda x: x * 0.0,
        lambda x: x - x,
        lambda x: x / x,
        lambda x: x * -1.0,
        lambda x: 1.0 / x,
        lambda x: x**1.0,
        lambda x: jnp.exp(jnp.log(x)),
        lambda x: jnp.maximum(x, x),
        lambda x: x * jnp.nan,
    ],
)
def test_floating_point_is_not_algebra(fn) -> None:
    special = jnp.array([jnp.nan, jnp.inf, -jnp.inf, 0.0, -0.0, 1.0])
    new, _ = rewritten(CLEANUP_RULES, fn, special)
    assert np.asarray(new(special)).tobytes() == np.asarray(fn(special)).tobytes()


def test_a_product_with_one_that_broadcasts_stays() -> None:
    def fn(x):
        return lax.mul_p.bind(lax.broadcast(x, ()), jnp.float32(1))

    assert rewritten(CLEANUP_RULES, lambda x: x * jnp.ones((4, 1)), X[:1])[0].count()["mul"] == 1
    new, _ = rewritten(CLEANUP_RULES, fn, jnp.float32(2))
    assert new.outputs[0].shape == ()


def test_a_conversion_that_changes_the_type_stays() -> None:
    for fn in (
        lambda x: x.astype("bfloat16"),
        lambda x: x.astype("bfloat16").astype("float32"),  # rounds
        lambda x: x.astype("int32").astype("float32"),
    ):
        assert_refuses(CLEANUP_RULES, fn, X)


def test_weak_types_are_kept() -> None:
    def fn(x):
        return jnp.float32(x), x * 1, jnp.asarray(x) / 1, lax.neg(lax.neg(x))

    new, _ = rewritten(CLEANUP_RULES, fn, 2.0)
    weak = [v.weak_type for v in new.to_jaxpr().out_avals]
    assert weak == [v.weak_type for v in jax.make_jaxpr(fn)(2.0).out_avals]
    assert weak == [False, True, True, True]


@pytest.mark.parametrize("source", [2, 2.5, True, np.float16(1e-8), np.int8(-3)])
@pytest.mark.parametrize("target", ["float32", "float16", "int32", "bool", "complex64"])
def test_scalars_are_converted_as_jax_does(source, target) -> None:
    def fn(x):
        return x, lax.convert_element_type(jax.jit(lambda s: s)(source), target)

    want = fn(X)[1]
    new, _ = rewritten(CLEANUP_RULES, fn, X)
    got = new(X)[1]
    assert jax.typeof(got) == jax.typeof(want)
    np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize(
    ("shapes", "left"),
    [
        ([(6,), (3, 2)], 1),
        ([(6,), (2, 3)], 0),
        ([(1, 2, 3), (2, 1, 3), (3, 2)], 1),
        ([(2, 3, 1), (2, 3)], 0),
    ],
)
def test_chains_of_reshapes_are_one_or_none(shapes, left) -> None:
    def fn(x):
        x = jnp.sin(x)
        for shape in shapes:
            x = lax.reshape(x, shape)
        return x

    new = assert_rewrites(CLEANUP_RULES, fn, X)
    assert new.count()["reshape"] == left


def test_reshapes_squeezes_and_unit_broadcasts_cancel() -> None:
    # What Equinox leaves around every convolution under vmap.
    def fn(x):
        y = lax.broadcast_in_dim(x, (2, 1, 3), (0, 2))
        y = lax.reshape(y, (2, 3)) * 2
        return lax.squeeze(lax.reshape(y, (2, 1, 3)), (1,))

    assert assert_rewrites(CLEANUP_RULES, fn, X).count() == {"mul": 1}


@pytest.mark.parametrize(
    "fn",
    [
        lambda x: lax.reshape(x.T, (6,)),  # another order
        lambda x: lax.broadcast_in_dim(lax.reshape(x, (6,)), (6, 2), (0,)),  # more elements
        lambda x: lax.broadcast_in_dim(x[:, 0], (2, 2), (1,)),  # along the other axis
        lambda x: lax.reshape(lax.broadcast_in_dim(x, (2, 3, 2), (0, 1)), (12,)),
        lambda x: lax.transpose(lax.reshape(x, (3, 2)), (1, 0)),
        lambda x: lax.rev(x, (0,)).reshape(6),
    ],
)
def test_what_moves_or_adds_elements_is_no_reshape(fn) -> None:
    assert_refuses(CLEANUP_RULES, fn, X)


def test_transposes_compose_in_the_right_order() -> None:
    x = array(2, 3, 4, 5)
    for p, q in (((1, 2, 3, 0), (3, 1, 0, 2)), ((0, 3, 1, 2), (0, 2, 3, 1)), ((3, 0, 2, 1),) * 2):

        def fn(x, p=p, q=q):
            return lax.transpose(lax.transpose(x, p), q) * 2

        new = assert_rewrites(CLEANUP_RULES, fn, x)
        assert new.count().get("transpose", 0) == int(tuple(p[i] for i in q) != (0, 1, 2, 3))


def test_a_shared_reshape_is_looked_through_and_stays() -> None:
    def fn(x):
        flat = lax.reshape(x, (6,))
        return lax.reshape(flat, (3, 2)), flat

    new = assert_rewrites(CLEANUP_RULES, fn, X, times=1)
    assert new.count() == {"reshape": 2}


def test_zero_sized_and_scalar_arrays() -> None:
    for x in (jnp.zeros((0, 3)), jnp.float32(1.5), jnp.zeros((2, 0))):
        new, rules = rewritten(
            CLEANUP_RULES, lambda x: lax.neg(lax.neg(x)).reshape(-1).reshape(x.shape), x
        )
        assert rules
        assert new(x).shape == x.shape


def test_it_works_under_an_outer_symbolic_shape() -> None:
    (n,) = jax.export.symbolic_shape("n")
    shape = jax.ShapeDtypeStruct((n, 3), jnp.float32)
    new, _ = rewritten(
        CLEANUP_RULES, lambda x: lax.neg(lax.neg(x)).reshape(-1).reshape(x.shape) * 1.0, shape
    )
    assert new.outputs[0].shape == (n, 3)
