"""What a custom derivative computes, as text: the same for the same function, and only for it."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import pytest
from jax import lax

from helpers import array
from jaxpress.capture import compat, trace
from jaxpress.passes.rules.canonical import canonical_text, custom_jvp_signature

X = array(2, 3)


def signature(fn, *args):
    graph = trace(fn)(*args or (X,))
    (node,) = graph.find("custom_jvp_call")[:1]
    return custom_jvp_signature(node)


def make(value, *rules):
    fn = jax.custom_jvp(value)
    fn.defjvps(*rules)
    return fn


def relu_value(x):
    return jnp.maximum(x, 0)


def relu_rule(g, ans, x):
    return lax.select(x > 0, g, lax.full_like(g, 0))


RELU = signature(jax.nn.relu)


def test_text_knows_neither_shapes_nor_names_nor_float_dtypes() -> None:
    def fn(x):
        return jnp.sin(x) * 2.0

    def other(value):
        return jnp.sin(value) * 2.0

    text = canonical_text(trace(fn)(X))
    assert text == canonical_text(trace(other)(array(4)))
    assert text == canonical_text(trace(fn)(X.astype("bfloat16")))
    assert text == canonical_text(trace(lambda x: jax.jit(fn)(x))(X))


@pytest.mark.parametrize(
    "fn",
    [
        lambda x: jnp.sin(x) * 2.5,
        lambda x: jnp.sin(x) * 2.000001,
        lambda x: jnp.cos(x) * 2.0,
        lambda x: jnp.sin(x) / 2.0,
        lambda x: jnp.sin(x) * 2.0 + 0.0,
        lambda x: (jnp.sin(x) * 2.0).astype("float16"),
        lambda x: jnp.sin(x) * x,
    ],
)
def test_text_knows_everything_else(fn) -> None:
    assert canonical_text(trace(fn)(X)) != canonical_text(trace(lambda x: jnp.sin(x) * 2.0)(X))


def test_text_knows_parameters_and_bodies() -> None:
    for f, g in (
        (lambda x: jnp.sum(x, 0), lambda x: jnp.sum(x, 1)),
        (
            lambda x: lax.fori_loop(0, 2, lambda _, y: y * 2, x),
            lambda x: lax.fori_loop(0, 2, lambda _, y: y * 3, x),
        ),
        (lambda x: lax.div(1.0, x * 0.0), lambda x: lax.div(1.0, x * -0.0)),
    ):
        assert canonical_text(trace(f)(X)) != canonical_text(trace(g)(X))


def test_the_same_function_by_another_name_has_the_same_text() -> None:
    assert signature(make(relu_value, relu_rule)) == RELU


@pytest.mark.parametrize(
    "x", [array(4), jnp.float32(1.0), array(1, 2, 3), X.astype("bfloat16"), X[:0]]
)
def test_relu_has_one_text_for_all_shapes_and_dtypes(x) -> None:
    assert signature(jax.nn.relu, x) == RELU
    assert signature(jax.vmap(jax.nn.relu), x[None]) == RELU


def test_relu_in_double_precision() -> None:
    with compat.enable_x64():
        assert signature(jax.nn.relu, jnp.ones(3)) == RELU


@pytest.mark.parametrize(
    "rule",
    [
        lambda g, ans, x: g,  # straight through
        lambda g, ans, x: lax.select(x >= 0, g, lax.full_like(g, 0)),  # another kink
        lambda g, ans, x: lax.select(x > 0, 2 * g, lax.full_like(g, 0)),
        lambda g, ans, x: lax.select(x > 0, g, lax.full_like(g, 1e-30)),
        lambda g, ans, x: lax.select(ans > 0, g, lax.full_like(g, 0)),
        lambda g, ans, x: lax.select(x > 0, lax.stop_gradient(g), lax.full_like(g, 0)),
        lambda g, ans, x: jnp.clip(lax.select(x > 0, g, lax.full_like(g, 0)), -1, 1),
    ],
)
def test_another_derivative_has_another_text(rule) -> None:
    assert signature(make(relu_value, rule)) != RELU


@pytest.mark.parametrize(
    "value",
    [
        lambda x: jnp.maximum(x, 1e-9),
        lambda x: jnp.maximum(x, -0.0),
        lambda x: jnp.minimum(x, 0),
        lambda x: jnp.maximum(x, 0) * 1.0,
        lambda x: jnp.where(x > 0, x, 0),
    ],
)
def test_another_value_has_another_text(value) -> None:
    assert signature(make(value, relu_rule)) != RELU


def test_a_value_that_a_rule_takes_from_elsewhere_is_seen() -> None:
    # The value that the rule returns has a derivative of its own, for the second derivative.
    other = make(relu_value, lambda g, ans, x: 100 * g)
    fn = jax.custom_jvp(relu_value)

    @fn.defjvp
    def rule(primals, tangents):
        (x,), (g,) = primals, tangents
        return other(x), relu_rule(g, None, x)

    assert signature(fn) != RELU


def test_a_rule_may_look_at_the_shape() -> None:
    def rule(g, ans, x):
        return relu_rule(g, ans, x) if x.ndim == 1 else 3 * g

    fn = make(relu_value, rule)
    assert signature(fn, array(4)) == RELU
    assert signature(fn, X) != RELU
    assert signature(fn, array(4)) == RELU


def test_a_rule_may_read_arguments_that_are_no_arrays() -> None:
    @functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
    def fn(x, gain):
        return relu_value(x)

    @fn.defjvp
    def rule(gain, primals, tangents):
        (x,), (g,) = primals, tangents
        return relu_value(x), gain * relu_rule(g, None, x)

    texts = [signature(lambda x, gain=gain: fn(x, gain)) for gain in (1.0, 2.0, 3.0)]
    assert len(set(texts)) == 3 and RELU not in texts


def test_rules_that_call_each_other_come_to_an_end() -> None:
    a, b = jax.custom_jvp(jnp.sin), jax.custom_jvp(jnp.cos)
    a.defjvps(lambda g, ans, x: g * b(x))
    b.defjvps(lambda g, ans, x: -g * a(x))
    assert signature(a) is not None and signature(a) != signature(b)


def test_a_rule_over_a_closed_over_tracer_is_unknown() -> None:
    @jax.custom_jvp
    def fn(x):
        return relu_value(x)

    def outer(x, gain):
        inner = jax.custom_jvp(lambda y: jnp.maximum(y, 0) * gain)
        inner.defjvps(lambda g, ans, y: g * gain)
        return inner(x)

    fn.defjvps(relu_rule)
    text = signature(outer, X, jnp.float32(2.0))
    assert text is None or text != RELU


def test_a_rule_is_traced_once_for_each_shape() -> None:
    calls = []

    def rule(g, ans, x):
        calls.append(x.shape)
        return 7 * g

    fn = make(relu_value, rule)
    for _ in range(3):
        signature(fn, X)
        signature(fn, array(4))
    assert sorted(calls) == [(2, 3), (4,)]


@pytest.mark.parametrize("name", ["relu", "relu6", "softplus"])
def test_an_axis_that_vmap_moves_is_no_matter(name) -> None:
    fn = getattr(jax.nn, name)
    moved = jax.vmap(fn, in_axes=1, out_axes=1)
    assert signature(moved, array(2, 3, 4)) == signature(fn, array(2, 3, 4))


@pytest.mark.parametrize(
    "fn",
    [
        lambda x: (jnp.sin(x).T * 2.0).T,
        lambda x: jnp.where((x > 0).T, x.T, -x.T).T,
        lambda x: jnp.maximum(x.T, jnp.copy(x.T)).T,
    ],
)
def test_transposes_that_come_to_nothing(fn) -> None:
    plain = {
        0: lambda x: jnp.sin(x) * 2.0,
        1: lambda x: jnp.where(x > 0, x, -x),
        2: lambda x: jnp.maximum(x, jnp.copy(x)),
    }
    texts = [canonical_text(trace(f)(array(3, 3))) for f in (fn, *plain.values())]
    assert texts[0] in texts[1:]


@pytest.mark.parametrize(
    "fn",
    [
        lambda x: jnp.sin(x).T,
        lambda x: jnp.sin(x.T),
        lambda x: jnp.sin(x) + x.T,
        lambda x: jnp.sin(x.T).T + jnp.copy(x.T),
        lambda x: jnp.cumsum(jnp.sin(x.T), 0).T,
        lambda x: jnp.cumsum(jnp.sin(x), 0),
    ],
)
def test_transposes_that_do_something(fn) -> None:
    others = [jnp.sin, lambda x: jnp.sin(x) + x, lambda x: jnp.sin(x) + jnp.copy(x)]
    others += [lambda x: jnp.cumsum(jnp.sin(x), 1), lambda x: jnp.cumsum(jnp.sin(x).T, 0)]
    text = canonical_text(trace(fn)(array(3, 3)))
    assert text not in [canonical_text(trace(f)(array(3, 3))) for f in others]
