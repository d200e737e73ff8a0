import jax
import jax.numpy as jnp
from jax import lax

from jaxpress.capture import Graph, trace
from jaxpress.viz.parts import Part, body_sites, is_small_call, parts_of_site
from jaxpress.viz.site import Site

x = jnp.ones((2, 4))


def parts(graph: Graph) -> list[Part]:
    return parts_of_site(Site(graph, top=True))


def outline(found: list[Part]) -> list:
    """Names, with the children of a group after its name."""
    return [(p.name, outline(p.children())) if p.opens else p.name for p in found]


def test_scopes_nest_and_keep_the_order() -> None:
    def fn(x):
        x = jnp.sin(x)
        with jax.named_scope("a"):
            x = jnp.cos(x)
            with jax.named_scope("b"):
                x = jnp.exp(x)
        with jax.named_scope("a"):
            x = jnp.log(x)
        return jnp.tanh(x)

    assert outline(parts(trace(fn)(x))) == ["sin", ("a", ["cos", ("b", ["exp"]), "log"]), "tanh"]


def test_a_scope_that_comes_again_later_is_another_group() -> None:
    def fn(x):
        for _ in range(2):
            with jax.named_scope("attention"):
                x = jnp.sin(x)
            with jax.named_scope("feed_forward"):
                x = jnp.cos(x)
        return x

    names = [name for name, _ in outline(parts(trace(fn)(x)))]
    assert names == ["attention", "feed_forward", "attention", "feed_forward"]


def test_numbered_layers_of_a_flat_model_form_blocks() -> None:
    def fn(x):
        for name in ("stem", "block_1_a", "block_1_b", "block_2_a", "block_2_b", "top"):
            with jax.named_scope(name):
                x = jnp.sin(x)
        return x

    assert outline(parts(trace(fn)(x))) == [
        ("stem", ["sin"]),
        ("block_1", [("block_1_a", ["sin"]), ("block_1_b", ["sin"])]),
        ("block_2", [("block_2_a", ["sin"]), ("block_2_b", ["sin"])]),
        ("top", ["sin"]),
    ]


def test_what_touches_weights_alone_has_no_part_and_cuts_no_scope() -> None:
    def fn(params, x):
        with jax.named_scope("layer"):
            x = jnp.sin(x)
        scale = params["scale"] * 2.0
        with jax.named_scope("layer"):
            return x * scale

    graph = trace(fn)({"scale": jnp.ones(4)}, x)
    assert len(graph.nodes) > 3
    assert outline(parts(graph)) == [("layer", ["sin", "mul"])]


def test_a_small_function_is_one_operation_and_a_large_one_opens() -> None:
    @jax.jit
    def large(x):
        for _ in range(6):
            x = jnp.sin(jnp.cos(x))
        return x

    graph = trace(lambda x: large(jax.nn.silu(jax.nn.relu6(x))))(x)
    relu, silu, call = parts(graph)
    assert (relu.kind, silu.kind, call.kind) == ("op", "op", "call")
    assert is_small_call(relu.node)
    assert is_small_call(silu.node)
    assert not is_small_call(call.node)
    assert call.name == "large"
    assert [p.name for p in call.children()] == ["cos", "sin"] * 6


def test_a_function_with_a_product_in_it_is_not_small() -> None:
    graph = trace(jax.jit(lambda x: x @ x.T))(x)
    assert not is_small_call(graph.nodes[0])


def test_a_loop_has_its_body_and_a_branch_its_branches() -> None:
    def fn(x):
        x, _ = lax.scan(lambda c, y: (c * y, None), x[0], x)
        x = lax.while_loop(lambda c: c.sum() < 9.0, lambda c: c * 2.0, x)
        return lax.switch(0, [lambda x: x, jnp.sin, lambda x: x + 1.0], x)

    found = {p.node.op: p for p in parts(trace(fn)(x)) if p.kind == "control"}
    assert found["scan"].name == "scan × 2"
    assert [p.name for p in found["scan"].children()] == ["mul"]
    assert [p.name for p in found["while"].children()] == ["condition", "body"]
    branches = found["cond"].children()
    assert [p.name for p in branches] == ["branch 0", "branch 1", "branch 2"]
    assert [[p.name for p in b.children()] for b in branches] == [[], ["sin"], ["add"]]


def test_bodies_are_bound_to_what_they_are_given() -> None:
    def fn(n, x):
        return lax.while_loop(lambda c: c[0] < n, lambda c: (c[0] + 1, c[1] * x), (0, x))

    graph = trace(fn)(3, x)
    site = Site(graph, top=True)
    sites = body_sites(site, graph.nodes[0])
    assert sites is not None
    condition, body = sites
    n, given = graph.inputs
    assert (site, n) in [b.outer[0] for b in condition.bindings.values()]
    carried = [b for b in body.bindings.values() if b.role == "carry"]
    assert [b.again for b in carried] == list(body.graph.outputs)
    assert ((site, given),) in [b.outer for b in body.bindings.values() if not b.role]


def test_an_operation_whose_body_is_a_formula_stays_closed() -> None:
    graph = trace(lambda x: lax.reduce(x, 0.0, lambda a, b: a + b * 2.0, (0,)))(x)
    (part,) = parts(graph)
    assert part.node.subgraphs
    assert part.kind == "op"
    assert body_sites(part.site, part.node) is None
