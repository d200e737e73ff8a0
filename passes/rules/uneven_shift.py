"""What a shift in front of a convolution adds to its result where windows lie on zeros.

On padding, or on the holes of a dilated input, the shift is missing: what the result gains then
depends on the position. It does not depend on the data, so it is computed beforehand, for one
element of the batch.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from jax import lax

from jaxpress.capture import Node, Value
from jaxpress.nnops.conv_geometry import specs
from jaxpress.passes.rules.cleanup_moves import is_plain
from jaxpress.passes.rules.steps import MOVES, REPEAT
from jaxpress.passes.rules.weights import as_type, operands_of, rebind, spread_channels
from jaxpress.passes.view import View

__all__ = ["has_full_windows", "uneven_shift", "why_not_cheaper"]

# What is computed beforehand is held in memory: no more elements than this.
_MAX_SIZE = 1 << 22


def has_full_windows(linear: Node) -> bool:
    """Whether a window never lies on padding or on the holes of a dilated input."""
    if linear.op != "conv":
        return True
    params = linear.params
    if params["transposed"] and any(s != 1 for s in params["strides"]):
        return False
    return all(isinstance(p, int) and p <= 0 for pair in params["padding"] for p in pair)


def why_not_cheaper(
    view: View, linear: Node, steps: Iterable[Node], shifted: Value, removes: int
) -> str | None:
    """Why adding to the result of a convolution is not cheaper than shifting its input, if not.

    Args:
      view: the graph.
      linear: a convolution some of whose windows are not full.
      steps: what stands between the shift and the convolution.
      shifted: what the shift makes.
      removes: how many operations an element of it goes through that would not be any more.
    """
    x, y = operands_of(view, linear)["x"], linear.output
    if not is_plain(shifted, x, y):
        return "a size is not known, or it is sharded"
    if any(step.op not in MOVES | REPEAT for step in steps):
        return "padding is zero before and after a shift, and pooling stands between"
    size = math.prod(y.shape)
    each = size // max(y.shape[specs(linear.params["dimension_numbers"]).out_spec[0]], 1)
    before = math.prod(shifted.shape)
    # It is read and written no more where it is shifted, and what is added is read.
    if not 0 < size <= removes * before or not each <= min(2 * before, _MAX_SIZE):
        return "padding is zero before and after a shift, and its result is larger than its input"
    return None


# conv(x + t, w) -> conv(x, w) + conv(t, w), t of the input's shape; by one channel of ones:
#   conv(t, w) = conv(1, sum(t * w)), the sum over channels
def uneven_shift(linear: Node, x: Any, w: Any, shift: Any) -> Any:
    """What a convolution's result gains where x is larger by ``shift``, along x's channels.

    Args:
      linear: the convolution.
      x: its input, for the shape.
      w: its weights.
      shift: of shape (channels,), in the dtype to compute in.

    Returns:
      An array of the result's very shape and dtype.
    """
    numbers = specs(linear.params["dimension_numbers"])
    inner = numbers.rhs_spec[1]
    tap = lax.reduce_sum(spread_channels(linear, w, shift), (inner,))
    tap = lax.expand_dims(tap, (inner,))
    ones = list(x.shape)
    ones[numbers.lhs_spec[0]] = ones[numbers.lhs_spec[1]] = 1
    gained = rebind(
        linear,
        {"x": lax.full(ones, 1, tap.dtype), "w": tap},
        groups=1,
        activation=None,
        precision=lax.Precision.HIGHEST,
        preferred_element_type=None,
        kernel="reference",
    )
    out = linear.output
    return lax.broadcast_in_dim(as_type(gained, out.dtype), out.shape, tuple(range(out.ndim)))
