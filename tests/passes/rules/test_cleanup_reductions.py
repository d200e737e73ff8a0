"""Reductions over no axes are gone."""

from __future__ import annotations

import jax.numpy as jnp
import pytest

from helpers import array, assert_refuses
from jaxpress.passes.rules.cleanup_reductions import DROP_REDUCTION
from jaxpress.testing import assert_rewrites

X = array(3, 4)


@pytest.mark.parametrize("name", ["sum", "max", "min", "prod"])
def test_over_no_axes(name) -> None:
    new = assert_rewrites(DROP_REDUCTION, lambda x: getattr(jnp, name)(jnp.sin(x), ()), X, times=1)
    assert new.count() == {"sin": 1}


def test_of_booleans_and_over_axes() -> None:
    assert_rewrites(DROP_REDUCTION, lambda x: jnp.all(x, ()), X > 0, gradients=False)
    assert_refuses(DROP_REDUCTION, lambda x: (x.sum(0), x.max(), x.sum((0, 1))), X)
