import itertools
import re
import xml.etree.ElementTree as ET

import jax
import jax.numpy as jnp
import pygraphviz
import pytest
from drawings import NASTY, scope_safe, stack_of

from jaxpress.capture import Graph, trace
from jaxpress.viz.build import build_picture
from jaxpress.viz.columns import split_columns
from jaxpress.viz.dot import dot_text, in_html, in_quotes
from jaxpress.viz.model import Box, Cluster, Edge, Picture
from jaxpress.viz.text import clean
from jaxpress.viz.write import layout


def parsed(text: str) -> pygraphviz.AGraph:
    return pygraphviz.AGraph(string=text)


def positions(text: str) -> dict[str, tuple[float, float]]:
    """Where Graphviz puts each box: x to the right, y upwards."""
    plain = layout(text, "plain").decode()
    found = re.findall(r"^node (\S+) (\S+) (\S+)", plain, re.M)
    return {name: (float(x), float(y)) for name, x, y in found}


def test_the_text_is_a_graph_with_every_box_and_edge(mlp: Graph) -> None:
    picture = build_picture(mlp)
    graph = parsed(dot_text(picture))
    assert set(graph.nodes()) == {box.id for box in picture.boxes()}
    assert set(graph.edges()) == {(e.source, e.target) for e in picture.edges}


def test_frames_are_clusters(rnn: Graph) -> None:
    picture = build_picture(rnn)
    graph = parsed(dot_text(picture))
    (frame,) = picture.clusters()
    (subgraph,) = graph.subgraphs()
    assert subgraph.name == f"cluster_{frame.id}"
    assert set(subgraph.nodes()) == {box.id for box in frame.boxes()}


def test_the_same_picture_gives_the_same_text(stack: Graph) -> None:
    assert dot_text(build_picture(stack)) == dot_text(build_picture(stack))


def test_boxes_look_like_what_they_are() -> None:
    boxes = [Box(k, k, k) for k in ("op", "group", "input", "output", "port")]
    graph = parsed(dot_text(Picture("t", "", tuple(boxes), ())))
    look = {n: (n.attr["shape"], n.attr["peripheries"], n.attr["style"]) for n in graph.nodes()}
    assert len(set(look.values())) == 5


def test_an_edge_back_does_not_push_boxes_down() -> None:
    picture = Picture(
        "t",
        "",
        tuple(Box(name, "op", name) for name in "abc"),
        (Edge("a", "b"), Edge("b", "c"), Edge("c", "a", kind="again")),
    )
    graph = parsed(dot_text(picture))
    assert graph.get_edge("c", "a").attr["constraint"] == "false"
    at = positions(dot_text(picture))
    assert at["a"][1] > at["b"][1] > at["c"][1]


def test_what_a_pass_made_has_a_thicker_border() -> None:
    boxes = (Box("a", "op", "a", changed=True), Box("b", "op", "b"))
    graph = parsed(dot_text(Picture("t", "", boxes, ())))
    assert float(graph.get_node("a").attr["penwidth"]) > 1
    assert not graph.get_node("b").attr["penwidth"]


def test_the_legend_explains_the_colours_that_occur(mlp: Graph) -> None:
    picture = build_picture(mlp)
    text = dot_text(picture)
    assert "convolution, dense" in text
    assert "pooling" not in text
    assert "convolution, dense" not in dot_text(picture, legend=False)
    assert "weights" not in dot_text(picture, heading=False).replace("tooltip", "")[:600]


@pytest.mark.parametrize("name", NASTY)
def test_names_survive_as_they_are_in_every_place(name: str) -> None:
    shown = clean(name)
    boxes = tuple(Box(f"n{i}", "op", shown, shown, (shown,)) for i in range(2))
    picture = Picture(
        shown, shown, (Cluster("c0", shown, "scope", boxes),), (Edge("n0", "n1", shown),)
    )
    svg = layout(dot_text(picture), "svg").decode()
    tree = ET.fromstring(svg)
    texts = ["".join(t.itertext()) for t in tree.iter("{http://www.w3.org/2000/svg}text")]
    # Heading, totals, frame, edge, and three lines in each of two boxes.
    assert [t.strip() for t in texts].count(shown) == 4 + 3 * 2
    tips = [a.get("{http://www.w3.org/1999/xlink}title") for a in tree.iter()]
    assert f"{shown} {shown}" in tips


@pytest.mark.parametrize("name", NASTY)
def test_a_graph_with_that_name_everywhere_is_drawn(name: str) -> None:
    def fn(d):
        with jax.named_scope(scope_safe(name)):
            return {name: jnp.sin(d[name]) + 1.0}

    graph = trace(fn)({name: jnp.ones(3)})
    text = dot_text(build_picture(graph, title=name))
    assert len(parsed(text).nodes()) == 4
    assert layout(text, "svg").count(b'class="node"') == 4


def test_escapes() -> None:
    assert in_html('a<b>&"c') == "a&lt;b&gt;&amp;&quot;c"
    assert in_html("") == " "
    assert in_html("\\N") == "\\\\N"
    assert in_quotes('a"b\\N&lt;') == '"a\\"b\\\\N&amp;lt;"'
    assert in_quotes("a\nb") == '"a\\nb"'


def test_empty_texts_are_drawn() -> None:
    picture = Picture("", "", (Cluster("c", "", "scope", (Box("n", "op", ""),)),), ())
    assert b"<svg" in layout(dot_text(picture), "svg")


def test_columns_stand_from_left_to_right_and_start_at_the_top() -> None:
    for graph in (stack_of(14, odd=3), stack_of(9, odd=8)):
        picture = build_picture(graph, depth=3)
        columns = [list(Cluster("", "", "", tuple(c)).boxes()) for c in split_columns(picture)]
        assert len(columns) > 1
        at = positions(dot_text(picture))
        spans = [(min(at[b.id][0] for b in c), max(at[b.id][0] for b in c)) for c in columns]
        for (_, right), (left, _) in itertools.pairwise(spans):
            assert right < left
        tops = [max(at[b.id][1] for b in c) for c in columns]
        height = max(y for _, y in at.values())
        assert min(tops) > 0.8 * height


def test_two_pictures_stand_in_frames_side_by_side(mlp: Graph) -> None:
    before = build_picture(mlp, prefix="b", title="before & after")
    after = build_picture(mlp, prefix="a")
    text = dot_text([before, after])
    graph = parsed(text)
    assert len(graph.nodes()) == 2 * len(list(after.boxes()))
    at = positions(text)
    assert max(at[b.id][0] for b in before.boxes()) < min(at[b.id][0] for b in after.boxes())
    assert b"before &amp; after" in layout(text, "svg")


def test_a_pixel_picture_is_finer(mlp: Graph) -> None:
    assert "dpi=144" in dot_text(build_picture(mlp), png=True)
    assert "dpi" not in dot_text(build_picture(mlp))
