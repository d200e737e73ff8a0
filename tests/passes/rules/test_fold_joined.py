"""Concatenated results of parallel linear ops are one linear op with concatenated weights."""

from __future__ import annotations

import jax.numpy as jnp
import pytest
from jax import lax

from helpers import array, assert_applies, assert_optimizes, assert_refuses
from jaxpress import nnops
from jaxpress.capture import trace
from jaxpress.passes import inference
from jaxpress.passes.rules.fold_joined import FOLD_JOINED

X, V, W, B = array(3, 4), array(4, 2), array(4, 5, seed=1), array(5, seed=2)
IMAGE, K, L = array(2, 4, 4, 3), array(3, 3, 3, 2), array(3, 3, 3, 4, seed=1)
P, Q = array(4, 2, 3), array(4, 2, 3, seed=1)
(RULE,) = FOLD_JOINED
LINEAR = ("dense", "conv", "einsum_dense")


def joined(*parts, axis=-1):
    return lax.concatenate(parts, axis % parts[0].ndim)


@pytest.mark.parametrize(
    ("fn", "x", "last"),
    [
        (lambda x: joined(nnops.dense(x, V), nnops.dense(x, W, B)), X, None),
        (lambda x: joined(jnp.tanh(nnops.dense(x, V)), jnp.tanh(nnops.dense(x, W))), X, "tanh"),
        (lambda x: joined(x, nnops.dense(x, V), nnops.dense(x, W)), X, "concatenate"),
        (lambda x: joined(nnops.conv(x, K), nnops.conv(x, L)), IMAGE, None),
        *(
            (
                lambda x, axis=axis: joined(
                    *(nnops.einsum_dense(x, w, equation="ab,bcd->acd") for w in (P, Q)), axis=axis
                ),
                X,
                None,
            )
            for axis in (1, 2)
        ),
    ],
)
def test_it_is_one_op(fn, x, last) -> None:
    new = assert_applies(FOLD_JOINED, fn, x, times=1)
    assert sum(new.count()[op] for op in LINEAR) == 1
    assert new.producer(new.outputs[0]).op in (LINEAR if last is None else (last,))


def heads(x):
    return [nnops.einsum_dense(x, w, equation="ab,bcd->acd") for w in (P, Q)]


@pytest.mark.parametrize(
    ("fn", "x", "turned"),
    [
        (lambda x: jnp.stack([nnops.dense(x, W), nnops.dense(x, -W, B)], 1), X, False),
        (lambda x: jnp.stack([nnops.dense(x, W), nnops.dense(x, -W, B)]), X, True),
        (lambda x: jnp.stack([nnops.relu(nnops.dense(x, w)) for w in (W, -W, W)], -1), X, True),
        (lambda x: jnp.stack([nnops.conv(x, K), nnops.conv(x, -K)], 3), IMAGE, False),
        (lambda x: jnp.stack(heads(x), 1), X, False),
        (lambda x: jnp.stack(heads(x), 2), X, False),
        (lambda x: jnp.stack(heads(x), 3), X, True),
    ],
)
def test_a_stack_is_one_op(fn, x, turned) -> None:
    new = assert_applies(FOLD_JOINED, fn, x, times=1)
    assert sum(new.count()[op] for op in LINEAR) == 1
    assert bool(new.find("transpose")) == turned


def test_what_follows_a_stack_moves_into_it() -> None:
    def fn(x):
        y = jnp.stack([x @ W + B, x @ -W], 1)
        return jnp.maximum(y * B - 1.0, 0)

    new = assert_optimizes(inference, fn, X, ops={"dense": 1, "reshape": 1}, gradients=False)
    assert str(new.find("dense")[0].params["activation"]) == "relu"


@pytest.mark.parametrize(
    ("fn", "because"),
    [
        (lambda x: jnp.stack([nnops.dense(x, W), nnops.dense(x[::-1], W)]), "no neighbours"),
        (lambda x: jnp.stack([nnops.dense(x, W), nnops.dense(x, W), x[:, :1] * B]), "not made by"),
        (lambda x: jnp.stack([x, nnops.dense(x, W[:, :4])]), "by linear ops"),
        (lambda x: joined(nnops.dense(x, V), nnops.dense(x, V), axis=0), "no axis of its features"),
        (lambda x: joined(nnops.dense(x, V), nnops.dense(jnp.sin(x), W)), "no neighbours"),
        (lambda x: joined(nnops.dense(x, V), x, nnops.dense(x, W)), "not made by"),
        (lambda x: joined(nnops.relu(nnops.dense(x, V)), nnops.dense(x, W)), "no neighbours"),
        (lambda x: joined(nnops.dense(x, V), nnops.dense(x, x.T @ x @ W)), "not known"),
        (lambda x: (joined(y := nnops.dense(x, V), nnops.dense(x, W)), jnp.sin(y)), "elsewhere"),
        (lambda x: joined(nnops.dense(x, V, None, x[:, :2]), nnops.dense(x, W)), "residual"),
    ],
)
def test_it_refuses(fn, because) -> None:
    assert_refuses(RULE, fn, X, because=because)


@pytest.mark.parametrize(
    ("fn", "ops"),
    [
        # A bias goes in after the concatenation was looked at, and relu follows.
        (
            lambda x: joined(jnp.maximum(x @ W + B, 0), jnp.maximum(x @ V, 0)),
            {"dense": 1},
        ),
        # One part is needed by itself too, so that they are cut and joined again.
        (
            lambda x: (joined(y := x @ V, x @ W), jnp.sin(y)),
            {"dense": 1, "slice": 1, "sin": 1},
        ),
        # Pieces of what is cut out of the wider product.
        (lambda x: ((x @ V)[:, :1], jnp.sin((x @ W)[:, 1:3])), {"dense": 1, "slice": 2, "sin": 1}),
    ],
)
def test_the_preset_settles(fn, ops) -> None:
    once, _ = inference.run(trace(fn)(X))
    assert once.count() == ops
    _, report = inference.run(once)
    assert not report.rewrites
