"""Rotary embedding in the spellings that people write; what only looks like it stays."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxpress as jp
from helpers import array, assert_refuses
from jaxpress import nnops, passes
from jaxpress.capture import trace
from jaxpress.passes import rewrite
from jaxpress.passes.rules.raise_rotary import RAISE_ROTARY, RAISE_ROTARY_HALVES, ROTARY_RULES
from jaxpress.testing import assert_rewrites

# As many positions as heads and features: no shape tells the axes apart.
C = 4
X = array(2, C, C, C)
HALF = [array(C, 1, C // 2, seed=i) for i in (1, 2)]
FULL = [array(C, 1, C, seed=i) for i in (3, 4)]


def rotate_half(x):
    a, b = jnp.split(x, 2, axis=-1)
    return jnp.concatenate([-b, a], axis=-1)


def whole(x, cos, sin):
    return x * cos + rotate_half(x) * sin


def whole_by_index(x, cos, sin):
    h = x.shape[-1] // 2
    return sin * jnp.concatenate((-x[..., h:], x[..., :h]), -1) + cos * x


def whole_by_turns(x, cos, sin):
    other = jnp.stack([-x[..., 1::2], x[..., ::2]], -1).reshape(x.shape)
    return x * cos + other * sin


def halves(x, cos, sin):
    a, b = jnp.split(x, 2, axis=-1)
    return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], -1)


def halves_by_reshape(x, cos, sin):
    pairs = x.reshape(*x.shape[:-1], 2, -1)
    a, b = pairs[..., 0, :], pairs[..., 1, :]
    return jnp.concatenate([cos * a - sin * b, a * sin + b * cos], -1)


def by_turns(x, cos, sin):
    a, b = x[..., ::2], x[..., 1::2]
    return jnp.stack([a * cos - b * sin, a * sin + b * cos], -1).reshape(x.shape)


def by_turns_by_reshape(x, cos, sin):
    pairs = x.reshape(*x.shape[:-1], -1, 2)
    a, b = pairs[..., 0], pairs[..., 1]
    return jnp.stack([a * cos - b * sin, b * cos + a * sin], -1).reshape(x.shape)


def by_turns_of_pairs(x, cos, sin):
    """Features and pairs are put on axes of their own in one go, as cleanup leaves them."""
    flat = x.reshape(*x.shape[:2], -1)
    pairs = flat.reshape(*x.shape[:-1], -1, 2)
    a, b = pairs[..., 0], pairs[..., 1]
    return jnp.stack([a * cos - b * sin, a * sin + b * cos], -1).reshape(flat.shape)


def halves_side_by_side(x, cos, sin):
    a, b = jnp.split(x, 2, axis=-1)
    return x * cos + jnp.stack([-b, a], axis=-2).reshape(x.shape) * sin


def whole_of_pairs(x, cos, sin):
    """What is turned, and its pairs, are two shapes of one array."""
    flat = jnp.exp(x).reshape(*x.shape[:2], -1)
    pairs = flat.reshape(*x.shape[:-1], -1, 2)
    other = jnp.stack([-pairs[..., 1], pairs[..., 0]], -1).reshape(x.shape)
    return flat.reshape(x.shape) * cos + other * sin


def as_complex(x, cos, sin):
    pairs = x.reshape(*x.shape[:-1], -1, 2)
    z = jax.lax.complex(pairs[..., 0], pairs[..., 1]) * jax.lax.complex(cos, sin)
    return jnp.stack([z.real, z.imag], -1).reshape(x.shape)


def backwards(x, cos, sin):
    a, b = jnp.split(x, 2, axis=-1)
    return jnp.concatenate([a * cos + b * sin, b * cos - a * sin], -1)


def whole_backwards(x, cos, sin):
    return x * cos - rotate_half(x) * sin


def heads_first(x, cos, sin):
    return whole(x.swapaxes(1, 2), cos[:, 0], sin[:, 0])


def in_part(x, cos, sin):
    return jnp.concatenate([whole(x[..., 1:3], cos[..., :2], sin[..., :2]), x[..., 3:]], -1)


SPELLINGS = [
    (whole, FULL, False),
    (whole_by_index, FULL, False),
    (whole_backwards, FULL, False),
    (heads_first, FULL, False),
    (in_part, FULL, False),
    (whole_by_turns, FULL, True),
    (halves, HALF, False),
    (halves_by_reshape, HALF, False),
    (backwards, HALF, False),
    (by_turns, HALF, True),
    (by_turns_by_reshape, HALF, True),
    (as_complex, HALF, True),
    (by_turns_of_pairs, HALF, True),
    (halves_side_by_side, FULL, False),
    (whole_of_pairs, FULL, True),
]


def tidied(fn, *args):
    graph = trace(fn)(*args)
    for p in passes.cleanup:
        graph = p(graph)
    return graph


@pytest.mark.parametrize("fn, tables, interleaved", SPELLINGS)
def test_every_spelling(fn, tables, interleaved) -> None:
    graph = tidied(fn, X, *tables)
    new = rewrite(graph, ROTARY_RULES).validate()
    (node,) = new.find("rotary_embedding")
    assert node.params["interleaved"] == interleaved
    assert not new.find("mul") and not new.find("sub")
    np.testing.assert_allclose(new(X, *tables), fn(X, *tables), rtol=1e-6, atol=1e-6)
    assert rewrite(new, ROTARY_RULES) is new


@pytest.mark.parametrize("fn, tables", [(whole, FULL), (as_complex, HALF)])
def test_gradients_vmap_and_special_values(fn, tables) -> None:
    graph = tidied(fn, X, *tables)
    assert_rewrites(ROTARY_RULES, lambda *a: graph(*a), X, *tables, times=1)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_low_precision(dtype) -> None:
    args = [v.astype(dtype) for v in (X, *FULL)]
    new = rewrite(tidied(whole, *args), ROTARY_RULES)
    assert new.count()["rotary_embedding"] == 1
    eps = float(jnp.finfo(dtype).eps)
    got, want = (f(*args).astype(jnp.float32) for f in (new, whole))
    np.testing.assert_allclose(got, want, rtol=0, atol=8 * eps)


@pytest.mark.parametrize("fn, tables", [(whole, FULL), (halves, HALF), (as_complex, HALF)])
def test_a_narrow_array_with_wide_tables(fn, tables) -> None:
    """As models in bfloat16 have it: turned in float32, in whichever place that is said."""
    x = X.astype("bfloat16")
    for f in (fn, lambda x, *t: fn(x.astype("float32"), *t).astype(x.dtype)):
        if f is as_complex:
            continue  # there are no complex numbers of two bytes
        new = rewrite(tidied(f, x, *tables), ROTARY_RULES).validate()
        (node,) = new.find("rotary_embedding")
        assert [v.dtype.name for v in node.inputs] == ["bfloat16", "float32", "float32"]
        got, want = new(x, *tables), f(x, *tables)
        assert got.dtype == want.dtype
        np.testing.assert_allclose(got.astype("float32"), want.astype("float32"), rtol=1e-2)
        grads = [
            jax.grad(lambda x, f=g: f(x, *tables).astype("float32").sum())(x) for g in (f, new)
        ]
        np.testing.assert_allclose(*(g.astype("float32") for g in grads), rtol=0, atol=0.05)
    # What has been narrowed is another array.
    rounded = lambda x, c, s: x * c + rotate_half(x.astype("bfloat16").astype(x.dtype)) * s  # noqa: E731
    graph = tidied(rounded, X, *FULL)
    assert_refuses(ROTARY_RULES, lambda *a: graph(*a), X, *FULL)


def test_equinox() -> None:
    eqx = pytest.importorskip("equinox")
    layer = eqx.nn.RotaryPositionalEmbedding(8)
    x = array(2, 5, 3, 8)
    fn = jax.vmap(jax.vmap(layer, in_axes=1, out_axes=1))
    fast = jp.optimize(fn)
    graph = fast.graph(x)
    assert graph.count()["rotary_embedding"] == 1 and not graph.find("transpose")
    np.testing.assert_allclose(fast(x), fn(x), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("preset", ["default", "inference"])
def test_with_its_attention(preset) -> None:
    cos, sin = nnops.rotary_tables(jnp.arange(C), C)
    cos, sin = cos[:, None], sin[:, None]

    def fn(q, k, v):
        return jax.nn.dot_product_attention(whole(q, cos, sin), whole(k, cos, sin), v)

    graph = jp.optimize(fn, preset).graph(X, X + 1, X - 1)
    assert graph.count() == {"rotary_embedding": 2, "dot_product_attention": 1}


@pytest.mark.parametrize(
    "fn, tables",
    [
        (lambda x, c, s: x * c + jnp.flip(rotate_half(x), -1) * s, FULL),
        (lambda x, c, s: x * c + jnp.concatenate(jnp.split(x, 2, -1)[::-1], -1) * s, FULL),
        (lambda x, c, s: x[::-1] * c + rotate_half(x) * s, FULL),
        (lambda x, c, s: (x + 1) * c + rotate_half(x) * s, FULL),
        (lambda x, c, s: x * c + jnp.roll(rotate_half(x), 1, -1) * s, FULL),
        (lambda x, c, s: x * 2.0 + rotate_half(x) * 3.0, FULL),
        (lambda x, c, s: jnp.concatenate([x[..., :2] * c - x[..., 2:] * s,
                                          x[..., 2:] * s + x[..., :2] * c], -1), HALF),
        (lambda x, c, s: jnp.concatenate([x[..., :2] * c - x[..., 2:] * s,
                                          x[..., 2:] * c + x[..., :2] * c], -1), HALF),
        (lambda x, c, s: jnp.concatenate([x[..., :2] * c - x[..., 2:] * s,
                                          x[..., 2:] * c - x[..., :2] * s], -1), HALF),
        (lambda x, c, s: jnp.concatenate([x[..., ::2] * c - x[..., 1::2] * s,
                                          x[..., 1::2] * c + x[..., ::2] * s], -1), HALF),
        (lambda x, c, s: jnp.concatenate([x[..., :2] * c - x[..., 2:] * s,
                                          x[..., 2:] * c + x[..., :2] * s], -2), HALF),
        (lambda x, c, s: x * c + jnp.stack([-x[..., 1::2], x[..., ::2]], -2).reshape(x.shape) * s,
         FULL),
    ],
)  # fmt: skip
def test_lookalikes_stay(fn, tables) -> None:
    graph = tidied(fn, X, *tables)
    assert_refuses(ROTARY_RULES, lambda *a: graph(*a), X, *tables)


def test_integers_and_shared_parts_stay() -> None:
    graph = tidied(whole, X.astype(jnp.int32), *(t.astype(jnp.int32) for t in FULL))
    assert rewrite(graph, ROTARY_RULES) is graph
    both = lambda x, c, s: (whole(x, c, s), x * c)  # noqa: E731
    graph = tidied(both, X, *FULL)
    assert_refuses(RAISE_ROTARY, lambda *a: graph(*a), X, *FULL, because="as well")
    assert_refuses(RAISE_ROTARY_HALVES, lambda *a: graph(*a), X, *FULL)
