"""Where a norm ends, what it may swallow, and what only looks like one."""

from __future__ import annotations

import jax.numpy as jnp
import pytest
from jax import lax
from norms_by_hand import (
    EPS,
    LAST,
    TIDY,
    B,
    G,
    X,
    applied,
    mean,
    over,
    raised,
)

from helpers import array, assert_close
from jaxpress import passes
from jaxpress.capture import trace
from jaxpress.passes.rules.raise_norm import RAISE_NORM


def test_several_norms_of_one_array() -> None:
    def fn(x):  # as two branches of a transformer do; their statistics are one
        both = [
            (x - mean(x)) * (lax.rsqrt(x.var(**LAST) + EPS) * g) + b for g, b in ((G, B), (B, G))
        ]
        return both[0] @ array(8, 3), both[1] @ array(8, 4)

    new, n = applied(fn, X)
    assert n == 1
    assert new.count() == {"layer_norm": 2, "dot_general": 2}
    assert_close(new(X), fn(X))


def test_a_normalised_value_that_is_used_twice_is_kept() -> None:
    def fn(x):
        y = over((3,))(x)
        return y * G + B, y

    new, (node,) = raised(fn, X)
    assert node.op == "layer_norm" and node.params["operands"] == ("x",)
    assert new.count()["mul"] == new.count()["add"] == 1


def affine(y):
    return y * G + B


LOOKALIKES = {
    "an epsilon on either side of the root": (
        lambda x: affine((x - mean(x)) / (jnp.sqrt(x.var(**LAST) + EPS) + EPS)),
        "no norm of the data",
    ),
    "an epsilon and a bound": (
        lambda x: affine((x - mean(x)) * lax.rsqrt(jnp.maximum(x.var(**LAST) + EPS, 2 * EPS))),
        "neither x's variance",
    ),
    "a bound from above": (
        lambda x: affine((x - mean(x)) * lax.rsqrt(jnp.minimum(x.var(**LAST), EPS))),
        "neither x's variance",
    ),
    "taken away from the root": (
        lambda x: affine((x - mean(x)) / (x.std(**LAST) - EPS)),
        "no norm of the data",
    ),
    "the deviation is needed too": (
        lambda x: (affine((x - mean(x)) / ((s := x.std(**LAST)) + EPS)), s),
        "used elsewhere",
    ),
    "epsilon from data": (
        lambda x: affine((x - mean(x)) * lax.rsqrt(x.var(**LAST) + jnp.abs(x[0, 0, 0, 0]))),
        "",
    ),
    "mean over other axes": (
        lambda x: affine((x - x.mean(2, keepdims=True)) * lax.rsqrt(x.var(**LAST) + EPS)),
        "different axes",
    ),
    "variance over more axes": (
        lambda x: affine((x - mean(x)) * lax.rsqrt(x.var((2, 3), keepdims=True) + EPS)),
        "different axes",
    ),
    "statistics laid along another axis": (
        lambda x: (y := x[..., :4]) * lax.rsqrt((y * y).mean(-1)[:, :, None, :] + EPS),
        "used at another",
    ),
    "statistics of another array": (
        lambda x: affine((x - mean(x)) * lax.rsqrt((2 * x + 1).var(**LAST) + EPS)),
        "",
    ),
    "mean of another array": (
        lambda x: affine((x - mean(x[::-1])) * lax.rsqrt(x.var(**LAST) + EPS)),
        "",
    ),
    "a gradient that is stopped": (
        lambda x: affine((x - lax.stop_gradient(mean(x))) * lax.rsqrt(x.var(**LAST) + EPS)),
        "no parameter",
    ),
    "a variance that is stopped": (
        lambda x: affine((x - mean(x)) * lax.rsqrt(lax.stop_gradient(x.var(**LAST)) + EPS)),
        "",
    ),
    "rounded on purpose": (
        lambda x: affine(
            (x - mean(x)).astype("bfloat16").astype("float32") * lax.rsqrt(x.var(**LAST) + EPS)
        ),
        "rounded to bfloat16",
    ),
    "only some elements": (
        lambda x: affine((x - mean(x)) * lax.rsqrt(x.var(where=x > 0, **LAST) + EPS)),
        "",
    ),
    "no root": (lambda x: affine((x - mean(x)) / (x.var(**LAST) + EPS)), ""),
    "multiplied by the root": (
        lambda x: affine((x - mean(x)) * jnp.sqrt(x.var(**LAST) + EPS)),
        "",
    ),
    "absolute differences": (
        lambda x: affine((x - mean(x)) / (jnp.abs(x - mean(x)).mean(**LAST) + EPS)),
        "",
    ),
    "a trace": (
        lambda x: x * lax.rsqrt(
            jnp.abs(jnp.sum(x[..., :4] * jnp.swapaxes(x[..., :4], -1, -2), **LAST)) / 4 + EPS
        ),
        "",
    ),
    "the mean is needed too": (
        lambda x: (affine((x - mean(x)) * lax.rsqrt(x.var(**LAST) + EPS)), mean(x)),
        "used elsewhere",
    ),
    "the difference is needed too": (
        lambda x: (affine((y := x - mean(x)) * lax.rsqrt((y * y).mean(**LAST) + EPS)), y),
        "used elsewhere",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", LOOKALIKES)
def test_lookalikes_stay(name) -> None:
    fn, because = LOOKALIKES[name]
    graph, _ = TIDY.run(trace(fn)(X))
    record: list = []
    new = passes.rewrite(graph, RAISE_NORM, record=record)
    assert not record and new is graph, f"{record} in\n{graph}"
    roots = [n for n in graph.nodes if n.op in RAISE_NORM.names]
    reasons = [str(RAISE_NORM.why_not(graph, n)) for n in roots]
    assert all(" does not apply " in reason for reason in reasons)
    assert not because or any(because in reason for reason in reasons), reasons


@pytest.mark.parametrize("dtype", ["complex64", "int32"])
def test_other_numbers_stay(dtype) -> None:
    x = (4 * X).astype(dtype)
    by_norm = lambda x: x / jnp.linalg.norm(x, **LAST)  # noqa: E731
    for fn in (by_norm, lambda x: (x - mean(x)) / jnp.sqrt(mean(x * x) + EPS)):
        new, n = applied(fn, x)
        # Of integers, the floats that jnp makes of them are what is normalised.
        assert all(n.inputs[0].dtype == "float32" for n in new.find("l2_normalize"))
        assert n == 0 or dtype == "int32"
        assert_close(new(x), fn(x))
