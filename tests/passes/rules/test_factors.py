"""What runs along some axes is found again behind steps, or said not to be."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from helpers import array
from jaxpress import nnops
from jaxpress.capture import trace
from jaxpress.passes import inline
from jaxpress.passes.rules.factors import carry, is_carried, track
from jaxpress.passes.view import GraphView

SHAPE = (2, 3, 4, 8)


def to_pixels(x):
    return x.reshape(2, 3, 4, 2, 2, 2).transpose(0, 1, 3, 2, 4, 5).reshape(2, 6, 8, 2)


def to_pixels_channels_first(x):
    x = x.transpose(0, 3, 1, 2).reshape(2, 2, 2, 2, 3, 4)
    return x.transpose(0, 1, 4, 2, 5, 3).reshape(2, 2, 6, 8)


def repeated(x):
    return jnp.broadcast_to(x[:, :, None, :, None], (2, 3, 2, 4, 2, 8)).reshape(2, 6, 8, 8)


# Steps, the axes that something runs along after them, and whether these are of axis 3 alone.
CASES = {
    "nothing": (lambda x: x, (3,), True),
    "other axis": (lambda x: x, (2,), False),
    "number": (lambda x: x.reshape(-1), (), True),
    "flat": (lambda x: x.reshape(2, -1), (1,), False),
    "flat rows": (lambda x: x.reshape(-1, 8), (1,), True),
    "mixed": (lambda x: x.reshape(2, 8, 12), (2,), False),
    "mixed elsewhere": (lambda x: x.reshape(2, 6, 2, 8), (3,), True),
    "heads": (lambda x: x.reshape(2, 3, 4, 4, 2), (3,), True),
    "both of them": (lambda x: x.reshape(2, 3, 4, 4, 2), (4, 3), True),
    "heads turned": (lambda x: x.reshape(2, 12, 2, 4).swapaxes(2, 3).reshape(2, 12, 8), (2,), True),
    "ones": (lambda x: x.reshape(2, 1, 12, 1, 8)[:, :, :, 0], (3,), True),
    "axis of one": (lambda x: x[:, None], (1,), True),
    "pixels": (to_pixels, (3,), True),
    "pixels, rows": (to_pixels, (1,), False),
    "pixels, channels first": (to_pixels_channels_first, (1,), True),
    "repeated": (repeated, (3,), True),
    "repeated rows": (repeated, (1,), False),
    "padded": (lambda x: lax.pad(x, 0.0, [(0, 0, 0), (1, 1, 0), (0, 0, 1), (0, 0, 0)]), (3,), True),
    "padded features": (lambda x: lax.pad(x, 0.0, [(0, 0, 0)] * 3 + [(0, 1, 0)]), (3,), False),
    "cut": (lambda x: x[:, 1:, ::2], (3,), True),
    "cut features": (lambda x: x[..., 1:], (3,), False),
    "pooled": (lambda x: nnops.avg_pool(x, 2), (3,), True),
    "pooled away": (nnops.global_avg_pool, (1,), True),
    "empty": (lambda x: x[:0].reshape(0, 24, 4), (2,), False),
}


def followed(fn, shape=SHAPE):
    graph = inline(trace(fn)(jax.ShapeDtypeStruct(shape, "float32")))
    return track(GraphView(graph), graph.nodes, shape)


@pytest.mark.parametrize("name", CASES)
def test_behind_steps(name) -> None:
    fn, axes, found = CASES[name]
    tracked = followed(fn)
    sources = [tracked.after[a] for a in axes]
    assert is_carried(sources, tracked.before[3:]) == found
    if not found:
        return
    out = jax.eval_shape(fn, jnp.ones(SHAPE))
    v = array(*(out.shape[a] for a in axes))
    before = carry(v, sources, tracked.before[3:], "float32")
    assert before.shape == SHAPE[3:]
    # A product before the steps is one behind them, where no zeros have been padded.
    y = fn(jnp.broadcast_to(before, SHAPE))
    shape = [n if a in axes else 1 for a, n in enumerate(out.shape)]
    order = np.argsort(axes) if axes else ()
    want = jnp.broadcast_to(v.transpose(*order).reshape(shape), out.shape)
    np.testing.assert_allclose(y, jnp.where(y == 0, 0, want), rtol=1e-6)


def test_in_front_of_steps() -> None:
    def blocks(x):
        return x.reshape(1, 3, 2, 2, 2, 8).transpose(0, 1, 3, 2, 4, 5).reshape(1, 3, 2, 32)

    tracked = followed(blocks, (1, 6, 4, 8))
    v = array(8)
    channels = carry(v, tracked.before[3:], tracked.after[3:], "float32")
    np.testing.assert_array_equal(channels, jnp.tile(v, 4))
    assert is_carried(tracked.before[3:], tracked.after[3:])
    assert not is_carried(tracked.before[1:2], tracked.after[3:])


def test_sizes_that_are_symbols() -> None:
    b, n = jax.export.symbolic_shape("b, n")
    tracked = followed(lambda x: x.reshape(b * n, 4, 2), (b, n, 8))
    assert tracked.after[1] + tracked.after[2] == tracked.before[2]
    assert tracked.after[0] == tracked.before[0] + tracked.before[1]
    tracked = followed(lambda x: x.reshape(b, 2 * n, 4), (b, n, 8))
    assert not is_carried(tracked.after[2:], tracked.before[2:])
    assert tracked.after[0] == tracked.before[0]
