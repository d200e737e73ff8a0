import json

import jax
import jax.numpy as jnp
import pytest
from drawings import NASTY, scope_safe

import jaxpress as jp
from jaxpress.capture import Graph, trace
from jaxpress.viz.json_out import VERSION, graph_document, json_text, report_document

x = jnp.ones((2, 3))


def test_the_layout_of_a_document() -> None:
    def fn(params, x):
        with jax.named_scope("layer"):
            return x @ params["w"] * 2.0

    document = graph_document(trace(fn)({"w": jnp.ones((3, 4))}, x))
    assert (document["schema"], document["version"]) == ("jaxpress.graph", VERSION)
    (graph,) = document["graphs"]
    source = graph["nodes"][0]["source"]
    assert source["file"].endswith("test_json_out.py")
    assert source["function"].endswith("fn")
    for node in graph["nodes"]:
        del node["source"], node["params"]
    assert graph == {
        "id": "g0",
        "name": "fn",
        "prologue": None,
        "inputs": ["g0.v0", "g0.v1"],
        "outputs": ["g0.v4"],
        "constants": [],
        "values": [
            value("g0.v0", "params['w']", "input", [3, 4]),
            value("g0.v1", "x", "input", [2, 3]),
            value("g0.v2", "dot_general_0", "result", [2, 4]),
            {**value("g0.v3", "2.0", "literal", []), "value": "2.0"},
            value("g0.v4", "mul_1", "result", [2, 4]),
        ],
        "nodes": [
            {
                "id": "g0.n0",
                "op": "dot_general",
                "scope": "layer",
                "inputs": ["g0.v1", "g0.v0"],
                "outputs": ["g0.v2"],
                "subgraphs": [],
            },
            {
                "id": "g0.n1",
                "op": "mul",
                "scope": "layer",
                "inputs": ["g0.v2", "g0.v3"],
                "outputs": ["g0.v4"],
                "subgraphs": [],
            },
        ],
        "edges": [
            {"source": None, "target": "g0.n0", "value": "g0.v1"},
            {"source": None, "target": "g0.n0", "value": "g0.v0"},
            {"source": "g0.n0", "target": "g0.n1", "value": "g0.v2"},
            {"source": "g0.n1", "target": None, "value": "g0.v4"},
        ],
        "scopes": [{"name": "layer", "nodes": ["g0.n0", "g0.n1"]}],
    }


def value(value_id: str, name: str, kind: str, shape: list) -> dict:
    return {"id": value_id, "name": name, "kind": kind, "shape": shape, "dtype": "float32"}


def check(document: dict) -> None:
    """Every id that is named exists, and is there once."""
    graphs = {g["id"] for g in document["graphs"]}
    assert len(graphs) == len(document["graphs"])
    for graph in document["graphs"]:
        values = [v["id"] for v in graph["values"]]
        nodes = [n["id"] for n in graph["nodes"]]
        assert len(set(values)) == len(values)
        assert len(set(nodes)) == len(nodes)
        named = {*graph["inputs"], *graph["outputs"], *graph["constants"]}
        for node in graph["nodes"]:
            named |= {*node["inputs"], *node["outputs"]}
            assert {s["graph"] for s in node["subgraphs"]} <= graphs
        assert named <= set(values)
        assert all(e["source"] in (None, *nodes) for e in graph["edges"])
        assert all(e["target"] in (None, *nodes) for e in graph["edges"])
        assert {n for s in graph["scopes"] for n in s["nodes"]} <= set(nodes)
        assert graph["prologue"] is None or graph["prologue"] in graphs


def test_documents_hang_together(mlp: Graph, rnn: Graph, stack: Graph) -> None:
    for graph in (mlp, rnn, stack):
        check(graph_document(graph))


def test_all_of_a_graph_is_there(stack: Graph) -> None:
    (graph,) = graph_document(stack)["graphs"]
    assert len(graph["nodes"]) == len(stack.nodes)
    assert len(graph["scopes"]) == 60


def test_a_shared_body_is_written_once() -> None:
    fn = jax.jit(jnp.sin)
    for _ in range(40):
        fn = jax.jit(lambda x, inner=fn: inner(inner(x)))
    document = graph_document(trace(fn)(x))
    check(document)
    assert len(document["graphs"]) == 42


def test_bodies_say_what_they_are_to_their_node() -> None:
    graph = trace(lambda x: jax.lax.cond(x.sum() > 0, jnp.sin, jnp.cos, x))(x)
    document = graph_document(graph)
    (cond,) = (n for n in document["graphs"][0]["nodes"] if n["op"] == "cond")
    assert [s["name"] for s in cond["subgraphs"]] == ["branches[0]", "branches[1]"]


def test_the_text_is_the_same_each_time_and_strict_json() -> None:
    def fn(x):
        return jax.nn.relu(x) * jnp.inf + jnp.float32("nan")

    text = json_text(trace(fn)(x))
    assert text == json_text(trace(fn)(x))
    assert "0x" not in text

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    json.loads(text, parse_constant=refuse)


def test_symbolic_sizes_keys_and_tokens_are_text() -> None:
    rows = jax.ShapeDtypeStruct(jax.export.symbolic_shape("batch, 3"), jnp.float32)
    (graph,) = graph_document(trace(lambda k, x: (k, x))(jax.random.key(0), rows))["graphs"]
    assert [v["shape"] for v in graph["values"]] == [[], ["batch", 3]]
    assert graph["values"][0]["dtype"] == "key<fry>"


@pytest.mark.parametrize("name", NASTY)
def test_names_come_back_as_they_were(name: str) -> None:
    def fn(d):
        with jax.named_scope(scope_safe(name)):
            return jnp.sin(d[name])

    (graph,) = json.loads(json_text(trace(fn)({name: x})))["graphs"]
    assert graph["nodes"][0]["scope"] == scope_safe(name)
    assert graph["values"][0]["name"] == f"d[{name!r}]"


def test_a_report_has_both_graphs_and_what_was_done() -> None:
    w, b = jnp.ones((3, 3)), jnp.ones(3)
    layer = lambda x: jax.nn.relu(x @ w + b)  # noqa: E731
    report = jp.optimize(lambda x: layer(layer(x))).report(x)
    document = report_document(report)
    assert (document["schema"], document["version"]) == ("jaxpress.report", VERSION)
    check(document["before"])
    check(document["after"])
    assert document["before"] == graph_document(report.before)
    assert [s["pass"] for s in document["steps"]] == [s.pass_name for s in report.steps]
    rewrites = [r for s in document["steps"] for r in s["rewrites"]]
    assert len(rewrites) == len(report.rewrites)
    nodes = {n["id"]: n["op"] for g in document["after"]["graphs"] for n in g["nodes"]}
    made = {i for r in rewrites for i in r["nodes"]}
    assert [nodes[i] for i in made].count("dense") == len(report.after.find("dense")) == 2
    assert json.loads(json_text(report)) == document


def test_a_prologue_is_a_graph_of_its_own() -> None:
    w, s = jnp.ones((3, 4)), jnp.ones(4)
    fast = jp.optimize(lambda x: x @ (w * s), passes="inference")
    graph = fast.graph(x)
    assert graph.prologue is not None
    document = graph_document(graph)
    check(document)
    first = document["graphs"][0]
    assert first["prologue"] in {g["id"] for g in document["graphs"][1:]}
    prepared = {v["id"] for v in first["values"] if v["kind"] == "prepared"}
    assert any(prepared & set(n["inputs"]) for n in first["nodes"])
