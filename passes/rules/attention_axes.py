"""Which axes of attention's two products are batch, heads, queries, keys and features."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

from jaxpress.capture import Node, Value
from jaxpress.passes.pattern import State
from jaxpress.passes.rules.attention_bands import Band
from jaxpress.passes.rules.axis_parts import Joined, Label, Labels
from jaxpress.passes.rules.axis_tracking import Axes, spread
from jaxpress.passes.view import View, is_parameter_like

__all__ = ["Product", "Roles", "Weighted", "product_of", "roles_of", "weighted_of"]


class Product(NamedTuple):
    """``dot_general(query, key)``, its result's axes seen from either side.

    Attributes:
      query: the operand with the axis of queries.
      key: the operand with the axis of keys.
      query_axes: for each axis of the result, that of ``query``, or ``None``.
      key_axes: the same for ``key``.
      features: the axis that is contracted, of query and of key.
      batch: the result's batch axes.
      free: the result's axes that ``query`` alone has.
      keys: the result's axes of keys.
      own: the result's other axes that ``key`` alone has.
    """

    query: Value
    key: Value
    query_axes: Axes
    key_axes: Axes
    features: tuple[int, int]
    batch: tuple[int, ...]
    free: tuple[int, ...]
    keys: tuple[int, ...]
    own: tuple[int, ...]


class Roles(NamedTuple):
    """Axes of the product: what each of them is for attention.

    Attributes:
      lead: the batch.
      queries, keys: T and S, of several axes where attention looks along several; no query's axis
        is one query.
      shared: heads that queries, keys and values all have; ``None`` is one.
      grouped: query heads that share one key head; ``None`` is one.
    """

    lead: tuple[int, ...]
    queries: tuple[int, ...]
    keys: tuple[int, ...]
    shared: int | None
    grouped: int | None


class Weighted(NamedTuple):
    """``dot_general(weights, value)``.

    Attributes:
      value: the values.
      axes: the product's axis for each axis of ``value``, or those joined in it; ``None`` for its
        features.
      features: its axis of features, if it has one.
      result: for each axis of the result, the product's; ``-1`` for the features, ``None`` for
        an axis of size 1.
    """

    value: Value
    axes: Labels
    features: int | None
    result: Labels


def product_of(state: State, node: Node, keys: Labels) -> Product | None:
    """The product of queries and keys, if the softmax's axes, ``keys``, are one operand's own."""
    apart = [b for a in keys for b in _apart(a)]
    view = state.view
    left, right = view.inputs(node)
    (contracted, batches) = node.params["dimension_numbers"]
    along = tuple([a for a in apart if isinstance(a, int)])
    if len(along) < len(apart) or any(len(c) != 1 for c in contracted):
        state.fail("the product contracts several axes, or the softmax is not along its own", node)
        return None
    if node.params.get("out_sharding") is not None:
        state.fail("the product says how its result is sharded", node)
        return None
    n = len(batches[0])
    axes: list[list[int | None]] = [[int(a) for a in batches[0]], [int(a) for a in batches[1]]]
    for side, value in ((0, left), (1, right)):
        used = {*map(int, contracted[side]), *map(int, batches[side])}
        own = [a for a in range(value.ndim) if a not in used]
        axes[side] += own
        axes[1 - side] += [None] * len(own)
    if min(along) < n:
        state.fail("the softmax runs along an axis that queries and keys share", node)
        return None
    query = 1 if axes[0][along[0]] is not None else 0
    if any(axes[1 - query][a] is None for a in along):
        state.fail("the softmax runs along axes of both operands", node)
        return None
    own = range(n, len(axes[0]))
    operands = (left, right)
    return Product(
        operands[query],
        operands[1 - query],
        tuple(axes[query]),
        tuple(axes[1 - query]),
        (int(contracted[query][0]), int(contracted[1 - query][0])),
        tuple(range(n)),
        tuple(i for i in own if axes[query][i] is not None),
        along,
        tuple(i for i in own if axes[query][i] is None and i not in along),
    )


def roles_of(state: State, product: Product, bands: Iterable[Band]) -> Roles:
    """What the product's axes are for attention.

    Any two batch axes are as good as each other for the values; which of them are called heads is
    told by their places: next to the features, as libraries have them.
    """
    view = state.view
    sizes = product.query.shape

    def size(axis: int) -> int:
        place = product.query_axes[axis]
        return 1 if place is None else sizes[place]

    others = tuple([a for a in product.own if product.key.shape[product.key_axes[a] or 0] != 1])
    # Axes of size 1 that were made for the product are none of the queries' own.
    places = _places(view, product)
    free = [a for a in product.free if a in places] or list(product.free[:1])
    if len(free) > 2:
        free = [a for a in free if size(a) != 1]
    grouped: int | None = None
    if len(free) > 2 or len(product.keys) > 1:
        # Attention along several axes at once.
        queries = tuple(sorted(free, key=lambda a: places.get(a, a)))
    else:
        one, grouped = _queries_and_groups(product, free, bands, places, size)
        queries = () if one is None else (one,)
    batch = sorted((a for a in product.batch if a in places), key=lambda a: places[a])
    shared: int | None = None
    if grouped is not None:
        before = [a for a in batch if places[a] == places[grouped] - 1]
        shared = before[0] if before else None
    elif batch:
        first = min((places.get(a, len(sizes)) for a in queries), default=len(sizes))
        if others or len(batch) > 1 or places[batch[0]] > first:
            shared = batch[-1]
    # Queries that all samples share are given to each of them.
    lead = (*others, *(a for a in batch if a != shared))
    return Roles(lead, queries, product.keys, shared, grouped)


def _places(view: View, product: Product) -> dict[int | None, int]:
    """Where the product's axes are in the array that queries were before they were rearranged."""
    behind = spread(view, product.query, broadcasts=False)
    first = _weights_in_front(view, behind.source)
    out: dict[int | None, int] = {}
    for axis, place in enumerate(product.query_axes):
        source = None if place is None else behind.axes[place]
        if source is not None:
            out[axis] = (source - first) % behind.source.ndim
    return out


def _weights_in_front(view: View, value: Value) -> int:
    """How many axes in front are those of weights, where data follows: a product ``w x``.

    Projections have them behind, and so will this one be written.
    """
    node = view.producer(value)
    if node is None or node.op != "dot_general":
        return 0
    left, right = view.inputs(node)
    ((left_axes, right_axes), (batch, _)) = node.params["dimension_numbers"]
    if len(batch) or not is_parameter_like(view, left) or view.is_known(right):
        return 0
    # Either may be weights where both are inputs; data has its features last.
    along_last = sorted(map(int, right_axes)) == list(
        range(right.ndim - len(right_axes), right.ndim)
    )
    turned = view.is_known(left) or not is_parameter_like(view, right)
    turned = turned or (along_last and left.ndim - 1 not in map(int, left_axes))
    return left.ndim - len(left_axes) if turned else 0


def _queries_and_groups(
    product: Product,
    free: list[int],
    bands: Iterable[Band],
    places: dict[int | None, int],
    size: Callable[[int], int],
) -> tuple[int | None, int | None]:
    if len(free) < 2:
        return (free[0] if free else None), None
    compared = [b.query for b in bands if b.query in free]
    if compared:
        queries = compared[0]
        return queries, next(a for a in free if a != queries)
    heads = {places[a] for a in product.batch if a in places}
    adjacent = [a for a in free if places[a] - 1 in heads and places[a] > min(places.values())]
    adjacent = [a for a in adjacent if not any(places[b] == places[a] - 1 for b in free)]
    keys = product.key_axes[product.keys[0]]
    assert keys is not None
    as_long = [a for a in free if size(a) == product.key.shape[keys]]
    ones = [a for a in free if size(a) == 1]
    # (..., T, K, G, H), however few queries: those that share a key head are behind it.
    ahead = [a for a in free if heads and places[a] < max(heads)]
    if len(as_long) == 1:
        queries = as_long[0]
    elif len(ahead) == 1:
        queries = ahead[0]
    elif len(ones) == 1:
        queries = next(a for a in free if a not in ones)
    elif len(adjacent) == 1 and len(product.batch) > 1:
        queries = next(a for a in free if a not in adjacent)
    else:
        queries = min(free, key=lambda a: places[a])
    return queries, next(a for a in free if a != queries)


def _apart(label: Label) -> tuple[Label, ...]:
    return label.axes if isinstance(label, Joined) else (label,)


def weighted_of(
    state: State, root: Node, side: int, axes: Labels, product: Product
) -> Weighted | None:
    """The second product, if it sums over keys and keeps everything else apart.

    Args:
      state: the attempt.
      root: the ``dot_general``.
      side: which of its operands are the weights.
      axes: for each axis of the weights, that of the first product, or those joined in it.
      product: the first product.
    """
    value = state.view.inputs(root)[1 - side]
    (contracted, batches) = root.params["dimension_numbers"]
    if root.params.get("out_sharding") is not None:
        state.fail("the second product is sharded", root)
        return None
    summed = [axes[int(a)] for a in contracted[side]]
    if len(summed) != len(product.keys) or set(summed) != set(product.keys):
        state.fail("the second product does not sum along the softmax's axis", root)
        return None
    of_value: list[Label] = [None] * value.ndim
    for label, theirs in zip(summed, contracted[1 - side], strict=True):
        of_value[int(theirs)] = label
    batch_labels: list[Label] = []
    shared = {*product.batch, *product.own}
    for mine, theirs in zip(batches[side], batches[1 - side], strict=True):
        label = axes[int(mine)]
        if label is not None and not shared.issuperset(_apart(label)):
            state.fail("values differ from query to query", root)
            return None
        batch_labels.append(label)
        of_value[int(theirs)] = label
    used = {int(a) for a in (*contracted[1 - side], *batches[1 - side])}
    own = [a for a in range(value.ndim) if a not in used]
    weights = state.view.inputs(root)[side]
    mine = {int(a) for a in (*contracted[side], *batches[side])}
    rest = [axes[a] for a in range(weights.ndim) if a not in mine]
    for label in (label for one in rest for label in _apart(one) if label in shared):
        if product.key.shape[product.key_axes[label] or 0] != 1:  # type: ignore[index]
            state.fail("values are shared by samples that keys are not", root)
            return None
    if len(own) > 1:
        state.fail("values have several axes of features", root)
        return None
    features: list[Label] = [-1] * len(own)
    result = [*batch_labels, *(rest + features if side == 0 else features + rest)]
    return Weighted(
        value,
        tuple(of_value),
        own[0] if own else None,
        tuple(result),
    )
