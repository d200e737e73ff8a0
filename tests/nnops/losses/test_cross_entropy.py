"""Cross entropies against optax and torch."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxpress import nnops

RNG = np.random.default_rng(0)
LABELS = jnp.array([[1, 0, 3], [2, 2, 0]])


def _tolerance(dtype):
    return {"float64": 1e-12, "float32": 2e-6, "bfloat16": 1e-2, "float16": 2e-3}[str(dtype)]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("scale", [1.0, 1e4])
def test_class_indices_as_in_optax(dtype, scale):
    logits = jnp.asarray(RNG.normal(size=(2, 3, 4)) * scale, dtype)
    f = lambda x, m: m(x, LABELS)  # noqa: E731
    wide = logits.astype(jnp.float32)
    want, back = jax.vjp(lambda x: f(x, optax.softmax_cross_entropy_with_integer_labels), wide)
    got, our_back = jax.vjp(lambda x: f(x, nnops.softmax_cross_entropy), logits)
    assert got.dtype == dtype
    ct = jnp.ones_like(want)
    pairs = [(got, want), (our_back(ct.astype(dtype))[0], back(ct)[0])]
    for g, w in pairs:
        # optax subtracts large numbers from each other: float32's own rounding of these.
        atol = _tolerance(dtype) + (scale * 2e-7 if scale > 1 else 0)
        np.testing.assert_allclose(g.astype(jnp.float32), w, rtol=_tolerance(dtype), atol=atol)


@pytest.mark.parametrize("axis", [-1, 1])
def test_every_transformation(agree, axis):
    labels = LABELS if axis == -1 else jnp.array([[1, 0, 2, 2], [0, 1, 1, 0]])
    agree(
        lambda x: nnops.softmax_cross_entropy(x, labels, axis=axis),
        lambda x: optax.softmax_cross_entropy_with_integer_labels(x, labels, axis=axis),
        (2, 3, 4),
    )


def test_every_transformation_with_distributions(agree):
    agree(
        lambda x, q: nnops.softmax_cross_entropy(x, jax.nn.softmax(q), label_smoothing=0.25),
        lambda x, q: optax.softmax_cross_entropy(x, optax.smooth_labels(jax.nn.softmax(q), 0.25)),
        (3, 4),
        (3, 4),
    )


def test_every_transformation_of_binary(agree):
    agree(
        nnops.binary_cross_entropy, optax.sigmoid_binary_cross_entropy, (3, 2), (3, 2), rtol=1e-10
    )


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_torch_takes_the_same_mean(smoothing):
    torch = pytest.importorskip("torch")
    logits = RNG.normal(size=(6, 4)).astype(np.float32)
    labels = np.array([0, 3, -100, 1, 2, -100])
    want = torch.nn.functional.cross_entropy(
        torch.tensor(logits), torch.tensor(labels), label_smoothing=smoothing
    )
    got = nnops.softmax_cross_entropy(
        logits, labels, label_smoothing=smoothing, out_of_range="ignore", reduction="mean"
    )
    np.testing.assert_allclose(got, want, rtol=1e-6)
    weights = np.array([0.5, 2.0, 1.0, 0.25], np.float32)
    want = torch.nn.functional.cross_entropy(
        torch.tensor(logits), torch.tensor(labels), torch.tensor(weights)
    )
    got = nnops.softmax_cross_entropy(
        logits, labels, weights=weights[labels % 4], out_of_range="ignore", reduction="mean"
    )
    np.testing.assert_allclose(got, want, rtol=1e-6)


def test_torch_s_binary():
    torch = pytest.importorskip("torch")
    logits = np.float32([-200, -1, 0, 1, 200])
    for label in (0, 0.25, 1):
        labels = np.full(5, label, np.float32)
        for reduction in ("none", "mean", "sum"):
            want = torch.nn.functional.binary_cross_entropy_with_logits(
                torch.tensor(logits), torch.tensor(labels), reduction=reduction
            )
            got = nnops.binary_cross_entropy(logits, labels, reduction=reduction)
            np.testing.assert_allclose(got, want, rtol=1e-6)


def test_class_indices_out_of_range():
    logits = jnp.zeros((4, 3)).at[:, 0].set(1.0)
    labels = jnp.array([-1, 0, 3, 2])
    f = nnops.softmax_cross_entropy
    assert np.isnan(f(logits, labels)).tolist() == [True, False, True, False]
    left = f(logits, labels, out_of_range="ignore")
    assert left[0] == left[2] == 0
    np.testing.assert_allclose(left[1::2], f(logits[1::2], labels[1::2]))
    mean = f(logits, labels, out_of_range="ignore", reduction="mean")
    np.testing.assert_allclose(mean, left.sum() / 2)
    none = f(logits, labels - 9, out_of_range="ignore", reduction="mean")
    assert none == 0
    for dtype in (jnp.uint8, jnp.int8):
        np.testing.assert_array_equal(f(logits, labels[1::2].astype(dtype).repeat(2)).shape, (4,))
    # Labels narrower than the number of classes.
    wide = jnp.zeros((1, 1000)).at[0, 200].set(5.0)
    np.testing.assert_allclose(
        f(wide, jnp.array([200], jnp.uint8)), f(wide, jnp.array([200])), rtol=1e-6
    )


def same(ours, theirs, *args):
    """Equal values and derivatives of two losses, NaN and infinity at the same places."""

    @jax.jit  # which takes a product with an encoding for a choice; what is jitted sees that
    def both(*args):
        results = []
        for f in (ours, theirs):
            value, back = jax.vjp(f, *args)
            results.append((value, back(jnp.arange(1.0, 1.0 + value.size))))
        return results

    for a, b in zip(*map(jax.tree.leaves, both(*args)), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-6, atol=1e-6)


INF = float("inf")
# A class that cannot be, one that must be, one that is unknown, and none that can be.
EXTREME = jnp.array([[1, -INF, 2], [INF, 0, 1], [jnp.nan, 0, 1], [-INF] * 3, [3e38, -3e38, 0]])


@pytest.mark.parametrize("label", [-4, -3, -1, 0, 1, 2, 3])
def test_class_indices_in_every_arithmetic(label):
    labels = jnp.full(5, label)

    def taken(x, **how):
        return -jnp.take_along_axis(jax.nn.log_softmax(x), labels[:, None], -1, **how)[:, 0]

    def encoded(x):
        return -(jax.nn.one_hot(labels, 3) * jax.nn.log_softmax(x)).sum(-1)

    def ours(**how):
        return lambda x: nnops.softmax_cross_entropy(x, labels, **how)

    same(ours(from_end=True), taken, EXTREME)
    same(ours(from_end=True, out_of_range="clip"), lambda x: taken(x, mode="clip"), EXTREME)
    promised = ours(from_end=True, out_of_range="promise_in_bounds")
    same(promised, lambda x: -jax.nn.log_softmax(x)[jnp.arange(5), labels], EXTREME)
    how = {"out_of_range": "zero", "zero_times_infinity": "nan"}
    same(ours(**how), encoded, EXTREME)
    theirs = optax.softmax_cross_entropy_with_integer_labels
    same(ours(from_end=True, by_logsumexp=True), lambda x: theirs(x, labels), EXTREME)

    def each(x):
        return x - jax.nn.logsumexp(x, -1, keepdims=True)

    ours_each = ours(from_end=True, by_logsumexp="each")
    same(ours_each, lambda x: -jnp.take_along_axis(each(x), labels[:, None], -1)[:, 0], EXTREME)
    encoded_each = lambda x: -(jax.nn.one_hot(labels, 3) * each(x)).sum(-1)  # noqa: E731
    same(ours(**how, by_logsumexp="each"), encoded_each, EXTREME)


def test_products_of_zero_and_infinity_as_in_optax():
    how = {"zero_times_infinity": "nan"}
    ours = lambda *a, **k: nnops.softmax_cross_entropy(*a, **how, **k)  # noqa: E731
    for q in ([0.25, 0, 0.75], [0, 0, 0], [-1, 1, 1]):
        q = jnp.broadcast_to(jnp.array(q, "float32"), EXTREME.shape)
        same(ours, optax.softmax_cross_entropy, EXTREME, q)
        same(
            lambda *a: ours(*a, by_logsumexp=True),
            lambda x, q: jax.nn.logsumexp(x, -1) - (q * x).sum(-1),
            EXTREME,
            q,
        )
    x = jnp.array([INF, -INF, 3e38, -3e38, 0, jnp.nan])
    for z in (0.0, 0.5, 1.0):
        z = jnp.full(x.shape, z)
        same(
            lambda *a: nnops.binary_cross_entropy(*a, **how),
            optax.sigmoid_binary_cross_entropy,
            x,
            z,
        )
        same(
            lambda *a: nnops.binary_cross_entropy(*a, by_softplus=True),
            lambda x, z: jax.nn.softplus(x) - z * x,
            x,
            z,
        )


def test_impossible_classes_cost_nothing():
    logits = jnp.array([[1.0, -jnp.inf, 2.0]])
    q = jnp.array([[0.25, 0.0, 0.75]])
    value, grads = jax.value_and_grad(
        lambda *a: nnops.softmax_cross_entropy(*a, reduction="sum"), argnums=(0, 1)
    )(logits, q)
    want, back = jax.vjp(lambda x: optax.softmax_cross_entropy(x, q[:, ::2]).sum(), logits[:, ::2])
    np.testing.assert_allclose(value, want, rtol=1e-6)
    np.testing.assert_allclose(grads[0][:, ::2], back(jnp.ones(()))[0], rtol=1e-6)
    assert grads[0][0, 1] == 0 and np.isfinite(grads[1]).all()
    assert np.isposinf(nnops.softmax_cross_entropy(logits[0], 1))


def test_infinite_logits_that_agree_with_their_label_cost_nothing():
    x, z = jnp.array([jnp.inf, -jnp.inf, jnp.inf, 3e38, -3e38]), jnp.array([1.0, 0, 0, 1, 0])
    assert nnops.binary_cross_entropy(x, z).tolist() == [0, 0, jnp.inf, 0, 0]
    grads = jax.grad(lambda x: nnops.binary_cross_entropy(x, z, reduction="sum"))(x)
    assert grads.tolist() == [0, 0, 1, 0, 0]
    assert np.isnan(nnops.binary_cross_entropy(jnp.nan, 1.0))


def test_gradient_of_binary_at_zero():
    f = nnops.binary_cross_entropy
    assert jax.grad(f)(0.0, 0.25) == 0.25
    assert jax.grad(jax.grad(f))(0.0, 0.25) == 0.25


def test_labels_of_other_types():
    x = jnp.array([0.5, -1.0])
    want = nnops.binary_cross_entropy(x, jnp.array([1.0, 0.0]))
    for labels in (jnp.array([True, False]), jnp.array([1, 0])):
        np.testing.assert_array_equal(nnops.binary_cross_entropy(x, labels), want)
    want = nnops.softmax_cross_entropy(x, 1)
    for labels in (jnp.array([False, True]), jnp.array([0, 1])):
        np.testing.assert_array_equal(nnops.softmax_cross_entropy(x, labels), want)
    x = x.astype(jnp.bfloat16)
    assert nnops.softmax_cross_entropy(x, jnp.array([0.5, 0.5])).dtype == jnp.float32
    assert nnops.softmax_cross_entropy(x, 1).dtype == jnp.bfloat16


@pytest.mark.parametrize(
    "args, kwargs, message",
    [
        (((2, 3), (2, 4)), {}, r"float32\(2, 3\).*float32\(2, 4\)\n.*\(2,\)"),
        (((2, 3), (2, 1, 3)), {}, "labels have shape"),
        (((2, 3), (2,)), {}, "are float32"),
        (((3,), (1, 3)), {}, "labels have shape"),
        (((2, 3), (2, 3)), {"axis": 2}, "axis"),
        (((), ()), {}, "no axes"),
        (((2, 3), (2, 3)), {"reduction": "average"}, "reduction is 'average'"),
        (((2, 3), (2, 3)), {"out_of_range": "wrap"}, "out_of_range is 'wrap'"),
        (((2, 3), (2, 3)), {"zero_times_infinity": 0}, "zero_times_infinity is 0"),
        (((2, 3), (2, 3)), {"by_logsumexp": True, "label_smoothing": 0.1}, "takes no label_smooth"),
        (((2, 3), (2, 3)), {"by_logsumexp": "all"}, "by_logsumexp is 'all'"),
        (((2, 3), (2, 3)), {"label_smoothing": 1.5}, "label_smoothing"),
        (((2, 3), (2, 3)), {"weights": jnp.ones((2, 1))}, r"weights has shape \(2, 1\)"),
        (((2, 3), (2, 3)), {"where": jnp.ones(2)}, "where is float32"),
    ],
)
def test_errors(args, kwargs, message):
    with pytest.raises(nnops.OpError, match=message):
        nnops.softmax_cross_entropy(*map(jnp.ones, args), **kwargs)


def test_binary_errors():
    with pytest.raises(nnops.OpError, match=r"labels has shape \(3,\).*\n.*"):
        nnops.binary_cross_entropy(jnp.ones((2, 3)), jnp.ones(3))
    with pytest.raises(nnops.OpTypeError, match="complex"):
        nnops.binary_cross_entropy(jnp.ones(3) * 1j, jnp.ones(3))


def test_of_one_class_each_the_log_probabilities_of_the_others_cost_nothing():
    logits, labels = jnp.ones((16, 100)), jnp.ones(16, int)

    def cost(loss, transform):
        fn = transform(lambda x: loss(x, labels).sum())
        return jax.jit(fn).lower(logits).compile().cost_analysis()

    for transform in (lambda fn: fn, jax.value_and_grad):
        ours = cost(nnops.softmax_cross_entropy, transform)
        theirs = cost(optax.softmax_cross_entropy_with_integer_labels, transform)
        for what in ("flops", "bytes accessed"):
            # The labels' range is checked, and they may be the larger part of so few.
            assert ours[what] <= theirs[what] * 1.02, what
