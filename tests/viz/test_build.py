import itertools

import jax
import jax.numpy as jnp
import pytest
from drawings import NASTY, scope_safe, stack_of
from jax import lax

import jaxpress as jp
from jaxpress.capture import Graph, trace
from jaxpress.viz.build import MAX_WIDE, build_picture, usual_dtype, widest_row
from jaxpress.viz.model import Picture

x = jnp.ones((2, 4))


def edges(picture: Picture, kind: str = "data") -> list[tuple[str, str]]:
    """Edges as pairs of titles."""
    title = {box.id: box.title for box in picture.boxes()}
    return [(title[e.source], title[e.target]) for e in picture.edges if e.kind == kind]


def titles(picture: Picture) -> list[str]:
    return [box.title for box in picture.boxes()]


def test_a_chain_from_argument_to_result(mlp: Graph) -> None:
    picture = build_picture(mlp)
    names = ["x", "dot_general", "add", "relu", "dot_general", "add", "result"]
    assert titles(picture) == names
    assert edges(picture) == list(itertools.pairwise(names))
    assert (picture.title, picture.subtitle) == ("mlp", "7 ops · 212 weights · f32 unless noted")


def test_every_edge_joins_boxes_of_the_picture() -> None:
    for depth in range(5):
        picture = build_picture(stack_of(5), depth=depth)
        known = [box.id for box in picture.boxes()]
        assert len(set(known)) == len(known)
        assert {e.source for e in picture.edges} | {e.target for e in picture.edges} <= set(known)


def test_the_same_graph_gives_the_same_picture(stack: Graph) -> None:
    assert build_picture(stack) == build_picture(stack)


def test_edges_are_labelled_where_the_shape_is_news(mlp: Graph) -> None:
    labels = [e.label for e in build_picture(mlp).edges]
    assert labels == ["", "2×16", "", "", "2×4", ""]


def test_another_dtype_is_news() -> None:
    picture = build_picture(trace(lambda x: jnp.sin((x * 2.0).astype(jnp.bfloat16)))(x))
    assert [e.label for e in picture.edges] == ["", "", "2×4 bf16", ""]


def test_a_value_that_is_used_twice_by_one_operation_is_one_edge() -> None:
    picture = build_picture(trace(lambda x: x * x)(x))
    assert edges(picture) == [("x", "mul"), ("mul", "result")]


def test_a_scan_shows_what_it_carries_and_goes_through(rnn: Graph) -> None:
    picture = build_picture(rnn)
    (frame,) = picture.clusters()
    assert (frame.label, frame.kind) == ("scan × 7", "control")
    ports = [b for b in picture.boxes() if b.kind == "port"]
    assert [(p.title, p.lines) for p in ports] == [("carry h", ("2×5",)), ("each xs", ("2×3",))]
    data = edges(picture)
    assert ("h", "carry h") in data
    assert ("xs", "each xs") in data
    assert ("tanh", "result[0]") in data
    assert ("mul × 2", "result[1]") in data
    assert edges(picture, "again") == [("tanh", "carry h")]
    assert not any("w_ih" in t or "params" in t for t in titles(picture))
    label = next(e.label for e in picture.edges if e.label.startswith("7"))
    assert label == "7×2×5"


def test_a_while_loop_has_a_condition_and_a_body() -> None:
    def fn(n, x):
        return lax.while_loop(lambda c: c[0] < n, lambda c: (c[0] + 1, jnp.sin(c[1])), (0, x))

    picture = build_picture(trace(fn)(3, x))
    assert [c.label for c in picture.clusters()] == ["while", "condition", "body"]
    data, again = edges(picture), edges(picture, "again")
    assert ("n", "lt") in data
    assert ("carry", "lt") in data
    assert ("x", "carry x") in data
    assert ("carry x", "sin") in data
    assert ("sin", "carry x") in again
    assert ("add + 1", "carry") in again


def test_a_branch_shows_what_chooses_it() -> None:
    def fn(i, x):
        return lax.switch(i, [lambda x: x, jnp.sin, lambda x: x + 1.0], x)

    picture = build_picture(trace(fn)(1, x))
    data = edges(picture)
    assert ("clamp (0, ·, 2)", "which branch") in data
    assert {("sin", "result"), ("add + 1", "result"), ("x", "result")} <= set(data)
    chosen = [target for _, target in edges(picture, "choice")]
    assert chosen == ["no operation", "sin", "add + 1"]


def test_edges_lead_through_nested_functions() -> None:
    @jax.jit
    def outer(x, y):
        @jax.jit
        def inner(y, x):
            return x @ y, jnp.sin(x @ x)

        return inner(y, x)

    def fn(x, y):
        a, b = outer(x, y)
        return a - b

    picture = build_picture(trace(fn)(jnp.ones((2, 2)), jnp.ones((2, 2))))
    assert [c.label for c in picture.clusters()] == ["outer", "inner"]
    assert edges(picture) == [
        ("x", "dot_general"),
        ("y", "dot_general"),
        ("x", "dot_general"),
        ("dot_general", "sin"),
        ("dot_general", "sub"),
        ("sin", "sub"),
        ("sub", "result"),
    ]


def test_weights_of_a_nested_function_are_written_into_its_operations() -> None:
    layer = jax.jit(lambda w, x: jnp.sin(x @ w))
    graph = trace(lambda params, x: layer(params["w"], x))({"w": jnp.ones((4, 3))}, x)
    picture = build_picture(graph)
    product = next(b for b in picture.boxes() if b.title == "dot_general")
    assert product.lines == ("w 4×3",)


def test_equal_blocks_are_drawn_once_with_the_way_to_the_next(stack: Graph) -> None:
    picture = build_picture(stack)
    (frame, *_) = picture.clusters()
    assert frame.label == "layer_0 … layer_29  × 30"
    assert len(list(picture.boxes())) < 10
    assert len(edges(picture, "again")) == 1
    last = edges(picture)[-1]
    assert last == ("add", "result")
    assert edges(picture).count(("mask", "3 elementwise")) == 1


def test_repeats_of_a_nested_function_are_drawn_once_too() -> None:
    @jax.jit
    def layer(w, x):
        return jnp.exp(jnp.sin(x @ w) @ w)

    def fn(params, x):
        for w in params:
            x = layer(w, x)
        return x

    graph = trace(fn)([jnp.ones((4, 4))] * 40, x)
    picture = build_picture(graph)
    (frame,) = picture.clusters()
    assert frame.label == "layer  × 40"
    assert edges(picture, "again") == [("exp", "dot_general")]
    assert edges(picture)[0] == ("x", "dot_general")
    assert edges(picture)[-1] == ("exp", "result")


def test_parallel_blocks_that_repeat_share_their_source() -> None:
    def fn(params, x):
        return sum(jnp.exp(jnp.sin(x @ w) @ w.T) for w in params)

    picture = build_picture(trace(fn)([jnp.ones((4, 4))] * 50, x), max_nodes=20)
    assert edges(picture).count(("x", "dot_general")) == 1


def test_a_picture_too_wide_for_a_page_is_folded() -> None:
    def update(params, grads):
        return jax.tree.map(lambda p, g: p - 0.1 * jnp.sign(g), params, grads)

    arrays = {f"k{i}": jnp.ones(3) for i in range(25)}
    graph = trace(update)(arrays, arrays)
    picture = build_picture(graph, max_nodes=1000)
    assert widest_row(picture) <= MAX_WIDE
    assert any("× 25" in c.label for c in picture.clusters())


def test_many_arguments_and_results_share_boxes() -> None:
    arrays = {f"k{i}": jnp.ones((i + 1, 3)) for i in range(20)}
    picture = build_picture(trace(lambda d, x: {k: v + x for k, v in d.items()})(arrays, 1.0))
    ends = [b for b in picture.boxes() if b.kind in ("input", "output")]
    assert [b.title for b in ends] == ["d", "x", "result"]
    assert ends[0].lines == ("20 arrays, 630 numbers",)


def test_results_that_are_arguments_weights_or_numbers() -> None:
    w = jnp.ones((4, 4))
    picture = build_picture(trace(lambda params, x: (x, params, 3.0, x @ params))(w, x))
    by_title = {b.title: b for b in picture.boxes()}
    assert ("x", "result[0]") in edges(picture)
    assert by_title["result[1]"].lines == ("4×4", "= params")
    assert by_title["result[2]"].lines == ("scalar", "= 3")


@pytest.mark.parametrize(
    "fn", [lambda x: x, lambda x: None, lambda x: (), lambda x: (x, x), lambda x: jnp.ones(3)]
)
def test_functions_that_do_next_to_nothing(fn) -> None:
    picture = build_picture(trace(fn)(x))
    assert titles(picture)[0] == "x"


def test_a_function_without_arguments() -> None:
    picture = build_picture(trace(lambda: jnp.arange(3.0) * 2.0)())
    (box,) = picture.boxes()
    assert box.kind == "output"


def test_effects_without_results_are_drawn() -> None:
    def fn(x):
        jax.debug.print("{}", x)
        return x

    picture = build_picture(trace(fn)(x))
    assert any("callback" in t or "debug" in t for t in titles(picture))


def test_prepared_weights_are_weights_and_their_preparation_is_counted() -> None:
    params = {"w": jnp.ones((4, 4)), "s": jnp.ones(4)}

    def fn(params, x):
        return x @ (params["w"] * params["s"])

    graph = jp.optimize(fn, passes="inference", weight_argnums=(0,)).graph(params, x)
    assert graph.prologue is not None
    picture = build_picture(graph)
    product = next(b for b in picture.boxes() if b.title in ("dense", "dot_general"))
    assert product.lines[-1].endswith(" 4×4")
    assert "prepare the weights once" in picture.subtitle


def test_the_usual_dtype_is_a_floating_one_where_there_is_one() -> None:
    assert usual_dtype(trace(lambda i, x: (i + 1, i * 2, x * 1.5))(jnp.arange(3), x)) == "f32"
    assert usual_dtype(trace(lambda i: i + 1)(jnp.arange(3))) == "i32"
    assert usual_dtype(trace(lambda: 1)()) == ""


@pytest.mark.parametrize("name", NASTY)
def test_names_come_out_printable(name: str) -> None:
    def fn(d):
        with jax.named_scope(scope_safe(name)):
            y = jnp.sin(d[name]) + 1.0
        return {name: jnp.cos(y)}

    fn.__name__ = name
    picture = build_picture(trace(fn)({name: x}))
    words = [picture.title, *(c.label for c in picture.clusters())]
    for box in picture.boxes():
        words += [box.title, box.caption, *box.lines, *(t for row in box.detail for t in row)]
    assert all(word.isprintable() for word in words)
    assert len(list(picture.clusters())) == 1


def test_what_passes_did_reaches_the_boxes() -> None:
    graph = trace(lambda x: jnp.sin(x) @ x.T)(x)
    marked = graph.nodes[0]
    picture = build_picture(graph, notes=lambda node: ("r",) if node is marked else ())
    assert [b.title for b in picture.boxes() if b.changed] == ["sin"]


def test_depth_0_is_the_function_as_one_box(mlp: Graph) -> None:
    assert titles(build_picture(mlp, depth=0)) == ["x", "mlp", "result"]
    assert edges(build_picture(mlp, depth=0)) == [("x", "mlp"), ("mlp", "result")]
    assert titles(build_picture(trace(lambda x: x)(1.0), depth=0)) == ["x", "result"]
