"""Sequence ops against numpy, Flax and torch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpress import nnops

LENGTHS = jnp.array([0, 2, 5, 9])


def test_mask_of_lengths():
    want = np.arange(5) < np.asarray(LENGTHS)[:, None]
    np.testing.assert_array_equal(nnops.sequence_mask(LENGTHS, 5), want)
    assert nnops.sequence_mask(LENGTHS).shape == (4, 9)
    assert nnops.sequence_mask(jnp.array(3), 4).tolist() == [True] * 3 + [False]
    assert nnops.sequence_mask(jnp.zeros((0,), int)).shape == (0, 0)


@pytest.mark.parametrize("dtype", [jnp.int8, jnp.uint8, jnp.int32])
def test_lengths_of_few_bits(dtype):
    """Positions past what the dtype of the lengths can hold."""
    got = nnops.sequence_mask(jnp.array([3, 100], dtype), 300)
    assert got.sum(-1).tolist() == [3, 100]


def test_vmap_keeps_the_mask_plain():
    f = jax.vmap(lambda n: nnops.sequence_mask(n, 6), in_axes=1, out_axes=1)
    lengths = LENGTHS.reshape(2, 2)
    eqns = jax.make_jaxpr(f)(lengths).eqns
    (eqn,) = (e for e in eqns if e.primitive.name == "sequence_mask")
    assert eqn.params == {"maxlen": 6}
    np.testing.assert_array_equal(f(lengths), nnops.sequence_mask(lengths, 6))


def test_traced_lengths_need_maxlen():
    with pytest.raises(nnops.OpError, match="maxlen"):
        jax.jit(nnops.sequence_mask)(LENGTHS)
    with pytest.raises(nnops.OpTypeError, match="float32"):
        nnops.sequence_mask(jnp.ones(3), 4)
    with pytest.raises(nnops.OpError, match="-1"):
        nnops.sequence_mask(LENGTHS, -1)


def test_reversal_is_flax_s():
    recurrent = pytest.importorskip("flax.linen.recurrent")
    x = jnp.asarray(np.random.default_rng(0).normal(size=(4, 6, 3)), jnp.float32)
    lengths = jnp.array([1, 3, 6, 4])
    got = nnops.reverse_sequence(x, lengths)
    # Flax turns padding too, so only what belongs to the sequences is equal.
    want = recurrent.flip_sequences(x, lengths, num_batch_dims=1, time_major=False)
    for g, w, given, n in zip(got, want, x, lengths, strict=True):
        np.testing.assert_array_equal(g[:n], w[:n])
        np.testing.assert_array_equal(g[n:], given[n:])


@pytest.mark.parametrize("time, batch", [(0, 1), (2, 0), (-1, 0), (1, 2)])
def test_reversal_along_any_axes(time, batch):
    x = np.random.default_rng(0).normal(size=(4, 4, 4)).astype(np.float32)
    lengths = np.array([0, 2, 4, 7])
    got = nnops.reverse_sequence(jnp.asarray(x), lengths, time_axis=time, batch_axis=batch)
    want = np.moveaxis(x.copy(), (batch, time), (0, 1))
    for row, n in zip(want, lengths, strict=True):
        row[:n] = row[:n][::-1].copy()
    np.testing.assert_array_equal(got, np.moveaxis(want, (0, 1), (batch, time)))


def test_reversal_under_every_transformation(agree):
    lengths = [3, 1]
    index = np.array([[n - 1 - t if t < n else t for t in range(4)] for n in lengths])

    def plain(x):
        return x[jnp.arange(2)[:, None], index]

    agree(lambda x: nnops.reverse_sequence(x, jnp.array(lengths)), plain, (2, 4, 3), batch=False)


def test_reversal_refuses():
    x = jnp.ones((2, 3))
    for bad in ({"time_axis": 2}, {"time_axis": 0}):
        with pytest.raises(nnops.OpError):
            nnops.reverse_sequence(x, jnp.ones(2, int), **bad)
    with pytest.raises(nnops.OpError, match="2 sequences"):
        nnops.reverse_sequence(x, jnp.ones(3, int))


@pytest.mark.parametrize("steps", [0, 1, 2, 5, -1, -7])
@pytest.mark.parametrize("axis", [0, 1, -1])
def test_shift(steps, axis):
    x = np.arange(24, dtype=np.int32).reshape(2, 3, 4)
    want = np.full_like(x, 9)
    n = x.shape[axis]
    s = max(-n, min(n, steps))
    source = [slice(None)] * 3
    target = [slice(None)] * 3
    source[axis] = slice(max(0, -s), n - max(0, s))
    target[axis] = slice(max(0, s), n + min(0, s))
    want[tuple(target)] = x[tuple(source)]
    np.testing.assert_array_equal(nnops.shift(jnp.asarray(x), steps, axis=axis, fill=9), want)


def test_shift_under_every_transformation(agree):
    def plain(x):
        return jnp.concatenate([jnp.full_like(x[:, :1], 0.5), x[:, :-1]], 1)

    agree(lambda x: nnops.shift(x, fill=0.5), plain, (2, 3), batch=False)


def test_shift_refuses():
    with pytest.raises(nnops.OpError, match="no axis 2"):
        nnops.shift(jnp.ones((2, 3)), axis=2)
    for fill in (0.5, jnp.ones(2), "a", 2**40):
        with pytest.raises(nnops.OpTypeError, match="fill"):
            nnops.shift(jnp.ones((2, 3), jnp.int32), fill=fill)
