"""Dropout draws what Flax draws; nothing is drawn twice; keys are checked."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpress import nnops

X = jnp.asarray(np.random.default_rng(0).normal(size=(4, 5, 3)), "float32")
KEY = jax.random.key(3)


def plain(x, key, rate, dims=()):
    """As Flax and Keras write it."""
    shape = [1 if i in [d % x.ndim for d in dims] else n for i, n in enumerate(x.shape)]
    keep = jnp.broadcast_to(jax.random.bernoulli(key, 1.0 - rate, shape), x.shape)
    return jax.lax.select(keep, x / (1.0 - rate), jnp.zeros_like(x))


def op_of(f, *args):
    return [e for e in jax.make_jaxpr(f)(*args).eqns if e.primitive.name == "dropout"]


@pytest.mark.parametrize("dims", [(), (0,), (1, -1)])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_is_flax_to_the_bit(dims, dtype):
    x = X.astype(dtype)

    class Same(nn.Dropout):
        def make_rng(self, name="params"):
            return KEY

    layer = Same(0.3, broadcast_dims=dims, deterministic=False)
    want = layer.apply({}, x, rngs={"dropout": KEY})
    for key in (KEY, jax.random.key_data(KEY)):
        got = nnops.dropout(x, key, rate=0.3, broadcast_dims=dims)
        assert got.dtype == want.dtype
        np.testing.assert_array_equal(got, want)
    assert 0 < np.mean(np.asarray(want, "float32") == 0) < 1


def test_share_and_mean():
    y = np.asarray(nnops.dropout(jnp.ones(40_000), KEY, rate=0.25))
    assert abs(np.mean(y == 0) - 0.25) < 0.01 and abs(y.mean() - 1) < 0.01
    torch = pytest.importorskip("torch")
    kept = torch.nn.functional.dropout(torch.ones(8), 0.25).numpy()
    assert set(y.tolist()) == {0.0, np.float32(1 / 0.75)} >= set(kept.tolist())


def test_the_extremes():
    x = X.at[0, 0, 0].set(jnp.nan)
    assert nnops.dropout(x, None, rate=0.0) is x
    np.testing.assert_array_equal(nnops.dropout(x, None, rate=0.5, deterministic=True), x)
    np.testing.assert_array_equal(nnops.dropout(x, KEY, rate=1.0), jnp.zeros_like(x))
    grad = jax.grad(lambda x: nnops.dropout(x, KEY, rate=1.0).sum())(X)
    np.testing.assert_array_equal(grad, jnp.zeros_like(X))
    assert nnops.dropout(jnp.zeros((0, 3)), KEY, rate=0.5).shape == (0, 3)
    assert nnops.dropout(2.0, KEY, rate=0.5) in (0.0, 4.0)


@pytest.mark.parametrize("dims", [(), (0,)])
def test_behaves_under_every_transformation(agree, dims):
    key = jax.random.key_data(KEY)  # of float32's bits, in float64 as well
    agree(
        lambda x: nnops.dropout(x, key, rate=0.4, broadcast_dims=dims),
        lambda x: plain(x, key, 0.4, dims),
        (3, 4),
    )


@pytest.mark.parametrize("raw", [False, True])
@pytest.mark.parametrize("axes", [(0, 0), (None, 0), (1, None)])
def test_keys_under_vmap(raw, axes):
    keys = jax.random.split(KEY, 5)
    keys = jax.random.key_data(keys) if raw else keys
    x = X if axes[0] is not None else X[0]
    keys = keys[0] if axes[1] is None else keys[: 4 if axes[0] == 0 else 5]

    def both(f):
        f = jax.vmap(f, in_axes=axes)
        value, pull = jax.vjp(lambda x: f(x, keys), x)
        return value, pull(jnp.ones_like(value))

    got = jax.jit(lambda: both(lambda x, k: nnops.dropout(x, k, rate=0.5)))()
    want = jax.jit(lambda: both(lambda x, k: plain(x, k, 0.5)))()
    for a, b in zip(got, want, strict=True):
        np.testing.assert_array_equal(a, b)
    f = jax.vmap(lambda x, k: nnops.dropout(x, k, rate=0.5), in_axes=axes)
    assert len(op_of(f, x, keys)) == 1


def test_a_gradient_draws_once_and_keeps_the_name():
    def loss(x):
        return jnp.sum(nnops.dropout(x, KEY, rate=0.5) ** 2)

    text = str(jax.make_jaxpr(jax.grad(loss))(X))
    assert text.count("random_bits[") == 1
    assert text.count("= dropout[") >= 1
    np.testing.assert_array_equal(
        jax.grad(loss)(X), jax.grad(lambda x: jnp.sum(plain(x, KEY, 0.5) ** 2))(X)
    )
    nested = jax.make_jaxpr(jax.grad(lambda x: jax.vmap(lambda x: loss(x))(x).sum()))(X)
    assert str(nested).count("random_bits[") == 1


def test_costs_what_the_plain_function_costs():
    def of(f):
        cost = jax.jit(jax.value_and_grad(lambda x: f(x).sum())).lower(X).compile().cost_analysis()
        return cost["flops"], cost["bytes accessed"]

    got, want = of(lambda x: nnops.dropout(x, KEY, rate=0.5)), of(lambda x: plain(x, KEY, 0.5))
    assert got[0] <= want[0] * 1.01 and got[1] <= want[1] * 1.01


def test_other_transformations():
    f = jax.checkpoint(lambda x, k: nnops.dropout(jnp.sin(x), k, rate=0.5))
    by_hand = lambda x, k: plain(jnp.sin(x), k, 0.5)  # noqa: E731
    grads = [jax.grad(lambda x, g=g: g(x, KEY).sum())(X) for g in (f, by_hand)]
    np.testing.assert_allclose(*grads, rtol=1e-6)

    def step(carry, key):
        return nnops.dropout(carry, key, rate=0.1), None

    out = jax.lax.scan(step, X, jax.random.split(KEY, 3))[0]
    want = X
    for key in jax.random.split(KEY, 3):
        want = plain(want, key, 0.1)
    np.testing.assert_allclose(out, want, rtol=1e-6)
    (n,) = jax.export.symbolic_shape("n")
    spec = jax.ShapeDtypeStruct((n, 3), jnp.float32)
    exported = jax.export.export(jax.jit(lambda x: nnops.dropout(x, KEY, rate=0.5)))(spec)
    np.testing.assert_array_equal(exported.call(X[0]), plain(X[0], KEY, 0.5))


def test_in_float64_the_draw_is_that_of_float64():
    with jax.enable_x64(True):
        x = X.astype("float64")
        np.testing.assert_array_equal(nnops.dropout(x, KEY, rate=0.3), plain(x, KEY, 0.3))
        (eqn,) = op_of(lambda x: nnops.dropout(x, KEY, rate=0.3), x)
        assert eqn.params["draw"] == "float64"


def test_a_mask_in_the_place_of_a_key():
    keep = jax.random.bernoulli(KEY, 0.5, X.shape)
    op = nnops.ops["dropout"]
    for form in ("select", "multiply"):
        got = op.rebind({"x": X, "keep": keep}, rate=0.5, form=form)
        np.testing.assert_array_equal(got, jnp.where(keep, X * 2, 0))
    bad = X.at[:].set(jnp.nan)
    assert not np.isnan(op.rebind({"x": bad, "keep": keep}, rate=0.5))[~keep].any()
    got = op.rebind({"x": bad, "keep": keep}, rate=0.5, form="multiply")
    np.testing.assert_array_equal(got, jax.jit(lambda x, keep: keep * x / 0.5)(bad, keep))
    with pytest.raises(nnops.OpError, match="a key or a mask"):
        op.rebind({"x": X}, rate=0.5)


@pytest.mark.parametrize("mode", ["row", "batch"])
def test_stochastic_depth(mode):
    x = jnp.ones((64, 3, 2))
    y = np.asarray(nnops.stochastic_depth(x, KEY, rate=0.25, mode=mode))
    rows = y.reshape(64, -1)
    assert (rows == rows[:, :1]).all() and set(y.ravel().tolist()) <= {0.0, np.float32(1 / 0.75)}
    assert len(set(rows[:, 0].tolist())) == (2 if mode == "row" else 1)
    assert nnops.drop_path is nnops.stochastic_depth
    assert nnops.stochastic_depth(x, None, rate=0.25, deterministic=True) is x


@pytest.mark.parametrize(
    "key, options, kind, words",
    [
        (KEY, {"rate": 1.5}, nnops.OpError, "rate is 1.5"),
        (KEY, {"rate": -0.1}, nnops.OpError, "rate is -0.1"),
        (KEY, {"rate": 0.5, "broadcast_dims": 3}, nnops.OpError, r"broadcast_dims are \[3\]"),
        (None, {"rate": 0.5}, nnops.OpError, "the key is missing"),
        (jnp.ones(2), {"rate": 0.5}, nnops.OpTypeError, "key is float32"),
        (jax.random.split(KEY), {"rate": 0.5}, nnops.OpError, r"key has shape \(2,\)"),
        (jnp.zeros((2, 2), "uint32"), {"rate": 0.5}, nnops.OpError, r"key has shape \(2, 2\)"),
    ],
)
def test_bad_arguments(key, options, kind, words):
    with pytest.raises(kind, match="dropout: " + words):
        nnops.dropout(X, key, **options)


def test_a_traced_rate_and_a_bad_mode():
    with pytest.raises(nnops.OpTypeError, match="rate"):
        jax.jit(lambda r: nnops.dropout(X, KEY, rate=r))(0.5)
    with pytest.raises(nnops.OpError, match="mode is 'column'"):
        nnops.stochastic_depth(X, KEY, rate=0.5, mode="column")
