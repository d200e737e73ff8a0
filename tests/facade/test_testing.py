"""What check_rule and its kin find: every way in which a rule can be wrong, and nothing else."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest
from jax import lax

from helpers import array
from jaxpress.capture import PassError, VerificationError
from jaxpress.passes import (
    Rule,
    any_value,
    op,
    optional,
    outputs,
    repeated,
    scalar,
    through,
    traced,
)
from jaxpress.passes.rule import Match
from jaxpress.testing import assert_equivalent, assert_rewrites, check_rule

X = array(3, 4)
NEG_NEG = Rule("neg_neg", op("neg", op("neg", any_value("x"))), lambda x: x)


@pytest.mark.parametrize(
    "rule",
    [
        NEG_NEG,
        Rule("shift", op("sub", any_value("x"), 0.0), lambda x: x),
        Rule("tan", lambda x: jnp.sin(x) / jnp.cos(x), jnp.tan, numerics="reassociates"),
        Rule("half", lambda x, *, by: x * by / 2, lambda x, *, by: x * (by / 2),
             numerics="reassociates"),
        Rule("both", lambda x: (jnp.sin(x) * 2, jnp.cos(x) * 2),
             lambda x: (jnp.sin(x) + jnp.sin(x), jnp.cos(x) + jnp.cos(x))),
        Rule("pair", outputs(op("exp", any_value("x")), op("sin", any_value("x"))),
             lambda x: (jnp.exp2(x * 1.442695), jnp.cos(x - 1.5707964)), numerics="approximate"),
    ],
    ids=lambda rule: rule.name,
)  # fmt: skip
def test_good_rules_pass(rule) -> None:
    check_rule(rule)


class _Careless:
    """Looks at names alone, and at no more of the graph than it needs."""

    names = frozenset({"mul"})
    size = 2

    def find(self, state, node):
        a, b = state.view.inputs(node)
        inner = state.view.producer(b)
        if inner is None or inner.op == "mul":
            return None
        return Match(state.view, node, {"x": a}, matched=(inner,))


@jax.custom_jvp
def _flat(x):
    return -1 * jnp.tanh(x)


@_flat.defjvp
def _flat_jvp(primals, tangents):
    (x,), (t,) = primals, tangents
    return _flat(x), -t * lax.stop_gradient(1 - jnp.tanh(x) ** 2)


@jax.custom_vjp
def _backwards(x):
    return -1 * jnp.tanh(x)


_backwards.defvjp(lambda x: (_backwards(x), x), lambda x, t: (-t * (1 - jnp.tanh(x) ** 2),))


WRONG = {
    "minus zero": (Rule("r", op("add", any_value("x"), 0.0), lambda x: x), ()),
    "an effect": (
        Rule("r", op("neg", op("neg", any_value("x"))), lambda x: (jax.debug.print("x"), x)[1]),
        (),
    ),
    "another value": (Rule("r", op("sin", any_value("x")), jnp.cos), ()),
    "another gradient": (
        Rule("r", op("sqrt", op("mul", any_value("x"), any_value("x"))), jnp.abs), ()),
    "exact in name only": (
        Rule("r", lambda x, *, a: x * a * 3, lambda x, *, a: x * (a * 3)), ()),
    "a lost NaN": (Rule("r", op("mul", any_value("x"), 0.0), jnp.zeros_like,
                        numerics="reassociates"), ()),
    "its own result": (Rule("r", op("sin", any_value("x")), lambda x: jnp.sin(x) * 1.0), ()),
    "the other order": (Rule("r", op("sub", any_value("x"), op("neg", any_value("y")),
                                     commutative=True), lambda x, y: x + y), ()),
    "any parameter": (Rule("r", op("cumsum", any_value("x")), lambda x: jnp.cumsum(x * 2, 1) / 2,
                           lambda m: "its own" if m.root.origin else None,
                           numerics="reassociates"), (lambda x: jnp.cumsum(x, 1), X)),
    "the kink at a number": (Rule("r", op("max", any_value("x"), scalar(name="a")),
                                  lambda x, a: jnp.where(x > a, x, a).astype(x.dtype),
                                  numerics="reassociates"), ()),
    "real numbers only": (Rule("r", op("mul", any_value("x"), any_value("x")),
                               lambda x: jnp.square(lax.abs(x)).astype(x.dtype)), ()),
    "half the digits": (Rule("r", op("neg", op("tanh", any_value("x"))), lambda x: (
        -1 * jnp.tanh(x.astype((jnp.finfo(x.dtype).bits > 16 and "float32") or x.dtype))
    ).astype(x.dtype)), ()),
    "overflow": (Rule("r", lambda x: jnp.logaddexp(x, 0.0), lambda x: jnp.log(1 + jnp.exp(x)),
                      numerics="reassociates"), ()),
    "ties": (Rule("r", op("floor", op("add", any_value("x"), 0.5)), jnp.round), ()),
    "one of two operations": (Rule("r", op(("cosh", "sinh"), op("neg", any_value("x"))),
                                   jnp.cosh, numerics="reassociates"), ()),
    "a wrapper": (Rule("r", op("exp", through(op("sin", any_value("x")), "stop_gradient")),
                       lambda x: jnp.exp(jnp.sin(x)) * 1), ()),
    "the second derivative": (Rule("r", op("neg", op("tanh", any_value("x"))), _flat), ()),
    "the forward derivative": (Rule("r", op("neg", op("tanh", any_value("x"))), _backwards,
                                    numerics="reassociates"), ()),
    "overflow in two places": (
        Rule("r", op("exp", op("sub", any_value("x"), any_value("y"))),
             lambda x, y: jnp.exp(x) / jnp.exp(y), numerics="reassociates"), ()),
    "overflow in the gradient": (Rule("r", op("exp", op("neg", any_value("x"))),
                                      lambda x: 1 / jnp.exp(x), numerics="reassociates"), ()),
    "integers that wrap round": (
        Rule("r", op("lt", op("sub", any_value("x"), any_value("y")), 0), lambda x, y: x < y),
        (lambda x, y: x - y < 0, jnp.arange(6), jnp.arange(6)[::-1])),
    "numbers of another order": (
        Rule("r", op("min", op("max", any_value("x"), scalar(name="a")), scalar(name="b")),
             lambda x, a, b: jnp.maximum(jnp.minimum(x, b), a)), ()),
    "a conversion that rounds": (
        Rule("r", op("convert_element_type", op("convert_element_type", any_value("x"))),
             lambda x, *, match: x.astype(match.root.output.dtype)),
        (lambda x: x.astype("float32").astype("bfloat16"), X.astype("bfloat16"))),
    "a parameter inside a call": (
        Rule("r", op("cumsum", op("neg", any_value("x"))),
             lambda x, *, match: -jnp.cumsum(x, match.root.params["axis"])),
        (lambda x: jnp.cumsum(-x, 0), X)),
    "a kink of the example": (
        Rule("r", op("abs", op("neg", any_value("x"))), jnp.abs), (lambda x: jnp.abs(-x), X)),
    "any operation": (Rule("r", _Careless(), lambda x: x * jnp.sin(x), lambda m: None),
                      (lambda x: x * jnp.sin(x), X)),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_wrong_rules_are_found(name) -> None:
    rule, example = WRONG[name]
    with pytest.raises(VerificationError):
        check_rule(rule, *example)


_TINY = 1e-9  # nothing in float16


def _narrowed(x):
    return x.astype("int32").astype(x.dtype) if jnp.issubdtype(x.dtype, jnp.integer) else x


# Wrong in one precision, and right in all others that check_rule tries.
ONE_PRECISION = {
    "float16": [
        (Rule("overflow", lambda x: (x / 64) * (x / 64), lambda x: x * x / 4096,
              numerics="reassociates"), ()),
        (Rule("underflow", lambda x: x / (jnp.abs(x) + 0.5), lambda x: x * _TINY / (
            jnp.abs(x) * _TINY + 0.5 * _TINY), numerics="reassociates"), ()),
    ],
    "int64": [
        (Rule("narrow", NEG_NEG.pattern, _narrowed), ()),
        (Rule("narrow_type", NEG_NEG.pattern,
              lambda x: x.astype("int32") if x.dtype == "int64" else x), ()),
    ],
}  # fmt: skip


@pytest.mark.parametrize("dtype", ONE_PRECISION)
def test_what_is_wrong_in_one_precision_is_found(dtype) -> None:
    for rule, example in ONE_PRECISION[dtype]:
        others = (
            "float32",
            "bfloat16",
            *(("float64",) if dtype == "float16" else ("int32", "float16")),
        )
        check_rule(rule, *example, dtypes=others)
        with pytest.raises((VerificationError, PassError), match=dtype):
            check_rule(rule, *example, dtypes=("float32", dtype))


def test_other_rounding_is_called_by_its_name() -> None:
    with pytest.raises(VerificationError, match=r'e-0[78]; numerics="reassociates" allows other'):
        check_rule(*WRONG["exact in name only"][:1])
    with pytest.raises(VerificationError, match=r"changed a value by [0-9.e+-]+:"):
        check_rule(*WRONG["another value"][:1])


def test_a_mutant_is_named() -> None:
    careless = Rule("r", _Careless(), lambda x: lax.sin(x) / (1 / x), numerics="reassociates")
    with pytest.raises(VerificationError, match="takes cbrt for sin"):
        check_rule(careless, lambda x: x * jnp.sin(x), X, gradients=False)


def test_integers_that_a_rule_forgets() -> None:
    # x / 2 * 2 is x, unless a half is cut off.
    halves = op("mul", op("div", any_value("x"), 2), 2)
    with pytest.raises(VerificationError):
        check_rule(Rule("r", halves, lambda x: x, numerics="reassociates"))
    check_rule(
        Rule("r", halves, lambda x: x,
             lambda m: None if jnp.issubdtype(m["x"].dtype, jnp.inexact) else "integers",
             numerics="reassociates")
    )  # fmt: skip


def test_a_batch_that_a_rule_forgets() -> None:
    # Right for a matrix, and for no stack of them.
    rule = Rule("r", op("reduce_sum", op("sin", any_value("x"))), lambda x: jnp.sin(x).sum(0),
                lambda m: None if m["x"].ndim != 1 else "no vector")  # fmt: skip
    with pytest.raises((VerificationError, PassError)):
        check_rule(rule, lambda x: jnp.sin(x).sum(0) * 1, X)


def test_where_it_must_not_apply() -> None:
    few = {"dtypes": ("float32",), "shapes": ((3,),)}
    check_rule(NEG_NEG, refuses=[(lambda x: lax.neg(lax.abs(x)), X)], **few)
    with pytest.raises(VerificationError, match="applies where it must not"):
        check_rule(NEG_NEG, refuses=[(lambda x: lax.neg(lax.neg(x)), X)], **few)


def test_a_rule_that_applies_nowhere() -> None:
    never = Rule("never", NEG_NEG.pattern, lambda x: x, lambda m: "never")
    with pytest.raises(VerificationError, match="applies to none of the examples"):
        check_rule(never)
    with pytest.raises(VerificationError, match="applied 0 times"):
        check_rule(NEG_NEG, jnp.sin, X)


@pytest.mark.parametrize(
    "pattern",
    [
        op("dot_general", any_value("x"), any_value("y")),
        op("concatenate", repeated(any_value("x"))),
        _Careless(),
    ],
)
def test_patterns_that_need_an_example(pattern) -> None:
    with pytest.raises(PassError, match="give check_rule a function"):
        check_rule(Rule("r", pattern, lambda **k: next(iter(k.values()))))


def test_examples_of_patterns_with_all_their_parts() -> None:
    part = op("sin", any_value("x"))
    pattern = op("add", optional(part, "reshape") | part, op("mul", part, scalar(2.0)))
    assert_rewrites(Rule("r", pattern, lambda x: 3 * jnp.sin(x), numerics="reassociates"),
                    lambda x: lax.sin(x) + lax.sin(x) * 2, X)  # fmt: skip


def test_the_number_of_times_is_asserted() -> None:
    fn = lambda x: lax.neg(lax.neg(x)) * lax.neg(lax.neg(x))  # noqa: E731
    assert_rewrites(NEG_NEG, fn, X, times=2)
    with pytest.raises(VerificationError, match="applied 2 times, not 1"):
        assert_rewrites(NEG_NEG, fn, X, times=1)


def test_traced_patterns_with_examples_of_their_own() -> None:
    rule = Rule(
        "affine", traced(lambda x, w, b: x @ w + b, (2, 3), (3, 4), (4,)),
        lambda x, w, b: jnp.einsum("...i,io->...o", x, w) + b,
        lambda m: "once is enough" if m.root.origin else None, numerics="reassociates",
    )  # fmt: skip
    check_rule(rule, dtypes=("float32",))


def test_equivalence_of_functions() -> None:
    assert_equivalent(lambda x: x + x, lambda x: 2 * x, X)
    with pytest.raises(VerificationError):
        assert_equivalent(jnp.abs, lambda x: jnp.sqrt(x * x), X.at[0, 0].set(0.0))
    with pytest.raises(VerificationError):
        assert_equivalent(jnp.sin, lambda x: jnp.sin(x) * 1.001, X)
    assert_equivalent(jnp.sin, lambda x: jnp.sin(x) * 1.001, X, tolerance=0.01)
    batchless = jax.jit(lambda x: jnp.sin(x) if x.ndim == 2 else jnp.cos(x))
    assert_equivalent(jnp.sin, batchless, X)
