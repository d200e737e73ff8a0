"""Activations by structure: every one of ``jax.nn`` is found, and no lookalike is."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from helpers import assert_refuses, rewritten
from jaxpress import nnops, passes
from jaxpress.capture import trace
from jaxpress.nnops import activation_entries
from jaxpress.passes import RuleSet
from jaxpress.passes.rules.raise_activation import activation_rules, clip_rules
from jaxpress.testing import assert_rewrites

# Kinks of all of them, and what is not a number.
X = jnp.array(
    [-jnp.inf, -7.0, -3.0, -1.0, -0.5, -0.0, 0.0, 0.5, 1.0, 3.0, 6.0, 7.0, jnp.inf, jnp.nan]
)
FINITE = X[1:-2].reshape(1, 11)

CALLS = {
    "relu": jax.nn.relu,
    "relu6": jax.nn.relu6,
    "leaky_relu": jax.nn.leaky_relu,
    "leaky_relu 0.2": lambda x: jax.nn.leaky_relu(x, 0.2),
    "hard_tanh": jax.nn.hard_tanh,
    "hard_sigmoid": jax.nn.hard_sigmoid,
    "hard_silu": jax.nn.hard_silu,
    "sparse_plus": jax.nn.sparse_plus,
    "sparse_sigmoid": jax.nn.sparse_sigmoid,
    "elu": jax.nn.elu,
    "elu 0.3": lambda x: jax.nn.elu(x, 0.3),
    "celu": jax.nn.celu,
    "celu 2": lambda x: jax.nn.celu(x, 2.0),
    "selu": jax.nn.selu,
    "gelu": jax.nn.gelu,
    "gelu exact": lambda x: jax.nn.gelu(x, approximate=False),
    "sigmoid": jax.nn.sigmoid,
    "silu": jax.nn.silu,
    "softplus": jax.nn.softplus,
    "soft_sign": jax.nn.soft_sign,
    "log_sigmoid": jax.nn.log_sigmoid,
    "mish": jax.nn.mish,
    "squareplus": jax.nn.squareplus,
    "squareplus 1": lambda x: jax.nn.squareplus(x, 1.0),
    "relu_squared": lambda x: jnp.square(jax.nn.relu(x)),
    "quick_gelu": lambda x: x * jax.nn.sigmoid(1.702 * x),
}


@functools.cache
def settled() -> RuleSet:
    return activation_rules()


def raised(fn, *args):
    """The graph after inlining and all rules, and the rules' names."""
    graph = passes.cleanup(trace(fn)(*args))
    record = []
    new = passes.rewrite(graph, settled(), record=record).validate()
    return new, [r.rule for r in record]


@pytest.mark.parametrize("name", CALLS)
def test_every_activation_of_jax_is_one_named_op(name) -> None:
    fn = CALLS[name]
    op = name.split()[0]
    new, rules = raised(fn, X)
    assert new.count() == {op: 1} and rules[-1] == f"raise_{op}"
    np.testing.assert_array_equal(new(X), jax.jit(fn)(X))
    both = (fn, raised(fn, FINITE)[0])
    grads = [jax.jit(jax.grad(lambda x, f=f: f(x).sum()))(FINITE) for f in both]
    np.testing.assert_allclose(grads[1], grads[0], rtol=1e-6, err_msg="at kinks")


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_in_low_precision(name, dtype) -> None:
    x = FINITE.astype(dtype)
    new, rules = raised(CALLS[name], x)
    assert len(rules) >= 1 and set(new.count()) == {name.split()[0]}
    np.testing.assert_array_equal(new(x), jax.jit(CALLS[name])(x))


@pytest.mark.parametrize("name", CALLS)
def test_scalars_empty_arrays_and_weak_types(name) -> None:
    for x in (jnp.float32(0.5), jnp.zeros((0, 3)), 0.5):
        new, _ = raised(CALLS[name], x)
        got, want = new(x), CALLS[name](x)
        assert jax.typeof(got) == jax.typeof(want)
        np.testing.assert_array_equal(got, want)


def test_every_entry_is_covered_here() -> None:
    assert {name.split()[0] for name in CALLS} == set(activation_entries()) - {"tanh"}


@pytest.mark.parametrize("name", ["relu", "silu", "gelu", "leaky_relu", "softplus", "mish"])
def test_rules_keep_the_function_in_every_way(name) -> None:
    rules = settled()
    inlined = passes.inline(trace(CALLS[name])(FINITE))
    assert_rewrites(rules, lambda x: inlined(x), FINITE)


def test_parameters_are_captured_and_short() -> None:
    for dtype in ("float32", "bfloat16"):
        x = FINITE.astype(dtype)
        (node,) = raised(lambda x: jax.nn.leaky_relu(x, 0.2), x)[0].nodes
        assert node.params["negative_slope"] == 0.2
    (node,) = raised(CALLS["squareplus 1"], X)[0].nodes
    assert node.params == {"b": 1.0}
    (exact,) = raised(CALLS["gelu exact"], X)[0].nodes
    assert exact.params == {"approximate": False}


@pytest.mark.parametrize(
    ("fn", "op"),
    [
        (lambda x: x * lax.logistic(x), "silu"),
        (lambda x: lax.logistic(x) * x, "silu"),
        (lambda x: jnp.where(x >= 0, x, 0.1 * x), "leaky_relu"),
        (lambda x: jnp.where(x >= 0, x, x * 0.1), "leaky_relu"),
        (lambda x: x / (jnp.abs(x) + 1), "soft_sign"),
        (lambda x: x / (1 + jnp.abs(x)), "soft_sign"),
        (lambda x: 0.5 * (x + jnp.sqrt(x * x + 4)), "squareplus"),
        (lambda x: (jnp.sqrt(x**2 + 3) + x) / 2, "squareplus"),
        (lambda x: jax.nn.relu(x) ** 2, "relu_squared"),
        (lambda x: jax.nn.relu(x) * jax.nn.relu(x), "relu_squared"),
    ],
)
def test_what_people_write_themselves(fn, op) -> None:
    new, _ = raised(fn, X)
    if op is not None:
        assert new.count() == {op: 1}
    np.testing.assert_array_equal(new(X), jax.jit(fn)(X))


def straight_through(x):
    @jax.custom_jvp
    def relu(x):
        return jnp.maximum(x, 0)

    relu.defjvps(lambda g, ans, x: g)
    return relu(x)


def other_kink(x):
    @jax.custom_jvp
    def relu(x):
        return jnp.maximum(x, 0)

    relu.defjvps(lambda g, ans, x: lax.select(x >= 0, g, lax.full_like(g, 0)))
    return relu(x)


def other_value(x):
    @jax.jit
    def relu(x):
        return jnp.maximum(x, 0.1)

    return relu(x)


def clipped_gradient(x):
    @jax.custom_vjp
    def relu(x):
        return jax.nn.relu(x)

    relu.defvjp(lambda x: (relu(x), x), lambda x, g: (jnp.clip(g, -0.1, 0.1) * (x > 0),))
    return relu(x)


@pytest.mark.parametrize("fn", [straight_through, other_kink, other_value])
def test_a_users_own_relu_is_not_relu(fn) -> None:
    new, rules = raised(fn, X)
    assert rules == []
    grads = [jax.grad(lambda x, f=f: f(x).sum())(X) for f in (fn, new)]
    np.testing.assert_array_equal(*grads)


def test_a_clipped_gradient_stays() -> None:
    new, _ = raised(clipped_gradient, FINITE)
    assert new.count()["custom_vjp_call"] == 1
    grads = [jax.grad(lambda x, f=f: f(x).sum())(FINITE) for f in (clipped_gradient, new)]
    np.testing.assert_array_equal(*grads)
    assert float(jnp.max(grads[0])) == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("fn", "args"),
    [
        (lambda x, y: x * lax.logistic(y), (FINITE, FINITE)),
        (lambda x: x * lax.logistic(1.7 * x), (FINITE,)),
        (lambda x: x * lax.logistic(-x), (FINITE,)),
        (lambda x: x - lax.logistic(x), (FINITE,)),
        (lambda x, y: jnp.where(x >= 0, y, 0.1 * x), (FINITE, FINITE)),
        (lambda x: jnp.where(x > 0, 0.1 * x, x), (FINITE,)),
        (lambda x: jnp.where(x >= 0, 0.1 * x, x), (FINITE,)),
        (lambda x: jnp.where(x >= 0.1, x, 0.1 * x), (FINITE,)),
        (lambda x, s: jnp.where(x >= 0, x, s * s * x), (FINITE, jnp.float32(0.1))),
        (lambda x: x / (2 + jnp.abs(x)), (FINITE,)),
        (lambda x: jnp.abs(x) / (1 + x), (FINITE,)),
        (lambda x: jnp.maximum(x, 0), (FINITE,)),
        (lambda x: jnp.clip(x, 0, 6), (FINITE,)),
    ],
)  # fmt: skip
def test_lookalikes_stay_what_they_are(fn, args) -> None:
    new, rules = raised(fn, *args)
    assert set(rules) <= {"raise_sigmoid"}
    np.testing.assert_array_equal(new(*args), jax.jit(fn)(*args))


def test_an_inner_value_with_another_user_is_kept() -> None:
    def gated(x):
        s = lax.logistic(x)
        return x * s, s

    new, _ = raised(gated, FINITE)
    assert new.count() == {"sigmoid": 1, "mul": 1}

    def shared(x):
        e = jnp.expm1(jnp.where(x > 0, 0.0, x))
        return jnp.where(x > 0, x, 1.0 * e), e

    new, rules = raised(shared, FINITE)
    assert "raise_elu" not in rules


def test_broadcast_operands_are_no_activation_of_one_of_them() -> None:
    def fn(x):
        return x * lax.logistic(jnp.ones((4, 1)) * 2)

    assert "silu" not in raised(fn, FINITE)[0].count()


def test_integers_and_complex_numbers_stay() -> None:
    new, rules = raised(lambda x: jax.nn.relu(x), jnp.arange(-3, 3))
    np.testing.assert_array_equal(new(jnp.arange(-3, 3)), jnp.maximum(jnp.arange(-3, 3), 0))
    z = FINITE + 1j
    new, rules = raised(lambda z: z * lax.logistic(z), z)
    np.testing.assert_allclose(new(z), z * lax.logistic(z), rtol=1e-6)
    del rules


def test_a_stated_accuracy_is_refused() -> None:
    highest = lax.AccuracyMode.HIGHEST
    assert raised(lambda x: lax.logistic(x, accuracy=highest), FINITE)[1] == []
    assert raised(lambda x: x * lax.logistic(x, accuracy=highest), FINITE)[1] == []


def test_the_widest_pattern_wins() -> None:
    # mish has softplus inside, hard_silu has relu6.
    for name in ("mish", "hard_silu", "hard_sigmoid", "silu"):
        assert raised(CALLS[name], FINITE)[1] == [f"raise_{name}"]


def test_in_bodies_and_under_transformations() -> None:
    def fn(x):
        return lax.scan(lambda c, _: (jax.nn.silu(jax.nn.relu(c)), None), x, None, length=3)[0]

    new, rules = raised(fn, FINITE)
    assert sorted(rules) == ["raise_relu", "raise_silu"]
    np.testing.assert_allclose(new(FINITE), fn(FINITE), rtol=1e-6)
    new, _ = raised(jax.vmap(lambda x: jax.nn.relu6(jax.nn.gelu(x))), FINITE)
    assert new.count() == {"gelu": 1, "relu6": 1}


def test_only_rules_that_can_apply_are_made() -> None:
    names = {r.name for r in activation_rules({"logistic": 1, "mul": 1})}
    assert {"raise_silu", "raise_sigmoid"} <= names
    assert "raise_relu" not in names and "raise_softplus" not in names


@pytest.mark.parametrize("name", CALLS)
def test_what_each_rule_needs_is_in_its_pattern(name) -> None:
    """Rules made for a graph's own ops find what all rules find."""
    graph = passes.cleanup(trace(CALLS[name])(FINITE))
    new = passes.rewrite(graph, activation_rules(graph.count()))
    assert new.count() == {name.split()[0]: 1}


# Clips, for results that nobody differentiates.


@pytest.mark.parametrize(
    ("fn", "op"),
    [
        (lambda x: jnp.maximum(x, 0), "relu"),
        (lambda x: jnp.maximum(0, x), "relu"),
        (lambda x: jnp.minimum(jnp.maximum(x, 0), 6), "relu6"),
        (lambda x: jnp.maximum(x, 1e-9), None),
        (lambda x: jnp.maximum(x, -0.0), None),
        (lambda x: jnp.minimum(x, 0), None),
        (lambda x: jnp.minimum(jnp.maximum(x, 0), 5), "relu"),
    ],
)
def test_clips_keep_every_bit(fn, op) -> None:
    graph = passes.cleanup(trace(fn)(X))
    new = passes.rewrite(graph, clip_rules())
    assert (op in new.count()) if op else set(new.count()) <= {"max", "min"}
    assert np.asarray(new(X)).tobytes() == np.asarray(jax.jit(fn)(X)).tobytes()


@pytest.mark.parametrize("dtype", ["int32", "uint8", "bool", "complex64"])
def test_clips_of_other_numbers_stay(dtype) -> None:
    x = jnp.arange(6).astype(dtype)
    zero, six = jnp.zeros((), dtype), jnp.asarray(6, dtype)
    assert_refuses(clip_rules(), lambda x: lax.max(x, jnp.broadcast_to(zero, x.shape)), x)
    assert_refuses(
        clip_rules(),
        lambda x: lax.min(lax.max(x, lax.full_like(x, 0)), lax.full_like(x, six.item())),
        x,
    )


def test_clips_are_not_in_the_default_preset() -> None:
    def fn(x):
        return jnp.maximum(x, 0)

    assert rewritten(passes.default, fn, X)[0].count() == {"max": 1}
    assert rewritten(passes.inference, fn, X)[0].count() == {"relu": 1}
    grads = [
        jax.grad(lambda x, f=f: f(x).sum())(FINITE) for f in (fn, passes.default(trace(fn)(FINITE)))
    ]
    np.testing.assert_array_equal(*grads)


def test_named_ops_are_left_alone() -> None:
    assert raised(lambda x: nnops.relu(nnops.gelu(x)), X)[1] == []


def test_an_integer_between_0_and_6_is_no_relu6() -> None:
    """As the index of a switch with seven branches is clamped."""

    def fn(i, x):
        return lax.switch(i, [lambda x, k=k: x * k for k in range(7)], x)

    graph = rewritten(passes.default, fn, jnp.int32(9), jnp.float32(2))[0]
    assert "relu6" not in graph.count() and "clamp" in graph.count()
    assert float(graph(jnp.int32(9), jnp.float32(2))) == 12
