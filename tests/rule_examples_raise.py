"""The examples of the rules that raise equations to named ops."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax
from rule_functions import (
    ANGLES,
    GRU,
    IDS,
    IMAGE,
    KB,
    KS,
    LSTM,
    RNN,
    STEPS,
    TABLE,
    C,
    Case,
    H,
    K,
    Q,
    W,
    X,
    Y,
    activation,
    attention,
    gru_step,
    lstm_step,
    minus,
    norm,
    normal_cdf,
    relu_like,
    scanned,
    softmax_of,
    turned,
)

from helpers import array, conv, positive
from jaxpress import nnops

HEADS = [array(3, 2, 4), array(3, 1, 4), array(3, 1, 4), array(2, 4, 3)]

__all__ = ["RAISING"]


def _log_of_sum(x, largest):
    return jnp.log(jnp.exp(x - largest).sum(-1, keepdims=True)) + largest


def _weighted(p, values):
    return lax.dot_general(p, values, (((1,), (0,)), ((), ())))


RAISING: dict[str, Case] = {
    # Linear operations.
    "raise_conv": Case(
        conv, (IMAGE, K), lambda x, w: conv(x, w, batch_group_count=2), (IMAGE, array(3, 3, 3, 4))
    ),
    "raise_dense": Case(lambda x: x @ W, (X,), lambda x: jnp.sin(x) @ jnp.cos(x).T),
    "raise_turned_dense": Case(
        lambda x: lax.dot_general(x, W.T, (((1,), (1,)), ((), ()))), (X,), lambda x: x @ W
    ),
    "raise_einsum_dense": Case(
        lambda x: jnp.einsum("bth,hnk->btnk", x, array(3, 2, 5)),
        (STEPS,),
        lambda x: jnp.einsum("bth,bsh->bts", jnp.sin(x), x),
    ),
    "raise_turned_einsum_dense": Case(
        lambda x: lax.dot_general(array(2, 5, 3), x, (((2,), (2,)), ((), ()))),
        (STEPS,),
        lambda x: jnp.einsum("bth,hnk->btnk", x, array(3, 2, 5)),
    ),
    "raise_grouped_dense": Case(
        lambda x: jnp.einsum("tbi,bio->tbo", x, array(2, 3, 5)),
        (STEPS,),
        lambda x: jnp.einsum("tbi,tbj->tij", x, jnp.cos(x)),
    ),
    "raise_embedding": Case(lambda t: t[IDS], (TABLE,), lambda t: t[:, :2][:, IDS]),
    "raise_embedded_row": Case(
        lambda i: lax.dynamic_index_in_dim(TABLE, i, keepdims=False),
        (jnp.int32(2),),
        lambda i: lax.dynamic_slice(TABLE, (i, i), (1, 2)),
        gradients=False,
    ),
    "raise_one_hot_embedding": Case(
        lambda t: jax.nn.one_hot(IDS, 7) @ t, (TABLE,), lambda t: (jax.nn.one_hot(IDS, 7) * 2) @ t
    ),
    "raise_one_hot": Case(
        lambda i: jax.nn.one_hot(i, 7),
        (IDS,),
        lambda i: (i[..., None] >= jnp.arange(7)).astype(jnp.float32),
        gradients=False,
    ),
    "raise_attend": Case(
        lambda t, i: nnops.embedding(i, t) @ t.T, (TABLE, IDS), lambda t, i: jnp.sin(t[:2]) @ t.T
    ),
    # Ops that are made of others.
    "open_multi_head_attention": Case(
        lambda x: nnops.multi_head_attention(x, None, None, *HEADS, is_causal=True),
        (STEPS,),
        lambda x: nnops.dense(nnops.dense(x, array(3, 5)), array(5, 3)),
    ),
    "open_separable_conv": Case(
        lambda x: nnops.separable_conv(x, array(3, 3, 1, 3), array(1, 1, 3, 5)),
        (IMAGE,),
        lambda x: nnops.conv(nnops.depthwise_conv(x, array(3, 3, 1, 3)), array(1, 1, 3, 5)),
    ),
    # Pooling.
    "raise_max_pool": Case(
        lambda x: lax.reduce_window(x, -jnp.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID"),
        (IMAGE,),
        lambda x: lax.reduce_window(x, jnp.inf, lax.min, (1, 2, 2, 1), (1, 2, 2, 1), "VALID"),
    ),
    "raise_avg_pool": Case(
        lambda x: lax.reduce_window(x, 0.0, lax.add, (1, 2, 2, 1), (1, 2, 2, 1), "VALID") / 4,
        (IMAGE,),
        lambda x: lax.reduce_window(x, 0.0, lax.add, (1, 2, 2, 1), (1, 2, 2, 1), "VALID") / 5,
    ),
    # Norms and softmax.
    "raise_norm": Case(
        lambda x: norm(x) * array(4) + array(4, seed=1),
        (X,),
        lambda x: norm(x, over=lambda v: lax.rsqrt(v - 1e-5)),
    ),
    "raise_batch_norm": Case(
        lambda x: (x - array(4)) * lax.rsqrt(positive(4) + 1e-3) * KS + KB,
        (X,),
        lambda x: (x - array(4)) * jnp.exp(positive(4) + 1e-3) * KS + KB,
    ),
    "raise_softmax": Case(lambda x: jax.nn.softmax(x, -1), (X,), lambda x: softmax_of(x, 1.0)),
    "raise_softmax_by_hand": Case(
        lambda x: softmax_of(x, x.max(-1, keepdims=True)),
        (X,),
        lambda x: softmax_of(x, x.max(0, keepdims=True)),
    ),
    "raise_log_softmax": Case(
        lambda x: jax.nn.log_softmax(x, -1),
        (X,),
        lambda x: x - jnp.log(jnp.exp(x).sum(-1, keepdims=True)),
    ),
    "raise_log_softmax_by_hand": Case(
        lambda x: x - _log_of_sum(x, x.max(-1, keepdims=True)),
        (X,),
        lambda x: x - jax.nn.logsumexp(x, axis=-1, keepdims=True),
    ),
    "reshaped_softmax": Case(
        lambda x, w: _weighted(nnops.softmax(x).reshape(6, 2), w),
        (array(3, 2, 2), array(2, 5)),
        lambda x, w: _weighted(nnops.softmax(x).reshape(3, 4), w.reshape(4, -1)),
        (array(3, 2, 2), array(2, 10)),
    ),
    "raise_logsumexp": Case(
        lambda x: jax.nn.logsumexp(x, axis=-1), (X,), lambda x: jnp.log(jnp.exp(x).sum(-1))
    ),
    "raise_logmeanexp": Case(
        lambda x: nnops.logsumexp(x, axis=-1) - jnp.log(x.shape[-1]),
        (X,),
        lambda x: nnops.logsumexp(x, axis=-1) - jnp.log(x.shape[-1] + 1),
    ),
    "exp_of_log_softmax": Case(
        lambda x: jnp.exp(nnops.log_softmax(x, (0, 1))),
        (X,),
        lambda x: jnp.exp2(nnops.log_softmax(x, (0, 1))),
    ),
    # Attention and recurrence.
    "raise_attention": Case(attention, Q, lambda *a: attention(*a, jnp.sqrt), tidied=True),
    "tidy_attention": Case(
        lambda *a: nnops.dot_product_attention(*a).transpose(0, 2, 1, 3).transpose(0, 2, 1, 3),
        Q,
        nnops.dot_product_attention,
    ),
    "raise_lstm": Case(
        scanned(lstm_step),
        (STEPS, (H, H), *LSTM),
        scanned(lambda *a: lstm_step(*a, squash=relu_like)),
        tidied=True,
    ),
    "raise_gru": Case(
        scanned(lambda *a: (gru_step(*a),) * 2),
        (STEPS, H, *GRU),
        scanned(lambda *a: (gru_step(*a, squash=relu_like),) * 2),
        tidied=True,
    ),
    "raise_rnn": Case(
        scanned(lambda h, x, i, w, b: (jnp.tanh(x @ i + h @ w + b),) * 2),
        (STEPS, H, *RNN),
        scanned(lambda h, x, i, w, b: (jnp.sin(x @ i + h @ w + b),) * 2),
        tidied=True,
    ),
    "turn_recurrence": Case(
        lambda x, *w: lax.rev(nnops.rnn(lax.rev(x, (1,)), None, *w)[0], (1,)),
        (STEPS, *RNN),
        lambda x, *w: nnops.rnn(lax.rev(x, (1,)), None, *w)[0],
    ),
    "raise_lstm_cell": Case(
        lambda x, h, *w: lstm_step((h, h), x, *w)[0],
        (STEPS[0], H, *LSTM),
        lambda x, h, *w: lstm_step((h, h), x, *w, squash=relu_like),
        tidied=True,
    ),
    "raise_rotary": Case(
        lambda x, c, s: x * c + jnp.concatenate([-x[..., 2:], x[..., :2]], -1) * s,
        (Q[0], *ANGLES),
        lambda x, c, s: x * c + jnp.concatenate([x[..., 2:], x[..., :2]], -1) * s,
    ),
    "raise_rotary_halves": Case(
        lambda x, c, s: turned(x, c[..., :2], s[..., :2]),
        (Q[0], *ANGLES),
        lambda x, c, s: turned(x, c[..., :2], s[..., :2], -1),
    ),
    "raise_sequence_mask": Case(
        lambda n: jnp.arange(5) < n[:, None],
        (jnp.asarray([2, 0, 5]),),
        lambda n: jnp.arange(5) != n[:, None],
        gradients=False,
    ),
    "raise_gru_cell": Case(
        lambda x, h, *w: gru_step(h, x, *w),
        (STEPS[0], H, *GRU),
        lambda x, h, *w: gru_step(h, x, *w, squash=relu_like),
        tidied=True,
    ),
    # Activations: the same with another number, another branch or another derivative.
    "raise_relu": Case(jax.nn.relu, (X,), lambda x: jnp.maximum(x, 0)),
    "raise_relu6": Case(jax.nn.relu6, (X,), lambda x: jnp.clip(x, 0, 6)),
    "raise_relu_squared": Case(
        activation("relu_squared"), (X,), lambda x: jnp.square(jnp.maximum(x, 1))
    ),
    "raise_leaky_relu": Case(
        activation("leaky_relu"), (X,), lambda x: jnp.where(x > 0.5, x, 0.01 * x)
    ),
    "raise_hard_tanh": Case(activation("hard_tanh"), (X,), lambda x: jnp.clip(x, -1, 2)),
    "raise_hard_sigmoid": Case(activation("hard_sigmoid"), (X,), lambda x: jax.nn.relu6(x + 3) / 5),
    "raise_hard_silu": Case(activation("hard_silu"), (X,), lambda x: x * (jax.nn.relu6(x + 2) / 6)),
    "raise_sparse_plus": Case(
        activation("sparse_plus"), (X,), lambda x: jnp.where(x <= -1, 0, (x + 1) ** 2)
    ),
    "raise_sparse_sigmoid": Case(
        activation("sparse_sigmoid"), (X,), lambda x: 0.5 * jnp.clip(x + 1, 0, 1)
    ),
    "raise_elu": Case(activation("elu"), (X,), lambda x: jnp.where(x > 0, x, jnp.exp(x))),
    "raise_celu": Case(
        activation("celu"), (X,), lambda x: jnp.maximum(x, 0) + jnp.minimum(0, jnp.exp(x))
    ),
    "raise_selu": Case(
        activation("selu"), (X,), lambda x: 1.1 * jnp.where(x > 0, x, 1.6 * jnp.exp(x))
    ),
    "raise_gelu": Case(
        activation("gelu"), (X,), lambda x: x * 0.5 * (1 + jnp.tanh(0.8 * (x + 0.05 * x**3)))
    ),
    "raise_quick_gelu": Case(activation("quick_gelu"), (X,), lambda x: x * jax.nn.sigmoid(1.5 * x)),
    "raise_sigmoid": Case(jax.nn.sigmoid, (X,), lambda x: 1 / (1 + jnp.exp(-x))),
    "raise_silu": Case(jax.nn.silu, (X,), lambda x, y: x * jax.nn.sigmoid(y), (X, Y)),
    "raise_softplus": Case(jax.nn.softplus, (X,), lambda x: jnp.logaddexp(x, 1.0)),
    "raise_soft_sign": Case(jax.nn.soft_sign, (X,), lambda x: x / (jnp.abs(x) + 2)),
    "raise_log_sigmoid": Case(jax.nn.log_sigmoid, (X,), lambda x: -jnp.logaddexp(-x, 1.0)),
    "raise_mish": Case(jax.nn.mish, (X,), lambda x, y: x * jnp.tanh(jax.nn.softplus(y)), (X, Y)),
    "raise_squareplus": Case(jax.nn.squareplus, (X,), lambda x: 0.5 * (x + jnp.sqrt(x * x + x))),
    "raise_clip6": Case(
        lambda x: lax.min(lax.max(x, 0.0), 6.0) * 2,
        (X,),
        lambda x: lax.min(lax.max(x, 1.0), 6.0),
        gradients=False,
    ),
    "raise_max0": Case(lambda x: lax.max(x, 0.0), (X,), lambda x: lax.max(x, 1.0), gradients=False),
    "raise_log1mexp": Case(jax.nn.log1mexp, (C,), lambda x: jnp.log1p(-jnp.exp(x))),
    "raise_elu_by_hand": Case(
        lambda x: jnp.where(x > 0, x, jnp.exp(x) - 1),
        (X,),
        lambda x: jnp.where(x > 0, x, jnp.exp(x) - 2),
    ),
    "raise_gelu_by_hand": Case(
        lambda x: x * normal_cdf(x), (X,), lambda x: x * normal_cdf(2 * x), tidied=True
    ),
    "raise_softplus_by_hand": Case(
        lambda x: lax.max(x, 0.0) + jnp.log1p(jnp.exp(-jnp.abs(x))),
        (X,),
        lambda x: lax.max(x, 0.0) + jnp.log1p(jnp.exp(jnp.abs(x))),
        gradients=False,
    ),
    "raise_activation_product": Case(
        lambda x: jax.nn.sigmoid(1.702 * x) * x, (X,), lambda x: jax.nn.sigmoid(1.702 * x) * (x + 1)
    ),
    "raise_tanh_sigmoid": Case(
        lambda x: 0.5 * jnp.tanh(x / 2) + 0.5, (X,), lambda x: 0.5 * jnp.tanh(x / 2) + 0.25
    ),
    "raise_clipped_product": Case(
        lambda x: x * jnp.clip(x + 3, 0, 6) / 6,
        (X,),
        lambda x: x * jnp.clip(x + 3, 0, 5) / 6,
        gradients=False,
    ),
    "raise_unit_clip": Case(
        lambda x: jnp.clip(x / 6 + 0.5, 0, 1),
        (X,),
        lambda x: jnp.clip(x / 6 + 0.25, 0, 1),
        gradients=False,
    ),
    "raise_gated": Case(lambda x, y: nnops.silu(x) * y, (X, Y), lambda x, y: nnops.relu6(x) * y),
    "raise_glu": Case(
        lambda x: x[:, :2] * jax.nn.sigmoid(x[:, 2:]),
        (X,),
        lambda x: x[:, 2:] * jax.nn.sigmoid(x[:, :2]),
    ),
    "raise_prelu": Case(
        lambda x, s: jnp.where(x >= 0, x, s * x),
        (X, array(4)),
        lambda x, s: jnp.where(x >= 0, s * x, x),
    ),
    "raise_prelu_number": Case(
        lambda x: nnops.prelu(x, 0.2), (X,), nnops.prelu, (X, array(4)), gradients=False
    ),
    "raise_relu_difference": Case(
        lambda x, s: nnops.relu(x) - s * nnops.relu(-x),
        (X, array(4)),
        lambda x, s: nnops.relu(x) + s * nnops.relu(-x),
    ),
    "raise_max_slope": Case(
        lambda x: lax.max(x, x * 0.2), (X,), lambda x: lax.max(x, x * 2.0), gradients=False
    ),
    "fold_scalars": Case(lambda x: x * minus(1.0, 0.25), (X,), lambda x: x * (x - 0.25)),
}
