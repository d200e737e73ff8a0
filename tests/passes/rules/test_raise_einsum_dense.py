"""Products with weights of several axes, in one canonical form."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from helpers import array, assert_refuses, rewritten
from jaxpress import passes
from jaxpress.capture import trace
from jaxpress.passes.rules.raise_einsum_dense import (
    EINSUM_DENSE_RULES,
    RAISE_EINSUM_DENSE,
    RAISE_GROUPED_DENSE,
    RAISE_TURNED_EINSUM_DENSE,
)
from jaxpress.testing import assert_rewrites

X = array(2, 3, 6)
HEADS = array(2, 3, 4, 5)
SPLIT, MERGE = array(6, 4, 5), array(4, 5, 6)

# The equation that people write, x, w, the canonical one, and whether x and w stay as they are.
CASES = {
    "btd,dhk->bthk": (X, SPLIT, "...a,abc->...bc", True),
    "btd,hkd->bthk": (X, MERGE, "...a,abc->...bc", False),
    "btd,dhk->bhtk": (X, SPLIT, "...a,abc->...bc", False),
    "btd,hdk->bthk": (X, array(4, 6, 5), "...a,abc->...bc", False),
    # Experts: JAX has the weights first, and the features of x tell which of the two they are.
    "btd,hdk->hbtk": (X, array(4, 6, 5), "...a,abc->...bc", False),
    "bthk,hkd->btd": (HEADS, MERGE, "...ab,abc->...c", True),
    "bthk,dhk->btd": (HEADS, SPLIT, "...ab,abc->...c", False),
    "bhtk,hkd->btd": (array(2, 4, 3, 5), MERGE, "...ab,abc->...c", False),
    "bthk,khd->btd": (HEADS, array(5, 4, 6), "...ab,abc->...c", False),
    "td,dhk->thk": (X[0], SPLIT, "...a,abc->...bc", True),
    "d,dhk->hk": (X[0, 0], SPLIT, "...a,abc->...bc", True),
    "btd,dnhk->btnhk": (X, array(6, 2, 3, 2), "...a,abcd->...bcd", True),
    "bijk,ijkd->bd": (HEADS, array(3, 4, 5, 2), "...abc,abcd->...d", True),
    "bthk,hkij->btij": (HEADS, array(4, 5, 2, 3), "...ab,abcd->...cd", True),
}


@pytest.mark.parametrize("equation", CASES)
def test_every_spelling_has_one_form(equation) -> None:
    x, w, canonical, plain = CASES[equation]
    fn = lambda x, w: jnp.einsum(equation, x, w)  # noqa: E731
    rules = [RAISE_EINSUM_DENSE, RAISE_TURNED_EINSUM_DENSE]
    if equation == "btd,dhk->bhtk":
        assert_rewrites(rules, fn, x, w, times=1, vmap=False)
    new, names = rewritten(rules, fn, x, w)
    assert len(names) == 1
    np.testing.assert_allclose(new(x, w), fn(x, w), rtol=1e-5, atol=1e-5)
    (node,) = new.find("einsum_dense")
    assert node.params["equation"] == canonical and not new.find("dot_general")
    assert bool(rewritten(RAISE_EINSUM_DENSE, fn, x, w)[1]) == plain
    # With the weights closed over it is the same.
    (closed,) = rewritten(rules, lambda x: fn(x, w), x)[0].find("einsum_dense")
    assert closed.params == node.params


def test_the_turned_form_is_not_called_exact() -> None:
    assert RAISE_EINSUM_DENSE.numerics == "exact"
    assert RAISE_TURNED_EINSUM_DENSE.numerics == "reassociates"


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "int32", "complex64"])
def test_other_dtypes(dtype) -> None:
    x, w = (3 * X).astype(dtype), (3 * SPLIT).astype(dtype)
    fn = lambda x: jnp.einsum("btd,dhk->bthk", x, w)  # noqa: E731
    assert_rewrites(EINSUM_DENSE_RULES, fn, x, gradients=False, vmap=False)


def test_precision_and_the_type_of_the_result() -> None:
    def fn(x):
        return lax.dot_general(
            x, SPLIT.astype("bfloat16"), (((2,), (0,)), ((), ())),
            precision="highest", preferred_element_type=jnp.float32,
        )  # fmt: skip

    new, _ = rewritten(EINSUM_DENSE_RULES, fn, X.astype("bfloat16"))
    (node,) = new.find("einsum_dense")
    assert node.params["precision"] == (lax.Precision.HIGHEST,) * 2
    assert new.outputs[0].dtype == node.params["preferred_element_type"] == jnp.float32


def test_zero_sized_arrays() -> None:
    for x, w in ((X[:0], SPLIT), (X[..., :0], SPLIT[:0]), (X, SPLIT[:, :0])):
        fn = lambda x, w: jnp.einsum("btd,dhk->bthk", x, w)  # noqa: E731
        assert_rewrites(EINSUM_DENSE_RULES, fn, x, w, gradients=False, vmap=False)


GROUPED = {
    "btha,hak->bthk": (HEADS, array(4, 5, 6)),
    "ebd,edf->ebf": (array(4, 3, 5), array(4, 5, 6)),
    "edf,ebd->ebf": (array(4, 5, 6), array(4, 3, 5)),
    "bhta,hak->bhtk": (array(2, 4, 3, 5), array(4, 5, 6)),
}


@pytest.mark.parametrize("equation", GROUPED)
def test_weights_for_each_head_or_expert(equation) -> None:
    x, w = GROUPED[equation]
    fn = lambda x: jnp.einsum(equation, x, w)  # noqa: E731
    if equation.startswith("edf"):
        x, w = w, x
        fn = lambda x: jnp.einsum(equation, w, x)  # noqa: E731
    new, names = rewritten(EINSUM_DENSE_RULES, fn, x)
    assert names == ["raise_grouped_dense"]
    np.testing.assert_allclose(new(x), fn(x), rtol=1e-5, atol=1e-5)
    assert new.count()["einsum_dense"] == 1 and not new.find("dot_general")
    # As data they could be keys that queries are compared with.
    assert_refuses(EINSUM_DENSE_RULES, lambda x, w: jnp.einsum(equation, x, w), *GROUPED[equation])


def test_weights_for_each_head_are_the_same_function() -> None:
    w = array(4, 5, 6)
    fn = lambda x: jnp.einsum("btha,hak->bthk", x, w)  # noqa: E731
    assert_rewrites(RAISE_GROUPED_DENSE, fn, HEADS, times=1, vmap=False)


def attention(q, k):
    return jnp.einsum("bqhd,bkhd->bhqk", q, k)


@pytest.mark.parametrize(
    ("fn", "args", "because"),
    [
        (attention, (HEADS, HEADS), "both operands share"),
        (lambda q: attention(jnp.sin(q), jnp.cos(q)), (HEADS,), "both operands share"),
        (lambda x: jnp.einsum("btd,hkd->bthk", jnp.cos(x), jnp.sin(x)), (X,), "neither operand"),
        (lambda x, w: jnp.tensordot(x, w, 2), (X, X[0]), ""),
        (lambda x, w: jnp.tensordot(x, w, 0), (X[0], SPLIT), "sums over no axis"),
        (lambda x, w: lax.dot_general(x, w, (((2,), (0,)), ((), ())), preferred_element_type=float),
         (X.astype("bfloat16"), SPLIT), "operands are"),
        (lambda x, w: jnp.einsum("btd,btk->dk", x, jnp.sin(w)), (X, X), "neither operand"),
        (lambda x: jnp.sin(x) @ array(6, 4), (X,), "neither operand"),
    ],
)  # fmt: skip
def test_other_products_stay(fn, args, because) -> None:
    assert_refuses(EINSUM_DENSE_RULES, fn, *args)
    if because:
        assert_refuses(RAISE_EINSUM_DENSE, fn, *args, because=because)


def test_a_gradient_of_weights_has_none() -> None:
    """Data meets data there: what is an input is x, and no weights."""

    def loss(w, x):
        return (jnp.einsum("btd,dhk->bthk", x, w) ** 2).sum()

    new, rules = rewritten(EINSUM_DENSE_RULES, jax.grad(loss), SPLIT, X)
    assert rules == ["raise_einsum_dense"] and len(new.find("dot_general")) == 1
    np.testing.assert_allclose(new(SPLIT, X), jax.grad(loss)(SPLIT, X), rtol=1e-6)


def test_a_symbolic_batch() -> None:
    (n,) = jax.export.symbolic_shape("n")
    x = jax.ShapeDtypeStruct((n, 3, 6), jnp.float32)
    fn = lambda x: jnp.einsum("btd,dhk->bhtk", x, SPLIT)  # noqa: E731
    new, _ = rewritten(passes.default, fn, x)
    assert new.count()["einsum_dense"] == 1 and new.outputs[0].shape == (n, 4, 3, 5)


# The libraries' own layers, with weights closed over and as arguments.


def linen(**options):
    nn = pytest.importorskip("flax.linen")
    module = nn.DenseGeneral(**options)
    x = X if options.get("axis", -1) == -1 else HEADS
    return module.apply, module.init(jax.random.key(0), x), x


def linen_einsum():
    nn = pytest.importorskip("flax.linen")
    module = nn.Einsum((6, 4, 5), "btd,dhk->bthk")
    return module.apply, module.init(jax.random.key(0), X), X


def nnx():
    nnx = pytest.importorskip("flax.nnx")
    graph, state = nnx.split(nnx.LinearGeneral((4, 5), 6, axis=(-2, -1), rngs=nnx.Rngs(0)))
    return lambda s, x: nnx.merge(graph, s)(x), state, HEADS


def keras(equation="abc,cde->abde", shape=(None, 4, 5), axes="de"):
    layers = pytest.importorskip("keras").layers
    layer = layers.EinsumDense(equation, shape, bias_axes=axes, bias_initializer="normal")
    layer.build(X.shape)
    weights = [v.value for v in layer.trainable_variables]
    return lambda w, x: layer.stateless_call(w, [], x)[0], weights, X


@pytest.mark.parametrize(
    "make",
    [
        lambda: linen(features=(4, 5)),
        lambda: linen(features=(4, 5), use_bias=False),
        lambda: linen(features=(4, 5), dtype="bfloat16"),
        lambda: linen(features=6, axis=(-2, -1)),
        linen_einsum,
        nnx,
        keras,
        lambda: keras("abc,cde->adbe", (4, None, 5)),
    ],
    ids=["linen", "no bias", "bfloat16", "merge", "einsum", "nnx", "keras", "keras turned"],
)
def test_layers(make, monkeypatch) -> None:
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    apply, weights, x = make()
    for fn, args in ((lambda x: apply(weights, x), (x,)), (apply, (weights, x))):
        for pipeline in (passes.default, passes.inference):
            new = pipeline(trace(fn)(*args))
            assert new.count()["einsum_dense"] == 1, new
            assert set(new.count()) <= {
                "einsum_dense", "convert_element_type", "reshape", "transpose"
            }, new  # fmt: skip
        got, want = (f(*args).astype("float32") for f in (new, fn))
        tolerance = 1e-5 if fn(*args).dtype == jnp.float32 else 3e-2
        np.testing.assert_allclose(got, want, rtol=tolerance, atol=tolerance)
