"""log_softmax and logsumexp by their structure."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.lax import stop_gradient

from helpers import array, assert_refuses, rewritten
from jaxpress import nnops, passes
from jaxpress.capture import trace
from jaxpress.passes.rules.raise_log_softmax import (
    EXP_OF_LOG_SOFTMAX,
    LOG_SOFTMAX_RULES,
    RAISE_LOG_SOFTMAX,
    RAISE_LOG_SOFTMAX_BY_HAND,
    RAISE_LOGSUMEXP,
)
from jaxpress.testing import assert_rewrites

X = array(3, 3, 3)
MASK = X > -0.5
TIDY = passes.cleanup
AXES = [0, 1, -1, (0, 2), None]


def inlined(fn, *args):
    graph = TIDY(trace(fn)(*args))
    return lambda *a: graph(*a)


def raised(rule, fn, *args):
    """The graph after a rule that applied once, with the same values."""
    new, names = rewritten(rule, fn, *args)
    assert names == [rule.name]
    np.testing.assert_allclose(new(*args), fn(*args), rtol=1e-6, atol=1e-6)
    return new


@pytest.mark.parametrize(
    ("rule", "fn"),
    [
        (RAISE_LOG_SOFTMAX, lambda x: jax.nn.log_softmax(x, (0, 2))),
        (RAISE_LOG_SOFTMAX_BY_HAND, lambda x: one_step(x)),
        (RAISE_LOGSUMEXP, lambda x: jax.nn.logsumexp(x, 1)),
        (EXP_OF_LOG_SOFTMAX, lambda x: jnp.exp(nnops.log_softmax(x, (0, 1)))),
    ],
)
def test_it_is_the_same_function(rule, fn) -> None:
    """Bits where it is called exact, gradients, NaN and infinities."""
    assert_rewrites(rule, inlined(fn, X), X, times=1, vmap=False)


@pytest.mark.parametrize("axis", AXES)
def test_log_softmax_of_jax(axis) -> None:
    fn = inlined(lambda x: jax.nn.log_softmax(x, axis=axis), X)
    new = raised(RAISE_LOG_SOFTMAX, fn, X)
    assert new.count() == {"log_softmax": 1}


@pytest.mark.parametrize("axis", AXES)
@pytest.mark.parametrize("keepdims", [False, True])
def test_logsumexp_of_jax(axis, keepdims) -> None:
    fn = inlined(lambda x: jax.nn.logsumexp(x, axis=axis, keepdims=keepdims), X)
    new = raised(RAISE_LOGSUMEXP, fn, X)
    assert new.count() == {"logsumexp": 1}
    assert new.find("logsumexp")[0].params["keepdims"] == keepdims


def two_steps(x):
    z = x - x.max(-1, keepdims=True)
    return z - jnp.log(jnp.exp(z).sum(-1, keepdims=True))


def one_step(x):
    m = x.max(1, keepdims=True)
    return x - (m + jnp.log(jnp.exp(x - m).sum(1, keepdims=True)))


@pytest.mark.parametrize(
    "fn",
    [
        two_steps,
        one_step,
    ],
)
def test_log_softmax_by_hand(fn) -> None:
    tidy = inlined(fn, X)
    new = raised(RAISE_LOG_SOFTMAX_BY_HAND, tidy, X)
    assert new.count() == {"log_softmax": 1}
    assert_refuses(RAISE_LOG_SOFTMAX, tidy, X)
    assert RAISE_LOG_SOFTMAX_BY_HAND.numerics == "reassociates"


@pytest.mark.parametrize("mask", [MASK, MASK[:, :1], jnp.zeros((3, 3, 3), bool)])
def test_elements_that_do_not_count(mask) -> None:
    fn = inlined(lambda x, m: jax.nn.log_softmax(x, 1, where=m), X, mask)
    new = raised(RAISE_LOG_SOFTMAX, fn, X, mask)
    assert new.find("log_softmax")[0].params["operands"] == ("x", "where")
    fn = inlined(lambda x, m: jax.nn.logsumexp(x, 1, where=m), X, mask)
    new = raised(RAISE_LOGSUMEXP, fn, X, mask)
    assert new.find("logsumexp")[0].params["operands"] == ("x", "where")


@pytest.mark.parametrize("name", ["log_softmax", "logsumexp"])
@pytest.mark.parametrize("shape", [(5,), (4, 1), (0, 3), (3, 0), (2, 1, 7)])
def test_shapes_and_dtypes(name, shape) -> None:
    for dtype in ("float32", "bfloat16"):
        x = array(*shape, dtype=dtype)
        plain = lambda x: getattr(jax.nn, name)(x, axis=-1)  # noqa: E731
        new, rules = rewritten(TIDY + LOG_SOFTMAX_RULES, plain, x)
        assert rules == [f"raise_{name}"]
        np.testing.assert_array_equal(new(x), jax.jit(plain)(x))


@pytest.mark.parametrize("name", ["log_softmax", "logsumexp"])
def test_infinities_and_nan(name) -> None:
    x = X.at[0, 0].set(-jnp.inf).at[1, 1, 1].set(jnp.inf).at[2, 2, 2].set(jnp.nan)
    plain = lambda x: getattr(jax.nn, name)(x, axis=-1)  # noqa: E731
    new, rules = rewritten(TIDY + LOG_SOFTMAX_RULES, plain, x)
    assert rules == [f"raise_{name}"]
    np.testing.assert_array_equal(new(x), plain(x))


def test_all_of_one_array_share_their_equations() -> None:
    """As an entropy does; each becomes what it is, and nothing is left of what they shared."""

    def fn(x):
        log = jax.nn.log_softmax(x)
        return (jax.nn.softmax(x) * log).sum(-1), jax.nn.logsumexp(x, -1), log

    new, _ = rewritten(passes.default, fn, X)
    assert new.count() == {
        "softmax": 1, "log_softmax": 1, "logsumexp": 1, "mul": 1, "reduce_sum": 1,
    }  # fmt: skip
    for got, want in zip(new(X), fn(X), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-5)


def test_gradients_of_the_loss_are_kept() -> None:
    labels = jnp.asarray([0, 2, 1])

    def loss(x):
        return -jnp.take_along_axis(jax.nn.log_softmax(x), labels[:, None, None], -1).mean()

    new, _ = rewritten(passes.default, loss, X)
    assert new.count()["softmax_cross_entropy"] == 1
    np.testing.assert_allclose(jax.grad(new)(X), jax.grad(loss)(X), rtol=1e-5, atol=1e-7)


def unguarded(x):
    m = stop_gradient(x.max(-1))
    return m + jnp.log(jnp.exp(x - m[..., None]).sum(-1))


def total(x, m):
    return jnp.log(jnp.exp(x - m).sum(-1, keepdims=True))


@pytest.mark.parametrize(
    ("fn", "because"),
    [
        (unguarded, "NaN where the sum is infinite"),
        (lambda x: jnp.log(jax.nn.softmax(x)), ""),
        (lambda x: x[..., 0] + jnp.log(jnp.exp(x - x[..., :1]).sum(-1)), ""),
        (lambda x: x - total(x, x.max(-1, keepdims=True)), "another array"),
        (lambda x: (x - (m := x.max(-1, keepdims=True))) - total(x, m * 2), ""),
        (lambda x: (x - (m := x.max(-1, keepdims=True))) - total(x, m).T, ""),
        (lambda x: x - (total(x, x.max(-1, keepdims=True)) + x.max(0)[..., None]), "largest"),
        (lambda x: x - jax.nn.logsumexp(x, 1), ""),
        # Of a row with infinity it is minus infinity and one NaN, where log_softmax is NaN.
        (lambda x: x - jax.nn.logsumexp(x, -1, keepdims=True), "infinities are exchanged"),
        (lambda x: x.T - jax.nn.logsumexp(x, -1, keepdims=True), "another array"),
        (lambda x: x - jax.nn.logsumexp(x, -1, keepdims=True, where=MASK), "another array"),
    ],
)  # fmt: skip
def test_lookalikes_stay(fn, because) -> None:
    # What is a logsumexp inside of it may become one.
    tidy = inlined(fn, X)
    rules = (RAISE_LOG_SOFTMAX, RAISE_LOG_SOFTMAX_BY_HAND)
    assert_refuses(rules, tidy, X)
    if fn is unguarded:
        assert_refuses(RAISE_LOGSUMEXP, tidy, X)
    if because:
        graph = trace(tidy)(X)
        reasons = [
            str(r.why_not(graph, n))
            for r in LOG_SOFTMAX_RULES
            for n in graph.nodes
            if n.op in r.names
        ]
        assert any(because in reason for reason in reasons), reasons


def test_an_inner_value_with_another_user_is_kept() -> None:
    def fn(x):
        z = x - stop_gradient(x.max(-1, keepdims=True))
        return z - jnp.log(jnp.exp(z).sum(-1, keepdims=True)), z * 2

    assert_refuses(RAISE_LOG_SOFTMAX, fn, X, because="as well")


def test_a_softmax_as_keras_writes_it_along_several_axes() -> None:
    def fn(x):
        largest = jnp.max(x, (1, 2), keepdims=True)
        total = jnp.sum(jnp.exp(x - largest), (1, 2), keepdims=True)
        return jnp.exp(x - (jnp.log(total) + largest))

    graph = passes.raise_ops(TIDY(trace(fn)(X)))
    assert graph.count() == {"softmax": 1}
    np.testing.assert_allclose(graph(X), jax.nn.softmax(X, (1, 2)), rtol=1e-6)
    masked = rewritten(LOG_SOFTMAX_RULES, lambda x: jnp.exp(nnops.log_softmax(x, where=MASK)), X)[0]
    np.testing.assert_allclose(masked(X), jax.nn.softmax(X, where=MASK), rtol=1e-6)
    assert masked.count() == {"softmax": 1}


def test_a_logarithm_with_another_user_stays() -> None:
    def fn(x):
        log = nnops.log_softmax(x)
        return jnp.exp(log), log

    assert_refuses(EXP_OF_LOG_SOFTMAX, fn, X, because="as well")
