"""Passes and pipelines: names, slices, sums, what is left out, checks, errors that say where."""

from __future__ import annotations

import gc

import jax
import jax.numpy as jnp
import pytest
from jax import lax

from helpers import array
from jaxpress import passes
from jaxpress.capture import Graph, PassError, trace
from jaxpress.optimize import optimize
from jaxpress.passes import Pass, Pipeline, Rule, RuleSet, any_value, op
from jaxpress.passes.record import Budget

X = array(2, 3)
TANH = Rule("tanh", op("sin", any_value("x")), lambda x: jnp.tanh(x))
NEG_NEG = Rule("neg_neg", op("neg", op("neg", any_value("x"))), lambda x: x)


def names(pipeline):
    return [p.name for p in pipeline]


def fn(x):
    return lax.neg(lax.neg(jnp.sin(x)))


def test_a_pass_of_a_rule_of_rules_and_of_a_function() -> None:
    graph = trace(fn)(X)
    record = []
    assert Pass("one", TANH)(graph, record).count()["tanh"] == 1
    assert Pass("two", TANH + NEG_NEG)(graph).count() == {"tanh": 1}
    assert Pass("three", lambda g: g)(graph) is graph
    assert [(r.rule, r.pass_name) for r in record] == [("tanh", "one")]


def test_a_function_may_take_the_record() -> None:
    def work(graph, record=None):
        record.append("seen")
        return graph

    _, report = Pipeline([work]).run(trace(fn)(X))
    assert report.rewrites == ["seen"]


def test_a_pass_says_what_it_does() -> None:
    def work(graph):
        """Do nothing.

        At length.
        """
        return graph

    assert Pass("idle", work).summary == "Do nothing."
    assert Pass("idle", work, "Rest.").summary == "Rest."
    assert "idle" in repr(Pass("idle", work))
    for p in (*passes.default, *passes.inference):
        assert p.summary and p.name


def test_what_is_no_work_is_refused() -> None:
    with pytest.raises(PassError, match=r"'bad'.*3"):
        Pass("bad", 3)


def test_rules_may_be_made_for_a_graph() -> None:
    seen = []

    def make(ops):
        seen.append(ops)
        return RuleSet((TANH,))

    p = Pass("lazy", make, makes_rules=True)
    assert p(trace(fn)(X)).count()["tanh"] == 1
    assert seen == [{"sin": 1, "neg": 2}]
    assert [r.name for r in p.rules] == ["tanh"] and seen[1] is None


def test_rules_of_a_pass_can_be_switched_off() -> None:
    p = Pass("both", TANH + NEG_NEG).without("neg_neg")
    assert p(trace(fn)(X)).count() == {"tanh": 1, "neg": 2} and p.name == "both"
    with pytest.raises(PassError, match="'cosine'"):
        p.without("cosine")


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ([passes.inline, TANH], ["inline", "tanh"]),
        (["inline", "dce"], ["inline", "dce"]),
        (["cleanup", TANH + NEG_NEG], ["inline", "simplify", "cse", "dce", "rewrite"]),
        ([passes.cleanup, fn], ["inline", "simplify", "cse", "dce", "fn"]),
        ([], []),
    ],
)
def test_pipelines_take_all_kinds_of_passes(given, expected) -> None:
    assert names(Pipeline(given)) == expected


@pytest.mark.parametrize("given", [["nonesuch"], [3], [None]])
def test_unknown_passes_are_refused(given) -> None:
    with pytest.raises(PassError):
        Pipeline(given)


def test_slices_indices_and_names() -> None:
    p = passes.default
    assert names(p[:3]) == ["inline", "simplify", "cse"] and isinstance(p[:3], Pipeline)
    assert p[0] is passes.inline and p[-1] is passes.fold_constants
    assert p["raise_ops"] is passes.raise_ops
    assert len(p[2:]) == len(p) - 2 and list(p) == list(p.passes)
    with pytest.raises(PassError, match=r"'nonesuch'.*'inline'"):
        p["nonesuch"]


@pytest.mark.parametrize(
    "other", [TANH, TANH + NEG_NEG, "dce", passes.dce, [passes.dce], passes.cleanup, fn]
)
def test_sums_from_either_side(other) -> None:
    added = names(Pipeline(other if isinstance(other, list | Pipeline) else [other]))
    base = Pipeline(["inline"])
    assert names(base + other) == ["inline", *added]
    assert names(base.__radd__(other)) == [*added, "inline"]
    assert names(base) == ["inline"]


def test_a_list_on_the_left() -> None:
    first = [TANH, "dce"]
    assert names(first + Pipeline(["inline"])) == ["tanh", "dce", "inline"]


def test_without_takes_passes_and_rules() -> None:
    p = passes.default.without("select_kernels", "cse")
    assert "cse" not in names(p) and "select_kernels" not in names(p)
    q = passes.default.without("raise_silu", "fuse_bias")
    assert names(q) == names(passes.default)
    assert "raise_silu" not in {r.name for r in q["raise_ops"].rules}
    assert "raise_relu" in {r.name for r in q["raise_ops"].rules}
    with pytest.raises(PassError, match=r"'nonesuch'.*passes are"):
        p.without("nonesuch")
    with pytest.raises(PassError, match="'cse'"):
        p.without("cse")


def test_a_rule_in_several_passes_is_left_out_of_all() -> None:
    p = Pipeline([Pass("a", TANH + NEG_NEG), Pass("b", TANH + NEG_NEG)]).without("tanh")
    assert all([r.name for r in q.rules] == ["neg_neg"] for q in p)


def test_replaced() -> None:
    p = Pipeline(["inline", "dce"]).replaced("dce", Pass("dce", lambda g: g))
    assert names(p) == ["inline", "dce"] and p["dce"] is not passes.dce


def test_a_run_reports_each_step_and_leaves_the_graph() -> None:
    graph = trace(fn)(X)
    steps = []
    new, report = Pipeline([TANH, NEG_NEG, "dce"]).run(graph, on_step=steps.append)
    assert steps == report.steps and [s.pass_name for s in steps] == ["tanh", "neg_neg", "dce"]
    assert report.before is graph and report.after is new is steps[-1].graph
    assert [len(s.rewrites) for s in steps] == [1, 1, 0]
    assert [(s.nodes_before, s.nodes_after) for s in steps] == [(3, 3), (3, 1), (1, 1)]
    assert steps[0].graph is steps[1].graph_before
    assert graph.count() == {"sin": 1, "neg": 2}
    assert Pipeline([TANH])(graph).count()["tanh"] == 1


def test_an_empty_pipeline() -> None:
    graph = trace(fn)(X)
    new, report = Pipeline().run(graph, check=True)
    assert new is graph and report.after is graph and report.rewrites == []


def test_what_is_no_graph_is_refused() -> None:
    def broken(graph):
        return None

    with pytest.raises(PassError, match="'broken' gave NoneType"):
        Pipeline([broken])(trace(fn)(X))


def test_a_pass_that_fails_is_named() -> None:
    def failing(graph):
        raise KeyError("lost")

    with pytest.raises(PassError, match=r"'failing' failed.*lost") as error:
        Pipeline(["inline", failing])(trace(fn)(X))
    assert isinstance(error.value.__cause__, KeyError)


def test_a_check_finds_a_broken_graph_and_names_pass_node_and_line() -> None:
    def breaking(graph: Graph) -> Graph:
        return graph.with_parts(nodes=graph.nodes[1:])

    graph = trace(fn)(X)
    with pytest.raises(PassError, match=r"'breaking' broke the graph.*used before") as error:
        Pipeline([breaking]).run(graph, check=True)
    assert "neg" in str(error.value) and "test_pipeline.py" in str(error.value)


def test_the_collector_runs_again_afterwards() -> None:
    def failing(graph):
        assert not gc.isenabled()
        raise ValueError

    assert gc.isenabled()
    with pytest.raises(PassError):
        Pipeline([failing])(trace(fn)(X))
    assert gc.isenabled()
    Pipeline([TANH])(trace(fn)(X))
    assert gc.isenabled()
    gc.disable()
    try:
        Pipeline([TANH])(trace(fn)(X))
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_passes_may_say_what_they_come_after_and_before() -> None:
    first, last = Pass("first", TANH), Pass("last", NEG_NEG, after="first", before=("end",))
    end = Pass("end", TANH)
    assert names(Pipeline([first, last, end])) == ["first", "last", "end"]
    assert names(Pipeline([last])) == ["last"]  # what is not there asks for nothing
    assert names(Pipeline([first, last, first])) == ["first", "last", "first"]
    with pytest.raises(PassError, match=r"'last' must come after 'first'.*\['last', 'first'\]"):
        Pipeline([last, first])
    with pytest.raises(PassError, match=r"'last' must come before 'end'"):
        Pipeline([end, last])
    with pytest.raises(PassError, match="must come after"):
        Pipeline([last]) + first
    kept = Pass("some", TANH + NEG_NEG, after="first").without("tanh")
    assert kept.after == ("first",)


def test_presets_are_plain_values() -> None:
    for preset in (passes.cleanup, passes.default, passes.inference, passes.training):
        assert isinstance(preset, Pipeline) and names(preset)
        assert names(passes.pipeline_of(preset.name)) == names(preset)
        assert names(preset[1:] + preset[:1]) == [*names(preset)[1:], names(preset)[0]]
    assert "fold_batch_norm" not in names(passes.training)
    assert "raise_clips" not in names(passes.training)
    with pytest.raises(PassError, match="'fuse_activation' must come after 'raise_ops'"):
        Pipeline([passes.fuse_activation, passes.raise_ops])


def test_only_and_inserted() -> None:
    p = passes.default.only("dce", "inline", "cse")
    assert names(p) == ["inline", "cse", "cse", "cse", "dce"]
    with pytest.raises(PassError, match="nonesuch"):
        p.only("nonesuch")
    assert names(p.inserted(TANH, after="cse")) == ["inline", "cse", "cse", "cse", "tanh", "dce"]
    assert names(p.inserted([TANH, NEG_NEG], before="cse"))[1:3] == ["tanh", "neg_neg"]
    for given in ({}, {"after": "cse", "before": "dce"}, {"after": "nonesuch"}):
        with pytest.raises(PassError):
            p.inserted(TANH, **given)


def test_a_budget_counts_rules_and_whole_passes() -> None:
    graph = trace(lambda x: (fn(x), fn(x)))(X)
    everything = Budget()
    Pipeline([NEG_NEG, "cse", TANH]).run(graph, budget=everything)
    assert everything.used == 4  # two double negations, one cse, one sin
    for n, expected in enumerate([{"sin": 2, "neg": 4}, {"sin": 2, "neg": 2}, {"sin": 2},
                                  {"sin": 1}, {"tanh": 1}]):  # fmt: skip
        new, _ = Pipeline([NEG_NEG, "cse", TANH]).run(graph, budget=Budget(n))
        assert new.count() == expected


@pytest.mark.parametrize("preset", ["default", "inference", "training"])
def test_a_rule_that_is_switched_off_is_really_off(preset) -> None:
    def model(x):
        return jax.nn.silu(x @ jnp.ones((3, 4)) + jnp.ones(4))

    rules = {"raise_silu", "raise_dense", "fuse_activation"}
    everything = passes.pipeline_of(preset)
    fast = optimize(model, passes=everything)
    assert rules <= {r.rule for r in fast.report(X).rewrites}
    for name in rules:
        fast = optimize(model, passes=everything.without(name))
        assert name not in {r.rule for r in fast.report(X).rewrites}
    assert not optimize(model, passes=everything.without("raise_silu")).graph(X).find("silu")
