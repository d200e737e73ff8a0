"""Dropout of every framework becomes one op that draws the same bits; lookalikes stay."""

from __future__ import annotations

import equinox as eqx
import flax.linen as nn
import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from zoo_keras import import_keras

from helpers import array, quick_compiles, rewritten
from jaxpress import passes
from jaxpress.capture import trace


@pytest.fixture(autouse=True, scope="module")
def compiled_quickly():
    with quick_compiles():
        yield


X = array(2, 5, 4)
KEY, RAW = jax.random.key(7), jax.random.PRNGKey(7)
KEYS = jax.random.split(KEY, 2)
SHARE = jnp.array(0.7)


def linen(**options):
    layer = nn.Dropout(0.3, deterministic=False, **options)
    return lambda x, key: layer.apply({}, x, rngs={"dropout": key})


def keras(noise_shape=None):
    # With a seed: few draws, of which some and not all must drop something.
    layer = import_keras().layers.Dropout(0.3, noise_shape=noise_shape, seed=1)
    layer.build(X.shape)
    state = [jnp.asarray(v.value) for v in layer.non_trainable_variables]
    return lambda x, state: layer.stateless_call([], state, x, training=True), state


def equinox(x, key):
    return eqx.nn.Dropout(0.3)(x, key=key)


def uniform(x, key):
    return jnp.where(jax.random.uniform(key, x.shape) < 0.7, x / 0.7, 0)


def bernoulli(key, x, share=0.7, shape=None):
    return jax.random.bernoulli(key, share, x.shape if shape is None else shape)


# The function, the key, and what is expected of broadcast_dims and mapped axes.
KEYED = {
    "linen": (linen(), KEY, (), None),
    "linen, raw key": (linen(), RAW, (), None),
    "linen, broadcast": (linen(broadcast_dims=(0,)), KEY, (-3,), None),
    "linen, vmap": (jax.vmap(linen()), KEYS, (), ((0, 0),)),
    "linen, vmap of x": (jax.vmap(linen(), (0, None)), KEY, (), ((0, None),)),
    "nnx": (lambda x, key: nnx.Dropout(0.3, rngs=nnx.Rngs(key))(x), KEY, (), None),
    "equinox": (equinox, KEY, (), None),
    "equinox, vmap over a later axis": (
        jax.vmap(equinox, (1, 0), 1), jax.random.split(KEY, 5), (), ((0, 0),),
    ),
    "equinox, vmap": (jax.vmap(equinox), KEYS, (), ((0, 0),)),
    "equinox, vmap of vmap": (
        jax.vmap(jax.vmap(equinox)), jax.random.split(KEY, (2, 5)), (), ((0, 0), (0, 0)),
    ),
    "haiku": (lambda x, key: hk.dropout(key, 0.3, x), RAW, (), None),
    "haiku, broadcast": (lambda x, k: hk.dropout(k, 0.3, x, broadcast_dims=(1,)), KEY, (-2,), None),
    "keras": (*keras(), (), None),
    "keras, noise shape": (*keras((None, 1, 4)), (-2,), None),
    "divided after": (lambda x, k: jnp.where(bernoulli(k, x), x, 0) / 0.7, KEY, (), None),
    "uniform": (uniform, KEY, (), None),
    "multiplied": (lambda x, k: x * bernoulli(k, x) / 0.7, KEY, (), None),
    "scaled mask": (lambda x, k: x * (bernoulli(k, x) / 0.7), KEY, (), None),
    "scaled after": (lambda x, k: x * bernoulli(k, x) * (1 / 0.7), KEY, (), None),
    "a share that is closed over": (
        lambda x, k: jnp.where(bernoulli(k, x, SHARE), x / SHARE, 0), KEY, (), None,
    ),
    "drop path": (lambda x, k: x * bernoulli(k, x, 0.7, (2, 1, 1)) / 0.7, KEY, (-2, -1), None),
}  # fmt: skip


@pytest.mark.parametrize("name", KEYED)
def test_the_same_bits_are_drawn(name) -> None:
    fn, key, dims, mapped = KEYED[name]
    new = rewritten(passes.default, fn, X, key)[0]
    (node,) = new.find("dropout")
    assert node.params["operands"] == ("x", "key") and node.params["rate"] == 0.3
    assert (node.params["broadcast_dims"], node.params.get("mapped")) == (dims, mapped)
    assert not new.find("random_bits") and not new.find("select_n")
    got, want = (jax.tree.leaves(jax.jit(f)(X, key))[0] for f in (new, fn))
    if name in ("scaled mask", "scaled after"):
        np.testing.assert_allclose(got, want, rtol=2e-7)
    else:
        np.testing.assert_array_equal(got, want)
    assert 0 < np.mean(np.asarray(got) == 0) < 1


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_in_low_precision(dtype) -> None:
    x = X.astype(dtype)
    new = rewritten(passes.inference, linen(), x, KEY)[0]
    assert new.count()["dropout"] == 1
    np.testing.assert_array_equal(jax.jit(new)(x, KEY), jax.jit(linen())(x, KEY))
    for name in ("what is dropped", "not what is dropped"):  # its share is rounded
        fn = BY_HAND[name]
        new = rewritten(passes.default, fn, x, KEY)[0]
        assert new.count()["dropout"] == 1
        np.testing.assert_array_equal(jax.jit(new)(x, KEY), jax.jit(fn)(x, KEY))
    wrong = lambda x, k: jnp.where(bernoulli(k, x, 0.31), 0, x / 0.7)  # noqa: E731
    assert "dropout" not in rewritten(passes.default, wrong, x, KEY)[0].count()


def test_in_float64() -> None:
    with jax.enable_x64(True):
        x = X.astype("float64")
        new = rewritten(passes.default, linen(), x, KEY)[0]
        assert new.find("dropout")[0].params["draw"] == "float64"
        np.testing.assert_array_equal(jax.jit(new)(x, KEY), jax.jit(linen())(x, KEY))


def test_a_mask_with_two_users_is_an_operand() -> None:
    def shared(x, key):
        keep = bernoulli(key, x)
        return jnp.where(keep, x / 0.7, 0), jnp.where(keep, x * x / 0.7, 0)

    def grad(x, key):
        return jax.grad(lambda x: (linen()(x, key) ** 2).sum())(x)

    for fn in (shared, grad):
        new = rewritten(passes.default, fn, X, KEY)[0]
        assert [n.params["operands"] for n in new.find("dropout")] == [("x", "keep")] * 2
        assert new.count()["random_bits"] == 1
        for a, b in zip(*(jax.tree.leaves(jax.jit(f)(X, KEY)) for f in (new, fn)), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-6)


def test_draws_in_other_ways_keep_their_mask() -> None:
    for fn in (
        # With more equations than are looked through, of which most are of constants.
        lambda x, k: x * (jax.random.randint(k, x.shape, 0, 10) < 7) / 0.7,
        lambda x, k: jnp.where(jax.random.uniform(k, x.shape) > 0.3, x / 0.7, 0),
        lambda x, k: jnp.where(bernoulli(k, x, 0.5), x / 0.7, 0),
    ):
        new = rewritten(passes.default, fn, X, KEY)[0]
        assert new.find("dropout")[0].params["operands"] == ("x", "keep")
        assert not passes.default.run(new)[1].rewrites
        np.testing.assert_array_equal(jax.jit(new)(X, KEY), jax.jit(fn)(X, KEY))


def floor(key, shape, keep=0.7):
    return jnp.floor(keep + jax.random.uniform(key, shape))


# By hand, where the op is given the mask; None for rounding of its own.
BY_HAND = {
    "floor": lambda x, k: x * floor(k, (2, 1, 1)) / 0.7,
    "floor, divided before": lambda x, k: x / 0.7 * floor(k, (2, 1, 1)),
    "one draw for each example": lambda x, k: (
        x * bernoulli(k, x, shape=(2,)).reshape(-1, 1, 1) / 0.7
    ),
    "one draw in all": lambda x, k: jnp.where(floor(k, ()) == 1, x / 0.7, 0),
    "what is dropped": lambda x, k: jnp.where(bernoulli(k, x, 0.3), 0, x / 0.7),
    "not what is dropped": lambda x, k: jnp.where(~bernoulli(k, x, 0.3), x / 0.7, 0),
    "one minus what is dropped": lambda x, k: x * (1 - bernoulli(k, x, 0.3)) / 0.7,
    "integers": lambda x, k: (1 - bernoulli(k, x, 0.3).astype(int)) * x / 0.7,
    "transposed": lambda x, k: x * bernoulli(k, x, shape=(4, 5, 2)).T / 0.7,
    "the mask of two": lambda x, k: (lambda m: x * m + jnp.sin(x) * m)(bernoulli(k, x) / 0.7),
    "the mask of a number": lambda x, k: x + jnp.where(bernoulli(k, x), 1 / 0.7, 0),
    "in a loop": lambda x, k: in_a_loop(x, bernoulli(k, x) / 0.7),
    "a later axis, two keys": lambda x, k: jax.vmap(jax.vmap(equinox, (0, 0)), (0, 1))(
        x, jax.random.split(k, (5, 2))
    ),
}  # fmt: skip


def in_a_loop(x, mask):
    return jax.lax.scan(lambda h, _: (jnp.sin(h * mask), None), x, None, length=3)[0]


@pytest.mark.parametrize("name", BY_HAND)
def test_by_hand(name) -> None:
    fn = BY_HAND[name]
    new = rewritten(passes.default, fn, X, KEY)[0]
    assert new.find("dropout")

    def both(f):
        return f(X, KEY), jax.grad(lambda x: (f(x, KEY) ** 2).sum())(X)

    for got, want in zip(*jax.jit(lambda: (both(new), both(fn)))(), strict=True):
        np.testing.assert_allclose(got, want, rtol=2e-6, atol=1e-6)
    assert not passes.cleanup(passes.remove_dropout()(trace(fn)(X, KEY))).find("random_bits")


def test_of_a_number_that_is_closed_over_inside_of_a_trace() -> None:
    def fn(x, key, share):
        return rewritten(
            passes.default, lambda x, k: jnp.where(bernoulli(k, x, share), x / share, 0), x, key
        )[0](x, key)

    got = jax.jit(fn)(X, KEY, SHARE)
    np.testing.assert_allclose(got, jnp.where(bernoulli(KEY, X, SHARE), X / SHARE, 0), rtol=1e-6)


def test_gradients_are_those_of_flax() -> None:
    new = rewritten(passes.default, linen(), X, KEY)[0]
    grads = [jax.grad(lambda x, f=f: (f(x, KEY) ** 2).sum())(X) for f in (new, linen())]
    np.testing.assert_allclose(*grads, rtol=1e-6)


@pytest.mark.parametrize(
    "fn",
    [
        lambda x, k: jnp.where(bernoulli(k, x), x, 0),
        lambda x, k: jnp.where(bernoulli(k, x), x / 0.7, 1),
        lambda x, k: jnp.where(bernoulli(k, x), 0, x / 0.7),
        lambda x, k: jnp.where(x > 0, x / 0.7, 0),
        lambda x, k: jnp.where(bernoulli(k, x), x / 1.7, 0),
        lambda x, k: x * jax.random.uniform(k, x.shape) / 0.7,
        lambda x, k: x * jnp.floor(0.7 + 2 * jax.random.uniform(k, x.shape)) / 0.7,
        lambda x, k: x * jnp.floor(1.7 + jax.random.uniform(k, x.shape)) / 0.7,
        lambda x, k: x * (1 - bernoulli(k, x)) / 0.7,
        lambda x, k: x + bernoulli(k, x) / 0.5,
        lambda x, k: x * (1 - bernoulli(k, x, 0.3) / 0.7),
        lambda x, k: x * (bernoulli(k, x) + 0.5) / 0.7,
    ],
)
def test_lookalikes_stay(fn) -> None:
    new = rewritten(passes.default, fn, X, KEY)[0]
    assert "dropout" not in new.count()
    np.testing.assert_allclose(new(X, KEY), fn(X, KEY), rtol=1e-6)


def test_two_draws_from_one_key_are_not_merged() -> None:
    def fn(x, key):
        return linen()(x, key) + linen()(x, key)

    assert rewritten(passes.default, fn, X, KEY)[0].count()["dropout"] == 2
