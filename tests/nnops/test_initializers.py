"""Initializers against those of jax.nn, and against the moments that they promise."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.nn import initializers as of_jax

from jaxpress import nnops
from jaxpress.nnops import initializers

KEY = jax.random.key(0)
SCALED = ("glorot", "he", "lecun", "xavier", "kaiming")


@pytest.mark.parametrize(
    "name, args",
    [
        ("normal", (0.5,)),
        ("normal", (0.5, jnp.bfloat16)),
        ("truncated_normal", (0.5, jnp.float32, -1.0, 1.5)),
        ("variance_scaling", (2.0, "fan_avg", "uniform")),
        ("constant", (3.0,)),
        *(
            (f"{who}_{how}", ())
            for who in ("glorot", "he", "lecun")
            for how in ("normal", "uniform")
        ),
        *((f"{who}_{how}", ()) for who in ("xavier", "kaiming") for how in ("normal", "uniform")),
    ],
)
def test_jax_draws_the_same(name, args):
    got, want = (getattr(m, name)(*args)(KEY, (6, 4)) for m in (initializers, of_jax))
    assert got.dtype == want.dtype
    np.testing.assert_array_equal(got, want)
    got, want = (getattr(m, name)(*args)(KEY, (6, 4), jnp.float16) for m in (initializers, of_jax))
    assert got.dtype == jnp.float16
    np.testing.assert_array_equal(got, want)


def test_orthogonal_in_every_dtype():
    for dtype in (jnp.float32, jnp.bfloat16, jnp.float16):
        got = initializers.orthogonal(2.0, dtype=dtype)(KEY, (4, 6))
        want = of_jax.orthogonal(2.0)(KEY, (4, 6))
        assert got.dtype == dtype
        np.testing.assert_array_equal(got, want.astype(dtype))
    got = initializers.delta_orthogonal()(KEY, (3, 3, 2, 4))
    np.testing.assert_array_equal(got, of_jax.delta_orthogonal()(KEY, (3, 3, 2, 4)))


def test_every_initializer_of_jax_is_here():
    theirs = {n for n, f in vars(of_jax).items() if inspect.isfunction(f)} | {"zeros", "ones"}
    assert theirs <= set(initializers.__all__)
    assert nnops.initializers is initializers


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_uniform(dtype):
    x = np.asarray(initializers.uniform(-3.0, 1.0)(KEY, (10_000,), dtype), np.float32)
    assert -3 <= x.min() < -2.95 and 0.95 < x.max() <= 1
    np.testing.assert_allclose(x.mean(), -1, atol=5 * 4 / np.sqrt(12 * 10_000))
    assert initializers.uniform(0.0, 1.0, jnp.bfloat16)(KEY, (2,)).dtype == jnp.bfloat16


def test_means():
    for init in (initializers.normal(0.5, mean=2.0), initializers.truncated_normal(0.5, mean=2.0)):
        x = init(KEY, (10_000,))
        np.testing.assert_allclose(x.mean(), 2, atol=5 * 0.5 / 100)
        assert init(KEY, (3,), dtype=jnp.bfloat16).dtype == jnp.bfloat16
    assert float(abs(x - 2).max()) <= 1


@pytest.mark.parametrize("name, value", [("zeros", 0), ("ones", 1)])
def test_constants_are_initializers_and_make_them(name, value):
    f = getattr(initializers, name)
    for init in (f, f()):
        for x in (init(KEY, (2, 3)), init(KEY, [2, 3], jnp.float32), init(None, shape=(2, 3))):
            np.testing.assert_array_equal(x, np.full((2, 3), value, np.float32))
        assert init(KEY, (2,), jnp.int32).dtype == jnp.int32
        assert init(KEY, ()).shape == ()
    with jax.enable_x64(True):
        assert f(KEY, (1,)).dtype == jnp.float64


def test_they_can_be_traced_and_have_no_size():
    draw = jax.jit(lambda key: initializers.normal(mean=1.0)(key, (0, 3)))
    assert draw(KEY).shape == (0, 3)


@pytest.mark.parametrize(
    "make",
    [
        lambda: initializers.normal(-1.0),
        lambda: initializers.truncated_normal(-1.0),
        lambda: initializers.truncated_normal(lower=2.0, upper=2.0),
        lambda: initializers.uniform(1.0, -1.0),
    ],
)
def test_errors(make):
    with pytest.raises(nnops.OpError, match="to mend it"):
        make()
