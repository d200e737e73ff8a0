"""Expressions in an array, its mean and its mean square, read as polynomials."""

from __future__ import annotations

import jax.numpy as jnp
import pytest
from jax import lax

from helpers import array
from jaxpress import passes
from jaxpress.capture import trace
from jaxpress.capture.edit import Editor
from jaxpress.passes.rules.axes import place_of, strip
from jaxpress.passes.rules.moment_atoms import (
    IS_MEAN,
    IS_SQUARE,
    MEAN,
    VARIANCE,
    Clipped,
    Root,
    X,
    close,
    inverse,
    is_plain,
    root_of,
)
from jaxpress.passes.rules.moments import Reading
from jaxpress.passes.rules.polynomial import Polynomial

DATA, G = array(3, 4, 8), array(8)
CONSTANT, IS_X = Polynomial.constant, Polynomial.atom(X)


def reading_of(fn):
    graph, _ = passes.cleanup[:3].run(trace(fn)(DATA, G))
    value = graph.outputs[0]
    reading = Reading(Editor(graph), graph.inputs[0], place_of(value.shape))
    return reading, reading.read(value, reading.result)


MEANS = [
    lambda x, g: x.mean(-1),
    lambda x, g: x.sum(-1) * 0.125,
    lambda x, g: x.mean(-1, keepdims=True),
    lambda x, g: -((-x).sum(2)) / 8,
    lambda x, g: (2 * x - x).mean(-1),
    lambda x, g: x.reshape(3, 4, 2, 4).mean(-1).mean(-1),
    lambda x, g: x.transpose(2, 0, 1).mean(0),
    lambda x, g: jnp.stack([x, x * x]).mean(-1)[0],
]
VARIANCES = [
    lambda x, g: x.var(-1),
    lambda x, g: (x * x).mean(-1) - x.mean(-1) ** 2,
    lambda x, g: jnp.maximum(0, (x * x).mean(-1) - jnp.square(x.mean(-1))),
    lambda x, g: ((x - x.mean(-1, keepdims=True)) * (x - x.mean(-1, keepdims=True))).mean(-1),
    lambda x, g: (x * (x - x.mean(-1, keepdims=True))).mean(-1),
    lambda x, g: jnp.concatenate([x[None], (x**2)[None]]).mean(-1)[1] - x.mean(-1) ** 2,
]


@pytest.mark.parametrize("fn", MEANS)
def test_a_mean_however_it_is_written(fn) -> None:
    assert close(reading_of(fn)[1], IS_MEAN)


@pytest.mark.parametrize("fn", VARIANCES)
def test_a_variance_however_it_is_written(fn) -> None:
    assert close(reading_of(fn)[1], VARIANCE)


@pytest.mark.parametrize(
    ("fn", "want"),
    [
        (lambda x, g: jnp.sum(x**2, -1) / 8, IS_SQUARE),
        (lambda x, g: x * x, Polynomial.atom(X, 2)),
        (lambda x, g: (x - x.mean(2)[:, :, None]) / 2, CONSTANT(0.5) * (IS_X - IS_MEAN)),
        (lambda x, g: lax.rsqrt(x.var(-1) + 0.001), Polynomial.atom(Root("variance", 0.001), -1)),
        (lambda x, g: jnp.sqrt(jnp.mean(x * x, -1)), Polynomial.atom(Root("mean square", 0.0))),
        (lambda x, g: 1 / jnp.sqrt(jnp.sum(x * x, -1)), Polynomial.atom(Root("norm", 0.0), -1)),
    ],
)  # fmt: skip
def test_other_polynomials(fn, want) -> None:
    assert close(reading_of(fn)[1], want)


@pytest.mark.parametrize(
    "fn",
    [
        lambda x, g: jnp.exp(x),
        lambda x, g: (x**3).sum(-1),
        lambda x, g: (x.mean(-1, keepdims=True) * g).sum(-1),  # over what does not vary alike
        lambda x, g: (x * jnp.swapaxes(x, 0, 0)[::-1]).mean(-1),
        lambda x, g: lax.rsqrt(x),
        lambda x, g: lax.rsqrt(x.var(-1) - 0.001),
        lambda x, g: lax.stop_gradient(x.mean(-1)),
        lambda x, g: jnp.maximum(x, 0),
        lambda x, g: x.mean(-1).astype("int32").astype("float32"),
        lambda x, g: jnp.square(x.reshape(3, 4, 2, 4).mean(-1)).mean(-1),  # no mean of squares
        lambda x, g: x[:, :, ::2].mean(-1),
    ],
)
def test_what_is_no_polynomial(fn) -> None:
    assert reading_of(fn)[1] is None


def test_what_a_reading_keeps() -> None:
    reading, p = reading_of(lambda x, g: (x - x.mean(-1, keepdims=True)) * g + g)
    assert p is not None and len(p.terms) == 3 and not is_plain(p)
    assert [v.name for v in reading.parameters] == ["g"]
    (total,) = reading.sums
    assert total.count == 8 and total.node.op == "reduce_sum"
    assert "keepdims" in reading.spelling
    reading, _ = reading_of(VARIANCES[2])
    assert {"fast", "clamped"} <= reading.spelling


def test_what_a_value_is_a_form_of() -> None:
    def fn(x, g):
        return x.astype("bfloat16").astype("float32").reshape(12, 8).T

    graph = trace(fn)(DATA, G)
    # Widening loses nothing, narrowing does.
    assert strip(Editor(graph), graph.outputs[0]).dtype == "bfloat16"


def test_roots_and_inverses() -> None:
    e = CONSTANT(0.5)
    atom = Polynomial.atom
    for p, want in (
        (VARIANCE + e, atom(Root("variance", 0.5))),
        (IS_SQUARE * CONSTANT(8) + e, atom(Root("norm", 0.5))),
        (VARIANCE * CONSTANT(4) + e, CONSTANT(2) * atom(Root("variance", 0.125))),
        (
            CONSTANT(4) * atom(Clipped("variance", 3)),
            CONSTANT(2) * atom(Root("variance", 3, "max")),
        ),
    ):
        assert close(root_of(p, 8), want)
    for p in (VARIANCE - e, IS_MEAN, IS_SQUARE * CONSTANT(3), e, VARIANCE + IS_MEAN):
        assert root_of(p, 8) is None
    norm = Polynomial.atom(Root("norm", 0.0))
    assert close(inverse(norm + e), Polynomial.atom(Root("norm", 0.5, "sum"), -1))
    assert inverse(IS_MEAN + e) is None
    assert close(inverse(Polynomial.atom(MEAN, 2)), Polynomial.atom(MEAN, -2))
