import jax
import jax.numpy as jnp
from drawings import stack_of

from jaxpress.capture import Graph, trace
from jaxpress.viz.fold import Keys, fold_chains, fold_repeats, split_long
from jaxpress.viz.parts import Part, parts_of_site
from jaxpress.viz.site import Site

x = jnp.ones((4, 4))


def parts(graph: Graph) -> list[Part]:
    return parts_of_site(Site(graph, top=True))


def covered(found: list[Part]) -> list:
    return [n for p in found for block in (p.nodes, *p.copies) for n in block]


def test_a_chain_of_cheap_operations_becomes_one_box() -> None:
    graph = trace(lambda x: (jnp.sin(x) * 2.0 + 1.0) @ x)(x)
    found = fold_chains(parts(graph))
    assert [p.name for p in found] == ["3 elementwise", "dot_general"]
    assert found[0].nodes == graph.nodes[:3]


def test_two_are_no_chain() -> None:
    found = fold_chains(parts(trace(lambda x: (jnp.sin(x) * 2.0) @ x)(x)))
    assert [p.name for p in found] == ["sin", "mul", "dot_general"]


def test_a_chain_ends_where_a_value_has_a_second_use() -> None:
    def fn(x):
        a = jnp.sin(x) * 2.0 + 1.0
        return jnp.cos(jnp.log(jnp.exp(a))) @ a

    names = [p.name for p in fold_chains(parts(trace(fn)(x)))]
    assert names == ["3 elementwise", "3 elementwise", "dot_general"]


def test_a_result_of_the_function_ends_a_chain() -> None:
    def fn(x):
        a = jnp.sin(x) * 2.0 + 1.0
        return a, a - 3.0

    names = [p.name for p in fold_chains(parts(trace(fn)(x)))]
    assert names == ["3 elementwise", "sub"]


def test_a_tree_with_one_way_out_is_a_chain_named_for_what_it_holds() -> None:
    def fn(x):
        return jnp.sin(x) + jnp.cos(x).T, x.T.reshape(2, 8)[::2]

    tree, moves = fold_chains(parts(trace(fn)(x)))
    assert tree.name == "4 small ops"
    assert moves.name == "3 data movement"


def test_looking_up_an_embedding_is_not_cheap() -> None:
    graph = trace(lambda i, x: x[i] * 2.0)(jnp.array([1, 0]), x)
    gathers = [p for p in fold_chains(parts(graph)) if any(n.op == "gather" for n in p.nodes)]
    assert [len(p.nodes) for p in gathers] == [1]


def test_nothing_is_lost_by_folding_chains() -> None:
    graph = stack_of(3)
    found = parts(graph)
    assert sorted(map(id, covered(fold_chains(found)))) == sorted(map(id, covered(found)))


def test_equal_layers_become_one_with_a_count() -> None:
    found = fold_repeats(parts(stack_of(12)), Keys())
    assert [(p.name, p.times) for p in found] == [("layer_0 … layer_11", 12)]
    assert len(found[0].copies) == 11
    assert all(len(copy) == len(found[0].nodes) for copy in found[0].copies)


def test_a_layer_that_differs_is_kept_apart() -> None:
    found = fold_repeats(parts(stack_of(9, odd=4)), Keys())
    assert [(p.name, p.times) for p in found] == [
        ("layer_0 … layer_3", 4),
        ("layer_4", 1),
        ("layer_5 … layer_8", 4),
    ]


def test_repeats_without_scopes_are_found_too() -> None:
    def fn(x):
        for _ in range(7):
            x = jnp.exp(jnp.sin(x) @ x)
        return x

    (found,) = fold_repeats(parts(trace(fn)(x)), Keys())
    assert found.times == 7
    assert [n.op for n in found.nodes] == ["sin", "dot_general", "exp"]


def test_the_same_operations_wired_otherwise_are_no_repeat() -> None:
    def fn(x):
        for i in range(6):
            with jax.named_scope(f"layer_{i}"):
                a, b = jnp.sin(x), jnp.cos(x)
                x = (a - b if i % 2 else b - a) @ x
        return x

    assert all(p.times == 1 for p in fold_repeats(parts(trace(fn)(x)), Keys()))


def test_other_shapes_and_parameters_are_no_repeat() -> None:
    def fn(x):
        for axis in (0, 1, 0, 1):
            x = jnp.cumsum(jnp.sin(jnp.cos(x)), axis=axis)
        return jnp.cumsum(jnp.sin(jnp.cos(x.reshape(8, 2))), axis=0)

    found = fold_repeats(parts(trace(fn)(x)), Keys())
    assert [p.times for p in found if p.kind == "repeat"] == [2]


def test_other_literals_are_no_repeat() -> None:
    def fn(x):
        for i in range(4):
            x = jnp.exp(jnp.sin(x * float(i + 2))) @ x
        return x

    assert all(p.times == 1 for p in fold_repeats(parts(trace(fn)(x)), Keys()))


def test_bodies_are_compared_by_what_they_do() -> None:
    def layer(k):
        @jax.jit
        def layer(x):
            for _ in range(9):
                x = jnp.sin(x) * k
            return x

        return layer

    def fn(scales, x):
        for k in scales:
            x = layer(k)(x)
        return x

    same = fold_repeats(parts(trace(lambda x: fn([2.0] * 3, x))(x)), Keys())
    other = fold_repeats(parts(trace(lambda x: fn([2.0, 3.0, 4.0], x))(x)), Keys())
    assert [p.times for p in same] == [3]
    assert [p.times for p in other] == [1, 1, 1]


def test_long_stretches_are_cut_where_the_source_line_changes() -> None:
    def first(x):
        return jnp.sin(jnp.cos(jnp.tan(x)))

    def second(x):
        return jnp.exp(jnp.log(x))

    graph = trace(lambda x: second(first(x)))(x)
    found = split_long(parts(graph), 3)
    assert [len(p.nodes) for p in found] == [3, 2]
    assert all(p.kind == "chunk" for p in found)
    assert "test_fold.py" in found[0].name
    assert "first" in found[0].name


def test_one_endless_line_is_cut_into_even_pieces() -> None:
    def fn(x):
        for _ in range(400):
            x = jnp.sin(x)
        return x

    found = parts(trace(fn)(x))
    cut = split_long(found, 30)
    assert 2 <= len(cut) <= 30
    assert covered(cut) == covered(found)
    sizes = [len(p.nodes) for p in cut]
    assert max(sizes) - min(sizes[:-1]) <= 1


def test_a_short_list_is_left_as_it_is() -> None:
    found = parts(trace(lambda x: jnp.sin(x) + 1.0)(x))
    assert split_long(found, 2) is found
