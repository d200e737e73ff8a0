"""Positions compared with lengths, in any layout; other comparisons stay."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from helpers import assert_refuses
from jaxpress import passes
from jaxpress.capture import trace
from jaxpress.passes import rewrite
from jaxpress.passes.rules.raise_sequence_mask import RAISE_SEQUENCE_MASK

ONE = jnp.array([1, 3, 0, 9], jnp.int32)
TWO = jnp.array([[1, 2], [3, 4]], jnp.int32)


@pytest.mark.parametrize(
    "fn, lengths",
    [
        (lambda n: jnp.arange(5) < n[:, None], ONE),
        (lambda n: n[:, None] > jnp.arange(5), ONE),
        (lambda n: jnp.arange(4)[:, None] < n, ONE),
        (lambda n: jnp.arange(4)[None, None, None] < n[:, None, None, None], ONE),
        (lambda n: jnp.arange(5) < n, ONE[1]),
        (lambda n: jnp.arange(2)[None, :, None] < n[:, None], TWO),
        (lambda n: jnp.arange(2) < n[..., None], TWO),
        (lambda n: jax.vmap(lambda n: jnp.arange(5) < n)(n), ONE),
        (lambda n: jax.lax.broadcasted_iota(jnp.int32, (4, 5), 1) < n[:, None], ONE),
    ],
)
def test_masks_in_every_layout(fn, lengths) -> None:
    graph = trace(fn)(lengths)
    for p in passes.cleanup:
        graph = p(graph)
    new = rewrite(graph, RAISE_SEQUENCE_MASK).validate()
    assert new.count()["sequence_mask"] == 1 and not new.find("lt") and not new.find("gt")
    np.testing.assert_array_equal(new(lengths), fn(lengths))
    assert rewrite(new, RAISE_SEQUENCE_MASK) is new


@pytest.mark.parametrize(
    "fn, because",
    [
        (lambda n: jnp.arange(4) < n, "position to position"),
        (lambda n: jnp.arange(4) < n[::-1], "position to position"),
        (lambda n: n[:, None] < jnp.arange(5), "no positions"),
        (lambda n: jnp.arange(5)[:, None] > jnp.arange(5) + 0 * n[0], ""),
        (lambda n: (jnp.arange(5) < 3) & (n[0] > 0), "with a number"),
        (lambda n: 2 * jnp.arange(5) < n[:, None], "no positions"),
        (lambda n: jnp.arange(5.0) < n[:, None].astype(jnp.float32), "no positions"),
        (lambda n: jnp.arange(5)[:, None] < jnp.arange(4), "with positions"),
    ],
)
def test_other_comparisons_stay(fn, because) -> None:
    graph = trace(fn)(ONE)
    for p in passes.cleanup:
        graph = p(graph)
    assert_refuses(RAISE_SEQUENCE_MASK, lambda n: graph(n), ONE, because=because)
