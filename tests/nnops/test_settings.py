"""Settings: each of every public op, given what it cannot be; and what makes a setting."""

import inspect
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxpress as jp
from jaxpress import nnops
from jaxpress.nnops.settings import data_type, integer, static_value

X, V, S = np.ones((2, 4, 4, 2), np.float32), np.ones((2, 3), np.float32), np.ones((2, 3, 2))
K, D, TWO = np.ones((2, 2, 2, 3)), np.ones((2, 2, 1, 2)), np.ones(2)
IDS, KEY = np.array([0, 1]), jax.random.key(0)
TABLE = np.ones((3, 2), np.float32)

# What no setting of this name may be. Arrays are no settings, and text is no number.
NUMBER, FLAG, INTEGER = ["x", TWO, None], ["x", TWO, 0.5, None], ["x", 1.5, TWO]
AXIS = [9, -9, *INTEGER]
WINDOW = [0, -1, 1.5, "x", (1,), (1, 0), (1,) * 5]
PADDING = ["SOME", 1.5, (1,), ((1,), (1,)), [(0, 0.5), (0, 0)]]


def each(names, value):
    return dict.fromkeys(names.split(), value)


BAD = {
    **each("axis time_axis batch_axis", AXIS),
    **each("epsilon momentum alpha base negative_slope", NUMBER),
    **each("keepdims interleaved deterministic approximate zero_masked", FLAG),
    **each("is_causal reset_after reverse transposed", FLAG),
    **each("transpose_kernel count_include_pad", FLAG),
    **each("strides dilation window_shape", WINDOW),
    **each("dtype logits_dtype softmax_dtype", ["no such", 3]),
    **each("mode masked_output placement windows", ["x", 3, None]),
    **each("scale mask_value", ["x", TWO]),
    **each("activation gate_activation", [3, "no such", ("relu", {"slope": 1}), abs]),
    **each("rate dropout_rate", [-0.1, 1.1, np.nan, "x"]),
    **each("broadcast_dims dropout_broadcast_dims", [(9,), (0.5,)]),
    "b": NUMBER,
    "groups": [0, -1, 5, *INTEGER],
    "padding": PADDING,
    "output_padding": [-1, 1.5, "x", (1,)],
    "dimension_numbers": ["NHWC", ("NWC", "WIO", "NWC"), (1, 2, 3), ("NCHW", "OIHW", "NCHW")],
    "precision": ["no such", 3, {}, ("highest",)],
    "preferred_element_type": ["no such", 3],
    "output_shape": [0, 9, 1.5, "x", (1,)],
    "num_classes": [-1, 1.5, "x", None],
    "maxlen": [-1, 1.5, "x"],
    "steps": ["x", 1.5, None],
    "fill": ["x", TWO, 1j, None],
    "features": [0, 3, -2, 1.5, "x"],
    "unroll": [0, 1.5, "x", True],
    "return_sign": ["x", TWO],
    "equation": ["x", "ab,bc", "...d,dh->...hz", 3, None],
    "derivative_at_zero": [0.5, "x", None],
    "logits_soft_cap": [0, "x", TWO],
    "local_window_size": ["x", 1.5, (1,), (1.5, None)],
    "fill_value": ["x", TWO],
    "from_end": ["x", TWO],
}
# What is for JAX to check.
GOOD = {"batch_norm_train": {"axis_name"}}

LSTM, GRU, RNN = (np.ones((2, n)) for n in (8, 6, 2))
CALLS = {
    **dict.fromkeys(nnops.activation_names(), (V,)),
    **each("softmax log_softmax logsumexp logmeanexp standardize", (V,)),
    **each("layer_norm rms_norm l2_normalize weight_standardize shift", (V,)),
    **each("instance_norm global_avg_pool global_max_pool", (X,)),
    **each("max_pool min_pool avg_pool adaptive_avg_pool group_norm", (X, 2)),
    **each("batch_norm batch_norm_train", (X, TWO, TWO)),
    "glu": (X,), "geglu": (V, V), "prelu": (X, TWO), "one_hot": (IDS, 3),
    "dense": (V, TABLE), "attend": (V, V), "embedding": (IDS, TABLE),
    "einsum_dense": (V, TABLE),
    "conv": (X, K), "conv_transpose": (X, K), "depthwise_conv": (X, D),
    "separable_conv": (X, D, np.ones((1, 1, 2, 3))),
    "dot_product_attention": (X, X, X), "rotary_tables": (IDS, 2), "sinusoidal_encoding": (IDS, 2),
    "rotary_embedding": (X, np.ones((4, 2)), np.ones((4, 2))), "kv_cache_update": (X, X, 0),
    "multi_head_attention": (S, None, None, *[np.ones((2, 2, 3))] * 3, np.ones((2, 3, 2))),
    "dropout": (V, KEY), "stochastic_depth": (V, KEY),
    "lstm": (S, None, None, LSTM, LSTM), "lstm_cell": (TWO, TWO, TWO, LSTM, LSTM),
    "gru": (S, None, GRU, GRU), "gru_cell": (TWO, TWO, GRU, GRU),
    "rnn": (S, None, RNN, RNN), "rnn_cell": (TWO, TWO, RNN, RNN),
    "sequence_mask": (IDS,), "reverse_sequence": (S, IDS),
}  # fmt: skip
ALSO = {
    "group_norm": {"groups": 2},
    "einsum_dense": {"equation": "...d,dh->...h"},
    "dropout": {"rate": 0.5},
    "stochastic_depth": {"rate": 0.5},
    **each("dot_product_attention multi_head_attention", {"dropout_key": KEY, "dropout_rate": 0.5}),
}


def _settings(name):
    """The settings of an op, in order: what is not annotated as an operand, or is never one."""
    operands = {o for op in nnops.ops.values() for o in op.names}
    operands |= {"lengths", "depthwise", "pointwise"}
    parameters = inspect.signature(getattr(nnops, name)).parameters.values()
    given = [p.name for p in parameters if p.annotation != "Any" or p.name not in operands]
    return [n for n in given if n not in GOOD.get(name, ())]


def test_every_op_is_here():
    with_settings = {n for n in nnops.ops if hasattr(nnops, n) and n not in CALLS and _settings(n)}
    # Losses have them in tests of their own.
    assert {n for n in with_settings if "losses" not in getattr(nnops, n).__module__} == set()


@pytest.mark.parametrize("name", [n for n in CALLS if n != "identity" and _settings(n)])
def test_settings_that_cannot_be(name):
    op = getattr(nnops, name)
    args = inspect.signature(op).bind_partial(*CALLS[name]).arguments
    silent, unclear = [], []
    for setting in _settings(name):
        for bad in BAD[setting]:
            try:
                op(**{**args, **ALSO.get(name, {}), setting: bad})
            except nnops.OpError as error:
                text = str(error)
                parts = [f"{op.__name__}: ", "\n  operands: ", "\n  to mend it: "]
                if not text.startswith(parts[0]) or not all(part in text for part in parts):
                    unclear.append((setting, bad, text))
            else:
                silent.append((setting, bad))
    assert (silent, unclear) == ([], [])


@pytest.mark.parametrize(
    "key", [3, "x", np.ones(3), np.array([1, 2], np.int32), jax.random.split(KEY, 2)]
)
def test_keys_that_are_none(key):
    with pytest.raises(nnops.OpError, match=r"^dropout: (.|\n)*\n  to mend it: "):
        nnops.dropout(V, key, rate=0.5)
    with pytest.raises(nnops.OpError, match=r"^dot_product_attention: (.|\n)*\n  to mend it: "):
        nnops.dot_product_attention(X, X, X, dropout_key=key, dropout_rate=0.5)


def test_what_a_setting_may_be():
    for flag in (True, np.True_, jnp.array(True), 1, np.int32(1)):
        assert static_value("op", "flag", flag, False) is True
    for number in (0.5, np.float32(0.5), jnp.array(0.5), np.ones(()) / 2):
        assert static_value("op", "number", number, 0.0) == 0.5
    assert type(static_value("op", "number", True, 0.0)) is float
    assert integer("op", "axis", np.int64(3)) == 3
    assert data_type("op", "dtype", "bfloat16") == jnp.bfloat16
    assert data_type("op", "dtype", None) is None
    assert data_type("op", "dtype", float) == jnp.zeros(()).dtype
    x, image, heads = jnp.ones((2, 2)), jnp.ones((1, 3, 3, 2)), jnp.ones((1, 2, 2, 2))
    for call in (
        lambda x: nnops.dense(x, x, preferred_element_type=float),
        lambda x: nnops.conv(image, x[None, None], preferred_element_type=float),
        lambda x: nnops.dot_product_attention(heads, heads, heads, preferred_element_type=float),
    ):
        assert jax.jit(call)(x).dtype == x.dtype
    with pytest.raises(nnops.OpTypeError, match=r"op: number is .*\n  to mend it: "):
        jax.jit(lambda x: static_value("op", "number", x, 0.0))(1.0)


NEGATIVE = static_value("op", "number", -0.0, 0.0)


def test_the_two_zeros_are_two_settings():
    """Leaky relu's result for a negative number is one of both zeros."""
    assert repr(NEGATIVE) == "-0.0" and pickle.loads(pickle.dumps(NEGATIVE)) == NEGATIVE
    zero = 0.0
    assert zero != NEGATIVE and zero not in {NEGATIVE} and not NEGATIVE
    x, f = jnp.array([-2.0]), lambda x, fill=0.0: nnops.shift(x, axis=0, fill=fill)

    def both(x):
        fused = [
            nnops.dense(x, jnp.ones((1, 1)), activation=("leaky_relu", {"negative_slope": zero}))
            for zero in (0.0, -0.0)
        ]
        pairs = [nnops.leaky_relu(x, zero) for zero in (0.0, -0.0)], fused, [f(x, 0.0), f(x, -0.0)]
        return jax.tree.leaves(pairs)

    want = [True, False, True, False, False, True]
    for run in (both, jax.jit(both), jp.optimize(both)):
        assert [bool(np.signbit(y)[0]) for y in run(x)] == want
    for dtype in (jnp.bfloat16, jnp.float32):
        assert nnops.leaky_relu(x.astype(dtype), -0.0).dtype == dtype
