"""The softmax between two products, and what is done to its logits."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from helpers import array
from jaxpress import nnops
from jaxpress.capture import trace
from jaxpress.capture.edit import Editor
from jaxpress.passes import inline
from jaxpress.passes.pattern import State
from jaxpress.passes.rules.attention_logits import logits_behind, softmax_behind

A, B = array(2, 3, 4), array(2, 5, 4, seed=1)
X = array(2, 3, 5)


def softmax_of(fn, x=X):
    graph = inline(trace(fn)(x))
    return graph, softmax_behind(Editor(graph), graph.outputs[0])


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("softmax", [jax.nn.softmax, nnops.softmax])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_softmax_is_found_along_every_axis(softmax, axis, dtype) -> None:
    graph, found = softmax_of(lambda x: softmax(x, axis), X.astype(dtype))
    assert found.x is graph.inputs[0] and found.axes == (axis,)


def test_softmax_as_vmap_writes_it() -> None:
    graph, found = softmax_of(jax.vmap(jax.nn.softmax, in_axes=1))
    assert found is not None and found.axes == (2,) and found.x.shape == (3, 2, 5)
    # All that only it needs is part of it.
    assert len(graph.nodes) - len(set(found.nodes)) <= 1


@pytest.mark.parametrize(
    "fn, axes",
    [
        (lambda x: (e := jnp.exp(x - x.max(-1, keepdims=True))) / e.sum(-1, keepdims=True), (2,)),
        (lambda x: jnp.exp(jax.nn.log_softmax(x, 1)), (1,)),
        (lambda x: jnp.exp(x - jax.nn.logsumexp(x, (0, 2), keepdims=True)), (0, 2)),
        (lambda x: jax.nn.softmax(x, (1, 2)), (1, 2)),
    ],
)
def test_other_spellings(fn, axes) -> None:
    graph, found = softmax_of(fn)
    assert found.x is graph.inputs[0] and found.axes == axes


@pytest.mark.parametrize(
    "fn",
    [
        lambda x: jnp.exp(x) / jnp.exp(x).sum(-1, keepdims=True),
        lambda x: jax.nn.softmax(x) * 2,
        lambda x: (
            (e := jnp.exp(x - jax.lax.stop_gradient(x.max(-1, keepdims=True))))
            / e.sum(1, keepdims=True)
        ),
        lambda x: (
            (e := jnp.exp(x - jax.lax.stop_gradient(x.max(1, keepdims=True))))
            / e.sum(-1, keepdims=True)
        ),
    ],
)
def test_other_quotients_are_none(fn) -> None:
    assert softmax_of(fn)[1] is None


def logits_of(fn, *args):
    graph = inline(trace(fn)(*args))
    return logits_behind(State(Editor(graph), explain=True), graph.outputs[0])


def product(a, b):
    return jnp.einsum("bth,bsh->bts", a, b)


def kinds(found):
    return [term.kind for term in found.terms]


def test_terms_come_in_their_order() -> None:
    def fn(a, b, c):
        w = product(a, b) * 2.0 / 4.0
        return jnp.where(c > 0, (w + c).astype(jnp.bfloat16), -1e9) - c[:, :1].astype(jnp.bfloat16)

    found = logits_of(fn, A, B, X)
    assert kinds(found) == ["scale", "scale", "bias", "convert", "mask", "bias"]
    assert [t.number for t in found.terms[:2]] == [2.0, 0.25]
    assert found.terms[5].negated and found.terms[5].dtype == jnp.bfloat16
    assert found.terms[2].axes == (0, 1, 2) == found.axes


def test_axes_are_those_of_the_product() -> None:
    def fn(a, b, c):
        w = product(a, b).transpose(2, 0, 1)[:, None]
        return w + c[:, None, None, None]

    found = logits_of(fn, A, B, X[0, 0])
    assert found.axes == (2, None, 0, 1)
    assert found.terms[0].axes == (2,)


def test_either_operand_of_a_sum_may_be_the_product() -> None:
    for fn in (lambda a, b, c: c + product(a, b), lambda a, b, c: product(a, b) + c):
        assert kinds(logits_of(fn, A, B, X)) == ["bias"]


def test_a_shift_under_a_condition() -> None:
    def fn(a, b, c):
        w = product(a, b)
        return jnp.where(c > 0, w - 1e9, w)

    (term,) = logits_of(fn, A, B, X).terms
    assert (term.kind, term.number, term.negated) == ("shift", -1e9, True)


@pytest.mark.parametrize(
    "change",
    [
        jnp.tanh,
        lambda w: -w,
        lambda w: 1 / w,
        lambda w: jnp.broadcast_to(w[:, :1], w.shape),
        lambda w: w * 0.0,
        lambda w: w * np.nan,
        lambda w: w.reshape(15, 2),
        lambda w: jnp.where(w > 0, w, jnp.nan),
        lambda w: w.sum(0),
    ],
)
def test_what_attention_does_not_do(change) -> None:
    assert logits_of(lambda a, b: change(product(a, b)), A, B) is None


def test_the_search_ends() -> None:
    def fn(x):
        for _ in range(40):
            x = x + x * 2.0
        return x

    assert logits_of(fn, X) is None
