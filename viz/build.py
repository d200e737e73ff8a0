"""Graph -> Picture: the chosen parts become boxes and clusters, and the values become edges."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator

from jaxpress.capture.graph import Graph, Node, Value, short_dtype
from jaxpress.viz.boxes import cluster_label, idle_box, io_box, part_box, port_box, size_of
from jaxpress.viz.columns import box_rows
from jaxpress.viz.leaves import leaf_groups
from jaxpress.viz.model import Box, Cluster, Edge, Picture
from jaxpress.viz.parts import Part, body_sites
from jaxpress.viz.plan import Plan, make_plan
from jaxpress.viz.site import DATA, INLINE, Site
from jaxpress.viz.tally import Tally
from jaxpress.viz.text import array_text, clean, count_text

__all__ = ["build_picture"]

MAX_WIDE = 16


def build_picture(
    graph: Graph,
    *,
    title: str | None = None,
    depth: int | None = None,
    max_nodes: int | None = None,
    weights: frozenset[str] | None = None,
    notes: Callable[[Node], tuple[str, ...]] | None = None,
    prefix: str = "",
) -> Picture:
    """Draw ``graph`` as plain data.

    Args:
      graph: a function's graph.
      title: the line at the top; the function's name by default.
      depth: how many levels of groups to open; ``None`` to open as many as fit.
      max_nodes: how many boxes fit; ``None`` for the default.
      weights: names of the arguments that are weights; ``None`` to tell by names and use.
      notes: what passes did to make a node; a node with notes is marked.
      prefix: put before every id, so that two pictures can stand on one page.

    Returns:
      The picture; the same one for the same graph.
    """

    def build(folded: bool) -> Picture:
        plan = make_plan(graph, depth=depth, max_nodes=max_nodes, weights=weights, folded=folded)
        return _Builder(graph, plan, notes or (lambda node: ()), prefix).picture(title)

    picture = build(folded=False)
    # What fits by its number of boxes may still be too wide for a page.
    if depth is None and widest_row(picture) > MAX_WIDE:
        return build(folded=True)
    return picture


def widest_row(picture: Picture) -> int:
    """How many boxes stand side by side, at most."""
    rows = box_rows(list(picture.boxes()), picture.edges)
    return max(Counter(rows.values()).values(), default=0)


def usual_dtype(graph: Graph) -> str:
    """The short name of the graph's most frequent dtype, which goes without saying.

    A floating one, where there is any: the numbers are what a reader follows.
    """
    values = [*graph.inputs, *(v for node in graph.nodes for v in node.outputs)]
    names = [short_dtype(v.dtype) for v in values if v.dtype is not None]
    counts = Counter(n for n in names if n.startswith(("f", "bf"))) or Counter(names)
    return max(counts, key=counts.__getitem__) if counts else ""


class _Builder:
    def __init__(
        self, graph: Graph, plan: Plan, notes: Callable[[Node], tuple[str, ...]], prefix: str
    ):
        self.graph = graph
        self.plan = plan
        self.notes = notes
        self.prefix = prefix
        self.tally = Tally()
        self.usual = usual_dtype(graph)
        self.drawn = 0
        self.box_of: dict[tuple[Site, Node], str] = {}
        self.opened: dict[tuple[Site, Node], tuple[Site, ...]] = {}
        # A further block of a repeat: its node -> the node that is drawn in its place.
        self.first: dict[tuple[Site, Node], tuple[Node, Part]] = {}
        self.around: list[Part] = []  # the repeats around what is being drawn
        self.repeats: dict[str, frozenset[Part]] = {}
        self.turns: dict[tuple[Site, Value], list[tuple[Part, Site, Value]]] = {}
        self.ports: dict[tuple[Site, Value], str] = {}
        self.inputs: dict[Value, str] = {}
        self.covered: list[tuple[str, Site, tuple[Node, ...]]] = []
        self.quiet: set[str] = set()  # boxes that say their shape themselves
        self.choices: list[tuple[str, str]] = []
        self.edges: dict[tuple[str, str, str], list[Value]] = {}

    def new_id(self) -> str:
        self.drawn += 1
        return f"{self.prefix}n{self.drawn}"

    def picture(self, title: str | None) -> Picture:
        ins = self.input_boxes()
        root, depth = self.plan.root, self.plan.depth
        body = self.members(root, depth) if depth > 0 or not root.nodes else [self.box(root)]
        self.connect()
        outs = self.output_boxes()
        edges = tuple(self.make_edges())
        name = clean(title if title is not None else self.graph.name, 120)
        return Picture(name, self.subtitle(), (*ins, *body, *outs), edges)

    def subtitle(self) -> str:
        total = sum(self.tally.graph(self.graph).values())
        words = [f"{total} op{'' if total == 1 else 's'}"]
        site = self.plan.root.site
        size = sum(map(size_of, site.weights()))
        if size:
            words.append(f"{count_text(size)} weights")
        if self.graph.prologue is not None:
            before = sum(self.tally.graph(self.graph.prologue).values())
            words.append(f"{before} more prepare the weights once")
        if self.usual:
            words.append(f"{self.usual} unless noted")
        return " · ".join(words)

    # Boxes.

    def input_boxes(self) -> list[Box]:
        site = self.plan.root.site
        values = [v for v in self.graph.inputs if site.of(v).kind == DATA]
        boxes = []
        for name, group in leaf_groups([v.name for v in values]):
            box = io_box(self.new_id(), "input", name, [values[i] for i in group], self.usual)
            self.inputs.update((values[i], box.id) for i in group)
            if len(group) == 1:
                self.quiet.add(box.id)
            boxes.append(box)
        return boxes

    def output_boxes(self) -> list[Box]:
        signature = self.graph.signature
        values = self.graph.outputs
        paths = signature.result_paths if signature is not None else ()
        if len(paths) != len(values):
            paths = [f"result{i}" for i in range(len(values))]
        site = self.plan.root.site
        boxes = []
        for name, group in leaf_groups(list(paths)):
            held = [values[i] for i in group]
            inline = [site.of(v).text or "constant" for v in held if site.of(v).kind in INLINE]
            box = io_box(self.new_id(), "output", name, held, self.usual, inline)
            boxes.append(box)
            for value in held:
                for source, again in self.resolve(site, value):
                    self.add_edge(source, box.id, value, again)
        return boxes

    def members(self, part: Part, depth: int) -> list[Box | Cluster]:
        return [self.draw(child, depth - 1) for child in self.plan.children(part)]

    def draw(self, part: Part, depth: int) -> Box | Cluster:
        if part.kind != "repeat":
            return self.cluster(part, depth) if depth > 0 and part.opens else self.box(part)
        for copy in part.copies:
            pairs = zip(copy, part.nodes, strict=True)
            self.first.update(((part.site, n), (f, part)) for n, f in pairs)
        self.around.append(part)
        drawn = self.cluster(part, depth) if depth > 0 else self.box(part)
        self.around.pop()
        return drawn

    def box(self, part: Part) -> Box:
        box_id = self.new_id()
        self.box_of.update(((part.site, node), box_id) for node in part.nodes)
        self.covered.append((box_id, part.site, part.nodes))
        self.repeats[box_id] = frozenset(self.around)
        notes = tuple(dict.fromkeys(t for n in part.nodes for t in self.notes(n)))
        return part_box(box_id, part, self.usual, self.tally, notes)

    def cluster(self, part: Part, depth: int) -> Cluster:
        cluster_id = f"{self.new_id()}c"
        inner = part
        if part.kind == "repeat":
            children = self.plan.children(part)
            if len(children) == 1 and children[0].opens:
                # The frame of the only block is the frame of the repeat.
                inner = children[0]
                if depth > 1:
                    depth -= 1
        ports: list[Box] = []
        if inner.sites:
            self.opened[inner.site, inner.node] = inner.sites
            if inner.kind == "control":
                ports = self.port_boxes(inner)
        label = cluster_label(part, inner)
        kind = inner.kind
        members = self.members(inner, depth)
        if not members and not ports:
            members = [idle_box(self.new_id())]
        if kind == "control" and inner.node.op == "cond":
            firsts = [next(m.boxes(), None) for m in members if isinstance(m, Cluster)]
            self.choices += [(ports[-1].id, box.id) for box in firsts if box is not None]
        return Cluster(cluster_id, label, kind, (*ports, *members))

    def port_boxes(self, part: Part) -> list[Box]:
        boxes = []
        for site in part.sites:
            for value, binding in site.bindings.items():
                if binding.role and site.of(value).kind not in INLINE:
                    (outer_site, outer), *_ = binding.outer
                    name = clean(outer.name, 24) if outer_site.top and outer in self.inputs else ""
                    box = port_box(self.new_id(), binding.role, name, value, self.usual)
                    self.ports[site, value] = box.id
                    self.quiet.add(box.id)
                    boxes.append(box)
        if part.node.op == "cond":
            box = port_box(self.new_id(), "choice", "", part.node.inputs[0], self.usual)
            self.ports[part.site, part.node.inputs[0]] = box.id
            boxes.append(box)
        return boxes

    # Edges.

    def resolve(self, site: Site, value: Value) -> Iterator[tuple[str, bool]]:
        """The boxes that ``value`` comes from, each with whether it is from an earlier turn."""
        if site.of(value).kind in INLINE:
            return
        node = site.graph.producer(value)
        if node is None:
            yield from self.resolve_input(site, value)
            return
        first, _ = self.first.get((site, node), (node, None))
        index = node.outputs.index(value)
        sites = self.opened.get((site, first))
        if sites is None:
            box = self.box_of.get((site, first))
            if box is not None:
                yield box, False
            return
        if node.op == "while":
            sites = sites[1:]
        seen = set()
        for inner in sites:
            for found in self.resolve(inner, inner.graph.outputs[index]):
                if found not in seen:
                    seen.add(found)
                    yield found

    def resolve_input(self, site: Site, value: Value) -> Iterator[tuple[str, bool]]:
        if (site, value) in self.ports:
            yield self.ports[site, value], False
        elif site.top:
            if value in self.inputs:
                yield self.inputs[value], False
        elif value in site.bindings:
            for outer_site, outer in site.bindings[value].outer:
                yield from self.resolve(outer_site, outer)
            for repeat, outer_site, outer in self.turns.get((site, value), ()):
                for box, again in self.resolve(outer_site, outer):
                    yield box, again or repeat in self.repeats.get(box, ())

    def connect(self) -> None:
        """Find every edge between the drawn boxes, those of later turns last."""
        self.bind_turns()
        for box, site, nodes in self.covered:
            for node in nodes:
                for value in dict.fromkeys(node.inputs):
                    for source, again in self.resolve(site, value):
                        self.add_edge(source, box, value, again)
        for (site, value), port in self.ports.items():
            binding = site.bindings.get(value)
            outer = binding.outer if binding is not None else ((site, value),)
            for outer_site, held in outer:
                for source, again in self.resolve(outer_site, held):
                    self.add_edge(source, port, held, again)
            if binding is not None and binding.again is not None:
                for source, _ in self.resolve(site, binding.again):
                    self.add_edge(source, port, binding.again, True)
        returned: dict[str, str] = {}
        for (site, node), (first, repeat) in self.first.items():
            box = self.box_of.get((site, first))
            if box is None:
                continue
            for value in dict.fromkeys(node.inputs):
                for source, again in self.resolve(site, value):
                    again = again or repeat in self.repeats.get(source, ())
                    if not again:
                        self.add_edge(source, box, value, False)
                    elif (source, box, "data") not in self.edges and source not in returned:
                        # One way back says it; more of them hide the block.
                        returned[source] = box
                        self.add_edge(source, box, value, True)

    def bind_turns(self) -> None:
        """Tell the bodies drawn once for many blocks where the other blocks' operands come from."""
        for (site, node), (first, repeat) in self.first.items():
            sites = self.opened.get((site, first), ())
            others = (body_sites(site, node) or ()) if sites else ()
            for drawn, other in zip(sites, others, strict=False):
                pairs = zip(drawn.graph.inputs, other.graph.inputs, strict=False)
                for value, twin in pairs:
                    if twin in other.bindings:
                        held = self.turns.setdefault((drawn, value), [])
                        held += [(repeat, *outer) for outer in other.bindings[twin].outer]

    def add_edge(self, source: str, target: str, value: Value, again: bool) -> None:
        if source != target:
            held = self.edges.setdefault((source, target, "again" if again else "data"), [])
            if value not in held:
                held.append(value)

    def make_edges(self) -> Iterator[Edge]:
        """The edges, labelled where the array's shape is not what went into the box."""
        entering: dict[str, set[str]] = {}
        for (_, target, _), values in self.edges.items():
            entering.setdefault(target, set()).update(array_text(v) for v in values)
        for (source, target, kind), values in self.edges.items():
            label = ""
            news = [v for v in values if array_text(v) not in entering.get(source, ())]
            if news and source not in self.quiet and kind == "data":
                texts = dict.fromkeys(array_text(v, self.usual) for v in news)
                label = ", ".join(texts) if len(texts) < 3 else f"{len(values)} arrays"
            yield Edge(source, target, label, kind)
        for source, target in self.choices:
            yield Edge(source, target, "", "choice")
