"""A convolution and two dense ops, whose weights tests mask."""

from __future__ import annotations

import jax

from helpers import array, conv

__all__ = ["PARAMS", "X", "model"]

X = array(2, 6, 6, 3)
PARAMS = {"conv": array(3, 3, 3, 8), "hidden": array(288, 12), "out": array(12, 4)}


def model(p, x):
    y = jax.nn.relu(conv(x, p["conv"]))
    y = y.reshape(y.shape[0], -1) @ p["hidden"]
    return jax.nn.relu(y) @ p["out"]
