"""Norms whose epsilon stands elsewhere than under the root, and with the variance of a sample."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from norms_by_hand import LAST, RULES, B, G, X, mean

import jaxpress as jp
from helpers import assert_close, rewritten
from jaxpress.passes.rules.raise_norm import RAISE_NORM
from jaxpress.testing import assert_rewrites

E = 1e-3


def away(x, axes=-1):
    return x - x.mean(axes, keepdims=True)


def deviation(x, axes=-1, **options):
    return x.std(axes, keepdims=True, **options)


def in_groups(x, g, b):
    y, axes = x.reshape(2, 4, 4, 2, 4), (1, 2, 4)
    return (away(y, axes) / (deviation(y, axes) + E)).reshape(x.shape) * g + b


def scaled_weights(x, g, b):
    # As in networks without norms: the root is of the sum, and the gain within.
    w = x[0, :3, :3, None] * jnp.sin(g)[:, None]
    axes = (0, 1, 2)
    s = lax.rsqrt(jnp.maximum(w.var(axes) * 72, E)) * g
    w = w * s - w.mean(axes) * s
    how = ("NHWC", "HWIO", "NHWC")
    return lax.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=how)


LAYER, RMS, L2 = "layer_norm", "rms_norm", "l2_normalize"
# What is written, the op, where epsilon stands, what it is, and how many operands the op has.
FORMS = {
    "std + e": (lambda x, g, b: g * away(x) / (deviation(x) + E) + b, LAYER, "sum", E, 3),
    "of a sample": (
        lambda x, g, b: g * away(x) / (deviation(x, ddof=1) + E) + b,
        LAYER, "sum", E * math.sqrt(7 / 8), 3,
    ),
    "of a sample, under the root": (
        lambda x, g, b: away(x) / jnp.sqrt(x.var(ddof=1, **LAST) + E), LAYER, "root", E * 7 / 8, 1
    ),
    "of a sample, with a bias": (
        lambda x, g, b: away(x) / jnp.sqrt((away(x) ** 2).sum(**LAST) / 7 + E) + b,
        LAYER, "root", E * 7 / 8, 3,
    ),
    "advantages": (lambda x, g, b: (x - x.mean()) / (x.std() + E), LAYER, "sum", E, 1),
    "max(std, e)": (lambda x, g, b: away(x) / jnp.maximum(deviation(x), E), LAYER, "norm", E, 1),
    "max(var, e)": (
        lambda x, g, b: away(x) * lax.rsqrt(jnp.maximum(x.var(**LAST), E * E)) * g,
        LAYER, "max", E, 2,
    ),
    "rms + e": (lambda x, g, b: g * x / (jnp.sqrt(mean(x * x)) + E), RMS, "sum", E, 2),
    "rms by a length": (
        lambda x, g, b: x / jnp.maximum(jnp.linalg.norm(x, **LAST), E) * math.sqrt(8) * g,
        RMS, "norm", E / math.sqrt(8), 2,
    ),
    "rms by a length over a root": (
        lambda x, g, b: x / (jnp.linalg.norm(x, **LAST) * 8**-0.5 + E) * g, RMS, "sum", E, 2
    ),
    "max(mean square, e)": (
        lambda x, g, b: x / jnp.sqrt(jnp.maximum(mean(x * x), E * E)), RMS, "max", E, 1
    ),
    "in groups": (in_groups, "group_norm", "sum", E, 3),
    "of each image": (
        lambda x, g, b: away(x, (1, 2)) / (deviation(x, (1, 2)) + E) * g + b,
        "instance_norm", "sum", E, 3,
    ),
    "of the batch": (
        lambda x, g, b: away(x, (0, 1, 2)) / (deviation(x, (0, 1, 2)) + E) * g + b,
        "batch_norm_train", "sum", E, 5,
    ),
    "weights": (
        lambda x, g, b: x[0] @ (away(x[1, 0, :, :].T @ x[0, 0], 0) / (
            deviation(x[1, 0, :, :].T @ x[0, 0], 0, ddof=1) + E)),
        "weight_standardize", "sum", E * math.sqrt(7 / 8), 1,
    ),
    "scaled weights": (scaled_weights, "weight_standardize", "max", math.sqrt(E / 72), 1),
    "a number first": (
        lambda x, g, b: 3 * away(x) / jnp.sqrt(x.var(**LAST) + E), LAYER, "root", E, 1
    ),
    "a parameter first": (lambda x, g, b: g[0] * x / jnp.sqrt(mean(x * x) + E), RMS, "root", E, 1),
    "directions": (lambda x, g, b: g * x / (jnp.linalg.norm(x, **LAST) + E), L2, "sum", E, 1),
    "directions of length 3": (
        lambda x, g, b: 3 * x / jnp.linalg.norm(x, **LAST), L2, "root", 0, 1
    ),
}  # fmt: skip


def test_every_form_is_its_op_and_the_same_function() -> None:
    names = list(FORMS)

    def fn(xs, gs, bs):
        return [FORMS[n][0](x, g, b) for n, x, g, b in zip(names, xs, gs, bs, strict=True)]

    # A vector of zeros and one of equal numbers: there gradients tell the forms apart.
    x = X.at[0, 0, 0].set(0).at[1, 0, 1].set(2)
    with jax.enable_x64(True):
        args = [[jnp.asarray(v, "float64")] * len(names) for v in (x, G, B)]
        new, rules = rewritten(RULES, fn, *args)
        assert rules.count("raise_norm") == len(names)
        settled, _ = jp.passes.default.run(new)
        assert not jp.passes.default.run(settled)[1].rewrites
        got, want = (jax.jit(_and_gradients(f))(*args) for f in (new, fn))
    for name, *pair in zip(names, *(_by_form(v) for v in (got, want)), strict=True):
        for a, b in zip(*pair, strict=True):
            np.testing.assert_array_equal(np.isnan(a), np.isnan(b), err_msg=name)
            np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-10, err_msg=name)
    found = [n for n in new.nodes if n.op in jp.nnops.registry()]
    found = [n for n in found if "epsilon" in n.params]
    for name, (_, op, placement, epsilon, operands) in FORMS.items():
        node = next((n for n in found if _is(n, op, placement, epsilon, operands)), None)
        assert node is not None, f"{name} is not among {found}"
        found.remove(node)


def _and_gradients(fn):
    def loss(*args):
        out = fn(*args)
        return sum(jnp.sin(v).sum() for v in out), out

    return jax.grad(loss, (0, 1, 2), has_aux=True)


def _by_form(result):
    (dx, dg, db), out = result
    return list(zip(out, dx, dg, db, strict=True))


def _is(node, op, placement, epsilon, operands) -> bool:
    p = node.params
    same = node.op == op and p["placement"] == placement and len(node.inputs) == operands
    return same and math.isclose(p["epsilon"], epsilon, rel_tol=1e-6)


@pytest.mark.parametrize("name", ["std + e", "max(var, e)"])
def test_under_transformations(name) -> None:
    x = X[0, :2, 0]
    new = assert_rewrites(RAISE_NORM, _tidied(lambda x: FORMS[name][0](x, G, B), x), x, times=1)
    assert new.count()["layer_norm"] == 1


def _tidied(fn, *args):
    graph = jp.passes.cleanup.run(jp.trace(fn)(*args))[0]
    return lambda *a: graph(*a)


def test_lengths_of_what_the_mean_is_taken_away_from_stay_lengths() -> None:
    new, _ = rewritten(RULES, lambda x: (y := away(x)) / jnp.linalg.norm(y, **LAST), X)
    assert new.count()["l2_normalize"] == 1 and "layer_norm" not in new.count()


def test_in_low_precision_it_is_rounded_once() -> None:
    fn = lambda x: away(x) / jnp.sqrt(x.var(ddof=1, **LAST) + E)  # noqa: E731
    x = X.astype("bfloat16")
    new, _ = rewritten(RULES, fn, x)
    assert new.count()["layer_norm"] == 1
    assert_close(new(x).astype("float32"), fn(x.astype("float32")), 2**-8)
