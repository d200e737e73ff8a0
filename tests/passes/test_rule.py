"""Rules: guards, replacements, numerics, ``why_not``, and sets of rules."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from helpers import array, assert_refuses, rewritten
from jaxpress import nnops, passes
from jaxpress.capture import PassError, trace
from jaxpress.capture.edit import Editor
from jaxpress.passes import Match, Rule, RuleSet, any_value, op, repeated, rewrite, scalar
from jaxpress.testing import assert_rewrites, check_rule

X, Y = array(2, 3), array(2, 3, seed=1)

DOUBLE_NEGATION = Rule("double_negation", op("neg", op("neg", any_value("x"))), lambda x: x)
SINE = Rule(
    "sine", op("sin", any_value("x")), lambda x: jnp.cos(x - jnp.pi / 2), numerics="approximate"
)


def negate_twice(x):
    return -lax.neg(x)


def test_it_replaces_what_matches() -> None:
    new = assert_rewrites(DOUBLE_NEGATION, lambda x: negate_twice(x) * 2, X, times=1)
    assert new.count() == {"mul": 1}
    check_rule(DOUBLE_NEGATION)


def test_the_graph_that_it_starts_from_stays() -> None:
    graph = trace(negate_twice)(X)
    before = str(graph)
    new = rewrite(graph, DOUBLE_NEGATION)
    assert str(graph) == before and graph.count() == {"neg": 2}
    assert new is not graph and new.outputs == new.inputs


def test_nothing_to_do_gives_the_same_graph() -> None:
    graph = trace(jnp.sin)(X)
    assert rewrite(graph, DOUBLE_NEGATION) is graph


def test_parameters_are_captured_names_in_any_order() -> None:
    rule = Rule("swap", op("sub", any_value("a"), any_value("b")), lambda b, a: -(b - a))
    graph = trace(lambda x, y: x - y)(X, Y)
    match = rule.match(graph.edit(), graph.nodes[0])
    assert match["a"] is graph.inputs[0] and match["b"] is graph.inputs[1]
    assert match.get("c") is None


def test_a_replacement_may_take_all_names() -> None:
    def replacement(**values):
        assert set(values) == {"x", "y"}
        return lax.add(values["x"], values["y"]) * 1.5

    rule = Rule("all", op("atan2", any_value("x"), any_value("y")), replacement)
    new, _ = rewritten(rule, lambda x, y: lax.atan2(x, y), X, Y)
    np.testing.assert_allclose(new(X, Y), (X + Y) * 1.5)


def test_captured_scalars_come_as_numbers() -> None:
    seen = []

    def replacement(x, c):
        seen.append(c)
        return x + x if c == 2 else x * c

    rule = Rule(
        "double", op("mul", any_value("x"), scalar(name="c")), replacement,
        lambda m: None if m["c"].val == 2 else "c is not 2",
    )  # fmt: skip
    assert rewritten(rule, lambda x: x * 2.0, X)[0].count() == {"add": 1}
    assert_refuses(rule, lambda x: x * 3.0, X, because="c is not 2")
    assert all(np.shape(c) == () for c in seen)


def test_two_scalars_of_one_shape_are_told_apart() -> None:
    rule = Rule(
        "log", op("pow", any_value("x"), scalar(name="c")), lambda x, c: jnp.exp(jnp.log(x) * c)
    )
    x = abs(X) + 1
    new, rules = rewritten(rule, lambda x: x**2.5 + x**3.5, x)
    assert rules == ["log", "log"]
    np.testing.assert_allclose(new(x), x**2.5 + x**3.5, rtol=1e-5)


def test_the_match_gives_parameters_of_nodes() -> None:
    def replacement(x, *, match):
        axes = match.nodes["inner"].params["axes"]
        return lax.reshape(jnp.sum(x, axes), match.root.output.shape)

    pattern = op("broadcast_in_dim", op("reduce_sum", any_value("x"), name="inner"))
    rule = Rule("keepdims", pattern, replacement)
    for axis in (0, 1):
        new, rules = rewritten(rule, lambda x, axis=axis: jnp.sum(x, axis, keepdims=True), X)
        assert rules == ["keepdims"]
        np.testing.assert_allclose(new(X), jnp.sum(X, axis, keepdims=True), rtol=1e-6)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_replacements_keep_weak_types_and_dtypes(dtype) -> None:
    graph, _ = rewritten(SINE, lambda x: lax.sin(x), X.astype(dtype))
    assert graph.outputs[0].dtype == dtype
    new, _ = rewritten(SINE, lambda x: lax.sin(x) * 2, 1.0)
    assert new.to_jaxpr().out_avals == trace(lambda x: lax.sin(x) * 2)(1.0).to_jaxpr().out_avals


def test_a_replacement_of_another_type_is_refused_loudly() -> None:
    rule = Rule("narrow", op("sin", any_value("x")), lambda x: jnp.sum(x))
    with pytest.raises(PassError, match=r"'narrow'.*sin.*test_rule.py.*keep shapes and dtypes"):
        rewrite(trace(lambda x: jnp.sin(x))(X), rule)


def test_a_replacement_that_raises_is_named_with_the_line() -> None:
    rule = Rule("typo", op("sin", any_value("x")), lambda x: x.nonesuch)
    with pytest.raises(PassError, match=r"'typo'.*sin.*test_rule.py.*nonesuch") as error:
        rewrite(trace(lambda x: jnp.sin(x))(X), rule)
    assert isinstance(error.value.__cause__, AttributeError)


def test_an_inner_value_with_another_user_is_not_swallowed() -> None:
    def second_user(x):
        y = lax.neg(x)
        return lax.neg(y), jnp.sin(y)

    def output(x):
        y = lax.neg(x)
        return lax.neg(y), y

    assert_refuses(DOUBLE_NEGATION, second_user, X, because="is used by sin as well")
    assert_refuses(DOUBLE_NEGATION, output, X, because="is used by an output as well")
    shared = Rule("shared", DOUBLE_NEGATION.pattern, lambda x: x, shared=True)
    for fn in (second_user, output):
        assert_rewrites(shared, fn, X, times=1)


def test_a_value_used_twice_inside_the_match_is_private() -> None:
    square = Rule(
        "square",
        op("mul", op("sin", any_value("x")), op("sin", any_value("x"))),
        lambda x: jnp.sin(x) ** 2,
    )

    def fn(x):
        y = lax.sin(x)
        return y * y

    assert rewritten(square, fn, X)[1] == ["square"]


def test_what_is_known_may_be_computed_again() -> None:
    w = X

    def fn(x):
        y = lax.neg(w)
        return x + lax.neg(y), x * y

    assert rewritten(DOUBLE_NEGATION, fn, X)[1] == ["double_negation"]


def test_provenance_is_kept() -> None:
    def fn(x):
        with jax.named_scope("here"):
            return jnp.sin(x)

    graph = trace(fn)(X)
    record = []
    new = rewrite(graph, SINE, record=record)
    assert {n.scope for n in new.nodes} == {"here"}
    assert all(n.source.function.endswith("<locals>.fn") for n in new.nodes)
    assert all(n.origin == (graph.nodes[0],) for n in new.nodes)
    (entry,) = record
    assert entry.before == (graph.nodes[0],) and set(entry.after) == set(new.nodes)
    assert (entry.rule, entry.numerics) == ("sine", "approximate")


def test_why_not_names_the_condition_and_the_line() -> None:
    graph = trace(lambda x: lax.neg(jnp.sin(x)))(X)
    neg, sin = graph.find("neg")[0], graph.find("sin")[0]
    reason = DOUBLE_NEGATION.why_not(graph, neg)
    assert reason and "sin" in str(reason) and "not from neg" in str(reason)
    assert "test_rule.py" in str(reason) and reason.at is sin
    assert "it starts at neg, not at sin" in str(DOUBLE_NEGATION.why_not(graph, sin))


def test_why_not_is_false_where_the_rule_applies() -> None:
    graph = trace(negate_twice)(X)
    reason = DOUBLE_NEGATION.why_not(graph, graph.nodes[-1])
    assert not reason and "applies" in str(reason)


def test_why_not_looks_into_bodies_and_refuses_strangers() -> None:
    graph = trace(lambda x: lax.fori_loop(0, 2, lambda _, y: lax.neg(lax.sin(y)), x))(X)
    (inner,) = graph.find("neg")
    assert "not from neg" in str(DOUBLE_NEGATION.why_not(graph, inner))
    stranger = trace(negate_twice)(X).nodes[0]
    with pytest.raises(PassError, match="is not in the graph"):
        DOUBLE_NEGATION.why_not(graph, stranger)


def test_unknown_numerics_are_refused() -> None:
    with pytest.raises(PassError, match="'nearly'"):
        Rule("bad", op("neg"), lambda: 0, numerics="nearly")


def test_rule_sets_join_and_leave_out() -> None:
    rules = DOUBLE_NEGATION + SINE
    assert [r.name for r in rules] == ["double_negation", "sine"] and len(rules) == 2
    assert [r.name for r in rules + DOUBLE_NEGATION] == ["double_negation", "sine"]
    assert [r.name for r in rules.without("sine")] == ["double_negation"]
    assert len(RuleSet() + rules) == 2
    with pytest.raises(PassError, match=r"'tangent'.*double_negation"):
        rules.without("tangent")


def test_rule_sets_are_indexed_by_op_with_large_patterns_first() -> None:
    small = Rule("small", op("neg", any_value("x")), lambda x: 0 - x)
    rules = small + DOUBLE_NEGATION
    assert [r.name for r in rules.at("neg")] == ["double_negation", "small"]
    assert rules.at("tan") == []
    assert rewritten(rules, negate_twice, X)[1][0] == "double_negation"


def test_replacements_are_traced_once_per_operand_types() -> None:
    traced = []

    def replacement(x):
        traced.append(x.shape)
        return jnp.cos(x)

    rule = Rule("count", op("sin", any_value("x")), replacement)

    def fn(x, y):
        for _ in range(5):
            x, y = lax.sin(x), lax.sin(y)
        return x, y

    assert len(rewritten(rule, fn, X, X[0])[1]) == 10
    assert sorted(traced) == [(2, 3), (3,)]


def test_replacements_may_close_over_arrays() -> None:
    table = np.float32([1, 2, 3])
    rule = Rule("table", op("sin", any_value("x")), lambda x: x * table)
    new, _ = rewritten(rule, lambda x: lax.sin(x) + lax.sin(x + 1), X)
    np.testing.assert_allclose(new(X), X * table + (X + 1) * table, rtol=1e-6)
    np.testing.assert_allclose(jax.jit(jax.vmap(new))(X[None])[0], new(X), rtol=1e-6)


def test_repeated_operands_come_as_a_list() -> None:
    rule = Rule(
        "swap",
        op("concatenate", repeated(op("neg", any_value("parts")))),
        lambda parts, *, match: -jnp.concatenate(parts, match.root.params["dimension"]),
    )
    for n in (2, 3):  # two traces: the number of parts is a part of the key
        x = [X + i for i in range(n)]
        new, rules = rewritten(rule, lambda *x: lax.concatenate([lax.neg(y) for y in x], 0), *x)
        assert rules == ["swap"] and new.count() == {"concatenate": 1, "neg": 1}
        np.testing.assert_array_equal(new(*x), -jnp.concatenate(x))
    graph = trace(lambda x, y: lax.concatenate([lax.neg(x), lax.neg(y)], 0))(X, Y)
    match = rule.match(Editor(graph), graph.nodes[-1])
    assert list(match.operands()) == list(graph.inputs) and match.makers() == [match.root]


def test_an_operation_with_an_effect_is_not_replaced() -> None:
    rule = Rule("read", op("get", any_value("r")), lambda r: jnp.zeros((2, 3)))

    def fn(x):
        return jax.new_ref(x)[...] + 1

    assert_refuses(rule, fn, X, because="has an effect")


def test_what_is_no_pattern_is_refused() -> None:
    with pytest.raises(PassError, match=r"'r'.*is no pattern"):
        Rule("r", "sin", lambda x: x)


@pytest.mark.parametrize("shared", [False, True])
def test_a_node_with_results_for_a_derivative_is_left(shared) -> None:
    """Wherever it stands in a match, and however that is found."""
    norm = op("layer_norm", any_value("x"), name="norm")

    class Programmed:
        names, size = frozenset({"neg"}), 2

        def find(self, state, node):
            made = state.view.producer(node.inputs[0])
            if made is None or made.op != "layer_norm":
                return None
            return Match(state.view, node, {"x": made.inputs[0]}, matched=(made,))

    def again(x):
        return lax.neg(nnops.layer_norm(x))

    rules = [
        Rule("root", norm, lambda x: nnops.layer_norm(x), shared=shared),
        Rule("inner", op("neg", norm), again, shared=shared),
        Rule("programmed", Programmed(), again, shared=shared),
    ]
    graph = trace(jax.grad(lambda x: jnp.sum(jnp.sin(lax.neg(nnops.layer_norm(x))))))(X)
    assert "keeps" in graph.find("layer_norm")[0].params
    for rule in rules:
        assert rewrite(graph, rule) is graph
        assert "further results" in str(rule.why_not(graph))


def test_what_is_no_rule_and_no_graph_is_refused() -> None:
    graph = trace(jnp.sin)(1.0)
    for make, said in (
        (lambda: rewrite(graph, [3]), "3 is no Rule"),
        (lambda: rewrite(jnp.sin, []), "rewrite takes a Graph"),
        (lambda: Rule("r", op("sin", any_value("x")), jnp.cos).why_not(jnp.sin), "takes a Graph"),
        (
            lambda: rewrite(graph, Rule("r", op("sin", any_value("x")), lambda y, z=1: y)),
            "its replacement takes y, and its pattern captures x",
        ),
        (lambda: check_rule(3), "check_rule takes a Rule"),
        (lambda: passes.dce(jnp.sin), "pass 'dce' takes a Graph"),
        (lambda: passes.default.run(3), "pass 'inline' takes a Graph, got 3"),
    ):
        with pytest.raises(PassError, match=said):
            make()
