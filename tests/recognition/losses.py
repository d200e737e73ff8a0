"""Losses of optax and Keras, and as people write them by hand.

Most are means; a cell has the op with its reduction, and what else is left is a number.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from recognition.case import Case, data

__all__ = ["LOSSES"]

ROWS, CLASSES = 4, 5


def _operands() -> dict[str, Any]:
    import jax
    import jax.numpy as jnp

    y = data(ROWS, CLASSES, seed=1)
    return {
        "x": data(ROWS, CLASSES),
        "y": y,
        "p": jax.nn.softmax(y),
        "z": jax.nn.sigmoid(y),
        "ids": jnp.asarray(np.arange(ROWS) % CLASSES),
    }


def of(make: Callable[..., Any], operands: str) -> Callable[[], tuple[Any, tuple[Any, ...]]]:
    """A loss of operands by their names: x logits, p distributions, z between 0 and 1."""

    def build() -> tuple[Any, tuple[Any, ...]]:
        given = _operands()
        return make(), tuple(given[name] for name in operands.split())

    return build


def optax_loss(name: str, operands: str, mean: bool = True, **options: Any):
    def make():
        import optax

        fn = getattr(optax.losses, name)
        return lambda *a: fn(*a, **options).mean() if mean else fn(*a, **options)

    return of(make, operands)


def keras_loss(name: str, operands: str, **options: Any):
    def make():
        import keras

        return getattr(keras.losses, name)(**options)

    return of(make, operands)


def by_hand(fn: Callable[..., Any], operands: str):
    def make():
        import jax
        import jax.numpy as jnp

        return lambda *a: fn(jax, jnp, *a)

    return of(make, operands)


CROSS, BINARY = {"softmax_cross_entropy": 1}, {"binary_cross_entropy": 1}
SQUARED, ABSOLUTE, HUBER = {"mean_squared_error": 1}, {"mean_absolute_error": 1}, {"huber": 1}
KL, COSINE = {"kl_divergence": 1}, {"cosine_similarity": 1}
NUMBER = {"mul": "a number", "div": "a number", "neg": "of a likelihood, or a similarity"}
CLIPPED = {"max": "clipped", "min": "clipped", "log": "of probabilities"}

LOGITS = {"from_logits": True}


def smoothed_by_optax():
    import optax

    return lambda x, p: optax.softmax_cross_entropy(x, optax.smooth_labels(p, 0.1)).mean()


LOSSES: Mapping[str, Mapping[str, Case]] = {
    "optax": {
        "softmax cross entropy": Case(optax_loss("softmax_cross_entropy", "x p"), CROSS),
        "softmax cross entropy, each": Case(
            optax_loss("softmax_cross_entropy", "x p", mean=False), CROSS
        ),
        "softmax cross entropy, along the first axis": Case(
            optax_loss("softmax_cross_entropy", "x p", axis=0), CROSS
        ),
        "softmax cross entropy, smoothed": Case(of(smoothed_by_optax, "x p"), CROSS),
        "sparse cross entropy": Case(
            optax_loss("softmax_cross_entropy_with_integer_labels", "x ids"), CROSS
        ),
        "sparse cross entropy, each": Case(
            optax_loss("softmax_cross_entropy_with_integer_labels", "x ids", mean=False), CROSS
        ),
        "binary cross entropy": Case(optax_loss("sigmoid_binary_cross_entropy", "x z"), BINARY),
        "squared error": Case(optax_loss("squared_error", "x y"), SQUARED),
        "squared error, halved": Case(optax_loss("l2_loss", "x y"), SQUARED, rest=NUMBER),
        "huber": Case(optax_loss("huber_loss", "x y", delta=0.3), HUBER),
        "kl divergence": Case(optax_loss("kl_divergence", "x p"), KL),
        "kl divergence, of logarithms": Case(
            optax_loss("kl_divergence_with_log_targets", "x y"), KL
        ),
        "cosine similarity": Case(optax_loss("cosine_similarity", "x y", epsilon=1e-6), COSINE),
        "cosine distance": Case(optax_loss("cosine_distance", "x y"), {"cosine_distance": 1}),
    },
    "Keras 3": {
        "softmax cross entropy": Case(
            keras_loss("CategoricalCrossentropy", "p x", **LOGITS), CROSS
        ),
        "softmax cross entropy, smoothed": Case(
            keras_loss("CategoricalCrossentropy", "p x", label_smoothing=0.1, **LOGITS), CROSS
        ),
        "sparse cross entropy": Case(
            keras_loss("SparseCategoricalCrossentropy", "ids x", **LOGITS), CROSS, moves=True
        ),
        "binary cross entropy": Case(keras_loss("BinaryCrossentropy", "z x", **LOGITS), BINARY),
        "binary cross entropy, smoothed": Case(
            keras_loss("BinaryCrossentropy", "z x", label_smoothing=0.1, **LOGITS), BINARY
        ),
        "squared error": Case(keras_loss("MeanSquaredError", "y x"), SQUARED),
        "absolute error": Case(keras_loss("MeanAbsoluteError", "y x"), ABSOLUTE),
        "huber": Case(keras_loss("Huber", "y x", delta=0.5), HUBER),
        "kl divergence": Case(keras_loss("KLDivergence", "p z"), KL, rest=CLIPPED),
        "cosine similarity": Case(keras_loss("CosineSimilarity", "y x"), COSINE, rest=NUMBER),
    },
    "plain JAX": {
        "softmax cross entropy": Case(
            by_hand(lambda jax, jnp, x, p: -jnp.sum(p * jax.nn.log_softmax(x), -1).mean(), "x p"),
            CROSS,
        ),
        # As the tutorial on training with JAX has it: a mean over classes too.
        "sparse cross entropy": Case(
            by_hand(
                lambda jax, jnp, x, ids: (
                    -jnp.mean(
                        (x - jax.nn.logsumexp(x, axis=1, keepdims=True))
                        * jax.nn.one_hot(ids, CLASSES)
                    )
                ),
                "x ids",
            ),
            CROSS,
            rest=NUMBER,
        ),
        "sparse cross entropy, each": Case(
            by_hand(
                lambda jax, jnp, x, ids: (
                    -jnp.take_along_axis(jax.nn.log_softmax(x), ids[:, None], -1)[:, 0]
                ),
                "x ids",
            ),
            CROSS,
        ),
        "sparse cross entropy, indexed": Case(
            by_hand(
                lambda jax, jnp, x, ids: -jax.nn.log_softmax(x)[jnp.arange(ROWS), ids].mean(),
                "x ids",
            ),
            CROSS,
        ),
        "sparse cross entropy, mapped": Case(
            by_hand(
                lambda jax, jnp, x, ids: jax.vmap(lambda a, i: -jax.nn.log_softmax(a)[i])(
                    x, ids
                ).mean(),
                "x ids",
            ),
            CROSS,
        ),
        "binary cross entropy": Case(
            by_hand(
                lambda jax, jnp, x, z: (
                    -jnp.mean(z * jax.nn.log_sigmoid(x) + (1 - z) * jax.nn.log_sigmoid(-x))
                ),
                "x z",
            ),
            BINARY,
        ),
        "squared error": Case(by_hand(lambda _, jnp, x, y: jnp.mean((x - y) ** 2), "x y"), SQUARED),
        "absolute error": Case(
            by_hand(lambda _, jnp, x, y: jnp.mean(jnp.abs(x - y)), "x y"), ABSOLUTE
        ),
        "huber": Case(
            by_hand(
                lambda _, jnp, x, y: jnp.where(
                    jnp.abs(x - y) < 1, 0.5 * (x - y) ** 2, jnp.abs(x - y) - 0.5
                ).mean(),
                "x y",
            ),
            HUBER,
        ),
    },
}
