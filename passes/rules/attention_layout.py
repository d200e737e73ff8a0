"""From arrays that have each axis of an attention apart to ``dot_product_attention``'s layout."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp

from jaxpress.passes.rules.axis_tracking import Axes, arrange

__all__ = ["Layout", "Place", "cut_and_arrange", "put_together"]


class Place(NamedTuple):
    """How an array is to be cut and ordered.

    Attributes:
      cuts: for each of its axes the sizes that it is cut into, ``None`` where it is not.
      order: where the axes that are wanted are then; ``None`` has size 1.
    """

    cuts: tuple[tuple[Any, ...] | None, ...]
    order: Axes


def cut_and_arrange(x: Any, place: Place) -> Any:
    """``x`` with each axis apart and in its place; a number has one entry along each."""
    x = jnp.asarray(x)
    if x.ndim == 0:
        return x.reshape((1,) * len(place.order))
    # Cut before it is transposed, so that XLA sees transposes that come to nothing.
    shape = [m for d, c in zip(x.shape, place.cuts, strict=True) for m in c or (d,)]
    return arrange(_reshaped(x, shape), place.order)


def put_together(x: Any, counts: Sequence[int]) -> Any:
    """``x`` with so many neighbouring axes as one."""
    shape, at = [], 0
    for n in counts:
        shape.append(_product(x.shape[at : at + n]))
        at += n
    return _reshaped(x, shape)


class Layout:
    """From arrays that have each axis apart to the op's (..., T, N, H), and back.

    Args:
      query: of the batch's axes, those of queries, those of heads, and features.
      key: of the batch's axes, those of keys, heads and features.
      counts: how many axes there are of the batch, heads, queries and keys.
    """

    def __init__(self, query: Any, key: Any, counts: tuple[int, int, int, int]):
        n, _, queries, keys = counts
        # Queries that all samples share have size 1 there, and are given to each.
        self._lead = key.shape[:n]
        self._queries = query.shape[n : n + queries]
        self._heads = query.shape[n + queries : -1]
        self._keys = key.shape[n : n + keys]

    def of_queries(self, x: Any) -> Any:
        """Queries as the op takes them."""
        x = jnp.broadcast_to(x, (*self._lead, *x.shape[len(self._lead) :]))
        shape = (*self._lead, _product(self._queries), _product(self._heads), x.shape[-1])
        return _reshaped(x, shape)

    def of_keys(self, x: Any) -> Any:
        """Keys or values as the op takes them."""
        return _reshaped(x, (*self._lead, _product(self._keys), *x.shape[-2:]))

    def of_logits(self, x: Any) -> Any:
        """A bias or condition as (..., N, T, S), each dimension that or 1."""
        at = len(self._lead)
        full, shape = list(x.shape[:at]), list(x.shape[:at])
        for sizes in (self._heads, self._queries, self._keys):
            own = x.shape[at : at + len(sizes)]
            at += len(sizes)
            # Axes that become one are stretched, but where all of them have size 1.
            one = len(own) > 1 and all(d == 1 for d in own)
            full += own if one or len(own) == 1 else sizes
            shape.append(1 if one else own[0] if len(own) == 1 else _product(sizes))
        return _reshaped(jnp.broadcast_to(x, full), shape)

    def result(self, y: Any) -> Any:
        """The op's result with each axis apart."""
        return _reshaped(y, (*self._lead, *self._queries, *self._heads, y.shape[-1]))


def _product(sizes: Sequence[Any]) -> Any:
    out = 1
    for n in sizes:
        out = out * n
    return out


def _reshaped(x: Any, shape: Sequence[Any]) -> Any:
    return x if x.shape == tuple(shape) else x.reshape(shape)
