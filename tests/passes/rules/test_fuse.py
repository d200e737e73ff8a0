"""Bias, residual and activation move into linear ops, bit for bit."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from helpers import CHW, array, assert_applies, assert_refuses
from jaxpress import nnops
from jaxpress.capture import trace
from jaxpress.passes import rewrite
from jaxpress.passes.rules.fuse import (
    FUSE_ACTIVATION,
    FUSE_BIAS,
    FUSE_LATE_BIAS,
    FUSE_LATE_RESIDUAL,
    FUSE_RESIDUAL,
    FUSE_RULES,
)
from jaxpress.testing import assert_rewrites

C = 4
X, W, B = array(2, C, C, C), array(3, 3, C, C), array(C, seed=5)
D, M = array(3, 5), array(5, C)
R = array(3, C, seed=7)


def names_of(node):
    return nnops.registry()[node.op].present(node.params)


def fused(new, op, operands, activation=None):
    """``op`` is the one named op, with these operands and this activation."""
    (node,) = new.find(op)
    assert names_of(node) == operands
    made = node.params["activation"]
    assert (made and made.name) == activation
    assert not {"add", "relu", "tanh"} & set(new.count())


@pytest.mark.parametrize(
    "add",
    [
        lambda y, b: y + b,
        lambda y, b: b + y,
        lambda y, b: y + b.reshape(1, C),
        lambda y, b: y + jnp.broadcast_to(b, y.shape),
        lambda y, b: y + jnp.expand_dims(b, 0),
    ],
)
def test_a_bias_however_it_is_spread(add) -> None:
    new = assert_applies(FUSE_RULES, lambda x, w, b: add(nnops.dense(x, w), b), D, M, B, times=1)
    fused(new, "dense", ("x", "w", "b"))
    new = assert_applies(FUSE_RULES, lambda x: add(nnops.dense(x, M), B), D, times=1)
    fused(new, "dense", ("x", "w", "b"))


def test_scalars_are_biases_too() -> None:
    new = assert_applies(FUSE_BIAS, lambda x: nnops.dense(x, M) + 1.5, D, times=1)
    fused(new, "dense", ("x", "w", "b"))
    assert_applies(FUSE_BIAS, lambda x, b: nnops.dense(x, M) + b[:1], D, B, times=1)


def test_convolutions_in_either_layout() -> None:
    new = assert_applies(
        FUSE_RULES, lambda x, b: nnops.relu(nnops.conv(x, W) + b + x), X, B, times=3
    )
    fused(new, "conv", ("x", "w", "b", "residual"), "relu")
    w = array(C, C, 3, 3)
    new = assert_applies(
        FUSE_RULES,
        lambda x, b: jnp.tanh(nnops.conv(x, w, dimension_numbers=CHW) + b[:, None, None]),
        X, B, times=2,
    )  # fmt: skip
    fused(new, "conv", ("x", "w", "b"), "tanh")


def test_projections_to_heads() -> None:
    w, b = array(6, 2, 3), array(2, 3)
    new = assert_applies(
        FUSE_RULES,
        lambda x, b: nnops.silu(nnops.einsum_dense(x, w, equation="btd,dhk->bthk") + b),
        array(2, 5, 6), b, times=2,
    )  # fmt: skip
    fused(new, "einsum_dense", ("x", "w", "b"), "silu")
    w = array(2, 3, 6)
    new = assert_applies(
        FUSE_RULES,
        lambda y, x, b: nnops.einsum_dense(y, w, equation="bthk,hkd->btd") + b + x,
        array(2, 5, 2, 3), array(2, 5, 6), array(6), times=2,
    )  # fmt: skip
    fused(new, "einsum_dense", ("x", "w", "b", "residual"))


def test_logits_of_a_tied_table() -> None:
    new = assert_applies(
        FUSE_RULES, lambda x, t, b: nnops.attend(x, t) + b, D, array(7, 5), array(7), times=1
    )
    fused(new, "attend", ("x", "w", "b"))


def test_every_order_of_bias_and_residual() -> None:
    for fn, times in (
        (lambda x, b, r: nnops.dense(x, M) + b + r, 2),
        (lambda x, b, r: r + (nnops.dense(x, M) + b), 2),
        (lambda x, b, r: b + (r + nnops.dense(x, M)), 2),
        (lambda x, b, r: nnops.dense(x, M, b) + r, 1),
    ):
        new = assert_applies(FUSE_RULES, lambda *a, f=fn: nnops.relu(f(*a)), D, B, R)
        fused(new, "dense", ("x", "w", "b", "residual"), "relu")
        assert_applies(FUSE_RULES, fn, D, B, R, times=times)
    assert FUSE_LATE_BIAS.numerics == "reassociates"


def test_exact_rules_keep_every_bit() -> None:
    def fn(x, b, r):
        return nnops.leaky_relu(nnops.dense(x, M) + b + r, negative_slope=0.3)

    new = assert_rewrites(FUSE_RULES, fn, D, B, R, times=3, vmap=False)
    (node,) = new.find("dense")
    assert dict(node.params["activation"].params) == {"negative_slope": 0.3}


@pytest.mark.parametrize("name", sorted(nnops.activation_entries()))
def test_every_activation(name) -> None:
    def fn(x):
        return getattr(nnops if name != "tanh" else jnp, name)(nnops.dense(x, M))

    new = assert_applies(FUSE_ACTIVATION, fn, D, times=1)
    fused(new, "dense", ("x", "w"), name)


def test_steps_that_move_elements_come_after() -> None:
    heads = array(5, 6)

    def split(x, b):
        return nnops.relu(nnops.dense(x, heads).reshape(3, 2, 3) + b)

    new = assert_applies(FUSE_RULES, split, D, array(2, 3), times=2)
    fused(new, "dense", ("x", "w", "b"), "relu")

    def turned(x, b):
        y = jnp.transpose(nnops.conv(x, W), (0, 3, 1, 2)) + b[:, None, None]
        return nnops.relu(y.reshape(2, C, -1))

    new = assert_applies(FUSE_RULES, turned, X, B, times=2)
    fused(new, "conv", ("x", "w", "b"), "relu")

    def flat(x, r):
        return nnops.dense(x.reshape(-1, 5), heads).reshape(2, 3, 6) + r

    new = assert_applies(FUSE_RULES, flat, array(2, 3, 5), array(2, 3, 6), times=1)
    fused(new, "dense", ("x", "w", "residual"))

    def merged(x, b):
        y = nnops.einsum_dense(x, array(6, 2, 3), equation="btd,dhk->bthk")
        return y.reshape(2, 5, 6) + b

    new = assert_applies(FUSE_RULES, merged, array(2, 5, 6), array(6), times=1)
    fused(new, "einsum_dense", ("x", "w", "b"))


def test_an_activation_comes_before_what_repeats() -> None:
    def fn(x):
        y = nnops.conv(x, W) + B
        return nnops.relu(jnp.repeat(jnp.repeat(y, 2, 1), 2, 2))

    new = assert_applies(FUSE_RULES, fn, X, times=2)
    fused(new, "conv", ("x", "w", "b"), "relu")
    assert_refuses(
        FUSE_ACTIVATION, lambda x: nnops.relu(nnops.dense(x, M)[:, None] * x[:, :1, None]), D
    )


def test_a_fused_op_is_where_the_op_is_that_takes_the_others_in() -> None:
    def fn(x):
        with jax.named_scope("layer"):
            y = nnops.conv(x, W)
        return nnops.relu(y + B)

    new = assert_applies(FUSE_RULES, fn, X, times=2)
    assert new.nodes[0].scope == "layer"


def test_what_is_added_after_a_residual_goes_to_the_residual() -> None:
    def fn(x, y):
        return nnops.relu((nnops.conv(x, W) + nnops.conv(y, W, B)) + x)

    new = assert_applies(FUSE_RULES, fn, X, X[::-1])
    assert new.count() == {"conv": 2}
    assert all("residual" in names_of(node) for node in new.nodes)


def test_what_another_layer_computes_is_no_bias_at_batch_size_1_either() -> None:
    def fn(x, y):
        return nnops.dense(x, M) + nnops.relu(nnops.dense(y, M))

    new = assert_applies(FUSE_RULES, fn, D[:1], D[1:2])
    assert [names_of(n) for n in new.find("dense")] == [("x", "w"), ("x", "w", "residual")]


def test_of_two_convolutions_the_later_takes_the_other_as_residual() -> None:
    def fn(x):
        return nnops.relu(nnops.conv(x, W) + nnops.conv(nnops.relu(x), W, B))

    new = rewrite(trace(fn)(X), FUSE_RULES).validate()
    assert new.count() == {"conv": 2, "relu": 1}
    assert "residual" in names_of(new.nodes[-1])
    np.testing.assert_array_equal(new(X), fn(X))


@pytest.mark.parametrize(
    ("rule", "fn", "because"),
    [
        (FUSE_BIAS, lambda x: nnops.conv(x, W) + B[:, None], "features alone"),
        (FUSE_BIAS, lambda x: nnops.conv(x, W) + B[:, None, None], "features alone"),
        (FUSE_BIAS, lambda x: nnops.conv(x, W, B) + B, "has operands"),
        (FUSE_BIAS, lambda x: nnops.conv(x, W, None, x) + B, "has operands"),
        (FUSE_BIAS, lambda x: nnops.conv(x, W, activation="relu") + B, "activation already"),
        (FUSE_BIAS, lambda x: nnops.dense(x[0, :, :1, 0], array(1, 1)) + B, "shape"),
        (FUSE_BIAS, lambda x: (lambda y: (y + B, y))(nnops.conv(x, W)), "elsewhere"),
        (FUSE_BIAS, lambda x: nnops.conv(x, W).reshape(2, C * C, C)[:, :C] + B[:, None], ""),
        (FUSE_BIAS, lambda x: nnops.max_pool(nnops.conv(x, W), 2) + B, "not made by"),
        (FUSE_RESIDUAL, lambda x: nnops.conv(x, W) + jnp.broadcast_to(B, X.shape), "a bias"),
        (FUSE_RESIDUAL, lambda x: nnops.conv(x, W) + x[:1], "broadcast"),
        (FUSE_RESIDUAL, lambda x: nnops.conv(x, W, None, x) + x, "residual already"),
        (FUSE_LATE_RESIDUAL, lambda x: nnops.conv(x, W) + x, "no residual yet"),
        (FUSE_RESIDUAL, lambda x: (lambda y: y + y)(nnops.conv(x, W)), "elsewhere"),
        (FUSE_RESIDUAL, lambda x: nnops.conv(x, W)[:, ::-1] + x, ""),
        (FUSE_RESIDUAL,
         lambda x: nnops.dense(x[0, 0], array(C, 4)).T + x[1, 0], "transposed"),
        (FUSE_ACTIVATION, lambda x: nnops.relu(nnops.conv(x, W, activation="relu")), "already"),
        (FUSE_ACTIVATION, lambda x: (lambda y: (nnops.relu(y), y))(nnops.conv(x, W)), "elsewhere"),
        (FUSE_ACTIVATION, lambda x: nnops.relu(nnops.conv(x, W) * 2.0), "not made by"),
        (FUSE_ACTIVATION, lambda x: jax.lax.tanh(nnops.conv(x, W),
         accuracy=jax.lax.AccuracyMode.HIGHEST), "accuracy"),
        (FUSE_ACTIVATION, lambda x: nnops.softmax(nnops.conv(x, W)), ""),
    ],
)  # fmt: skip
def test_what_is_not_the_same_stays(rule, fn, because) -> None:
    assert_refuses(rule, fn, X, because=because if rule.names & {"add", "relu"} else "")


def test_a_wider_bias_or_residual_stays_outside() -> None:
    half, m = D.astype("bfloat16"), M.astype("bfloat16")
    graph = trace(lambda x: jax.lax.add(nnops.dense(x, m).astype("float32"), R))(half)
    assert rewrite(graph, FUSE_RULES) is graph
    graph = trace(lambda x: nnops.relu(nnops.dense(x, m).astype("float32")))(half)
    assert rewrite(graph, FUSE_RULES) is graph


def test_ops_that_are_mapped_over_weights_stay() -> None:
    ws = jnp.stack([M, -M])
    assert_refuses(FUSE_RULES, lambda x: jax.vmap(lambda w: nnops.dense(x, w))(ws) + B, D)


def test_other_dtypes_and_arrays_of_no_size() -> None:
    for dtype in ("int32", "bfloat16", "complex64"):
        d, m, b = (jnp.round(3 * v).astype(dtype) for v in (D, M, B))
        new = assert_applies(
            FUSE_RULES, lambda x, b, m=m: nnops.dense(x, m) + b, d, b, times=1, gradients=False
        )
        fused(new, "dense", ("x", "w", "b"))
    new = assert_applies(FUSE_RULES, lambda x: nnops.relu(nnops.dense(x, M) + B), D[:0])
    fused(new, "dense", ("x", "w", "b"), "relu")


def test_effects_stay_where_they_are() -> None:
    def fn(x):
        y = nnops.dense(x, M)
        jax.debug.callback(lambda v: None, y)
        return nnops.relu(y)

    assert_refuses(FUSE_RULES, fn, D)
