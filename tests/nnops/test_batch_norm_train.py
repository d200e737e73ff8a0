"""Batch normalisation in training against Flax, Haiku and torch; across devices and ``vmap``."""

import flax.linen as nn
import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from jaxpress import nnops


def draw(*shape, seed=0, low=-2.0, high=2.0):
    rng = np.random.default_rng([seed, *shape])
    return np.asarray(rng.uniform(low, high, size=shape), np.float32)


X = draw(4, 3, 5, 6)
MEAN, VAR = draw(6, seed=1), draw(6, seed=2, low=0.5)
SCALE, BIAS = draw(6, seed=3), draw(6, seed=4)
STATE = (MEAN, VAR, SCALE, BIAS)


def close(got, want, rtol=1e-5, atol=2e-6):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=rtol, atol=atol), got, want)


def plain(x, mean, var, scale=None, bias=None, axis=-1, momentum=0.9, epsilon=1e-5):
    others = tuple(i for i in range(x.ndim) if i != axis % x.ndim)
    m, v = x.mean(others), x.var(others)
    shape = [n if i == axis % x.ndim else 1 for i, n in enumerate(x.shape)]
    y = (x - m.reshape(shape)) / jnp.sqrt(v.reshape(shape) + epsilon)
    y = y if scale is None else y * scale.reshape(shape)
    y = y if bias is None else y + bias.reshape(shape)
    return y, (momentum * mean + (1 - momentum) * m, momentum * var + (1 - momentum) * v)


@pytest.mark.parametrize("with_affine", [True, False])
def test_as_flax(with_affine):
    layer = nn.BatchNorm(
        use_running_average=False, momentum=0.7, use_scale=with_affine, use_bias=with_affine
    )
    variables = {"batch_stats": {"mean": MEAN, "var": VAR}}
    if with_affine:
        variables["params"] = {"scale": SCALE, "bias": BIAS}
    y, new = layer.apply(variables, X, mutable=["batch_stats"])
    state = STATE if with_affine else STATE[:2]
    got = nnops.batch_norm_train(X, *state, momentum=0.7)
    close(got, (y, (new["batch_stats"]["mean"], new["batch_stats"]["var"])))


def test_as_haiku_normalises():
    fn = hk.transform_with_state(lambda x: hk.BatchNorm(True, True, 0.9)(x, is_training=True))
    params, state = fn.init(None, X)
    scale, offset = (v.reshape(1, 1, 1, 6) for v in (SCALE, BIAS))
    params = {"batch_norm": {"scale": scale, "offset": offset}}
    y, _ = fn.apply(params, state, None, X)
    close(nnops.batch_norm_train(X, *STATE)[0], y)


def test_as_torch_with_gradients():
    torch = pytest.importorskip("torch")
    x, scale, bias = (
        torch.tensor(v, requires_grad=True) for v in (np.moveaxis(X, -1, 1).copy(), SCALE, BIAS)
    )
    mean, var = torch.tensor(MEAN), torch.tensor(VAR)
    y = torch.nn.functional.batch_norm(x, mean, var, scale, bias, True, 0.1, 1e-3)
    torch.sin(y).sum().backward()

    def f(x, scale, bias):
        return nnops.batch_norm_train(x, MEAN, VAR, scale, bias, axis=1, epsilon=1e-3)

    args = x.detach().numpy(), SCALE, BIAS
    got, (new_mean, new_var) = f(*args)
    close(got, y.detach().numpy())
    close(new_mean, mean.numpy())
    # torch keeps the variance of a sample.
    n = X.size / 6
    close((new_var - 0.9 * VAR) * n / (n - 1) + 0.9 * VAR, var.numpy())
    grads = jax.grad(lambda *a: jnp.sin(f(*a)[0]).sum(), (0, 1, 2))(*args)
    for g, v in zip(grads, (x, scale, bias), strict=True):
        close(g, v.grad.numpy(), rtol=1e-4, atol=2e-5)


def test_behaves_under_every_transformation(agree):
    def together(f):
        def fn(*args):
            y, (mean, var) = f(*args)
            return y + mean * var

        return fn

    shapes = (4, 3), (3,), (3,), (3,), (3,)
    agree(together(nnops.batch_norm_train), together(plain), *shapes, batch=False)


def test_vmap_keeps_the_name():
    args = [np.stack([v, 2 * v]) for v in (X, *STATE)]
    for axes in ((0, None, None, None, None), (0, 0, 0, None, None), (None, None, 0, 0, 0)):
        own = [v if a == 0 else v[0] for a, v in zip(axes, args, strict=True)]
        (eqn,) = jax.make_jaxpr(jax.vmap(nnops.batch_norm_train, axes))(*own).eqns
        assert eqn.primitive.name == "batch_norm_train"
        y, news = jax.vmap(nnops.batch_norm_train, axes)(*own)
        close((y, news), jax.vmap(plain, axes)(*own))


def test_one_node_with_three_results():
    f = lambda x: nnops.batch_norm_train(x, *STATE[:2], bias=BIAS, axis=-1)  # noqa: E731
    (eqn,) = jax.make_jaxpr(f)(X).eqns
    assert eqn.primitive.name == "batch_norm_train" and len(eqn.outvars) == 3
    assert eqn.params["operands"] == ("x", "mean", "var", "bias")


def named(x, *state):
    return nnops.batch_norm_train(x, *state, axis_name="i")


def test_a_vmapped_axis_joins_the_batch():
    want_y, want = nnops.batch_norm_train(X, *STATE)
    f = lambda x: named(x, *STATE)  # noqa: E731
    y, news = jax.vmap(f, axis_name="i", out_axes=(0, None))(X)
    close((y, news), (want_y, want))
    jaxpr = jax.make_jaxpr(jax.vmap(f, axis_name="i", out_axes=(0, None)))(X)
    (eqn,) = jaxpr.eqns
    assert eqn.primitive.name == "batch_norm_train" and eqn.params["axis_name"] is None
    # Mapped along another axis, under jit, and differentiated.
    moved = jax.jit(jax.vmap(f, in_axes=1, out_axes=(1, None), axis_name="i"))
    close(moved(X), (want_y, want))
    grad = jax.grad(lambda x: jnp.sin(moved(x)[0]).sum())(X)
    close(grad, jax.grad(lambda x: jnp.sin(plain(x, *STATE)[0]).sum())(X), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("axes", [(0, 0, 0, 0, 0), (0, 0, None, None, 0), (0, None, None, 1, None)])
def test_vmapped_state_of_each_its_own(axes):
    args = [
        v if a is None else np.stack([v, 2 * v, v - 1, v], a) if i else v
        for i, (v, a) in enumerate(zip((X, *STATE), axes, strict=True))
    ]
    y, (mean, var) = jax.vmap(named, axes, axis_name="i")(*args)
    for i in range(4):
        own = [v if a is None else np.take(v, i, a) for v, a in zip(args, axes, strict=True)]
        want_y, want = plain(X, *own[1:])
        close((y[i], (mean[i], var[i])), (want_y[i], want))


def test_two_names_and_a_level_without():
    x = draw(2, 3, 4, 6)
    f = lambda x: nnops.batch_norm_train(x, *STATE, axis_name=("i", "j"))  # noqa: E731
    y, news = jax.vmap(jax.vmap(f, axis_name="i"), axis_name="j")(x)
    want_y, want = plain(x, *STATE)
    close(y, want_y)
    close(news[0][1, 2], want[0])
    # The inner level has no name: each of its rows is a batch of its own.
    g = jax.vmap(jax.vmap(lambda x: named(x, *STATE)), axis_name="i")
    y, news = g(x)
    for k in range(3):
        want_y, want = plain(x[:, k], *STATE)
        close(y[:, k], want_y)
        close(news[1][0, k], want[1])


def test_across_devices():
    devices = jax.devices()[:2]
    if len(devices) < 2:
        devices = jax.devices()[:1]
    mesh = Mesh(np.array(devices), ("i",))
    f = jax.jit(
        jax.shard_map(
            lambda x: named(x, *STATE), mesh=mesh, in_specs=P("i"), out_specs=(P("i"), (P(), P()))
        )
    )
    close(f(X), plain(X, *STATE))
    assert "batch_norm_train" in str(jax.make_jaxpr(f)(X))
    grad = jax.grad(lambda x: jnp.sin(f(x)[0]).sum())(X)
    close(grad, jax.grad(lambda x: jnp.sin(plain(x, *STATE)[0]).sum())(X), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "types, dtype, result",
    [
        (("bfloat16", "float32", "bfloat16"), None, "bfloat16"),
        (("bfloat16", "float32", "float32"), "bfloat16", "bfloat16"),
        (("float16", "float32", "float16"), None, "float16"),
        (("int32", "float32", "float32"), None, "float32"),
    ],
)
def test_statistics_keep_their_dtype(types, dtype, result):
    x, stats, weights = types
    state = [jnp.asarray(v, t) for v, t in zip(STATE, (stats, stats, weights, weights))]  # noqa: B905
    x = jnp.asarray(40 * X).astype(x)
    y, news = nnops.batch_norm_train(x, *state, dtype=dtype)
    assert y.dtype == result and all(n.dtype == stats for n in news)
    want_y, want = plain(x.astype("float32"), *(v.astype("float32") for v in state))
    eps = float(jnp.finfo(result).eps)
    close(np.asarray(y, np.float32), want_y, rtol=4 * eps, atol=4 * eps)
    close(news, want, rtol=1e-5)


@pytest.mark.parametrize(
    "change, words",
    [
        ({"mean": MEAN[:1]}, "mean has shape (1,), and the features are (6,)"),
        ({"scale": SCALE[None]}, "scale has shape (1, 6)"),
        ({"axis": 4}, "axis is 4"),
        ({"axis": 1}, "mean has shape (6,), and the features are (3,)"),
        ({"x": MEAN}, "x has no batch axis"),
        ({"var": None}, "operands ['var'] are missing"),
        ({"momentum": None}, "momentum is None"),
    ],
)
def test_operands_that_do_not_fit(change, words):
    given = dict(zip(("x", "mean", "var", "scale", "bias"), (X, *STATE), strict=True))
    with pytest.raises(nnops.OpError) as caught:
        nnops.batch_norm_train(**{**given, **change})
    assert str(caught.value).startswith("batch_norm_train: ") and words in str(caught.value)
