"""Graphs as networkx multigraphs."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import jax
import jax.numpy as jnp
import networkx as nx
import pytest
from jax import lax
from programs import PROGRAMS, f32, fn_of_depth

from jaxpress import nnops
from jaxpress.capture import Graph, Literal, trace
from jaxpress.capture.to_networkx import to_networkx


@pytest.mark.parametrize("name", PROGRAMS)
def test_nodes_and_edges_are_the_graphs(name: str) -> None:
    fn, args = PROGRAMS[name]()
    graph = trace(fn)(*args)
    out = graph.to_networkx()
    assert isinstance(out, nx.MultiDiGraph)
    assert nx.is_directed_acyclic_graph(out)
    assert all(isinstance(i, str) for i in out)
    kinds = [data["kind"] for _, data in out.nodes(data=True)]
    assert kinds.count("op") == len(graph.nodes)
    assert kinds.count("input") == len(graph.inputs) == len(out.graph["inputs"])
    assert kinds.count("constant") == len(graph.constants)
    assert kinds.count("output") == len(graph.outputs) == len(out.graph["outputs"])
    ends = [v for n in graph.nodes for v in n.inputs] + list(graph.outputs)
    assert out.number_of_edges() == sum(not isinstance(v, Literal) for v in ends)
    # The same trace gives the same ids.
    assert nx.utils.graphs_equal(out, out) and list(out) == list(trace(fn)(*args).to_networkx())
    for user, maker, data in ((b, a, d) for a, b, d in out.edges(data=True)):
        made = out.nodes[maker]
        text = f"{data['dtype']}[{','.join(map(str, data['shape']))}]"
        assert made["types"][data["result"]] == text
        assert data["result"] or (made["shape"], made["dtype"]) == (data["shape"], data["dtype"])
        assert user in out
    order = {node: i for i, node in enumerate(out)}
    assert all(order[a] < order[b] for a, b in out.edges())


def test_attributes() -> None:
    w = f32(3, 4)

    def model(p, x):
        with jax.named_scope("block"):
            h = x @ w
        return {"y": lax.pad(h, 0.5, [(1, 0, 0), (0, 0, 0)]) * p}

    graph = trace(model)(jnp.float32(2), f32(2, 3))
    out = graph.with_parts(weight_inputs=frozenset(graph.inputs[:1])).to_networkx()
    assert list(out) == ["p", "x", "const0", "dot_general_0", "pad_1", "mul_2", "output:0"]
    assert out.graph == {
        "name": "model",
        "inputs": ["p", "x"],
        "outputs": ["output:0"],
    }
    x, p = out.nodes["x"], out.nodes["p"]
    assert (x["kind"], x["weight"], x["bytes"]) == ("input", False, 24)
    assert (x["shape"], x["dtype"], x["types"]) == ((2, 3), "float32", ("float32[2,3]",))
    assert p["weight"] and out.nodes["const0"]["bytes"] == 48
    dot = out.nodes["dot_general_0"]
    assert (dot["op"], dot["scope"]) == ("dot_general", "block")
    assert dot["source"].startswith("test_to_networkx.py:")
    assert dot["params"] == {"contract": "((1,), (0,))"}
    assert out.nodes["pad_1"]["literals"] == {"operand_1": "0.5"}
    assert out.nodes["output:0"]["name"] == "result['y']"
    edge = out.edges["const0", "dot_general_0", 1]
    assert edge == {
        "name": "const0",
        "shape": (3, 4),
        "dtype": "float32",
        "operand": 1,
        "result": 0,
    }


def test_an_operand_used_twice_has_two_edges() -> None:
    out = trace(lambda x: x * x)(1.0).to_networkx()
    assert sorted(out["x"]["mul_0"]) == [0, 1]


def test_results_are_told_apart() -> None:
    out = trace(lambda x: lax.top_k(x, 2)[::-1])(f32(4)).to_networkx()
    edges = {b: data for a, b, data in out.edges("top_k_0", data=True)}
    assert edges["output:0"]["result"] == 1 and edges["output:0"]["dtype"] == "int32"
    assert edges["output:1"]["result"] == 0 and edges["output:1"]["shape"] == (2,)


def test_outputs_that_nothing_makes() -> None:
    out = trace(lambda x: (x, 2.0, x))(1.0).to_networkx()
    assert sorted(out.edges()) == [("x", "output:0"), ("x", "output:2")]
    assert out.nodes["output:1"]["literals"] == {"operand_0": "2.0"}


def test_a_node_without_results() -> None:
    out = trace(lambda x: jax.debug.print("{}", x))(1.0).to_networkx()
    (name,) = [i for i, data in out.nodes(data=True) if data["kind"] == "op"]
    assert name.endswith(":0") and list(out.edges()) == [("x", name)]


def test_bodies_are_nested_and_shared() -> None:
    fn, args = PROGRAMS["shared_jit"]()
    out = trace(fn)(*args).to_networkx()
    bodies = [out.bodies[f"jit_{i}"]["jaxpr"] for i in range(3)]
    assert bodies[0] is bodies[1] is bodies[2]
    assert list(bodies[0]) == ["in0", "sin_0", "mul_1", "output:0"]
    assert "bodies" not in out.nodes["add_3"] and "add_3" not in out.bodies
    fn, args = PROGRAMS["switch"]()
    out = trace(fn)(*args).to_networkx()
    assert list(out.bodies["cond_2"]) == [f"branches[{i}]" for i in range(4)]
    assert out.nodes["cond_2"]["bodies"] == tuple(out.bodies["cond_2"])
    assert len(trace(fn_of_depth(60))(1.0).to_networkx()) == 3


def test_the_prologue() -> None:
    graph = trace(lambda w, x: (w * 2) + x)(f32(10), f32(10))
    mul, add = graph.nodes
    prologue = Graph("prologue", graph.inputs[:1], (mul,), (*mul.outputs, graph.inputs[0]))
    out = graph.with_parts(nodes=(add,), prologue=prologue).to_networkx()
    assert out.nodes["mul_0"]["kind"] == "prepared"
    assert ("mul_0", "add_1") in out.edges() and list(out) == [
        "w",
        "x",
        "mul_0",
        "add_1",
        "output:0",
    ]
    assert out.prologue.nodes["mul_0"]["kind"] == "op"


def test_ids_are_unique_whatever_an_argument_is_called() -> None:
    def fn(**kwargs):
        return jnp.sin(kwargs["output:0"])

    graph = trace(fn)(**{"output:0": 1.0})
    graph.inputs[0].name = "output:0"
    out = to_networkx(graph)
    assert list(out) == ["output:0", "sin_0", "output:0'"]
    assert out.graph["outputs"] == ["output:0'"]


def test_other_tools_can_read_it() -> None:
    graph = trace(lambda x, w: nnops.dense(x, w, activation="relu"))(f32(2, 3), f32(3, 4))
    out = graph.to_networkx()
    data = json.loads(json.dumps(nx.node_link_data(out, edges="edges")))
    again = nx.node_link_graph(data, edges="edges")
    assert set(again.edges()) == set(out.edges())
    assert "activation" in out.nodes["dense_0"]["params"]
    assert nx.dag_longest_path_length(out) == 2
    assert nx.ancestors(out, "output:0") == {"x", "w", "dense_0"}


@pytest.mark.parametrize("name", PROGRAMS)
def test_networkx_writes_it_to_files(name: str, tmp_path: Path) -> None:
    fn, args = PROGRAMS[name]()
    graph = trace(fn)(*args)
    out, plain = graph.to_networkx(), graph.to_networkx(plain=True)
    ends = sorted((a, b) for a, b in out.edges())
    nx.write_gml(out, tmp_path / "g.gml")
    assert sorted(nx.read_gml(tmp_path / "g.gml").edges()) == ends
    assert json.loads(json.dumps(nx.node_link_data(out, edges="edges")))
    for form, write, read in (
        ("gml", nx.write_gml, nx.read_gml),
        ("graphml", nx.write_graphml, nx.read_graphml),
        ("gexf", nx.write_gexf, nx.read_gexf),
    ):
        write(plain, tmp_path / f"p.{form}")
        again = read(tmp_path / f"p.{form}")
        assert sorted((a, b) for a, b in again.edges()) == ends
        assert {d["kind"] for _, d in again.nodes(data=True)} == {
            d["kind"] for _, d in out.nodes(data=True)
        }
    assert pickle.loads(pickle.dumps(out)).bodies.keys() == out.bodies.keys()


def test_symbolic_dimensions_are_text() -> None:
    shape = jax.export.symbolic_shape("batch, 3")
    out = trace(jnp.sin)(jax.ShapeDtypeStruct(shape, jnp.float32)).to_networkx()
    assert out.nodes["x"]["shape"] == ("batch", 3)
    assert json.dumps(nx.node_link_data(out, edges="edges"))
