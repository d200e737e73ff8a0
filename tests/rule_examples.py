"""For every rule of every preset, a function in which it applies and one in which it must not.

``test_every_rule.py`` runs ``check_rule`` on each, and fails where a rule is missing here. To add
one, add a line: its name, a function and its arguments, and a lookalike (with arguments of its own
where the first one's do not fit).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from helpers import array, conv, positive
from jaxpress import nnops
from jaxpress.nnops import activation_entries

__all__ = ["CASES", "TESTED_ELSEWHERE", "Case"]

# Rules for what no function is traced to, but rules make: they have tests of their own.
TESTED_ELSEWHERE = {"drop_convert": "tests/passes/rules/test_cleanup.py"}


class Case(NamedTuple):
    """Where a rule applies, and where it must not.

    Attributes:
      fn: a function in whose graph it applies.
      args: its arguments.
      lookalike: a function to which it must not apply.
      lookalike_args: its arguments; ``args`` if left out.
      tidied: whether the rule is meant for a graph that is tidied already.
      gradients: whether ``fn`` has any.
    """

    fn: Callable[..., Any]
    args: tuple[Any, ...]
    lookalike: Callable[..., Any]
    lookalike_args: tuple[Any, ...] | None = None
    tidied: bool = False
    gradients: bool = True


X, Y = array(3, 4), array(3, 4, seed=1)
N = jnp.arange(12).reshape(3, 4)
P = N % 2 == 0
W, V, B, C = array(4, 5), array(5, 6), array(5), positive(5)
IMAGE, K, KB, KS = array(2, 6, 6, 3), array(3, 3, 3, 4), array(4), positive(4)
POINT, KERNEL = array(1, 1, 3, 4), array(3, 3, 4, 5)
TABLE, IDS = array(7, 4), jnp.asarray([[0, 3], [6, 1]])
normal_cdf = jax.scipy.stats.norm.cdf
Q = tuple(array(2, 5, 2, 4, seed=i) for i in range(3))


def plain(name: str, **params: Any) -> Callable[..., Any]:
    """A named op's own definition, in which the op does not occur."""
    reference = nnops.registry()[name].reference
    return lambda *arrays: reference(*arrays, **params)


def activation(name: str) -> Callable[[Any], Any]:
    entry = activation_entries()[name]
    return lambda x: entry.reference(x, **entry.defaults)


def shared(fn: Callable[..., Any], inner: Callable[..., Any]) -> Callable[..., Any]:
    """``fn`` where something else needs an inner value too; both give tuples."""
    return lambda *args: (fn(*args), inner(*args))


def norm(x, over=lambda var: lax.rsqrt(var + 1e-5)):
    return (x - x.mean(-1, keepdims=True)) * over(x.var(-1, keepdims=True))


@jax.jit
def minus(a, b):
    return a - b


@jax.jit
def to_float(x, n):
    return x * lax.convert_element_type(n, jnp.float32)


def softmax_of(x, shift):
    e = jnp.exp(x - shift)
    return e / e.sum(-1, keepdims=True)


def attention(q, k, v, after=lambda p: p):
    logits = jnp.einsum("btnh,bsnh->bnts", q, k) / 2.0
    return jnp.einsum("bnts,bsnh->btnh", after(jax.nn.softmax(logits, -1)), v)


def lstm_step(carry, x, wi, wh, b, squash=jax.nn.sigmoid):
    h, c = carry
    i, f, g, o = jnp.split(x @ wi + h @ wh + b, 4, axis=-1)
    c = squash(f) * c + squash(i) * jnp.tanh(g)
    h = squash(o) * jnp.tanh(c)
    return (h, c), h


def gru_step(h, x, wi, wh, b, squash=jax.nn.sigmoid):
    ir, iz, i_n = jnp.split(x @ wi + b, 3, axis=-1)
    hr, hz, hn = jnp.split(h @ wh, 3, axis=-1)
    r, z = squash(ir + hr), squash(iz + hz)
    return (1 - z) * jnp.tanh(i_n + r * hn) + z * h


def scanned(step):
    def run(xs, carry, *weights):
        return lax.scan(lambda c, x: step(c, x, *weights), carry, xs)

    return run


def relu_like(z):
    return jnp.clip(z / 4 + 0.5, 0, 1)


def turned(x, cos, sin, sign=1):
    a, b = jnp.split(x, 2, -1)
    other = b * cos + a * sin if sign > 0 else b * cos - a * sin
    return jnp.concatenate([a * cos - b * sin, other], -1)


ANGLES = array(5, 1, 4, seed=7), array(5, 1, 4, seed=8)
STEPS, H = array(4, 2, 3), array(2, 5)
LSTM = (array(3, 20), array(5, 20), array(20))
GRU = (array(3, 15), array(5, 15), array(15))
RNN = (array(3, 5), array(5, 5), array(5))


def dense_of(x, *rest, **options):
    return nnops.dense(x, W, *rest, **options)


def image_conv(x, *rest, **options):
    return nnops.conv(x, K, *rest, **options)


CASES: dict[str, Case] = {
    # What does nothing, or undoes itself.
    "convert_scalar": Case(
        lambda x: to_float(x, 2), (X,), lambda x, n: x * n.astype(jnp.float32), (X, jnp.int32(2))
    ),
    "drop_copy": Case(lambda x: lax.copy_p.bind(x) + 1, (X,), lambda x: x + 1),
    "drop_reshape": Case(
        lambda x: lax.reshape_p.bind(x, new_sizes=(3, 4), dimensions=None, sharding=None) + 1,
        (X,),
        lambda x: x.reshape(4, 3),
    ),
    "drop_transpose": Case(
        lambda x: lax.transpose_p.bind(x, permutation=(0, 1)) + 1, (X,), lambda x: x.T
    ),
    "double_negation": Case(lambda x: lax.neg(lax.neg(x)), (X,), lambda x: lax.neg(lax.abs(x))),
    "multiply_by_one": Case(lambda x: x * 1.0, (X,), lambda x: x * 1.0000001),
    "divide_by_one": Case(lambda x: x / 1.0, (X,), lambda x: 1.0 / x),
    "transpose_twice": Case(
        lambda x: lax.transpose(lax.transpose(x, (2, 0, 1)), (1, 0, 2)),
        (STEPS,),
        lambda x: lax.transpose(x, (2, 0, 1)),
    ),
    "reshape_chain": Case(
        lambda x: x.reshape(-1).reshape(2, -1),
        (X,),
        lambda x: lax.reshape(lax.reshape(x, (12,)).at[0].set(0), (2, 6)),
    ),
    "double_not": Case(
        lambda p: lax.bitwise_not(lax.bitwise_not(p)), (P,), lax.bitwise_not, gradients=False
    ),
    "abs_of_sign": Case(
        lambda x: lax.abs(lax.neg(x)), (X,), lambda x: lax.abs(-x.astype("complex64"))
    ),
    "subtract_zero": Case(lambda x: x - 0.0, (X,), lambda x: 0.0 - x),
    "add_minus_zero": Case(lambda x: x + -0.0, (X,), lambda x: x + 0.0),
    "add_zero": Case(lambda n: n + 0, (N,), lambda x: x + 0.0, (X,), gradients=False),
    "and_true": Case(lambda p: p & True, (P,), lambda p: p & False, gradients=False),
    "or_false": Case(lambda p: p | False, (P,), lambda p: p | True, gradients=False),
    "same_twice": Case(lambda x: lax.max(x, x), (X,), lambda x, y: lax.max(x, y), (X, Y)),
    "first_power": Case(lambda x: lax.integer_pow_p.bind(x, y=1) * 2, (X,), lambda x: x**3),
    "reciprocal_root": Case(lambda x: 1.0 / lax.sqrt(x), (C,), lambda x: 1.0 / x),
    "divide_by_root": Case(lambda x, y: y / lax.sqrt(x), (C, B), lambda x, y: lax.sqrt(x) / y),
    "power": Case(lambda x: lax.pow(x, lax.full_like(x, 2.0)), (X,), lambda x: lax.pow(x, x)),
    "reduce_one": Case(lambda x: x[:, :1].max(1), (X,), lambda x: x.max(1)),
    "sum_of_one": Case(lambda x: x[:, :1].sum(1), (X,), lambda x: x.sum(1)),
    "two_maxima": Case(
        lambda x: lax.max(lax.max(x, 0.5), 1.0), (X,), lambda x: lax.max(lax.max(x, 0.5), 0.5)
    ),
    "two_minima": Case(
        lambda x: lax.min(lax.min(x, 0.5), 1.0), (X,), lambda x: lax.min(lax.max(x, 0.5), 1.0)
    ),
    "select": Case(lambda x, p: lax.select_n(p, x, x), (X, P), lambda x, p: lax.select_n(p, x, -x)),
    "select_not": Case(
        lambda x, y, p: lax.select_n(lax.bitwise_not(p), x, y),
        (X, Y, P),
        lambda x, y, p: lax.select_n(p, x, y),
    ),
    "convert_chain": Case(
        lambda x: x.astype(jnp.bfloat16).astype(jnp.float32).astype(jnp.float16) * 2,
        (X.astype(jnp.bfloat16),),
        lambda x: x.astype(jnp.bfloat16).astype(jnp.float32),
        (X,),
    ),
    "slice_chain": Case(lambda x: x[1:][:1], (X,), lambda x: x[1:]),
    "joined_slices": Case(
        lambda x: lax.concatenate([x[:1], x[1:]], 0),
        (X,),
        lambda x: lax.concatenate([x[1:], x[:1]], 0),
    ),
    "split_of_joined": Case(
        lambda x, y: lax.split(lax.concatenate([x, y], 0), (3, 3)),
        (X, Y),
        lambda x, y: lax.split(lax.concatenate([x, y], 0), (2, 4)),
    ),
    "drop_pad": Case(
        lambda x: lax.pad(x, 0.0, [(0, 0, 0)] * 2) * 2,
        (X,),
        lambda x: lax.pad(x, 0.0, [(0, 1, 0), (0, 0, 0)]),
    ),
    "pad_twice": Case(
        lambda x: lax.pad(lax.pad(x, 0.0, [(1, 0, 0)] * 2), 0.0, [(0, 2, 0)] * 2),
        (X,),
        lambda x: lax.pad(lax.pad(x, 0.0, [(1, 0, 0)] * 2), 1.0, [(0, 2, 0)] * 2),
    ),
    "reverse_twice": Case(
        lambda x: lax.rev(lax.rev(x, (0,)), (0,)) * 2,
        (X,),
        lambda x: lax.rev(lax.rev(x, (0,)), (1,)),
    ),
    "broadcast_twice": Case(
        lambda x: lax.broadcast_in_dim(
            lax.broadcast_in_dim(x, (2, 3, 4), (1, 2)), (5, 2, 3, 4), (1, 2, 3)
        ),
        (X,),
        lambda x: lax.broadcast_in_dim(x, (2, 3, 4), (1, 2)),
    ),
    "known_branch": Case(
        lambda x: lax.cond_p.bind(
            jnp.int32(1), x, branches=(jax.make_jaxpr(jnp.sin)(x), jax.make_jaxpr(jnp.cos)(x))
        )[0],
        (X,),
        lambda x: lax.cond(x.sum() > 0, jnp.sin, jnp.cos, x),
    ),
    "no_rounds": Case(
        lambda x: lax.scan(lambda c, _: (c * 2, None), x, None, length=0)[0] + 1,
        (X,),
        lambda x: lax.scan(lambda c, _: (c * 2, None), x, None, length=2)[0],
    ),
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
        lambda x: norm(x, over=lambda v: lax.rsqrt(v * 1e-5)),
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
        lambda x: x - jax.nn.logsumexp(x, axis=-1, keepdims=True),
        (X,),
        lambda x, y: x - jax.nn.logsumexp(y, axis=-1, keepdims=True),
        (X, Y),
    ),
    "raise_logsumexp": Case(
        lambda x: jax.nn.logsumexp(x, axis=-1), (X,), lambda x: jnp.log(jnp.exp(x).sum(-1))
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
    # Folding: only into what is known.
    "fold_batch_norm": Case(
        lambda x: nnops.batch_norm(image_conv(x), KB, KS, KS, KB),
        (IMAGE,),
        lambda x: nnops.batch_norm(image_conv(x), KB, x[0, 0, 0].repeat(2)[:4]),
    ),
    "fold_scale": Case(lambda x: image_conv(x) * KS, (IMAGE,), lambda x: image_conv(x) * x.mean()),
    "fold_shift": Case(lambda x: image_conv(x) + KB, (IMAGE,), lambda x: image_conv(x) + x.mean()),
    "fold_before": Case(lambda x: dense_of(x * positive(4)), (X,), lambda x: dense_of(x * x)),
    "fold_norm": Case(
        lambda x: dense_of(nnops.layer_norm(x, positive(4), array(4))),
        (X,),
        lambda x: dense_of(jnp.sin(nnops.layer_norm(x, positive(4), array(4)))),
    ),
    "fold_dense_chain": Case(
        lambda x: nnops.dense(dense_of(x, B), array(5, 2)),
        (X,),
        lambda x: nnops.dense(nnops.relu(dense_of(x, B)), array(5, 2)),
    ),
    "fold_conv_chain": Case(
        lambda x: nnops.conv(nnops.conv(x, POINT, KB), array(1, 1, 4, 2)),
        (IMAGE,),
        lambda x: nnops.conv(nnops.relu(nnops.conv(x, POINT)), array(1, 1, 4, 2)),
    ),
    "merge_scales": Case(lambda x: x * KS * KB, (X,), lambda x: x * KS * x),
    "merge_shifts": Case(lambda x: x + KS + KB, (X,), lambda x: x + KS + x),
    # Fusing.
    "fuse_bias": Case(
        lambda x, b: dense_of(x) + b, (X, B), lambda x, b: dense_of(x) + b[:3, None], (X, B)
    ),
    "fuse_late_bias": Case(
        lambda x, b, r: nnops.dense(x, W, None, r) + b,
        (X, B, array(3, 5)),
        lambda x, b, r: nnops.relu(nnops.dense(x, W, None, r)) + b,
    ),
    "fuse_residual": Case(
        lambda x, r: dense_of(x, B) + r, (X, array(3, 5)), lambda x, r: dense_of(x, B) * r
    ),
    "fuse_activation": Case(
        lambda x: nnops.relu(dense_of(x)),
        (X,),
        lambda x: (lambda y: nnops.relu(y) + y)(dense_of(x)),
    ),
    "fuse_pad": Case(
        lambda x: image_conv(
            lax.pad(x, 0.0, [(0, 0, 0), (1, 1, 0), (1, 2, 0), (0, 0, 0)]), padding="VALID"
        ),
        (IMAGE,),
        lambda x: image_conv(
            lax.pad(x, 1.0, [(0, 0, 0), (1, 1, 0), (1, 2, 0), (0, 0, 0)]), padding="VALID"
        ),
    ),
    "fuse_pad_pool": Case(
        lambda x: nnops.max_pool(
            lax.pad(x, -jnp.inf, [(0, 0, 0), (1, 1, 0), (1, 1, 0), (0, 0, 0)]), (2, 2)
        ),
        (IMAGE,),
        lambda x: nnops.max_pool(
            lax.pad(x, 0.0, [(0, 0, 0), (1, 1, 0), (1, 1, 0), (0, 0, 0)]), (2, 2)
        ),
    ),
    "fuse_transpose_before_conv": Case(
        lambda x: image_conv(x.transpose(0, 2, 1, 3)), (IMAGE,), lambda x: image_conv(jnp.sin(x))
    ),
    "fuse_transpose_after_conv": Case(
        lambda x: image_conv(x).transpose(0, 3, 1, 2),
        (IMAGE,),
        lambda x: jnp.sin(image_conv(x)).transpose(0, 3, 1, 2),
    ),
    "fuse_transpose_before_dot": Case(
        lambda x, y: lax.dot_general(x.transpose(1, 0, 2), y, (((2,), (2,)), ((0,), (0,)))),
        (array(2, 3, 4), array(3, 5, 4)),
        lambda x, y: lax.dot_general(x, y, (((2,), (2,)), ((0,), (0,)))),
        (array(3, 2, 4), array(3, 5, 4)),
    ),
    "fuse_transpose_after_dot": Case(
        lambda x, y: lax.dot_general(x, y, (((2,), (2,)), ((0,), (0,)))).transpose(0, 2, 1),
        (array(3, 2, 4), array(3, 5, 4)),
        lambda x, y: lax.dot_general(x, y, (((2,), (2,)), ((0,), (0,)))),
    ),
}
