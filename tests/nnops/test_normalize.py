"""standardize, l2_normalize and weight_standardize against jax.nn, torch and their formulas."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpress import nnops


def draw(*shape, seed=0):
    return np.asarray(np.random.default_rng([seed, *shape]).normal(size=shape), np.float32)


X = draw(3, 4, 5)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"axis": (0, 2)},
        {"axis": None, "epsilon": 1e-2},
        {"mean": draw(3, 4, 1, seed=1)},
        {"variance": np.full((3, 4, 1), 2.0, np.float32), "axis": -1},
        {"where": X > -0.5},
    ],
)
def test_standardize_as_jax_nn(options):
    want, got = jax.nn.standardize(X, **options), nnops.standardize(X, **options)
    np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-6)
    (eqn,) = jax.make_jaxpr(lambda x: nnops.standardize(x, **options))(X).eqns
    assert eqn.primitive.name == "standardize"


def test_standardize_under_every_transformation(agree):
    agree(
        lambda x, m: nnops.standardize(x, 0, mean=m),
        lambda x, m: jax.nn.standardize(x, 0, mean=m),
        (3, 2),
        (1, 2),
        batch=False,
    )


def test_standardize_with_a_mapped_mean():
    f = jax.vmap(lambda x, m: nnops.standardize(x, mean=m))
    m = draw(3, 1, seed=1)
    want = jax.vmap(lambda x, m: jax.nn.standardize(x, mean=m))(X, m)
    np.testing.assert_allclose(f(X, m), want, rtol=1e-6)
    (eqn,) = jax.make_jaxpr(f)(X, m).eqns
    assert eqn.primitive.name == "standardize"


def norms(x, axis=-1):
    return np.sqrt((np.asarray(x, np.float64) ** 2).sum(axis, keepdims=True))


@pytest.mark.parametrize("axis", [-1, 0, (1, 2)])
@pytest.mark.parametrize("epsilon", [0.0, 1e-12, 2.5])
def test_l2_normalize_wherever_epsilon_stands(axis, epsilon):
    n = norms(X, axis)
    wants = {
        "max": X / np.maximum(n, epsilon),
        "norm": X / np.maximum(n, epsilon),
        "sum": X / (n + epsilon),
        "root": X / np.sqrt(n * n + epsilon),
    }
    for placement, want in wants.items():
        got = nnops.l2_normalize(X, axis=axis, epsilon=epsilon, placement=placement)
        np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-7)


def test_l2_normalize_as_torch():
    torch = pytest.importorskip("torch")
    x = X.copy()
    x[0, 0] = 0
    x[0, 1] *= 1e-13
    for eps in (1e-12, 0.7):
        want = torch.nn.functional.normalize(torch.tensor(x), dim=-1, eps=eps).numpy()
        got = nnops.l2_normalize(x, epsilon=eps)
        np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-7)


def test_l2_normalize_at_zero():
    zero = jnp.zeros(3)
    np.testing.assert_array_equal(nnops.l2_normalize(zero), 0)
    slope = jax.grad(lambda x: nnops.l2_normalize(x, epsilon=0.5)[0])(zero)
    np.testing.assert_array_equal(slope, [2, 0, 0])
    assert np.isnan(np.asarray(nnops.l2_normalize(zero, epsilon=0))).all()
    assert np.isnan(np.asarray(nnops.l2_normalize(jnp.asarray([1.0, np.nan])))).all()


def test_l2_normalize_under_every_transformation(agree):
    agree(
        lambda x: nnops.l2_normalize(x, epsilon=1e-3),
        lambda x: x / jnp.sqrt((x * x).sum(-1))[..., None],
        (2, 3),
        batch=False,
    )


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_l2_normalize_in_low_precision(dtype):
    x = jnp.asarray(300 * X).astype(dtype)
    got = nnops.l2_normalize(x)
    assert got.dtype == dtype
    want = np.asarray(x, np.float64) / norms(x)
    tolerance = float(jnp.finfo(dtype).eps)
    np.testing.assert_allclose(np.asarray(got, np.float64), want, rtol=tolerance, atol=1e-6)


def plain_weights(w, axis, epsilon=1e-5):
    away = w - w.mean(axis, keepdims=True)
    return away / jnp.sqrt(jnp.mean(away * away, axis, keepdims=True) + epsilon)


def test_weight_standardize():
    w = draw(3, 3, 4, 6)
    np.testing.assert_allclose(
        nnops.weight_standardize(w), plain_weights(w, (0, 1, 2)), rtol=1e-5, atol=1e-6
    )
    np.testing.assert_allclose(
        nnops.weight_standardize(w, axis=(1, 2, 3), epsilon=1e-3),
        plain_weights(w, (1, 2, 3), 1e-3),
        rtol=1e-5,
        atol=1e-6,
    )


def test_weight_standardize_as_torch():
    torch = pytest.importorskip("torch")
    w = draw(6, 4, 3, 3)
    # Each output's weights are one instance of layer norm.
    want = torch.nn.functional.layer_norm(torch.tensor(w), (4, 3, 3), eps=1e-5).numpy()
    got = nnops.weight_standardize(w, axis=(1, 2, 3))
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)


def test_weight_standardize_under_every_transformation(agree):
    agree(nnops.weight_standardize, lambda w: plain_weights(w, (0, 1)), (2, 3, 2), batch=False)


def test_weight_standardize_under_vmap():
    w = draw(2, 3, 4, 6)
    (eqn,) = jax.make_jaxpr(jax.vmap(nnops.weight_standardize))(w).eqns
    assert eqn.primitive.name == "weight_standardize" and eqn.params["axis"] == (-3, -2)
    got = jax.vmap(nnops.weight_standardize)(w)
    np.testing.assert_allclose(got, plain_weights(w, (1, 2)), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda: nnops.standardize(X, 3), "axis is 3"),
        (lambda: nnops.l2_normalize(X, axis=(1, 1)), "axis is (1, 1)"),
        (lambda: nnops.l2_normalize(X, placement="below"), "placement is 'below'"),
        (lambda: nnops.l2_normalize(X.astype(np.complex64)), "x is complex"),
        (lambda: nnops.l2_normalize(X, epsilon=None), "epsilon is None"),
        (lambda: nnops.weight_standardize(X[0, 0]), "axis names no axis"),
    ],
)
def test_operands_that_do_not_fit(call, words):
    with pytest.raises(nnops.OpError) as caught:
        call()
    assert words in str(caught.value)


NORMS = {
    "layer_norm": (lambda x, **kw: nnops.layer_norm(x, **kw), -1, True),
    "rms_norm": (lambda x, **kw: nnops.rms_norm(x, **kw), -1, False),
    "group_norm": (lambda x, **kw: nnops.group_norm(x, groups=1, **kw), (1, 2), True),
    "instance_norm": (lambda x, **kw: nnops.instance_norm(x, **kw), 1, True),
    "weight_standardize": (lambda x, **kw: nnops.weight_standardize(x, **kw), (0, 1), True),
    "batch_norm_train": (
        lambda x, **kw: nnops.batch_norm_train(x, jnp.zeros(4), jnp.ones(4), **kw)[0],
        (0, 1),
        True,
    ),
}


@pytest.mark.parametrize("name", NORMS)
def test_norms_wherever_epsilon_stands(name):
    op, axis, centred = NORMS[name]
    x = np.asarray(draw(2, 3, 4), np.float32)
    away = x - x.mean(axis, keepdims=True, dtype=np.float64) if centred else x.astype(np.float64)
    std = np.sqrt((away**2).mean(axis, keepdims=True))
    for epsilon in (0.0, 0.8):
        wants = {
            "max": np.maximum(std, epsilon),
            "norm": np.maximum(std, epsilon),
            "sum": std + epsilon,
            "root": np.sqrt(std**2 + epsilon),
        }
        got = jax.jit(
            lambda x, e=epsilon, w=tuple(wants): [op(x, epsilon=e, placement=p) for p in w]
        )(x)
        for one, root in zip(got, wants.values(), strict=True):
            np.testing.assert_allclose(one, away / root, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("placement", "slope"), [("root", np.sqrt(2)), ("sum", np.nan), ("norm", np.nan), ("max", 2.0)]
)
def test_slopes_of_norms_where_the_variance_is_zero(placement, slope):
    for name in ("layer_norm", "rms_norm", "l2_normalize"):
        op = getattr(nnops, name)
        g = jax.grad(lambda x, op=op: op(x, epsilon=0.5, placement=placement)[0])(jnp.zeros(2))
        share = {"layer_norm": 0.5, "rms_norm": 1.0, "l2_normalize": 1.0}[name]
        np.testing.assert_allclose(g[0], slope * share, rtol=1e-6)
