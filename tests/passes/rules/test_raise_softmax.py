"""Softmax by its structure, as every library and every hand writes it."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.lax import stop_gradient

from helpers import array, assert_refuses, rewritten
from jaxpress import nnops, passes
from jaxpress.capture import trace
from jaxpress.passes.rules.raise_softmax import (
    RAISE_SOFTMAX,
    RAISE_SOFTMAX_BY_HAND,
    RESHAPED_SOFTMAX,
    SOFTMAX_RULES,
)
from jaxpress.testing import assert_rewrites

# As many rows as columns, so that a mistaken axis has a fitting shape.
X = array(3, 3, 3)
MASK = X > -0.5
TIDY = passes.cleanup


def by_hand(x, axis=-1, other=None, stop=lambda m: m):
    e = jnp.exp(x - stop(jnp.max(x, axis, keepdims=True)))
    return e / jnp.sum(e, axis if other is None else other, keepdims=True)


def shifted(x, change=lambda m: m):
    return jnp.exp(x - change(stop_gradient(jnp.max(x, -1, keepdims=True))))


def inlined(fn, *args):
    graph = TIDY(trace(fn)(*args))
    return lambda *a: graph(*a)


def raised(rule, fn, *args):
    """The graph after a rule that applied once, with the same values."""
    new, names = rewritten(rule, fn, *args)
    assert names == [rule.name]
    np.testing.assert_allclose(new(*args), fn(*args), rtol=1e-6, atol=1e-7)
    return new


@pytest.mark.parametrize("axis", [0, 1, -1, (0, 2), None])
def test_of_jax_along_every_axis(axis) -> None:
    fn = inlined(lambda x: jax.nn.softmax(x, axis=axis), X)
    new = raised(RAISE_SOFTMAX, fn, X)
    (node,) = new.find("softmax")
    wanted = {0: -3, 1: -2, None: (-3, -2, -1), (0, 2): (-3, -1)}.get(axis, axis)
    assert new.count() == {"softmax": 1} and node.params["axis"] == wanted
    assert_refuses(RAISE_SOFTMAX_BY_HAND, fn, X, because="gradient")


@pytest.mark.parametrize(
    ("rule", "fn", "args"),
    [
        (RAISE_SOFTMAX, lambda x: jax.nn.softmax(x, (0, 2)), (X,)),
        (RAISE_SOFTMAX, lambda x, m: jax.nn.softmax(x, 1, where=m), (X, MASK)),
        (RAISE_SOFTMAX_BY_HAND, by_hand, (X,)),
    ],
)
def test_it_is_the_same_function(rule, fn, args) -> None:
    """Bits where it is called exact, gradients, NaN and infinities."""
    assert_rewrites(rule, inlined(fn, *args), *args, times=1, vmap=False)


def inverse(x):
    e = jnp.exp(x - jnp.expand_dims(jnp.max(x, -1), -1))
    return (1 / jnp.sum(e, -1))[..., None] * e


def reciprocal(x):
    e = shifted(x)
    return e * jnp.reciprocal(jnp.sum(e, -1, keepdims=True))


def twice(x):
    z = x - jnp.max(x, axis=1, keepdims=True)
    return jnp.exp(z) / jnp.exp(z).sum(1, keepdims=True)


def spread(x):
    e = jnp.exp(x - jnp.broadcast_to(x.max(1)[:, None, :], x.shape))
    return e / jnp.broadcast_to(jnp.sum(e, 1).reshape(3, 1, 3), x.shape)


@pytest.mark.parametrize(
    "fn", [by_hand, lambda x: by_hand(x, (0, 1)), inverse, reciprocal, twice, spread]
)
def test_by_hand(fn) -> None:
    tidy = inlined(fn, X)
    new = raised(RAISE_SOFTMAX_BY_HAND, tidy, X)
    assert new.count() == {"softmax": 1}
    assert_refuses(RAISE_SOFTMAX, tidy, X)
    assert RAISE_SOFTMAX_BY_HAND.numerics == "reassociates"


@pytest.mark.parametrize("mask", [MASK, MASK[0], MASK[:, :1], jnp.zeros((3, 3, 3), bool)])
def test_elements_that_do_not_count(mask) -> None:
    fn = inlined(lambda x, m: jax.nn.softmax(x, 1, where=m), X, mask)
    new = raised(RAISE_SOFTMAX, fn, X, mask)
    (node,) = new.find("softmax")
    assert node.params["operands"] == ("x", "where") and not new.find("exp")


@pytest.mark.parametrize("shape", [(5,), (4, 1), (0, 3), (3, 0), (2, 1, 7)])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_shapes_and_dtypes(shape, dtype) -> None:
    x = array(*shape, dtype=dtype)
    new, rules = rewritten(TIDY + RAISE_SOFTMAX, jax.nn.softmax, x)
    assert rules == ["raise_softmax"]
    np.testing.assert_array_equal(new(x), jax.jit(jax.nn.softmax)(x))


def test_in_float32_between_conversions() -> None:
    """How models in bfloat16 do it."""
    x = X.astype("bfloat16")
    fn = lambda x: jax.nn.softmax(x.astype("float32")).astype(x.dtype)  # noqa: E731
    new, rules = rewritten(TIDY + RAISE_SOFTMAX, fn, x)
    assert rules == ["raise_softmax"]
    assert new.count() == {"convert_element_type": 2, "softmax": 1}


@pytest.mark.parametrize("fn", [jax.nn.softmax, by_hand])
def test_masked_rows_infinities_and_nan(fn) -> None:
    x = X.at[0, 0].set(-jnp.inf).at[1, 1, 1].set(jnp.inf).at[2, 2, 2].set(jnp.nan)
    new, rules = rewritten(TIDY + SOFTMAX_RULES, fn, x)
    assert len(rules) == 1
    np.testing.assert_array_equal(new(x), fn(x))


def test_under_vmap_the_axis_moves() -> None:
    for fn in (jax.nn.softmax, by_hand):
        f = jax.vmap(jax.vmap(lambda x, fn=fn: fn(x, 0), 1, 1), 2)
        new, _ = rewritten(TIDY + SOFTMAX_RULES, f, X)
        assert new.count()["softmax"] == 1 and not new.find("exp")
        np.testing.assert_allclose(new(X), f(X), rtol=1e-6)


@pytest.mark.parametrize("order", [(1, 0, 2), (2, 0, 1), (2, 1, 0)])
@pytest.mark.parametrize("fn", [jax.nn.softmax, by_hand, jax.nn.log_softmax])
def test_of_a_transposed_array(fn, order) -> None:
    x = array(2, 3, 4)
    new = passes.raise_ops(TIDY(trace(lambda x: fn(x.transpose(order), 1))(x)))
    name = "log_softmax" if fn is jax.nn.log_softmax else "softmax"
    assert new.count() == {"transpose": 1, name: 1}
    np.testing.assert_allclose(new(x), fn(x.transpose(order), 1), rtol=1e-6)


def test_the_largest_of_a_transposed_array_is_another() -> None:
    def fn(x):
        e = jnp.exp(x.T - stop_gradient(x.max(-1, keepdims=True)))
        return e / e.sum(-1, keepdims=True)

    graph = TIDY(trace(fn)(X[0]))
    assert_refuses(RAISE_SOFTMAX, lambda x: graph(x), X[0], because="largest element")


def test_in_bodies() -> None:
    def fn(x):
        step = jax.checkpoint(lambda c, v: (c + jax.nn.softmax(v).sum(), by_hand(2 * v)))
        return jax.lax.scan(step, 0.0, x)

    new, _ = rewritten(passes.default, fn, X)
    assert new.count()["softmax"] == 2
    np.testing.assert_allclose(new(X)[1], fn(X)[1], rtol=1e-6)


def test_a_symbolic_batch() -> None:
    n, t = jax.export.symbolic_shape("n, t")
    x = jax.ShapeDtypeStruct((n, t), jnp.float32)
    new, _ = rewritten(TIDY + SOFTMAX_RULES, by_hand, x)
    assert new.count() == {"softmax": 1}


def test_a_sum_in_low_precision_stays() -> None:
    def fn(x, wide):
        e = jnp.exp(x - stop_gradient(x.max(-1, keepdims=True)))
        total = jax.lax.reduce_sum_p.bind(e.astype("float32") if wide else e, axes=(1,), **OPTIONS)
        return e / total.astype(x.dtype)[:, None]

    x = array(3, 3, dtype="bfloat16")
    params = trace(lambda x: jax.lax.reduce_sum(x, (1,)))(X[0]).nodes[0].params
    OPTIONS.update({k: v for k, v in params.items() if k != "axes"})
    assert rewritten(RAISE_SOFTMAX, lambda x: fn(x, True), x)[1] == ["raise_softmax"]
    assert_refuses(RAISE_SOFTMAX, lambda x: fn(x, False), x, because="another precision")


OPTIONS = {}


def masked(x, fill=-jnp.inf, zero=0.0, out=0.0, m=MASK, n=MASK):
    z = jnp.where(m, x, fill)
    e = jnp.exp(z - stop_gradient(z.max(-1, keepdims=True)))
    return jnp.where(n, e / jnp.where(m, e, zero).sum(-1, keepdims=True), out)


@pytest.mark.parametrize(
    ("fn", "because"),
    [
        (lambda x: by_hand(x, 1, 2), "different axes"),
        (lambda x: by_hand(x, (0, 1), 1), "different axes"),
        (lambda x: jnp.exp(x) / jnp.sum(jnp.exp(x), -1, keepdims=True), "no difference"),
        (lambda x: (e := jnp.exp(x)) / jnp.sum(e, -1, keepdims=True), "no difference"),
        (lambda x: jnp.sum(e := shifted(x), -1, keepdims=True) / e, ""),
        (lambda x: (e := shifted(x)) / jnp.sum(e, -1)[None], "put back"),
        (lambda x: (e := shifted(x, lambda m: m[..., 0][:, None])) / jnp.sum(e, -1)[..., None], ""),
        (lambda x: (e := shifted(x, lambda m: -m)) / jnp.sum(e, -1, keepdims=True), "no largest"),
        (lambda x: (e := shifted(x)) / jnp.sum(e * e, -1)[..., None], "no exponential"),
        (lambda x: (e := shifted(x)) / jnp.max(e, -1, keepdims=True), "not a sum"),
        (lambda x: shifted(x) / jnp.sum(shifted(x * 2), -1, keepdims=True), "numerator"),
        (lambda x: (e := jnp.exp(x.T - jnp.max(x, 0))) / e.sum(0), "no largest"),
        (lambda x: masked(x, fill=-1e9), "different elements"),
        (lambda x: masked(x, zero=1.0), ""),
        (lambda x: masked(x, out=1.0), ""),
        (lambda x: masked(x, n=~MASK), "other elements"),
        (lambda x: masked(x, n=MASK)[0], None),
    ],
)  # fmt: skip
def test_lookalikes_stay(fn, because) -> None:
    tidy = inlined(fn, X)
    if because is None:  # the one that is none
        assert rewritten(RAISE_SOFTMAX, tidy, X)[1] == ["raise_softmax"]
        return
    assert_refuses(SOFTMAX_RULES, tidy, X)
    if because:
        graph = trace(tidy)(X)
        reasons = [
            str(r.why_not(graph, n)) for r in SOFTMAX_RULES for n in graph.nodes if n.op in r.names
        ]
        assert any(because in reason for reason in reasons), reasons


def test_integers_and_complex_numbers() -> None:
    z = X.astype("complex64")
    assert_refuses(SOFTMAX_RULES, inlined(lambda z: jnp.exp(z - 1) / jnp.exp(z - 1).sum(), z), z)


def test_an_inner_value_with_another_user_is_kept() -> None:
    def fn(x):
        e = jnp.exp(x - stop_gradient(x.max(-1, keepdims=True)))
        return e / e.sum(-1, keepdims=True), e

    assert_refuses(RAISE_SOFTMAX, fn, X, because="as well")
    both = inlined(lambda x: (fn(x)[0], fn(x)[1] * 2), X)
    assert_refuses(RAISE_SOFTMAX, both, X, because="used by mul as well")


def _product(p, v):
    return jax.lax.dot_general(p, v, (((1,), (0,)), ((), ())))


@pytest.mark.parametrize(
    "fn",
    [
        # Along another axis, another size of it, some elements, and no weights of a sum.
        lambda x: _product(nnops.softmax(x, 0).reshape(9, 3), X[0]),
        lambda x: _product(nnops.softmax(x).reshape(3, 9), X.reshape(9, 3)),
        lambda x: _product(nnops.softmax(x, where=MASK).reshape(9, 3), X[0]),
        lambda x: nnops.softmax(x).reshape(9, 3),
        lambda x: _product(nnops.softmax(x).reshape(9, 3) + 1, X[0]),
    ],
)
def test_a_reshape_stays_after_other_softmaxes(fn) -> None:
    assert_refuses(RESHAPED_SOFTMAX, fn, X)
