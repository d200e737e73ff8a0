import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import jaxpress as jp
from jaxpress.capture import Graph, trace
from jaxpress.viz.parts import body_sites
from jaxpress.viz.site import CONST, DATA, DERIVED, WEIGHT, Site, leaf_name, root_of

x = jnp.ones((2, 4))
w = jnp.ones((4, 4))
b = jnp.ones(4)


def kinds(graph: Graph, **options) -> dict[str, str]:
    site = Site(graph, top=True, **options)
    return {v.name: site.of(v).kind for v in graph.inputs}


def test_names_of_leaves() -> None:
    assert root_of("params['a'][0].b") == root_of("params.x") == "params"
    assert leaf_name("params['Dense_0']['kernel']") == "kernel"
    assert leaf_name("model.layers[3].weight.value") == "weight"
    assert leaf_name("w") == "w"
    assert leaf_name("tv[3]") == "tv[3]"


def test_arguments_named_like_weights_are_weights() -> None:
    graph = trace(lambda params, x: x @ params["w"] + params["b"])({"w": w, "b": b}, x)
    assert kinds(graph) == {"params['w']": WEIGHT, "params['b']": WEIGHT, "x": DATA}
    graph = trace(lambda x, w1, b1: x @ w1 + b1)(x, w, b)
    assert kinds(graph) == {"x": DATA, "w1": WEIGHT, "b1": WEIGHT}


def test_two_plain_arrays_are_data() -> None:
    assert set(kinds(trace(lambda a, b: a @ b)(x, w)).values()) == {DATA}


def test_what_is_only_used_as_a_kernel_is_a_weight_whatever_its_name() -> None:
    image, kernel = jnp.ones((1, 8, 8, 3)), jnp.ones((3, 3, 3, 4))
    graph = trace(lambda image, q: jp.nnops.conv(image, q))(image, kernel)
    assert kinds(graph) == {"image": DATA, "q": WEIGHT}
    graph = trace(lambda image, q: jp.nnops.conv(image, q) + q.sum())(image, kernel)
    assert kinds(graph) == {"image": DATA, "q": DATA}


def test_a_batch_of_arrays_is_data() -> None:
    batch = dict.fromkeys(("ids", "mask", "labels", "kinds", "places"), x)
    graph = trace(lambda batch: sum(batch.values()))(batch)
    assert set(kinds(graph).values()) == {DATA}


def test_a_structure_of_kernels_and_biases_is_weights() -> None:
    state = {f"l{i}": {"kernel": w, "bias": b} for i in range(3)}
    graph = trace(lambda net, x: x @ net["l0"]["kernel"])(state, x)
    found = kinds(graph)
    assert found.pop("x") == DATA
    assert set(found.values()) == {WEIGHT}


def test_a_function_of_weights_alone_has_them_as_data() -> None:
    graph = trace(lambda params: params["w"] @ params["w"])({"w": w})
    assert set(kinds(graph).values()) == {DATA}


def test_the_caller_may_say_which_arguments_are_weights() -> None:
    graph = trace(lambda params, x: x @ params)(w, x)
    assert kinds(graph, weight_names=frozenset({"x"})) == {"params": DATA, "x": WEIGHT}
    assert kinds(graph, weight_names=frozenset()) == {"params": DATA, "x": DATA}


def test_declared_weights_are_weights_and_nothing_else_is() -> None:
    graph = trace(lambda params, q, x: x @ params @ q)(w, w, x)
    declared = graph.with_parts(weight_inputs=frozenset({graph.inputs[1]}))
    assert kinds(declared) == {"params": DATA, "q": WEIGHT, "x": DATA}


def test_reshaped_weights_stay_weights_and_cheap_work_on_them_is_derived() -> None:
    def fn(params, x):
        scale = jax.lax.rsqrt(params["var"] + 1e-3) * params["scale"]
        return x * scale + params["bias"]

    params = {"var": b, "scale": b, "bias": b}
    graph = trace(fn)(params, x)
    site = Site(graph, top=True)
    by_op = {node.op: site.of(node.output) for node in graph.nodes}
    assert by_op["broadcast_in_dim"].kind == WEIGHT or by_op["reshape"].kind == WEIGHT
    assert by_op["rsqrt"].kind == DERIVED
    (product,) = (n for n in graph.find("mul") if site.of(n.output).kind == DERIVED)
    assert {r.name for r in site.of(product.output).roots} == {"params['var']", "params['scale']"}
    last = graph.producer(graph.outputs[0])
    assert last is not None
    assert site.of(last.output).kind == DATA


def test_a_product_of_two_weights_is_worth_a_box() -> None:
    graph = trace(lambda params, x: x @ (params["w"] @ params["v"]))({"w": w, "v": w}, x)
    site = Site(graph, top=True)
    assert [site.of(n.output).kind for n in graph.nodes] == [DATA, DATA]


def test_random_numbers_and_effects_are_never_written_into_another_box() -> None:
    def fn(x):
        jax.debug.print("hello {}", 1)
        return x + jax.random.uniform(jax.random.key(0), x.shape)

    site = Site(trace(fn)(x), top=True)
    for node in site.graph.nodes:
        if node.effects or node.op.startswith("random"):
            assert not site.is_inline(node)


def test_constants_of_one_number_are_written_as_the_number() -> None:
    half, table = jnp.asarray([0.5]), jnp.ones((4, 4))
    graph = trace(lambda x: (x * half) @ table)(x)
    site = Site(graph, top=True)
    found = {v.shape: site.of(v) for v in graph.constants}
    assert found[1,] == (CONST, "0.5", ())
    assert found[4, 4].kind == WEIGHT


def test_a_closed_over_key_is_no_number() -> None:
    key = jax.random.key(0)
    graph = trace(lambda x: x + jax.random.uniform(key, x.shape))(x)
    site = Site(graph, top=True)
    assert all(site.of(v).kind in (WEIGHT, CONST) for v in graph.constants)


@pytest.mark.parametrize("reverse", [False, True])
def test_in_a_scan_constants_are_as_outside_and_what_changes_is_data(reverse: bool) -> None:
    def fn(params, h, xs):
        def step(h, inputs):
            x, layer = inputs
            return jnp.tanh(h @ params["w"] + x @ layer), h

        return lax.scan(step, h, (xs, params["stack"]), reverse=reverse)

    params = {"w": w, "stack": jnp.ones((3, 4, 4))}
    graph = trace(fn)(params, x, jnp.ones((3, 2, 4)))
    (scan,) = (n for n in graph.nodes if n.op == "scan")
    sites = body_sites(Site(graph, top=True), scan)
    assert sites is not None
    (site,) = sites
    rows = [(b.role, site.of(v).kind) for v, b in site.bindings.items()]
    assert rows == [("", WEIGHT), ("carry", DATA), ("slice", DATA), ("slice", WEIGHT)]


def test_a_symbolic_size_is_written_by_its_name() -> None:
    rows = jax.ShapeDtypeStruct(jax.export.symbolic_shape("batch, 4"), np.float32)
    graph = trace(lambda x: x.sum(0) / x.shape[0])(rows)
    site = Site(graph, top=True)
    texts = [site.of(v).text for node in graph.nodes for v in node.inputs]
    assert "batch" in texts
