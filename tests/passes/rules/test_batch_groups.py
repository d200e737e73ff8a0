"""Convolutions in groups of the batch, as the gradients of grouped convolutions have them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import jaxpress as jp
from helpers import array
from jaxpress.passes import rewrite
from jaxpress.passes.rules.batch_groups import BATCH_GROUP_RULES, MAX_GROUPS, MAX_TAPS

SHIFT, SPLIT = BATCH_GROUP_RULES
NHWC, NCHW = ("NHWC", "HWIO", "NHWC"), ("NCHW", "OIHW", "NCHW")

# The operands' shapes and the parameters of the forward convolution.
DEPTHWISE = [
    ((2, 6, 5, 3), (3, 2, 1, 3), NHWC, {"window_strides": (1, 1), "padding": "SAME"}),
    ((2, 7, 6, 3), (3, 3, 1, 3), NHWC, {"window_strides": (2, 3), "padding": [(2, 0), (-1, 3)]}),
    ((2, 3, 9, 8), (3, 1, 2, 3), NCHW, {"window_strides": (1, 2), "padding": "VALID",
                                        "rhs_dilation": (2, 1)}),
    ((2, 9, 3), (4, 1, 3), ("NWC", "WIO", "NWC"), {"window_strides": (1,), "padding": "SAME"}),
]  # fmt: skip
GROUPED = [
    ((2, 6, 5, 6), (3, 2, 3, 4), NHWC, {"window_strides": (1, 1), "padding": "SAME"}),
    ((2, 4, 9, 8), (8, 2, 2, 3), NCHW, {"window_strides": (1, 2), "padding": "VALID"}),
    ((2, 6, 5, 3), (3, 2, 1, 6), NHWC, {"window_strides": (2, 1), "padding": "SAME"}),
]


def kernel_gradient(x_shape, w_shape, numbers, params):
    """The gradient in the kernel of a grouped convolution, and its operands."""
    groups = x_shape[numbers[0].index("C")] // w_shape[numbers[1].index("I")]

    def conv(x, w):
        return lax.conv_general_dilated(
            x, w, feature_group_count=groups, dimension_numbers=numbers, **params
        )

    x, w = array(*x_shape), array(*w_shape, seed=1)
    g = array(*jax.eval_shape(conv, x, w).shape, seed=2)
    return lambda x, g: jax.linear_transpose(lambda w: conv(x, w), w)(g)[0], (x, g)


@pytest.mark.parametrize("case", DEPTHWISE)
def test_one_entry_and_one_feature_a_group_become_products(case) -> None:
    fn, args = kernel_gradient(*case)
    graph = rewrite(jp.trace(fn)(*args), SHIFT)
    assert not {"conv", "conv_general_dilated"} & set(graph.count())
    jp.testing.check_rule(SHIFT, fn, *args, dtypes=("bfloat16",))


@pytest.mark.parametrize("case", GROUPED)
def test_groups_become_convolutions(case) -> None:
    fn, args = kernel_gradient(*case)
    graph = jp.trace(fn)(*args)
    groups = graph.find("conv_general_dilated")[0].params["batch_group_count"]
    after = rewrite(graph, SPLIT)
    assert after.count()["conv"] == groups
    # Not check_rule, which feeds NaNs: XLA on the CPU lets one into all the groups, as it masks
    # the sum over all of them.
    jp.testing.assert_equivalent(fn, after, *args)


def test_where_they_refuse() -> None:
    fn, (x, g) = kernel_gradient(*GROUPED[0])
    graph = jp.trace(fn)(x, g)
    (node,) = graph.find("conv_general_dilated")
    assert "2 groups have 6 entries and 4 features" in str(SHIFT.why_not(graph, node))
    many = MAX_GROUPS + 1
    fn, args = kernel_gradient((1, 4, many), (2, 1, 2 * many), ("NWC", "WIO", "NWC"),
                               {"window_strides": (1,), "padding": "SAME"})  # fmt: skip
    graph = jp.trace(fn)(*args)
    assert f"{many} groups" in str(SPLIT.why_not(graph, graph.find("conv_general_dilated")[0]))
    assert rewrite(graph, BATCH_GROUP_RULES) is graph
    taps = MAX_TAPS + 1
    fn, args = kernel_gradient((1, 200, 3), (taps, 1, 3), ("NWC", "WIO", "NWC"),
                               {"window_strides": (1,), "padding": "VALID"})  # fmt: skip
    graph = jp.trace(fn)(*args)
    assert f"{taps} taps" in str(SHIFT.why_not(graph, graph.find("conv_general_dilated")[0]))
    plain = jp.trace(lambda x, w: lax.conv(x, w, (1, 1), "SAME"))(
        array(1, 2, 4, 4), array(3, 2, 2, 2)
    )
    assert rewrite(plain, BATCH_GROUP_RULES) is plain


def test_a_step_that_holds_its_gradient_has_no_slow_convolution_left() -> None:
    w, head = array(3, 3, 1, 4), array(4, 2, seed=1)

    def step(w, head, x):
        def loss(w, head):
            y = lax.conv_general_dilated(
                x, w, (2, 2), "SAME", dimension_numbers=NHWC, feature_group_count=4
            )
            return jnp.sum((jax.nn.relu(y).mean((1, 2)) @ head) ** 2)

        return jax.value_and_grad(loss, argnums=(0, 1))(w, head)

    x = array(2, 8, 8, 4, seed=2)
    fast = jp.optimize(step, passes="training")
    graph = fast.graph(w, head, x)
    assert [n.params["kernel"] for n in graph.find("conv")] == ["depthwise_shifted"]
    assert "conv_general_dilated" not in graph.count()
    for got, want in zip(
        jax.tree.leaves(fast(w, head, x)), jax.tree.leaves(jax.jit(step)(w, head, x)), strict=True
    ):
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)
    again = jp.passes.training.run(graph)[0]
    assert again.count() == graph.count()
