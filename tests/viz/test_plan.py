import jax
import jax.numpy as jnp
import pytest
from drawings import stack_of

from jaxpress.capture import Graph, trace
from jaxpress.viz.build import build_picture
from jaxpress.viz.plan import DEFAULT_BOXES, make_plan

x = jnp.ones((4, 4))


def shown(graph: Graph, **options) -> int:
    plan = make_plan(graph, **options)
    return plan.boxes(plan.root, plan.depth, 10**6)


def endless(n: int) -> Graph:
    def fn(x):
        a, b = x, x
        for i in range(n // 2):
            # No chain, and no period short enough to be found.
            a, b = (a @ b, jnp.sin(b)) if (i * i) % 17 < 8 else (jnp.cos(a), b @ a)
        return a, b

    return trace(fn)(x)


def test_a_small_graph_is_shown_whole(mlp: Graph) -> None:
    plan = make_plan(mlp)
    assert plan.level == 0
    assert all(not p.opens for p in plan.children(plan.root))


@pytest.mark.parametrize("limit", [1, 2, 5, 20, 80, 300])
@pytest.mark.parametrize("graph", [stack_of(30), stack_of(30, odd=7), endless(900)])
def test_a_plan_keeps_to_its_limit(graph: Graph, limit: int) -> None:
    assert shown(graph, max_nodes=limit) <= limit


def test_repeats_are_folded_only_where_not_all_fits() -> None:
    few, many = stack_of(3), stack_of(30)
    assert make_plan(few).level == 0
    plan = make_plan(many)
    (part,) = plan.children(plan.root)
    assert part.times == 30
    assert shown(many) == 4, "the one layer that is drawn is open"


def test_a_thousand_operations_without_scopes_give_a_page() -> None:
    graph = endless(900)
    assert len(graph.nodes) == 900
    assert 5 <= shown(graph) <= DEFAULT_BOXES


def test_depth_opens_that_many_levels(stack: Graph) -> None:
    assert shown(stack, depth=0) == 1
    assert shown(stack, depth=1) == 30
    assert shown(stack, depth=2) == 30 * 3
    assert shown(stack, depth=3) == shown(stack, depth=9) == 30 * 6


def test_depth_and_a_limit_together(stack: Graph) -> None:
    assert shown(stack, depth=3, max_nodes=10) <= 10


def test_all_of_it_in_one_scope_takes_no_level() -> None:
    def fn(x):
        with jax.named_scope("Model"):
            for i in range(3):
                with jax.named_scope(f"part_{i}"):
                    x = jnp.exp(jnp.sin(x))
        return x

    assert shown(trace(fn)(x), depth=1) == 3


def test_a_scope_of_one_operation_is_written_on_it() -> None:
    def fn(x):
        with jax.named_scope("outer"), jax.named_scope("inner"):
            x = jnp.sin(x)
        return jnp.cos(x)

    plan = make_plan(trace(fn)(x))
    first, _ = plan.children(plan.root)
    assert (first.kind, first.caption, first.node.op) == ("op", "outer/inner", "sin")


def test_a_body_that_is_used_exponentially_often_is_no_trouble() -> None:
    fn = jax.jit(lambda x: jnp.sin(x) @ x)
    for _ in range(50):
        fn = jax.jit(lambda x, inner=fn: inner(inner(x)))
    graph = trace(fn)(x)
    assert shown(graph) <= DEFAULT_BOXES
    assert shown(graph, depth=40, max_nodes=200) <= 200
    assert len(list(build_picture(graph).boxes())) <= DEFAULT_BOXES + 2
