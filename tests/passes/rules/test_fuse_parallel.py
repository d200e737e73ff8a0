"""Parallel linear ops on one input become one, where their weights are known."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxpress as jp
from helpers import array, assert_close, assert_optimizes, conv
from jaxpress import nnops, passes
from jaxpress.capture import trace
from jaxpress.passes.rules.fuse_parallel import fuse_parallel

X = array(2, 5, 6)
W = [array(6, 8, seed=i) for i in range(3)]
B = [array(8, seed=i) for i in range(3)]
WIDE = array(6, 3, 5)
IMAGE = array(2, 6, 6, 4)


def fused(fn, *args, count=1, after=None, **options):
    """The graph of ``fn`` after the pass, which must have joined ``count`` groups."""
    graph = trace(fn)(*args)
    record: list = []
    new = fuse_parallel(graph, record, **options).validate()
    assert len(record) == count, f"{record} in\n{graph}"
    assert all(r.rule == "fuse_parallel" and r.numerics == "reassociates" for r in record)
    if not count:
        assert new is graph
        return new
    again: list = []
    assert fuse_parallel(new, again) is new and not again
    assert_close(new(*args), fn(*args), 1e-5)
    for op, n in (after or {}).items():
        assert new.count()[op] == n, f"{new.count()} in\n{new}"
    return new


def heads(x, out=3, inputs=6):
    ws = [array(inputs, 4, 2, seed=i) for i in range(out)]
    return [nnops.einsum_dense(x, w, equation="btd,dhk->bthk") for w in ws]


def test_queries_keys_and_values() -> None:
    fn = lambda x: tuple(nnops.dense(x, w, b) for w, b in zip(W, B, strict=True))  # noqa: E731
    new = fused(fn, X, after={"dense": 1, "slice": 3})
    (node,) = new.find("dense")
    assert node.output.shape == (2, 5, 24)
    assert all(v.shape == (6, 24) for v in node.inputs[1:2])
    # What was three weights is one, once.
    prepared = passes.fold_constants(new)
    assert not prepared.find("concatenate") and prepared.prologue is not None
    got = jax.grad(lambda x: sum(jnp.sin(y).sum() for y in new(x)))(X)
    want = jax.grad(lambda x: sum(jnp.sin(y).sum() for y in fn(x)))(X)
    assert_close(got, want)
    assert_close(jax.vmap(new)(jnp.stack([X, -X])), jax.vmap(fn)(jnp.stack([X, -X])))


def test_weights_that_are_made_later() -> None:
    """Those of the second are computed after the first product; they move in front of it."""

    def fn(x):
        y = nnops.dense(x, W[0])
        return y, nnops.dense(x, jnp.sin(W[1]) + y.shape[0]), nnops.dense(x, W[2].T.T * 2)

    fused(fn, X, after={"dense": 1})


def test_features_in_heads() -> None:
    new = fused(heads, X, after={"einsum_dense": 1, "slice": 3})
    assert new.find("einsum_dense")[0].output.shape == (2, 5, 12, 2)


def test_fewer_heads_of_keys_and_values() -> None:
    """Grouped-query attention: the heads are as wide, and not as many."""
    ws = [array(6, h, 2, seed=i) for i, h in enumerate((8, 2, 2))]
    bs = [array(h, 2, seed=i) for i, h in enumerate((8, 2, 2))]
    fn = lambda x: [  # noqa: E731
        nnops.einsum_dense(x, w, b, equation="...d,dhk->...hk") for w, b in zip(ws, bs, strict=True)
    ]
    new = fused(fn, X, after={"einsum_dense": 1})
    assert new.find("einsum_dense")[0].output.shape == (2, 5, 12, 2)
    wide = [array(6, 2, k, seed=k) for k in (3, 5)]
    fn = lambda x: [nnops.einsum_dense(x, w, equation="...d,dhk->...hk") for w in wide]  # noqa: E731
    new = fused(fn, X, after={"einsum_dense": 1})
    assert new.find("einsum_dense")[0].output.shape == (2, 5, 2, 8)


def test_a_gate_and_what_it_gates() -> None:
    def fn(x):
        return nnops.dense(x, W[0], activation="silu") * nnops.dense(x, W[1])

    new = fused(fn, X, after={"dense": 1, "silu": 1})
    assert new.find("dense")[0].params["activation"] is None


def by_sigmoid(x, w=W[1], first=False):
    """What is gated, and its gate; which of them is computed first."""
    gate = nnops.dense(x, w, activation="sigmoid") if first else None
    y = nnops.dense(x, W[0], B[0])
    return y, nnops.dense(x, w, activation="sigmoid") if gate is None else gate


def gated(y, gate):
    return jnp.sin(y * gate)


def gated_heads(x):
    a, b = (array(6, 4, 2, seed=i) for i in range(2))
    y = nnops.einsum_dense(x, a, equation="btd,dhk->bthk")
    return y * nnops.einsum_dense(x, b, equation="btd,dhk->bthk", activation="sigmoid")


@pytest.mark.parametrize(
    "fn, op", [(lambda x: gated(*by_sigmoid(x)), "dense"), (gated_heads, "einsum_dense")]
)
def test_what_a_sigmoid_gates(fn, op) -> None:
    fused(fn, X, after={op: 1, "glu": 1, "sigmoid": 0, "slice": 0})


@pytest.mark.parametrize(
    "fn",
    [
        # The gate comes first, is narrower, or one of the two is needed by others.
        lambda x: gated(*by_sigmoid(x, first=True)),
        lambda x: gated(*by_sigmoid(x, W[1][:, :1])),
        lambda x: (y := by_sigmoid(x)) and (gated(*y), y[0]),
        lambda x: (y := by_sigmoid(x)) and (gated(*y), jnp.sin(y[1])),
        lambda x: (y := by_sigmoid(x)) and y[0] + y[1],
    ],
)
def test_what_is_no_gate(fn) -> None:
    fused(fn, X, after={"dense": 1, "glu": 0, "sigmoid": 1})


@pytest.mark.parametrize("preset", ["default", "inference"])
def test_a_gate_settles_at_once(preset) -> None:
    fn = lambda x: (x @ W[0] + B[0]) * jax.nn.sigmoid(x @ W[1])  # noqa: E731
    graph = getattr(passes, preset)(trace(fn)(X))
    assert graph.count() == {"dense": 1, "glu": 1}
    assert not getattr(passes, preset).run(graph)[1].rewrites


def test_one_activation_stays_where_it_is() -> None:
    fn = lambda x: [nnops.dense(x, w, activation="relu") for w in W]  # noqa: E731
    new = fused(fn, X, after={"dense": 1, "relu": 0})
    assert str(new.find("dense")[0].params["activation"]) == "relu"


def test_keys_without_a_bias() -> None:
    fn = lambda x: (nnops.dense(x, W[0], B[0]), nnops.dense(x, W[1]))  # noqa: E731
    fused(fn, X, after={"dense": 1})


def test_two_inputs_make_two_groups() -> None:
    """As in attention to another sequence: queries of one, keys and values of the other."""

    def fn(x, y):
        return nnops.dense(x, W[0]), nnops.dense(y, W[1]), nnops.dense(y, W[2])

    new = fused(fn, X, X + 1, after={"dense": 2})
    assert sorted(n.output.shape[-1] for n in new.find("dense")) == [8, 16]


def test_one_group_after_another() -> None:
    def fn(x):
        a, b = nnops.dense(x, W[0], activation="relu"), nnops.dense(x, W[1])
        return nnops.dense(a, W[0].T), nnops.dense(a, W[1].T), b

    fused(fn, X, count=2, after={"dense": 2})


def test_pointwise_convolutions() -> None:
    """As in an Inception block."""
    ws = [array(1, 1, 4, n, seed=n) for n in (3, 5, 2)]
    fn = lambda x: [nnops.conv(x, w, jnp.ones(w.shape[-1])) for w in ws]  # noqa: E731
    new = fused(fn, IMAGE, after={"conv": 1, "slice": 3})
    assert new.find("conv")[0].output.shape == (2, 6, 6, 10)


@pytest.mark.parametrize("numbers", [("NHWC", "HWIO", "NHWC"), ("NCHW", "OIHW", "NCHW")])
def test_convolutions_of_one_geometry(numbers) -> None:
    shapes = [(3, 3, 4, n) for n in (5, 7)]
    x = IMAGE
    if numbers[0] == "NCHW":
        x, shapes = IMAGE.transpose(0, 3, 1, 2), [(s[3], s[2], 3, 3) for s in shapes]
    ws = [array(*s, seed=i) for i, s in enumerate(shapes)]
    options = {"strides": 2, "padding": "SAME", "dimension_numbers": numbers}
    fn = lambda x: [nnops.conv(x, w, **options) for w in ws]  # noqa: E731
    fused(fn, x, after={"conv": 1})


def test_more_rows_than_pay_are_left_alone() -> None:
    fn = lambda x: [nnops.dense(x, w) for w in W]  # noqa: E731
    fused(fn, X, count=0, max_rows=9)
    fused(fn, X, count=1, max_rows=10)
    fused(heads, X, count=0, max_rows=9)
    fused(heads, X, count=1, max_rows=10)


K3 = [array(3, 3, 4, 5, seed=i) for i in range(2)]


@pytest.mark.parametrize(
    "fn",
    [
        lambda x: (nnops.dense(x, W[0]), nnops.dense(x + 1, W[1])),
        lambda x: (nnops.dense(x, W[0]), nnops.dense(x, W[1], precision="highest")),
        lambda x: (nnops.dense(x, W[0], residual=x @ W[1]), nnops.dense(x, W[1])),
        lambda x: (nnops.dense(x, W[0]), heads(x, 1)[0]),
        lambda x: (heads(x, 1)[0], nnops.einsum_dense(x, W[0], equation="btd,dk->bkt")),
        lambda x: (heads(x, 1)[0], nnops.einsum_dense(x, WIDE, equation="...d,dhk->...hk")),
        lambda x: (nnops.dense(x, W[0]), nnops.dense(x, jnp.sin(x[0, 0])[:, None])),
        lambda x: [nnops.dense((x * 9).astype(int), w.astype(int)) for w in W],
        lambda x: [jax.vmap(nnops.dense, (None, 0))(x, jnp.stack([w, w])) for w in W],
    ],
)  # fmt: skip
def test_what_does_not_agree_stays(fn) -> None:
    fused(fn, X, count=0)


@pytest.mark.parametrize(
    "options",
    [{"strides": 2}, {"padding": "VALID"}, {"dilation": 2}, {"groups": 2}, {"transposed": True}],
)
def test_convolutions_of_other_geometries_stay(options) -> None:
    first = {} if set(options) & {"strides", "padding", "dilation"} else options
    ws = [w[:, :, :2, :4] if "groups" in options else w for w in K3]
    fn = lambda x: (nnops.conv(x, ws[0], **first), nnops.conv(x, ws[1], **options))  # noqa: E731
    fused(fn, IMAGE, count=0)


def test_a_shortcut_beside_a_convolution_stays() -> None:
    """As in a residual block: one of the two has an activation."""
    w = [k[1:2, 1:2] for k in K3]
    fn = lambda x: (nnops.conv(x, w[0], activation="relu"), nnops.conv(x, w[1]))  # noqa: E731
    fused(fn, IMAGE, count=0)


def test_windows_of_other_sizes_stay() -> None:
    fused(lambda x: (nnops.conv(x, K3[0]), nnops.conv(x, K3[1][:1, :1])), IMAGE, count=0)


def test_weights_that_are_data_stay() -> None:
    fn = lambda x, ws: [nnops.dense(x, w) for w in ws]  # noqa: E731
    fused(fn, X, W, count=0)
    # Unless they are declared to be weights.
    graph = jp.optimize(lambda ws, x: fn(x, ws), weight_argnums=0).graph(W, X)
    assert graph.count()["dense"] == 1 and not graph.find("concatenate")


def test_in_loops_the_joined_weights_are_made_once() -> None:
    stacked = [jnp.stack([array(6, 6, seed=i + 3 * j) for j in range(4)]) for i in range(3)]

    def layer(x, ws):
        q, k, v = (x @ w for w in ws)
        return jnp.tanh(q * k) * v, None

    for step in (layer, jax.checkpoint(layer)):
        fn = lambda x, step=step: jax.lax.scan(step, x, tuple(stacked))[0]  # noqa: E731
        new = passes.default(trace(fn)(X))
        assert new.count()["dense"] == 1, new
        assert not new.find("concatenate"), new
        assert_close(new(X), fn(X), 1e-5)


def projections(x, p, n):
    return x @ p[n] + p[f"{n}_bias"]


def transformer(x, layers):
    for p in layers:
        h = (x - x.mean(-1, keepdims=True)) * jax.lax.rsqrt(x.var(-1, keepdims=True) + 1e-5)
        h = h * p["scale"] + p["shift"]
        q, k, v = (projections(h, p, n).reshape(*x.shape[:2], 2, -1) for n in "qkv")
        x = x + projections(jax.nn.dot_product_attention(q, k, v).reshape(x.shape), p, "o")
        x = x + jax.nn.gelu(x @ p["up"]) @ p["down"]
    return x


@pytest.mark.parametrize("preset", ["default", "inference"])
def test_a_transformer_ends_with_one_projection_a_layer(preset) -> None:
    layers = [
        {
            **{n: array(8, 8, seed=i) / 4 for n in "qkvo"},
            **{f"{n}_bias": array(8, seed=i) for n in "qkvo"},
            "scale": array(8, seed=i), "shift": array(8, seed=i + 1),
            "up": array(8, 16, seed=i) / 4, "down": array(16, 8, seed=i) / 4,
        }
        for i in range(12)
    ]  # fmt: skip
    x = array(1, 4, 8)
    fast = jp.optimize(lambda x: transformer(x, layers), passes=preset)
    graph = fast.graph(x)
    assert (
        sorted(n.output.shape[-1] for n in graph.find("dense")) == [8] * 24 + [16] * 12 + [24] * 12
    )
    if preset == "default":
        assert_close(fast(x), jax.jit(transformer)(x, layers), 1e-4)
    assert not getattr(passes, preset).run(graph)[1].rewrites


def test_it_can_be_switched_off() -> None:
    fn = lambda x: [x @ w for w in W]  # noqa: E731
    graph = passes.default.without("fuse_parallel")(trace(fn)(X))
    assert graph.count()["dense"] == 3
    assert passes.default(trace(fn)(X)).count()["dense"] == 1


def test_convolutions_of_a_whole_pipeline() -> None:
    ws = [array(1, 1, 4, n, seed=n) for n in (3, 5)]

    def fn(x):
        return jnp.concatenate([jax.nn.relu(conv(x, w)) for w in ws], -1)

    new = passes.default(trace(fn)(IMAGE))
    assert new.count()["conv"] == 1
    np.testing.assert_allclose(jax.jit(new)(IMAGE), fn(IMAGE), rtol=1e-5, atol=1e-5)


def test_ops_that_add_slices_of_one_array() -> None:
    """Gates, of which each adds its own part of what another product makes."""

    def fn(x, r):
        gates = [
            nnops.dense(x, W[i], B[i] if i else None, r[..., 8 * i : 8 * i + 8], activation=name)
            for i, name in ((1, "sigmoid"), (0, "sigmoid"), (2, "tanh"))
        ]
        return gates[0] * gates[2] + gates[1]

    r = array(2, 5, 24)
    new = fused(fn, X, r, after={"dense": 1, "slice": 3})
    (node,) = new.find("dense")
    assert node.inputs[-1] is new.inputs[1]
    wider = lambda x, r: fn(x, r[..., 2:])  # noqa: E731
    fused(fn, X, jnp.concatenate([r, r[..., :1]], -1), after={"dense": 1, "slice": 4})
    fused(wider, X, array(2, 5, 26), after={"dense": 1})
    got, want = (jax.grad(lambda x, f=f: jnp.sin(f(x, r)).sum())(X) for f in (new, fn))
    assert_close(got, want)


@pytest.mark.parametrize(
    "parts",
    [
        lambda r: (r[..., :8], r[..., 4:12]),
        lambda r: (r[..., :8], r[..., 16:]),
        lambda r: (r[..., :8], r[..., :8]),
        lambda r: (r[..., :8], jnp.sin(r)[..., 8:16]),
        lambda r: (r[..., :8], -r[..., 8:16]),
        lambda r: (r[..., :16:2], r[..., 16:]),
        lambda r: (r[:, :, :8], jnp.concatenate([r, r], 1)[:, 5:, 8:16]),
    ],
)
def test_what_they_add_must_lie_side_by_side(parts) -> None:
    def fn(x, r):
        return [nnops.dense(x, w, None, p) for w, p in zip(W[:2], parts(r), strict=True)]

    fused(fn, X, array(2, 5, 24), count=0)


@pytest.mark.parametrize("of_its_input", [False, True])
def test_gates_of_a_recurrent_convolution(of_its_input) -> None:
    """Of eight convolutions in each step two are left (Shi et al. 2015)."""
    kernels = [array(3, 3, 4, 3, seed=i) / 6 for i in range(4)]
    own = [array(3, 3, 3, 3, seed=4 + i) / 6 for i in range(4)]
    biases = [array(3, seed=i) for i in range(4)]

    def step(carry, x):
        h, c = carry
        i, f, g, o = (
            conv(x, k) + b + conv(h, u) for k, b, u in zip(kernels, biases, own, strict=True)
        )
        c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
        h = jax.nn.sigmoid(o) * jnp.tanh(c)
        return (h, c), h

    def fn(x):
        zero = jnp.zeros((2, 4, 4, 3)) + (x[0, ..., :3] if of_its_input else 0)
        return jax.lax.scan(step, (zero, zero), x)[1]

    x = array(2, 2, 4, 4, 4)
    new = assert_optimizes(passes.default, fn, x)
    assert new.count()["conv"] == 2
