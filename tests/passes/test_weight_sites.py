"""Which weights are masked, and where a derivative by them forbids it."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest
from jax import lax
from small_cnn import PARAMS, X, model

import jaxpress as jp
from helpers import array, assert_close
from jaxpress import nnops
from jaxpress.capture import PassError, trace
from jaxpress.passes import insert_weight_masks, magnitude_mask, maskable_weights


def test_a_gradient_by_unmasked_weights_is_refused_one_by_data_is_masked() -> None:
    graph = trace(jax.grad(lambda p, x: jnp.sum(model(p, x) ** 2)))(PARAMS, X)
    assert set(maskable_weights(graph)) <= {f"p['{name}']" for name in PARAMS}  # not x
    for name in ("conv", "hidden", "out"):
        with pytest.raises(PassError, match="is part of a gradient"):
            insert_weight_masks(f"*{name}*", sparsity=0.5)(graph)

    def slope(p, x):
        return jax.grad(lambda x: jnp.sum(jnp.tanh(jnp.tanh(x @ p["hidden"]) @ p["out"])))(x)

    x = array(12, 288)  # as many rows as features: shapes alone tell nothing
    fast = jp.optimize(slope, [insert_weight_masks(sparsity=0.5), "default"])
    by_hand = {k: w * magnitude_mask(w, 0.5) for k, w in PARAMS.items()}
    assert_close(fast(PARAMS, x), slope(by_hand, x))


def test_derivatives_by_weights_are_refused_in_loops_and_forwards_too() -> None:
    p, x = {"w": array(4, 6), "o": array(4, 3)}, array(2, 4)

    def looped(p, x):  # with a part of the weights
        return lax.scan(lambda c, _: (jnp.tanh(c @ p["w"][:, :4]), None), x, None, length=2)[0]

    def plain(p, x):
        return jnp.tanh(jnp.tanh(x @ p["w"][:, :4]) @ p["o"])

    prune = insert_weight_masks(sparsity=0.5)
    for fn in (looped, plain):
        for by_weights in (
            jax.grad(lambda p, x, fn=fn: fn(p, x).sum()),
            jax.jacrev(fn),
            jax.jacfwd(fn),
            lambda p, x, fn=fn: jax.jvp(fn, (p, x), jax.tree.map(jnp.cos, (p, x))),
            lambda p, x, fn=fn: jax.linearize(lambda p: fn(p, x), p)[1](jax.tree.map(jnp.cos, p)),
        ):
            with pytest.raises(PassError, match=r"gradient by .*jax\.grad\(jaxpress\.optimize"):
                prune(trace(by_weights)(p, x))
        keep = {k: w * magnitude_mask(w, 0.5) for k, w in p.items()}
        keep["w"] = keep["w"].at[:, :4].set(p["w"][:, :4] * magnitude_mask(p["w"][:, :4], 0.5))
        by_data = jax.jacfwd(fn, 1)
        assert_close(jax.jit(prune(trace(by_data)(p, x)))(p, x), by_data(keep, x))


def test_the_parts_of_an_op_by_its_name() -> None:
    w, out, x = array(6, 2, 3), array(2, 3, 6), array(2, 5, 6)
    mha = "multi_head_attention"

    def fn(w, out, m, x):
        return nnops.multi_head_attention(x, None, None, w, w, w, out) @ m

    graph = trace(fn)(w, out, array(6, 6), x)
    assert list(maskable_weights(graph, mha)) == ["w", "out"]
    with pytest.raises(PassError, match=f"has become its parts: choose '{mha}' or 'dense'"):
        insert_weight_masks("conv", sparsity=0.5)(graph)
