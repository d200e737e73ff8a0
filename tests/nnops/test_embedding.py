"""Embedding and attend against every library's own layer, ids outside of the table included."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpress import nnops

TABLE = jnp.asarray(np.random.default_rng(0).normal(size=(5, 3)), jnp.float32)
IDS = jnp.asarray([[0, 4, 2], [1, 1, 3]])
OUTSIDE = jnp.asarray([-9, -5, -1, 0, 4, 5, 99])


def _take(mode, fill_value=None):
    return lambda ids, table: jnp.take(table, ids, axis=0, mode=mode, fill_value=fill_value)


PLAIN = {
    ("fill", None): _take("fill"),
    ("fill", 0.5): _take("fill", 0.5),
    ("clip", None): _take("clip"),
    ("wrap", None): _take("wrap"),
    ("promise_in_bounds", None): lambda ids, table: table[ids],
    ("one_hot", None): lambda ids, table: (
        jax.nn.one_hot(ids, len(table), dtype=table.dtype) @ table
    ),
}


@pytest.mark.parametrize("mode, fill_value", PLAIN)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_rows_that_do_not_exist(mode, fill_value, dtype):
    """Values and gradients as jax.numpy has them, to the bit."""
    plain, table = PLAIN[mode, fill_value], TABLE.astype(dtype)
    ours = lambda i, t: nnops.embedding(i, t, mode=mode, fill_value=fill_value)  # noqa: E731
    got, want = ours(OUTSIDE, table), plain(OUTSIDE, table)
    assert got.dtype == want.dtype
    np.testing.assert_array_equal(got.astype("float32"), want.astype("float32"))
    weights = jnp.arange(7.0, dtype=dtype)[:, None]
    got, want = (jax.grad(lambda t, f=f: (f(OUTSIDE, t) * weights).sum())(table)
                 for f in (ours, plain))  # fmt: skip
    np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("mode", ["fill", "clip", "promise_in_bounds"])
def test_negative_ids_count_from_the_end_or_do_not(mode):
    yes = nnops.embedding(OUTSIDE, TABLE, mode=mode, from_end=True)
    no = nnops.embedding(OUTSIDE, TABLE, mode=mode, from_end=False)
    np.testing.assert_array_equal(yes[1], TABLE[0])
    np.testing.assert_array_equal(yes[2], TABLE[4])
    outside = jnp.full(3, jnp.nan) if mode == "fill" else TABLE[0]
    np.testing.assert_array_equal(no[:3], jnp.stack([outside] * 3))
    np.testing.assert_array_equal(yes[3:], no[3:])


@pytest.mark.parametrize("ids", ["int8", "uint8", "int16", "uint32", "int32"])
@pytest.mark.parametrize("dtype", ["float16", "int32", "uint8", "bool", "complex64"])
def test_ids_and_tables_of_other_dtypes(ids, dtype):
    table = (TABLE * 4).astype(dtype)
    i = OUTSIDE.astype(ids)
    got, want = nnops.embedding(i, table), jnp.take(table, i, axis=0)
    assert got.dtype == want.dtype
    np.testing.assert_array_equal(got, want)


def test_a_table_longer_than_the_ids_dtype_can_count():
    table = jnp.arange(300.0)[:, None]
    ids = jnp.asarray([-1, 127, -128], jnp.int8)
    np.testing.assert_array_equal(nnops.embedding(ids, table)[:, 0], [299.0, 127.0, 172.0])


def test_wide_ids():
    with jax.enable_x64(True):
        ids = jnp.asarray([3, -1, 99], jnp.int64)
        got = nnops.embedding(ids, jnp.asarray(TABLE, jnp.float64))
        assert got.dtype == jnp.float64
        np.testing.assert_array_equal(got[:2], np.asarray(TABLE, np.float64)[[3, 4]])
        assert np.isnan(got[2]).all()


def test_one_row_of_nan_is_everywhere_only_for_one_hot():
    table = TABLE.at[0].set(jnp.nan)
    assert not np.isnan(nnops.embedding(jnp.asarray([1]), table)).any()
    assert np.isnan(nnops.embedding(jnp.asarray([1]), table, mode="one_hot")).all()


@pytest.mark.parametrize("ids", [(), (0,), (2, 0), (4,), (2, 1, 3)])
def test_shapes_of_ids(ids):
    i = jnp.zeros(ids, jnp.int32)
    assert nnops.embedding(i, TABLE).shape == (*ids, 3)
    assert nnops.embedding(i, jnp.ones((5, 2, 4))).shape == (*ids, 2, 4)
    assert nnops.embedding(i, jnp.ones((5, 0))).shape == (*ids, 0)


def test_behaves_under_every_transformation(agree):
    ids = jnp.asarray([[0, 4], [-1, 7]])
    agree(
        lambda t: nnops.embedding(ids, t, mode="clip"),
        lambda t: jnp.take(t, ids, axis=0, mode="clip"),
        (5, 3),
    )


def test_vmap_over_ids_keeps_leading_dimensions():
    f = jax.vmap(jax.vmap(lambda i: nnops.embedding(i, TABLE)), in_axes=1)
    (eqn,) = (
        e for e in jax.make_jaxpr(f)(IDS).eqns if e.primitive is nnops.ops["embedding"].primitive
    )
    assert "mapped" not in eqn.params
    np.testing.assert_array_equal(f(IDS), TABLE[IDS.T])


def test_vmap_over_tables_keeps_the_op():
    tables = jnp.stack([TABLE, -TABLE])
    f = jax.vmap(nnops.embedding, (None, 0))
    names = [e.primitive.name for e in jax.make_jaxpr(f)(IDS, tables).eqns]
    assert "embedding" in names
    np.testing.assert_array_equal(f(IDS, tables), jnp.stack([TABLE[IDS], -TABLE[IDS]]))
    both = jax.vmap(nnops.embedding)(IDS, tables)
    np.testing.assert_array_equal(both, jnp.stack([TABLE[IDS[0]], -TABLE[IDS[1]]]))


def test_a_symbolic_batch_and_vocabulary():
    n, v = jax.export.symbolic_shape("n, v")
    exported = jax.export.export(jax.jit(nnops.embedding))(
        jax.ShapeDtypeStruct((n,), jnp.int32), jax.ShapeDtypeStruct((v, 3), jnp.float32)
    )
    np.testing.assert_array_equal(exported.call(OUTSIDE, TABLE), jnp.take(TABLE, OUTSIDE, axis=0))


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda: nnops.embedding(jnp.ones(2), TABLE), "ids are float32"),
        (lambda: nnops.embedding(jnp.ones(2, bool), TABLE), "ids are bool"),
        (lambda: nnops.embedding(IDS, jnp.ones(3)), "table has 1 axes"),
        (lambda: nnops.embedding(IDS, jnp.ones((0, 3))), "the table is empty"),
        (lambda: nnops.embedding(IDS, TABLE, mode="drop"), "mode is 'drop'"),
        (lambda: nnops.embedding(IDS, TABLE, mode="clip", fill_value=0.0), "fills nothing in"),
        (lambda: nnops.embedding(IDS, None), "missing"),
        (lambda: nnops.attend(jnp.ones((2, 4)), TABLE), "x has shape (2, 4) and the table (5, 3)"),
        (lambda: nnops.attend(jnp.ones((2, 3)), TABLE[0]), "the table (3,)"),
        (lambda: nnops.attend(jnp.ones((2, 3)), TABLE, jnp.ones(3)), "b has shape (3,)"),
    ],
)
def test_bad_arguments(call, words):
    with pytest.raises(nnops.OpError) as caught:
        call()
    assert words in str(caught.value)
    assert "to mend it: " in str(caught.value)


def test_no_ids_need_no_table():
    assert nnops.embedding(jnp.zeros((0, 2), jnp.int32), jnp.ones((0, 3))).shape == (0, 2, 3)


def test_linen_and_nnx():
    linen, nnx = pytest.importorskip("flax.linen"), pytest.importorskip("flax.nnx")
    module = linen.Embed(5, 3)
    params = {"params": {"embedding": TABLE}}
    np.testing.assert_array_equal(module.apply(params, OUTSIDE), nnops.embedding(OUTSIDE, TABLE))
    x = TABLE[:2] * 2
    scores = module.apply(params, x, method="attend")
    np.testing.assert_allclose(nnops.attend(x, TABLE), scores, rtol=1e-6)
    layer = nnx.Embed(5, 3, rngs=nnx.Rngs(0))
    table = layer.embedding[...]
    np.testing.assert_array_equal(layer(OUTSIDE), nnops.embedding(OUTSIDE, table))
    np.testing.assert_allclose(layer.attend(x), nnops.attend(x, table), rtol=1e-6)


def test_equinox():
    eqx = pytest.importorskip("equinox")
    layer = eqx.nn.Embedding(weight=TABLE)
    for i in (-9, -5, -1, 0, 4, 5):
        got = nnops.embedding(jnp.asarray(i), TABLE, mode="promise_in_bounds")
        np.testing.assert_array_equal(got, layer(jnp.asarray(i)))


def test_haiku():
    hk = pytest.importorskip("haiku")
    for style, mode in (("ARRAY_INDEX", "promise_in_bounds"), ("ONE_HOT", "one_hot")):
        run = hk.without_apply_rng(
            hk.transform(lambda i, s=style: hk.Embed(embedding_matrix=TABLE, lookup_style=s)(i))
        )
        params = run.init(jax.random.key(0), OUTSIDE)
        got = nnops.embedding(OUTSIDE, TABLE, mode=mode, precision=None)
        np.testing.assert_array_equal(got, run.apply(params, OUTSIDE))


def test_keras(monkeypatch):
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    keras = pytest.importorskip("keras")
    layer = keras.layers.Embedding(5, 3)
    layer.build()
    layer.embeddings.assign(TABLE)
    np.testing.assert_array_equal(layer(OUTSIDE), nnops.embedding(OUTSIDE, TABLE))


def test_torch():
    torch = pytest.importorskip("torch")
    layer = torch.nn.Embedding(5, 3, _weight=torch.tensor(np.asarray(TABLE)))
    got = layer(torch.tensor(np.asarray(IDS), dtype=torch.long)).detach().numpy()
    np.testing.assert_array_equal(nnops.embedding(IDS, TABLE), got)


def test_attend_behaves_under_every_transformation(agree):
    agree(
        lambda x, t, b: nnops.attend(x, t, b, activation="tanh"),
        lambda x, t, b: jnp.tanh(x @ t.T + b),
        (2, 3), (5, 3), (5,),
    )  # fmt: skip


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_attend_is_the_product_with_the_table_turned(dtype):
    x, table = TABLE[:2].astype(dtype), TABLE.astype(dtype)
    got, want = jax.jit(nnops.attend)(x, table), jax.jit(lambda x, t: x @ t.T)(x, table)
    assert got.dtype == want.dtype
    np.testing.assert_array_equal(got, want)
    assert nnops.attend(x.astype("float32"), table.astype("bfloat16")).dtype == jnp.float32
