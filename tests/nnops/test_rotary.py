"""Position encodings against complex rotation, Flax's and Keras' formulas, and numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpress import nnops

B, T, N, H = 2, 5, 3, 8


def draw(*shape, seed=0, dtype=jnp.float32):
    return jnp.asarray(np.random.default_rng([seed, *shape]).normal(size=shape), dtype)


def turned(x, positions, features, base, interleaved):
    """By complex numbers, in float64: each pair is one, multiplied by exp(i angle)."""
    x = np.asarray(x, np.float64)
    part, rest = x[..., :features], x[..., features:]
    half = features // 2
    a, b = (
        (part[..., ::2], part[..., 1::2]) if interleaved else (part[..., :half], part[..., half:])
    )
    angles = np.asarray(positions)[..., None] * base ** (-2 * np.arange(half) / features)
    z = (a + 1j * b) * np.exp(1j * angles)[..., :, None, :]
    y = np.stack([z.real, z.imag], -1 if interleaved else -2).reshape(part.shape)
    return np.concatenate([y, rest], -1)


@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize("features", [H, 4])
@pytest.mark.parametrize("base", [10000.0, 500.0])
def test_rotation_is_a_complex_product(interleaved, features, base):
    x, positions = draw(B, T, N, H), jnp.arange(T) + 3
    cos, sin = nnops.rotary_tables(positions, features, base=base, interleaved=interleaved)
    got = nnops.rotary_embedding(x, cos, sin, interleaved=interleaved)
    want = turned(x, positions, features, base, interleaved)
    np.testing.assert_allclose(got, want, rtol=2e-5, atol=2e-6)


def test_positions_of_each_sample():
    x, positions = draw(B, T, N, H), jnp.array([[0, 1, 2, 3, 4], [7, 8, 0, 1, 2]])
    cos, sin = nnops.rotary_tables(positions, H)
    got = nnops.rotary_embedding(x, cos, sin)
    np.testing.assert_allclose(got, turned(x, positions, H, 1e4, False), rtol=2e-5, atol=2e-6)
    full = nnops.rotary_embedding(x, cos[:, :, None], sin[:, :, None])
    np.testing.assert_array_equal(got, full)


def test_scores_depend_on_distances_alone():
    q, k = draw(1, 1, 1, H), draw(1, 1, 1, H, seed=1)

    def score(i, j):
        a, b = (
            nnops.rotary_embedding(x, *nnops.rotary_tables(jnp.array([p]), H))
            for x, p in ((q, i), (k, j))
        )
        return float(jnp.vdot(a, b))

    np.testing.assert_allclose(score(3, 1), score(9, 7), rtol=1e-5)


def test_behaves_under_every_transformation(agree):
    def plain(x, cos, sin):
        cos, sin = cos[..., None, :], sin[..., None, :]
        part, rest = x[..., :4], x[..., 4:]
        other = jnp.stack([-part[..., 1::2], part[..., ::2]], -1).reshape(part.shape)
        return jnp.concatenate([part * cos + other * sin, rest], -1)

    f = lambda *a: nnops.rotary_embedding(*a, interleaved=True)  # noqa: E731
    agree(f, plain, (2, 3, 2, 6), (3, 4), (3, 4))


def test_vmap_keeps_the_op_plain():
    cos, sin = nnops.rotary_tables(jnp.arange(T), H)
    f = jax.vmap(lambda x: nnops.rotary_embedding(x, cos, sin))
    x = draw(B, T, N, H)
    (eqn,) = (e for e in jax.make_jaxpr(f)(x).eqns if e.primitive.name == "rotary_embedding")
    assert eqn.params == {"interleaved": False}
    np.testing.assert_array_equal(f(x), nnops.rotary_embedding(x, cos, sin))


def test_dtypes_promote():
    cos, sin = nnops.rotary_tables(jnp.arange(T), H)
    low = draw(T, N, H, dtype=jnp.bfloat16)
    assert nnops.rotary_embedding(low, cos, sin).dtype == jnp.float32
    tables = (cos.astype(jnp.bfloat16), sin.astype(jnp.bfloat16))
    assert nnops.rotary_embedding(low, *tables).dtype == jnp.bfloat16


@pytest.mark.parametrize("shape", [(), (4,), (2, 3)])
def test_sinusoidal_is_the_paper_s(shape):
    positions = np.random.default_rng(0).integers(0, 50, shape)
    got = nnops.sinusoidal_encoding(positions, 6)
    want = np.zeros((*shape, 6))
    for i in range(3):
        angle = positions / 10000 ** (2 * i / 6)
        want[..., 2 * i], want[..., 2 * i + 1] = np.sin(angle), np.cos(angle)
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=3e-6)
    halves = nnops.sinusoidal_encoding(positions, 6, interleaved=False)
    np.testing.assert_array_equal(halves, jnp.concatenate([got[..., ::2], got[..., 1::2]], -1))


@pytest.mark.parametrize(
    "x, table",
    [((T, N, H), (T + 1, H)), ((T, N, H), (T, 10)), ((T, N, H), (T, 3)), ((H,), (T, H))],
)
def test_tables_that_do_not_fit(x, table):
    with pytest.raises(nnops.OpError, match="rotary_embedding"):
        nnops.rotary_embedding(jnp.ones(x), jnp.ones(table), jnp.ones(table))


@pytest.mark.parametrize("features", [0, 3, -2])
def test_odd_features(features):
    with pytest.raises(nnops.OpError, match="even"):
        nnops.rotary_tables(jnp.arange(3), features)
    with pytest.raises(nnops.OpError, match="even"):
        nnops.sinusoidal_encoding(jnp.arange(3), features)
