"""What scales or shifts one part of a linear op's features goes into that part of its weights."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest
from jax import lax

from helpers import array, assert_applies, assert_optimizes, assert_refuses, conv, positive
from jaxpress import nnops
from jaxpress.passes import default, fold_constants
from jaxpress.passes.rules.fold_part import FOLD_PART

X, W, B = array(3, 4), array(4, 9), array(9, seed=1)
IMAGE = array(2, 4, 4, 3)


def parts(x, bias=B, sizes=(2, 4, 3)):
    return lax.split(nnops.dense(x, W, bias), sizes, axis=x.ndim - 1)


def one(x):
    return nnops.dense(x, W[:, :1])


@pytest.mark.parametrize("bias", [None, B])
@pytest.mark.parametrize(
    "fn",
    [
        lambda a, b, c: (a, 1.0 + b, c),
        lambda a, b, c: ((a - 0.5)[:, None], b, c),
        lambda a, b, c: (a, b, lax.broadcast_in_dim(c, (3, 2, 3), (0, 2)) + 2.0),
    ],
)
def test_one_part(fn, bias) -> None:
    new = assert_applies(FOLD_PART, lambda x: fn(*parts(x, bias)), X, times=1)
    for node in new.find("add") + new.find("sub"):
        assert node.output.ndim == 1  # only the bias is added to


S4, S3 = positive(4), array(3, seed=4)
NORM = (array(4, seed=1), positive(4), array(4, seed=2), array(4, seed=3))


@pytest.mark.parametrize("bias", [None, B])
@pytest.mark.parametrize(
    "fn",
    [
        lambda a, b, c: (a * 0.5, b, c),
        lambda a, b, c: (a, S4 * b, c),
        lambda a, b, c: (a, b, c / S3),
        lambda a, b, c: (a, b, c - S3),
        lambda a, b, c: (a, b.reshape(3, 2, 2) * S4.reshape(2, 2), c),
        lambda a, b, c: (a, b.reshape(3, 2, 2).swapaxes(1, 2) * S4[:2, None], c),
        lambda a, b, c: (a, nnops.batch_norm(b, *NORM), c),
        lambda a, b, c: (a, nnops.batch_norm(b.T, *NORM[:2], axis=0), c),
    ],
)
def test_a_scale_or_a_norm_of_one_part(fn, bias) -> None:
    new = assert_applies(FOLD_PART, lambda x: fn(*parts(x, bias)), X, times=1)
    assert set(fold_constants(new).count()) <= {"dense", "split", "reshape", "transpose"}


def test_halves_of_a_convolution_that_are_normed() -> None:
    def fn(x):
        a, b = jnp.split(conv(x, array(3, 3, 3, 8), padding="SAME"), 2, axis=-1)
        return nnops.relu(nnops.batch_norm(a, *NORM)), nnops.batch_norm(b, *NORM)

    assert_optimizes(default, fn, IMAGE, ops={"conv": 1, "split": 1, "relu": 1})


def test_every_part() -> None:
    new = assert_applies(FOLD_PART, lambda x: [jnp.sin(p + 1.0) for p in parts(x)], X, times=3)
    assert all(new.producer(n.inputs[0]).op == "split" for n in new.find("sin"))


def test_modulation() -> None:
    """As diffusion transformers and style networks scale and shift by a condition."""

    def fn(x, c):
        y = jax.nn.silu(c) @ W[:, :6] + B[:6]
        shift, scale = jnp.split(y[:, None, None], 2, axis=-1)
        return x * (1 + scale) + shift

    new = assert_optimizes(default, fn, IMAGE, array(2, 4))
    known = {*new.constants, *new.prepared}
    assert len(new.find("add")) == 1
    assert not known & set(new.find("add")[0].inputs)


def test_a_convolution_is_split_along_its_features() -> None:
    def fn(x):
        a, b = jnp.split(conv(x, array(3, 3, 3, 4)), 2, axis=-1)
        return a * (b + 1.0)

    assert not assert_optimizes(default, fn, IMAGE).find("add")


@pytest.mark.parametrize(
    "fn",
    [
        lambda x: (lambda a, b, c: (a + 1.0) * a)(*parts(x)),  # the part is used elsewhere
        lambda x: 1.0 - parts(x)[0],
        lambda x: parts(x)[0] + jnp.inf,
        lambda x: parts(x)[0] + x[:, :2],
        lambda x: parts(x)[1] * array(3, 1),
        lambda x: parts(x)[1] * array(3, 4),
        lambda x: parts(x)[1] * jnp.inf,
        lambda x: parts(x)[1] / jnp.zeros(4),
        lambda x: S4 / parts(x)[1],
        lambda x: nnops.batch_norm(parts(x)[1], *NORM[:1], x[0]),
        lambda x: nnops.batch_norm(parts(x)[2], *(v[:3] for v in NORM), axis=0),
        lambda x: lax.split(nnops.dense(x, W, B), (1, 2), axis=0)[0] + 1.0,  # no features
        lambda x: lax.split(nnops.dense(x, W, activation="relu"), (2, 7), axis=1)[0] + 1.0,
        lambda x: lax.split(nnops.dense(x, W, B, x @ W), (2, 7), axis=1)[0] + 1.0,
        lambda x: lax.split(lax.broadcast_in_dim(one(x), (3, 4), (0, 1)), (2, 2), axis=1)[0] + 1.0,
        lambda x: lax.split(nnops.dense(x, x.T), (1, 2), axis=1)[0] + 1.0,  # weights are data
        lambda x: (lambda y: lax.split(y, (2, 7), axis=1)[0] + 1.0 + y[:, :2])(nnops.dense(x, W)),
    ],
)
def test_lookalikes_stay(fn) -> None:
    assert_refuses(FOLD_PART, fn, X)
