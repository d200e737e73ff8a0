"""Transposes on both sides of a norm or a rotary embedding meet behind it."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest

from helpers import array, assert_applies, assert_optimizes, assert_refuses
from jaxpress import nnops
from jaxpress.passes import default
from jaxpress.passes.rules.cleanup import CLEANUP_RULES
from jaxpress.passes.rules.move_transpose import MOVE_TRANSPOSE

X, G = array(2, 3, 4, 6), array(6)
COS, SIN = array(3, 6, seed=1), array(3, 6, seed=2)
TURN = (0, 2, 1, 3)


def between(f):
    return lambda x: f(x.transpose(TURN)).transpose(TURN)


@pytest.mark.parametrize(
    "f",
    [
        lambda x: nnops.rms_norm(x, G),
        lambda x: nnops.layer_norm(x, G, G),
        nnops.l2_normalize,
        lambda x: nnops.rms_norm(x, axis=1),
        lambda x: nnops.rotary_embedding(x, COS[None, None], SIN[None, None]),
        lambda x: nnops.rotary_embedding(nnops.rms_norm(x, G), COS[None, None], SIN[None, None]),
        lambda x: nnops.rms_norm(x, G).astype("bfloat16").astype(x.dtype),
    ],
)
def test_they_meet(f) -> None:
    new = assert_applies(MOVE_TRANSPOSE + CLEANUP_RULES, between(f), X)
    assert not new.find("transpose") or "rotary_embedding" in new.count()
    assert all(n.output.ndim == 4 and n.output.shape[0] == 1 for n in new.find("transpose"))


@pytest.mark.parametrize(
    "fn",
    [
        lambda x: nnops.rms_norm(x.transpose(TURN), G) + 1,
        lambda x: (y := nnops.rms_norm(x.transpose(TURN), G), y.transpose(TURN)),
        lambda x: (z := x.transpose(TURN), nnops.rms_norm(z, G).transpose(TURN)),
        lambda x: nnops.layer_norm(x.transpose(TURN), axis=(1, 2)).transpose(TURN),
        lambda x: nnops.rotary_embedding(
            x.transpose(0, 3, 1, 2), COS[None, :, None, :4], SIN[None, :, None, :4]
        ).transpose(0, 2, 3, 1),
    ],
)
def test_what_stays(fn) -> None:
    args = (X[:, :, :, :3],) if "COS" in fn.__code__.co_names else (X,)
    assert_refuses(MOVE_TRANSPOSE, fn, *args)


@pytest.mark.parametrize("norm", [nnops.l2_normalize, lambda x: nnops.rms_norm(x, G[:3])])
def test_attention_with_normalised_queries_and_keys(norm) -> None:
    weights = [array(6, 6, seed=i) for i in range(4)]

    def fn(x):
        q, k, v = ((x @ w).reshape(2, 4, 2, 3).transpose(TURN) for w in weights[:3])
        p = jax.nn.softmax(norm(q) @ norm(k).swapaxes(2, 3), -1)
        return (p @ v).transpose(TURN).reshape(x.shape) @ weights[3]

    ops = {"dense": 2, "slice": 3, "reshape": 4, "dot_product_attention": 1}
    name = "l2_normalize" if norm is nnops.l2_normalize else "rms_norm"
    assert_optimizes(default, fn, array(2, 4, 6), ops={**ops, name: 2})
    assert jnp.isfinite(fn(array(2, 4, 6))).all()
