"""Pooling with reshapes and transposes, as Equinox has it, becomes one pool."""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from helpers import array, rewritten
from jaxpress import nnops, passes
from jaxpress.testing import assert_equivalent

X = array(2, 3, 6, 8)

EQUINOX = {
    "avg": (eqx.nn.AvgPool2d(2, 2), "avg_pool"),
    "avg, padded": (eqx.nn.AvgPool2d(3, 2, padding=1), "avg_pool"),
    "max": (eqx.nn.MaxPool2d(2, 2), "max_pool"),
    "max, padded": (eqx.nn.MaxPool2d(3, (1, 2), padding=1), "max_pool"),
    "adaptive to 1": (eqx.nn.AdaptiveAvgPool2d(1), "global_avg_pool"),
    "adaptive": (eqx.nn.AdaptiveAvgPool2d((3, 4)), "avg_pool"),
}


@pytest.mark.parametrize("name", EQUINOX)
def test_as_equinox_has_it(name) -> None:
    layer, op = EQUINOX[name]
    fn = jax.vmap(layer)
    for pipeline in (passes.default, passes.inference):
        new = rewritten(pipeline, fn, X)[0]
        assert new.count() == {op: 1}
    assert_equivalent(fn, new, X, vmap=False)


@pytest.mark.parametrize("rank", [1, 3])
def test_other_ranks(rank) -> None:
    x = array(2, 3, *(4,) * rank)
    for name in ("AvgPool", "MaxPool"):
        fn = jax.vmap(getattr(eqx.nn, f"{name}{rank}d")(2, 2))
        new = rewritten(passes.default, fn, x)[0]
        assert new.count() == {f"{name[:3].lower()}_pool": 1}
        np.testing.assert_allclose(new(x), fn(x), rtol=1e-6)


@pytest.mark.parametrize(
    "fn, windows",
    [
        (lambda x: x.reshape(2, 3, 3, 2, 4, 2).mean((3, 5)), (1, 1, 2, 2)),
        (lambda x: x.reshape(2, 3, 3, 2, 8).mean(3), (1, 1, 2, 1)),
        (lambda x: x.reshape(2, 1, 3, 6, 8).mean(2), (1, 3, 1, 1)),
        (lambda x: x.reshape(2, 3, 2, 3, 1, 8).mean((3, 5)), (1, 1, 3, 8)),
    ],
)
def test_means_over_parts_of_axes(fn, windows) -> None:
    new = rewritten(passes.default, fn, X)[0]
    assert len(new.nodes) == 1
    if new.nodes[0].op == "avg_pool":
        assert new.nodes[0].params["window_shape"] == windows
    assert_equivalent(fn, new, X, vmap=False)


@pytest.mark.parametrize(
    "fn",
    [
        lambda x: x.reshape(2, 3, 3, 2, 4, 2).mean((2, 4)),  # the outer parts
        lambda x: x.reshape(2, 3, 3, 2, 4, 2).sum((3, 5)) / 5,
        lambda x: x.reshape(2, 3, 48).mean(-1),
        lambda x: x.reshape(2, 9, 2, 8).mean(2),  # across two axes
        lambda x: x.reshape(2, 3, 3, 2, 4, 2).max((3, 5)),
    ],
)
def test_other_reshapes_stay(fn) -> None:
    new = rewritten(passes.default, fn, X)[0]
    assert not {"avg_pool", "max_pool"} & set(new.count())
    np.testing.assert_allclose(new(X), fn(X), rtol=1e-6, atol=1e-6)


def test_transposes_that_do_not_cancel() -> None:
    for pool in (nnops.avg_pool, nnops.max_pool, nnops.min_pool):

        def fn(x, pool=pool):
            return jnp.transpose(pool(jnp.transpose(x, (0, 2, 3, 1)), (2, 1), (2, 1)), (3, 1, 0, 2))

        new = rewritten(passes.default, fn, X)[0]
        assert new.count() == {pool.__name__: 1, "transpose": 1}
        np.testing.assert_allclose(new(X), fn(X), rtol=1e-6)

    def one_side(x):
        return nnops.max_pool(jnp.transpose(x, (0, 2, 3, 1)), 2, 2)

    assert rewritten(passes.default, one_side, X)[0].count() == {"max_pool": 1, "transpose": 1}


def test_sums_of_one_entry() -> None:
    fn = lambda x: jnp.sin(x[:, :, None].sum(2))  # noqa: E731
    new = rewritten(passes.default, fn, X)[0]
    assert new.count() == {"sin": 1}
    np.testing.assert_array_equal(new(X), fn(X))
    assert "reduce_sum" in rewritten(passes.default, lambda x: x.sum(2), X)[0].count()


def test_a_unit_axis_under_the_window_stays() -> None:
    def fn(x):
        wide = jax.lax.broadcast_in_dim(x, (2, 1, 3, 6, 8), (0, 2, 3, 4))
        y = nnops.max_pool(wide, (1, 3, 1, 1, 1), (1, 3, 1, 1, 1), [(0, 0), (1, 1)] + [(0, 0)] * 3)
        return jax.lax.squeeze(y, (1,))

    new = rewritten(passes.default, fn, X)[0]
    assert new.count()["max_pool"] == 1 and len(new.nodes) > 1
    np.testing.assert_array_equal(new(X), fn(X))


def test_pools_of_different_axes_are_one() -> None:
    def fn(x):
        y = nnops.avg_pool(x, (1, 1, 2, 1), (1, 1, 2, 1))
        return nnops.avg_pool(y, (1, 1, 1, 3), (1, 1, 1, 2))

    new = rewritten(passes.default, fn, X)[0]
    assert new.count() == {"avg_pool": 1}
    assert_equivalent(fn, new, X, vmap=False)
    same_axis = lambda x: nnops.avg_pool(nnops.avg_pool(x, (1, 1, 2, 1)), (1, 1, 2, 1))  # noqa: E731
    assert rewritten(passes.default, same_axis, X)[0].count() == {"avg_pool": 2}
    padded = lambda x: nnops.avg_pool(nnops.avg_pool(x, (1, 1, 3, 1), padding="SAME"), (1, 1, 1, 2))  # noqa: E731
    assert rewritten(passes.default, padded, X)[0].count() == {"avg_pool": 2}


def test_a_quotient_of_what_has_no_operands_is_no_pool() -> None:
    """As in a histogram: an iota by a number."""

    def fn(x):
        return x.sum() + jax.lax.iota(jnp.float32, 8) / 4.0

    graph = rewritten(passes.raise_ops, fn, X)[0]
    assert "avg_pool" not in graph.count()
    np.testing.assert_array_equal(graph(X), fn(X))
