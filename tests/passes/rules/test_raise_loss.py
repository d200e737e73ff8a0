"""Losses: the same at infinities, NaN and labels out of range; and what is none."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from helpers import array
from jaxpress import nnops, passes
from jaxpress.capture import trace
from jaxpress.passes import Pipeline
from jaxpress.passes.rules.reduce_loss import LOSSES

RAISED = Pipeline((passes.inline, passes.simplify, passes.cse, passes.raise_ops), "raised")
INF = np.inf
X = jnp.asarray(
    [
        [1, -INF, 2, 0],
        [INF, 0, 1, -2],
        [np.nan, 0, 1, 2],
        [-INF] * 4,
        [3e38, -3e38, 0, 1],
        [0, 0, 0, 0],
        [-INF, INF, 3, 1],
        [1, 2, 3, 4],
    ],
    "float32",
)
Y = jnp.roll(X, 1, 0).at[5].set(0.0).at[7].set(jnp.asarray([2.0, 1.5, 3, 30]))
# Distributions, one with a zero at a logit of minus infinity, and what is none.
P = jnp.asarray([[0.5, 0, 0.25, 0.25], [0, 0, 0, 1], [0] * 4, [-1, 1, 1, 0]] * 2, "float32")
IDS = jnp.asarray([-5, -4, -1, 0, 3, 4, 9, 1])
log_p = jax.nn.log_softmax


def taken(x, ids, **how):
    return jnp.take_along_axis(x, ids[:, None], -1, **how)[:, 0]


def minus_logsumexp(x):
    return x - jax.nn.logsumexp(x, -1, keepdims=True)


def sparse_product(x, ids):
    return -(log_p(x) * jax.nn.one_hot(ids, 4)).sum(-1)


def chosen(a, b):
    size = jnp.abs(a - b)
    return jnp.where(size > 0.5, 0.5 * size - 0.125, 0.5 * (a - b) ** 2)


def smooth_l1(a, b):
    size = jnp.abs(a - b)
    return jnp.where(size < 0.25, 0.5 * size**2 / 0.25, size - 0.125).mean()


def likelihood(x, z):
    return z * jax.nn.log_sigmoid(x) + (1 - z) * jax.nn.log_sigmoid(-x)


def clipped_divergence(x, p):
    p, q = jnp.clip(p, 1e-7, 1), jnp.clip(jax.nn.softmax(x), 1e-7, 1)
    return (p * jnp.log(p / q)).sum(-1)


def distilled(x, y):
    return (jax.nn.softmax(y) * (log_p(y) - x)).sum(-1).mean()


def sparse(x, ids):
    return optax.softmax_cross_entropy_with_integer_labels(x, ids)


EVERYWHERE = [
    ("softmax_cross_entropy", optax.softmax_cross_entropy, (X, P)),
    ("softmax_cross_entropy", lambda x, p: optax.softmax_cross_entropy(x, p, axis=0), (X, P)),
    ("softmax_cross_entropy", lambda x, p: -jnp.sum(p * log_p(x)) / 8, (X, P)),
    ("softmax_cross_entropy", lambda x, p: jnp.sum(-p * log_p(x), (0, 1)), (X, P)),
    ("softmax_cross_entropy", sparse_product, (X, IDS)),
    ("softmax_cross_entropy", sparse, (X, IDS)),
    ("softmax_cross_entropy", lambda x, i: sparse(x, i.astype("uint8")), (X, IDS)),
    ("softmax_cross_entropy", jax.vmap(sparse), (X, IDS)),
    ("softmax_cross_entropy", lambda x, i: -taken(log_p(x), i).mean(), (X, IDS)),
    ("softmax_cross_entropy", lambda x, i: -taken(log_p(x), i, mode="clip"), (X, IDS)),
    ("softmax_cross_entropy", lambda x, i: -log_p(x)[jnp.arange(8), i], (X, IDS)),
    ("softmax_cross_entropy", jax.vmap(lambda x, i: -log_p(x)[i]), (X, IDS)),
    (
        "softmax_cross_entropy",
        lambda x, i: -(taken(x, i) - jax.nn.logsumexp(x, -1)).mean(),
        (X, IDS),
    ),
    # As people write log_softmax: another gradient at infinity.
    ("softmax_cross_entropy", lambda x, i: -taken(minus_logsumexp(x), i).mean(), (X, IDS)),
    ("softmax_cross_entropy", lambda x, i: -minus_logsumexp(x)[jnp.arange(8), i], (X, IDS)),
    ("softmax_cross_entropy", lambda x, p: -(p * minus_logsumexp(x)).sum(-1), (X, P)),
    (
        "softmax_cross_entropy",
        lambda x, i: -jnp.mean(minus_logsumexp(x) * jax.nn.one_hot(i, 4)),
        (X, IDS),
    ),
    # One row of labels for all logits, as vmap over logits alone leaves it.
    ("softmax_cross_entropy", lambda x, p: -(p[1] * log_p(x)).sum(-1), (X, P)),
    (
        "softmax_cross_entropy",
        lambda x, p: jax.vmap(lambda x: optax.softmax_cross_entropy(x, p[:4]).sum())(
            x.reshape(2, 4, 4)
        ),
        (X, P),
    ),
    (
        "softmax_cross_entropy",
        lambda x, p: jax.nn.logsumexp(x, -1) - (p[:1] * x).sum(-1),
        (X, P),
    ),
    (
        "softmax_cross_entropy",
        lambda x, i: jax.vmap(lambda x: sparse(x, i[:4]))(x.reshape(2, 4, 4)),
        (X, IDS),
    ),
    (
        "softmax_cross_entropy",
        lambda x, i: jax.vmap(lambda x: -log_p(x)[i[3]])(x),
        (X, IDS),
    ),
    (
        "softmax_cross_entropy",
        lambda x, i: jax.vmap(lambda x: sparse(x, i[:2]), 1)(x.reshape(2, 4, 4)),
        (X, IDS),
    ),
    # The first of several is the right one; the pairs of a batch are.
    ("softmax_cross_entropy", lambda x: -log_p(x)[:, 0].mean(), (X,)),
    ("softmax_cross_entropy", lambda x: jax.nn.logsumexp(x, 0) - x[2], (X,)),
    ("softmax_cross_entropy", lambda x: -jnp.diag(log_p(x[4:])).mean(), (X,)),
    ("softmax_cross_entropy", lambda x: 1 - jnp.diagonal(log_p(x[:4], 0)).sum(), (X,)),
    ("softmax_cross_entropy", lambda x: jax.nn.logsumexp(x[:4], 0) - jnp.diag(x[:4]), (X,)),
    (
        "softmax_cross_entropy",
        lambda x: -log_p(x[4:])[jnp.arange(4), jnp.arange(4)].sum(),
        (X,),
    ),
    ("binary_cross_entropy", optax.sigmoid_binary_cross_entropy, (X, P)),
    ("binary_cross_entropy", lambda x, z: -likelihood(x, z).mean(), (X, P)),
    (
        "softmax_cross_entropy",
        lambda x, p: jax.nn.logsumexp(x, 0) - (p * x).sum(0),
        (X, P),
    ),
    (
        "softmax_cross_entropy",
        lambda x, i: jax.nn.logsumexp(x, -1) - jnp.sum(jax.nn.one_hot(i, 4) * x, -1),
        (X, IDS),
    ),
    ("binary_cross_entropy", lambda x, z: jax.nn.softplus(x) - x * z, (X, P)),
    ("binary_cross_entropy", lambda x, z: -(x * z - jnp.logaddexp(x, 0)).mean(), (X, P)),
    ("mean_squared_error", optax.squared_error, (X, Y)),
    ("mean_squared_error", lambda a, b: jnp.sqrt(jnp.mean((a - b) * (a - b))), (X, Y)),
    ("mean_squared_error", lambda a, b: ((a - b) ** jnp.float32(2)).sum(-1).mean(), (X, Y)),
    ("mean_absolute_error", lambda a, b: jnp.abs(a - b).mean(0), (X, Y)),
    ("huber", lambda a, b: optax.huber_loss(a, b, delta=0.5), (X, Y)),
    ("huber", chosen, (X, Y)),
    ("huber", smooth_l1, (X, Y)),
    (
        "huber",
        lambda a, b: jnp.where(
            jnp.abs(e := a - b) < 1.5, 0.5 * jnp.square(e), 1.5 * (jnp.abs(e) - 0.75)
        ),
        (X, Y),
    ),
    ("kl_divergence", optax.kl_divergence, (X, P)),
    ("kl_divergence", optax.losses.kl_divergence_with_log_targets, (X, Y)),
    ("kl_divergence", clipped_divergence, (X, P)),
    ("kl_divergence", distilled, (X, Y)),
    ("cosine_similarity", lambda a, b: (a * b).sum(-1) / (length(a) * length(b)), (X, Y)),
    ("cosine_similarity", lambda a, b: (a * b).sum(0) / length(a, 0) / length(b, 0), (X, Y)),
    (
        "cosine_similarity",
        lambda a, b: (a * b).sum(-1) / ((length(a) + 0.1) * (length(b) + 0.1)),
        (X, Y),
    ),
    (
        "cosine_similarity",
        lambda a, b: (
            (a * b).sum(-1) / jnp.maximum(length(a), 0.1) / jnp.maximum(length(b), 0.1)
        ).mean(),
        (X, Y),
    ),
    (
        "cosine_distance",
        jax.vmap(lambda a, b: 1 - jnp.dot(a, b) / jnp.sqrt(a @ a) / jnp.sqrt(b @ b)),
        (X, Y),
    ),
    ("cosine_distance", lambda a, b: 1 - (unit(a) * unit(b)).sum(-1), (X, Y)),
]


def length(x, axis=-1):
    return jnp.linalg.norm(x, axis=axis)


def unit(x):
    return nnops.l2_normalize(x, epsilon=0)


@pytest.mark.parametrize(("op", "fn", "args"), EVERYWHERE)
def test_it_is_the_same_at_infinities_and_out_of_range(op, fn, args) -> None:
    graph = RAISED(trace(fn)(*args))
    assert graph.count()[op] == 1, graph
    kept = set() if fn is not distilled else {"log_softmax"}
    assert not ({"log_softmax", "one_hot", "abs", "gather"} - kept) & set(graph.count())

    def slopes(f, args):
        floats = [i for i, x in enumerate(args) if jnp.issubdtype(x.dtype, jnp.floating)]

        def of_floats(*given):
            return f(*(given[i] if i in floats else x for i, x in enumerate(args)))

        value, back = jax.vjp(of_floats, *(args[i] for i in floats))
        return value, back(jnp.ones_like(value))

    want, got = jax.jit(lambda *a: (slopes(fn, a), slopes(graph, a)))(*args)
    for a, b in zip(*map(jax.tree.leaves, (got, want)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


Z = array(4, 4)
LABELS = jnp.asarray([1, 3, 0, 2])


def by_table(x, table, ids):
    return -table[ids] + jax.nn.logsumexp(x, -1)


NONE = [
    # Norms and variances, an optimiser's second moment, a total variation, a distance to all.
    (lambda a, b: ((a - a.mean()) ** 2).mean() + b.var(0).sum(), (Z, Z + 1)),
    (lambda a, b: jnp.mean((a - jnp.broadcast_to(b.mean(0), a.shape)) ** 2), (Z, Z + 1)),
    (lambda a, b: jnp.sqrt(0.9 * a + 0.1 * (b - a) ** 2), (Z, Z + 1)),
    (lambda a, b: ((a[1:] - a[:-1]) ** 2).sum() + jnp.abs(b[:, 1:] - b[:, :-1]).sum(), (Z, Z)),
    (lambda a, b: ((a[:, None] - b[None]) ** 2).sum(-1), (Z, Z + 1)),
    (lambda a, b: ((a - 1) ** 2).mean() + jnp.abs(b - 0.5).mean(), (Z, Z)),
    # An error that something else needs too, and one of integers.
    (lambda a, b: (((a - b) ** 2).mean(), a - b), (Z, Z + 1)),
    (lambda a, b: jnp.sum((a - b) ** 2), (LABELS, LABELS + 1)),
    # Float16 overflows, and sums in another precision round otherwise.
    (lambda a, b: ((a - b) ** 2).mean(), (Z.astype("float16"), Z.astype("float16") + 1)),
    # The sum is over another axis than the classes, or of some classes; labels are broadcast.
    (lambda x, p: -(p * log_p(x)).sum(0), (Z, Z)),
    (lambda x, p: optax.softmax_cross_entropy(x, p, where=p > 0), (Z, Z)),
    (lambda x, p: -(p * log_p(x)).sum(-1), (Z, Z[:, :1])),
    # One row of logits for all labels: their softmax is computed once.
    (lambda x, p: -(p * log_p(x)).sum(-1), (Z[0], Z)),
    (lambda x, p: jax.nn.logsumexp(x, -1) - (p * x).sum(-1), (Z[0], Z)),
    (lambda x, i: jax.vmap(lambda i: sparse(x, i))(i), (Z[0], LABELS)),
    (lambda x, p: -(p * log_p(x, (0, 1))).sum(-1), (Z, Z)),
    # An entropy; a product of three; a log-likelihood that is not negated.
    (lambda x: -(jax.nn.softmax(x) * log_p(x)).sum(-1), (Z,)),
    (lambda x, w: -(w * jnp.sin(w) * log_p(x)).sum(-1), (Z, Z)),
    (lambda x, i: taken(log_p(x), i) * x[:, 0], (Z, LABELS)),
    # Two classes of each row, another axis, a table, another array's normaliser.
    (lambda x, i: -jnp.take_along_axis(log_p(x), jnp.stack([i, i], 1), 1), (Z, LABELS)),
    (lambda x, i: -jnp.take_along_axis(log_p(x), i[None], 0)[0], (Z, LABELS)),
    (lambda x, i: -log_p(x)[i, jnp.arange(4)], (Z, LABELS)),
    # Two classes, a row, other diagonals.
    (lambda x: -log_p(x)[:, :2], (Z,)),
    (lambda x: -log_p(x)[1], (Z,)),
    (lambda x: -jnp.diagonal(log_p(x), 1), (Z,)),
    (lambda x: -jnp.diag(log_p(x)[:, ::-1]), (Z,)),
    (lambda x: (-(y := log_p(x))[:, 0], y[:, 1]), (Z,)),
    (lambda x, i: -log_p(x)[jnp.arange(4)[::-1], i], (Z, LABELS)),
    (lambda x, i: -taken(x - jax.nn.logsumexp(2 * x, -1, keepdims=True), i), (Z, LABELS)),
    (lambda x, i: -taken(x - jax.nn.logsumexp(x, 0), i), (Z, LABELS)),
    (lambda x, i: (-taken(y := minus_logsumexp(x), i), y), (Z, LABELS)),
    (by_table, (Z, array(7), LABELS)),
    (lambda x, i: jax.nn.logsumexp(2 * x, -1) - taken(x, i), (Z, LABELS)),
    (lambda x, i: -taken(log_p(x), i, mode="fill", fill_value=0), (Z, LABELS)),
    # Weights of the classes, labels of others, both signs.
    (lambda x, z: -2 * z * nnops.log_sigmoid(x) - (1 - z) * nnops.log_sigmoid(-x), (Z, Z)),
    (lambda x, z: -z * nnops.log_sigmoid(x) - (1 - z) * nnops.log_sigmoid(x), (Z, Z)),
    (lambda x, z: -z * nnops.log_sigmoid(x) + (1 - z) * nnops.log_sigmoid(-x), (Z, Z)),
    (lambda x, z: -z * nnops.log_sigmoid(x) - (1 - x) * nnops.log_sigmoid(-x), (Z, Z)),
    (lambda x, z: (x * z - nnops.softplus(x)) * z, (Z, Z)),
    (lambda x, q: jax.nn.logsumexp(x, -1) - (q * x).sum(0), (Z, Z)),
    # A parabola and a line that do not meet.
    (lambda a, b: jnp.where(jnp.abs(a - b) < 1, 0.5 * (a - b) ** 2, jnp.abs(a - b)), (Z, Z + 1)),
    (lambda a, b: jnp.where(jnp.abs(a - b) < 1, (a - b) ** 2, jnp.abs(a - b)), (Z, Z + 1)),
    # Lengths of others, along another axis, kept from zero in different ways or together.
    (lambda a, b: (a * b).sum(-1) / (length(a) * length(a + b)), (Z, Z + 1)),
    (lambda a, b: (a * b).sum(-1) / (length(a, 0) * length(b, 0)), (Z, Z + 1)),
    (lambda a, b: (a * b).sum(-1) / (length(a) * (length(b) + 1e-6)), (Z, Z + 1)),
    (lambda a, b: (a * b).sum(-1) / (length(a) * length(b) + 1e-6), (Z, Z + 1)),
    (lambda a, b: (a * b).sum(-1) / (length(a) * length(b)) * length(a), (Z, Z + 1)),
    # The logarithm of 0 is left as it is; a quotient that may overflow.
    (lambda x, p: (p * (jnp.log(p) - x)).sum(-1), (Z, Z)),
    (lambda q, p: (p * jnp.log(p / q)).sum(-1), (Z, Z)),
    (lambda q, p: (jax.nn.softmax(p, 0) * (log_p(p) - q)).sum(-1), (Z, Z)),
    (lambda x, i: (jax.nn.logsumexp(x, -1) - taken(x, i)) * jax.nn.logsumexp(x, -1), (Z, LABELS)),
    (lambda x, i: (taken(x, i) - jax.nn.logsumexp(x, -1)) * x[:, 0], (Z, LABELS)),
    (lambda q, p: (jnp.maximum(p, 0) * jnp.log(jnp.maximum(p, 0) / q)).sum(-1), (Z, Z)),
]


@pytest.mark.parametrize(("fn", "args"), NONE)
def test_it_is_no_loss(fn, args) -> None:
    count = RAISED(trace(fn)(*args)).count()
    assert not LOSSES & set(count), count


def reduction(fn, *args):
    (node,) = RAISED(trace(fn)(*args)).find(lambda n: n.op in LOSSES)
    return node.params["reduction"]


def test_reductions() -> None:
    a, b, loss = Z, Z + 1, nnops.mean_squared_error
    assert reduction(lambda a, b: loss(a, b).sum(), a, b) == "sum"
    assert reduction(lambda a, b: loss(a, b).sum() / 128, a, b) == "sum"
    assert reduction(lambda a, b: -jnp.mean(-loss(a, b)), a, b) == "mean"
    assert reduction(lambda a, b: loss(a, b).mean(0).mean(), a, b) == "mean"
    assert reduction(lambda a, b: (0.5 * loss(a, b)).mean(), a, b) == "mean"
    assert reduction(lambda a, b: loss(a, b).mean(0).sum(), a, b) == "sum"
    # What is left of them is no single number, or some count more than others.
    assert reduction(lambda a, b: loss(a, b).mean(0), a, b) == "none"
    assert reduction(lambda a, b: (loss(a, b) * a).mean(), a, b) == "none"
    assert reduction(lambda a, b: loss(a, b).sum() / a.sum(), a, b) == "sum"
    assert reduction(lambda a, b: loss(a[:0], b[:0]).mean(), a, b) == "none"
    ignoring = lambda x, i: nnops.softmax_cross_entropy(x, i, out_of_range="ignore").mean()  # noqa: E731
    assert reduction(ignoring, Z, LABELS) == "none"


def test_smoothed_labels() -> None:
    def smoothing(fn, *args):
        (node,) = RAISED(trace(fn)(*args)).find(lambda n: n.op in LOSSES)
        return node.params["label_smoothing"]

    def smooth(p, s, n):
        return (1 - s) * p + s / n

    cross, binary = nnops.softmax_cross_entropy, nnops.binary_cross_entropy
    assert smoothing(lambda x, p: cross(x, smooth(p, 0.1, 4)), Z, Z) == 0.1
    assert smoothing(lambda x, p: cross(x, smooth(p, 0.125, 5)), Z, Z) == 0
    assert smoothing(lambda x, p: binary(x, smooth(p, 0.2, 2)), Z, Z) == 0.2
    assert smoothing(lambda x, i: cross(x, smooth(jax.nn.one_hot(i, 4), 0.1, 4)), Z, LABELS) == 0.1


def test_a_differentiated_step_stays_right() -> None:
    def step(w, x, ids):
        loss = lambda w: sparse(jnp.tanh(x @ w), ids).mean() + ((w - x) ** 2).mean()  # noqa: E731
        return jax.value_and_grad(loss)(w)

    args = (Z, Z + 1, LABELS)
    graph = RAISED(trace(step)(*args))
    for got, want in zip(graph(*args), step(*args), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-5)
