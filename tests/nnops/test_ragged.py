"""Padding and packing against Keras' and against what was put in."""

import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpress import nnops

TOKENS = [[1, 2, 3], [4], [], [5, 6]]


def keras_on_jax():
    """Keras reads its backend from the environment, once."""
    os.environ.setdefault("KERAS_BACKEND", "jax")
    return pytest.importorskip("keras")


@pytest.mark.parametrize("side", ["right", "left"])
def test_padding_is_keras_s(side):
    keras = keras_on_jax()
    padded, lengths = nnops.pad_sequences(TOKENS, 4, value=9, side=side)
    want = keras.utils.pad_sequences(
        TOKENS, 4, value=9, padding={"right": "post", "left": "pre"}[side]
    )
    np.testing.assert_array_equal(padded, want)
    assert lengths.tolist() == [3, 1, 0, 2] and np.issubdtype(padded.dtype, np.integer)


def test_entries_may_be_arrays():
    padded, lengths = nnops.pad_sequences([np.ones((2, 3), np.float32), np.ones((1, 3))])
    assert padded.shape == (2, 2, 3) and padded.dtype == np.float64
    assert lengths.dtype == np.int32 and padded[1, 1].tolist() == [0, 0, 0]


@pytest.mark.parametrize("maxlen", [5, 8, 64])
def test_packing_loses_nothing(maxlen):
    rng = np.random.default_rng(0)
    sequences = [rng.integers(1, 99, rng.integers(0, 6)) for _ in range(20)]
    packed = nnops.pack_sequences(sequences, maxlen)
    back = nnops.unpack_sequences(packed.values, packed)
    for a, b in zip(sequences, back, strict=True):
        np.testing.assert_array_equal(a, b)
    total = sum(map(len, sequences))
    assert (packed.segment_ids > 0).sum() == total
    # First fit decreasing: at most 11/9 of the best, and one.
    assert len(packed.values) <= np.ceil(total / maxlen) * 11 / 9 + 1
    for row, start, length in packed.places:
        ids = packed.segment_ids[row, start : start + length]
        assert len(set(ids.tolist())) <= 1
        np.testing.assert_array_equal(packed.positions[row, start : start + length], range(length))


def test_packed_sequences_attend_as_they_do_alone():
    rng = np.random.default_rng(1)
    sequences = [rng.normal(size=(n, 2, 4)).astype(np.float32) for n in (3, 2, 4)]
    packed = nnops.pack_sequences(sequences, 6)
    x, mask = jnp.asarray(packed.values), nnops.segment_mask(packed.segment_ids)
    out = nnops.dot_product_attention(x, x, x, mask=mask, is_causal=True)
    for alone, got in zip(sequences, nnops.unpack_sequences(out, packed), strict=True):
        want = nnops.dot_product_attention(alone, alone, alone, is_causal=True)
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "call",
    [
        lambda: nnops.pad_sequences([]),
        lambda: nnops.pad_sequences([1, 2]),
        lambda: nnops.pad_sequences(TOKENS, 2),
        lambda: nnops.pad_sequences(TOKENS, side="up"),
        lambda: nnops.pad_sequences([np.ones((2, 3)), np.ones((2, 4))]),
        lambda: nnops.pack_sequences(TOKENS, 2),
        lambda: nnops.unpack_sequences(np.ones((1, 2)), nnops.pack_sequences(TOKENS, 4)),
    ],
)
def test_what_does_not_fit(call):
    with pytest.raises(nnops.OpError):
        call()


def test_traced_sequences_are_refused():
    with pytest.raises(nnops.OpTypeError, match="outside of jit"):
        jax.jit(lambda x: nnops.pad_sequences([x])[0])(jnp.ones(3))
