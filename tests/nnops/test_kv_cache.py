"""Decoding step by step against attention over the whole sequence."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpress import nnops

B, T, N, K, H = 2, 6, 4, 2, 3


def draw(*shape, seed=0):
    return jnp.asarray(np.random.default_rng([seed, *shape]).normal(size=shape), jnp.float32)


Q, KEYS, VALUES = draw(B, T, N, H), draw(B, T, K, H, seed=1), draw(B, T, K, H, seed=2)


@pytest.mark.parametrize("steps, window", [([1] * T, None), ([4, 1, 1], None), ([2, 3, 1], 2)])
def test_steps_give_what_the_whole_gives(steps, window):
    cache = nnops.init_kv_cache(B, T + 2, K, H)
    step = jax.jit(
        lambda q, k, v, c: nnops.kv_cache_attention(q, k, v, c, local_window_size=window)
    )
    outs, at = [], 0
    for n in steps:
        part = [x[:, at : at + n] for x in (Q, KEYS, VALUES)]
        out, cache = step(*part, cache)
        outs.append(out)
        at += n
    band = {} if window is None else {"local_window_size": (window, 0)}
    want = nnops.dot_product_attention(Q, KEYS, VALUES, is_causal=True, **band)
    np.testing.assert_allclose(jnp.concatenate(outs, 1), want, rtol=1e-5, atol=1e-6)
    assert int(cache.length) == T


def test_sequences_with_lengths_of_their_own():
    cache = nnops.init_kv_cache(B, T, K, H, per_sequence=True)
    lengths = jnp.array([1, 3])
    filled = cache._replace(key=KEYS, value=VALUES, length=lengths)
    new = [x[:, -1:] for x in (Q, KEYS, VALUES)]
    out, after = nnops.kv_cache_attention(*new, filled)
    assert after.length.tolist() == [2, 4]
    for i, n in enumerate([1, 3]):
        k, v = (jnp.concatenate([x[i : i + 1, :n], x[i : i + 1, -1:]], 1) for x in (KEYS, VALUES))
        want = nnops.dot_product_attention(new[0][i : i + 1], k, v)
        np.testing.assert_allclose(out[i : i + 1], want, rtol=1e-5, atol=1e-6)


def test_in_a_scan_and_under_vmap():
    def decode(q, k, v):
        def step(cache, qkv):
            out, cache = nnops.kv_cache_attention(*(x[:, None] for x in qkv), cache)
            return cache, out[:, 0]

        cache = nnops.init_kv_cache(B, T, K, H)
        moved = tuple(jnp.moveaxis(x, 1, 0) for x in (q, k, v))
        return jnp.moveaxis(jax.lax.scan(step, cache, moved)[1], 0, 1)

    want = nnops.dot_product_attention(Q, KEYS, VALUES, is_causal=True)
    pair = [jnp.stack([x, -x]) for x in (Q, KEYS, VALUES)]
    np.testing.assert_allclose(jax.vmap(decode)(*pair)[0], want, rtol=1e-5, atol=1e-6)


def test_update_writes_where_it_is_told():
    cache = jnp.zeros((2, 5, 1))
    got = nnops.kv_cache_update(cache, jnp.ones((2, 2, 1)), jnp.array([0, 3]))
    assert got[..., 0].tolist() == [[1, 1, 0, 0, 0], [0, 0, 0, 1, 1]]
    low = nnops.kv_cache_update(cache.astype(jnp.bfloat16), jnp.ones((2, 1, 1)), 1)
    assert low.dtype == jnp.bfloat16


def test_update_under_every_transformation(agree):
    def plain(cache, new):
        return jnp.stack([cache[0].at[2:].set(new[0]), cache[1].at[:2].set(new[1])])

    f = lambda c, n: nnops.kv_cache_update(c, n, jnp.array([2, 0]))  # noqa: E731
    agree(f, plain, (2, 4, 3), (2, 2, 3), batch=False)


def test_a_constant_place_in_a_function_that_is_traced_again():
    f = lambda c: nnops.kv_cache_update(c, c[:1], 2, axis=0).sum()  # noqa: E731
    grad = jax.grad(jax.checkpoint(f))(jnp.ones((4, 2)))
    assert grad[:, 0].tolist() == [2, 1, 0, 1]


def test_a_full_cache_is_told_where_that_is_known():
    cache = nnops.init_kv_cache(B, T - 1, K, H)
    with pytest.raises(nnops.OpError, match="holds 5 positions"):
        nnops.kv_cache_attention(Q, KEYS, VALUES, cache)


@pytest.mark.parametrize(
    "new, index, axis",
    [
        ((2, 9, 1), 0, 1),
        ((2, 1, 2), 0, 1),
        ((2, 1), 0, 1),
        ((2, 1, 1), [0, 1, 2], 1),
        ((2, 1, 1), 0, 3),
        ((2, 1, 1), 0.5, 1),
    ],
)
def test_what_does_not_fit(new, index, axis):
    with pytest.raises(nnops.OpError):
        nnops.kv_cache_update(jnp.zeros((2, 5, 1)), jnp.ones(new), jnp.array(index), axis=axis)
