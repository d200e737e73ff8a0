"""Every public op on operands that it cannot take: an error that names op, operands and mend."""

import inspect
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpress import nnops
from samples import SAMPLES, Sample

X, M = np.ones((2, 4, 4, 2)), np.ones((2, 3), bool)
Q, K = np.ones((2, 3, 2, 2)), np.ones((2, 3, 1, 2))
KERNEL, W = np.ones((2, 2, 1, 2)), np.ones((4, 2, 2))

# Public functions and operands that samples.py does not call.
CALLS = {name: (name, sample) for name, sample in SAMPLES.items()}
CALLS["signed_logsumexp"] = "logsumexp", SAMPLES["signed_logsumexp"]
for _label, _call, *_operands in [
    ("tanh", nnops.tanh, np.ones(3)),
    ("depthwise_conv", nnops.depthwise_conv, X, KERNEL, np.ones(2)),
    ("conv_transpose", nnops.conv_transpose, X, np.ones((2, 2, 2, 3)), np.ones(3)),
    ("separable_conv", nnops.separable_conv, X, KERNEL, np.ones((1, 1, 2, 3)), np.ones(3)),
    (
        "multi_head_attention",
        nnops.multi_head_attention,
        *[np.ones((2, 3, 4))] * 3,
        *[W] * 3,
        np.ones((2, 2, 5)),
        *[np.ones((2, 2))] * 3,
        np.ones(5),
    ),
    ("rotary_tables", lambda p: nnops.rotary_tables(p, 4), np.arange(3)),
    ("segment_mask", nnops.segment_mask, np.arange(6).reshape(2, 3), np.arange(6).reshape(2, 3)),
    ("combine_masks", nnops.combine_masks, M, M),
    (
        "dense residual",
        lambda x, w, r: nnops.dense(x, w, None, r),
        *(np.ones((2, 3)), np.ones((3, 4)), np.ones((2, 4))),
    ),
    ("stochastic_depth", lambda x, k: nnops.stochastic_depth(x, k, rate=0.5), X, jax.random.key(0)),
    (
        "dot_product_attention lengths",
        lambda q, k, v, m, n: nnops.dot_product_attention(
            q, k, v, key_padding_mask=m, query_seq_lengths=n
        ),
        *(Q, K, K, M, np.array([1, 2])),
    ),
    ("softmax where", lambda x, m: nnops.softmax(x, -1, m), np.ones((2, 3)), M),
    ("log_softmax where", lambda x, m: nnops.log_softmax(x, -1, m), np.ones((2, 3)), M),
    ("logsumexp where", lambda x, m: nnops.logsumexp(x, where=m), np.ones((2, 3)), M),
    ("logmeanexp where", lambda x, m: nnops.logmeanexp(x, where=m), np.ones((2, 3)), M),
    (
        "standardize moments",
        lambda x, a, b, m: nnops.standardize(x, -1, a, b, where=m),
        *(np.ones((2, 3)), np.ones((2, 1)), np.ones((2, 1)), M),
    ),
    (
        "mean_squared_error where",
        lambda x, y, m, w: nnops.mean_squared_error(x, y, where=m, weights=w),
        *(np.ones((2, 3)), np.ones((2, 3)), M, np.ones((2, 3))),
    ),
    (
        "lstm lengths",
        lambda x, w, u, n: nnops.lstm(x, None, None, w, u, lengths=n),
        *(np.ones((2, 3, 2)), np.ones((2, 8)), np.ones((2, 8)), np.array([1, 2])),
    ),
]:  # fmt: skip
    CALLS[_label] = _label.split()[0], Sample(_call, tuple(_operands))

# They take no array, or are aliases, or check all else in tests of their own.
OTHERS = {
    *("activation_entries", "activation_names", "to_activation", "composites", "define"),
    *("registry", "trainable", "recurrent_from", "recurrent_to", "init_kv_cache", "identity"),
    *("kv_cache_attention", "pack_sequences", "pad_sequences", "unpack_sequences"),
    *("bidirectional", "recurrent_layers", "causal_mask", "sliding_window_mask"),
}

# Any array will do as the first operand, but for its dtype; and what stretches as NumPy has it.
STRETCH = {
    *(
        ("logsumexp", 1),
        ("signed_logsumexp", 1),
        ("softmax where", 1),
        ("log_softmax where", 1),
        ("logsumexp where", 1),
    ),
    *(("logmeanexp where", 1), ("standardize moments", 1), ("standardize moments", 2)),
    *(("standardize moments", 3), ("dot_product_attention", 3), ("dot_product_attention", 4)),
    *(("combine_masks", 0), ("combine_masks", 1), ("prelu", 1)),
}
# Operands of any length: targets, key positions, rows' features, values' features.
ANY_LENGTH = {
    *(("embedding", 1), ("ctc_loss", 1), ("segment_mask", 1)),
    *(("dot_product_attention", 2), ("dot_product_attention lengths", 2)),
}
ANY_RANK = {("embedding", 1)}


def test_every_public_op_is_here():
    public = {n for n in nnops.__all__ if inspect.isfunction(getattr(nnops, n))}
    tried = {getattr(nnops, n) for n, _ in CALLS.values()}
    left = {n for n in public if getattr(nnops, n) not in tried}
    assert left == OTHERS


def _wrong(label, sample):
    """Operands that do not fit: position, what was done, all of them."""
    args = sample.arrays()
    for i, v in enumerate(args):
        changed = {"text": "abc", "object": object()}
        if not jnp.issubdtype(v.dtype, jax.dtypes.prng_key):
            if i and (label, i) not in ANY_RANK:
                changed["a leading axis"] = jnp.stack([v] * 5)
            if i and v.ndim and (label, i) not in ANY_LENGTH:
                changed["one more entry"] = jnp.concatenate([v, v[..., :1]], -1)
                if v.shape[-1] > 1 and (label, i) not in STRETCH:
                    changed["a single entry"] = v[..., :1]
            if i and v.ndim and (label, i) not in STRETCH:
                changed["no axis"] = v.ravel()[0]
            # softmax takes all that jax.nn.softmax does.
            if v.dtype == bool and not label.endswith("softmax where"):
                changed["floats for booleans"] = v.astype(np.float32)
        for what, bad in changed.items():
            yield i, what, [bad if j == i else a for j, a in enumerate(args)]


@pytest.mark.parametrize("label", CALLS)
def test_operands_that_do_not_fit(label):
    name, sample = CALLS[label]
    silent, unclear = [], []
    for i, what, args in _wrong(label, sample):
        try:
            sample.call(*args)
        except nnops.OpError as error:
            message = str(error)
            named = message.startswith(f"{name}: ") and "\n  to mend it: " in message
            shown = len(args) == 1 or re.search(r"(float32|int32|bool|key<fry>)\(", message)
            if not named or not shown:
                unclear.append((i, what, message))
        else:
            silent.append((i, what))
    assert (silent, unclear) == ([], [])


def test_under_vmap_too():
    """Of what a mapped axis makes of them, the shapes that do not fit might stretch."""
    x, w, k = jnp.ones((2, 3)), jnp.ones((3, 4)), jnp.ones((1, 1, 2, 3))
    for wrong in (jnp.ones((5, 1)), jnp.ones((5, 3)), jnp.ones((5, 2, 1))):
        with pytest.raises(nnops.OpError, match=r"dense: b has shape .*\n  operands: x float32"):
            jax.vmap(lambda b: nnops.dense(x, w, b))(wrong)
        with pytest.raises(nnops.OpError, match=r"dense: residual has shape"):
            jax.vmap(lambda r: nnops.dense(x, w, None, r))(wrong)
        with pytest.raises(nnops.OpError, match=r"conv: b has shape"):
            jax.vmap(lambda b: nnops.conv(X, k, b))(wrong[..., :2])


def test_under_a_trace_too():
    with pytest.raises(nnops.OpTypeError, match=r"sigmoid: .*\n  operands: x int32\(3,\)\n"):
        jax.jit(nnops.sigmoid)(jnp.arange(3))


def test_what_is_no_error_of_an_operand_stays_as_it_is():
    with pytest.raises(TypeError, match="unexpected keyword") as caught:
        nnops.relu(1.0, slope=2)
    assert not isinstance(caught.value, nnops.OpError)
    with pytest.raises(jax.errors.UnexpectedTracerError):
        kept = []
        jax.jit(lambda x: kept.append(x))(1.0)
        nnops.relu(kept[0])
