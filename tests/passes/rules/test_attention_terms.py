"""Terms of the logits taken together, and operands without their scale."""

from __future__ import annotations

import jax.numpy as jnp
import pytest

from helpers import array
from jaxpress.capture import trace
from jaxpress.capture.edit import Editor
from jaxpress.capture.graph import Value
from jaxpress.passes import inline
from jaxpress.passes.rules.attention_logits import Term
from jaxpress.passes.rules.attention_terms import Terms, unscaled

F32, BF16 = jnp.dtype("float32"), jnp.dtype("bfloat16")
KEYS = 2


def term(kind, number=None, negated=False, axes=(0, 1, 2), dtype=F32):
    graph = trace(lambda x: x)(array(2, 3, 5) > 0)
    value: Value = graph.inputs[0]
    return Term(kind, None if kind in ("scale", "convert") else value, number, negated, axes, dtype)


def together(*terms):
    graph = trace(lambda x: x)(array(2, 3, 5) > 0)
    found = Terms(Editor(graph), (KEYS,))
    return found, [found.add(t) for t in terms]


def test_a_later_scale_holds_for_what_was_added() -> None:
    found, _ = together(
        term("scale", 2.0),
        term("bias"),
        term("shift", -6.0),
        term("mask", -8.0),
        term("scale", 0.5),
    )
    assert found.scale == 1.0 and found.fill == -4.0
    assert [a.factor for a in found.added] == [0.5, 1.0]
    assert found.added[1].shift == -3.0


def test_masks_of_one_number_hold_together() -> None:
    found, taken = together(term("mask", -1.0), term("mask", -1.0), term("mask", -2.0))
    assert taken == [True, True, False] and len(found.leaves) == 2


@pytest.mark.parametrize("kind", ["bias", "shift", "factor"])
def test_nothing_is_added_after_a_mask(kind) -> None:
    assert together(term("mask", -1.0), term(kind, 1.0, axes=(0,)))[1] == [True, False]


def test_factors_are_the_same_for_all_keys() -> None:
    assert together(term("factor", axes=(0, 1)))[1] == [True]
    assert together(term("factor", axes=(0, KEYS)))[1] == [False]
    assert together(term("bias"), term("factor", axes=(0,)))[1] == [True, False]


def test_the_widest_dtype_of_arithmetic_counts() -> None:
    found, _ = together(
        term("scale", 2.0, dtype=BF16), term("convert", dtype=F32), term("bias", dtype=F32)
    )
    assert found.dtype == F32
    assert together(term("convert", dtype=F32))[0].dtype is None


@pytest.mark.parametrize(
    "fn, axes, factor",
    [
        (lambda x: x * 0.5, (0, 1, 2), 0.5),
        (lambda x: (2.0 * x.transpose(2, 0, 1)) / 4.0, (2, 0, 1), 0.5),
        (lambda x: x[:, None] / jnp.sqrt(4.0), (0, None, 1, 2), 0.5),
        (lambda x: x.swapaxes(0, 1), (1, 0, 2), 1.0),
    ],
)
def test_operands_without_their_scale(fn, axes, factor) -> None:
    graph = inline(trace(fn)(array(2, 3, 5)))
    found = unscaled(Editor(graph), graph.outputs[0])
    assert found == (graph.inputs[0], axes, factor)


@pytest.mark.parametrize(
    "fn", [lambda x: x * 0.0, lambda x: 2.0 / x, lambda x: x * x, lambda x: x * jnp.inf]
)
def test_what_is_no_scale(fn) -> None:
    graph = inline(trace(fn)(array(2, 3, 5)))
    assert unscaled(Editor(graph), graph.outputs[0])[0] is graph.outputs[0]
