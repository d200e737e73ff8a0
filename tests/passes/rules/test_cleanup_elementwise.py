"""Elementwise identities: exact to the bit, for every dtype, and refused where they are not."""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import jaxpress as jp
from helpers import array, assert_applies, assert_refuses, rewritten
from jaxpress.passes.rules.cleanup import CLEANUP_RULES
from jaxpress.passes.rules.cleanup_elementwise import ELEMENTWISE_RULES
from jaxpress.testing import assert_rewrites

X = array(2, 3)
RULES = {rule.name: rule for rule in ELEMENTWISE_RULES}
SPECIAL = jnp.array([jnp.nan, jnp.inf, -jnp.inf, 0.0, -0.0, 1.0])


def const(x, value):
    return lax.full_like(x, value)


# rule, a function in which it applies once, the operations that are left
CASES = {
    "double_not": (lambda x: lax.bitwise_not(lax.bitwise_not(x > 0)), ["gt"]),
    "abs_twice": (lambda x: lax.abs(lax.abs(x)), ["abs"]),
    "subtract_zero": (lambda x: lax.sub(lax.sin(x), const(x, 0)), ["sin"]),
    "add_minus_zero": (lambda x: lax.add(const(x, -0.0), lax.sin(x)), ["sin"]),
    "and_true": (lambda x: lax.bitwise_and(x > 0, const(x > 0, True)), ["gt"]),
    "or_false": (lambda x: lax.bitwise_or(x > 0, const(x > 0, False)), ["gt"]),
    "same_twice": (lambda x: (lambda y: lax.max(y, y))(lax.sin(x)), ["sin"]),
    "first_power": (lambda x: lax.integer_pow(lax.sin(x), 1), ["sin"]),
    "two_maxima": (lambda x: lax.max(lax.max(x, const(x, 0.0)), const(x, 1.0)), ["max"]),
    "two_minima": (lambda x: lax.min(const(x, 6.0), lax.min(x, const(x, -1.0))), ["min"]),
    "select": (lambda x: lax.select_n(const(x > 0, True), x, lax.sin(x)), None),
    "select_not": (lambda x: lax.select_n(lax.bitwise_not(x > 0), x, 2 * x), None),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_each_rule_applies_and_keeps_every_bit(name, dtype) -> None:
    fn, left = CASES[name]
    new = assert_rewrites(RULES[name], fn, X.astype(dtype), times=1, vmap=False)
    found = [op for op in new.count() if op not in ("broadcast_in_dim", "mul")]
    assert left is None or found == left
    assert RULES[name].numerics == "exact"


def test_a_size_of_a_negated_number_keeps_its_derivative_at_zero() -> None:
    def fn(x):
        return lax.abs(lax.neg(x)).sum()

    assert jnp.array_equal(jax.grad(fn)(SPECIAL), jax.grad(jp.optimize(fn))(SPECIAL), True)


def test_every_rule_has_a_case() -> None:
    assert set(CASES) | {"add_zero", "convert_chain"} == set(RULES)  # these have tests below


@pytest.mark.parametrize("dtype", ["int32", "uint8", "bool", "complex64"])
def test_numbers_of_other_kinds(dtype) -> None:
    x = jnp.arange(6).reshape(2, 3).astype(dtype)

    def fn(x):
        zero = const(x, 0)
        sums = [lax.add(lax.sub(x, zero), zero)] if x.dtype != bool else []
        return [lax.select_n(const(x == x, False), x, zero), *sums, *(
            [lax.abs(lax.neg(x))] if dtype in ("int32", "complex64") else []
        )]  # fmt: skip

    new, _ = rewritten(CLEANUP_RULES, fn, x)
    for got, want in zip(new(x), fn(x), strict=True):
        assert got.dtype == want.dtype
        np.testing.assert_array_equal(got, want)
    if dtype in ("int32", "uint8"):
        assert "add" not in new.count() and "sub" not in new.count()
    if dtype == "complex64":
        assert new.count()["neg"] == 1 and new.count()["add"] == 1


@pytest.mark.parametrize(
    "fn",
    [
        lambda x: x + 0.0,
        lambda x: lax.sub(const(x, 0.0), x),
        lambda x: lax.sub(x, const(x, -0.0)),
        lambda x: lax.sub(const(x, -0.0), x),
        lambda x: lax.integer_pow(x, 0),
        lambda x: lax.integer_pow(x, -1),
        lambda x: lax.max(lax.min(x, const(x, 1.0)), const(x, 0.0)),
        lambda x: lax.max(lax.max(x, const(x, jnp.nan)), const(x, 0.0)),
        lambda x: lax.max(lax.max(x, const(x, 0.0)), const(x, 0.0)),  # another derivative at 0
        lambda x: lax.select_n(x > 0, x, 2 * x),
        lambda x: lax.neg(lax.abs(x)),
        lambda x: lax.max(x, -x),
    ],
)
def test_what_is_not_the_same_stays(fn) -> None:
    assert_refuses(ELEMENTWISE_RULES, fn, SPECIAL)


def test_whole_numbers_are_not_truth() -> None:
    n = jnp.arange(6)
    assert_refuses(ELEMENTWISE_RULES, lambda n: n & jnp.full_like(n, True), n)
    assert_refuses(ELEMENTWISE_RULES, lambda n: n | jnp.full_like(n, 2), n)


def test_scalars() -> None:
    one = jnp.float32(1.0)
    new, _ = rewritten(ELEMENTWISE_RULES, lambda x: lax.sub(lax.sin(x), 0.0), one)
    assert new.count() == {"sin": 1} and new.outputs[0].shape == ()


def test_a_shared_choice_is_looked_through() -> None:
    def fn(x):
        p = lax.bitwise_not(x > 0)
        return lax.select_n(p, x, 2 * x), p

    new = assert_applies(RULES["select_not"], fn, X, times=1, gradients=False, tolerance=0.0)
    assert new.count()["not"] == 1


DTYPES = ["bool", "int8", "uint8", "int16", "int32", "uint32", "bfloat16", "float16", "float32"]


def test_conversions_that_hold_everything_and_those_that_do_not() -> None:
    """Against NumPy: all small numbers, both ends, and what lies between."""
    for narrow, wide in itertools.permutations(DTYPES, 2):
        if jnp.issubdtype(narrow, jnp.floating):
            info = jnp.finfo(narrow)
            values = [0.0, 1.0, 1 + float(info.eps), float(info.max), float(info.tiny), -0.5]
        elif narrow == "bool":
            values = [False, True]
        else:
            info = jnp.iinfo(narrow)
            values = [0, 1, int(info.max), int(info.max) - 1, int(info.min)]
        x = jnp.asarray(np.array(values, jnp.dtype(narrow)))

        def there_and_back(x, wide=wide, narrow=narrow):
            return lax.sin(x.astype("float32")), x.astype(wide).astype(narrow)

        _, rules = rewritten(RULES["convert_chain"], there_and_back, x)
        if "convert_chain" in rules:
            back = np.asarray(x).astype(jnp.dtype(wide)).astype(jnp.dtype(narrow))
            np.testing.assert_array_equal(back, x, err_msg=f"{narrow} in {wide}")


@pytest.mark.parametrize(
    ("start", "through", "end", "left"),
    [
        ("bfloat16", "float32", "bfloat16", 0),
        ("float16", "float32", "bfloat16", 1),
        ("int8", "float32", "int8", 0),
        ("uint8", "int32", "float32", 1),
        ("bool", "int32", "float32", 1),
        ("int16", "int32", "uint8", 1),
        ("bool", "bfloat16", "bool", 0),
    ],
)
def test_lossless_conversions(start, through, end, left) -> None:
    x = jnp.asarray([0, 1, 1, 0, 3, 100]).astype(start)
    new, rules = rewritten(RULES["convert_chain"], lambda x: x.astype(through).astype(end), x)
    assert rules == ["convert_chain"] and new.count().get("convert_element_type", 0) == left
    np.testing.assert_array_equal(new(x), x.astype(through).astype(end))
    assert new.outputs[0].dtype == end


@pytest.mark.parametrize(
    ("start", "through", "end"),
    [
        ("float32", "bfloat16", "float32"),
        ("float16", "bfloat16", "float16"),
        ("bfloat16", "float16", "bfloat16"),
        ("int32", "float32", "int32"),
        ("int32", "int8", "int32"),
        ("int8", "uint8", "int32"),
        ("uint8", "int8", "int32"),
        ("float32", "int32", "float32"),
        ("int32", "bool", "int32"),
        ("float32", "bool", "float32"),
        ("int16", "bfloat16", "int16"),
    ],
)
def test_conversions_that_lose_something(start, through, end) -> None:
    x = jnp.asarray([0, 1, 2, 3, 100, 7]).astype(start)
    assert_refuses(RULES["convert_chain"], lambda x: x.astype(through).astype(end), x)


def test_gradients_and_weak_types_survive_conversions() -> None:
    x = X.astype("bfloat16")
    fn = lambda x: jnp.sin(x.astype("float32").astype("bfloat16"))  # noqa: E731
    assert_rewrites(RULES["convert_chain"], fn, x, times=1, vmap=False)
