"""Attention in every library's spelling and layout; what only looks like it stays."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxpress as jp
from helpers import array, assert_refuses, quick_compiles
from jaxpress import passes
from jaxpress.capture import trace
from jaxpress.passes import rewrite
from jaxpress.passes.rules.raise_attention import ATTENTION_RULES, RAISE_ATTENTION
from jaxpress.testing import assert_rewrites

# As many queries as keys, heads and features: no shape tells the axes apart.
C = 4
Q, K, V = (array(2, C, C, C, seed=i) for i in range(3))
MASK = array(2, 1, C, C, seed=3) > -0.5
BIAS = array(1, C, C, C, seed=4)
TIDY = passes.cleanup[:3]


@pytest.fixture(autouse=True)
def compiled_quickly():
    with quick_compiles():
        yield


def attend(q, k, v, change=lambda w: w, after=lambda p: p):
    """Heads second to last, as in jax.nn."""
    w = jnp.einsum("btnh,bsnh->bnts", q, k)
    return jnp.einsum("bnts,bsnh->btnh", after(jax.nn.softmax(change(w))), v)


def raised(fn, *args, tolerance=2e-6):
    """The one attention in ``fn`` after the rules, the graph around it checked for its values."""
    graph = trace(fn)(*args)
    for p in TIDY:
        graph = p(graph)
    record = []
    graph = rewrite(graph, ATTENTION_RULES, record=record).validate()
    (node,) = graph.find("dot_product_attention")
    for p in TIDY:
        graph = p(graph)
    again = []
    assert rewrite(graph, ATTENTION_RULES, record=again) is graph
    got, want = (jax.jit(f)(*args) for f in (graph, fn))
    assert got.dtype == want.dtype
    np.testing.assert_allclose(
        got.astype(jnp.float32), want.astype(jnp.float32), rtol=tolerance, atol=tolerance
    )
    (node,) = graph.find("dot_product_attention")
    return node, graph


def settings(node):
    """The parameters that are not what they are by default."""
    plain = {"is_causal": False, "dropout_rate": 0.0, "dropout_broadcast_dims": ()}
    plain |= {"zero_masked": False, "dropout_form": "select"}
    return {
        k: v
        for k, v in node.params.items()
        if k != "operands" and v is not None and v != plain.get(k)
    }


# Layouts.


def heads_first(q, k, v):
    q, k, v = (x.transpose(0, 2, 1, 3) for x in (q, k, v))
    w = q @ k.swapaxes(-1, -2) * C**-0.5
    return (jax.nn.softmax(w) @ v).transpose(0, 2, 1, 3)


def keys_turned(q, k, v):
    q, k, v = q.transpose(0, 2, 1, 3), k.transpose(0, 2, 3, 1), v.transpose(0, 2, 1, 3)
    return jnp.swapaxes(jax.nn.softmax(jnp.matmul(q / jnp.sqrt(C), k), axis=-1) @ v, 1, 2)


def softmax_along_queries_of_the_transposed(q, k, v):
    w = jnp.einsum("bsnh,btnh->bstn", k, q) / 2.0
    return jnp.einsum("bstn,bsnh->btnh", jax.nn.softmax(w, axis=1), v)


def mapped(q, k, v):
    one = lambda q, k, v: jax.nn.softmax(q @ k.T / np.sqrt(C)) @ v  # noqa: E731
    return jax.vmap(jax.vmap(one, in_axes=1, out_axes=1))(q, k, v)


def rooted(q, k, v):
    """Both sides scaled, so that low precision does not overflow."""
    return attend(q * C**-0.25, k * C**-0.25, v)


LAYOUTS = [
    jax.nn.dot_product_attention,
    heads_first,
    keys_turned,
    softmax_along_queries_of_the_transposed,
    mapped,
    rooted,
]


@pytest.mark.parametrize("fn", LAYOUTS)
def test_every_layout_becomes_the_op_alone(fn) -> None:
    node, graph = raised(fn, Q, K, V)
    assert graph.count() == {"dot_product_attention": 1}
    assert node.inputs == graph.inputs and not settings(node)


def test_gradients_vmap_and_special_values() -> None:
    graph = trace(heads_first)(Q, K, V)
    for p in TIDY:
        graph = p(graph)
    assert_rewrites(RAISE_ATTENTION, lambda *a: graph(*a), Q, K, V, times=1)


@pytest.mark.parametrize("shape", [(1, C, C, C), (2, C, 1, C), (1, C, 1, C), (1, 1, 1, C)])
def test_axes_of_size_one_stay_where_they_are(shape) -> None:
    x = array(*shape)
    node, _ = raised(heads_first, x, x, x)
    assert [v.shape for v in node.inputs] == [shape] * 3


@pytest.mark.parametrize("t, s", [(1, 5), (3, 5), (5, 1), (0, 3), (3, 0)])
def test_queries_and_keys_of_different_number(t, s) -> None:
    q, k, v = array(2, t, 3, 4), array(2, s, 3, 4), array(2, s, 3, 7)
    node, _ = raised(heads_first, q, k, v)
    assert [v.shape for v in node.inputs] == [q.shape, k.shape, v.shape]


@pytest.mark.parametrize("heads", [1, 2])
def test_grouped_queries(heads) -> None:
    k, v = K[:, :, :heads], V[:, :, :heads]
    node, graph = raised(functools.partial(jax.nn.dot_product_attention, is_causal=True), Q, k, v)
    assert graph.count() == {"dot_product_attention": 1} and settings(node) == {"is_causal": True}
    repeated = lambda q, k, v: attend(  # noqa: E731
        q, jnp.repeat(k, C // heads, 2), jnp.repeat(v, C // heads, 2)
    )
    node, graph = raised(repeated, Q, k, v)
    assert node.inputs == graph.inputs


def test_one_key_head_without_an_axis() -> None:
    def fn(q, k, v):
        w = jnp.einsum("btnh,bsh->bnts", q, k)
        return jnp.einsum("bnts,bsh->btnh", jax.nn.softmax(w), v)

    node, _ = raised(fn, array(2, 5, 3, 4), K[:, :, 0], V[:, :, 0])
    assert [v.shape for v in node.inputs] == [(2, 5, 3, 4), (2, C, 1, C), (2, C, 1, C)]


def test_no_heads_and_no_batch() -> None:
    flat = lambda q, k, v: jax.nn.softmax(q @ k.T) @ v  # noqa: E731
    node, _ = raised(flat, Q[0, 0], K[0, 0], V[0, 0])
    assert node.inputs[0].shape == (C, 1, C)
    node, _ = raised(jax.nn.dot_product_attention, Q[0], K[0], V[0])
    assert node.inputs[0].shape == (C, C, C)


# Scale, bias and masks.


def positions():
    return jnp.arange(C)[:, None], jnp.arange(C)[None, :]


def tril():
    return jnp.tril(jnp.ones((C, C), bool))


CAUSAL = {
    "tril": tril,
    "tril of floats": lambda: jnp.tril(jnp.ones((C, C)))[None, None] != 0,
    "tril of zeros": lambda: ~(jnp.tril(jnp.ones((1, 1, C, C))) == 0),
    "not triu": lambda: ~jnp.triu(jnp.ones((C, C), bool), 1),
    "arange": lambda: positions()[0] >= positions()[1],
    "less": lambda: positions()[1] < positions()[0] + 1,
    "difference": lambda: (positions()[0] - positions()[1]) > -1,
    "iota": lambda: (
        jax.lax.broadcasted_iota(jnp.int32, (C, C), 0)
        >= jax.lax.broadcasted_iota(jnp.int32, (C, C), 1)
    ),
    "cumsum": lambda: (
        jnp.cumsum(jnp.ones((1, C, C), jnp.int32), -2)
        >= jnp.cumsum(jnp.ones((1, C, C), jnp.int32), -1)
    )[None],
    "product": lambda: (tril().astype(jnp.float32) * jnp.ones((C, C))).astype(bool),
}


@pytest.mark.parametrize("name", CAUSAL)
def test_causal_masks_are_recognised(name) -> None:
    fill = -np.inf if "tril" in name else -1e9
    fn = lambda q, k, v: attend(q, k, v, lambda w: jnp.where(CAUSAL[name](), w / 2.0, fill))  # noqa: E731
    node, graph = raised(fn, Q, K, V)
    assert settings(node) == {"is_causal": True, "mask_value": fill}
    assert graph.count() == {"dot_product_attention": 1}


CAUSAL_WINDOW = {"is_causal": True, "local_window_size": (1, 0)}
WINDOWS = {
    "both": (lambda i, j: (i - j <= 2) & (j - i <= 1), {"local_window_size": (2, 1)}),
    "symmetric": (lambda i, j: jnp.abs(i - j) < 2, {"local_window_size": (1, 1)}),
    "causal": (lambda i, j: (j <= i) & (j > i - 2), CAUSAL_WINDOW),
    "one side": (lambda i, j: j >= i - 1, {"local_window_size": (1, None)}),
    "future": (lambda i, j: j < i, {"local_window_size": (None, -1)}),
    "own": (lambda i, j: i == j, {"is_causal": True, "local_window_size": (0, 0)}),
    "not far": (lambda i, j: ~((j > i) | (i > j + 1)), CAUSAL_WINDOW),
}  # fmt: skip


@pytest.mark.parametrize("name", WINDOWS)
def test_windows_are_recognised(name) -> None:
    inside, want = WINDOWS[name]
    fn = lambda q, k, v: attend(  # noqa: E731
        q, k, v, lambda w: jnp.where(inside(*positions()), w * 0.5, -1e9)
    )
    node, _ = raised(fn, Q, K, V)
    assert settings(node) == {**want, "mask_value": -1e9}


@pytest.mark.parametrize(
    "change, operands, params",
    [
        (lambda w: jnp.where(MASK, w * 0.3, -1e30), ["mask"], {"scale": 0.3, "mask_value": -1e30}),
        (lambda w: jnp.where(~MASK, -1e9, w / 2), ["mask"], {"mask_value": -1e9}),
        (lambda w: w / 2 + BIAS, ["bias"], {}),
        (lambda w: (w + BIAS) / 2, ["bias"], {}),
        (lambda w: w / 2 - BIAS + MASK[:, :, :1] * 2.0, ["bias"], {}),
        (lambda w: w / 2 + jnp.where(MASK, 0, -1e9), ["bias"], {}),
        (lambda w: jnp.where(tril() & MASK, w / 2, -1e9), ["mask"],
         {"is_causal": True, "mask_value": -1e9}),
        (lambda w: jnp.where(tril(), jnp.where(MASK, w / 2, -1e9), -1e9), ["mask"],
         {"is_causal": True, "mask_value": -1e9}),
        (lambda w: jnp.where(MASK, w, -1e9) * 0.5, ["mask"], {"mask_value": -5e8}),
        (lambda w: jnp.where(MASK, w / 2, w / 2 - 1e9), ["bias"], {}),
        (lambda w: w / 2 + BIAS[0, :, 0, 0][:, None, None], ["bias"], {}),
        (lambda w: w / 2 + 1.5, ["bias"], {}),
    ],
)  # fmt: skip
def test_scale_bias_and_mask(change, operands, params) -> None:
    node, _ = raised(lambda q, k, v: attend(q, k, v, change), Q, K, V)
    assert list(node.params["operands"][3:]) == operands
    got = settings(node)
    assert got.keys() == params.keys()
    for name, value in params.items():
        np.testing.assert_allclose(got[name], value, rtol=1e-6)


@pytest.mark.parametrize("turned", [False, True])
def test_soft_caps(turned) -> None:
    def change(w):
        w = jnp.tanh(w * (0.5 / 30.0)) * 30.0 if turned else 30.0 * jnp.tanh(w / 2.0 / 30.0)
        return jnp.where(tril(), w + BIAS, -1e9)

    node, graph = raised(lambda q, k, v: attend(3 * q, k, v, change), Q, K, V)
    got = settings(node)
    assert got.pop("scale") == pytest.approx(1.5, rel=1e-6)
    assert got == {"logits_soft_cap": 30.0, "is_causal": True, "mask_value": -1e9}
    assert not graph.find("tanh")


def test_operands_stay_as_small_as_they_were() -> None:
    keep = array(2, C) > -1
    fn = lambda q, k, v, m: jax.nn.dot_product_attention(q, k, v, mask=m[:, None, None])  # noqa: E731
    node, _ = raised(fn, Q, K, V, keep)
    assert node.inputs[3].shape == (2, 1, 1, C)


@pytest.mark.parametrize("divide", [False, True])
def test_a_learned_temperature_goes_to_the_queries(divide) -> None:
    s = array(C, low=1.0, high=2.0)

    def fn(q, k, v, s):
        s = s[:, None, None]
        return attend(q, k, v, lambda w: w / s if divide else s * w)

    node, _ = raised(fn, Q, K, V, s)
    assert settings(node) == {"scale": 1.0} and node.params["operands"][3:] == ()


def test_rows_in_which_all_is_masked_give_what_they_gave() -> None:
    mask = MASK.at[0, :, 1].set(False)
    for fill in (-np.inf, -1e9):
        change = lambda w, fill=fill: jnp.where(mask, w, fill)  # noqa: E731
        raised(lambda *a, change=change: attend(*a, change), Q, K, V)


# Precision.


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("wide", [False, True])
def test_low_precision_is_kept(dtype, wide) -> None:
    def fn(q, k, v):
        w = jnp.einsum("btnh,bsnh->bnts", q, k) * jnp.asarray(0.5, dtype)
        w = jnp.where(MASK, w, jnp.finfo(dtype).min)
        p = jax.nn.softmax(w.astype(jnp.float32) if wide else w)
        return jnp.einsum("bnts,bsnh->btnh", p.astype(dtype), v)

    args = [x.astype(dtype) for x in (Q, K, V)]
    node, _ = raised(fn, *args, tolerance=1e-6)
    got = settings(node)
    assert got["logits_dtype"] == jnp.dtype(dtype)
    assert got.get("softmax_dtype") == (jnp.dtype("float32") if wide else None)


def test_a_softmax_in_float32_alone() -> None:
    args = [x.astype(jnp.bfloat16) for x in (Q, K, V)]
    node, _ = raised(jax.nn.dot_product_attention, *args, tolerance=1e-2)
    assert not settings(node)
    fn = lambda q, k, v: attend(q, k, v, after=lambda p: p.astype(jnp.float32))  # noqa: E731
    node, _ = raised(fn, *args, tolerance=1e-2)
    assert node.inputs[2].dtype == jnp.float32


def test_float64_stays_what_it_was() -> None:
    with jax.enable_x64(True):
        args = [x.astype(jnp.float64) for x in (Q, K, V)]
        node, _ = raised(attend, *args, tolerance=1e-14)
        assert settings(node) == {"scale": 1.0}
        node, _ = raised(jax.nn.dot_product_attention, *args, tolerance=1e-14)
        assert settings(node) == {"softmax_dtype": jnp.dtype("float32")}


def test_precision_is_kept() -> None:
    def fn(q, k, v, second="highest"):
        w = jnp.einsum("btnh,bsnh->bnts", q, k, precision="highest")
        return jnp.einsum("bnts,bsnh->btnh", jax.nn.softmax(w), v, precision=second)

    node, _ = raised(fn, Q, K, V)
    assert settings(node)["precision"] == (jax.lax.Precision.HIGHEST,) * 2
    graph = passes.inline(trace(functools.partial(fn, second=None))(Q, K, V))
    assert_refuses(RAISE_ATTENTION, lambda *a: graph(*a), Q, K, V, because="precisions")


# Where it may stand.


def test_inside_of_scan_remat_and_cond() -> None:
    def fn(q, k, v):
        step = jax.checkpoint(lambda q, _: (attend(q, k, v), None))
        q = jax.lax.scan(step, q, None, length=2)[0]
        return jax.lax.cond(q.sum() > 0, lambda q: heads_first(q, k, v), lambda q: q, q)

    count = jp.optimize(fn).graph(Q, K, V).count()
    assert count["dot_product_attention"] == 2 and not count["dot_general"]


def test_a_softmax_that_is_named_later_and_converted() -> None:
    def fn(q, k, v):
        w = jnp.einsum("btnh,bsnh->bnts", q, k).astype(jnp.float32)
        e = jnp.exp(w - w.max(-1, keepdims=True))
        p = (e / e.sum(-1, keepdims=True)).astype(q.dtype)
        return jnp.einsum("bnts,bsnh->btnh", p, v)

    args = [x.astype(jnp.bfloat16) for x in (Q, K, V)]
    assert jp.optimize(fn).graph(*args).count() == {"dot_product_attention": 1}


def test_with_symbolic_sizes() -> None:
    b, t = jax.export.symbolic_shape("b, t")
    q = jax.ShapeDtypeStruct((b, t, 2, 4), jnp.float32)

    def fn(q, k, v):
        return attend(q, k, v, lambda w: jnp.where(jnp.tril(jnp.ones((t, t))) > 0, w, -1e9))

    graph = passes.inline(trace(fn)(q, q, q))
    new = rewrite(graph, ATTENTION_RULES)
    assert new.count()["dot_product_attention"] == 1


# Lookalikes.


@pytest.mark.parametrize(
    "fn, because",
    [
        (lambda q, k, v: attend(q, k, v, lambda w: jnp.where(MASK, w, -1e9) + BIAS), "no bias"),
        (lambda q, k, v: attend(q, k, v, lambda w: jnp.where(tril(), jnp.where(MASK, w, -9), -1e9)),
         "no mask"),
        (lambda q, k, v: attend(q, k, v, jnp.tanh), "no product"),
        (lambda q, k, v: attend(q, k, v, lambda w: 2 * jnp.tanh(w + BIAS)), "no cap"),
        (lambda q, k, v: attend(q, k, v, lambda w: 3 * (BIAS + 2 * jnp.tanh(w))), "no scale"),
        (lambda q, k, v: attend(q, k, v, lambda w: w * BIAS), "no factor"),
        (lambda q, k, v: attend(q, k, v, after=lambda p: p * 2), "softmax"),
        (lambda q, k, v: attend(q, k, v, after=lambda p: p.swapaxes(-1, -2)), "softmax's axis"),
        (lambda q, k, v: attend(q, k, v, after=lambda p: p.transpose(0, 2, 1, 3)),
         "query to query"),
        (lambda q, k, v: attend(q, k, v, lambda w: w.transpose(0, 2, 3, 1)), "keys share"),
        (lambda q, k, v: jnp.einsum("bnts,bsnh->btnh", jax.nn.softmax(
            jnp.einsum("btnh,bsnh->bnts", q, k), axis=(-1, -2)), v), "softmax"),
        (lambda q, k, v: jnp.einsum("bts,bsnh->btnh", jax.nn.softmax(
            jnp.einsum("btnh,bsnh->bts", q, k)), v), "several axes"),
        (lambda q, k, v: jnp.einsum("bnts,snh->btnh", jax.nn.softmax(
            jnp.einsum("btnh,bsnh->bnts", q, k)), v[0]), "shared"),
        (lambda q, k, v: attend(q, k, v, lambda w: jnp.maximum(w, 0)), "no product"),
    ],
)  # fmt: skip
def test_lookalikes_stay(fn, because) -> None:
    graph = passes.inline(trace(fn)(Q, K, V))
    assert_refuses(RAISE_ATTENTION, lambda *a: graph(*a), Q, K, V, because=because)


@pytest.mark.parametrize("which", ["weights", "logits"])
def test_values_in_between_with_another_user_stay(which) -> None:
    def fn(q, k, v):
        w = jnp.einsum("btnh,bsnh->bnts", q, k)
        p = jax.nn.softmax(w)
        return jnp.einsum("bnts,bsnh->btnh", p, v), (p if which == "weights" else w)

    graph = passes.inline(trace(fn)(Q, K, V))
    assert_refuses(RAISE_ATTENTION, lambda *a: graph(*a), Q, K, V, because="as well")


def test_complex_numbers_stay() -> None:
    z = Q.astype(jnp.complex64)
    graph = passes.inline(
        trace(lambda z: attend(z, z, z, lambda w: w.real, lambda p: p.astype(z.dtype)))(z)
    )
    assert_refuses(RAISE_ATTENTION, lambda z: graph(z), z)
