"""Training steps of Keras's own networks: `jax.jit` beside `jaxpress.optimize`.

    python benchmarks/training.py
    python benchmarks/training.py --models MobileNetV2 ConvNeXtTiny --size 128 --json out.json

One step is the loss in training mode (batch statistics, dropout), its gradient in every weight, and
stochastic gradient descent. Loss and gradients are compared before anything is timed, both sides
against each other; ends with status 1 where they disagree.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from timing import compare, machine_facts, print_comparison, write_json
from zoo_keras import import_keras

MODELS = ("MobileNetV2", "EfficientNetB0", "ResNet50")
LEARNING_RATE = 1e-3
# Two float32 runs of a deep network in training mode differ where a relu's input is all but zero.
LARGEST_LOSS_ERROR = 1e-4


def training_step(application: str, size: int, batch: int) -> tuple[Any, tuple[Any, ...]]:
    """A step ``(weights, state, x, labels) -> (loss, new weights, new state)``, and arguments."""
    import jax
    import jax.numpy as jnp
    import numpy as np
    import optax

    keras = import_keras()
    keras.utils.set_random_seed(0)
    network = getattr(keras.applications, application)(
        weights=None, input_shape=(size, size, 3), classes=10, classifier_activation=None
    )
    weights = [v.value for v in network.trainable_variables]
    state = [v.value for v in network.non_trainable_variables]

    def loss(weights: Any, state: Any, x: Any, labels: Any) -> Any:
        logits, state = network.stateless_call(weights, state, x, training=True)
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean(), state

    def step(weights: Any, state: Any, x: Any, labels: Any) -> Any:
        (value, state), grads = jax.value_and_grad(loss, has_aux=True)(weights, state, x, labels)
        return value, jax.tree.map(lambda w, g: w - LEARNING_RATE * g, weights, grads), state

    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.uniform(0, 255, (batch, size, size, 3)), jnp.float32)
    return step, (weights, state, x, jnp.asarray(rng.integers(0, 10, batch)))


def measure(application: str, options: argparse.Namespace) -> dict[str, Any]:
    """Times one network and returns its record."""
    import jax
    import numpy as np

    import jaxpress as jp

    step, args = training_step(application, options.size, options.batch)
    functions = {"jit": jax.jit(step), "jaxpress": jp.optimize(step, passes="training")}
    losses = {name: float(np.asarray(f(*args)[0])) for name, f in functions.items()}
    error = abs(losses["jaxpress"] - losses["jit"]) / abs(losses["jit"])
    agrees = bool(error <= LARGEST_LOSS_ERROR)
    record = {"model": application, "losses": losses, "agrees": agrees}
    if agrees:
        found = compare(functions, *args, blocks=options.blocks, calls=options.calls)
        title = f"{application}, a step on {options.batch} images of {options.size}x{options.size}"
        print_comparison(title, found)
        record["comparison"] = found.as_dict()
    else:
        print(f"{application}: the losses differ: {losses}", file=sys.stderr)
    return record


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", default=list(MODELS), help="names of applications")
    parser.add_argument("--size", type=int, default=96, help="side of an image")
    parser.add_argument("--batch", type=int, default=8, help="images in a step")
    parser.add_argument("--blocks", type=int, default=3, help="rounds")
    parser.add_argument("--calls", type=int, default=2, help="timed calls of each in a round")
    parser.add_argument("--json", type=Path, default=None, help="write every number there")
    options = parser.parse_args()
    records = [measure(name, options) for name in options.models]
    if options.json:
        write_json(options.json, {"machine": machine_facts(), "steps": records})
    return 0 if all(record["agrees"] for record in records) else 1


if __name__ == "__main__":
    sys.exit(main())
