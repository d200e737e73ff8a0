import json
import re
import shutil
import subprocess
from html.parser import HTMLParser

import jax
import jax.numpy as jnp
import pytest
from drawings import NASTY, scope_safe

from jaxpress.capture import Graph, trace
from jaxpress.viz.build import build_picture
from jaxpress.viz.dot import dot_text
from jaxpress.viz.html import html_page
from jaxpress.viz.text import clean
from jaxpress.viz.write import layout


class Page(HTMLParser):
    """Elements and texts of a page, as a browser would split it."""

    def __init__(self, text: str):
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.open: list[str] = []
        self.texts: list[tuple[str, str]] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.open.append(tag)

    def handle_endtag(self, tag):
        while self.open and self.open.pop() != tag:
            pass

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.texts.append((self.open[-1] if self.open else "", data))

    def ids(self) -> list[str]:
        return [attrs["id"] for _, attrs in self.tags if "id" in attrs]

    def details(self) -> dict:
        (start,) = (i for i, (_, a) in enumerate(self.tags) if a.get("id") == "details")
        assert self.tags[start][1]["type"] == "application/json"
        scripts = [text for tag, text in self.texts if tag == "script"]
        return json.loads(scripts[0])


def page_of(graph: Graph, title: str = "t", count: int = 1) -> str:
    pictures = [build_picture(graph, title=title, prefix="ab"[i]) for i in range(count)]
    return html_page(clean(title), [(p, layout(dot_text(p), "svg")) for p in pictures])


def test_every_box_can_be_pointed_at(mlp: Graph) -> None:
    page = Page(page_of(mlp))
    boxes = [b.id for b in build_picture(mlp, prefix="a").boxes()]
    assert set(boxes) <= set(page.ids())
    details = page.details()
    assert set(details) == set(boxes)
    product = next(d for d in details.values() if d["title"] == "dot_general")
    assert ["op", "dot_general"] in product["rows"]
    assert any(name == "source" and "conftest.py" in text for name, text in product["rows"])


def test_two_pictures_share_a_page_and_no_id(mlp: Graph) -> None:
    page = Page(page_of(mlp, count=2))
    assert [tag for tag, _ in page.tags].count("svg") == 2
    assert len(set(page.ids())) == len(page.ids())


def test_the_page_loads_nothing(mlp: Graph) -> None:
    text = page_of(mlp)
    for tag, attrs in Page(text).tags:
        assert tag not in ("link", "iframe", "img", "object", "embed", "base")
        assert not {"src", "href", "xlink:href", "srcset"} & set(attrs), (tag, attrs)
    assert not re.search(r"@import|url\(|fetch\(|XMLHttpRequest|import\(", text)


def test_the_svg_is_sized_by_the_page(mlp: Graph) -> None:
    (svg,) = (attrs for tag, attrs in Page(page_of(mlp)).tags if tag == "svg")
    assert "viewbox" in svg
    assert not {"width", "height"} & set(svg)


@pytest.mark.parametrize("name", NASTY)
def test_names_are_text_and_never_markup(name: str) -> None:
    def fn(d):
        with jax.named_scope(scope_safe(name)):
            return {name: jnp.sin(d[name]) + 1.0}

    graph = trace(fn)({name: jnp.ones(3)})
    page = Page(page_of(graph, title=name))
    kinds = [tag for tag, _ in page.tags]
    assert kinds.count("script") == 2
    assert "b" not in kinds
    titles = [text for tag, text in page.texts if tag in ("h1", "title")]
    assert clean(name) in titles
    shown = [value for d in page.details().values() for _, value in d["rows"]]
    assert any(clean(scope_safe(name), 200) in value for value in shown)


@pytest.mark.skipif(shutil.which("node") is None, reason="needs node")
def test_the_script_is_javascript(mlp: Graph, tmp_path) -> None:
    script = re.findall(r"<script>(.*?)</script>", page_of(mlp), re.S)
    assert len(script) == 1
    path = tmp_path / "script.js"
    path.write_text(script[0])
    done = subprocess.run(["node", "--check", path], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
