"""The op dot_product_attention against jax.nn, Flax, torch, and numpy in float64."""

import functools

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest

from helpers import quick_compiles
from jaxpress import nnops

B, T, S, N, K, H = 2, 3, 5, 4, 2, 6


def draw(*shape, seed=0, dtype=jnp.float32):
    return jnp.asarray(np.random.default_rng([seed, *shape]).normal(size=shape), dtype)


def flags(*shape, seed=0):
    return jnp.asarray(np.random.default_rng([seed, *shape]).random(shape) < 0.6)


def operands(heads=N, dtype=jnp.float32, t=T, s=S):
    return (
        draw(B, t, N, H, dtype=dtype),
        draw(B, s, heads, H, seed=1, dtype=dtype),
        draw(B, s, heads, H, seed=2, dtype=dtype),
    )


LENGTHS = jnp.array([2, 4], jnp.int32)
CASES = {
    "plain": {},
    "causal": {"is_causal": True},
    "scale": {"scale": 0.3},
    "bias": {"bias": draw(1, N, T, S)},
    "mask": {"mask": flags(B, 1, T, S)},
    "mask of heads": {"mask": flags(1, N, 1, S), "bias": draw(B, 1, T, 1)},
    "window": {"local_window_size": (1, 2)},
    "window of one number": {"local_window_size": 1, "is_causal": True},
    "lengths": {"query_seq_lengths": LENGTHS - 1, "key_value_seq_lengths": LENGTHS},
    "no key at all": {"mask": jnp.zeros((1, 1, 1, S), bool)},
    "all": {
        "bias": draw(B, N, T, S),
        "mask": flags(B, N, T, S),
        "is_causal": True,
        "local_window_size": (2, 0),
        "key_value_seq_lengths": LENGTHS,
    },
}


def everywhere(f, cases, *args):
    """``f`` with each case's masks; compiled together, which is what takes the time."""
    return jax.jit(lambda *a: {case: f(*a, **CASES[case]) for case in cases})(*args)


@pytest.mark.parametrize("heads, cases", [(K, list(CASES)), (N, ["plain", "all"]), (1, ["bias"])])
def test_values_are_those_of_jax(heads, cases):
    args = operands(heads)
    got, want = (
        everywhere(f, cases, *args)
        for f in (nnops.dot_product_attention, jax.nn.dot_product_attention)
    )
    for case in cases:
        assert got[case].dtype == want[case].dtype
        np.testing.assert_allclose(got[case], want[case], rtol=1e-6, atol=1e-6, err_msg=case)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_low_precision(dtype):
    args = operands(K, dtype)
    got = everywhere(nnops.dot_product_attention, ["all"], *args)["all"]
    # Compiled, jax.nn asks a CPU for products in float16 that it does not have.
    want = jax.nn.dot_product_attention(*args, **CASES["all"])
    assert got.dtype == dtype
    np.testing.assert_array_equal(got.astype(jnp.float32), want.astype(jnp.float32))


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_gradients_in_low_precision(dtype):
    def loss(*a):
        return jnp.sum(nnops.dot_product_attention(*a).astype(jnp.float32) ** 2)

    grad = jax.jit(jax.grad(loss, (0, 1, 2)))
    args = operands(K, dtype)
    got, want = grad(*args), grad(*(x.astype(jnp.float32) for x in args))
    for g, w in zip(got, want, strict=True):
        assert g.dtype == dtype
        # Sums of up to 12 products of rounded numbers.
        eps = float(jnp.finfo(dtype).eps)
        np.testing.assert_allclose(g.astype(jnp.float32), w, rtol=0, atol=12 * eps)


def by_hand(q, k, v, bias=0.0, mask=True, scale=None):
    """In numpy, float64, with as many key heads as query heads."""
    q, k, v, bias = (np.asarray(x, np.float64) for x in (q, k, v, bias))
    logits = np.einsum("btnh,bsnh->bnts", q, k) * (scale or q.shape[-1] ** -0.5) + bias
    logits = np.where(mask, logits, -np.inf)
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    return np.einsum("bnts,bsnh->btnh", weights / weights.sum(-1, keepdims=True), v)


def test_float64_is_float64():
    with jax.enable_x64(True):
        q, k, v = (draw(*x.shape, dtype=jnp.float64) for x in operands())
        mask = flags(B, N, T, S).at[..., 0].set(True)
        got = nnops.dot_product_attention(q, k, v, mask=mask)
        np.testing.assert_allclose(got, by_hand(q, k, v, mask=mask), rtol=1e-13, atol=1e-13)
        # jax.nn's softmax is in float32, whatever the operands are.
        same = nnops.dot_product_attention(q, k, v, mask=mask, softmax_dtype=jnp.float32)
        want = jax.nn.dot_product_attention(q, k, v, mask=mask)
        np.testing.assert_allclose(same, want, rtol=1e-12)


def test_padding_mask_is_that_of_lengths():
    args = operands(K)
    keep = nnops.sequence_mask(LENGTHS, S)
    got = nnops.dot_product_attention(*args, key_padding_mask=keep)
    want = jax.nn.dot_product_attention(*args, key_value_seq_lengths=LENGTHS)
    np.testing.assert_allclose(got, want, rtol=1e-6)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_values_are_those_of_flax(dtype):
    nn = pytest.importorskip("flax.linen")
    q, k, v = operands(dtype=dtype)
    bias, mask = draw(1, N, T, S, dtype=dtype), flags(B, 1, T, S)
    want = nn.dot_product_attention(q, k, v, bias=bias, mask=mask, dtype=dtype)
    low = {} if dtype == jnp.float32 else {"logits_dtype": dtype}
    got = nnops.dot_product_attention(q, k, v, bias, mask, **low)
    assert got.dtype == want.dtype
    # Flax divides queries before the product, which is rounded then.
    tolerance = 1e-6 if dtype == jnp.float32 else 0.03
    np.testing.assert_allclose(
        got.astype(jnp.float32), want.astype(jnp.float32), rtol=tolerance, atol=tolerance
    )


@pytest.mark.parametrize("causal", [False, True])
def test_values_and_gradients_are_those_of_torch(causal):
    torch = pytest.importorskip("torch")
    args = operands(K)
    theirs = [torch.tensor(np.asarray(x)).transpose(1, 2).requires_grad_() for x in args]
    out = torch.nn.functional.scaled_dot_product_attention(
        *theirs, is_causal=causal, enable_gqa=True
    )
    out.sin().sum().backward()

    def loss(*a):
        return jnp.sum(jnp.sin(nnops.dot_product_attention(*a, is_causal=causal)))

    got = nnops.dot_product_attention(*args, is_causal=causal)
    np.testing.assert_allclose(got, out.detach().transpose(1, 2), rtol=2e-5, atol=2e-6)
    for g, w in zip(jax.jit(jax.grad(loss, (0, 1, 2)))(*args), theirs, strict=True):
        np.testing.assert_allclose(g, w.grad.transpose(1, 2), rtol=2e-5, atol=2e-6)


def test_logits_are_capped_before_bias_and_mask():
    q, k, v = (3 * x for x in operands())
    bias, mask = draw(1, N, T, S), flags(B, 1, T, S).at[..., 0].set(True)
    got = nnops.dot_product_attention(q, k, v, bias, mask, scale=1.0, logits_soft_cap=2)
    logits = np.einsum("btnh,bsnh->bnts", *(np.asarray(x, np.float64) for x in (q, k)))
    weights = np.where(mask, np.exp(2 * np.tanh(logits / 2) + bias), 0)
    weights /= weights.sum(-1, keepdims=True)
    want = np.einsum("bnts,bsnh->btnh", weights, v)
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


def test_any_leading_dimensions():
    q, k, v = operands(K)
    want = nnops.dot_product_attention(q, k, v, is_causal=True)
    np.testing.assert_allclose(
        nnops.dot_product_attention(q[0], k[0], v[0], is_causal=True), want[0], rtol=1e-6
    )
    lifted = nnops.dot_product_attention(q[:, None], k[:, None], v[:, None], is_causal=True)
    np.testing.assert_allclose(lifted[:, 0], want, rtol=1e-6)


def test_masks_of_jax_s_rank_fit_queries_without_a_batch():
    q, k, v = (x[0] for x in operands())
    extra = {"mask": flags(1, N, T, S), "bias": draw(1, 1, T, S)}
    got = nnops.dot_product_attention(q, k, v, **extra)
    want = jax.jit(jax.nn.dot_product_attention)(q, k, v, **extra)
    np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-6)


def test_values_may_have_features_of_their_own():
    q, k, _ = operands(K)
    v = draw(B, S, K, 7)
    got = nnops.dot_product_attention(q, k, v)
    assert got.shape == (B, T, N, 7)
    full = [jnp.repeat(x, N // K, axis=2) for x in (k, v)]
    np.testing.assert_allclose(got, by_hand(q, *full), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("shape", ["batch", "t", "s", "h"])
def test_empty_arrays(shape):
    sizes = {"batch": B, "t": T, "s": S, "h": H} | {shape: 0}
    q = jnp.ones((sizes["batch"], sizes["t"], N, sizes["h"]))
    k = jnp.ones((sizes["batch"], sizes["s"], N, sizes["h"]))
    v = jnp.ones((sizes["batch"], sizes["s"], N, H))
    got = nnops.dot_product_attention(q, k, v, is_causal=True, scale=1.0)
    assert got.shape == (sizes["batch"], sizes["t"], N, H)
    np.testing.assert_allclose(got, 0 if shape == "s" else 1, rtol=1e-6)


def test_extreme_logits_infinities_and_nan():
    q, k, v = operands()
    q = q.at[0, 0, 0, 0].set(jnp.nan).at[0, 1, 0, 0].set(jnp.inf).at[1, 0].mul(1e19)
    got = nnops.dot_product_attention(q, k, v, is_causal=True)
    want = jax.jit(lambda *a: jax.nn.dot_product_attention(*a, is_causal=True))(q, k, v)
    np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-6)
    assert np.isnan(got[0, 0, 0]).all() and not np.isnan(got[1]).any()


def test_masked_logits_take_the_value_that_is_given():
    q, k, v = operands()
    got = nnops.dot_product_attention(
        q, k, v, mask=jnp.zeros((1, 1, 1, S), bool), mask_value=-np.inf
    )
    assert np.isnan(got).all()


def zeroed_by_hand(q, k, v, mask, fill):
    logits = jnp.einsum("...tnh,...snh->...nts", q, k) / np.sqrt(H)
    if fill is None:
        weights = jax.nn.softmax(logits, where=mask)
    else:
        weights = jnp.where(mask, jax.nn.softmax(jnp.where(mask, logits, fill)), 0)
    return jnp.einsum("...nts,...snh->...tnh", weights, v)


@pytest.mark.parametrize("fill", [None, -1e9])
def test_weights_of_masked_keys_are_0(fill):
    # The first query of the first sample sees no key.
    mask = flags(B, 1, T, S).at[0, :, 0].set(False)
    both = mask & nnops.sequence_mask(LENGTHS, S)[:, None, None]

    def f(q, k, v):
        return nnops.dot_product_attention(
            q, k, v, mask=mask, mask_value=fill, zero_masked=True, key_value_seq_lengths=LENGTHS
        )

    def each(f, *args):
        """Values, and gradients of two batches."""
        slopes = jax.grad(lambda *a: jnp.sum(jnp.sin(f(*a))), (0, 1, 2))
        return f(*args), jax.vmap(slopes)(*(jnp.stack([x, 2 * x]) for x in args))

    q, k, v = operands()
    (y, got), want = (
        jax.jit(functools.partial(each, g))(q, k, v)
        for g in (f, lambda *a: zeroed_by_hand(*a, both, fill))
    )
    for one, other in zip(jax.tree.leaves((y, got)), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)
    assert not y[0, 0].any() and y[0, 1].any()
    assert not got[0][:, 0, 0].any() and all(jnp.isfinite(g).all() for g in got)
    assert jnp.isfinite(f(q, k.at[0, 3].set(jnp.nan), v)).all()
    plain = nnops.dot_product_attention(q, k, v)
    np.testing.assert_array_equal(nnops.dot_product_attention(q, k, v, zero_masked=True), plain)


def test_every_mask_under_every_transformation(agree):
    given = {k: v for k, v in CASES["all"].items() if k != "bias"}

    def plain(q, k, v, bias):
        # By jax.nn's masks; its softmax is in float32.
        k, v = (jnp.repeat(x, N // K, axis=-2) for x in (k, v))
        logits = jnp.einsum("...tnh,...snh->...nts", q, k) / np.sqrt(H) + bias
        keep = given["mask"] & nnops.sequence_mask(LENGTHS, S)[:, None, None]
        keep &= nnops.sliding_window_mask(T, S, left=2, right=0)
        weights = jax.nn.softmax(jnp.where(keep, logits, -1e38))
        return jnp.einsum("...nts,...snh->...tnh", weights, v)

    shapes = [(B, T, N, H), (B, S, K, H), (B, S, K, H), (B, N, T, S)]
    agree(lambda *a: nnops.dot_product_attention(*a, **given), plain, *shapes, batch=False)


def _attention(f, *args):
    (eqn,) = (
        e for e in jax.make_jaxpr(f)(*args).eqns if e.primitive.name == "dot_product_attention"
    )
    return eqn


def test_parameters_are_canonical():
    q, k, v = operands()
    f = nnops.dot_product_attention
    eqn = _attention(lambda *a: f(*a, scale=1, local_window_size=2, dropout_rate=0.5), q, k, v)
    assert eqn.params["operands"] == ("query", "key", "value")
    assert type(eqn.params["scale"]) is float
    assert eqn.params["local_window_size"] == (2, 2)
    assert eqn.params["dropout_rate"] == 0.0  # there is no key to draw with
    low = _attention(lambda *a: f(*a, logits_dtype="bfloat16"), q, k, v)
    assert low.params["logits_dtype"] == jnp.dtype("bfloat16")


def test_vmap_adds_a_leading_dimension():
    q, k, v = (draw(7, *x.shape) for x in operands(K))
    bias, mask, lengths = draw(1, N, T, S), flags(7, B, 1, T, S), LENGTHS

    def f(q, k, v, mask):
        return nnops.dot_product_attention(q, k, v, bias, mask, key_value_seq_lengths=lengths)

    eqn = _attention(jax.vmap(f), q, k, v, mask)
    assert "mapped" not in eqn.params
    assert [x.aval.shape for x in eqn.invars[3:]] == [(1, 1, N, T, S), (7, B, 1, T, S), (7, B)]
    want = jnp.stack([f(*a) for a in zip(q, k, v, mask, strict=True)])
    np.testing.assert_allclose(jax.vmap(f)(q, k, v, mask), want, rtol=1e-6, atol=1e-6)
    # One set of queries for many memories is plain too; one memory for many is not copied.
    assert "mapped" not in _attention(jax.vmap(f, (None, 0, 0, None)), q[0], k, v, mask[0]).params
    eqn = _attention(jax.vmap(f, (0, None, None, None)), q, k[0], v[0], mask[0])
    assert eqn.params["mapped"] and eqn.invars[1].aval.shape == k[0].shape


def test_dropout_keeps_the_mean_and_the_draw():
    q, k = jnp.zeros((1, 64, 2, 4)), jnp.zeros((1, 64, 2, 4))
    v = jnp.ones((1, 64, 2, 1))
    f = nnops.dot_product_attention
    key = jax.random.key(0)
    out = f(q, k, v, dropout_key=key, dropout_rate=0.25)
    # 64 x 2 means of 64 draws of 0 or 4/3, whose standard deviation is 0.58.
    assert abs(float(out.mean()) - 1) < 4 * 0.58 / 64 / np.sqrt(2) and float(out.std()) > 0.03
    np.testing.assert_array_equal(out, f(q, k, v, dropout_key=key, dropout_rate=0.25))
    raw = jax.random.PRNGKey(0)
    np.testing.assert_allclose(out, f(q, k, v, dropout_key=raw, dropout_rate=0.25))
    shared = f(q, k, v, dropout_key=key, dropout_rate=0.25, dropout_broadcast_dims=(0, 1, 2))
    assert float(shared.std()) < 1e-6
    none = f(q, k, v, dropout_key=key, dropout_rate=1.0)
    np.testing.assert_array_equal(none, 0)
    np.testing.assert_allclose(f(q, k, v, dropout_key=key), 1, rtol=1e-6)
    # Without a batch, one draw for all samples is one.
    alone = [x[0] for x in (q, k, v)]
    np.testing.assert_array_equal(
        f(*alone, dropout_key=key, dropout_rate=0.25, dropout_broadcast_dims=(0, 1)),
        f(*alone, dropout_key=key, dropout_rate=0.25, dropout_broadcast_dims=(1,)),
    )


def test_dropout_has_gradients_and_batches():
    q, k, v = operands()
    keys = jax.random.split(jax.random.key(1), 3)

    def loss(q, key):
        out = nnops.dot_product_attention(q, k, v, dropout_key=key, dropout_rate=0.5)
        return jnp.sum(jnp.sin(out))

    got = jax.jit(jax.vmap(jax.grad(loss), (None, 0)))(q, keys)
    one = jax.jit(jax.grad(loss))
    want = jnp.stack([one(q, key) for key in keys])
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)
    eqn = _attention(jax.vmap(loss, (None, 0)), q, keys)
    assert eqn.params["mapped"]


@pytest.mark.parametrize("heads", [2, 8])
def test_costs_what_jax_s_function_costs(heads):
    # Of a real size: at a few elements, what XLA fuses with what differs between its versions.
    query = jax.ShapeDtypeStruct((2, 64, 8, 32), jnp.float32)
    key = jax.ShapeDtypeStruct((2, 64, heads, 32), jnp.float32)

    def cost(f):
        value = lambda *a: jnp.sum(f(*a, is_causal=True))  # noqa: E731
        for g in (value, jax.grad(value, (0, 1, 2))):
            found = jax.jit(g).lower(query, key, key).compile().cost_analysis()
            yield found["flops"], found["bytes accessed"]

    with quick_compiles(False):
        ours, theirs = (
            list(cost(nnops.dot_product_attention)),
            list(cost(jax.nn.dot_product_attention)),
        )
    for (flops, moved), (want_flops, want_moved) in zip(ours, theirs, strict=True):
        assert flops <= want_flops
        assert moved <= 1.02 * want_moved


def test_exports_with_symbolic_sizes():
    b, t = jax.export.symbolic_shape("b, t")
    q = jax.ShapeDtypeStruct((b, t, N, H), jnp.float32)
    k = jax.ShapeDtypeStruct((b, t, K, H), jnp.float32)
    f = jax.jit(lambda q, k, v: nnops.dot_product_attention(q, k, v, is_causal=True))
    exported = jax.export.export(f)(q, k, k)
    q, k, v = operands(K, t=S)
    want = jax.nn.dot_product_attention(q, k, v, is_causal=True)
    np.testing.assert_allclose(exported.call(q, k, v), want, rtol=1e-6, atol=1e-6)


BAD = {
    "key_padding_mask": (jnp.ones((B, T), bool), r"key_padding_mask has shape \(2, 3\)"),
    "mask": (jnp.ones((B, S), bool), "key_padding_mask"),
    "bias": (jnp.ones((1, N, T, 2)), r"bias has shape \(1, 4, 3, 2\)"),
    "key_value_seq_lengths": (jnp.ones(3, jnp.int32), r"give it the shape \(2,\)"),
}


@pytest.mark.parametrize("name", BAD)
def test_masks_that_do_not_fit(name):
    array, text = BAD[name]
    with pytest.raises(nnops.OpError, match=text):
        nnops.dot_product_attention(*operands(), **{name: array})


@pytest.mark.parametrize(
    "given",
    [
        {"mask": jnp.ones((B, 1, T, S))},
        {"query_seq_lengths": jnp.ones(B)},
        {"scale": jnp.ones(2)},
        {"bias": jnp.ones((1, 1, T, S), jnp.int32)},
    ],
)
def test_types_that_do_not_fit(given):
    with pytest.raises(nnops.OpTypeError):
        nnops.dot_product_attention(*operands(), **given)


@pytest.mark.parametrize(
    "q, k, v",
    [
        ((B, T, N), (B, S, N, H), (B, S, N, H)),
        ((B, T, N, H), (B, S, N, 5), (B, S, N, H)),
        ((B, T, N, H), (B, S, 3, H), (B, S, 3, H)),
        ((B, T, N, H), (1, S, N, H), (1, S, N, H)),
        ((B, T, N, H), (B, S, N, H), (B, T, N, H)),
        ((T, H), (S, H), (S, H)),
    ],
)
def test_shapes_that_do_not_fit(q, k, v):
    with pytest.raises(nnops.OpError, match=r"dot_product_attention: .*\n.*query float32"):
        nnops.dot_product_attention(jnp.ones(q), jnp.ones(k), jnp.ones(v))
    # Traced, so that bad operands are found before anything runs.
    with pytest.raises(nnops.OpError):
        jax.eval_shape(nnops.dot_product_attention, *(jnp.ones(s) for s in (q, k, v)))


@pytest.mark.parametrize(
    "given", [{"dropout_rate": 1.5}, {"local_window_size": (1, 2, 3)}, {"precision": "much"}]
)
def test_parameters_that_make_no_sense(given):
    with pytest.raises(nnops.OpError):
        nnops.dot_product_attention(*operands(), dropout_key=jax.random.key(0), **given)
