"""The use cases of JAX's own primitives that ship in its wheel: some 5,500 small functions.

Importing them reads the command line's flags, so that pytest's own are hidden meanwhile.
"""

from __future__ import annotations

import functools
import sys
import zlib
from typing import Any

import numpy as np


@functools.cache
def load() -> list[Any]:
    """Every harness that JAX can run on the CPU."""
    arguments, sys.argv = sys.argv, sys.argv[:1]
    try:
        from jax._src.internal_test_util import test_harnesses  # noqa: TID251 - tests only
    finally:
        sys.argv = arguments
    return [h for h in test_harnesses.all_harnesses if h.filter("cpu")]


def arguments(harness: Any) -> list[Any]:
    """The harness's arrays; the same ones in every run."""
    return harness.dyn_args_maker(np.random.RandomState(zlib.crc32(harness.fullname.encode())))
