"""What every model of the zoo shares: the record that a builder returns, and how weights are drawn.

Weights come from NumPy with a fixed seed, never from a framework's initialisers: those compile one
sampler per shape (15 s for EfficientNetB0), and leave batch norm at mean 0 and variance 1, where a
wrong fold would go unseen. Scales and shifts are random, and batch-norm statistics are measured on
random images in the framework's own training mode, so activations keep their scale however deep the
network is.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import prod
from typing import Any

import jax
import numpy as np


@dataclass(frozen=True)
class Model:
    """A network ready to run: its function, an input, its weights, and its layers counted.

    fn: takes `*args`, closes over the weights.
    args: the input, float32, batch 1.
    weights: a pytree; `param_fn(weights, *args)` equals `fn(*args)`.
    n_conv, n_dense, n_batch_norm: the framework's own layers of each kind.
    activations: how often each activation is applied, by its `jax.nn` name.
    source: the framework's own model object.
    """

    name: str
    framework: str
    fn: Callable[..., Any]
    args: tuple[Any, ...]
    weights: Any
    param_fn: Callable[..., Any]
    n_conv: int
    n_dense: int
    n_batch_norm: int
    activations: Mapping[str, int] = field(default_factory=dict)
    source: Any = None

    @property
    def n_weights(self) -> int:
        """Number of weight elements, statistics included."""
        return sum(int(np.size(leaf)) for leaf in jax.tree.leaves(self.weights))


def draw(rng: np.random.Generator, role: str, shape: tuple[int, ...], fan_in: int = 1):
    """A float32 array for a weight of this role, as a jax.Array.

    Roles: kernel (normal, variance 2 / fan_in, He et al. 2015, https://arxiv.org/abs/1502.01852),
    head (a kernel whose outputs are spread enough to tell classes apart), bias, scale, shift, mean,
    var. Raises KeyError for another role.
    """
    arrays = {
        "kernel": lambda: rng.normal(0.0, np.sqrt(2.0 / fan_in), shape),
        "head": lambda: rng.normal(0.0, np.sqrt(4.0 / fan_in), shape),
        "bias": lambda: rng.normal(0.0, 0.1, shape),
        "scale": lambda: rng.uniform(0.7, 1.3, shape),
        "shift": lambda: rng.normal(0.0, 0.2, shape),
        "mean": lambda: rng.normal(0.0, 0.2, shape),
        "var": lambda: rng.uniform(0.5, 1.5, shape),
    }
    return jax.numpy.asarray(np.asarray(arrays[role](), np.float32))


def fan_in_hwio(shape: tuple[int, ...]) -> int:
    """Inputs to one output of a kernel whose last axis is the output: HWIO, or (in, out)."""
    return max(1, prod(shape[:-1]))


def fan_in_oihw(shape: tuple[int, ...]) -> int:
    """Inputs to one output of a kernel whose first axis is the output: OIHW, or (out, in)."""
    return max(1, prod(shape[1:]))


def calibration_batch(size: int) -> int:
    """How many images to measure batch-norm statistics on; the first is the model's input.

    A deep network with random weights is chaotic: statistics from other images, or at another
    size, let activations grow by four orders of magnitude in EfficientNetB0.
    """
    return 8 if size <= 96 else 2


def normal_input(seed: int, shape: tuple[int, ...]):
    """A float32 standard normal input of this shape."""
    return jax.numpy.asarray(np.random.default_rng(seed).standard_normal(shape, "float32"))


def count_activations(fn: Callable[..., Any], *args) -> dict[str, int]:
    """Counts activations by the names that `jax.nn` leaves in the jaxpr of `fn(*args)`.

    `relu`, `relu6` and `silu` are named there; `gelu` and a bare `sigmoid` show as `erfc` (`tanh`
    where approximate) and `logistic`. A body that runs many times counts once.
    """
    found: Counter[str] = Counter()
    primitives = {"logistic": "sigmoid", "erfc": "gelu", "erf": "gelu", "tanh": "gelu"}
    named = {"relu", "relu6", "silu", "elu", "leaky_relu", "hard_silu", "softplus"}

    def walk(jaxpr) -> None:
        for eqn in getattr(jaxpr, "jaxpr", jaxpr).eqns:
            name = eqn.params.get("name")
            if eqn.primitive.name in ("jit", "pjit") and name in named:
                found[name] += 1
                continue
            if eqn.primitive.name in primitives:
                found[primitives[eqn.primitive.name]] += 1
            for param in eqn.params.values():
                if hasattr(param, "eqns") or hasattr(param, "jaxpr"):
                    walk(param)

    walk(jax.make_jaxpr(fn)(*args))
    return dict(found)
