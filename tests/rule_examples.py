"""For every rule of every preset, a function in which it applies and one in which it must not.

``test_every_rule.py`` runs ``check_rule`` on each, and fails where a rule is missing here. To add
one, add a line: its name, a function and its arguments, and a lookalike (with arguments of its own
where the first one's do not fit).
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from rule_examples_loss import LOSSES
from rule_examples_pool import POOLING
from rule_examples_raise import RAISING
from rule_functions import (
    IMAGE,
    KB,
    KS,
    POINT,
    STEPS,
    B,
    C,
    Case,
    N,
    P,
    W,
    X,
    Y,
    dense_of,
    image_conv,
    on_a_mesh,
    to_float,
    varying,
)

from helpers import array, positive
from jaxpress import nnops

__all__ = ["CASES", "TESTED_ELSEWHERE", "Case"]

# No function can be traced to a conversion to the type that is there: tracing leaves it out.
TESTED_ELSEWHERE = {"drop_convert": "tests/passes/rules/test_cleanup.py"}

EVEN = array(4, 6)
SQUARES = array(2, 4, 4)
AROUND = ((0, 0, 0), (1, 1, 0), (1, 1, 0), (0, 0, 0))


def one_head(x, scale=None):
    """Attention of one head, in an op of any number."""
    x = jnp.expand_dims(x, -2)
    return jnp.squeeze(nnops.dot_product_attention(x, x, x, scale=scale), -2)


def dense_of_head(x):
    """What a head adds to the result."""
    return nnops.dense(one_head(x), W[2:])


CASES: dict[str, Case] = {
    # What does nothing, or undoes itself.
    "convert_scalar": Case(
        lambda x: to_float(x, 2), (X,), lambda x, n: x * n.astype(jnp.float32), (X, jnp.int32(2))
    ),
    "product_of_pairs": Case(
        lambda x: jnp.einsum("ij,j->ji", jnp.sin(x), x[0]), (X,), lambda x: jnp.sin(x) @ x.T
    ),
    "drop_reduction": Case(lambda x: jnp.sum(jnp.sin(x), ()), (X,), lambda x: x.sum(0)),
    "drop_pvary": Case(
        on_a_mesh(lambda x, m: x * m + 1), (X,), on_a_mesh(lambda x, m: x + jnp.sin(varying(m)))
    ),
    "vary_last": Case(
        on_a_mesh(lambda x, m: x * varying(np.int32(2)).astype(x.dtype)),
        (X,),
        on_a_mesh(lambda x, m: x * varying(m).astype("bfloat16").astype(x.dtype)),
    ),
    "vary_after_move": Case(
        on_a_mesh(lambda x, m: x * lax.broadcast_in_dim(varying(m[0]), (1, 4), (1,))),
        (X,),
        on_a_mesh(lambda x, m: x * lax.broadcast_in_dim(varying(m[0]), (3, 4), (1,))),
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
    "abs_twice": Case(lambda x: lax.abs(lax.abs(x)), (X,), lambda x: lax.abs(lax.neg(x))),
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
    "sum_from_zero": Case(
        lambda x, y: sum([jnp.sin(x), y]), (X, Y), lambda x, y: jnp.sin(x) + y + 0.0
    ),
    "regular_gather": Case(
        lambda x: jax.image.resize(x, (6, 4), "nearest")[:, jnp.arange(3, -1, -2)],
        (X,),
        lambda x: x[jnp.arange(3), jnp.arange(3)],
    ),
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
    "stacked_slices": Case(
        lambda x: jnp.stack(jnp.split(x, 2, 1)),
        (X,),
        lambda x: jnp.stack([x[:, 2:], x[:, :2]]),
    ),
    "piece_of_piece": Case(
        lambda x: lax.split(jnp.sin(x)[:, 1:3], (1, 1), axis=1),
        (X,),
        lambda x: lax.split(jnp.sin(x[:, 1:3]), (1, 1), axis=1),
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
    "drop_scatter": Case(
        lambda x, y: x.at[...].set(y * 2) + x,
        (X, X),
        lambda x, y: x.at[:2].set(y[:2] * 2) + x.at[...].add(y) + x.at[...].max(y),
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
    "rows_by_number": Case(
        lambda x: lax.fori_loop(0, 3, lambda i, y: y * x[i] + 1, x[0]),
        (X,),
        lambda x: lax.fori_loop(0, 3, lambda i, y: y * x[i % 2] + 1, x[0]),
    ),
    "counted_while": Case(
        lambda x: lax.while_loop(lambda c: c[0] < 3, lambda c: (c[0] + 1, c[1] * c[1]), (0, x)),
        (X,),
        lambda x: lax.while_loop(
            lambda c: c[0] < 3, lambda c: (c[0] + (c[1][0, 0] > 0), c[1] * c[1] + 1), (0, x)
        ),
        gradients=False,
    ),
    "map_heads": Case(
        lambda x: lax.map(lambda w: jax.nn.softmax((x @ w) @ x.T) @ x, SQUARES),
        (X,),
        lambda x: lax.map(lambda w: jax.nn.sigmoid((x @ w) @ x.T) @ x, SQUARES),
    ),
    "sum_of_products": Case(
        lambda x: jnp.sum(lax.dot_general(x, SQUARES[:, :3], (((2,), (2,)), ((0,), (0,)))), (0,)),
        (array(2, 3, 4),),
        lambda x: jnp.sum(lax.dot_general(x, SQUARES[:, :3], (((2,), (2,)), ((0,), (0,)))), (1,)),
    ),
    "known_branch": Case(
        lambda x: lax.cond_p.bind(
            jnp.int32(1), x, branches=(jax.make_jaxpr(jnp.sin)(x), jax.make_jaxpr(jnp.cos)(x))
        )[0],
        (X,),
        lambda x: lax.cond(x.sum() > 0, jnp.sin, jnp.cos, x),
    ),
    "turned_select": Case(
        lambda x, p: lax.select_n(p.T, x.T, jnp.zeros((4, 3))),
        (X, P),
        lambda x, p: lax.select_n(p.T, x.reshape(4, 3), jnp.zeros((4, 3))),
    ),
    "after_turned_select": Case(
        lambda x, p: jnp.expm1(lax.select_n(p, x, jnp.zeros((3, 4))).T),
        (X, P),
        lambda x, p: jnp.expm1(lax.select_n(p, x, jnp.zeros((3, 4)))).T + jnp.expm1(x.T),
    ),
    "no_rounds": Case(
        lambda x: lax.scan(lambda c, _: (c * 2, None), x, None, length=0)[0] + 1,
        (X,),
        lambda x: lax.scan(lambda c, _: (c * 2, None), x, None, length=2)[0],
    ),
    **RAISING,
    **LOSSES,
    **POOLING,
    # Folding: only into what is known.
    "fold_batch_norm": Case(
        lambda x: nnops.batch_norm(image_conv(x), KB, KS, KS, KB),
        (IMAGE,),
        lambda x: nnops.batch_norm(image_conv(x), KB, x[0, 0, 0].repeat(2)[:4]),
    ),
    "fold_scale": Case(lambda x: image_conv(x) * KS, (IMAGE,), lambda x: image_conv(x) * x.mean()),
    "fold_negation": Case(
        lambda x, r: r - image_conv(x),
        (IMAGE, array(2, 6, 6, 4)),
        lambda x, r: (lambda y: r - y + y * y)(image_conv(x)),
    ),
    "fold_split": Case(
        lambda x: nnops.batch_norm(
            lax.concatenate([image_conv(x), nnops.conv(x, POINT)], 3),
            *(jnp.concatenate([v, v]) for v in (KB, KS)),
        ),
        (IMAGE,),
        lambda x: nnops.batch_norm(lax.concatenate([image_conv(x), x], 3), array(7), positive(7)),
    ),
    "fold_sum": Case(
        lambda x: nnops.batch_norm(image_conv(x) + nnops.conv(x, POINT), KB, KS),
        (IMAGE,),
        lambda x: nnops.batch_norm(jnp.sin(image_conv(x)) + jnp.sin(nnops.conv(x, POINT)), KB, KS),
    ),
    "fold_product": Case(
        lambda x: image_conv(x) * nnops.sigmoid(x[:, 1:2, 1:2, :1]) * KB,
        (IMAGE,),
        lambda x: jnp.sin(image_conv(x)) * nnops.sigmoid(x[:, 1:2, 1:2, :1]) * KB,
    ),
    "fold_part": Case(
        lambda x: (lambda a, b: b * (1.0 + a[:, None])[:, 0])(
            *jnp.split(nnops.dense(x, array(4, 6)), 2, 1)
        ),
        (X,),
        lambda x: (lambda a, b: a * (1.0 + a) * b)(*jnp.split(nnops.dense(x, array(4, 6)), 2, 1)),
    ),
    "fold_joined": Case(
        lambda x: lax.concatenate([nnops.relu(dense_of(x, B)), nnops.relu(dense_of(x))], 1),
        (X,),
        lambda x: lax.concatenate([nnops.relu(dense_of(x, B)), dense_of(x)], 1),
    ),
    "fold_padded_norm": Case(
        lambda x: nnops.batch_norm(lax.pad(image_conv(x), 0.0, AROUND), KB, KS),
        (IMAGE,),
        lambda x: nnops.batch_norm(lax.pad(image_conv(x), 1.0, AROUND), KB, KS),
    ),
    "fold_shifted": Case(
        lambda x: image_conv(x / 2.0 - 0.5, padding="SAME"),
        (IMAGE,),
        lambda x: image_conv(x / 2.0 - 0.5, padding="VALID"),
    ),
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
    "fold_branches": Case(
        lambda x: image_conv(x) - nnops.conv(x, POINT, KB),
        (IMAGE,),
        lambda x: image_conv(x) - nnops.conv(x[::-1], POINT, KB),
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
    "fuse_late_residual": Case(
        lambda x, r, s: nnops.dense(x, W, None, r) + s,
        (X, array(3, 5), array(3, 5, seed=1)),
        lambda x, r, s: nnops.dense(x, W, None, r) + s[:1],
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
    "fuse_heads": Case(
        lambda x: jnp.concatenate([one_head(x[..., :2]), one_head(x[..., 2:])], -1),
        (array(2, 3, 4),),
        lambda x: jnp.concatenate([one_head(x[..., :2]), one_head(x[..., 2:], scale=2.0)], -1),
    ),
    "fuse_summed_heads": Case(
        lambda x: nnops.dense(one_head(x[..., 2:]), W[:2], None, dense_of_head(x[..., :2])),
        (array(2, 3, 4),),
        lambda x: nnops.dense(one_head(x[..., 2:]), W[:2], None, 2 * dense_of_head(x[..., :2])),
    ),
    "move_transpose": Case(
        lambda x: nnops.rms_norm(x.transpose(1, 0, 2), axis=0).transpose(1, 0, 2),
        (STEPS,),
        lambda x: nnops.rms_norm(x.transpose(1, 0, 2), axis=0) + 1,
    ),
    "fuse_transpose_after_dot": Case(
        lambda x, y: lax.dot_general(x, y, (((2,), (2,)), ((0,), (0,)))).transpose(0, 2, 1),
        (array(3, 2, 4), array(3, 5, 4)),
        lambda x, y: lax.dot_general(x, y, (((2,), (2,)), ((0,), (0,)))),
    ),
}
