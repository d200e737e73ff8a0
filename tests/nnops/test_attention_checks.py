"""Operands of attention are checked as arrays and as avals."""

import jax
import jax.numpy as jnp
import pytest

from jaxpress.nnops.attention_checks import as_operands, check_shapes
from jaxpress.nnops.errors import OpError


def test_what_is_none_is_left_out():
    q = jnp.ones((2, 3, 4, 5))
    assert set(as_operands({"query": q, "key": q, "value": q, "bias": None})) == {
        "query",
        "key",
        "value",
    }
    with pytest.raises(OpError, match="'key', 'value'"):
        as_operands({"query": q, "key": None, "value": None})


def test_avals_will_do():
    shapes = [jax.ShapeDtypeStruct(s, jnp.float32) for s in ((3, 4, 5), (6, 2, 5), (6, 2, 5))]
    check_shapes(*shapes, {})
    check_shapes(*shapes, {"mask": jax.ShapeDtypeStruct((1, 3, 6), bool)})
    with pytest.raises(OpError, match="mask has shape"):
        check_shapes(*shapes, {"mask": jax.ShapeDtypeStruct((3, 6), bool)})


def test_only_queries_without_a_batch_take_masks_with_one():
    one, batch = jnp.ones((3, 4, 5)), jnp.ones((2, 3, 4, 5))
    for q, mask, fits in [(one, (1, 4, 3, 3), True), (batch, (1, 1, 4, 3, 3), False)]:
        given = as_operands({"query": q, "key": q, "value": q, "mask": jnp.ones(mask, bool)})
        assert (given["mask"].ndim == q.ndim) == fits
