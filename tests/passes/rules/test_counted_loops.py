"""Rows that a loop takes and writes by the number of its round, and loops that only count."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import jaxpress as jp
from helpers import array, assert_applies, assert_optimizes, assert_refuses
from jaxpress.capture import trace
from jaxpress.passes import default, rewrite
from jaxpress.passes.cleanup import inline
from jaxpress.passes.rules.cleanup import CLEANUP_RULES
from jaxpress.passes.rules.counted_loops import ROWS_BY_NUMBER
from jaxpress.passes.rules.counted_while import COUNTED_WHILE

N, B, D = 4, 2, 3
WS, X, XS = array(N, D, D), array(B, D), array(N, B, D)
BY_INDEX = ("dynamic_slice", "gather", "dynamic_update_slice", "scatter")


def inlined(fn):
    return lambda *args: inline(trace(fn)(*args))(*args)


def collected(step, *first, to=N, axis=0):
    """What ``step(i, carry, out)`` writes to rows of ``out``, which starts at 7 everywhere."""
    shape = (N, B, D) if axis == 0 else (B, N, D)
    return lax.fori_loop(0, to, step, (*first, jnp.full(shape, 7.0)))


READS = {
    "each layer": lambda ws, x: lax.fori_loop(0, N, lambda i, x: jnp.sin(x @ ws[i]), x),
    "over arange": lambda ws, x: lax.scan(
        lambda x, i: (jnp.sin(x @ ws[i]), x), x, jnp.arange(N)
    ),
    "as dynamic_index_in_dim": lambda ws, x: lax.fori_loop(
        0, N, lambda i, x: jnp.sin(x @ lax.dynamic_index_in_dim(ws, i, keepdims=False)), x
    ),
    "last first": lambda ws, x: lax.fori_loop(0, N, lambda i, x: jnp.sin(x @ ws[N - 1 - i]), x),
    "by negative numbers": lambda ws, x: lax.fori_loop(
        1, N + 1, lambda i, x: jnp.sin(x @ ws[-i]), x
    ),
    "every other": lambda ws, x: lax.fori_loop(0, 2, lambda i, x: jnp.sin(x @ ws[2 * i + 1]), x),
    "some, and their neighbours": lambda ws, x: lax.fori_loop(
        1, N, lambda i, x: jnp.sin(x @ ws[i] + x @ ws[i - 1]), x
    ),
    "along another axis": lambda ws, x: lax.fori_loop(
        0, D, lambda i, x: jnp.sin(x + ws[:, i].sum(0)), x
    ),
    "in reverse": lambda ws, x: lax.scan(
        lambda c, y: ((c[0] + 1, jnp.sin(c[1] @ ws[c[0]])), c[1] + y), (0, x), ws[:, 0],
        reverse=True,
    ),
    "the number is used too": lambda ws, x: lax.fori_loop(
        0, N, lambda i, x: jnp.sin(x @ ws[i]) * i, x
    ),
    "the number is a result": lambda ws, x: lax.while_loop(
        lambda c: c[0] < N, lambda c: (c[0] + 1, jnp.sin(c[1] @ ws[c[0]])), (0, x)
    )[1:],
    "of what is carried along": lambda ws, x: lax.fori_loop(
        0, N, lambda i, c: (c[0], jnp.sin(c[1] @ c[0][i])), (ws, x)
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", READS)
def test_rows_that_are_taken(name: str) -> None:
    new = assert_applies(CLEANUP_RULES, inlined(READS[name]), WS, X, gradients="result" not in name)
    assert new.count()["scan"] == 1 and not any(map(new.find, BY_INDEX[:2]))


WRITES = {
    "at set": lambda xs: collected(lambda i, c: (jnp.sin(c[0] + xs[i]), c[1].at[i].set(c[0])), X),
    "as dynamic_update_index_in_dim": lambda xs: collected(
        lambda i, c: (c[0] * 2, lax.dynamic_update_index_in_dim(c[1], c[0] + xs[i], i, 0)), X
    ),
    "along another axis": lambda xs: collected(
        lambda i, c: (c[0] * 2, c[1].at[:, i].set(c[0] + xs[i])), X, axis=1
    ),
    "last first": lambda xs: collected(
        lambda i, c: (c[0] * 2, c[1].at[N - 1 - i].set(c[0] + xs[i])), X
    ),
    "but for the last two": lambda xs: collected(
        lambda i, c: (c[0] * 2, c[1].at[i].set(c[0] + xs[i])), X, to=N - 2
    ),
    "beside a scan's own": lambda xs: lax.scan(
        lambda c, x: ((c[0] + 1, c[1].at[c[0]].set(x)), x * 2), (0, jnp.zeros_like(xs)), xs
    ),
}


@pytest.mark.parametrize("name", WRITES)
def test_rows_that_are_written(name: str) -> None:
    gradients = name != "beside a scan's own"  # which has a whole number among its results
    new = assert_applies(CLEANUP_RULES, inlined(WRITES[name]), XS, gradients=gradients)
    scans = [n for n in new.nodes if n.op == "scan"]
    assert len(scans) == 1
    assert not {n.op for n in scans[0].subgraphs[0].nodes} & set(BY_INDEX)


@pytest.mark.parametrize(
    "fn",
    [
        lambda xs: lax.fori_loop(0, N, lambda i, x: x + xs[i % 2], X),
        lambda xs: lax.fori_loop(0, N, lambda i, x: x + xs[2], X),
        lambda xs: lax.fori_loop(0, N + 1, lambda i, x: x + xs[i], X),  # the last one twice
        lambda xs: lax.fori_loop(0, N, lambda i, x: x + xs[x[0, 0].astype(int)], X),
        lambda xs: lax.fori_loop(0, N - 1, lambda i, x: x + lax.dynamic_slice_in_dim(
            xs, i, 2).sum(0), X),
        # What is written is read, added to what was there, or written twice.
        lambda xs: collected(lambda i, c: (c[0] + c[1][0], c[1].at[i].set(xs[0])), X)[0],
        lambda xs: collected(lambda i, c: (c[0] + 1, c[1].at[i].add(xs[0])), X),
        lambda xs: collected(lambda i, c: (c[0] + 1, c[1].at[i // 2].set(c[0])), X),
        lambda xs: collected(
            lambda i, c: (c[0] + 1, c[1].at[i].set(c[0]).at[i - 1].set(c[0])), X
        ),
        # A number that starts or goes on as the data say.
        lambda xs: lax.scan(
            lambda c, x: ((c[0] + x[0, 0].astype(int), c[1] + xs[c[0]]), None), (0, X), xs
        )[0][1],
        lambda xs: lax.scan(
            lambda c, x: ((c[0] + 1, c[1] + xs[c[0]]), None), (xs[0, 0, 0].astype(int), X), xs
        )[0][1],
    ],
)  # fmt: skip
def test_other_rows_stay(fn) -> None:
    assert_refuses(ROWS_BY_NUMBER, inlined(fn), XS)


def test_what_prints_stays() -> None:
    def step(i, x):
        jax.debug.print("{}", i)
        return x + XS[i]

    graph = inline(trace(lambda x: lax.fori_loop(0, N, step, x))(X))
    assert rewrite(graph, ROWS_BY_NUMBER) is graph


@pytest.mark.parametrize(
    ("first", "holds", "by", "rounds"),
    [
        (0, lambda i: i < 5, 1, 5),
        (1, lambda i: i <= 5, 2, 3),
        (5, lambda i: i > 0, -2, 3),
        (5, lambda i: i >= 1, -2, 3),
        (0, lambda i: 7 > i, 3, 3),  # noqa: SIM300
        (3, lambda i: i < 3, 1, 0),
    ],
)
def test_how_often_a_loop_runs(first, holds, by, rounds) -> None:
    def fn(x):
        return lax.while_loop(
            lambda c: holds(c[0]), lambda c: (c[0] + by, jnp.sin(c[1]) + c[0]), (first, x)
        )

    new = assert_applies(COUNTED_WHILE, inlined(fn), X, times=1, gradients=False)
    assert [n.params["length"] for n in new.find("scan")] == ([rounds] if rounds else [])
    np.testing.assert_array_equal(new(X)[0], fn(X)[0])


@pytest.mark.parametrize(
    ("holds", "step"),
    [
        (lambda i, x: (i < 5) & (x[0, 0] > 0), lambda i, x: (i + 1, x * 2)),
        (lambda i, x: x[0, 0] > 0, lambda i, x: (i + 1, x - 1)),
        (lambda i, x: i < 5, lambda i, x: (i + x.astype(int)[0, 0], x)),
        (lambda i, x: i >= 0, lambda i, x: (i + 1, x)),  # until it wraps round
        (lambda i, x: i.astype("uint32") < 5, lambda i, x: (i + 1, x)),
    ],
)
def test_loops_that_ask_other_things_stay(holds, step) -> None:
    fn = lambda x: lax.while_loop(lambda c: holds(*c), lambda c: step(*c), (0, x))  # noqa: E731
    assert_refuses(COUNTED_WHILE, inlined(fn), X)


def test_layers_and_a_recurrence_by_number() -> None:
    """Weights by number are a loop's stacked weights; steps by number, a sequence."""
    wi, wh, b = array(D, 4 * D), array(D, 4 * D, seed=1), array(4 * D)

    def lstm(xs):
        def step(t, c):
            h, c, out = c
            i, f, g, o = jnp.split(xs[:, t] @ wi + h @ wh + b, 4, -1)
            c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
            h = jax.nn.sigmoid(o) * jnp.tanh(c)
            return h, c, out.at[:, t].set(h)

        zero = jnp.zeros((N, D))
        return lax.fori_loop(0, B, step, (zero, zero, jnp.zeros((N, B, D))))[2]

    assert_optimizes(default, lstm, XS, ops={"lstm": 1, "broadcast_in_dim": 1})

    def layers(x):
        return lax.fori_loop(0, N, lambda i, x: jax.nn.gelu(x @ WS[i] + WS[i, 0]), x)

    new = assert_optimizes(default, layers, X, ops={"scan": 1, "dense": 1})
    jp.verify(layers, new)(X)
