"""Masks on attention: what a library's own mask gives, and what each sequence gives alone."""

from __future__ import annotations

import functools
import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxpress as jp
from helpers import array, quick_compiles
from jaxpress import nnops
from jaxpress.capture import ArgumentError, PassError, trace
from jaxpress.passes import insert_attention_mask

B, T, D, HEADS = 2, 6, 8, 2
X = array(B, T, D)
LENGTHS = jnp.array([6, 4], jnp.int32)
SEGMENTS = jnp.array([[1, 1, 1, 2, 2, 2], [1, 1, 1, 2, 2, 0]], jnp.int32)


@pytest.fixture(autouse=True)
def compiled_quickly():
    with quick_compiles():
        yield


# Two layers of attention in each library: ``model(x, causal)``.


def in_jax():
    w = [array(D, D, seed=i) / 3 for i in range(4)]

    def layer(x, causal):
        q, k, v = ((x @ w[i]).reshape(*x.shape[:-1], HEADS, -1) for i in range(3))
        y = jax.nn.dot_product_attention(q, k, v, is_causal=causal)
        return x + y.reshape(x.shape) @ w[3]

    return lambda x, causal=False: layer(layer(x, causal), causal)


def in_linen():
    nn = pytest.importorskip("flax.linen")
    layers = [nn.MultiHeadDotProductAttention(HEADS) for _ in range(2)]
    params = [m.init(jax.random.key(i), X) for i, m in enumerate(layers)]

    def model(x, causal=False):
        mask = nn.make_causal_mask(x[..., 0]) if causal else None
        for m, p in zip(layers, params, strict=True):
            x = x + m.apply(p, x, mask=mask)
        return x

    return model


def in_nnx():
    nnx = pytest.importorskip("flax.nnx")
    layers = [nnx.MultiHeadAttention(HEADS, D, decode=False, rngs=nnx.Rngs(i)) for i in range(2)]

    def model(x, causal=False):
        mask = nnx.make_causal_mask(x[..., 0]) if causal else None
        for m in layers:
            x = x + m(x, mask=mask)
        return x

    return model


def in_haiku():
    hk = pytest.importorskip("haiku")

    def forward(x, causal=False):
        mask = jnp.tril(jnp.ones((1, 1, T, T))) if causal else None
        for _ in range(2):
            x = x + hk.MultiHeadAttention(HEADS, D // HEADS, w_init_scale=1.0)(x, x, x, mask)
        return x

    f = hk.without_apply_rng(hk.transform(forward))
    return functools.partial(f.apply, f.init(jax.random.key(0), X))


def in_equinox():
    eqx = pytest.importorskip("equinox")
    layers = [eqx.nn.MultiheadAttention(HEADS, D, key=jax.random.key(i)) for i in range(2)]

    def one(x, causal):
        mask = jnp.tril(jnp.ones((T, T), bool)) if causal else None
        for m in layers:
            x = x + m(x, x, x, mask=mask)
        return x

    return lambda x, causal=False: jax.vmap(lambda x: one(x, causal))(x)


def in_keras():
    os.environ.setdefault("KERAS_BACKEND", "jax")
    keras = pytest.importorskip("keras")
    # With dropout, a layer computes its weights by itself.
    layers = [keras.layers.MultiHeadAttention(HEADS, D // HEADS, dropout=p) for p in (0.0, 0.1)]
    for m in layers:
        m(X, X)

    def model(x, causal=False):
        for m in layers:
            x = x + m(x, x, use_causal_mask=causal)
        return x

    return model


LIBRARIES = [in_jax, in_linen, in_nnx, in_haiku, in_equinox, in_keras]


@pytest.mark.parametrize("library", LIBRARIES)
def test_causal_is_the_library_s_own(library) -> None:
    model = library()
    causal = jp.optimize(model, [insert_attention_mask("causal"), "default"])
    want = jax.jit(lambda x: model(x, causal=True))(X)
    assert np.abs(want - jax.jit(model)(X)).max() > 1e-2
    np.testing.assert_allclose(causal(X), want, rtol=2e-5, atol=2e-5)
    nodes = causal.graph(X).find("dot_product_attention")
    assert [n.params["is_causal"] for n in nodes] == [True, True]


@pytest.mark.parametrize("library", LIBRARIES)
def test_padding_gives_what_each_sequence_gives_alone(library) -> None:
    model = library()
    padded = jp.optimize(model, [insert_attention_mask("key_padding"), "default"])
    got = padded(X, lengths=LENGTHS)
    for row, x, n in zip(got, X, LENGTHS, strict=True):
        want = jax.jit(model)(x[None, : int(n)])[0]
        np.testing.assert_allclose(row[: int(n)], want, rtol=2e-5, atol=2e-5)


def test_packed_sequences_see_themselves_alone() -> None:
    model = in_jax()
    packed = jp.optimize(
        model, [insert_attention_mask("segments"), insert_attention_mask("causal"), "default"]
    )
    got = packed(X, segment_ids=SEGMENTS)
    alone = jax.jit(lambda x: model(x, causal=True))
    for row, x, ids in zip(got, X, SEGMENTS, strict=True):
        for segment in set(ids.tolist()):
            at = np.flatnonzero(ids == segment)
            want = alone(x[None, at])[0]
            np.testing.assert_allclose(row[at], want, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("window", [2, (1, 0), (None, 1)])
def test_windows(window) -> None:
    attend = lambda x: nnops.dot_product_attention(x, x, x, local_window_size=(3, 2))  # noqa: E731
    x = array(B, T, 2, 4)
    graph = insert_attention_mask("sliding_window", window=window)(trace(attend)(x))
    left, right = window if isinstance(window, tuple) else (window, window)
    want = jax.nn.dot_product_attention(
        x, x, x, local_window_size=(3 if left is None else left, min(right, 2))
    )
    np.testing.assert_allclose(jax.jit(graph)(x), want, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("shape", [(T, T), (B, 1, T, T), (1, 2, 1, T)])
def test_masks_given_as_arrays_hold_with_those_that_are_there(shape) -> None:
    own, mask = array(B, 1, T, T) > -1, array(*shape, seed=1) > -1
    x = array(B, T, 2, 4)
    attend = lambda x, m=None: jax.nn.dot_product_attention(x, x, x, mask=m)  # noqa: E731
    want = attend(x, own & mask.reshape((1,) * (4 - mask.ndim) + mask.shape))
    for fn in (lambda x: attend(x, own), lambda x: attend(x, own & True)):
        graph = insert_attention_mask(mask)(trace(fn)(x))
        np.testing.assert_allclose(jax.jit(graph)(x), want, rtol=1e-5, atol=1e-6)


# How it is called, and where it reaches.


def test_new_arguments_are_ordinary_ones() -> None:
    model = in_jax()
    step = insert_attention_mask("key_padding", argument="n")
    padded = jp.optimize(model, [step, "default"])
    graph = padded.graph(X, n=LENGTHS)
    assert "n" in [v.name for v in graph.inputs]
    want = padded(X, n=LENGTHS)
    np.testing.assert_allclose(jax.jit(graph)(X, n=LENGTHS), want, rtol=1e-6)
    grads = jax.jit(jax.grad(lambda x: padded(x, n=LENGTHS)[1, 0].sum()))(X)
    assert np.all(grads[1, 4:] == 0) and np.all(np.abs(grads[1, :4]).max(-1) > 0)
    for bad in ({}, {"n": LENGTHS[:1]}, {"n": LENGTHS * 1.0}):
        with pytest.raises(ArgumentError):
            padded(X, **bad)


def looped(x):
    """Attention in a scan's body, in remat, in a branch and in a loop."""
    attend = lambda x: jax.nn.dot_product_attention(x, x, x)  # noqa: E731
    step = jax.checkpoint(lambda x, _: (x + attend(x), None))
    x = jax.lax.scan(step, x, None, length=2)[0]
    x = jax.lax.cond(x[0, 0, 0, 0] < 1e9, lambda x: x - attend(x), lambda x: x, x)
    return jax.lax.fori_loop(0, 2, lambda i, x: x + attend(x), x)


@pytest.mark.parametrize("kind", ["causal", "key_padding", "array"])
def test_attention_in_bodies_is_reached(kind) -> None:
    x = array(B, T, 2, 4)
    mask = jnp.asarray(np.tril(np.ones((T, T), bool)))
    step = insert_attention_mask(mask if kind == "array" else kind)
    graph = step(trace(looped)(x)).validate()
    assert graph.count()["dot_product_attention"] == 3
    given = {"lengths": LENGTHS} if kind == "key_padding" else {}
    masks = (
        {"mask": nnops.sequence_mask(LENGTHS, T)[:, None, None]} if given else {"is_causal": True}
    )
    own = functools.partial(jax.nn.dot_product_attention, **masks)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jax.nn, "dot_product_attention", own)
        want = jax.jit(lambda x: looped(x))(x)
    np.testing.assert_allclose(jax.jit(graph)(x, **given), want, rtol=1e-5, atol=1e-5)
    if kind == "causal":
        assert np.isfinite(jax.jit(jax.grad(lambda x: graph(x).sum()))(x)).all()


def test_attention_is_chosen_by_scope_or_predicate() -> None:
    def fn(x):
        with jax.named_scope("encoder"):
            x = jax.nn.dot_product_attention(x, x, x)
        with jax.named_scope("decoder"):
            return jax.nn.dot_product_attention(x, x[:, :3], x[:, :3])

    x = array(B, T, 2, 4)
    graph = trace(fn)(x)
    long = lambda node: node.inputs[1].shape[1] == T  # noqa: E731
    for where in ("encoder*", long, ["nowhere", long]):
        new = insert_attention_mask("causal", where)(graph)
        nodes = new.find("dot_product_attention")
        assert [n.params["is_causal"] for n in nodes] == [True, False]
    with pytest.raises(PassError, match=r"'nowhere'; there is some in \['decoder"):
        insert_attention_mask("causal", "nowhere")(graph)
    with pytest.raises(PassError, match="one argument cannot serve"):
        insert_attention_mask("key_padding")(graph)
    with pytest.raises(PassError, match="6 queries and 3 keys"):
        insert_attention_mask("segments")(graph)
    insert_attention_mask("key_padding", "encoder*")(graph)


def test_attention_inside_of_an_op_is_chosen_by_that_op() -> None:
    w, out = array(D, HEADS, 4), array(HEADS, 4, D)

    def fn(x, causal=False):
        with jax.named_scope("one"):
            x = nnops.multi_head_attention(x, None, None, w, w, w, out, is_causal=causal)
        x = x.reshape(B, T, HEADS, -1)
        return nnops.dot_product_attention(x, x, x)

    graph = insert_attention_mask("causal", "multi_head_attention")(trace(fn)(X))
    scopes = {n.scope: n.params["is_causal"] for n in graph.find("dot_product_attention")}
    assert scopes == {"one/multi_head_attention": True, "": False}
    np.testing.assert_allclose(jax.jit(graph)(X), fn(X, causal=True), rtol=1e-5, atol=1e-5)
    hint = "choose 'multi_head_attention' or 'dot_product_attention'"
    with pytest.raises(PassError, match=hint):
        insert_attention_mask("causal", "nowhere")(trace(fn)(X))


def test_every_insertion_is_on_record() -> None:
    record = []
    insert_attention_mask("causal")(trace(in_jax())(X), record)
    assert [r.rule for r in record] == ["insert_attention_mask"] * 2


@pytest.mark.parametrize(
    "arguments, because",
    [
        (("diagonal",), "no mask 'diagonal'"),
        (("sliding_window",), "window="),
        (("causal", None, 2), "window="),
        (("sliding_window", None, (1, 2, 3)), "whole numbers"),
        (("causal", None, None, "n"), "argument"),
        ((jnp.ones((T, T)),), "give booleans"),
        ((jnp.ones(T, bool),), "give booleans"),
    ],
)
def test_options_that_contradict(arguments, because) -> None:
    names = ("mask", "where", "window", "argument")
    with pytest.raises(PassError, match=because):
        insert_attention_mask(**dict(zip(names, arguments, strict=False)))


def test_what_cannot_take_the_mask() -> None:
    x = array(B, T, 2, 4)
    with pytest.raises(PassError, match="no attention is chosen by None; there is none"):
        insert_attention_mask("causal")(trace(jnp.sin)(x))
    with pytest.raises(PassError, match="cannot take the mask"):
        insert_attention_mask(jnp.ones((3, 3), bool))(
            trace(lambda x: jax.nn.dot_product_attention(x, x, x))(x)
        )

    slope = jax.grad(lambda x: jnp.sum(nnops.dot_product_attention(x, x, x) ** 2))
    with pytest.raises(PassError, match="is differentiated in this function already"):
        insert_attention_mask("causal")(trace(slope)(x))

    by_hand = jax.grad(lambda x: jnp.sum(jax.nn.dot_product_attention(x, x, x) ** 2))
    with pytest.raises(PassError, match="there is none; of what is differentiated already"):
        insert_attention_mask("causal")(trace(by_hand)(x))

    @jax.custom_jvp
    def own(x):
        return nnops.dot_product_attention(x, x, x)

    own.defjvp(lambda primals, tangents: (own(*primals), tangents[0]))
    with pytest.raises(PassError, match="derivative rule"):
        insert_attention_mask("causal")(trace(own)(x))
    mapped = jax.vmap(lambda q, k: nnops.dot_product_attention(q, k, k), (0, None))
    with pytest.raises(PassError, match="mapped"):
        insert_attention_mask("key_padding")(trace(mapped)(x[None], x))
