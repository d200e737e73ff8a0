"""The op dense against ``activation(x @ w + b + residual)``."""

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jaxpress import nnops


def _rng(*shape, seed=0, dtype=jnp.float32):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), dtype)


def _plain(x, w, b=None, residual=None, activation=lambda y: y):
    y = x @ w
    y = y if b is None else y + b
    return activation(y if residual is None else y + residual)


@pytest.mark.parametrize("lead", [(), (5,), (2, 3), (0, 3)])
@pytest.mark.parametrize("with_b", [False, True])
@pytest.mark.parametrize("with_residual", [False, True])
def test_values_against_numpy(lead, with_b, with_residual):
    x, w = _rng(*lead, 7), _rng(7, 4, seed=1)
    b = _rng(4, seed=2) if with_b else None
    residual = _rng(*lead, 4, seed=3) if with_residual else None
    want = np.asarray(x, np.float64) @ np.asarray(w, np.float64)
    for more in (b, residual):
        want = want if more is None else want + np.asarray(more, np.float64)
    got = nnops.dense(x, w, b, residual, activation="relu")
    assert got.dtype == jnp.float32
    np.testing.assert_allclose(got, np.maximum(want, 0), rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize(
    "activation, plain",
    [
        (None, lambda y: y),
        ("relu", jax.nn.relu),
        ("tanh", jnp.tanh),
        (("gelu", {"approximate": False}), lambda y: jax.nn.gelu(y, approximate=False)),
    ],
)
def test_behaves_under_every_transformation(agree, activation, plain):
    agree(
        lambda *a: nnops.dense(*a, activation=activation),
        lambda *a: _plain(*a, activation=plain),
        (2, 3),
        (3, 4),
        (4,),
        (2, 4),
        batch=activation is None,
    )


def test_without_bias_and_residual(agree):
    agree(
        lambda x, w: nnops.dense(x, w, activation="silu"),
        lambda x, w: jax.nn.silu(x @ w),
        (3,),
        (3, 2),
    )


def test_residual_alone(agree):
    agree(
        lambda x, w, r: nnops.dense(x, w, residual=r, activation="sigmoid"),
        lambda x, w, r: jax.nn.sigmoid(x @ w + r),
        (2, 3),
        (3, 4),
        (2, 4),
        batch=False,
    )


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float16, jnp.int8, jnp.complex64])
@pytest.mark.parametrize("preferred", [None, jnp.float32, jnp.int32])
@pytest.mark.parametrize("precision", [None, "highest"])
def test_the_bare_op_is_dot_general_to_the_bit(dtype, preferred, precision):
    x, w = (_rng(6, 8) * 9).astype(dtype), (_rng(8, 4, seed=1) * 9).astype(dtype)
    dims = (((1,), (0,)), ((), ()))

    def plain(x, w):
        return lax.dot_general(x, w, dims, precision=precision, preferred_element_type=preferred)

    def ours(x, w):
        return nnops.dense(x, w, precision=precision, preferred_element_type=preferred)

    try:
        want = jax.jit(plain)(x, w)
    except TypeError:  # lax has no such product
        with pytest.raises(TypeError):
            jax.jit(ours)(x, w)
        return
    got = jax.jit(ours)(x, w)
    assert got.dtype == want.dtype
    np.testing.assert_array_equal(np.asarray(got), np.asarray(want))


def test_the_default_precision_is_fixed_when_the_op_is_bound():
    x, w = jnp.ones((2, 3)), jnp.ones((3, 4))
    f = lambda x, w: nnops.dense(x, w)  # noqa: E731
    with jax.default_matmul_precision("highest"):
        eqn = jax.make_jaxpr(f)(x, w).eqns[0]
        traced = jax.jit(f).trace(x, w)
    highest = (lax.Precision.HIGHEST, lax.Precision.HIGHEST)
    assert eqn.params["precision"] == highest
    assert "HIGHEST" in traced.lower().as_text()
    traced = jax.jit(lambda x, w: nnops.dense(x, w)).trace(x, w)
    with jax.default_matmul_precision("highest"):
        assert "HIGHEST" not in traced.lower().as_text()


@pytest.mark.parametrize(
    "given, kept",
    [
        (None, None),
        ("high", (lax.Precision.HIGH,) * 2),
        (("default", "highest"), (lax.Precision.DEFAULT, lax.Precision.HIGHEST)),
        ("F32_F32_F32", lax.DotAlgorithmPreset.F32_F32_F32),
        (lax.DotAlgorithmPreset.F32_F32_F32, lax.DotAlgorithmPreset.F32_F32_F32),
    ],
)
def test_precision_is_kept_as_lax_keeps_it(given, kept):
    x, w = jnp.ones((2, 3)), jnp.ones((3, 4))
    eqn = jax.make_jaxpr(lambda x, w: nnops.dense(x, w, precision=given))(x, w).eqns[0]
    lax_eqn = jax.make_jaxpr(lambda x, w: jnp.dot(x, w, precision=given))(x, w).eqns[0]
    assert eqn.params["precision"] == kept == lax_eqn.params["precision"]


def test_parameters_are_short_and_complete():
    f = lambda x, w, r: nnops.dense(x, w, residual=r, activation="gelu")  # noqa: E731
    (eqn,) = jax.make_jaxpr(f)(jnp.ones((2, 3)), jnp.ones((3, 4)), jnp.ones((2, 4))).eqns
    assert {k: str(v) for k, v in eqn.params.items()} == {
        "activation": "gelu(approximate=True)",
        "kernel": "reference",
        "operands": "('x', 'w', 'residual')",
        "precision": "None",
        "preferred_element_type": "None",
    }


@pytest.mark.parametrize(
    "types",
    [
        (jnp.bfloat16, jnp.float32, None, None),
        (jnp.bfloat16, jnp.bfloat16, jnp.float32, None),
        (jnp.bfloat16, jnp.bfloat16, jnp.bfloat16, jnp.float32),
        (jnp.float32, jnp.float32, jnp.bfloat16, jnp.float16),
        (jnp.int32, jnp.float32, jnp.int32, None),
    ],
)
def test_mixed_dtypes_promote_as_in_numpy(types):
    shapes = ((2, 3), (3, 4), (4,), (2, 4))
    operands = [
        None if t is None else (_rng(*s, seed=i) * 3).astype(t)
        for i, (s, t) in enumerate(zip(shapes, types, strict=True))
    ]
    got = nnops.dense(*operands, activation="relu")
    want = _plain(*operands, activation=jax.nn.relu)
    assert got.dtype == want.dtype
    tolerance = 2e-6 if types[0] != jnp.bfloat16 else 1e-2
    np.testing.assert_allclose(
        got.astype(jnp.float32), want.astype(jnp.float32), rtol=tolerance, atol=tolerance
    )


def test_weak_types_survive_as_in_lax():
    x, w = lax.full((2, 3), 2.0), lax.full((3, 4), 2.0)
    assert jax.typeof(x).weak_type
    assert jax.typeof(nnops.dense(x, w)).weak_type == jax.typeof(x @ w).weak_type
    strong = jnp.ones((2, 3), jnp.bfloat16)
    assert nnops.dense(strong, w).dtype == (strong @ w).dtype == jnp.bfloat16


def _names(f, *args):
    return [e.primitive.name for e in jax.make_jaxpr(f)(*args).eqns]


def test_vmap_over_x_folds_into_leading_dimensions():
    x, w, b, r = _rng(5, 2, 3), _rng(3, 4), _rng(4), _rng(2, 4)
    f = jax.vmap(lambda x, r: nnops.dense(x, w, b, r), (1, None))
    eqn = jax.make_jaxpr(f)(x.swapaxes(0, 1), r).eqns[-1]
    assert eqn.primitive.name == "dense"
    assert "mapped" not in eqn.params
    assert eqn.outvars[0].aval.shape == (5, 2, 4)


def test_vmap_over_bias_alone_computes_one_product():
    x, w = _rng(2, 3), _rng(3, 4)
    f = jax.vmap(lambda b: nnops.dense(x, w, b, activation="relu"))
    (eqn,) = (e for e in jax.make_jaxpr(f)(_rng(6, 4)).eqns if e.primitive.name == "dense")
    assert eqn.outvars[0].aval.shape == (2, 4)


def test_gradient_computes_the_forward_product_once():
    x, w, b = _rng(2, 3), _rng(3, 4), _rng(4)
    f = lambda x, w, b: nnops.dense(x, w, b, activation="tanh").sum()  # noqa: E731
    names = _names(jax.grad(f, (0, 1, 2)), x, w, b)
    assert names.count("dense") == 1
    assert names.count("dot_general") == 2
    # In the direction of the bias alone there is no product at all.
    names = _names(jax.grad(f, 2), x, w, b)
    assert (names.count("dense"), names.count("dot_general")) == (1, 0)


@pytest.mark.parametrize(
    "shapes, words",
    [
        (((2, 3), (4, 5)), "x has 3 features and w takes 4"),
        (((), (4, 5)), "x has 0 dimensions"),
        (((2, 4), (4,)), "w has 1"),
        (((2, 4), (1, 4, 5)), "w has 3"),
        (((2, 3), (3, 4), (1,)), "b has shape (1,), and the result has 4 features"),
        (((2, 3), (3, 4), ()), "b has shape ()"),
        (((2, 3), (3, 4), (2, 4)), "b has shape (2, 4)"),
        (((2, 3), (3, 4), (4,), (4,)), "residual has shape (4,), and the result has (2, 4)"),
        (((2, 3), (3, 4), (4,), (1, 4)), "residual has shape (1, 4)"),
    ],
)
def test_shapes_that_do_not_fit(shapes, words):
    operands = [jnp.ones(s) for s in shapes]
    with pytest.raises(nnops.OpError) as caught:
        nnops.dense(*operands)
    text = str(caught.value)
    assert text.startswith("dense: ")
    assert words in text
    assert f"x {operands[0].dtype}" in text
    assert "to mend it: " in text
    with pytest.raises(nnops.OpError):
        jax.eval_shape(nnops.dense, *operands)


def test_shapes_are_checked_when_the_dtypes_are_mixed_too():
    with pytest.raises(nnops.OpError, match="b has shape"):
        nnops.dense(jnp.ones((2, 3), jnp.bfloat16), jnp.ones((3, 4), jnp.bfloat16), jnp.ones(1))


def test_rebind_does_not_cast():
    x, w, b = _rng(2, 3), _rng(3, 4), _rng(4, dtype=jnp.bfloat16)
    with pytest.raises(nnops.OpTypeError, match="b is bfloat16, and the result is float32"):
        nnops.ops["dense"].rebind({"x": x, "w": w, "b": b})


def test_other_bad_arguments():
    x, w = _rng(2, 3), _rng(3, 4)
    with pytest.raises(nnops.OpError, match="x or w is missing"):
        nnops.dense(x, None)
    with pytest.raises(nnops.OpError, match="precision is 'sharp'"):
        nnops.dense(x, w, precision="sharp")
    with pytest.raises(nnops.OpError, match="dense: no activation is named"):
        nnops.dense(x, w, activation="softmax")


def test_export_with_symbolic_leading_dimensions():
    n, t = jax.export.symbolic_shape("n, t")
    w, b = _rng(3, 4), _rng(4)
    f = jax.jit(lambda x: nnops.dense(x, w, b, activation="relu"))
    exported = jax.export.export(f)(jax.ShapeDtypeStruct((n, t, 3), jnp.float32))
    x = _rng(2, 5, 3)
    np.testing.assert_array_equal(exported.call(x), f(x))
