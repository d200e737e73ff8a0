"""``where``, ``weights`` and ``reduction``, which all losses share; Keras is the oracle."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from zoo_keras import import_keras

from jaxpress import nnops

RNG = np.random.default_rng(0)
X, Y = (RNG.normal(size=(4, 3)).astype(np.float32) for _ in range(2))

ELEMENTWISE = ["mean_squared_error", "mean_absolute_error", "huber", "binary_cross_entropy"]
ALONG_AN_AXIS = ["softmax_cross_entropy", "kl_divergence", "cosine_similarity", "cosine_distance"]


def _loss(name):
    if name == "kl_divergence":
        return nnops.kl_divergence, X, abs(Y), (4,)
    if name != "ctc_loss":
        return getattr(nnops, name), X, Y, X.shape[: 2 if name in ELEMENTWISE else 1]
    labels = np.array([[1, 2], [2, 2], [0, 0], [1, 1]])
    return nnops.ctc_loss, RNG.normal(size=(4, 5, 3)).astype(np.float32), labels, (4,)


@pytest.mark.parametrize("name", [*ELEMENTWISE, *ALONG_AN_AXIS, "ctc_loss"])
def test_every_loss_counts_alike(name):
    f, x, y, shape = _loss(name)
    each = f(x, y)
    assert each.shape == shape
    where = RNG.integers(0, 2, shape).astype(bool)
    where.flat[:2] = True, False
    weights = RNG.uniform(0.5, 2, shape).astype(np.float32)
    np.testing.assert_allclose(f(x, y, reduction="sum"), each.sum(), rtol=1e-5)
    np.testing.assert_allclose(f(x, y, reduction="mean"), each.mean(), rtol=1e-5)
    for given, factor in [
        ({"where": where}, where),
        ({"weights": weights}, weights),
        ({"where": where, "weights": weights}, where * weights),
    ]:
        np.testing.assert_allclose(f(x, y, **given), each * factor, rtol=1e-6)
        got = f(x, y, **given, reduction="sum")
        np.testing.assert_allclose(got, (each * factor).sum(), rtol=1e-5)
        got = f(x, y, **given, reduction="mean")
        np.testing.assert_allclose(got, np.average(each, weights=factor), rtol=1e-5)
    assert f(x, y, where=np.zeros(shape, bool), reduction="mean") == 0
    assert f(x, y, weights=np.zeros(shape), reduction="mean") == 0


@pytest.mark.parametrize("name", [*ELEMENTWISE, *ALONG_AN_AXIS, "ctc_loss"])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_left_out_is_never_seen(name, bad):
    f, x, y, shape = _loss(name)
    where = np.ones(shape, bool)
    where[1] = False
    spoilt = x.copy()
    spoilt[1] = bad

    def total(x):
        return f(x, y, where=where, reduction="mean")

    value, grad = jax.value_and_grad(total)(spoilt)
    want, want_grad = jax.value_and_grad(total)(x)
    assert value == want
    np.testing.assert_array_equal(grad, want_grad)
    assert (grad[1] == 0).all()


@pytest.mark.parametrize("name", [*ELEMENTWISE, *ALONG_AN_AXIS, "ctc_loss"])
def test_nothing_at_all(name):
    f, x, y, shape = _loss(name)
    each = f(x[:0], y[:0])
    assert each.shape == (0, *shape[1:])
    for reduction in ("mean", "sum"):
        assert f(x[:0], y[:0], reduction=reduction) == 0


def test_keras_takes_the_same_weighted_mean():
    keras = import_keras()
    weights = RNG.uniform(0, 2, 4).astype(np.float32)
    labels = np.array([0, 2, 1, 2])
    loss = keras.losses.SparseCategoricalCrossentropy(
        from_logits=True, reduction="mean_with_sample_weight"
    )
    for given in (weights, np.zeros(4, np.float32)):
        want = loss(labels, X, sample_weight=given)
        got = nnops.softmax_cross_entropy(X, labels, weights=given, reduction="mean")
        np.testing.assert_allclose(got, want, rtol=1e-6)


def test_a_mean_in_low_precision_is_summed_in_float32():
    x = jnp.full(4096, 0.1, jnp.bfloat16)
    got = nnops.mean_absolute_error(x, jnp.zeros_like(x), reduction="mean")
    assert got.dtype == jnp.bfloat16
    assert got == x[0]


def test_integers_become_floats_and_weights_promote():
    assert nnops.mean_squared_error(jnp.arange(3), jnp.ones(3, jnp.int32)).dtype == jnp.float32
    x = jnp.ones(3, jnp.bfloat16)
    assert nnops.huber(x, jnp.ones(3, jnp.int32)).dtype == jnp.bfloat16
    assert nnops.huber(x, x, weights=jnp.ones(3)).dtype == jnp.float32
    with jax.enable_x64(True):
        assert nnops.huber(jnp.ones(3), jnp.ones(3)).dtype == jnp.float64


def test_vmap_of_all_operands_needs_no_record():
    f = lambda x, y, w: nnops.huber(x, y, where=w)  # noqa: E731
    (eqn,) = jax.make_jaxpr(jax.vmap(f, (1, 0, 0)))(X.T, X, X > 0).eqns[1:]
    assert eqn.primitive.name == "huber"
    assert "mapped" not in eqn.params
    (eqn,) = jax.make_jaxpr(jax.vmap(lambda x: f(x, Y[0], None)))(X).eqns
    assert eqn.primitive.name == "huber"


def test_errors_show_all_operands():
    x, wrong = jnp.ones((3, 1)), jnp.ones(3)
    for loss in (nnops.mean_squared_error, nnops.binary_cross_entropy, nnops.cosine_similarity):
        for args, weights in [((x, wrong), None), ((x, x), jnp.ones((2, 2)))]:
            with pytest.raises(nnops.OpError) as error:
                loss(*args, weights=weights)
            assert "float32(3, 1)" in str(error.value)
            assert "float32(3,)" in str(error.value) or "weights float32(2, 2)" in str(error.value)
