"""Graphs as text: readable, stable, short."""

from __future__ import annotations

import re

import jax
import jax.numpy as jnp
import pytest
from jax import lax
from programs import PROGRAMS, f32
from work import calls_of

from jaxpress import nnops
from jaxpress.capture import Graph, Node, Value, trace
from jaxpress.capture.text import graph_text


def body_of(text: str) -> list[str]:
    """The lines below the header, without scopes and source lines."""
    return [line.split("  #")[0] for line in text.splitlines()[1:]]


def chain(n: int) -> Graph:
    """A graph of ``n`` nodes, made without tracing."""
    (node,) = trace(lax.sin)(f32(3)).nodes
    x = Value("x", node.inputs[0].aval)
    values, nodes = [x], []
    for i in range(n):
        values.append(Value(f"sin_{i}", x.aval))
        made = Node(
            node.primitive,
            (values[-2],),
            (values[-1],),
            {**node.params},
            ctx=node.ctx,
            source_info=node.source_info,
        )
        nodes.append(made)
    return Graph("chain", (x,), nodes, values[-1:])


WHOLE = """\
model(params['b']: f32[4], params['w']: f32[3,4], x: f32[2,3]) -> (f32[2,4], f32[4])
  dot_general_0: f32[2,4] = dot_general(x, params['w'], contract=((1,), (0,)))  # block · t.py:N
  reshape_1: f32[1,4] = reshape(params['b'])  # block · t.py:N
  add_2: f32[2,4] = add(dot_general_0, reshape_1)  # block · t.py:N
  jit_3: f32[2,4] = jit(add_2, name=<lambda>)  # t.py:N
    jaxpr(in0: f32[2,4]):
      sin_0: f32[2,4] = sin(in0)  # t.py:N
      mul_1: f32[2,4] = mul(sin_0, 2.0)  # t.py:N
      return mul_1
  slice_4: f32[1,4] = slice(add_2, limit_indices=(1, 4), start_indices=(0, 0))  # t.py:N
  squeeze_5: f32[4] = squeeze(slice_4, dimensions=(0,))  # t.py:N
  scan_6: f32[4] = scan(squeeze_5, carry=1, length=3)  # t.py:N
    jaxpr(in0: f32[4]):
      mul_0: f32[4] = mul(in0, 0.5)  # t.py:N
      return mul_0
  return jit_3, scan_6"""


def test_a_whole_text() -> None:
    def model(params, x):
        with jax.named_scope("block"):
            h = x @ params["w"] + params["b"].reshape(1, 4)
        return jax.jit(lambda a: jnp.sin(a) * 2.0)(h), lax.scan(step, h[0], None, length=3)[0]

    def step(c, _):
        return c * 0.5, None

    graph = trace(model)({"w": f32(3, 4), "b": f32(4)}, f32(2, 3))
    text = re.sub(r"py:\d+", "py:N", graph.text().replace("test_text.py", "t.py"))
    assert text == WHOLE


def test_a_named_op_shows_its_operands_and_what_is_fused() -> None:
    def fn(x, w, r):
        return nnops.conv(x, w, residual=r, strides=2, activation="relu")

    (line,) = body_of(trace(fn)(f32(1, 8, 8, 2), f32(3, 3, 2, 4), f32(1, 4, 4, 4)).text())[:-1]
    assert line.startswith("  conv_0: f32[1,4,4,4] = conv(x, w=w, residual=r, activation=relu")
    assert "strides=(2, 2)" in line
    assert "kernel" not in line and "groups" not in line and "dilation" not in line


def test_constants_weights_and_the_prologue_are_in_the_header() -> None:
    w, v = f32(100, 100), f32(3)
    graph = trace(lambda p, x: (x * p + v).sum() + w.sum())(f32(3), f32(3))
    mul, add, *rest = graph.nodes
    prologue = Graph("prologue", graph.inputs[:1], (mul, add), (add.output,))
    graph = graph.with_parts(
        nodes=rest, prologue=prologue, weight_inputs=frozenset(graph.inputs[:1])
    )
    assert graph.text().splitlines()[1:4] == [
        "  constants: 2, 40 kB: const0: f32[3], const1: f32[100,100]",
        "  weights: 1 input, 12 B",
        "  prologue: 2 nodes -> 1 prepared value",
    ]


@pytest.mark.parametrize("name", PROGRAMS)
def test_every_node_has_its_line_and_the_text_is_stable(name: str) -> None:
    fn, args = PROGRAMS[name]()
    graph = trace(fn)(*args)
    text = graph.text()
    assert text == graph.text() == trace(fn)(*args).text()
    assert "0x" not in re.sub(r"0x\w+=", "", text), "an address differs from run to run"
    assert text.isprintable() or set(text) - set("\n") <= {c for c in text if c.isprintable()}
    for node in graph.nodes:
        names = [v.name for v in node.outputs[:1]]
        assert any(
            line.startswith(f"  {names[0]}: " if names else f"  {node.op}(")
            for line in text.splitlines()
        )
    assert all(line == line.rstrip() for line in text.splitlines())
    assert graph.count().total() >= sum(" = " in line for line in body_of(text))


def test_a_shared_body_is_shown_once() -> None:
    fn, args = PROGRAMS["shared_jit"]()
    text = trace(fn)(*args).text()
    assert text.count("sin_0: f32[3] = sin(in0)") == 1
    assert text.count("    jaxpr: the same as jit_0.jaxpr") == 2
    fn, args = PROGRAMS["deep_jit"]()
    assert "jaxpr: the same as jit_0.jaxpr/jit_0.jaxpr" in trace(fn)(*args).text()


@pytest.mark.parametrize("max_nodes", [0, 1, 2, 3, 7, 48, 99, 100, 1000])
def test_the_middle_is_left_out(max_nodes: int) -> None:
    graph = chain(100)
    lines = graph.text(max_nodes).splitlines()
    shown = [line.split(":")[0].strip() for line in lines if " = sin(" in line]
    assert len(shown) == min(max_nodes, 100)
    tail = 0 if max_nodes >= 100 else max_nodes // 3
    head = len(shown) - tail
    assert shown == [f"sin_{i}" for i in (*range(head), *range(100 - tail, 100))]
    gap = f"  ... {100 - len(shown)} more nodes ..., graph.text() shows all"
    assert (gap in lines) == (max_nodes < 100)
    assert lines[-1] == "  return sin_99"


def test_bodies_share_what_is_left() -> None:
    def deep(x):
        for _ in range(40):
            x = jnp.sin(x)
        return x

    def fn(x):
        return jax.jit(deep)(x) + jax.jit(lambda y: deep(y) + 1)(x)

    graph = trace(fn)(1.0)
    assert graph.count().total() == 84
    for max_nodes in (3, 10, 20, 48):
        lines = [line for line in graph.text(max_nodes).splitlines() if " = " in line]
        assert len(lines) <= max_nodes
    assert "{ 40 nodes }" in graph.text(3)
    assert "... 23 more nodes" in graph.text(38)
    # A body that there is no room for is told by what is in it.
    relus = trace(lambda x: [jax.nn.relu(x + i) for i in range(60)])(1.0)
    assert "= custom_jvp_call(add_0) { jit { max } }" in str(relus)
    assert len(str(relus).splitlines()) < 60


def test_printing_a_large_graph_builds_no_more_than_it_shows() -> None:
    graph = chain(100_000)
    assert len(graph.text().splitlines()) == 100_002
    calls_of(lambda: str(graph), at_most=20_000)
    text = str(graph)
    assert len(text.splitlines()) < 60
    assert "... 99952 more nodes ..." in text


def test_long_lists_are_cut() -> None:
    graph = trace(lambda *xs: (sum(xs), *xs))(*range(30))
    header, *_, last = graph.text().splitlines()
    assert "... 24 more ..., xs[28]: i32[], xs[29]: i32[]" in header
    assert "... 25 more ..." in header.split("->")[1]
    assert last.endswith("... 25 more ..., xs[28], xs[29]")
    graph = trace(lambda *xs: jnp.concatenate(xs))(*[f32(1)] * 20)
    assert "concatenate(xs[0], xs[1], xs[2], xs[3], ... 14 more ..., xs[18], xs[19]" in str(graph)
    long = "a" * 100
    graph = trace(lambda d: d[long] + 1)({long: 1.0})
    assert max(map(len, str(graph).splitlines())) < 200


def test_odd_names_stay_on_their_line() -> None:
    graph = trace(lambda d: jnp.sin(d["a\nb\x00"]))({"a\nb\x00": 1.0})
    assert len(str(graph).splitlines()) == 3

    def fn(x):
        with jax.named_scope("two\nlines"):
            return jnp.sin(x)

    assert len(str(trace(fn)(1.0)).splitlines()) == 3


def test_summary() -> None:
    fn, args = PROGRAMS["training_step"]()
    lines = trace(fn)(*args).summary().splitlines()
    assert lines[0] == "training_step(w: f32[3,4], x: f32[5,3], y: f32[3]) -> (f32[3,4], f32[])"
    assert lines[1] == "  nodes: 22, 24 with bodies"
    assert lines[2].startswith("  361 FLOP, reads 996 B, writes ")
    assert lines[4].split() == ["dot_general", "2", "240", "66.5%"]
    assert lines[-1].split()[1:] == ["other", "ops", "3", "0", "0.0%"]
    assert len(lines) < 20


def test_summary_of_next_to_nothing() -> None:
    assert trace(lambda: ())().summary().splitlines()[1] == "  nodes: 0"
    assert "     -" in trace(lambda x: x[0])(f32(3)).summary()


def test_the_example_in_the_documentation() -> None:
    assert graph_text(trace(lambda x: lax.sin(x) * 2.0)(1.0), 0) == (
        "<lambda>(x: f32[]) -> f32[]\n"
        "  ... 2 more nodes ..., graph.text() shows all\n"
        "  return mul_1"
    )
