"""Pictures -> one HTML page that needs nothing else: drag to move, scroll to zoom, point to read.

The page holds its script, its style and its pictures. Text from the user's code reaches it as
escaped SVG text, as escaped HTML, or as JSON that the script shows as text, never as markup.
"""

from __future__ import annotations

import html
import json
import re
from collections.abc import Sequence

from jaxpress.viz.model import Picture
from jaxpress.viz.style import FAMILIES, INK, MUTED

__all__ = ["html_page"]

_CSS = f"""
* {{ box-sizing: border-box }}
body {{ margin: 0; height: 100vh; display: flex; flex-direction: column; color: {INK};
  font: 13px/1.4 Helvetica, Arial, sans-serif; background: #fff }}
header {{ display: flex; flex-wrap: wrap; gap: 6px 14px; align-items: center;
  padding: 8px 14px; border-bottom: 1px solid #d0d7de }}
h1 {{ font-size: 16px; margin: 0 }} h2 {{ font-size: 13px; margin: 0; padding: 6px 10px }}
h2 small, header small {{ color: {MUTED}; font-weight: normal }}
header input {{ margin-left: auto; padding: 3px 8px; border: 1px solid #d0d7de; font: inherit }}
.key {{ padding: 1px 6px; border: 1px solid; border-radius: 4px; font-size: 11px }}
main {{ flex: 1; display: flex; min-height: 0 }}
section {{ flex: 1; min-width: 0; display: flex; flex-direction: column;
  border-right: 1px solid #d0d7de }}
.pane {{ flex: 1; min-height: 0; cursor: grab; touch-action: none }}
.pane svg {{ width: 100%; height: 100%; display: block; user-select: none }}
aside {{ width: 300px; overflow: auto; padding: 10px 14px; background: #f6f8fa }}
aside dt {{ color: {MUTED}; font-size: 11px; margin-top: 6px }}
aside dd {{ margin: 0; overflow-wrap: anywhere }}
g.node:hover, g.chosen {{ filter: drop-shadow(0 0 3px #0969da) }}
.dim g.node:not(.hit) {{ opacity: .25 }}
@media print {{ aside, header input {{ display: none }} }}
"""

_SCRIPT = """
const details = JSON.parse(document.getElementById('details').textContent);
const panel = document.getElementById('panel'), search = document.getElementById('search');
let chosen = null;
function row(list, tag, text) {
  const item = document.createElement(tag);
  item.textContent = text;
  list.appendChild(item);
}
function show(node) {
  const detail = node && details[node.id];
  if (!detail) return;
  panel.replaceChildren();
  row(panel, 'h3', detail.title);
  const list = document.createElement('dl');
  for (const [name, value] of detail.rows) { row(list, 'dt', name); row(list, 'dd', value); }
  panel.appendChild(list);
}
for (const pane of document.querySelectorAll('.pane')) {
  const svg = pane.querySelector('svg'), box = svg.viewBox.baseVal;
  const home = [box.x, box.y, box.width, box.height];
  const view = (x, y, w, h) => svg.setAttribute('viewBox', [x, y, w, h].join(' '));
  const scale = () => 1 / svg.getScreenCTM().a;
  pane.addEventListener('wheel', event => {
    event.preventDefault();
    const at = new DOMPoint(event.clientX, event.clientY).matrixTransform(
      svg.getScreenCTM().inverse());
    const k = Math.exp(event.deltaY * (event.deltaMode ? 0.05 : 0.0015));
    view(at.x + (box.x - at.x) * k, at.y + (box.y - at.y) * k, box.width * k, box.height * k);
  }, { passive: false });
  pane.addEventListener('pointerdown', event => {
    if (event.button) return;
    let [x, y] = [event.clientX, event.clientY];
    const move = step => {
      const s = scale();
      view(box.x - (step.clientX - x) * s, box.y - (step.clientY - y) * s, box.width, box.height);
      [x, y] = [step.clientX, step.clientY];
    };
    const end = () => {
      removeEventListener('pointermove', move);
      removeEventListener('pointerup', end);
      removeEventListener('pointercancel', end);
    };
    addEventListener('pointermove', move);
    addEventListener('pointerup', end);
    addEventListener('pointercancel', end);
  });
  pane.addEventListener('dblclick', () => view(...home));
  pane.addEventListener('pointerover', event => {
    if (!chosen) show(event.target.closest('g.node'));
  });
  pane.addEventListener('click', event => {
    if (chosen) chosen.classList.remove('chosen');
    chosen = event.target.closest('g.node');
    if (chosen) { chosen.classList.add('chosen'); show(chosen); }
  });
}
search.addEventListener('input', () => {
  const wanted = search.value.toLowerCase();
  document.body.classList.toggle('dim', wanted !== '');
  for (const node of document.querySelectorAll('g.node')) {
    const found = details[node.id];
    node.classList.toggle('hit', !!found && found.text.includes(wanted));
  }
});
"""


def html_page(title: str, panes: Sequence[tuple[Picture, bytes]]) -> str:
    """One page with the pictures side by side.

    Args:
      title: the page's title.
      panes: each picture and its SVG; no id may be in two of them.

    Returns:
      The page; it loads nothing from anywhere.
    """
    details = {
        box.id: {
            "title": box.title,
            "rows": [*(("", line) for line in (box.caption, *box.lines) if line), *box.detail],
            "text": "\n".join(
                (box.title, box.caption, *box.lines, *(v for _, v in box.detail))
            ).lower(),
        }
        for picture, _ in panes
        for box in picture.boxes()
    }
    families = {box.family for picture, _ in panes for box in picture.boxes()}
    keys = "".join(
        f'<span class="key" style="background:{f.fill};border-color:{f.border}">'
        f"{html.escape(f.label)}</span>"
        for name, f in FAMILIES.items()
        if name in families and name not in ("io", "other", "group", "control")
    )
    sections = "".join(
        f"<section><h2>{html.escape(picture.title)} "
        f"<small>{html.escape(picture.subtitle)}</small></h2>"
        f'<div class="pane">{_inline_svg(svg)}</div></section>'
        for picture, svg in panes
    )
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f"<title>{html.escape(title)}</title><style>{_CSS}</style></head>\n<body>"
        f"<header><h1>{html.escape(title)}</h1>{keys}"
        '<input id="search" type="search" placeholder="find" aria-label="find"></header>\n'
        f'<main>{sections}<aside id="panel"><p>Point at a box to read about it, click to keep '
        "it. Scroll to zoom, drag to move, double-click for the whole picture.</p></aside></main>\n"
        f'<script type="application/json" id="details">{_script_json(details)}</script>\n'
        f"<script>{_SCRIPT}</script></body></html>\n"
    )


def _script_json(data: object) -> str:
    """JSON that cannot end the script element that it stands in."""
    text = json.dumps(data, ensure_ascii=True)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _inline_svg(svg: bytes) -> str:
    """The ``<svg>`` element alone, sized by the page."""
    text = svg.decode("utf-8")
    start = text.find("<svg")
    text = text[start:]
    head, _, rest = text.partition(">")
    # Graphviz counts its own ids from 0 in every picture; those of boxes and frames are ours.
    rest = re.sub(r'<g id="(?:graph|edge)\d+" ', "<g ", rest)
    # Its own size would fight with the pane's; the viewBox says all.
    return re.sub(r'\s(width|height)="[^"]*"', "", head) + ">" + rest.rstrip()
