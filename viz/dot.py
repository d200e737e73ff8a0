"""Picture -> DOT, the text that Graphviz lays out (https://graphviz.org/doc/info/lang.html)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from jaxpress.viz.columns import box_rows, split_columns
from jaxpress.viz.model import Box, Cluster, Edge, Picture
from jaxpress.viz.style import FAMILIES, FONT, INK, MUTED

__all__ = ["dot_text", "in_html", "in_quotes"]

_SHAPES = {
    "op": 'shape=box style="rounded,filled"',
    "group": 'shape=box style="rounded,filled" peripheries=2',
    "input": 'shape=ellipse style="filled" penwidth=1.6 margin="0.04,0.02"',
    "output": 'shape=ellipse style="filled" penwidth=1.6 peripheries=2 margin="0.04,0.02"',
    "port": 'shape=ellipse style="filled,dashed" margin="0.02,0.01"',
}
_FRAMES = {
    "control": 'style="rounded,filled,bold" color="#24292f" penwidth=1.4',
    "body": 'style="rounded,filled,dashed" color="#57606a"',
    "repeat": 'style="rounded,filled" color="#57606a" peripheries=2',
}
_IN_HTML = (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ('"', "&quot;"), ("\\", "\\\\"))
_PER_ROW = 6
_GROUND = ("#f4f6f8", "#ffffff")


def in_html(text: str) -> str:
    """``text`` as the content of an HTML-like label; never empty, which Graphviz refuses."""
    # A backslash is doubled because Graphviz looks for escapes such as \N even here.
    for plain, escaped in _IN_HTML:
        text = text.replace(plain, escaped)
    return text or " "


def in_quotes(text: str) -> str:
    """``text`` as a quoted DOT string that shows exactly its characters.

    Graphviz reads entities and backslash escapes in quoted strings too.
    """
    text = text.replace("&", "&amp;").replace("\\", "\\\\").replace('"', '\\"')
    return '"' + text.replace("\n", "\\n") + '"'


def dot_text(
    pictures: Picture | Sequence[Picture],
    *,
    heading: bool = True,
    legend: bool = True,
    png: bool = False,
) -> str:
    """The pictures as one DOT digraph; several stand side by side, each in a frame of its own.

    Args:
      pictures: one picture, or several with ids of their own.
      heading: whether to write the title and the totals.
      legend: whether to explain the colours that occur.
      png: whether it will be drawn in pixels, of which a page needs more than a screen.

    Returns:
      The text, the same for the same pictures.
    """
    dpi = " dpi=144" if png else ""
    several = [pictures] if isinstance(pictures, Picture) else list(pictures)
    lines = [
        "digraph jaxpress {",
        '  graph [rankdir=TB nodesep=0.22 ranksep=0.3 pad=0.2 bgcolor="white" labelloc=t '
        f'newrank=true fontname="{FONT}" fontcolor="{INK}" fontsize=10'
        f"{dpi}{' label=' + _heading(several, legend) if heading else ''}];",
        f'  node [fontname="{FONT}" fontcolor="{INK}" fontsize=11 margin="0.11,0.05" height=0.3];',
        f'  edge [fontname="{FONT}" fontcolor="{MUTED}" fontsize=8 color="{MUTED}" '
        "arrowsize=0.55];",
    ]
    for picture in several:
        if len(several) == 1:
            lines += _body(picture, 1)
            continue
        lines.append(f"  subgraph cluster_{_first_id(picture)}_page {{")
        lines.append(f"    peripheries=0; label={_table(_title(picture))};")
        lines += _body(picture, 2)
        lines.append("  }")
    lines.append("}")
    return "\n".join(lines) + "\n"


def _first_id(picture: Picture) -> str:
    return next((box.id for box in picture.boxes()), "empty")


def _table(rows: Sequence[str]) -> str:
    """Rows of cells as an HTML-like label."""
    table = f'<table border="0" cellborder="0" cellspacing="0">{"".join(rows)}</table>'
    return f"<{table}>" if rows else '""'


def _title(picture: Picture) -> list[str]:
    title, subtitle = in_html(picture.title), in_html(picture.subtitle)
    return [
        f'<tr><td><font point-size="15"><b>{title}</b></font></td></tr>',
        f'<tr><td><font color="{MUTED}">{subtitle}</font></td></tr>',
    ]


def _heading(pictures: Sequence[Picture], legend: bool) -> str:
    # Several pictures have their titles over their frames.
    rows = _title(pictures[0]) if len(pictures) == 1 else []
    families = [f for f in FAMILIES if f in {b.family for p in pictures for b in p.boxes()}]
    named = [f for f in families if f not in ("io", "other", "group", "control")]
    if legend and named:
        rows += [_legend(named[i : i + _PER_ROW]) for i in range(0, len(named), _PER_ROW)]
    return _table(rows)


def _legend(families: Sequence[str]) -> str:
    cells = "".join(
        f'<td bgcolor="{FAMILIES[f].fill}"><font point-size="8">'
        f"{in_html(FAMILIES[f].label)}</font></td>"
        for f in families
    )
    table = '<table border="0" cellborder="0" cellspacing="4" cellpadding="2">'
    return f"<tr><td>{table}<tr>{cells}</tr></table></td></tr>"


def _body(picture: Picture, indent: int) -> list[str]:
    pad = "  " * indent
    columns = split_columns(picture)
    if len(columns) == 1:
        lines = _members(columns[0], indent, 0)
        lines += [f"{pad}{_edge(e, e.source, e.target)};" for e in picture.edges]
        return lines
    page = _first_id(picture)
    lines = []
    column_of: dict[str, int] = {}
    row: dict[str, int] = {}
    for index, column in enumerate(columns):
        boxes = list(Cluster("", "", "", tuple(column)).boxes())
        held = {box.id for box in boxes}
        column_of.update(dict.fromkeys(held, index))
        inner = [e for e in picture.edges if e.source in held and e.target in held]
        row.update(box_rows(boxes, inner))
        lines += [
            f"{pad}subgraph cluster_{page}_column{index} {{",
            f'{pad}  peripheries=0; label="";',
            *_members(column, indent + 1, 0),
            f"{pad}}}",
            f"{pad}{page}_top{index} [style=invis shape=point height=0.01];",
            *(
                f"{pad}{page}_top{index} -> {box.id} [style=invis];"
                for box in boxes
                if not row[box.id] and (box.kind != "input" or box is boxes[0])
            ),
        ]
    gutters: dict[int, dict[str, str]] = {i: {} for i in range(1, len(columns))}
    edges = []
    for edge in picture.edges:
        source, target = column_of[edge.source], column_of[edge.target]
        upwards = row[edge.source] > row[edge.target] + 2
        if target == source + 1 and upwards and edge.kind == "data":
            # Down to the foot of the gap between the columns, up in it, and in from above.
            # All that one box hands to a column goes along one way.
            name = gutters[target].get(edge.source)
            if name is None:
                name = f"{page}_gap{target}_{len(gutters[target])}"
                gutters[target][edge.source] = name
                edges += [
                    _edge(edge, edge.source, f"{name}b", "dir=none tailport=s"),
                    f"{name}a -> {name}b [dir=none]",
                ]
            edges.append(f"{name}a -> {edge.target} [headport=n]")
        else:
            free = source != target and edge.kind == "data"
            edges.append(_edge(edge, edge.source, edge.target, "constraint=false" if free else ""))
    tops = [f"{page}_top0"]
    for index, ways in gutters.items():
        names = list(ways.values())
        point = "shape=point width=0.01 height=0.01 style=invis"
        lines += [f"{pad}{name}{end} [{point} group={name}];" for name in names for end in "ab"]
        tops += [f"{name}a" for name in names] + [f"{page}_top{index}"]
    lines.append(f"{pad}{{ rank=same; {'; '.join(tops)}; }}")
    lines.append(f"{pad}{' -> '.join(tops)} [style=invis];")
    return lines + [f"{pad}{edge};" for edge in edges]


def _edge(edge: Edge, source: str, target: str, *attributes: str) -> str:
    shown = [a for a in attributes if a]
    if edge.label:
        shown.append(f"label={in_quotes(' ' + edge.label)}")
    if edge.kind == "choice":
        shown.append("style=dotted")
    elif edge.kind == "again":
        shown.append('style=dashed constraint=false color="#8250df"')
    return f"{source} -> {target}" + (f" [{' '.join(shown)}]" if shown else "")


def _members(members: Iterable[Box | Cluster], indent: int, nesting: int) -> list[str]:
    lines = []
    for member in members:
        if isinstance(member, Box):
            lines.append(f"{'  ' * indent}{member.id} [{_box(member)}];")
        else:
            lines += _cluster(member, indent, nesting)
    return lines


def _cluster(cluster: Cluster, indent: int, nesting: int) -> list[str]:
    pad = "  " * indent
    frame = _FRAMES.get(cluster.kind, 'style="rounded,filled" color="#d0d7de"')
    ground = _GROUND[nesting % len(_GROUND)]
    label = in_html(cluster.label)
    if cluster.kind in ("control", "repeat", "call"):
        label = f"<b>{label}</b>"
    return [
        f"{pad}subgraph cluster_{cluster.id} {{",
        f'{pad}  id="{cluster.id}"; label=<{label}>; labeljust=l; fontsize=10; '
        f'fontcolor="{MUTED}"; {frame}; fillcolor="{ground}"; margin=7;'.replace('" ', '"; '),
        *_members(cluster.members, indent + 1, nesting + 1),
        f"{pad}}}",
    ]


def _box(box: Box) -> str:
    family = FAMILIES[box.family]
    rows = []
    if box.caption:
        rows.append(f'<font point-size="8" color="{MUTED}">{in_html(box.caption)}</font>')
    rows.append(f"<b>{in_html(box.title)}</b>")
    rows += [f'<font point-size="9">{in_html(line)}</font>' for line in box.lines]
    cells = "".join(f"<tr><td>{row}</td></tr>" for row in rows)
    table = f'<table border="0" cellborder="0" cellspacing="0" cellpadding="1">{cells}</table>'
    width = " penwidth=1.9" if box.changed else ""
    # Graphviz looks for escapes in a tooltip twice.
    tooltip = " ".join((box.title, *box.lines)).replace("\\", "\\\\")
    return (
        f'id="{box.id}" label=<{table}> {_SHAPES[box.kind]}{width} '
        f'fillcolor="{family.fill}" color="{family.border}" tooltip={in_quotes(tooltip)}'
    )
