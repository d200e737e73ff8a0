"""Axes of no entries, whichever axis it is: the shapes, values and gradients of plain jax.numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import jaxpress as jp
from jaxpress import nnops


def _norm(x, scale, center):
    mean = x.mean(-1, keepdims=True) if center else 0
    square = jnp.square(x - mean).mean(-1, keepdims=True)
    return (x - mean) * lax.rsqrt(square + (1e-5 if center else 1e-6)) * scale


def _attention(q, k, v):
    weights = jax.nn.softmax(jnp.einsum("btnh,bsnh->bnts", q, k), -1)
    return jnp.einsum("bnts,bsnh->btnh", weights, v)


def _conv(x, w):
    return lax.conv_general_dilated(x, w, (1,), "SAME", dimension_numbers=("NWC", "WIO", "NWC"))


def _steps(x, w, u):
    h, ys = jnp.zeros((len(x), len(u))), []
    for t in range(x.shape[1]):
        h = jnp.tanh(x[:, t] @ w + h @ u)
        ys.append(h)
    return jnp.stack(ys, 1) if ys else jnp.zeros((len(x), 0, len(u))), h


def _total(values):
    return sum(jnp.sum(jnp.sin(v)) for v in jax.tree.leaves(values))


# An op, a plain function of the same operands, and the operands' shapes, one case each.
CASES = [
    (nnops.softmax, jax.nn.softmax, ((0, 3),), ((3, 0),)),
    (nnops.log_softmax, jax.nn.log_softmax, ((0, 3),), ((3, 0),)),
    (nnops.logsumexp, jax.nn.logsumexp, ((0,),), ((3, 0),)),
    (nnops.glu, jax.nn.glu, ((0, 2),), ((3, 0),)),
    (nnops.standardize, jax.nn.standardize, ((0, 3),), ((3, 0),)),
    (nnops.dense, lambda x, w: x @ w, *[((n, m), (m, k)) for n, m, k in
                                        [(0, 3, 2), (2, 0, 3), (2, 3, 0)]]),
    (nnops.attend, lambda x, t: x @ t.T, ((2, 0), (4, 0)), ((2, 3), (0, 3))),
    (nnops.conv, _conv, *[((n, t, c), (2, c, k)) for n, t, c, k in
                          [(0, 4, 2, 3), (2, 0, 2, 3), (2, 4, 0, 3), (2, 4, 2, 0)]]),
    (lambda x: nnops.max_pool(x, 2), lambda x: jnp.maximum(x[:, :-1], x[:, 1:]),
     ((0, 4, 2),), ((2, 1, 2),), ((2, 4, 0),)),
    (lambda x: nnops.avg_pool(x, 2), lambda x: (x[:, :-1] + x[:, 1:]) / 2,
     ((0, 4, 2),), ((2, 1, 2),), ((2, 4, 0),)),
    (nnops.layer_norm, lambda x, s: _norm(x, s, True), *[((2, n), (n,)) for n in (0, 1)],
     ((0, 3), (3,))),
    (nnops.rms_norm, lambda x, s: _norm(x, s, False), ((2, 0), (0,)), ((0, 3), (3,))),
    (nnops.dot_product_attention, _attention,
     *[((b, t, n, h), (b, s, n, h), (b, s, n, h)) for b, t, s, n, h in
       [(0, 3, 2, 1, 2), (1, 0, 2, 1, 2), (1, 3, 0, 1, 2)]]),
    (lambda x, w, u: nnops.rnn(x, None, w, u), _steps,
     *[((b, t, f), (f, h), (h, h)) for b, t, f, h in
       [(0, 2, 3, 2), (2, 0, 3, 2), (2, 2, 0, 2), (2, 2, 3, 0)]]),
    (nnops.mean_squared_error, lambda x, y: (x - y) ** 2, ((0, 3), (0, 3)), ((3, 0), (3, 0))),
]  # fmt: skip


def test_values_and_gradients():
    cases = [
        (ours, plain, [jnp.ones(s) for s in shapes])
        for ours, plain, *cases in CASES
        for shapes in cases
    ]

    def everything(which):
        out = []
        for case in cases:
            f, args = case[which], case[2]
            out.append((f(*args), jax.grad(lambda a, f=f: _total(f(*a)))(args)))
        return out

    for got, want in zip(jax.jit(everything, static_argnums=0)(0), everything(1), strict=True):
        assert jax.tree.structure(got) == jax.tree.structure(want)
        for g, w in zip(*map(jax.tree.leaves, (got, want)), strict=True):
            assert (g.shape, g.dtype) == (w.shape, w.dtype)
            np.testing.assert_allclose(g, w, rtol=1e-6)


def test_what_has_no_value_says_so():
    with pytest.raises(nnops.OpError, match=r"conv: w covers no position\n.*w float32\(0, 2, 3\)"):
        nnops.conv(jnp.ones((1, 4, 2)), jnp.ones((0, 2, 3)))
    with pytest.raises(nnops.OpError, match=r"embedding: the table is empty"):
        nnops.embedding(jnp.zeros(2, int), jnp.ones((0, 3)))
    with pytest.raises(nnops.OpError, match=r"global_max_pool: .*\n.*x float32\(2, 0, 3\)"):
        nnops.global_max_pool(jnp.ones((2, 0, 3)))


@pytest.mark.parametrize(
    "x, w, settings",
    [
        # Fewer entries than taps, in each channel alone.
        ((1, 2, 2, 3), (5, 5, 1, 3), {"padding": "VALID", "groups": 3}),
        ((2, 0, 4), (3, 4, 4), {"padding": "VALID", "strides": 3, "transposed": True}),
        ((2, 0, 2, 2, 3), (1, 1, 1, 3, 3), {}),
        ((0, 4, 4, 3), (1, 1, 3, 3), {}),
    ],
)
def test_kernels_leave_what_is_empty_to_the_reference(x, w, settings):
    w = jnp.ones(w)
    f = lambda x: nnops.conv(x, w, **settings)  # noqa: E731
    x = jnp.ones(x)
    assert jp.optimize(f)(x).shape == f(x).shape
    assert jax.grad(lambda x: jp.optimize(f)(x).sum())(x).shape == x.shape
