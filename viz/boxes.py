"""What stands in a box or over a frame: text for operations, groups, arguments and ports."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

from jaxpress.capture.graph import Node, Value
from jaxpress.viz.labels import (
    call_name,
    count_line,
    node_title,
    operand_role,
)
from jaxpress.viz.model import Box
from jaxpress.viz.parts import Part, is_small_call
from jaxpress.viz.site import CONST, DATA, DERIVED, INLINE, WEIGHT, Site
from jaxpress.viz.style import family_of
from jaxpress.viz.tally import Tally, with_inline
from jaxpress.viz.text import BODY, array_text, clean, count_text, param_text, shape_text

__all__ = ["cluster_label", "idle_box", "io_box", "part_box", "port_box", "size_of"]

MAX_WEIGHT_LINES = 4
WEIGHT_LINE = 26  # letters


def size_of(value: Value) -> int:
    """How many numbers an array holds; a symbolic size counts as one."""
    return math.prod(n if isinstance(n, int) else 1 for n in value.shape)


def part_box(box_id: str, part: Part, usual: str, tally: Tally, notes: tuple[str, ...]) -> Box:
    """The box of a part that is drawn closed.

    Args:
      box_id: the box's id.
      part: what to draw.
      usual: the dtype that goes without saying.
      tally: counts operations.
      notes: what passes did to make it.
    """
    if part.kind == "op":
        return _op_box(box_id, part, usual, tally, notes)
    counts = tally.nodes(with_inline(part.site, part.nodes))
    lines = [_listing(part.nodes)] if part.kind == "chain" else [count_line(counts)]
    size = sum(map(size_of, _roots(part.site, part.nodes)))
    if size:
        lines.append(f"{count_text(size * part.times)} weights")
    family = _main_family(counts)
    if part.kind == "chain" and family != "move":
        family = "elementwise"
    detail = [
        ("ops", ", ".join(f"{n} {clean(op)}" for op, n in sorted(counts.items()))),
        *(_where(part.nodes[0]) if part.nodes else ()),
        *(("pass", text) for text in notes),
    ]
    return Box(
        box_id,
        "group",
        _group_name(part, part) or f"{len(part.nodes)} ops",
        part.caption,
        tuple(lines),
        family,
        bool(notes),
        tuple(detail),
    )


def cluster_label(part: Part, inner: Part) -> str:
    """What is written over the frame of ``part``, where ``inner`` is the frame's content."""
    return "/".join(c for c in (part.caption, _group_name(part, inner)) if c)


def _group_name(part: Part, inner: Part) -> str:
    name = part.name or (inner.name if inner is not part else "")
    if not name and part.kind == "chunk":
        name = f"{len(part.nodes)} ops"
    return f"{name}  × {part.times}".strip() if part.times > 1 else name


def _main_family(counts: Counter[str]) -> str:
    """A group wears the colour of the weightiest kind of operation in it."""
    families = {family_of(op) for op in counts}
    for family in ("attention", "matmul", "norm", "pool", "loss", "random", "activation"):
        if family in families:
            return family
    return next((f for f in ("reduce", "elementwise", "move") if f in families), "group")


def _listing(nodes: Sequence[Node]) -> str:
    names = [clean(n.op if not n.subgraphs else call_name(n), 24) for n in nodes]
    return ", ".join(names[:5]) + (", …" if len(names) > 5 else "")


def _roots(site: Site, nodes: Sequence[Node]) -> list[Value]:
    found: dict[Value, None] = {}
    for node in nodes:
        for value in node.inputs:
            found.update(dict.fromkeys(site.of(value).roots))
    return list(found)


def _op_box(box_id: str, part: Part, usual: str, tally: Tally, notes: tuple[str, ...]) -> Box:
    node, site = part.node, part.site
    small_call = bool(node.subgraphs) and is_small_call(node)
    inline: dict[int, str] = {}
    weights: list[str] = []
    for i, value in enumerate(node.inputs):
        info = site.of(value)
        if info.kind == CONST and size_of(value) == 1 and not small_call:
            inline[i] = info.text
        elif info.kind in INLINE and not (small_call and info.kind == CONST):
            weights.append(weight_text(site, node, i, usual))
    lines = [*_epilogue(node)]
    lines += _short_list(weights)
    if node.subgraphs and not small_call:
        lines.append(f"body: {count_line(tally.graph(node.subgraphs[0]))}")
    family = family_of(node.op)
    title = node_title(node, inline)
    if small_call:
        title = call_name(node)
        family = family_of(title)
        inner = _inner_ops(node)
        if family == "other":
            family = _main_family(Counter(inner))
        if inner != [title]:
            lines.append(_joined(inner))
    detail = [
        ("op", clean(node.op)),
        *_where(node),
        *_plain_params(node),
        *(("in", _operand(node, i, site)) for i in range(len(node.inputs))),
        *(("out", array_text(v)) for v in node.outputs),
        *(("pass", text) for text in notes),
    ]
    return Box(box_id, "op", title, part.caption, tuple(lines), family, bool(notes), tuple(detail))


def _inner_ops(node: Node) -> list[str]:
    """The operations of a small call, those of calls inside it in their place."""
    found = []
    for body in node.subgraphs:
        for inner in body.nodes:
            found += _inner_ops(inner) if inner.subgraphs else [clean(inner.op, 24)]
    return found


def _joined(names: list[str]) -> str:
    kept = [n for n in names if family_of(n) != "move"] or names
    return ", ".join(kept[:4]) + (", …" if len(kept) > 4 else "")


def _epilogue(node: Node) -> list[str]:
    """What a fused op does after its core, and the kernel it was given."""
    lines = []
    operands = node.params.get("operands", ())
    extra = [f"+{name}" for name in operands if name in ("b", "residual")]
    extra = ["+bias" if e == "+b" else e for e in extra]
    activation = node.params.get("activation")
    if activation is not None:
        extra.append(f"→ {param_text(activation, 60)}")
    if extra:
        lines.append(" ".join(extra))
    kernel = node.params.get("kernel", "reference")
    if kernel not in ("reference", None):
        lines.append(f"kernel: {clean(kernel, 32)}")
    return lines


def weight_text(site: Site, node: Node, index: int, usual: str) -> str:
    """A weight as its consumer shows it: ``"w 3×3×32×64"``, ``"ƒ(scale, var) 32"``."""
    value = node.inputs[index]
    info = site.of(value)
    role = operand_role(node, index)
    if info.kind == CONST:
        if size_of(value) == 1 or info.text.startswith(("iota", "const")):
            return f"{role} {info.text}".strip()
        return f"{role} all {info.text}, {array_text(value, usual)}".strip()
    root = info.roots[0]
    if info.kind == WEIGHT:
        # Reshaping a weight is no news; taking a part of it is.
        shown = root if size_of(root) == size_of(value) else value
        return f"{info.text or role or 'const'} {array_text(shown, usual)}"
    names = [site.of(r).text for r in info.roots]
    known = list(dict.fromkeys(n for n in names if n))
    if role:
        text = role
    elif known and len(known) <= 3:
        text = f"ƒ({', '.join(known)})"
    else:
        text = f"ƒ({len(names)} weights)" if len(names) > 1 else "ƒ(const)"
    return f"{text} {shape_text(value.shape)}"


def _short_list(weights: list[str]) -> list[str]:
    """Weights of one shape share a line, and a long list is cut."""
    by_shape: dict[str, list[str]] = {}
    for text in weights:
        name, _, shape = text.partition(" ")
        by_shape.setdefault(shape, []).append(name)
    lines: list[str] = []
    for shape, names in by_shape.items():
        text = f"{', '.join(names)} {shape}".strip()
        if lines and len(lines[-1]) + len(text) < WEIGHT_LINE:
            lines[-1] += f" · {text}"
        else:
            lines.append(text)
    if len(lines) > MAX_WEIGHT_LINES:
        rest = len(lines) - MAX_WEIGHT_LINES + 1
        lines = [*lines[: MAX_WEIGHT_LINES - 1], f"and {rest} more"]
    return lines


# Said by the picture itself, or of no use to a reader.
_HIDDEN = {
    *("operands", "in_layouts", "out_layouts", "in_shardings", "out_shardings", "donated_invars"),
    *("keep_unused", "compiler_options_kvs", "ctx_mesh", "jvp_jaxpr_fun", "fwd_jaxpr_thunk"),
    *("bwd", "num_consts", "out_trees"),
}


def _plain_params(node: Node) -> list[tuple[str, str]]:
    """The parameters that say something: what is unset does not, and bodies are drawn."""
    rows = []
    for key, param in sorted(node.params.items()):
        if key in _HIDDEN or param is None or (isinstance(param, tuple | list) and not param):
            continue
        text = param_text(param)
        if text and text != BODY:
            rows.append((clean(key), text))
    return rows


def _where(node: Node) -> list[tuple[str, str]]:
    rows = []
    if node.scope:
        rows.append(("scope", clean(node.scope, 200)))
    source = node.source
    if source is not None:
        rows.append(("source", clean(source, 120)))
    return rows


def _operand(node: Node, index: int, site: Site) -> str:
    value = node.inputs[index]
    info = site.of(value)
    if info.kind == CONST:
        return info.text
    kind = {WEIGHT: " (weight)", DERIVED: " (from weights)", DATA: ""}[info.kind]
    name = operand_role(node, index)
    return f"{name} {clean(value.name, 80)}: {array_text(value)}{kind}".strip()


def io_box(
    box_id: str,
    kind: str,
    name: str,
    values: Sequence[Value],
    usual: str,
    inline: Sequence[str] = (),
) -> Box:
    """The box of an argument or a result, or of a structure of them.

    Args:
      box_id: the box's id.
      kind: ``"input"`` or ``"output"``.
      name: the argument's name, or the result's path.
      values: its arrays.
      usual: the dtype that goes without saying.
      inline: for results that are weights or constants, what they are.
    """
    if len(values) == 1:
        lines = [array_text(values[0], usual)]
        if inline:
            lines.append(f"= {inline[0]}")
    else:
        size = sum(map(size_of, values))
        lines = [f"{len(values)} arrays, {count_text(size)} numbers"]
    detail = [("array", f"{clean(v.name, 80)}: {array_text(v)}") for v in values[:12]]
    if len(values) > 12:
        detail.append(("array", f"and {len(values) - 12} more"))
    return Box(box_id, kind, clean(name), "", tuple(lines), "io", False, tuple(detail))


def idle_box(box_id: str) -> Box:
    """The box of a branch that only hands on what it is given."""
    return Box(box_id, "port", "no operation", "", (), "io")


_PORTS = {"carry": "carry", "slice": "each", "choice": "which branch"}


def port_box(box_id: str, role: str, name: str, value: Value, usual: str) -> Box:
    """The box of what a loop carries or goes through, or of what chooses a branch."""
    title = f"{_PORTS[role]} {name}".strip()
    return Box(box_id, "port", title, "", (array_text(value, usual),), "io")
