"""Every named op is what people's own equations become, or it is said here why it is not."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest
from jax import lax
from recognition.case import MOVES
from recognition.losses import LOSSES
from recognition.table import TABLE

import jaxpress as jp
from helpers import array
from jaxpress import nnops

X, Y = array(4, 6), array(4, 6, seed=1)
IMAGE, W = array(2, 8, 8, 4), array(3, 3, 4, 5)
TABLE_OF_ROWS, IDS = array(9, 6), jnp.asarray([1, 0, 7])
WX, WH, B = array(6, 24), array(6, 24, seed=1), array(24)
LAST = {"axis": -1, "keepdims": True}


def lstm_cell(x, h, c):
    i, f, g, o = jnp.split(x @ WX + h @ WH + B, 4, -1)
    c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
    return jax.nn.sigmoid(o) * jnp.tanh(c), c


def gru_cell(x, h):
    xr, xz, xn = jnp.split(x @ WX[:, :18] + B[:18], 3, -1)
    hr, hz, hn = jnp.split(h @ WH[:, :18], 3, -1)
    r, z = jax.nn.sigmoid(xr + hr), jax.nn.sigmoid(xz + hz)
    return (1 - z) * jnp.tanh(xn + r * hn) + z * h


def batch_norm_train(x, g, b, mean, var):
    m, v = x.mean((0, 1, 2)), x.var((0, 1, 2))
    y = (x - m) / jnp.sqrt(v + 1e-5) * g + b
    return y, 0.9 * mean + 0.1 * m, 0.9 * var + 0.1 * v


def weight_standardize(x, w):
    axes = (0, 1, 2)
    w = (w - w.mean(axes)) / (w.std(axes, ddof=1) + 1e-5)
    how = ("NHWC", "HWIO", "NHWC")
    return lax.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=how)


def min_pool(x):
    return lax.reduce_window(x, jnp.inf, lax.min, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")


def attend(table, ids):
    return table[ids] @ table.T


# What is not in the table of recognition: the equations, their operands, and what else there is.
BY_HAND = {
    "attend": (attend, (TABLE_OF_ROWS, IDS), ["embedding"]),
    "batch_norm_train": (batch_norm_train, (IMAGE, *array(4, 4)), []),
    "celu": (lambda x: jax.nn.celu(x, 0.5), (X,), []),
    "elu": (lambda x: jnp.where(x > 0, x, 0.5 * (jnp.exp(x) - 1)), (X,), []),
    "geglu": (lambda x, y: jax.nn.gelu(x) * y, (X, Y), []),
    "glu": (lambda x: x[:, :3] * jax.nn.sigmoid(x[:, 3:]), (X,), []),
    "gru_cell": (gru_cell, (X, Y), []),
    "hard_sigmoid": (lambda x: jax.nn.relu6(x + 3) / 6, (X,), []),
    "hard_silu": (lambda x: x * jax.nn.relu6(x + 3) / 6, (X,), []),
    "hard_tanh": (jax.nn.hard_tanh, (X,), []),
    "l2_normalize": (lambda x: x / (jnp.linalg.norm(x, **LAST) + 1e-6), (X,), []),
    "log1mexp": (jax.nn.log1mexp, (X,), []),
    "log_sigmoid": (lambda x: -jax.nn.softplus(-x), (X,), []),
    "logmeanexp": (lambda x: jax.nn.logsumexp(x, -1) - jnp.log(6), (X,), []),
    "logsumexp": (lambda x: jax.nn.logsumexp(x, -1), (X,), []),
    "lstm_cell": (lstm_cell, (X, Y, Y), []),
    "min_pool": (min_pool, (IMAGE,), []),
    "mish": (lambda x: x * jnp.tanh(jax.nn.softplus(x)), (X,), []),
    "one_hot": (lambda ids: (ids[:, None] == jnp.arange(9)).astype("float32"), (IDS,), []),
    "quick_gelu": (lambda x: x * jax.nn.sigmoid(1.702 * x), (X,), []),
    "relu": (jax.nn.relu, (X,), []),
    "relu6": (jax.nn.relu6, (X,), []),
    "relu_squared": (lambda x: jnp.square(jax.nn.relu(x)), (X,), []),
    "selu": (jax.nn.selu, (X,), []),
    "sequence_mask": (lambda n: jnp.arange(5) < n[:, None], (IDS,), []),
    "sigmoid": (lambda x: 1 / (1 + jnp.exp(-x)), (X,), []),
    "soft_sign": (lambda x: x / (1 + jnp.abs(x)), (X,), []),
    "softplus": (lambda x: jnp.logaddexp(x, 0), (X,), []),
    "sparse_plus": (jax.nn.sparse_plus, (X,), []),
    "sparse_sigmoid": (jax.nn.sparse_sigmoid, (X,), []),
    "squareplus": (lambda x: (x + jnp.sqrt(x**2 + 4)) / 2, (X,), []),
    "standardize": (jax.nn.standardize, (X,), []),
    "weight_standardize": (weight_standardize, (IMAGE, W), ["conv", "mul"]),
}

LEFT = {
    "adaptive_avg_pool": "avg_pool where all windows are alike, which others hardly are",
    "ctc_loss": "optax's is another recursion, with other numbers in place of infinities",
    "kv_cache_update": "nothing tells a cache from other arrays that are written to",
    "multi_head_attention": "opened: its projections fuse on their own",
    "reverse_sequence": "libraries gather by their own arithmetic of indices",
    "rnn_cell": "dense, with a residual and an activation, is the same and fuses further",
    "rotary_tables": "a table of positions, which is known before the data",
    "separable_conv": "opened: each of its convolutions has kernels of its own",
    "shift": "one pad",
    "signed_logsumexp": "weights of either sign are rare in networks",
    "sinusoidal_encoding": "a table of positions, which is known before the data",
    "stochastic_depth": "dropout of whole examples, which dropout is as well",
}


def test_every_op_is_here() -> None:
    every = [case for cases in (*TABLE.values(), *LOSSES.values()) for case in cases.values()]
    shown = {op for case in every for op in case.ops}
    assert not set(BY_HAND) & set(LEFT) and not (set(BY_HAND) | set(LEFT)) & shown
    assert set(BY_HAND) | set(LEFT) | shown == set(nnops.registry()) - {"identity"}


@pytest.mark.parametrize("op", BY_HAND)
def test_equations_become_the_op(op) -> None:
    fn, args, others = BY_HAND[op]
    count = jp.optimize(fn).graph(*args).count()
    assert count[op] == 1
    assert set(count) - set(MOVES) == {op, *others}, count
