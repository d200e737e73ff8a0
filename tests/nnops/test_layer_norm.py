"""Layer normalisation against Flax, Haiku, Equinox, torch and its formula."""

import equinox as eqx
import flax.linen as nn
import haiku as hk
import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpress import nnops


def draw(*shape, seed=0, dtype=np.float32):
    return np.asarray(np.random.default_rng([seed, *shape]).normal(size=shape), dtype)


X, SCALE, BIAS = draw(2, 3, 8), draw(8, seed=1), draw(8, seed=2)


def plain(x, scale=None, bias=None, axis=(-1,), epsilon=1e-5):
    away = x - x.mean(axis, keepdims=True)
    y = away / jnp.sqrt(jnp.mean(away * away, axis, keepdims=True) + epsilon)
    shape = [n if i - x.ndim in axis else 1 for i, n in enumerate(x.shape)]
    y = y if scale is None else y * scale.reshape(shape)
    return y if bias is None else y + bias.reshape(shape)


@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize("parts", [(SCALE, BIAS), (SCALE, None), (None, BIAS), (None, None)])
def test_as_flax(parts, fast):
    scale, bias = parts
    layer = nn.LayerNorm(
        use_scale=scale is not None, use_bias=bias is not None, use_fast_variance=fast
    )
    params = {k: v for k, v in (("scale", scale), ("bias", bias)) if v is not None}
    want = layer.apply({"params": params}, X)
    got = nnops.layer_norm(X, scale, bias, epsilon=1e-6)
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=2e-6)


def test_as_equinox_and_haiku():
    layer = eqx.nn.LayerNorm((3, 8))
    weights = draw(3, 8, seed=3), draw(3, 8, seed=4)
    layer = eqx.tree_at(lambda m: (m.weight, m.bias), layer, tuple(map(jnp.asarray, weights)))
    got = nnops.layer_norm(X, *weights, axis=(-2, -1))
    np.testing.assert_allclose(got, jax.vmap(layer)(X), rtol=1e-5, atol=2e-6)

    fn = hk.without_apply_rng(hk.transform(lambda x: hk.LayerNorm(1, True, True, param_axis=1)(x)))
    parts = {"scale": SCALE[:3].reshape(1, 3, 1), "offset": BIAS[:3].reshape(1, 3, 1)}
    want = fn.apply({"layer_norm": parts}, X)
    got = nnops.layer_norm(X, SCALE[:3], BIAS[:3], axis=1)
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=2e-6)


def test_as_torch_with_gradients():
    torch = pytest.importorskip("torch")
    x, scale, bias = (torch.tensor(v, requires_grad=True) for v in (X, SCALE, BIAS))
    y = torch.nn.functional.layer_norm(x, (8,), scale, bias, 1e-3)
    torch.sin(y).sum().backward()
    f = lambda *a: nnops.layer_norm(*a, epsilon=1e-3)  # noqa: E731
    np.testing.assert_allclose(f(X, SCALE, BIAS), y.detach().numpy(), rtol=1e-5, atol=2e-6)
    grads = jax.grad(lambda *a: jnp.sin(f(*a)).sum(), (0, 1, 2))(X, SCALE, BIAS)
    for g, v in zip(grads, (x, scale, bias), strict=True):
        np.testing.assert_allclose(g, v.grad.numpy(), rtol=1e-4, atol=1e-5)


def test_behaves_under_every_transformation(agree):
    agree(
        lambda x, s, b: nnops.layer_norm(x, s, b, axis=-2),
        lambda x, s, b: plain(x, s, b, axis=(-2,)),
        (2, 3, 2),
        (3,),
        (3,),
        batch=False,
    )


def test_over_two_axes_that_are_apart():
    b = draw(2, 8, seed=5)
    want = plain(X, bias=b, axis=(-3, -1))
    np.testing.assert_allclose(nnops.layer_norm(X, bias=b, axis=(0, 2)), want, rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("axis, at", [(-1, -1), (1, -2), ((0, 2), (-3, -1)), ([2], -1)])
def test_axes_count_from_the_end(axis, at):
    (eqn,) = jax.make_jaxpr(lambda x: nnops.layer_norm(x, axis=axis))(X).eqns
    assert eqn.primitive.name == "layer_norm"
    want = {"axis": at, "epsilon": 1e-5, "placement": "root", "dtype": None}
    assert eqn.params == {**want, "operands": ("x",)}


def test_vmap_of_x_is_a_leading_dimension():
    f = lambda x: nnops.layer_norm(x, SCALE, BIAS)  # noqa: E731
    jaxpr = jax.make_jaxpr(jax.vmap(jax.vmap(f)))(X)
    (eqn,) = jaxpr.eqns
    assert eqn.primitive.name == "layer_norm" and "mapped" not in eqn.params


def test_large_means_lose_nothing():
    # E[x^2] - E[x]^2 would have no correct digit left.
    y = nnops.layer_norm(X + 1e4, epsilon=1e-6)
    np.testing.assert_allclose(y, plain((X + np.float32(1e4)) - 1e4, epsilon=1e-6), atol=1e-2)


@pytest.mark.parametrize(
    "types, dtype, result",
    [
        (["bfloat16"] * 3, None, "bfloat16"),
        (["float16"] * 3, None, "float16"),
        (["bfloat16", "float32", "float32"], None, "float32"),
        (["bfloat16", "float32", "float32"], "bfloat16", "bfloat16"),
        (["int32", "float32", "float32"], None, "float32"),
        (["float32"] * 3, jnp.float16, "float16"),
    ],
)
def test_dtypes_promote_and_low_precision_is_computed_in_float32(types, dtype, result):
    operands = [jnp.asarray(v).astype(t) for v, t in zip((4 * X, SCALE, BIAS), types, strict=True)]
    got = nnops.layer_norm(*operands, dtype=dtype)
    assert got.dtype == result
    want = plain(*(v.astype(jnp.float32) for v in operands))
    tolerance = float(jnp.finfo(got.dtype).eps)
    np.testing.assert_allclose(got.astype(jnp.float32), want, rtol=8 * tolerance, atol=tolerance)


def test_integers_alone_become_floats():
    y = nnops.layer_norm(np.arange(4))
    assert y.dtype == jnp.float32
    np.testing.assert_allclose(y, plain(jnp.arange(4.0)), rtol=1e-6)


def test_constant_rows_nan_infinity_and_nothing():
    np.testing.assert_array_equal(nnops.layer_norm(jnp.full((2, 4), 7.0)), 0)
    x = jnp.asarray([[1.0, np.nan, 2.0], [np.inf, 1.0, 2.0], [1.0, 2.0, 4.0]])
    bad = np.isnan(np.asarray(nnops.layer_norm(x)))
    np.testing.assert_array_equal(bad, np.isnan(np.asarray(plain(x))))
    assert bad[:2].all() and not bad[2].any()
    assert nnops.layer_norm(jnp.zeros((0, 4))).shape == (0, 4)
    assert nnops.layer_norm(jnp.zeros((4, 0)), jnp.zeros(0)).shape == (4, 0)


@pytest.mark.parametrize(
    "change, words",
    [
        ({"scale": np.ones(1)}, "scale has shape (1,), and the normalised axes have (8,)"),
        ({"bias": np.ones((1, 8))}, "bias has shape (1, 8)"),
        ({"scale": np.ones(())}, "scale has shape ()"),
        ({"axis": 3}, "axis is 3"),
        ({"axis": (0, 0)}, "axis is (0, 0)"),
        ({"axis": ()}, "axis names no axis"),
        ({"axis": (-2, -1)}, "scale has shape (8,), and the normalised axes have (3, 8)"),
        ({"x": None}, "x is missing"),
        ({"x": np.ones((2, 8), np.complex64)}, "x is complex"),
        ({"epsilon": "much"}, "epsilon is 'much'"),
        ({"dtype": "int32"}, "dtype is int32"),
    ],
)
def test_operands_that_do_not_fit(change, words):
    with pytest.raises(nnops.OpError) as caught:
        nnops.layer_norm(**{"x": X, "scale": SCALE, "bias": BIAS, **change})
    assert str(caught.value).startswith("layer_norm: ")
    assert words in str(caught.value)


def test_a_traced_epsilon_is_refused():
    with pytest.raises(nnops.OpTypeError, match="epsilon"):
        jax.jit(lambda e: nnops.layer_norm(X, epsilon=e))(1e-3)


def test_export_with_a_symbolic_batch():
    (n,) = jax.export.symbolic_shape("n")
    f = jax.jit(lambda x: nnops.layer_norm(x, SCALE, BIAS))
    exported = jax.export.export(f)(jax.ShapeDtypeStruct((n, 8), np.float32))
    np.testing.assert_allclose(exported.call(X[0]), f(X[0]), rtol=1e-6)
