"""Multi-head attention with its projections against Flax, Keras' layout and torch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxpress as jp
from jaxpress import nnops

B, T, S, N, H, D = 2, 4, 5, 2, 3, 6


def draw(*shape, seed=0):
    return jnp.asarray(np.random.default_rng([seed, *shape]).normal(size=shape), jnp.float32)


W = [draw(D, N, H, seed=i) for i in range(3)] + [draw(N, H, D, seed=3)]
BIAS = [draw(N, H, seed=i) for i in range(3)] + [draw(D, seed=3)]
X, Y = draw(B, T, D), draw(B, S, D, seed=1)


def linen_parameters(with_bias):
    names = ["query", "key", "value", "out"]
    parts = {n: {"kernel": w} for n, w in zip(names, W, strict=True)}
    if with_bias:
        for n, b in zip(names, BIAS, strict=True):
            parts[n]["bias"] = b
    return {"params": parts}


@pytest.mark.parametrize("with_bias", [False, True])
def test_values_are_those_of_flax(with_bias):
    nn = pytest.importorskip("flax.linen")
    module = nn.MultiHeadDotProductAttention(num_heads=N, qkv_features=N * H, use_bias=with_bias)
    mask = jnp.asarray(np.random.default_rng(0).random((B, 1, T, S)) < 0.7)
    want = module.apply(linen_parameters(with_bias), X, Y, mask=mask)
    got = nnops.multi_head_attention(X, Y, None, *W, *(BIAS if with_bias else ()), mask=mask)
    np.testing.assert_allclose(got, want, rtol=2e-5, atol=2e-5)


def test_values_and_gradients_are_those_of_torch():
    torch = pytest.importorskip("torch")
    layer = torch.nn.MultiheadAttention(D, N, batch_first=True)
    t = lambda x: torch.tensor(np.asarray(x))  # noqa: E731
    with torch.no_grad():
        layer.in_proj_weight.copy_(t(jnp.concatenate([w.reshape(D, -1).T for w in W[:3]])))
        layer.in_proj_bias.copy_(t(jnp.concatenate([b.ravel() for b in BIAS[:3]])))
        layer.out_proj.weight.copy_(t(W[3].reshape(-1, D).T))
        layer.out_proj.bias.copy_(t(BIAS[3]))
    x = t(X).requires_grad_()
    blocked = torch.triu(torch.ones(T, T, dtype=torch.bool), 1)
    out, _ = layer(x, x, x, attn_mask=blocked)
    out.sin().sum().backward()
    f = lambda x: nnops.multi_head_attention(x, None, None, *W, *BIAS, is_causal=True)  # noqa: E731
    np.testing.assert_allclose(f(X), out.detach(), rtol=2e-5, atol=2e-5)
    grad = jax.grad(lambda x: jnp.sum(jnp.sin(f(x))))(X)
    np.testing.assert_allclose(grad, x.grad, rtol=1e-4, atol=1e-4)


def test_named_ops_and_grouped_heads():
    w_key = [draw(D, 1, H, seed=i) for i in (1, 2)]
    f = lambda x: nnops.multi_head_attention(x, None, None, W[0], *w_key, W[3])  # noqa: E731
    graph = jp.trace(f)(X)
    assert graph.count()["multi_head_attention"] == 1
    parts = jp.passes.raise_ops(graph).count()
    assert (parts["dense"], parts["dot_product_attention"]) == (4, 1)
    assert not parts["multi_head_attention"]
    repeated = [jnp.repeat(w, N, axis=1) for w in w_key]
    want = nnops.multi_head_attention(X, X, X, W[0], *repeated, W[3])
    np.testing.assert_allclose(f(X), want, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("i", range(4))
def test_weights_that_do_not_fit(i):
    weights = [w if j != i else w[..., 0] for j, w in enumerate(W)]
    with pytest.raises(nnops.OpError, match="multi_head_attention"):
        nnops.multi_head_attention(X, None, None, *weights)
    biases = [b if j != i else b[..., :1] for j, b in enumerate(BIAS)]
    with pytest.raises(nnops.OpError):
        nnops.multi_head_attention(X, None, None, *W, *biases)
