"""Records: what a rewrite, a step and a report say."""

from __future__ import annotations

import json

import jax.numpy as jnp
import pytest

from helpers import array, conv
from jaxpress import passes
from jaxpress.capture import Graph, trace
from jaxpress.passes import Pipeline, Report, Rule, any_value, op, record

W = array(3, 3, 4, 8)
X = array(1, 8, 8, 4)


def fn(x):
    return jnp.maximum(conv(x, W) * 2.0 + 1.0, 0)


@pytest.fixture(scope="module")
def report() -> Report:
    return passes.inference.run(trace(fn)(X))[1]


def test_a_rewrite_reads_as_a_sentence(report) -> None:
    texts = [str(r) for r in report.rewrites]
    assert any(t.startswith("raise_conv: conv_general_dilated -> conv") for t in texts)
    assert any("fold_scale: mul, conv -> " in t and "test_record.py" in t for t in texts)


def test_a_rewrite_that_leaves_nothing() -> None:
    rule = Rule(
        "gone", op("neg", op("neg", any_value("x"))), lambda x: x, note="neg is its inverse"
    )
    (entry,) = Pipeline([rule]).run(trace(lambda x: jnp.negative(-x))(X))[1].rewrites
    assert str(entry).startswith("gone: neg, neg -> nothing") and entry.note == "neg is its inverse"


def test_every_rewrite_says_what_it_does_to_numerics(report) -> None:
    kinds = {r.rule: r.numerics for r in report.rewrites}
    assert kinds["raise_conv"] == kinds["fuse_activation"] == "exact"
    assert kinds["fold_scale"] == kinds["fold_shift"] == "reassociates"


def test_origins_lead_back_to_the_captured_nodes(report) -> None:
    (node,) = report.after.find("conv")
    seen, stack = set(), [node]
    while stack:
        n = stack.pop()
        if n not in seen:
            seen.add(n)
            stack.extend(n.origin)
    # A node whose operands were exchanged is another one, with the same results.
    captured = {n.op for n in map(report.before.producer, (n.outputs[0] for n in seen)) if n}
    assert captured == {"conv_general_dilated", "mul", "add", "max"}


def test_steps_count_matches_nodes_and_flops(report) -> None:
    by_name = {s.pass_name: s for s in report.steps}
    fold = by_name["fold_batch_norm"]
    assert fold.matches() == {"fold_scale": 1, "fold_shift": 1}
    assert fold.flops_after < fold.flops_before
    assert by_name["inline"].matches() == {}
    assert all(s.seconds >= 0 for s in report.steps)
    assert report.seconds == pytest.approx(sum(s.seconds for s in report.steps))


def test_the_report_prints_a_table(report) -> None:
    text = str(report)
    lines = text.split("\n")
    assert lines[0].startswith("fn: ") and f"{len(report.rewrites)} rewrites" in lines[0]
    assert len(lines) == 2 + len(report.steps)
    assert "fold_scale 1" in text


def test_the_report_is_plain_data(report) -> None:
    data = json.loads(json.dumps(report.to_dict()))
    assert data["function"] == "fn" and data["ops_after"]["conv"] == 1
    assert data["nodes_before"] == len(report.before.nodes)
    assert data["nodes_after"] == len(report.after.nodes)
    assert [s["pass"] for s in data["steps"]] == [s.pass_name for s in report.steps]
    assert data["steps"][5]["rules"] == report.steps[5].matches()


def test_each_graph_is_counted_once(report, monkeypatch: pytest.MonkeyPatch) -> None:
    counted: list[Graph] = []
    cost = Graph.cost
    monkeypatch.setattr(Graph, "cost", lambda graph: counted.append(graph) or cost(graph))
    record._counted.clear()
    str(report), report.to_dict()
    assert len(counted) == len(set(counted)) <= 1 + len(report.steps)


def test_an_empty_report() -> None:
    empty = Report(trace(fn)(X))
    assert empty.after is empty.before and "0 rewrites" in str(empty)
    assert empty.to_dict()["steps"] == []
