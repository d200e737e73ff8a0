import json
import os
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from drawings import NASTY, scope_safe

import jaxpress as jp
from jaxpress.capture import Graph, trace
from jaxpress.passes.record import Report
from jaxpress.viz import render
from jaxpress.viz.errors import (
    NotRenderable,
    OptionError,
    OutputError,
    RendererNotFound,
    UnknownFormat,
)
from jaxpress.viz.render import SUFFIXES

STARTS = {
    ".svg": b"<?xml",
    ".png": b"\x89PNG",
    ".pdf": b"%PDF",
    ".dot": b"digraph",
    ".gv": b"digraph",
    ".html": b"<!DOCTYPE html>",
    ".json": b"{",
}


@pytest.fixture
def report() -> Report:
    w, b = jnp.ones((3, 4)), jnp.ones(4)

    def model(x):
        return jax.nn.relu(x @ w + b)

    return jp.optimize(model).report(jnp.ones((2, 3)))


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_the_suffix_chooses_the_format(mlp: Graph, tmp_path, suffix: str) -> None:
    path = tmp_path / f"model{suffix}"
    assert render(mlp, path) == path
    assert path.read_bytes().startswith(STARTS[suffix])
    assert os.listdir(tmp_path) == [path.name]


def test_a_path_may_be_text_and_its_suffix_in_capitals(mlp: Graph, tmp_path) -> None:
    path = str(tmp_path / "model.SVG")
    assert render(mlp, path) == Path(path)
    assert Path(path).read_bytes().startswith(b"<?xml")


def test_without_a_path_the_dot_text_comes_back(mlp: Graph, tmp_path) -> None:
    text = render(mlp)
    assert isinstance(text, str)
    assert Path(render(mlp, tmp_path / "m.dot")).read_text(encoding="utf-8") == text


def test_text_formats_are_the_same_each_time(stack: Graph, tmp_path) -> None:
    for suffix in (".dot", ".json", ".html", ".svg"):
        one = Path(render(stack, tmp_path / f"a{suffix}")).read_bytes()
        two = Path(render(stack, tmp_path / f"b{suffix}")).read_bytes()
        assert one == two


@pytest.mark.parametrize("name", ["model", "model.", "model.jpg", ".svg", "archive.svg.gz"])
def test_an_unknown_suffix_lists_the_known_ones(mlp: Graph, tmp_path, name: str) -> None:
    with pytest.raises(UnknownFormat) as caught:
        render(mlp, tmp_path / name)
    assert all(suffix in str(caught.value) for suffix in SUFFIXES)
    assert os.listdir(tmp_path) == []


def test_only_graphs_and_reports_are_drawn(tmp_path) -> None:
    with pytest.raises(NotRenderable, match="function"):
        render(lambda x: x, tmp_path / "a.svg")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "options",
    [
        {"depth": -1},
        {"depth": 1.5},
        {"depth": True},
        {"max_nodes": 0},
        {"max_nodes": "many"},
        {"which": "middle"},
        {"which": "after"},  # of a graph
        {"weights": "params"},
    ],
)
def test_options_that_mean_nothing_are_refused(mlp: Graph, tmp_path, options: dict) -> None:
    with pytest.raises(OptionError):
        render(mlp, tmp_path / "a.dot", **options)
    assert os.listdir(tmp_path) == []


def test_options_reach_the_picture(mlp: Graph, stack: Graph) -> None:
    assert "my title" in render(mlp, title="my title")
    assert render(stack, depth=0).count("tooltip=") < render(stack, depth=3).count("tooltip=")
    assert render(stack, max_nodes=2) != render(stack)
    assert "params" in render(mlp, weights=())
    assert 'bgcolor="#' not in render(mlp, legend=False)


def test_without_an_engine_text_is_written_and_pictures_are_not(
    mlp: Graph, tmp_path, monkeypatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setitem(sys.modules, "pygraphviz", None)
    for suffix in (".svg", ".png", ".pdf", ".html"):
        with pytest.raises(RendererNotFound, match=rf"Writing \{suffix} .*jaxpress\[graphviz\]"):
            render(mlp, tmp_path / f"a{suffix}")
    assert os.listdir(tmp_path) == []
    for suffix in (".dot", ".gv", ".json"):
        assert render(mlp, tmp_path / f"a{suffix}")


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_what_cannot_be_written_is_one_clear_error(mlp: Graph, tmp_path, suffix: str) -> None:
    with pytest.raises(OutputError, match="Cannot write"):
        render(mlp, tmp_path / "missing" / f"a{suffix}")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("name", NASTY)
def test_names_from_user_code_break_no_format(tmp_path, name: str) -> None:
    def fn(d):
        with jax.named_scope(scope_safe(name)):
            return {name: jnp.sin(d[name]) + 1.0}

    fn.__name__ = name
    graph = trace(fn)({name: jnp.ones(3)})
    for suffix in SUFFIXES:
        data = Path(render(graph, tmp_path / f"a{suffix}")).read_bytes()
        assert data.startswith(STARTS[suffix])


def test_of_a_report_a_picture_holds_the_graph_after(report: Report) -> None:
    text = render(report)
    assert "model: after" in text
    assert "dense" in text
    assert "dot_general" not in text
    assert text == render(report, which="after")
    before = render(report, which="before")
    assert "model: before" in before
    assert "dot_general" in before
    both = render(report, which="both")
    assert "dense" in both
    assert "dot_general" in both


def test_of_a_report_a_page_holds_both(report: Report, tmp_path) -> None:
    text = Path(render(report, tmp_path / "r.html")).read_text(encoding="utf-8")
    assert text.count("<svg") == 2
    assert "model: before" in text
    assert "model: after" in text
    only = Path(render(report, tmp_path / "a.html", which="after")).read_text(encoding="utf-8")
    assert only.count("<svg") == 1


def test_of_a_report_json_holds_both(report: Report, tmp_path) -> None:
    document = json.loads(Path(render(report, tmp_path / "r.json")).read_text(encoding="utf-8"))
    assert {"before", "after", "steps"} <= set(document)


def test_what_a_pass_made_is_marked_and_says_which_rules_led_to_it(
    report: Report, tmp_path
) -> None:
    assert "penwidth=1.9" in render(report)
    assert "penwidth=1.9" not in render(report, which="before")
    text = Path(render(report, tmp_path / "r.html")).read_text(encoding="utf-8")
    rules = {r.rule for r in report.rewrites if any(n.op == "dense" for n in r.after)}
    assert len(rules) > 1
    assert all(rule in text for rule in rules)


def test_every_operation_that_a_pass_made_is_marked() -> None:
    def deep(x):
        for _ in range(4):
            x = jax.nn.relu(x @ jnp.ones((3, 3)) + jnp.ones(3))
        return jnp.sin(x)

    report = jp.optimize(deep, passes="inference").report(jnp.ones((2, 3)))
    count = len(report.after.find("dense"))
    assert count == 4
    assert render(report).count("penwidth=1.9") == count


def test_render_of_the_facade_is_this_one(mlp: Graph, tmp_path) -> None:
    assert jp.render(mlp) == render(mlp)
    assert jp.render(mlp, tmp_path / "m.svg", title="t") == tmp_path / "m.svg"
