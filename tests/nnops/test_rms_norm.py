"""Root mean square normalisation against Flax, Haiku, Equinox, torch and its formula."""

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


X, SCALE, BIAS = draw(2, 3, 8), draw(8, seed=1), draw(8, seed=2)


def plain(x, scale=None, bias=None, axis=-1, epsilon=1e-6):
    y = x / jnp.sqrt(jnp.mean(x * x, axis, keepdims=True) + epsilon)
    at = [1] * x.ndim
    at[axis] = x.shape[axis]
    y = y if scale is None else y * scale.reshape(at)
    return y if bias is None else y + bias.reshape(at)


def test_as_flax_haiku_and_equinox():
    want = nn.RMSNorm().apply({"params": {"scale": SCALE}}, X)
    np.testing.assert_allclose(nnops.rms_norm(X, SCALE), want, rtol=1e-5, atol=1e-6)

    fn = hk.without_apply_rng(hk.transform(lambda x: hk.RMSNorm(-1)(x)))
    want = fn.apply({"rms_norm": {"scale": SCALE}}, X)
    got = nnops.rms_norm(X, SCALE, epsilon=1e-5)
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)

    layer = eqx.tree_at(
        lambda m: (m.weight, m.bias), eqx.nn.RMSNorm(8), (jnp.asarray(SCALE), jnp.asarray(BIAS))
    )
    want = jax.vmap(jax.vmap(layer))(X)
    got = nnops.rms_norm(X, SCALE, BIAS, epsilon=1e-5)
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)


def test_as_torch_with_gradients():
    torch = pytest.importorskip("torch")
    x, scale = (torch.tensor(v, requires_grad=True) for v in (X, SCALE))
    y = torch.nn.functional.rms_norm(x, (8,), scale, 1e-3)
    torch.sin(y).sum().backward()
    f = lambda *a: nnops.rms_norm(*a, epsilon=1e-3)  # noqa: E731
    np.testing.assert_allclose(f(X, SCALE), y.detach().numpy(), rtol=1e-5, atol=1e-6)
    grads = jax.grad(lambda *a: jnp.sin(f(*a)).sum(), (0, 1))(X, SCALE)
    for g, v in zip(grads, (x, scale), strict=True):
        np.testing.assert_allclose(g, v.grad.numpy(), rtol=1e-4, atol=1e-5)


def test_behaves_under_every_transformation(agree):
    f, g = (lambda x, s, f=f: f(x, s, axis=0) for f in (nnops.rms_norm, plain))
    agree(f, g, (3, 2), (3,), batch=False)


def test_parameters_and_vmap():
    f = lambda x: nnops.rms_norm(x, SCALE, axis=1, epsilon=1e-3)  # noqa: E731
    jaxpr = jax.make_jaxpr(jax.vmap(f, in_axes=2))(np.ones((2, 8, 5), np.float32))
    eqn = jaxpr.eqns[-1]
    params = {"axis": -1, "epsilon": 1e-3, "placement": "root", "dtype": None}
    params["operands"] = ("x", "scale")
    assert eqn.primitive.name == "rms_norm" and eqn.params == params


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_low_precision_is_computed_in_float32(dtype):
    # 300 squared is no float16.
    x = jnp.asarray(300 * X).astype(dtype)
    got = nnops.rms_norm(x, jnp.asarray(SCALE), dtype=dtype)
    want = plain(x.astype(jnp.float32), SCALE)
    assert got.dtype == dtype
    tolerance = float(jnp.finfo(dtype).eps)
    np.testing.assert_allclose(got.astype(jnp.float32), want, rtol=2 * tolerance, atol=1e-6)


@pytest.mark.parametrize(
    "change, words",
    [
        ({"scale": np.ones(3)}, "scale has shape (3,), and the normalised axes have (8,)"),
        ({"bias": np.ones((2, 3, 8))}, "bias has shape (2, 3, 8)"),
        ({"axis": 5}, "axis is 5"),
    ],
)
def test_operands_that_do_not_fit(change, words):
    with pytest.raises(nnops.OpError) as caught:
        nnops.rms_norm(**{"x": X, "scale": SCALE, **change})
    assert str(caught.value).startswith("rms_norm: ") and words in str(caught.value)
