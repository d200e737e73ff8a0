"""From arrays that have each axis of an attention apart to ``dot_product_attention``'s layout."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp

from jaxpress.passes.rules.axis_tracking import Axes, arrange

__all__ = ["Layout", "stretch"]


class Layout:
    """From arrays that have each axis apart to the op's (..., T, N, H), and back.

    Args:
      query: of the batch's axes, those of queries, those of heads, and features.
      key: of the batch's axes, those of keys, heads and features.
      counts: how many axes there are of heads, queries and keys.
      cuts: for each of the batch's axes the sizes that it is cut into, ``None`` if it is not.
    """

    def __init__(self, query: Any, key: Any, counts: tuple[int, int, int], cuts: Any):
        heads, queries, keys = counts
        n = len(cuts)
        self._n = n
        self._cuts = cuts
        # Queries that all samples share have size 1 there, and are given to each.
        self._lead = key.shape[:n]
        self._queries = query.shape[n : n + queries]
        self._heads = query.shape[n + queries : -1]
        self._keys = key.shape[n : n + keys]
        self._cut_lead = tuple(
            [m for d, c in zip(self._lead, cuts, strict=True) for m in c or (d,)]
        )
        assert len(self._heads) == heads

    def of_queries(self, x: Any) -> Any:
        """Queries as the op takes them."""
        shape = (*self._cut_lead, _product(self._queries), _product(self._heads), x.shape[-1])
        return _reshaped(jnp.broadcast_to(x, (*self._lead, *x.shape[self._n :])), shape)

    def of_keys(self, x: Any) -> Any:
        """Keys or values as the op takes them."""
        return _reshaped(x, (*self._cut_lead, _product(self._keys), *x.shape[-2:]))

    def of_logits(self, x: Any, order: Axes, cut: bool) -> Any:
        """A bias or condition as (..., N, T, S), each dimension that or 1."""
        x = stretch(x, order)
        lead = x.shape[: len(self._cut_lead) if cut else self._n]
        at, shape, full = len(lead), [], list(lead)
        if not cut:
            parts = zip(lead, self._cuts, strict=True)
            lead = [m for d, c in parts for m in ((1,) * len(c) if c and d == 1 else c or (d,))]
        for sizes in (self._heads, self._queries, self._keys):
            own = x.shape[at : at + len(sizes)]
            at += len(sizes)
            # Axes that become one are stretched, but where all of them have size 1.
            one = len(own) > 1 and all(d == 1 for d in own)
            full += own if one or len(own) == 1 else sizes
            shape.append(1 if one else own[0] if len(own) == 1 else _product(sizes))
        return _reshaped(jnp.broadcast_to(x, full), (*lead, *shape))

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


def stretch(x: Any, order: Axes) -> Any:
    """``x`` with its axes in this order, a number with one entry along each."""
    x = jnp.asarray(x)
    return x.reshape((1,) * len(order)) if x.ndim == 0 else arrange(x, order)
