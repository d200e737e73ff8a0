"""Masks on the weights of linear ops and embeddings: to prune a model, or to train a sparse one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxpress.capture import Graph, Node, PassError, Value
from jaxpress.passes.derivatives import before_differentiating
from jaxpress.passes.mask_sources import (
    GivenMasks,
    GlobalMasks,
    LayerMasks,
    MaskSource,
    from_outside,
    mask_arrays,
)
from jaxpress.passes.more_inputs import with_more_inputs
from jaxpress.passes.new_arguments import add_arguments
from jaxpress.passes.opened import parts_hint
from jaxpress.passes.pipeline import Pass
from jaxpress.passes.pruning import check_structure
from jaxpress.passes.record import Rewrite
from jaxpress.passes.rules.weights import operands_of
from jaxpress.passes.weight_sites import (
    WEIGHTS,
    Scope,
    Sites,
    Where,
    children_of,
    chooser,
    find_sites,
)

__all__ = ["insert_weight_masks", "maskable_weights"]

NAME = "insert_weight_masks"


def insert_weight_masks(
    where: Where = None,
    *,
    sparsity: float | Callable[[Node], float] | None = None,
    structure: Any = "unstructured",
    scope: str = "layer",
    masks: Mapping[str, Any] | Callable[[str, Any], Any] | None = None,
    argument: str | None = None,
    mask_dtype: Any = bool,
) -> Pass:
    """A pass that multiplies weights with masks: ``op(x, w)`` becomes ``op(x, w * mask)``.

    The function is raised to named ops first. Give it the loss, and differentiate what comes out: a
    gradient that is there already would not be that of the masked weights. Exactly one of
    ``sparsity``, ``masks`` and ``argument`` says where masks come from. Where weights and masks are
    known, the products are computed once, by ``fold_constants``.

    Args:
      where: which ops: None for every dense, conv, einsum_dense, attend, embedding, lstm, gru and
        rnn (the weights of x and of the state alike); an op's name; a pattern for scopes or for
        weights' names, such as ``"*/Conv_*"``; a predicate of the node; or several of these, of
        which any will do.
      sparsity: the fraction of weights to drop, the smallest first, or a function that gives it
        for a node. The mask is computed from the weights themselves.
      structure: ``"unstructured"``, ``"channel"`` (whole features), or ``(n, m)`` to keep n of each
        m neighbours along the input axis; see ``magnitude_mask``. Weights that several ops share
        are masked for each by its own axes: where these differ, as in ``x @ w @ w.T``, give
        ``masks`` if they are to stay the same.
      scope: ``"layer"``, the fraction of each op's weights, or ``"global"``, of all together
        (unstructured only); equal magnitudes at the border go together there.
      masks: arrays by weights' names (weights that have none stay as they are), or a function
        ``(name, aval) -> array`` (None to leave one out). Masks have their weights' very shapes.
      argument: the name of a new keyword argument, a dict of masks by weights' names.
      mask_dtype: of the masks in that argument.

    Returns:
      The pass. It raises a PassError where nothing is chosen, a mask has another shape, a name is
      unknown (``maskable_weights`` lists them), or the weights' gradient is computed already.

    Raises:
      PassError: the options contradict each other.

    >>> import jax.numpy as jnp
    >>> import jaxpress as jp
    >>> w = jnp.array([[3.0, -1.0], [2.0, -4.0]])
    >>> pruned = jp.optimize(lambda x: x @ w, [insert_weight_masks(sparsity=0.5), "default"])
    >>> pruned(jnp.ones((1, 2))).tolist()
    [[3.0, -4.0]]
    """
    if sum(source is not None for source in (sparsity, masks, argument)) != 1:
        raise PassError(f"{NAME}: give one of sparsity, masks and argument")
    if scope not in ("layer", "global"):
        raise PassError(f"{NAME}: scope is {scope!r}; give 'layer' or 'global'")
    structure = check_structure(structure, 0.0 if callable(sparsity) else sparsity or 0.0)
    if scope == "global" and (structure != "unstructured" or not isinstance(sparsity, float | int)):
        raise PassError(f"{NAME}: scope='global' needs one unstructured sparsity")
    chosen = chooser(where)

    def work(graph: Graph, record: list[Rewrite] | None = None) -> Graph:
        graph = raised(graph)
        sites = find_sites(graph, chosen)
        if not sites.names:
            raise PassError(f"{NAME}: no weights are chosen by {where!r}{_known_names(graph)}")
        if sites.gradients:
            node = sites.gradients[0]
            raise PassError(
                f"{NAME}: {node!r} ({node.source or 'no source line'}) is part of a gradient "
                f"by weights that are not masked yet; {before_differentiating(NAME)}"
            )
        source: MaskSource
        if argument is not None:
            shapes = {
                name: jax.ShapeDtypeStruct(base.shape, jnp.dtype(mask_dtype))
                for base, name in sites.names.items()
            }
            graph, new = add_arguments(graph, {argument: shapes}, weights=True)
            given = {base: new[argument][name] for base, name in sites.names.items()}
            source = GivenMasks(given)
        elif masks is not None:
            source = GivenMasks(mask_arrays(masks, sites.names))
        elif sites.partly:
            node, operand = sites.partly[0]
            raise PassError(
                f"{NAME}: {where!r} chooses some of the weights that {node!r} joins to its "
                f"{operand}; choose all of them, or give masks"
            )
        elif scope == "global":
            assert isinstance(sparsity, float | int)
            source = GlobalMasks(list(sites.names), sparsity)
        else:
            source = LayerMasks(sparsity, structure)
        return _Inserter(sites, source, [] if record is None else record).run(graph)

    return Pass(
        NAME,
        work,
        "Weights are multiplied with masks.",
        new_arguments=() if argument is None else (argument,),
    )


def maskable_weights(graph: Graph, where: Where = None) -> dict[str, Any]:
    """The weights that ``insert_weight_masks`` would mask: each name with its shape and dtype.

    >>> import jax.numpy as jnp
    >>> from jaxpress.capture import trace
    >>> graph = trace(lambda p, x: x @ p["w"])({"w": jnp.ones((3, 4))}, jnp.ones((2, 3)))
    >>> maskable_weights(graph)
    {"p['w']": ShapeDtypeStruct(shape=(3, 4), dtype=float32)}
    """
    names = find_sites(raised(graph), chooser(where)).names
    return {name: jax.ShapeDtypeStruct(base.shape, base.dtype) for base, name in names.items()}


def raised(graph: Graph, closed: Iterable[str] = ()) -> Graph:
    """The graph with its named ops, as far as ``default`` finds them before it folds any.

    Args:
      graph: the graph.
      closed: ops that stay as they are, of those that else become what they are made of.
    """
    from jaxpress.passes.presets import default

    steps = list(default.without(*(f"open_{name}" for name in closed)))
    names = [step.name for step in steps]
    found = names.index("raise_ops") + 1
    # Parts of an op that are alike are places of their own: cse must not make them one.
    rest = [p for p in steps[found : names.index("fold_batch_norm")] if p.name != "cse"]
    for step in (*steps[:found], *rest):
        graph = step(graph)
    return graph


def _known_names(graph: Graph) -> str:
    names = list(find_sites(graph, chooser(None)).names.values())
    return (f"; there are {names}" if names else "; there are none") + parts_hint(graph, WEIGHTS)


class _Inserter:
    """Inserts masks at the chosen nodes of a graph and its bodies."""

    def __init__(self, sites: Sites, source: MaskSource, record: list[Rewrite]):
        self.sites = sites
        self.source = source
        self.record = record

    def run(self, graph: Graph) -> Graph:
        top = Scope(graph)
        self.source.prepare(top)
        self.insert(top)
        return top.editor.finish()

    def insert(self, scope: Scope) -> bool:
        """Whether anything was inserted."""
        editor, changed = scope.editor, False
        for node in list(editor.nodes()):
            children = children_of(scope, node)
            inside = [self.insert(child) for child in children]
            if any(inside):
                self._give(scope, node, children)
                changed = True
            for operand in self.sites.nodes.get(node, ()):
                new = self._mask(scope, node, operand)
                changed, node = changed or new is not node, new
        return changed

    def _mask(self, scope: Scope, node: Node, operand: str) -> Node:
        """The node with one of its operands masked."""
        editor = scope.editor
        w = operands_of(editor, node)[operand]
        mask = self.source.mask(scope, node, w)
        if mask is None:
            return node

        def multiply(w: Any, mask: Any) -> Any:
            return lax.mul(w, lax.convert_element_type(mask, w.dtype))

        (masked,), nodes = editor.emit_nodes(multiply, (w, mask), at=node, cache=False)
        place = list(operands_of(editor, node)).index(operand)
        inputs = list(editor.inputs(node))
        inputs[place] = masked
        new = node.with_inputs(tuple(inputs))
        editor.exchange(node, new)
        self.record.append(Rewrite(NAME, NAME, "approximate", (node,), (*nodes, new)))
        return new

    def _give(self, scope: Scope, node: Node, children: list[Scope]) -> None:
        """Exchange a node's bodies, and hand in what they need."""
        bodies = [child.editor.finish() for child in children]
        handed: list[list[tuple[Value, Value]]] = [[] for _ in children]
        rows: list[tuple[Value, Value]] = []
        for pairs, child in zip(handed, children, strict=True):
            for (kind, value), placeholder in child.needed.items():
                if kind == "outside":
                    pairs.append((placeholder, from_outside(scope, value)))
                    continue
                assert isinstance(self.source, GivenMasks)
                outer = self.source.follow(scope, child.given[value][1], node)
                (rows if kind == "xs" else pairs).append((placeholder, outer))
        if not rows and not any(handed):
            new = node.with_subgraphs(bodies).with_inputs(scope.editor.inputs(node))
            scope.editor.exchange(node, new)
            return
        if node.op == "scan" and node.effects:
            raise PassError(
                f"{NAME}: {node!r} ({node.source or 'no source line'}) has effects, and cannot be "
                "given masks; leave its weights out with where="
            )
        with_more_inputs(scope.editor, node, bodies, handed, rows)
