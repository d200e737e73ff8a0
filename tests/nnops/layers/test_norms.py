"""Normalising layers against those of Flax, with the same parameters."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen

import jaxpress as jp
from jaxpress import nnops

KEY = jax.random.key(0)
X = 3 * jax.random.normal(KEY, (6, 5, 4)) + 1
DRAWN = {"scale_init": nnops.initializers.normal(1.0), "bias_init": nnops.initializers.normal(1.0)}


def _params(layer):
    named = {"scale": layer.scale, "bias": getattr(layer, "bias", None)}
    return {k: v for k, v in named.items() if v is not None}


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("use", [{}, {"use_scale": False}, {"use_bias": False}])
def test_batch_norm(training, use):
    ours = nnops.BatchNorm.init(KEY, 4, momentum=0.75, **DRAWN, **use)
    theirs = linen.BatchNorm(
        use_running_average=not training, momentum=0.75, use_fast_variance=False, **use
    )
    variables = {"params": _params(ours), "batch_stats": {"mean": ours.mean, "var": ours.var}}
    want, moved = theirs.apply(variables, X, mutable=["batch_stats"])
    got, after = ours(X, training=training)
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(after.mean, moved["batch_stats"]["mean"], rtol=1e-5)
    np.testing.assert_allclose(after.var, moved["batch_stats"]["var"], rtol=1e-5)
    assert after.scale is ours.scale and after.momentum == 0.75
    name = "batch_norm_train" if training else "batch_norm"
    graph = jp.trace(lambda layer, x: layer(x, training=training))(ours, X)
    assert graph.count()[name] == 1


@pytest.mark.parametrize(
    "make, theirs",
    [
        (lambda: nnops.LayerNorm.init(KEY, 4, **DRAWN), linen.LayerNorm(epsilon=1e-5)),
        (
            lambda: nnops.LayerNorm.init(KEY, (5, 4), axis=(1, 2), use_scale=False),
            linen.LayerNorm(
                epsilon=1e-5, reduction_axes=(1, 2), feature_axes=(1, 2), use_scale=False
            ),
        ),
        (
            lambda: nnops.RMSNorm.init(KEY, 4, scale_init=DRAWN["scale_init"]),
            linen.RMSNorm(epsilon=1e-6),
        ),
        (
            lambda: nnops.GroupNorm.init(KEY, 4, groups=2, **DRAWN),
            linen.GroupNorm(num_groups=2, epsilon=1e-5),
        ),
        (lambda: nnops.InstanceNorm.init(KEY, 4, **DRAWN), linen.InstanceNorm(epsilon=1e-5)),
    ],
    ids=["layer", "layer over two axes", "rms", "group", "instance"],
)
def test_others(make, theirs):
    ours = make()
    want = theirs.apply({"params": _params(ours)}, X)
    np.testing.assert_allclose(ours(X), want, rtol=1e-4, atol=1e-4)


def test_no_parameters():
    for norm in (
        nnops.LayerNorm(),
        nnops.RMSNorm(),
        nnops.GroupNorm(groups=2),
        nnops.InstanceNorm(),
    ):
        assert jax.tree.leaves(norm) == []
        assert norm(X).shape == X.shape
    assert jnp.allclose(nnops.LayerNorm()(X).mean(-1), 0, atol=1e-5)
