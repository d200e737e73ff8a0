"""Convolutions and matrix products become ``conv`` and ``dense``, and nothing else does."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from helpers import CHW, HWC, array, assert_optimizes, assert_refuses, conv, rewritten
from jaxpress import passes
from jaxpress.capture import trace
from jaxpress.nnops.conv_geometry import specs
from jaxpress.passes.rules.cleanup import CLEANUP_RULES
from jaxpress.passes.rules.raise_linear import (
    LINEAR_RULES,
    RAISE_CONV,
    RAISE_DENSE,
    RAISE_TURNED_DENSE,
)
from jaxpress.testing import assert_rewrites

X, W = array(2, 9, 8, 4), array(3, 3, 4, 6)

SWAPPED = lax.ConvDimensionNumbers((0, 3, 2, 1), (3, 2, 0, 1), (0, 3, 1, 2))

CONVS = {
    "plain": (lambda x, w: conv(x, w), X, W),
    "strided": (lambda x, w: conv(x, w, strides=(2, 3)), X, W),
    "valid": (lambda x, w: conv(x, w, padding="VALID"), X, W),
    "padded": (lambda x, w: conv(x, w, padding=((1, 2), (0, 3))), X, W),
    "cropped": (lambda x, w: conv(x, w, padding=((-1, 2), (0, -3))), X, W),
    "dilated": (lambda x, w: conv(x, w, rhs_dilation=(2, 1)), X, W),
    "dilated and strided": (lambda x, w: conv(x, w, strides=(2, 2), rhs_dilation=(2, 2)), X, W),
    "transposed": (lambda x, w: conv(x, w, padding=((2, 2), (1, 3)), lhs_dilation=(2, 2)), X, W),
    "transposed in one": (
        lambda x, w: conv(x, w, padding=((0, 0), (2, 2)), lhs_dilation=(1, 3)), X, W,
    ),
    "conv_transpose": (
        lambda x, w: lax.conv_transpose(x, w, (2, 2), "SAME", dimension_numbers=HWC), X, W,
    ),
    "grouped": (lambda x, w: conv(x, w, feature_group_count=2), X, array(3, 3, 2, 6)),
    "depthwise": (lambda x, w: conv(x, w, feature_group_count=4), X, array(3, 3, 1, 4)),
    "depthwise times 2": (lambda x, w: conv(x, w, feature_group_count=4), X, array(3, 3, 1, 8)),
    "pointwise": (lambda x, w: conv(x, w), X, array(1, 1, 4, 6)),
    "channels first": (lambda x, w: conv(x, w, CHW), array(2, 4, 9, 8), array(6, 4, 3, 3)),
    "mixed layouts": (
        lambda x, w: conv(x, w, ("NHWC", "OIHW", "NCHW")), X, array(6, 4, 3, 3),
    ),
    "odd layout": (
        lambda x, w: conv(x, w, ("CNHW", "IHWO", "NHWC")), array(4, 2, 9, 8), array(4, 3, 3, 6),
    ),
    "one dimension": (
        lambda x, w: conv(x, w, ("NWC", "WIO", "NWC")), array(2, 9, 4), array(3, 4, 6),
    ),
    "three dimensions": (
        lambda x, w: conv(x, w, ("NDHWC", "DHWIO", "NDHWC")),
        array(1, 4, 5, 6, 2), array(2, 3, 3, 2, 3),
    ),
    "precision": (lambda x, w: conv(x, w, precision="highest"), X, W),
    "spatial dimensions swapped": (
        lambda x, w: conv(x, w, SWAPPED), X, W,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CONVS)
def test_convolutions_of_every_kind(name) -> None:
    fn, x, w = CONVS[name]
    new = assert_rewrites(RAISE_CONV, fn, x, w, times=1)
    assert new.count()["conv"] == 1 and not new.find("conv_general_dilated")
    # With the weights closed over it is the same.
    new, _ = rewritten(RAISE_CONV, lambda x: fn(x, w), x)
    np.testing.assert_array_equal(new(x), fn(x, w))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "int32", "complex64"])
def test_convolutions_of_other_dtypes(dtype) -> None:
    x, w = (3 * X).astype(dtype), (3 * W).astype(dtype)
    assert_rewrites(RAISE_CONV, lambda x, w: conv(x, w), x, w, gradients=dtype != "complex64")


def test_a_wider_result_than_operands() -> None:
    x, w = X.astype("bfloat16"), W.astype("bfloat16")
    new = assert_rewrites(
        RAISE_CONV, lambda x, w: conv(x, w, preferred_element_type=jnp.float32), x, w,
        gradients=False,  # JAX's own rule refuses the wider cotangent
    )  # fmt: skip
    assert new.outputs[0].dtype == jnp.float32


def test_its_parameters_say_what_it_does() -> None:
    new, _ = rewritten(LINEAR_RULES, CONVS["transposed in one"][0], X, W)
    (node,) = new.find("conv")
    assert node.params["transposed"] and node.params["strides"] == (1, 3)
    new, _ = rewritten(LINEAR_RULES, CONVS["mixed layouts"][0], X, array(6, 4, 3, 3))
    (node,) = new.find("conv")
    assert node.params["dimension_numbers"] == ("NHWC", "OIHW", "NCHW")
    assert specs(node.params["dimension_numbers"]).out_spec == (0, 1, 2, 3)
    assert node.params["activation"] is None and node.params["kernel"] == "reference"


@pytest.mark.parametrize(
    "fn",
    [
        lambda x, w: conv(x, w, batch_group_count=2),
        lambda x, w: conv(x, w, padding=((1, 1),) * 2, strides=(2, 2), lhs_dilation=(2, 2)),
    ],
    ids=["batch groups", "strided on both sides"],
)
def test_convolutions_that_no_layer_makes_stay(fn) -> None:
    assert_refuses(RAISE_CONV, fn, X, W, because="condition")


def test_a_convolution_without_spatial_dimensions_stays() -> None:
    def fn(x, w):
        return lax.conv_general_dilated(x, w, (), (), dimension_numbers=("NC", "IO", "NC"))

    assert_refuses(RAISE_CONV, fn, array(2, 3), array(3, 4), because="matrix product")


def test_convolutions_inside_gradients() -> None:
    """A gradient's convolutions become ``conv`` where they can, and stay right where not."""

    def loss(x, w):
        return (conv(x, w, strides=(2, 2)) ** 2).sum()

    assert_rewrites(LINEAR_RULES, jax.grad(loss, (0, 1)), X, W, gradients=False, vmap=False)


def test_zero_sized_convolutions() -> None:
    assert_rewrites(RAISE_CONV, lambda x, w: conv(x, w), X[:0], W, gradients=False)
    assert_rewrites(RAISE_CONV, lambda x, w: conv(x, w), X[..., :0], W[:, :, :0], gradients=False)


# dense

A, M = array(5, 3), array(3, 4)


def contract(a, b, i, j, **options):
    return lax.dot_general(a, b, (((i,), (j,)), ((), ())), **options)


@pytest.mark.parametrize(
    ("fn", "x", "w"),
    [
        (lambda x, w: x @ w, A, M),
        (lambda x, w: x @ w, array(3), M),
        (lambda x, w: x @ w, array(2, 5, 3), M),
        (lambda x, w: contract(x, w, 1, 1), A, array(4, 3)),
        (lambda x, w: contract(x, w, 0, 0), array(3, 5), M),
        (lambda x, w: contract(x, w, 1, 0), array(2, 3, 5), M),
        (lambda x, w: contract(w, x, 0, 2), array(2, 5, 3), M),
        (lambda x, w: contract(x, w, 1, 0, precision="highest"), A, M),
        (lambda x, w: contract(x, w, 1, 0, preferred_element_type=jnp.float32), A, M),
    ],
)
@pytest.mark.parametrize("closed", [True, False])
def test_products_with_a_matrix_of_weights(fn, x, w, closed) -> None:
    f, args = (lambda x: fn(x, w), (x,)) if closed else (fn, (x, w))
    new = assert_rewrites([RAISE_DENSE, RAISE_TURNED_DENSE], f, *args, times=1)
    assert new.count()["dense"] == 1 and not new.find("dot_general")


def test_weights_the_other_way_round_are_not_called_exact() -> None:
    w = M.T
    for fn in (lambda x: contract(x, w, 1, 1), lambda x: contract(M, x, 0, 1)):
        assert_refuses(RAISE_DENSE, fn, A, because="turned")
        assert_rewrites(RAISE_TURNED_DENSE, fn, A, times=1)
    assert_refuses(RAISE_TURNED_DENSE, lambda x: contract(x, M, 1, 0), A, because="turned")
    assert RAISE_TURNED_DENSE.numerics == "reassociates"


def test_weights_in_front_leave_a_transpose() -> None:
    new, _ = rewritten(RAISE_TURNED_DENSE, lambda x: contract(M, x, 0, 1), A)
    assert new.count() == {"dense": 1, "transpose": 1}


def test_weights_in_front_under_vmap_leave_none() -> None:
    """How Equinox's layers look: ``w @ x`` for each example."""
    w = array(4, 3)
    fn = jax.vmap(lambda x: w @ x)
    new, _ = rewritten(LINEAR_RULES + CLEANUP_RULES, fn, A)
    assert new.count()["dense"] == 1
    # The weights are transposed; the data is not.
    (transpose,) = new.find("transpose")
    assert transpose.inputs[0] in new.constants
    np.testing.assert_allclose(new(A), fn(A), rtol=1e-6)


def test_of_two_inputs_the_second_is_the_weights() -> None:
    graph, _ = rewritten(RAISE_DENSE, lambda a, b: a @ b, A, M)
    (node,) = graph.find("dense")
    assert node.inputs == graph.inputs


def test_of_two_the_known_one_is_the_weights() -> None:
    graph, _ = rewritten(RAISE_TURNED_DENSE, lambda x: contract(M, x, 1, 0), array(4, 5))
    (node,) = graph.find("dense")
    assert graph.edit().is_known(node.inputs[1])


@pytest.mark.parametrize(
    ("fn", "args", "because"),
    [
        (lambda a, b: jnp.einsum("bij,bjk->bik", a, b), (array(2, 3, 4), array(2, 4, 5)), "batch"),
        (lambda a, b: jnp.tensordot(a, b, 2), (array(2, 3, 4), array(3, 4, 5)), "several axes"),
        (lambda x: jnp.sin(x) @ jnp.cos(x).T, (A,), "neither"),
        (lambda q, k: jnp.sin(q) @ jnp.sin(k).T, (A, A), "neither"),
        (lambda a, b: contract(a, b, 0, 0, preferred_element_type=jnp.float32),
         (array(3, 5, dtype="bfloat16"), array(3, 4)), "operands are"),
        (lambda a, b: jnp.vdot(a, b), (array(3), array(3)), "neither"),
    ],
)  # fmt: skip
def test_products_that_no_layer_makes_stay(fn, args, because) -> None:
    for rule in (RAISE_DENSE, RAISE_TURNED_DENSE):
        assert_refuses(rule, fn, *args, because=because)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "int32", "complex64"])
def test_products_of_other_dtypes(dtype) -> None:
    x, w = (3 * A).astype(dtype), (3 * M).astype(dtype)
    assert_rewrites(RAISE_DENSE, lambda x: x @ w, x, gradients=dtype != "complex64")


def test_zero_sized_products() -> None:
    for x, w in ((A[:0], M), (A[:, :0], M[:0]), (A, M[:, :0])):
        assert_rewrites(RAISE_DENSE, lambda x, w: x @ w, x, w, gradients=False)


def test_the_configured_precision_is_kept() -> None:
    def fn(x):
        with jax.default_matmul_precision("highest"):
            return x @ M

    new, _ = rewritten(RAISE_DENSE, fn, A)
    (node,) = new.find("dense")
    assert node.params["precision"] == (lax.Precision.HIGHEST,) * 2
    (plain,) = rewritten(RAISE_DENSE, lambda x: x @ M, A)[0].find("dense")
    assert plain.params["precision"] is None


def test_a_stated_sharding_is_refused() -> None:
    mesh = jax.make_mesh((1,), ("d",), axis_types=(jax.sharding.AxisType.Explicit,))
    with jax.set_mesh(mesh):
        spec = jax.P(None, None)
        assert_refuses(
            RAISE_DENSE, lambda x, w: jnp.dot(x, w, out_sharding=spec), A, M, because="sharded"
        )


def test_a_symbolic_batch() -> None:
    (n,) = jax.export.symbolic_shape("n")
    x = jax.ShapeDtypeStruct((n, 9, 8, 4), jnp.float32)
    w = jnp.ones((120, 2))

    def fn(x):
        return conv(x, W, strides=(2, 2)).reshape(n, -1) @ w

    new, rules = rewritten(LINEAR_RULES, fn, x)
    assert sorted(rules) == ["raise_conv", "raise_dense"]
    assert new.outputs[0].shape == (n, 2)


@pytest.mark.parametrize("stack", [array(3, 4, 6), array(3, 6, 4)])
def test_a_known_stack_of_weights_is_weights_beside_a_matrix_of_data(stack) -> None:
    """An ensemble: several models, whose weights are stacked, on one batch."""
    axis = stack.shape.index(4)

    def fn(x):
        y = jax.vmap(lambda w: lax.dot_general(x, w, (((1,), (axis - 1,)), ((), ()))))(stack)
        return jax.nn.relu(y + array(3, 1, 6))

    assert_optimizes(passes.default, fn, array(5, 4), ops={"einsum_dense": 1, "transpose": 1})


def test_a_known_batch_is_data_beside_a_matrix_of_weights() -> None:
    batch = array(2, 5, 4)
    new = assert_optimizes(passes.default, lambda w: jax.nn.relu(batch @ w), array(4, 6))
    assert new.count() == {"dense": 1}


MADE = {
    "masked": lambda w, m: w * m,
    "scaled": lambda w, m: 0.3 * w,
    "normed": lambda w, m: w / jnp.sqrt((w * w).sum(0)) * m[0],
    "rounded": lambda w, m: w + lax.stop_gradient(jnp.round(w * 8) / 8 - w),
}


@pytest.mark.parametrize("name", MADE)
def test_weights_that_are_made_of_parameters(name) -> None:
    def fn(x, w, m, b, v, n):
        h = jax.nn.relu(x @ MADE[name](w, m) + b)
        return jnp.tanh(h @ MADE[name](v, n))

    args = array(3, 4), array(4, 5), array(4, 5), array(5), array(5, 2), array(5, 2)
    count = passes.default(trace(fn)(*args)).count()
    assert count["dense"] == 2 and not {"dot_general", "transpose", "relu", "tanh"} & set(count)
    if name == "masked":
        assert_optimizes(passes.default, fn, *args)


@pytest.mark.parametrize(
    "fn",
    [
        lambda x, w: jnp.tanh(x) @ jnp.sin(w),  # what makes weights makes no sines
        lambda x, w: (x * w.T) @ (2 * w),
        lambda x, w: jnp.tanh(x) @ (x.T @ x),
    ],
)
def test_what_is_made_of_data_is_no_weights(fn) -> None:
    w = array(4, 3)
    graph = passes.default(trace(fn)(array(3, 4), w))
    assert "dot_general" in graph.count(), str(graph)


def test_a_bias_along_the_first_axis_tells_that_weights_stand_in_front() -> None:
    def fn(w, x, b):
        return jax.nn.relu(w @ x + b[:, None])

    new = assert_optimizes(passes.default, fn, array(4, 5), array(5, 3), array(4))
    assert new.count()["dense"] == 1 and not {"add", "relu"} & set(new.count())
