from collections import Counter

import jax
import jax.numpy as jnp
import pytest
from jax import lax

import jaxpress as jp
from jaxpress.capture import Node, trace
from jaxpress.viz.labels import call_name, count_line, node_title, operand_role

image = jnp.ones((1, 8, 8, 6))


def only(fn, *args, op: str) -> Node:
    (node,) = trace(fn)(*args).find(op)
    return node


def conv(kernel_shape, x=image, **options) -> str:
    kernel = jnp.ones(kernel_shape)
    return node_title(only(lambda x: jp.nnops.conv(x, kernel, **options), x, op="conv"), {})


def test_titles_of_convolutions() -> None:
    assert conv((3, 3, 6, 8)) == "conv 3×3"
    assert conv((3, 5, 6, 8), strides=2) == "conv 3×5 /2"
    assert conv((3, 3, 6, 8), strides=(1, 2)) == "conv 3×3 /1×2"
    assert conv((3, 3, 1, 12), groups=6) == "conv 3×3 depthwise"
    assert conv((1, 1, 3, 8), groups=2) == "conv 1×1 2 groups"
    assert conv((3, 3, 6, 8), dilation=2) == "conv 3×3 dilated 2"
    assert conv((3, 3, 6, 8), strides=2, transposed=True) == "conv 3×3 /2 transposed"
    assert conv((3, 6, 8), x=jnp.ones((1, 8, 6))) == "conv 3"
    assert conv((3, 3, 3, 6, 8), x=jnp.ones((1, 4, 4, 4, 6))) == "conv 3×3×3"


@pytest.mark.parametrize(
    ("numbers", "x_shape", "w_shape"),
    [
        (("NHWC", "HWIO", "NHWC"), (1, 8, 9, 6), (3, 5, 6, 4)),
        (("NCHW", "OIHW", "NCHW"), (1, 6, 8, 9), (4, 6, 3, 5)),
        (("HWNC", "IOHW", "NHWC"), (8, 9, 1, 6), (6, 4, 3, 5)),
    ],
)
def test_the_window_is_found_in_any_layout(numbers, x_shape, w_shape) -> None:
    x, w = jnp.ones(x_shape), jnp.ones(w_shape)

    def raw(x):
        return lax.conv_general_dilated(x, w, (2, 2), "SAME", dimension_numbers=numbers)

    def named(x):
        return jp.nnops.conv(x, w, strides=2, dimension_numbers=numbers)

    node = only(raw, x, op="conv_general_dilated")
    assert node_title(node, {}) == "conv_general_dilated 3×5 /2"
    assert node_title(only(named, x, op="conv"), {}) == "conv 3×5 /2"


def test_a_depthwise_convolution_of_jax_itself() -> None:
    w = jnp.ones((3, 3, 1, 6))

    def fn(x):
        numbers = ("NHWC", "HWIO", "NHWC")
        return lax.conv_general_dilated(
            x, w, (1, 1), "SAME", feature_group_count=6, dimension_numbers=numbers
        )

    node = only(fn, image, op="conv_general_dilated")
    assert node_title(node, {}) == "conv_general_dilated 3×3 depthwise"


def test_titles_of_pooling() -> None:
    def jax_own(x):
        return lax.reduce_window(x, -jnp.inf, lax.max, (1, 3, 3, 1), (1, 2, 2, 1), "SAME")

    assert node_title(only(jax_own, image, op="reduce_window_max"), {}) == (
        "reduce_window_max 3×3 /2"
    )
    named = only(lambda x: jp.nnops.max_pool(x, (2, 2), strides=(2, 2)), image, op="max_pool")
    assert node_title(named, {}) == "max_pool 2×2 /2"


def test_titles_say_what_a_reader_looks_for() -> None:
    x = jnp.ones((2, 3))

    def title(fn, op: str) -> str:
        return node_title(only(fn, x, op=op), {})

    assert title(lambda x: x.sum((0, 1)), "reduce_sum") == "reduce_sum over 0, 1"
    assert title(lambda x: jnp.argmax(x, 1), "argmax") == "argmax over 1"
    assert title(lambda x: x.T, "transpose") == "transpose 1, 0"
    assert title(lambda x: jnp.concatenate([x, x], 1), "concatenate") == "concatenate along 1"
    assert title(lambda x: x.astype(jnp.bfloat16), "convert_element_type") == (
        "convert_element_type to bf16"
    )
    assert title(lambda x: lax.integer_pow(x, 3), "integer_pow") == "integer_pow ^ 3"
    assert title(jnp.sin, "sin") == "sin"


def test_scalars_are_written_in_place() -> None:
    x = jnp.ones(3)
    assert node_title(only(lambda x: x * 0.5, x, op="mul"), {1: "0.5"}) == "mul × 0.5"
    assert node_title(only(lambda x: 1.0 - x, x, op="sub"), {0: "1"}) == "sub 1 − ·"
    assert node_title(only(lambda x: jnp.maximum(x, 0.0), x, op="max"), {1: "0"}) == "max (·, 0)"
    clamp = only(lambda x: lax.clamp(0.0, x, 6.0), x, op="clamp")
    assert node_title(clamp, {0: "0", 2: "6"}) == "clamp (0, ·, 6)"


def test_roles_follow_the_operands_that_are_there() -> None:
    x, w, b = jnp.ones((2, 3)), jnp.ones((3, 3)), jnp.ones(3)
    full = only(lambda x: jp.nnops.dense(x, w, b, x), x, op="dense")
    assert [operand_role(full, i) for i in range(4)] == ["x", "w", "b", "residual"]
    partial = only(lambda x: jp.nnops.dense(x, w, residual=x), x, op="dense")
    assert [operand_role(partial, i) for i in range(3)] == ["x", "w", "residual"]
    assert operand_role(only(jnp.sin, x, op="sin"), 0) == ""


def test_calls_have_the_name_of_their_function() -> None:
    @jax.jit
    def _helper(x):
        return jnp.sin(x) @ x

    x = jnp.ones((2, 2))
    assert call_name(trace(_helper)(x).nodes[0]) == "helper"
    assert call_name(trace(jax.nn.relu6)(x).nodes[0]) == "relu6"
    assert call_name(trace(jax.jit(lambda x: x @ x))(x).nodes[0]) == "jit"


def test_count_lines_name_the_weightiest_kinds_first() -> None:
    counts = Counter(reshape=50, add=9, conv=2, batch_norm=1, mul=4)
    assert count_line(counts) == "66 ops: 2 conv, 1 batch_norm, 9 add, …"
    assert count_line(Counter(add=1)) == "1 op: 1 add"
    assert count_line(Counter()) == "0 ops"
