"""The op einsum_dense against jnp.einsum, and each library's layer over several axes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpress import nnops

RNG = np.random.default_rng(0)


def _draw(*shape, dtype="float32"):
    return jnp.asarray(RNG.normal(size=shape), dtype)


CASES = {
    "...d,dhk->...hk": ((2, 3, 6), (6, 4, 5), (4, 5)),
    "btd,dhk->bthk": ((2, 3, 6), (6, 4, 5), (4, 5)),
    "btd,dhk->bhtk": ((2, 3, 6), (6, 4, 5), (4, 1, 5)),
    "...hk,hkd->...d": ((2, 3, 4, 5), (4, 5, 6), (6,)),
    "...hk,dhk->...d": ((2, 3, 4, 5), (6, 4, 5), (6,)),
    "...ha,hak->...hk": ((2, 3, 4, 5), (4, 5, 6), (4, 6)),
    "eba,eac->ebc": ((2, 3, 4), (2, 4, 5), (2, 1, 5)),
    "abc,bd->adc": ((2, 3, 4), (3, 5), (5, 1)),
    "a,ab->b": ((3,), (3, 4), (4,)),
    "bd,de->eb": ((2, 3), (3, 4), (4, 1)),
    "d...,de->e...": ((3, 2, 4), (3, 5), (5, 1, 1)),
    "ab,->ab": ((2, 3), (), ()),
}


@pytest.mark.parametrize("equation", CASES)
def test_values_against_numpy(equation):
    xs, ws, bs = CASES[equation]
    x, w, b = _draw(*xs), _draw(*ws), _draw(*bs)
    numpy = [np.asarray(a, np.float64) for a in (x, w)]
    want = np.maximum(np.einsum(equation, *numpy) + np.asarray(b, np.float64), 0)
    parts = [s for s in bs if s != 1]
    got = nnops.einsum_dense(x, w, b.reshape(parts), equation=equation, activation="relu")
    np.testing.assert_allclose(got, want, rtol=2e-6, atol=2e-6)
    residual = jnp.ones(got.shape)
    more = nnops.einsum_dense(x, w, residual=residual, equation=equation)
    np.testing.assert_allclose(more, np.einsum(equation, *numpy) + 1, rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize("equation", ["...d,dhk->...hk", "...hk,hkd->...d"])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "int32", "complex64"])
def test_other_dtypes_are_einsum_to_the_bit(equation, dtype):
    xs, ws, _ = CASES[equation]
    x, w = (_draw(*xs) * 4).astype(dtype), (_draw(*ws) * 4).astype(dtype)
    got = jax.jit(lambda x, w: nnops.einsum_dense(x, w, equation=equation))(x, w)
    want = jax.jit(lambda x, w: jnp.einsum(equation, x, w, preferred_element_type=x.dtype))(x, w)
    assert got.dtype == want.dtype
    np.testing.assert_array_equal(got, want)


def test_behaves_under_every_transformation(agree):
    agree(
        lambda *a: nnops.einsum_dense(*a, equation="td,dhk->thk", activation="tanh"),
        lambda x, w, b: jnp.tanh(jnp.einsum("td,dhk->thk", x, w) + b),
        (2, 3), (3, 2, 2), (2, 2),
    )  # fmt: skip


def test_weights_for_each_head_behave_under_derivatives(agree):
    agree(
        lambda x, w: nnops.einsum_dense(x, w, equation="tha,hak->htk"),
        lambda x, w: jnp.einsum("tha,hak->htk", x, w),
        (2, 3, 2), (3, 2, 2),
        batch=False,
    )  # fmt: skip


def test_vmap_over_x_folds_into_leading_dimensions():
    x, w, b = _draw(5, 2, 6), _draw(6, 4, 5), _draw(4, 5)
    f = jax.vmap(lambda x: nnops.einsum_dense(x, w, b, equation="td,dhk->thk"), 1, 1)
    eqns = jax.make_jaxpr(f)(x).eqns
    (eqn,) = (e for e in eqns if e.primitive.name == "einsum_dense")
    assert "mapped" not in eqn.params and eqn.params["equation"] == "...a,abc->...bc"
    np.testing.assert_allclose(f(x), jnp.einsum("btd,dhk->bthk", x, w) + b, rtol=1e-5, atol=1e-5)


def test_parameters_are_short_and_complete():
    f = lambda x, w: nnops.einsum_dense(x, w, equation="td,dhk->thk")  # noqa: E731
    (eqn,) = jax.make_jaxpr(f)(jnp.ones((2, 6)), jnp.ones((6, 4, 5))).eqns
    assert {k: str(v) for k, v in eqn.params.items()} == {
        "activation": "None",
        "equation": "...a,abc->...bc",
        "kernel": "reference",
        "operands": "('x', 'w')",
        "precision": "None",
        "preferred_element_type": "None",
    }


@pytest.mark.parametrize(
    "shapes, equation, words",
    [
        (((2, 3), (3, 4)), "abc,cd->abd", "x has 2 axes, and the equation 'abc,cd->abd' names 3"),
        (((2, 3), (4, 5)), "...a,ab->...b", "has size 3 in x and 4 in w"),
        (((2, 1), (4, 5)), "...a,ab->...b", "has size 1 in x and 4 in w"),
        (((2, 3), (3, 4, 5)), "...a,ab->...b", "w has 3"),
        (((3,), (2, 3, 4)), "...ab,abc->...c", "x has 1 axes and w has 3"),
        (((2, 3), (3, 4, 5), (20,)), "...a,abc->...bc", "the result has (4, 5) features"),
        (((2, 3), (3, 4, 5), (5,)), "...a,abc->...bc", "b has shape (5,)"),
        (((2, 3), (3, 4, 5), (4, 5), (4, 5)), "...a,abc->...bc", "residual has shape (4, 5)"),
    ],
)
def test_shapes_that_do_not_fit(shapes, equation, words):
    operands = [jnp.ones(s) for s in shapes]
    with pytest.raises(nnops.OpError) as caught:
        nnops.einsum_dense(*operands, equation=equation)
    assert words in str(caught.value)
    assert "to mend it: " in str(caught.value)


def test_mixed_dtypes_promote_as_in_numpy():
    x, w, b = _draw(2, 3, dtype="bfloat16"), _draw(3, 4, 5, dtype="bfloat16"), _draw(4, 5)
    got = nnops.einsum_dense(x, w, b, equation="...a,abc->...bc", activation="relu")
    want = jax.nn.relu(jnp.einsum("...a,abc->...bc", x, w) + b)
    assert got.dtype == want.dtype == jnp.float32
    np.testing.assert_allclose(got, want, rtol=1e-2, atol=1e-2)


def test_a_symbolic_batch():
    (n,) = jax.export.symbolic_shape("n")
    w = _draw(6, 4, 5)
    f = jax.jit(lambda x: nnops.einsum_dense(x, w, equation="btd,dhk->bhtk"))
    exported = jax.export.export(f)(jax.ShapeDtypeStruct((n, 3, 6), jnp.float32))
    x = _draw(2, 3, 6)
    np.testing.assert_array_equal(exported.call(x), f(x))


def test_flax():
    linen, nnx = pytest.importorskip("flax.linen"), pytest.importorskip("flax.nnx")
    x = _draw(2, 3, 6)
    module = linen.DenseGeneral((4, 5), bias_init=linen.initializers.normal())
    params = module.init(jax.random.key(0), x)
    p = params["params"]
    got = nnops.einsum_dense(x, p["kernel"], p["bias"], equation="btd,dhk->bthk")
    np.testing.assert_allclose(got, module.apply(params, x), rtol=1e-6, atol=1e-6)
    layer = nnx.LinearGeneral((4, 5), 6, axis=(-2, -1), rngs=nnx.Rngs(0))
    got = nnops.einsum_dense(got, layer.kernel[...], layer.bias[...], equation="...hk,hkd->...d")
    np.testing.assert_allclose(got, layer(module.apply(params, x)), rtol=1e-5, atol=1e-5)


def test_keras(monkeypatch):
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    keras = pytest.importorskip("keras")
    x = _draw(2, 3, 6)
    for equation, shape, axes in (
        ("abc,cde->abde", (None, 4, 5), "de"),
        ("abc,cde->adbe", (4, None, 5), "de"),
        ("abc,bd->adc", (7, 6), "d"),
    ):
        layer = keras.layers.EinsumDense(
            equation, shape, bias_axes=axes, bias_initializer="random_normal"
        )
        want = layer(x)
        b = jnp.squeeze(layer.bias.value)
        got = nnops.einsum_dense(x, layer.kernel.value, b, equation=equation)
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)


def test_torch_heads():
    """torch has (out, in) weights, and heads that are split after: one product all the same."""
    torch = pytest.importorskip("torch")
    layer = torch.nn.Linear(6, 20)
    x = _draw(2, 3, 6)
    want = layer(torch.tensor(np.asarray(x))).detach().numpy().reshape(2, 3, 4, 5)
    w, b = (jnp.asarray(p.detach().numpy()) for p in (layer.weight, layer.bias))
    got = nnops.einsum_dense(x, w.reshape(4, 5, 6), b.reshape(4, 5), equation="btd,hkd->bthk")
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)
