"""Kullback-Leibler divergence and cosines against optax and torch."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxpress import nnops

RNG = np.random.default_rng(0)


def _softly(f, log_targets=False):
    """``f`` of distributions made from any numbers."""
    of_targets = jax.nn.log_softmax if log_targets else jax.nn.softmax
    return lambda x, y: f(jax.nn.log_softmax(x), of_targets(y))


@pytest.mark.parametrize(
    "ours, plain",
    [
        (_softly(nnops.kl_divergence), _softly(optax.kl_divergence)),
        (
            _softly(lambda x, y: nnops.kl_divergence(x, y, log_targets=True), True),
            _softly(optax.losses.kl_divergence_with_log_targets, True),
        ),
        (lambda x, y: nnops.cosine_similarity(x, y, axis=-1), optax.cosine_similarity),
        (nnops.cosine_distance, optax.cosine_distance),
    ],
    ids=["kl", "kl of logarithms", "similarity", "distance"],
)
def test_every_transformation(agree, ours, plain):
    agree(ours, plain, (2, 3), (2, 3), batch=False)  # test_every_op maps them


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_axes(axis):
    x, y = (jnp.asarray(RNG.normal(size=(2, 3, 4)), jnp.float32) for _ in range(2))
    got = nnops.cosine_similarity(x, y, axis=axis)
    want = optax.cosine_similarity(jnp.moveaxis(x, axis, -1), jnp.moveaxis(y, axis, -1))
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)
    log_p, q = jax.nn.log_softmax(x, axis), jax.nn.softmax(y, axis)
    got = nnops.kl_divergence(log_p, q, axis=axis)
    want = optax.kl_divergence(jnp.moveaxis(log_p, axis, -1), jnp.moveaxis(q, axis, -1))
    np.testing.assert_allclose(got, want, rtol=1e-5)


def test_what_cannot_happen():
    log_q, p = jnp.array([jnp.log(0.5), jnp.log(0.5), -jnp.inf]), jnp.array([0.25, 0.75, 0.0])
    want, back = jax.vjp(optax.kl_divergence, log_q[:2], p[:2])
    for given, log_targets in ((p, False), (jnp.log(p), True)):
        f = lambda q, p, logs=log_targets: nnops.kl_divergence(q, p, log_targets=logs)  # noqa: E731
        got, our_back = jax.vjp(f, log_q, given)
        np.testing.assert_allclose(got, want, rtol=1e-6)
        np.testing.assert_allclose(our_back(1.0)[0], [*back(1.0)[0], 0.0], rtol=1e-6)
        assert not np.isnan(our_back(1.0)[1]).any()
        assert np.isposinf(f(log_q[::-1], given))


@pytest.mark.parametrize("log_targets", [False, True])
def test_torch_s_divergence(log_targets):
    torch = pytest.importorskip("torch")
    log_q = np.asarray(jax.nn.log_softmax(RNG.normal(size=(3, 5)).astype(np.float32)))
    p = np.asarray(jax.nn.log_softmax(RNG.normal(size=(3, 5)).astype(np.float32)))
    p = p if log_targets else np.exp(p)
    want = torch.nn.functional.kl_div(
        torch.tensor(log_q), torch.tensor(p), reduction="batchmean", log_target=log_targets
    )
    got = nnops.kl_divergence(log_q, p, log_targets=log_targets, reduction="mean")
    np.testing.assert_allclose(got, want, rtol=1e-5)


def test_zero_vectors():
    f = nnops.cosine_similarity
    x, y = jnp.zeros(3), jnp.array([1.0, 2.0, 2.0])
    assert f(x, y) == 0 and f(x, x) == 0
    # As if the vector had the length epsilon.
    np.testing.assert_allclose(jax.grad(lambda x: f(x, y, epsilon=0.5))(x), 2 * y / 3, rtol=1e-6)
    assert np.isfinite(jax.grad(f)(x, x)).all()
    torch = pytest.importorskip("torch")
    tiny = np.float32([1e-10, 0, 0])
    want = torch.nn.functional.cosine_similarity(torch.tensor(tiny), torch.tensor(tiny), dim=0)
    np.testing.assert_allclose(f(tiny, tiny), want, rtol=1e-5)


@pytest.mark.parametrize("name", ["kl_divergence", "cosine_similarity", "cosine_distance"])
def test_errors(name):
    f = getattr(nnops, name)
    with pytest.raises(nnops.OpError, match=rf"{name}: targets has shape \(3,\)"):
        f(jnp.ones((2, 3)), jnp.ones(3))
    with pytest.raises(nnops.OpError, match="axis is 1"):
        f(jnp.ones(3), jnp.ones(3), axis=1)
    with pytest.raises(nnops.OpError, match="no axes"):
        f(1.0, 2.0)


def test_epsilon():
    with pytest.raises(nnops.OpError, match="epsilon"):
        nnops.cosine_similarity(jnp.ones(3), jnp.ones(3), epsilon=0)


@pytest.mark.parametrize(
    "ours, plain",
    [
        (nnops.kl_divergence, optax.kl_divergence),
        (
            lambda x, y, **how: nnops.kl_divergence(x, y, log_targets=True, **how),
            optax.losses.kl_divergence_with_log_targets,
        ),
    ],
    ids=["probabilities", "logarithms"],
)
def test_products_of_zero_and_infinity_as_in_optax(ours, plain):
    inf = jnp.inf
    log_q = jnp.array([[0.0, -1, -inf], [-inf, 0, inf], [jnp.nan, 0, 0]])
    for p in ([0.25, 0.75, 0.0], [0.0, 0.0, 0.0], [-inf, -1.0, inf], [jnp.nan, -1, 1]):
        args = (log_q, jnp.broadcast_to(jnp.array(p, "float32"), log_q.shape))
        both = [
            jax.vjp(lambda *a: ours(*a, zero_times_infinity="nan"), *args),
            jax.vjp(plain, *args),
        ]
        got, want = ([value, *back(jnp.ones_like(value))] for value, back in both)
        for a, b in zip(got, want, strict=True):
            np.testing.assert_allclose(a, b, rtol=2e-6)


@pytest.mark.parametrize("placement", ["max", "norm", "root", "sum"])
def test_vectors_that_are_normalised_first(placement):
    x = jnp.array([[0.0, 0.0], [3.0, 4.0], [3e30, 1e30], [jnp.inf, 1.0]])
    y = x[:, ::-1] * 2
    how = {"epsilon": 0.0, "placement": placement}
    want = (nnops.l2_normalize(x, **how) * nnops.l2_normalize(y, **how)).sum(-1)
    np.testing.assert_array_equal(nnops.cosine_similarity(x, y, **how), want)
    np.testing.assert_array_equal(nnops.cosine_distance(x, y, **how), 1 - want)
    with pytest.raises(nnops.OpError, match="placement is 'end'"):
        nnops.cosine_similarity(x, y, placement="end")
    with pytest.raises(nnops.OpError, match="dot_first is 'x'"):
        nnops.cosine_similarity(x, y, dot_first="x")


def test_a_product_over_lengths_that_are_kept_from_zero():
    x = jnp.array([[0.0, 0.0], [3.0, 4.0], [1e20, 1e20], [jnp.inf, 1.0]])
    y = x[:, ::-1] * 2
    n, m = (jnp.linalg.norm(v, axis=-1) for v in (x, y))
    e, squares = 0.25, (n**2, m**2)
    wants = {
        "root": jnp.sqrt(squares[0] + e) * jnp.sqrt(squares[1] + e),
        "sum": (n + e) * (m + e),
        "norm": jnp.maximum(n, e) * jnp.maximum(m, e),
        "max": jnp.maximum(n, e) * jnp.maximum(m, e),
    }
    for placement, lengths in wants.items():
        how = {"epsilon": e, "placement": placement, "dot_first": True}
        want = (x * y).sum(-1) / lengths
        np.testing.assert_allclose(nnops.cosine_similarity(x, y, **how), want, rtol=1e-6)
        np.testing.assert_allclose(nnops.cosine_distance(x, y, **how), 1 - want, rtol=1e-5)
