"""From what was found of an attention to ``dot_product_attention`` on arrays in its layout."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxpress import nnops
from jaxpress.capture import Node, Value
from jaxpress.passes.pattern import State
from jaxpress.passes.rule import Match
from jaxpress.passes.rules.attention_axes import Product, Roles, Weighted
from jaxpress.passes.rules.attention_bands import Band, Leaf
from jaxpress.passes.rules.attention_layout import Layout, Place, cut_and_arrange, put_together
from jaxpress.passes.rules.attention_terms import Added, Terms, unscaled
from jaxpress.passes.rules.attention_weights import Dropped
from jaxpress.passes.rules.axis_parts import Joined, Label, Part
from jaxpress.passes.rules.axis_tracking import Axes, arrange, axes_before, spread
from jaxpress.passes.view import View

__all__ = ["build_match", "make_attention"]

# Stand for axes that the product does not have: features, and those of size 1 that queries had.
_FEATURES = -1
_EXTRA = -2

Labels = Sequence[Label]


class _Operand(NamedTuple):
    """An array, the label of each of its axes, and the number that it was multiplied with."""

    value: Value
    labels: tuple[Label, ...]
    factor: float = 1.0


def build_match(
    state: State,
    root: Node,
    product: Product,
    weighted: Weighted,
    roles: Roles,
    terms: Terms,
    dropped: Dropped | None,
    params: dict[str, Any],
) -> Match | None:
    """The match of the rule: arrays by name, and where the op's axes are in each of them.

    Args:
      state: the attempt.
      root: the second product.
      product: the first.
      weighted: what the second product sums.
      roles: what the first product's axes are for.
      terms: what is done to logits.
      dropped: how weights are dropped, its axes in those of the first product.
      params: static parameters of the op.
    """
    view = state.view
    query, key = (
        _labelled(view, value, axes, features)
        for value, axes, features in (
            (product.query, product.query_axes, product.features[0]),
            (product.key, product.key_axes, product.features[1]),
        )
    )
    behind = spread(view, weighted.value, broadcasts=False)
    of_value = list(weighted.axes)
    if weighted.features is not None:
        of_value[weighted.features] = _FEATURES
    value = _Operand(behind.source, _carried(behind.axes, of_value, behind.source.ndim))
    query, lead, heads = _with_extra_axes(query, roles)
    if len(heads) == 1 and roles.shared is not None:
        key, value = _without_repeats(view, key, value, roles.shared)

    bands = [b for leaf in terms.leaves for b in leaf.bands]
    leaves = [leaf for leaf in terms.leaves if not leaf.bands]
    if any((b.query,) != roles.queries for b in bands):
        bands, leaves = [], terms.leaves
    left, right = _narrowest(bands)
    cuts = _cuts(lead, [*terms.added, *leaves])
    if cuts is None:
        state.fail("logits are cut along other axes than those of the batch", root)
        return None

    queries = roles.queries or (None,)
    full = [*lead, *heads, *queries, *roles.keys]
    cut_lead = _cut(lead, cuts)
    to_heads = [*cut_lead, *queries, *heads, _FEATURES]
    to_keys = [*cut_lead, *roles.keys, roles.shared, _FEATURES]
    to_logits = [*cut_lead, *heads, *queries, *roles.keys]

    def place(labels: Labels, wanted: Labels) -> Place:
        return Place(
            tuple([_sizes(label, cuts) for label in labels]), _order(_cut(labels, cuts), wanted)
        )

    values: dict[str, Value] = {"query": query.value, "key": key.value, "value": value.value}
    if dropped is not None:
        # What is drawn depends on the order of the axes.
        drawn = None if cuts or len(full) != len(lead) + 3 else _drawn(dropped, full)
        if drawn is None or dropped.node.output.dtype != jnp.promote_types(
            *(v.dtype for v in root.inputs)
        ):
            state.fail("weights are dropped in another layout, or draw in another way", root)
            return None
        values["dropout_key"] = view.inputs(dropped.node)[1]
        params = params | drawn
    for stem, parts in (("factor", terms.factors), ("added", terms.added), ("leaf", leaves)):
        values |= {f"{stem}{i}": part.value for i, part in enumerate(parts)}
    info = {
        "query": place(query.labels, to_heads),
        "key": place(key.labels, to_keys),
        "value": place(value.labels, to_keys),
        "value_dtype": jnp.promote_types(root.inputs[0].dtype, root.inputs[1].dtype),
        "result": _order(to_heads, _cut(weighted.result, cuts)),
        "together": tuple([len(_cut((label,), cuts)) for label in weighted.result]),
        "counts": (len(cut_lead), len(heads), len(queries), len(roles.keys)),
        "factors": tuple((f.negated, place(f.axes, to_heads)) for f in terms.factors),
        "added": tuple(
            (a.factor, a.shift, a.negated, place(a.axes, to_logits)) for a in terms.added
        ),
        "leaves": tuple((leaf.negated, place(leaf.axes, to_logits)) for leaf in leaves),
        "logits_dtype": jnp.dtype(terms.dtype or product.query.dtype),
        "scale": terms.scale * query.factor * key.factor,
        "left": left,
        "right": right,
        "params": tuple(sorted(params.items())),
    }
    return Match(view, root, values, info=info)


def _cuts(lead: Labels, terms: Sequence[Added | Leaf]) -> dict[Label, tuple[Part, ...]] | None:
    """The batch axes that logits are cut along, and their parts; ``None`` if they are others."""
    cuts: dict[Label, tuple[Part, ...]] = {}
    for label in (a for term in terms for a in term.axes):
        if isinstance(label, Part):
            whole = tuple([Part(label.axis, i, label.sizes) for i in range(len(label.sizes))])
            if label.axis not in lead or cuts.setdefault(label.axis, whole) != whole:
                return None
    joined = [a for term in terms for a in term.axes if isinstance(a, Joined)]
    return None if any(axis in cuts for a in joined for axis in a.axes) else cuts


def _sizes(label: Label, cuts: dict[Label, tuple[Part, ...]]) -> tuple[Any, ...] | None:
    """What an axis is cut into, if it is."""
    if isinstance(label, Joined):
        return label.sizes
    return cuts[label][0].sizes if label in cuts else None


def _cut(labels: Labels, cuts: dict[Label, tuple[Part, ...]]) -> list[Label]:
    """The labels with parts in place of what is cut, and axes in place of what joins them."""
    apart = [b for a in labels for b in (a.axes if isinstance(a, Joined) else (a,))]
    return [part for label in apart for part in cuts.get(label, (label,))]


def _drawn(dropped: Dropped, full: Labels) -> dict[str, Any] | None:
    """The op's parameters that draw just what a ``dropout`` does; ``None`` if there are none."""
    given, axes = dropped.node.params, dropped.axes
    shape = dropped.node.output.shape
    if len(axes) != len(full) or given["draw"] != jnp.result_type(float).name:
        return None
    for label, own, n in zip(full, axes, shape, strict=True):
        alone = label is None or (isinstance(label, int) and label <= _EXTRA)
        if label != own and not (own is None and n == 1 and alone):
            return None
    dims = tuple([d - len(shape) if d >= 0 else d for d in given["broadcast_dims"]])
    if any(d < -4 for d in dims):
        return None
    return {
        "dropout_rate": given["rate"],
        "dropout_broadcast_dims": dims,
        "dropout_form": given["form"],
    }


def _labelled(view: View, value: Value, of_product: Axes, features: int) -> _Operand:
    """Queries or keys as they were before the product, with the product's labels."""
    found = unscaled(view, value)
    labels: list[int | None] = [None] * value.ndim
    for label, axis in enumerate(of_product):
        if axis is not None:
            labels[axis] = label
    labels[features] = _FEATURES
    return _Operand(found.value, _carried(found.axes, labels, found.value.ndim), found.factor)


def _carried(axes: Axes, labels: Labels, ndim: int) -> tuple[Label, ...]:
    """The labels of a source's axes, from those of what was made of it."""
    out: list[Label] = [None] * ndim
    for axis, label in zip(axes, labels, strict=True):
        if axis is not None:
            out[axis] = label
    return tuple(out)


def _with_extra_axes(
    query: _Operand, roles: Roles
) -> tuple[_Operand, list[int | None], list[int | None]]:
    """Queries, their batch axes and their head axes, those of size 1 included.

    ``jnp.matmul`` drops such axes before the product, and one sample is a batch all the same.
    """
    heads: list[int | None] = [a for a in (roles.shared, roles.grouped) if a is not None]
    labels = list(query.labels)
    until = min((labels.index(a) for a in roles.queries if a in labels), default=len(labels))
    lead: list[int | None] = list(roles.lead)
    unnamed = [axis for axis, label in enumerate(labels) if label is None]
    before = [axis for axis in unnamed if axis < until]
    after = [axis for axis in unnamed if axis > until]
    # One of them at most: others, such as that of a slice, are neither batch nor heads.
    if not lead and before:
        lead = [_EXTRA - before[-1]]
        labels[before[-1]] = lead[0]
    if not heads and after:
        heads = [_EXTRA - after[0]]
        labels[after[0]] = heads[0]
    return query._replace(labels=tuple(labels)), lead, heads or [None]


def _without_repeats(
    view: View, key: _Operand, value: _Operand, heads: int
) -> tuple[_Operand, _Operand]:
    """Keys and values with one head where each was repeated for several query heads."""
    found = [_repeated(view, x, heads) for x in (key, value)]
    if found[0] is None or found[1] is None or found[0][1] != found[1][1]:
        return key, value
    return found[0][0], found[1][0]


def _repeated(view: View, x: _Operand, heads: int) -> tuple[_Operand, Any] | None:
    """What ``jnp.repeat`` along the heads was given, and how often it repeats."""
    node = view.producer(x.value)
    if node is None or heads not in x.labels:
        return None
    at = x.labels.index(heads)
    if node.op == "broadcast_in_dim":
        return _of_one_head(view, x, node, at)
    if node.op != "reshape":
        return None
    wide = view.inputs(node)[0]
    before, after = wide.shape, x.value.shape
    fits = len(before) == len(after) + 1 and (*before[:at], *before[at + 2 :]) == (
        *after[:at],
        *after[at + 1 :],
    )
    if not fits or not isinstance(before[at + 1], int) or before[at + 1] < 2:
        return None
    labels = (*x.labels[: at + 1], None, *x.labels[at + 1 :])
    value = wide
    axes: Axes = tuple(range(wide.ndim))
    for _ in range(4):
        maker = view.producer(value)
        back = None if maker is None else axes_before(view, maker)
        if maker is None or back is None:
            return None
        axes = tuple([None if a is None else back[a] for a in axes])
        value = view.inputs(maker)[0]
        lost = [i for i, a in enumerate(axes) if a is None and wide.shape[i] != 1]
        if lost == [at + 1]:
            source = _Operand(value, _carried(axes, labels, value.ndim), x.factor)
            return source, before[at + 1]
        if lost:
            return None
    return None


def _of_one_head(view: View, x: _Operand, node: Node, at: int) -> tuple[_Operand, Any] | None:
    """What one head was that became all of them."""
    before = axes_before(view, node)
    assert before is not None
    if [i for i, a in enumerate(before) if a is None and x.value.shape[i] != 1] != [at]:
        return None
    behind = view.inputs(node)[0]
    source = _Operand(behind, _carried(before, x.labels, behind.ndim), x.factor)
    return source, x.value.shape[at]


def _order(labels: Labels, wanted: Labels) -> Axes:
    """Where the wanted axes are among those with ``labels``; ``None`` for those of size 1."""
    places = {label: i for i, label in enumerate(labels) if label is not None}
    return tuple([None if label is None else places.get(label) for label in wanted])


def _narrowest(bands: list[Band]) -> tuple[int | None, int | None]:
    left = [b.left for b in bands if b.left is not None]
    right = [b.right for b in bands if b.right is not None]
    return min(left, default=None), min(right, default=None)


def make_attention(*, match: Match, **arrays: Any) -> Any:
    """The rule's replacement."""
    info = match.info
    query, key, value = (
        cut_and_arrange(arrays[name], info[name]) for name in ("query", "key", "value")
    )
    value = value.astype(info["value_dtype"])
    for i, (divided, place) in enumerate(info["factors"]):
        factor = cut_and_arrange(arrays[f"factor{i}"], place)
        query = query / factor if divided else query * factor
    layout = Layout(query, key, info["counts"])
    bias = None
    for i, (factor, shift, negated, place) in enumerate(info["added"]):
        one = layout.of_logits(cut_and_arrange(arrays[f"added{i}"], place))
        if shift is not None:
            zero, number = (jnp.asarray(x, info["logits_dtype"]) for x in (0.0, shift))
            one = jnp.where(one, number, zero) if negated else jnp.where(one, zero, number)
        elif factor != 1:
            one = one * jnp.asarray(factor, one.dtype)
        bias = one if bias is None else bias + one
    mask = None
    for i, (negated, place) in enumerate(info["leaves"]):
        one = layout.of_logits(cut_and_arrange(arrays[f"leaf{i}"], place))
        one = one if one.dtype == jnp.bool_ else one != 0
        one = ~one if negated else one
        mask = one if mask is None else mask & one
    left, right = info["left"], info["right"]
    operands = {
        "query": layout.of_queries(query),
        "key": layout.of_keys(key),
        "value": layout.of_keys(value),
        "bias": bias,
        "mask": mask,
        "dropout_key": arrays.get("dropout_key"),
    }
    y = nnops.registry()["dot_product_attention"].rebind(
        operands,
        is_causal=right == 0,
        local_window_size=None if left is None and right in (None, 0) else (left, right),
        scale=_scale(info["scale"], query),
        **dict(info["params"]),
    )
    return put_together(arrange(layout.result(y), info["result"]), info["together"])


def _scale(scale: float, query: Any) -> float | None:
    """``None`` for what attention does by itself."""
    features = query.shape[-1]
    if not isinstance(features, int) or features == 0:
        return scale
    eps = min(float(jnp.finfo(query.dtype).eps), float(jnp.finfo(jnp.float32).eps))
    return None if abs(scale * float(np.sqrt(features)) - 1) < 4 * eps else scale
