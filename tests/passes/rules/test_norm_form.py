"""Which axes, groups and parameters make which norm."""

from __future__ import annotations

import jax
import jax.export
import jax.numpy as jnp
import pytest
from jax import lax
from norms_by_hand import (
    B4,
    EPS,
    G4,
    LAST,
    B,
    G,
    X,
    applied,
    at,
    by_jnp_var,
    check,
    inlined,
    over,
    raised,
)

from helpers import array, assert_close
from jaxpress.passes.rules.raise_norm import RAISE_NORM
from jaxpress.testing import assert_rewrites


@pytest.mark.parametrize(
    ("fn", "op", "params"),
    [
        (over((1,), at(G4, 1), at(B4, 1)), "layer_norm", {"axis": -3}),
        (over((2, 3)), "layer_norm", {"axis": (-2, -1)}),
        (over((2, 3), array(4, 8), array(4, 8, seed=1)), "layer_norm", {"axis": (-2, -1)}),
        (over((2, 3), G), "layer_norm", {"axis": (-2, -1)}),
        (over(None), "layer_norm", {"axis": (-4, -3, -2, -1)}),
        (over((1, 2, 3)), "layer_norm", {"axis": (-3, -2, -1)}),
        (over((1, 2, 3), G, B), "group_norm", {"axis": -1, "groups": 1}),
        (over((1, 2), G, B), "instance_norm", {"axis": -1}),
        (over((1, 2)), "instance_norm", {"axis": -1}),
        (over((2, 3), at(G4, 1), at(B4, 1)), "instance_norm", {"axis": -3}),
        (over((0, 1, 2), G, B), "batch_norm_train", {"axis": -1}),
        (over((0, 2, 3), at(G4, 1), at(B4, 1)), "batch_norm_train", {"axis": -3}),
        (over((0,)), "layer_norm", {"axis": -4}),
    ],
)
def test_which_axes_make_which_norm(fn, op, params) -> None:
    check(fn, X, op=op, **params)


def in_groups(x, shape, axes, g, b):
    y = x.reshape(shape)
    y = (y - y.mean(axes, keepdims=True)) * lax.rsqrt(y.var(axes, keepdims=True) + EPS)
    return y.reshape(x.shape) * g + b


def test_group_norm_channels_last_and_first() -> None:
    last = lambda x: in_groups(x, (2, 16, 4, 2), (1, 3), G, B)  # noqa: E731
    check(last, X, op="group_norm", groups=4, axis=-1)
    first = lambda x: in_groups(x, (2, 2, -1), 2, at(G4, 1), at(B4, 1))  # noqa: E731
    check(first, X, op="group_norm", groups=2, axis=-3)
    # One example without a batch.
    one = lambda x: in_groups(x, (16, 4, 2), (0, 2), G, B)  # noqa: E731
    check(one, X[0], op="group_norm", groups=4, axis=-1)
    assert_rewrites(RAISE_NORM, inlined(last, X), X, times=1)


def test_groups_that_are_not_neighbours_are_no_group_norm() -> None:
    new, ops = raised(lambda x: in_groups(x, (2, 16, 2, 4), (1, 2), G, B), X)
    assert "group_norm" not in [n.op for n in ops], str(new)


def test_heads_are_normalised_each_alone() -> None:
    def fn(x):
        y = x.reshape(2, 4, 2, 16)
        return y * lax.rsqrt((y * y).mean(**LAST) + EPS) * jnp.concatenate([G, B])

    check(fn, X.reshape(2, 4, 32), op="rms_norm", axis=-1)


def test_along_a_vmapped_axis() -> None:
    def fn(x):
        one = lambda v: (v - v.mean()) / jnp.sqrt(v.var() + EPS) * G4 + B4  # noqa: E731
        return jax.vmap(jax.vmap(jax.vmap(one, 1, 1)))(x)

    check(fn, X, op="layer_norm")


def test_statistics_of_statistics() -> None:
    def fn(x):
        m = x.mean(2, keepdims=True).mean(1, keepdims=True)
        v = ((x - m) ** 2).mean(1, keepdims=True).mean(2, keepdims=True)
        return (x - m) * lax.rsqrt(v + EPS) * G + B

    check(fn, X, op="instance_norm", axis=-1)


def test_standardize_is_that_of_jax_nn() -> None:
    check(jax.nn.standardize, X, op="standardize", axis=-1, epsilon=EPS)
    check(lambda x: jax.nn.standardize(x, (1, 2)) * G + B, X, op="instance_norm")


def test_weights_are_standardised_where_they_are_weights() -> None:
    w = array(3, 3, 8, 8)

    def fn(x, w):
        m = w.mean((0, 1, 2), keepdims=True)
        w = (w - m) * lax.rsqrt(w.var((0, 1, 2), keepdims=True) + EPS)
        return lax.conv_general_dilated(
            x, w * G, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )

    new, n = applied(fn, X, w)
    assert n == 1
    (node,) = new.find("weight_standardize")
    assert node.params["axis"] == (-4, -3, -2)
    assert_close(new(X, w), fn(X, w))


def test_a_residual_stays_outside() -> None:
    new, (node,) = raised(lambda x, g, b: x + by_jnp_var(x, g, b), X, G, B)
    assert node.params["operands"] == ("x", "scale", "bias") and new.count()["add"] == 1


def test_a_number_stays_outside() -> None:
    new, (node,) = raised(lambda x: over((3,))(x) * 0.5 + 3, X)
    assert node.params["operands"] == ("x",)
    assert new.count() == {"layer_norm": 1, "mul": 1, "add": 1}


@pytest.mark.parametrize("axes", [(3,), (1, 2), (1, 2, 3)])
def test_a_learned_number_stays_outside(axes) -> None:
    gain = jnp.full((1, 1, 1, 1), 0.7)
    _, (node,) = raised(lambda x, g: over(axes)(x) * g - g, X, gain)
    assert node.params["operands"] == ("x",)
    fast = lambda x, g: jax.nn.standardize(x, axes) * g + g[0]  # noqa: E731
    raised(fast, X, gain)


def test_a_scale_from_the_data_stays_outside() -> None:
    def fn(x):
        gate = jnp.tanh(x.mean((1, 2)) @ array(8, 8))[:, None, None]
        return over((3,))(x) * (1 + gate)

    for x in (X, X[:1]):  # of a batch of one the gate has a scale's shape
        new, (node,) = raised(fn, x)
        assert node.params["operands"] == ("x",) and new.count()["tanh"] == 1
