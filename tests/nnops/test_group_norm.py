"""Group and instance normalisation against Flax, Haiku, Equinox and torch."""

import equinox as eqx
import flax.linen as nn
import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpress import nnops


def draw(*shape, seed=0):
    return np.asarray(np.random.default_rng([seed, *shape]).normal(size=shape), np.float32)


X, SCALE, BIAS = draw(2, 5, 3, 8), draw(8, seed=1), draw(8, seed=2)
CHW = np.moveaxis(X, -1, 1)


def plain_group(x, scale=None, bias=None, groups=2, epsilon=1e-5):
    n, c = x.shape[0], x.shape[-1]
    g = x.reshape(n, -1, groups, c // groups)
    away = g - g.mean((1, 3), keepdims=True)
    y = away / jnp.sqrt(jnp.mean(away**2, (1, 3), keepdims=True) + epsilon)
    y = y.reshape(x.shape)
    y = y if scale is None else y * scale
    return y if bias is None else y + bias


@pytest.mark.parametrize("groups", [1, 2, 8])
def test_as_flax_and_haiku(groups):
    got = nnops.group_norm(X, SCALE, BIAS, groups=groups)
    want = nn.GroupNorm(groups, epsilon=1e-5).apply({"params": {"scale": SCALE, "bias": BIAS}}, X)
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=2e-6)
    fn = hk.without_apply_rng(hk.transform(lambda x: hk.GroupNorm(groups)(x)))
    want = fn.apply({"group_norm": {"scale": SCALE, "offset": BIAS}}, X)
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=2e-6)


def test_as_equinox():
    layer = eqx.nn.GroupNorm(4, 8)
    weights = jnp.asarray(SCALE), jnp.asarray(BIAS)
    layer = eqx.tree_at(lambda m: (m.weight, m.bias), layer, weights)
    got = nnops.group_norm(CHW, SCALE, BIAS, groups=4, axis=1)
    np.testing.assert_allclose(got, jax.vmap(layer)(CHW), rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("name", ["group_norm", "instance_norm"])
def test_as_torch_with_gradients(name):
    torch = pytest.importorskip("torch")
    x, scale, bias = (torch.tensor(v, requires_grad=True) for v in (CHW, SCALE, BIAS))
    if name == "group_norm":
        y = torch.nn.functional.group_norm(x, 4, scale, bias, 1e-3)
        f = lambda *a: nnops.group_norm(*a, groups=4, axis=1, epsilon=1e-3)  # noqa: E731
    else:
        y = torch.nn.functional.instance_norm(x, weight=scale, bias=bias, eps=1e-3)
        f = lambda *a: nnops.instance_norm(*a, axis=1, epsilon=1e-3)  # noqa: E731
    torch.sin(y).sum().backward()
    np.testing.assert_allclose(f(CHW, SCALE, BIAS), y.detach().numpy(), rtol=1e-5, atol=2e-6)
    grads = jax.grad(lambda *a: jnp.sin(f(*a)).sum(), (0, 1, 2))(CHW, SCALE, BIAS)
    for g, v in zip(grads, (x, scale, bias), strict=True):
        np.testing.assert_allclose(g, v.grad.numpy(), rtol=1e-4, atol=2e-5)


def test_instance_norm_as_flax():
    want = nn.InstanceNorm().apply({"params": {"scale": SCALE, "bias": BIAS}}, X)
    got = nnops.instance_norm(X, SCALE, BIAS, epsilon=1e-6)
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=2e-6)


def test_behave_under_every_transformation(agree):
    agree(
        lambda x, s, b: nnops.group_norm(x, s, b, groups=2),
        plain_group,
        (2, 2, 4),
        (4,),
        (4,),
        batch=False,
    )
    agree(
        lambda x, b: nnops.instance_norm(x, bias=b, axis=1),
        lambda x, b: jnp.moveaxis(plain_group(jnp.moveaxis(x, 1, -1), bias=b, groups=3), -1, 1),
        (2, 3, 4),
        (3,),
        batch=False,
    )


def test_without_positions_each_group_is_normalised():
    x = draw(3, 8)
    np.testing.assert_allclose(nnops.group_norm(x, groups=2), plain_group(x), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "f", [lambda x: nnops.group_norm(x, groups=4), lambda x: nnops.instance_norm(x, SCALE)]
)
def test_vmap_is_a_larger_batch(f):
    jaxpr = jax.make_jaxpr(jax.vmap(f, in_axes=1))(draw(2, 3, 5, 8))
    (eqn,) = [e for e in jaxpr.eqns if e.primitive.name.endswith("_norm")]
    assert eqn.invars[0].aval.shape == (6, 5, 8) and "mapped" not in eqn.params
    (out,) = jaxpr.out_avals
    assert out.shape == (3, 2, 5, 8)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_low_precision_is_computed_in_float32(dtype):
    x = jnp.asarray(300 * X).astype(dtype)
    got = nnops.group_norm(x, SCALE, BIAS, groups=2, dtype=dtype)
    assert got.dtype == dtype
    tolerance = float(jnp.finfo(dtype).eps)
    want = plain_group(x.astype(jnp.float32), SCALE, BIAS)
    np.testing.assert_allclose(got.astype(jnp.float32), want, rtol=2 * tolerance, atol=tolerance)


def test_nan_stays_in_its_group_and_its_example():
    x = X.copy()
    x[0, 1, 1, 0] = np.nan
    bad = np.isnan(np.asarray(nnops.group_norm(x, groups=2)))
    assert bad[0, ..., :4].all() and not bad[0, ..., 4:].any() and not bad[1].any()
    bad = np.isnan(np.asarray(nnops.instance_norm(x)))
    assert bad[0, ..., 0].all() and bad.sum() == 15
    assert nnops.group_norm(X[:0], groups=2).shape == (0, 5, 3, 8)


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda: nnops.group_norm(X, groups=3), "groups is 3, and x has 8 features on axis -1"),
        (lambda: nnops.group_norm(X, groups=0), "groups is 0"),
        (lambda: nnops.group_norm(X, groups=2, axis=0), "the feature axis is the batch axis"),
        (lambda: nnops.group_norm(X, SCALE[:2], groups=2), "scale has shape (2,)"),
        (lambda: nnops.group_norm(SCALE, groups=2), "x has 1 axes"),
        (lambda: nnops.instance_norm(X[0, 0]), "x has 2 axes"),
        (lambda: nnops.instance_norm(X, bias=BIAS[None]), "bias has shape (1, 8)"),
        (lambda: nnops.instance_norm(X, axis=4), "axis is 4"),
    ],
)
def test_operands_that_do_not_fit(call, words):
    with pytest.raises(nnops.OpError) as caught:
        call()
    assert words in str(caught.value)
