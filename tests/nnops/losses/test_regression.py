"""Squared, absolute and Huber losses against optax and torch."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxpress import nnops

RNG = np.random.default_rng(0)
TORCH = {"mean_squared_error": "mse_loss", "mean_absolute_error": "l1_loss", "huber": "huber_loss"}


@pytest.mark.parametrize(
    "ours, plain",
    [
        (nnops.mean_squared_error, optax.squared_error),
        (nnops.mean_absolute_error, lambda x, y: jnp.abs(x - y)),
        (
            lambda x, y: nnops.huber(x, y, delta=0.7),
            lambda x, y: optax.huber_loss(x, y, delta=0.7),
        ),
    ],
    ids=["squared", "absolute", "huber"],
)
def test_every_transformation(agree, ours, plain):
    agree(ours, plain, (2, 3), (2, 3), batch=False)  # test_every_op maps them


@pytest.mark.parametrize("name", TORCH)
@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
def test_torch(name, reduction):
    torch = pytest.importorskip("torch")
    x, y = (RNG.normal(size=(5, 7)).astype(np.float32) * 3 for _ in range(2))
    if name != "mean_absolute_error":  # whose derivative at 0 is that of jnp.abs
        y[0] = x[0]
    tx, ty = torch.tensor(x, requires_grad=True), torch.tensor(y)
    want = getattr(torch.nn.functional, TORCH[name])(tx, ty, reduction=reduction)
    want.sum().backward()
    got, back = jax.vjp(lambda x: getattr(nnops, name)(x, y, reduction=reduction), x)
    np.testing.assert_allclose(got, want.detach(), rtol=1e-6)
    (grad,) = back(jnp.ones_like(got))
    np.testing.assert_allclose(grad, tx.grad, rtol=1e-6)


@pytest.mark.parametrize("delta", [1.0, 0.25])
def test_huber_where_its_parts_meet_and_beyond(delta):
    f = lambda e: nnops.huber(e, 0.0, delta=delta)  # noqa: E731
    errors = jnp.array([delta, -delta, 0.0, jnp.inf, -jnp.inf])
    assert jax.vmap(jax.grad(f))(errors).tolist() == [delta, -delta, 0, delta, -delta]
    assert jax.vmap(f)(errors).tolist() == [0.5 * delta**2, 0.5 * delta**2, 0, jnp.inf, jnp.inf]
    assert np.isnan(f(jnp.nan))


def test_absolute_has_the_derivative_of_jnp_abs():
    x = jnp.array([-1.0, 0.0, -0.0, 1.0, jnp.inf])
    got = jax.vmap(jax.grad(lambda x: nnops.mean_absolute_error(x, 0.0)))(x)
    np.testing.assert_array_equal(got, jax.vmap(jax.grad(jnp.abs))(x))


def test_huber_of_an_infinite_delta_is_squared():
    x = jnp.array([3.0, -1e3])
    np.testing.assert_array_equal(nnops.huber(x, 0 * x, delta=jnp.inf), 0.5 * x**2)


@pytest.mark.parametrize("name", TORCH)
def test_errors(name):
    f = getattr(nnops, name)
    with pytest.raises(nnops.OpError, match=rf"{name}: targets has shape \(3,\).*\n.*\n.*\(2, 3\)"):
        f(jnp.ones((2, 3)), jnp.ones(3))
    with pytest.raises(nnops.OpError, match="missing"):
        f(jnp.ones(3), None)
    with pytest.raises(nnops.OpTypeError, match="complex"):
        f(jnp.ones(3), 1j * jnp.ones(3))


def test_delta():
    for delta in (0, -1.0, float("nan")):
        with pytest.raises(nnops.OpError, match="delta"):
            nnops.huber(1.0, 2.0, delta=delta)
    with pytest.raises(nnops.OpTypeError, match="delta"):
        jax.jit(lambda d: nnops.huber(1.0, 2.0, delta=d))(1.0)


@pytest.mark.parametrize("delta", [1.0, 0.3])
def test_huber_behind_a_choice_has_no_slope_at_infinity(delta):
    def chosen(e):
        size = jnp.abs(e)
        return jnp.where(size <= delta, 0.5 * e**2, delta * size - 0.5 * delta**2)

    def ours(e):
        return nnops.huber(e, jnp.zeros_like(e), delta=delta, slope_at_infinity="nan")

    errors = jnp.array([delta, -delta, 0.0, -0.0, 7.0, 1e30, -jnp.inf, jnp.nan])
    for f, g in ((ours, chosen), (jax.vmap(jax.grad(ours)), jax.vmap(jax.grad(chosen)))):
        np.testing.assert_allclose(f(errors), g(errors), rtol=1e-6)
    with pytest.raises(nnops.OpError, match="slope_at_infinity is 0"):
        nnops.huber(errors, errors, slope_at_infinity=0)
