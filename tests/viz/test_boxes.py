import jax
import jax.numpy as jnp
from drawings import stack_of

import jaxpress as jp
from jaxpress.capture import Graph, trace
from jaxpress.viz.boxes import cluster_label, io_box, part_box, port_box
from jaxpress.viz.model import Box
from jaxpress.viz.parts import Part, parts_of_site
from jaxpress.viz.plan import make_plan
from jaxpress.viz.site import Site
from jaxpress.viz.tally import Tally

x = jnp.ones((1, 8, 8, 3))
w = jnp.ones((3, 3, 3, 16))
b = jnp.ones(16)


def boxes(graph: Graph, notes: tuple[str, ...] = ()) -> list[Box]:
    parts = parts_of_site(Site(graph, top=True))
    return [part_box(f"n{i}", p, "f32", Tally(), notes) for i, p in enumerate(parts)]


def box(fn, *args) -> Box:
    found = boxes(trace(fn)(*args))
    return found[-1]


def test_a_fused_operation_shows_what_follows_its_core() -> None:
    residual = jnp.ones((1, 4, 4, 16))
    found = box(lambda x, r: jp.nnops.conv(x, w, b, r, strides=2, activation="relu6"), x, residual)
    assert found.title == "conv 3×3 /2"
    assert found.lines == ("+bias +residual → relu6", "w 3×3×3×16 · b 16")
    assert found.family == "matmul"


def test_the_kernel_is_named_unless_it_is_the_reference() -> None:
    graph = trace(lambda x: jp.nnops.conv(x, jnp.ones((1, 1, 3, 16))))(x)
    (node,) = graph.find("conv")
    assert "kernel" in node.params
    assert not any("kernel" in line for line in boxes(graph)[-1].lines)

    def pointwise(x):
        params = {**node.params, "kernel": "pointwise_dot"}
        return node.primitive.bind(x, jnp.ones((1, 1, 3, 16)), **params)

    assert "kernel: pointwise_dot" in box(pointwise, x).lines


def test_weights_of_one_shape_share_a_line() -> None:
    scale = jnp.ones(3)

    def fn(params, x):
        return jp.nnops.batch_norm(x, params["mean"], params["var"], params["gamma"], params["b"])

    found = box(fn, {"mean": scale, "var": scale, "gamma": scale, "b": scale}, x)
    assert found.lines == ("mean, var, gamma, b 3",)
    assert found.family == "norm"


def test_work_on_weights_is_written_as_a_function_of_them() -> None:
    def fn(params, x):
        return x * (params["scale"] * jax.lax.rsqrt(params["var"]))

    params = {"scale": jnp.ones(3), "var": jnp.ones(3)}
    assert box(fn, params, x).lines == ("ƒ(scale, var) 1×1×1×3",)


def test_weights_of_another_dtype_say_so() -> None:
    half = jnp.ones((3, 4), jnp.bfloat16)
    found = box(lambda x: x.astype(jnp.bfloat16) @ half, jnp.ones((2, 3)))
    assert found.lines == ("const 3×4 bf16",)


def test_a_small_function_shows_what_is_in_it() -> None:
    found = box(jax.nn.relu6, x)
    assert (found.title, found.family) == ("relu6", "activation")
    assert found.lines == ("max, min",)


def test_a_users_own_function_called_relu_shows_that_it_is_not() -> None:
    @jax.jit
    def relu(x):
        return jnp.minimum(x, 0.0)

    assert box(relu, x).lines == ("min",)


def test_a_closed_group_says_how_much_is_in_it() -> None:
    graph = stack_of(4)
    plan = make_plan(graph, depth=1)
    first = plan.children(plan.root)[0]
    found = part_box("n0", first, "f32", Tally(), ())
    assert found.kind == "group"
    assert found.title == "layer_0"
    assert found.lines == ("6 ops: 2 dot_general, 1 add, 1 exp, …", "48 weights")
    assert found.family == "matmul"


def test_a_closed_repeat_counts_its_weights_as_often_as_they_are_there() -> None:
    graph = stack_of(30)
    plan = make_plan(graph, max_nodes=2)
    (part,) = plan.children(plan.root)
    found = part_box("n0", part, "f32", Tally(), ())
    assert found.title == "layer_0 … layer_29  × 30"
    assert found.lines[-1] == "1.44k weights"


def test_a_chain_lists_its_operations() -> None:
    graph = trace(lambda x: jnp.exp(jnp.sin(x) * 2.0 + 1.0))(x)
    part = Part("chain", "4 elementwise", Site(graph, top=True), graph.nodes)
    found = part_box("n0", part, "f32", Tally(), ())
    assert (found.title, found.lines) == ("4 elementwise", ("sin, mul, add, exp",))
    assert found.family == "elementwise"


def test_the_detail_has_scope_source_parameters_and_shapes() -> None:
    def fn(x):
        with jax.named_scope("here"):
            return x.sum(1)

    (scope,) = parts_of_site(Site(trace(fn)(jnp.ones((2, 3))), top=True))
    found = part_box("n0", scope.children()[0], "f32", Tally(), ())
    detail = dict(found.detail)
    assert detail["op"] == "reduce_sum"
    assert detail["scope"] == "here"
    assert "test_boxes.py" in detail["source"]
    assert detail["axes"] == "(1)"
    assert detail["in"] == "x: 2×3 f32"
    assert detail["out"] == "2 f32"


def test_what_passes_did_is_in_the_detail_and_marks_the_box() -> None:
    graph = trace(jnp.sin)(x)
    assert not boxes(graph)[0].changed
    (found,) = boxes(graph, ("fold (exact)",))
    assert found.changed
    assert ("pass", "fold (exact)") in found.detail


def test_arguments_and_results() -> None:
    graph = trace(lambda x, n: (x, n))(x, 3)
    one = io_box("n1", "input", "x", [graph.inputs[0]], "f32")
    assert (one.kind, one.title, one.lines) == ("input", "x", ("1×8×8×3",))
    both = io_box("n2", "input", "args", graph.inputs, "f32")
    assert both.lines == ("2 arrays, 193 numbers",)
    same = io_box("n3", "output", "result", [graph.inputs[1]], "f32", ["kernel"])
    assert same.lines == ("scalar i32", "= kernel")


def test_ports() -> None:
    (value,) = trace(lambda x: x)(x).inputs
    assert port_box("n1", "carry", "h", value, "f32").title == "carry h"
    assert port_box("n1", "slice", "", value, "f32").title == "each"


def test_labels_of_frames() -> None:
    site = Site(stack_of(2), top=True)
    part = Part("scope", "layer", site, site.graph.nodes, caption="Model")
    assert cluster_label(part, part) == "Model/layer"
    repeat = Part("repeat", "", site, site.graph.nodes, times=3)
    assert cluster_label(repeat, part) == "layer  × 3"
    assert cluster_label(repeat, repeat) == "× 3"
