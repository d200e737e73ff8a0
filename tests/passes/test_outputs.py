"""Patterns of several results: found from any of them, replaced at once, refused in a circle."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from helpers import array, assert_close, assert_refuses, rewritten
from jaxpress.capture import PassError, trace
from jaxpress.passes import Rule, any_value, op, outputs, rewrite, through
from jaxpress.passes.record import Budget

X, A, B = array(3, 4), array(4, 5), array(4, 6, seed=1)


def both_products(x, a, b):
    y = x @ jnp.concatenate([a, b], axis=1)
    return y[:, : a.shape[1]], y[:, a.shape[1] :]


PAIR = Rule(
    "pair",
    outputs(
        op("dot_general", any_value("x"), any_value("a")),
        op("dot_general", any_value("x"), any_value("b")),
    ),
    both_products,
    lambda m: None if m["x"].ndim == 2 else "x is no matrix",
    numerics="reassociates",
)


def assert_paired(fn, *args, times=1):
    new, rules = rewritten(PAIR, fn, *args)
    assert rules == ["pair"] * times
    assert_close(new(*args), fn(*args))
    assert_close(jax.jit(jax.vmap(new, (0,) + (None,) * (len(args) - 1)))(
        jnp.stack([args[0]] * 2), *args[1:]), jax.vmap(fn, (0,) + (None,) * (len(args) - 1))(
        jnp.stack([args[0]] * 2), *args[1:]))  # fmt: skip
    return new


def test_two_products_of_one_input_become_one() -> None:
    new = assert_paired(lambda x, a, b: (x @ a, x @ b), X, A, B)
    assert new.count()["dot_general"] == 1


def test_what_lies_between_is_moved() -> None:
    # The second weight is made after the first product is used.
    def fn(x, a, b):
        y = jnp.sin(x @ a)
        z = y.sum()
        w = jnp.cos(b) * 2
        return y + z, x @ w

    new = assert_paired(fn, X, A, B)
    ops = [n.op for n in new.nodes]
    assert ops.index("cos") < ops.index("dot_general") < ops.index("sin")


def test_a_circle_is_refused() -> None:
    def fn(x, a, b):
        y = x @ a
        return x @ (b + y.sum())

    assert_refuses(PAIR, fn, X, A, B, because="needed for what another is made from")


def test_effects_are_not_moved() -> None:
    def fn(x, a, b):
        y = x @ a
        w = jax.pure_callback(lambda b: b, b, b)
        jax.debug.print("{}", w[0, 0], ordered=True)
        return y, x @ w

    _, rules = rewritten(PAIR, fn, X, A, B)
    assert rules == ["pair"]  # a pure callback may move; the print stays where it was

    def effectful(x, a, b):
        ref = jax.new_ref(b)
        y = x @ a
        return y, x @ ref[...]

    assert_refuses(PAIR, effectful, X, A, B)


def test_three_products_two_by_two() -> None:
    def fn(x, a, b):
        return x @ a, x @ b, jnp.sin(x) @ a

    assert assert_paired(fn, X, A, B).count()["dot_general"] == 2


def test_the_second_result_may_be_an_output_and_used() -> None:
    def fn(x, a, b):
        y, z = x @ a, x @ b
        return y, jnp.sin(z), z, y

    assert_paired(fn, X, A, B)


def test_nothing_else_matches() -> None:
    assert_refuses(PAIR, lambda x, a: x @ a, X, A, because="nothing makes the result")
    assert_refuses(PAIR, lambda x, y, a: (x @ a, y @ a), X, X + 1, A)


def statistics_pattern():
    mean = op("div", op("reduce_sum", any_value("x")), any_value("n"))
    return outputs(op("sub", any_value("x"), through(mean, "broadcast_in_dim")), mean)


def test_a_part_that_is_a_result_too() -> None:
    rule = Rule(
        "centre", statistics_pattern(), lambda x, n: (x - jnp.sum(x) / n, jnp.sum(x) / n),
        lambda m: None if not m.outputs[1].shape else "no scalar",
    )  # fmt: skip

    def fn(x):
        mean = lax.reduce_sum(x, (0, 1)) / 12
        return x - mean, jnp.sin(mean)

    graph = trace(fn)(X)
    record = []
    # It finds its own result again: only the first step counts here.
    new = rewrite(graph, rule, record=record, budget=Budget(1))
    assert [r.rule for r in record] == ["centre"]
    assert_close(new(X), fn(X))
    (entry,) = record
    assert len(entry.replaced) == 2 and {n.op for n in entry.before} >= {"sub", "div", "reduce_sum"}


def test_results_of_one_node() -> None:
    swap = Rule(
        "swap",
        outputs(op("split", any_value("x"), output=0), op("split", any_value("x"), output=1)),
        lambda x: (jnp.sin(x[:2]), jnp.cos(x[2:])),
        lambda m: None if len(m.root.outputs) == 2 and m.root.params["axis"] == 0 else "other",
    )
    new, rules = rewritten(swap, lambda x: jnp.split(x, 2), X[:, :2].repeat(2, 0)[:4])
    assert rules == ["swap"] and not new.find("split")
    three = Rule(
        "two_of_three",
        outputs(op("split", any_value("x"), output=0), op("split", any_value("x"), output=1)),
        lambda x: (x[:1], x[1:2]),
    )
    assert_refuses(three, lambda x: jnp.split(x, 3), X, because="is used, and not replaced")


def test_the_cost_is_bounded_where_one_value_has_many_users() -> None:
    never = Rule("never", PAIR.pattern, both_products, lambda m: "never")

    def fn(x, a):
        return [x @ (a * float(i)) for i in range(200)]

    assert rewritten(never, fn, X, A)[1] == []


@pytest.mark.parametrize(
    "make",
    [
        lambda: outputs(any_value("x")),
        lambda: outputs(op("sin", any_value("x")), op("cos", any_value("y"))),
        lambda: outputs(),
    ],
)
def test_what_cannot_be_found_is_refused(make) -> None:
    with pytest.raises(PassError):
        make()


def test_a_replacement_with_too_few_results_is_named() -> None:
    rule = Rule("few", PAIR.pattern, lambda x, a, b: x @ a)
    with pytest.raises(PassError, match="'few' failed"):
        rewrite(trace(lambda x, a, b: (x @ a, x @ b))(X, A, B), rule)


def test_gradients_are_the_same() -> None:
    def fn(x, a, b):
        return jnp.sin(x @ a).sum() + jnp.cos(x @ b).sum()

    new, _ = rewritten(PAIR, fn, X, A, B)
    for got, want in zip(
        jax.grad(new, (0, 1, 2))(X, A, B), jax.grad(fn, (0, 1, 2))(X, A, B), strict=True
    ):
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)
