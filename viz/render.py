"""`render`: a graph or a report becomes a file, in the format that the path's suffix names."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path

from jaxpress.capture.graph import Graph, Node, Value
from jaxpress.passes.record import Report
from jaxpress.viz.build import build_picture
from jaxpress.viz.dot import dot_text
from jaxpress.viz.errors import NotRenderable, OptionError, UnknownFormat
from jaxpress.viz.html import html_page
from jaxpress.viz.json_out import json_text
from jaxpress.viz.model import Picture
from jaxpress.viz.text import clean
from jaxpress.viz.write import layout, write_file

__all__ = ["SUFFIXES", "render"]

SUFFIXES = (".svg", ".png", ".pdf", ".dot", ".gv", ".html", ".json")


def render(
    graph_or_report: Graph | Report,
    path: str | os.PathLike[str] | None = None,
    *,
    depth: int | None = None,
    max_nodes: int | None = None,
    title: str | None = None,
    which: str | None = None,
    weights: Iterable[str] | None = None,
    legend: bool = True,
) -> Path | str:
    """Draw a graph, or the graphs before and after a pipeline.

    Weights, constants and scalars are written into the operation that uses them, scopes and
    nested functions become frames, and loops show what they carry. A large graph is drawn with
    groups closed and equal blocks in a row drawn once, so that about a page of boxes remains;
    ``.json`` always holds all of it.

    Args:
      graph_or_report: a ``Graph``, or the ``Report`` of a pipeline. Of a report, an ``.html`` page
        and ``.json`` hold both graphs, and any other format holds the graph after the passes,
        unless ``which`` says otherwise. What a pass made has a thick border.
      path: where to write. The suffix chooses the format: ``.svg``, ``.png``, ``.pdf`` and
        ``.html`` need Graphviz (``pip install "jaxpress[graphviz]"`` or a ``dot`` program);
        ``.dot``, ``.gv`` and ``.json`` need nothing. ``None`` to get the DOT text.
      depth: how many levels of scopes and nested functions to open; ``None`` for as many as give
        at most ``max_nodes`` boxes, 0 for the whole function as one box.
      max_nodes: how many boxes there may be: 80 by default, 1000 where ``depth`` is given.
      title: the line at the top; the function's name by default.
      which: for a report, ``"before"``, ``"after"`` or ``"both"`` (side by side).
      weights: names of the arguments that hold weights, such as ``("params",)``; ``None`` to tell
        them by their names and use.
      legend: whether to explain the colours.

    Returns:
      The path, or the DOT text where ``path`` is ``None``. The same graph gives the same text.

    Raises:
      NotRenderable: the first argument is neither a graph nor a report.
      OptionError: an option's value means nothing.
      UnknownFormat: the suffix is none of those above.
      RendererNotFound: the format needs Graphviz, which is not installed.
      RenderError: Graphviz failed.
      OutputError: the file cannot be written. There is never half a file.

    >>> import jax
    >>> import jax.numpy as jnp
    >>> from jaxpress.capture import trace
    >>> graph = trace(lambda w, x: jax.nn.relu(x @ w))(jnp.ones((3, 4)), jnp.ones((2, 3)))
    >>> dot = render(graph)
    >>> "dot_general" in dot
    True
    """
    if not isinstance(graph_or_report, Graph | Report):
        raise NotRenderable(graph_or_report)
    suffix = _suffix(path)
    _check(depth, max_nodes, which, graph_or_report)
    if suffix == ".json":
        data = json_text(graph_or_report).encode()
    else:
        names = None if weights is None else frozenset(_names(weights))

        def draw(
            graph: Graph, name: str | None, prefix: str, notes: Callable[[Node], tuple[str, ...]]
        ) -> Picture:
            return build_picture(
                graph,
                title=name,
                depth=depth,
                max_nodes=max_nodes,
                weights=names,
                notes=notes,
                prefix=prefix,
            )

        pictures = _pictures(graph_or_report, title, which, suffix, draw)
        if suffix == ".html":
            heading = clean(title if title is not None else _graph(graph_or_report).name, 120)
            panes = [(p, layout(dot_text(p, heading=False), "svg", suffix)) for p in pictures]
            data = html_page(heading, panes).encode()
        else:
            text = dot_text(pictures, legend=legend, png=suffix == ".png")
            if path is None:
                return text
            data = text.encode() if suffix in (".dot", ".gv") else layout(text, suffix[1:])
    assert path is not None
    write_file(path, data)
    return Path(path)


def _graph(thing: Graph | Report) -> Graph:
    return thing if isinstance(thing, Graph) else thing.before


def _suffix(path: str | os.PathLike[str] | None) -> str:
    if path is None:
        return ".dot"
    if not isinstance(path, str | os.PathLike):
        raise OptionError(f"path is {path!r}; give a file's name, or None for the DOT text.")
    suffix = Path(path).suffix.lower()
    if suffix not in SUFFIXES:
        raise UnknownFormat(suffix, SUFFIXES)
    return suffix


def _check(
    depth: int | None, max_nodes: int | None, which: str | None, thing: Graph | Report
) -> None:
    for name, number, least in (("depth", depth, 0), ("max_nodes", max_nodes, 1)):
        if number is None:
            continue
        if isinstance(number, bool) or not isinstance(number, int) or number < least:
            raise OptionError(f"{name} is {number!r}; give a whole number from {least}, or None.")
    if which is None:
        return
    if which not in ("before", "after", "both"):
        raise OptionError(f"which is {which!r}; give 'before', 'after' or 'both'.")
    if isinstance(thing, Graph):
        raise OptionError("which chooses between the graphs of a Report, and this is a Graph.")


def _names(weights: Iterable[str]) -> Iterable[str]:
    if isinstance(weights, str) or not isinstance(weights, Iterable):
        raise OptionError(f"weights is {weights!r}; give the arguments' names in a tuple.")
    return weights


def _pictures(
    thing: Graph | Report,
    title: str | None,
    which: str | None,
    suffix: str,
    draw: Callable[..., Picture],
) -> list[Picture]:
    """The pictures to show."""
    if isinstance(thing, Graph):
        return [draw(thing, title, "", lambda node: ())]
    which = which or ("both" if suffix == ".html" else "after")
    notes = _notes(thing)
    name = title if title is not None else thing.before.name
    pictures = []
    for part, graph, noted in (
        ("before", thing.before, lambda node: ()),
        ("after", thing.after, lambda node: notes.get(node.outputs[0], ()) if node.outputs else ()),
    ):
        if which in (part, "both"):
            pictures.append(draw(graph, f"{name}: {part}", part[0], noted))
    return pictures


def _notes(report: Report) -> dict[Value, tuple[str, ...]]:
    """For each value that a pass made, the rules that led to it, in order.

    A node is told by its results: a later pass that changes an operand makes a node anew.
    """
    notes: dict[Value, tuple[str, ...]] = {}
    for rewrite in report.rewrites:
        made = [v for node in rewrite.before for v in node.outputs]
        earlier = [text for v in made for text in notes.get(v, ())]
        text = f"{rewrite.rule} ({rewrite.numerics})"
        if rewrite.note:
            text += f": {rewrite.note}"
        for node in rewrite.after:
            for value in node.outputs:
                notes[value] = tuple(dict.fromkeys((*earlier, clean(text, 200))))
    return notes
