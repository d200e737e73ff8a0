"""Lookups in tables, one-hot products and tied scores, as each library writes them."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from helpers import array, assert_refuses, rewritten
from jaxpress import passes
from jaxpress.capture import trace
from jaxpress.passes.rules.raise_embedding import (
    EMBEDDING_RULES,
    RAISE_ATTEND,
    RAISE_EMBEDDED_ROW,
    RAISE_EMBEDDING,
    RAISE_ONE_HOT,
    RAISE_ONE_HOT_EMBEDDING,
)
from jaxpress.testing import assert_rewrites

RTOL = {"float32": 1e-5, "bfloat16": 1e-2}
TABLE = array(7, 4)
IDS = jnp.asarray([[0, 6, -1], [3, -7, 2]])
# What is in the table, what counts from its end, and what is neither.
OUTSIDE = jnp.asarray([-9, -7, -1, 0, 6, 7, 99])


def inlined(fn, *args):
    graph = passes.cleanup(trace(fn)(*args))
    return lambda *a: graph(*a)


def raised(rule, fn, *args):
    """The graph after a rule that applied once, with the same values."""
    new, names = rewritten(rule, fn, *args)
    assert names == [rule.name]
    got, want = new(*args), fn(*args)
    assert got.dtype == want.dtype
    rtol = RTOL.get(str(want.dtype), 0)
    np.testing.assert_allclose(got.astype("float32"), want.astype("float32"), rtol, 1e-6)
    return new


LOOKUPS = {
    "index": lambda t, i: t[i],
    "take": lambda t, i: jnp.take(t, i, axis=0),
    "take clip": lambda t, i: jnp.take(t, i, axis=0, mode="clip"),
    "take fill": lambda t, i: jnp.take(t, i, axis=0, mode="fill", fill_value=0.5),
    "at clip": lambda t, i: t.at[i].get(mode="clip"),
    "at fill": lambda t, i: t.at[i].get(mode="fill", fill_value=0),
    "at promise": lambda t, i: t.at[i].get(mode="promise_in_bounds", indices_are_sorted=False),
    "take wrap": lambda t, i: jnp.take(t, i, axis=0, mode="wrap"),
    "vmap of one": lambda t, i: jax.vmap(lambda i: t[i])(i),
    "vmap of lists": lambda t, i: jax.vmap(lambda i: t[i[None]], out_axes=1)(i),
    "cast": lambda t, i: t.astype("bfloat16")[i],
    "small ids": lambda t, i: t[i.astype("int8")],
    "byte ids": lambda t, i: jnp.take(t, i.astype("uint8"), axis=0),
}


@pytest.mark.parametrize("name", LOOKUPS)
def test_lookups_of_every_kind(name) -> None:
    """For ids outside of the table too."""
    fn = inlined(LOOKUPS[name], TABLE, OUTSIDE)
    new = raised(RAISE_EMBEDDING, fn, TABLE, OUTSIDE)
    assert new.count()["embedding"] == 1 and not new.find("gather")
    if "wrap" not in name:
        assert not new.find("select_n") and not new.find("lt")
    # The same with a table that is closed over.
    closed, rules = rewritten(
        passes.cleanup + RAISE_EMBEDDING, lambda i: LOOKUPS[name](TABLE, i), IDS[0]
    )
    assert rules[-1] == "raise_embedding"
    np.testing.assert_array_equal(
        closed(IDS[0]).astype("float32"), LOOKUPS[name](TABLE, IDS[0]).astype("float32")
    )


@pytest.mark.parametrize("name", ["index", "take", "at clip"])
def test_ids_that_vmap_moves(name) -> None:
    def fn(table, ids):
        return jax.vmap(jax.vmap(lambda i: LOOKUPS[name](table, i)), 1, 1)(ids)

    ids = jnp.stack([OUTSIDE, OUTSIDE[::-1]])
    new = raised(RAISE_EMBEDDING, inlined(fn, TABLE, ids), TABLE, ids)
    assert new.count()["embedding"] == 1 and not {"add", "gather"} & set(new.count())


@pytest.mark.parametrize("name", ["index", "take", "at clip"])
def test_it_is_the_same_function(name) -> None:
    """Bits and gradients."""
    fn = inlined(LOOKUPS[name], TABLE, OUTSIDE)
    assert_rewrites(RAISE_EMBEDDING, fn, TABLE, OUTSIDE, times=1, vmap=False)


def test_the_parameters_say_what_happens_to_ids_outside() -> None:
    def params(name):
        new, _ = rewritten(passes.cleanup + RAISE_EMBEDDING, LOOKUPS[name], TABLE, IDS)
        (node,) = new.find("embedding")
        return node.params["mode"], node.params["fill_value"], node.params["from_end"]

    assert params("index") == ("promise_in_bounds", None, True)
    assert params("take") == ("fill", None, True)
    assert params("take fill") == ("fill", 0.5, True)
    assert params("take clip") == ("clip", None, False)
    assert params("at clip") == ("clip", None, True)


def test_one_lookup_for_several_tables() -> None:
    """They share the arithmetic of the ids."""
    other = array(7, 2)
    fn = lambda i: jnp.concatenate([TABLE[i], other[i]], -1)  # noqa: E731
    new, _ = rewritten(passes.default, fn, IDS)
    assert new.count()["embedding"] == 2 and not new.find("select_n")
    np.testing.assert_array_equal(new(IDS), fn(IDS))


def test_tables_of_more_axes_and_other_types() -> None:
    table = array(7, 2, 3)
    fn = lambda i: table[i]  # noqa: E731
    new, rules = rewritten(passes.cleanup + RAISE_EMBEDDING, fn, IDS)
    np.testing.assert_array_equal(new(IDS), fn(IDS))
    whole = (TABLE * 9).astype("int8")
    new, rules = rewritten(passes.cleanup + RAISE_EMBEDDING, lambda i: whole[i] * 0.1, IDS)
    assert rules == ["raise_embedding"]
    # An input of integers may well be data.
    assert_refuses(RAISE_EMBEDDING, inlined(lambda t, i: t[i], whole, IDS), whole, IDS)


def test_one_row_of_a_known_table() -> None:
    fn = inlined(lambda i: TABLE[i], IDS[0, 0])
    for i in (3, -1, -9, 9):
        new = raised(RAISE_EMBEDDED_ROW, fn, jnp.asarray(i))
    assert new.count()["embedding"] == 1
    data = inlined(lambda x, i: x[i], TABLE, IDS[0, 0])
    assert_refuses(RAISE_EMBEDDED_ROW, data, TABLE, IDS[0, 0], because="known before the data")


@pytest.mark.parametrize(
    ("fn", "args", "because"),
    [
        (lambda t, i: jnp.sin(t)[i], (TABLE, IDS), "no table of weights"),
        (lambda t, i: t[:, i], (TABLE, IDS % 4), "whole rows"),
        (lambda t, i: t[i, 1], (TABLE, IDS), "whole rows"),
        (lambda t, i: t[i, i % 4], (TABLE, IDS), "whole rows"),
        (lambda t, i: t[0][i % 4], (TABLE, IDS), "no table"),
        (lambda t, i: jnp.take_along_axis(t, i, 1), (TABLE, IDS[:1].repeat(7, 0) % 4), ""),
        (lambda t, i: jax.vmap(lambda t, i: t[i])(t, i), (array(2, 7, 4), IDS), ""),
    ],
)
def test_other_gathers_stay(fn, args, because) -> None:
    assert_refuses(EMBEDDING_RULES, inlined(fn, *args), *args)
    if because:
        assert_refuses(RAISE_EMBEDDING, inlined(fn, *args), *args, because=because)


def off_by(change):
    def fn(t, i):
        i = change(i)
        return t.at[i].get(mode="promise_in_bounds", wrap_negative_indices=False)

    return fn


@pytest.mark.parametrize(
    "change",
    [
        lambda i: jnp.where(i < 0, i + 6, i),
        lambda i: jnp.where(i < 1, i + 7, i),
        lambda i: jnp.where(i < 0, i, i + 7),
        lambda i: jnp.where(i[::-1] < 0, i + 7, i),
        lambda i: jnp.where(i < 0, i[::-1] + 7, i),
        lambda i: jnp.where(i <= 0, i + 7, i),
    ],
)
def test_arithmetic_that_only_looks_like_it_stays(change) -> None:
    fn = inlined(off_by(change), TABLE, IDS)
    new = raised(RAISE_EMBEDDING, fn, TABLE, IDS)
    (node,) = new.find("embedding")
    assert new.find("select_n") and not node.params["from_end"]


def test_a_symbolic_batch() -> None:
    (n,) = jax.export.symbolic_shape("n")
    ids = jax.ShapeDtypeStruct((n, 3), jnp.int32)
    new, rules = rewritten(passes.cleanup + RAISE_EMBEDDING, lambda i: TABLE[i], ids)
    assert rules == ["raise_embedding"] and new.outputs[0].shape == (n, 3, 4)


# One-hot encodings.


@pytest.mark.parametrize(
    "fn",
    [
        lambda i: jax.nn.one_hot(i, 7),
        lambda i: jax.nn.one_hot(i, 7, axis=0, dtype="bfloat16"),
        lambda i: jax.nn.one_hot(i, 7, axis=1, dtype="int32"),
        lambda i: (i[..., None] == jnp.arange(7)).astype("float32"),
        lambda i: jnp.where(jnp.arange(7)[:, None, None] == i, 1.0, 0.0).astype("float16"),
        lambda i: jax.vmap(lambda i: jax.nn.one_hot(i, 7))(i),
    ],
)
def test_one_hot(fn) -> None:
    tidy = inlined(fn, IDS)
    record = rewritten(RAISE_ONE_HOT, tidy, IDS)[1]
    if "where" in str(fn.__code__.co_names):  # a choice of numbers is no conversion
        assert not record
        return
    new = raised(RAISE_ONE_HOT, tidy, IDS)
    assert set(new.count()) <= {"one_hot"}


@pytest.mark.parametrize(
    ("fn", "x"),
    [
        (lambda i: (i == 3).astype("float32"), IDS),
        (lambda i: (i[..., None] == jnp.arange(1, 8)).astype("float32"), IDS),
        (lambda i: (i[..., None] > jnp.arange(7)).astype("float32"), IDS),
        (lambda x: (x[..., None] == jnp.arange(7.0)).astype("float32"), IDS.astype("float32")),
        (lambda i: (i == jnp.arange(3)).astype("float32"), IDS),
    ],
)
def test_other_comparisons_stay(fn, x) -> None:
    assert_refuses(RAISE_ONE_HOT, inlined(fn, x), x)


@pytest.mark.parametrize(
    "fn",
    [
        lambda t, i: jax.nn.one_hot(i, 7) @ t,
        lambda t, i: (i[..., None] == jnp.arange(7)).astype(t.dtype) @ t,
        lambda t, i: jnp.einsum("vd,btv->btd", t, jax.nn.one_hot(i, 7)),
        lambda t, i: jax.nn.one_hot(i, 7, dtype="bfloat16") @ t.astype("bfloat16"),
        lambda t, i: jnp.dot(jax.nn.one_hot(i, 7), t, precision="highest"),
        lambda t, i: jax.nn.one_hot(i, 7) @ t.T.T,
    ],
)
def test_one_hot_products(fn) -> None:
    tidy = inlined(fn, TABLE, OUTSIDE[None])
    new = raised(RAISE_ONE_HOT_EMBEDDING, tidy, TABLE, OUTSIDE[None])
    (node,) = new.find("embedding")
    assert node.params["mode"] == "one_hot" and not new.find("eq")


def test_a_one_hot_product_is_the_same_function() -> None:
    fn = inlined(lambda t, i: jax.nn.one_hot(i, 7) @ t, TABLE, OUTSIDE)
    assert_rewrites(RAISE_ONE_HOT_EMBEDDING, fn, TABLE, OUTSIDE, times=1, vmap=False)


def test_other_products_stay() -> None:
    wide = lambda t, i: jax.nn.one_hot(i, 7) @ jnp.sin(t)  # noqa: E731
    assert_refuses(RAISE_ONE_HOT_EMBEDDING, inlined(wide, TABLE, IDS), TABLE, IDS)
    other = lambda t, i: jax.nn.one_hot(i, 7, axis=0).T @ t  # noqa: E731
    assert_refuses(RAISE_ONE_HOT_EMBEDDING, inlined(other, TABLE, IDS[0]), TABLE, IDS[0])


# Tied scores.


@pytest.mark.parametrize(
    "fn",
    [
        lambda t, i: jnp.tanh(t[i]) @ t.T,
        lambda t, i: jnp.dot(jnp.tanh(jnp.take(t, i, axis=0)), t.T),
        lambda t, i: jnp.einsum("...d,vd->...v", jnp.tanh(t[i]), t),
        lambda t, i: jax.vmap(jax.vmap(lambda h: t @ h))(jnp.tanh(t[i])),
        lambda t, i: jnp.tanh(t.astype("bfloat16")[i]) @ t.astype("bfloat16").T,
        lambda t, i: jnp.tanh(t[i]).astype("bfloat16") @ t.astype("bfloat16").T,
    ],
)
def test_tied_scores(fn) -> None:
    tidy = inlined(fn, TABLE, IDS)
    new, rules = rewritten(RAISE_ATTEND, tidy, TABLE, IDS)
    assert rules == ["raise_attend"] and not new.find("dot_general")
    got, want = (jax.jit(f)(TABLE, IDS).astype("float32") for f in (new, fn))
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)
    for pipeline in (passes.default, passes.inference):
        count = pipeline(trace(fn)(TABLE, IDS)).count()
        assert count["attend"] == count["embedding"] == 1 and "dense" not in count


def test_tied_scores_are_the_same_function() -> None:
    tidy = inlined(lambda t, i: jnp.tanh(t[i]) @ t.T, TABLE, IDS)
    assert_rewrites(RAISE_ATTEND, tidy, TABLE, IDS, times=1, vmap=False)


def test_untied_scores_stay() -> None:
    other = array(7, 4, seed=1)
    for fn in (
        lambda t, i: jnp.tanh(t[i]) @ other.T,
        lambda t, i: jnp.tanh(t[i]) @ t[:4],
        lambda t, i: jnp.tanh(t[i]) @ (t * 2).T,
        lambda t, i: jnp.tanh(t.T) @ t,
    ):
        assert_refuses(RAISE_ATTEND, inlined(fn, TABLE, IDS), TABLE, IDS, because="looked up")


# The libraries' own layers, with weights closed over and as arguments.


def linen(dtype=None):
    nn = pytest.importorskip("flax.linen")

    class Tied(nn.Module):
        @nn.compact
        def __call__(self, ids):
            table = nn.Embed(7, 4, dtype=dtype)
            y = table.attend(jnp.tanh(table(ids)))
            return y + self.param("b", nn.initializers.ones, (7,)).astype(y.dtype)

    module = Tied()
    return module.apply, module.init(jax.random.key(0), IDS), {"attend": 1, "embedding": 1}


def nnx():
    nnx = pytest.importorskip("flax.nnx")
    graph, state = nnx.split(nnx.Embed(7, 4, rngs=nnx.Rngs(0)))
    return lambda s, i: nnx.merge(graph, s)(i), state, {"embedding": 1}


def keras():
    layers = pytest.importorskip("keras").layers
    layer = layers.Embedding(7, 4)
    layer.build()
    weights = [v.value for v in layer.trainable_variables]
    return lambda w, i: layer.stateless_call(w, [], i)[0], weights, {"embedding": 1}


def haiku(style):
    hk = pytest.importorskip("haiku")
    run = hk.without_apply_rng(hk.transform(lambda i: hk.Embed(7, 4, lookup_style=style)(i)))
    return run.apply, run.init(jax.random.key(0), IDS), {"embedding": 1}


def equinox():
    eqx = pytest.importorskip("equinox")
    layer = eqx.nn.Embedding(7, 4, key=jax.random.key(0))
    return lambda layer, i: jax.vmap(jax.vmap(layer))(i), layer, {"embedding": 1}


@pytest.mark.parametrize(
    "make",
    [
        linen,
        lambda: linen("bfloat16"),
        nnx,
        keras,
        lambda: haiku("ARRAY_INDEX"),
        lambda: haiku("ONE_HOT"),
        equinox,
    ],
    ids=["linen", "linen bfloat16", "nnx", "keras", "haiku", "haiku one-hot", "equinox"],
)
def test_layers(make, monkeypatch) -> None:
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    apply, weights, wanted = make()
    for fn, args in ((lambda i: apply(weights, i), (IDS,)), (apply, (weights, IDS))):
        for pipeline in (passes.default, passes.inference):
            new = pipeline(trace(fn)(*args))
            count = {k: n for k, n in new.count().items() if k != "convert_element_type"}
            assert {k: count.get(k) for k in wanted} == wanted
            assert set(count) <= {*wanted, "tanh", "reshape"}, count
        got, want = new(*args), fn(*args)
        np.testing.assert_allclose(
            got.astype("float32"),
            want.astype("float32"),
            rtol=RTOL[str(want.dtype)],
        )
