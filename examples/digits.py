"""Trains a small convolutional network of nnops layers on scikit-learn's digits."""

import jax
import jax.numpy as jnp
import optax
from sklearn.datasets import load_digits

import jaxpress as jp
from jaxpress import nnops


def flatten(x):
    return x.reshape(len(x), -1)


def make_model(key):
    for_conv, for_dense = jax.random.split(key)
    return nnops.Sequential(
        [
            nnops.Conv.init(for_conv, 1, 16, (3, 3), use_bias=False),
            nnops.BatchNorm.init(None, 16),
            nnops.relu,
            nnops.MaxPool((2, 2), strides=2),
            flatten,
            nnops.Dropout(0.2),
            nnops.Dense.init(for_dense, 256, 10),
        ]
    )


def loss(model, x, y, key):
    logits, model = model(x, key=key)  # in training, the model comes back with new statistics
    return nnops.softmax_cross_entropy(logits, y, reduction="mean"), model


def train(model, x, y, steps=300, batch=64):
    # The running statistics are moved by calls, not by gradients.
    optimizer = optax.masked(optax.adam(3e-3), nnops.trainable(model))

    @jax.jit
    def step(carry, key):
        model, state = carry
        rows, key = jax.random.choice(key, len(x), (batch,)), jax.random.fold_in(key, 1)
        (value, moved), grads = jax.value_and_grad(loss, has_aux=True)(model, x[rows], y[rows], key)
        updates, state = optimizer.update(grads, state, moved)
        return (optax.apply_updates(moved, updates), state), value

    keys = jax.random.split(jax.random.key(1), steps)
    (model, _), losses = jax.lax.scan(step, (model, optimizer.init(model)), keys)
    return model, losses


def main():
    digits = load_digits()
    x, y = jnp.asarray(digits.images[..., None] / 16, jnp.float32), jnp.asarray(digits.target)
    model, losses = train(make_model(jax.random.key(0)), x[:1400], y[:1400])

    def predict(model, x):
        logits, _ = model(x, training=False)
        return logits

    fast = jp.optimize(predict, passes="inference", weight_argnums=0)
    accuracy = jnp.mean(fast(model, x[1400:]).argmax(-1) == y[1400:])
    print(f"loss {losses[:10].mean():.2f} -> {losses[-10:].mean():.2f}, accuracy {accuracy:.2f}")
    print(dict(jp.trace(predict)(model, x[:1]).count()))
    print(dict(fast.graph(model, x[:1]).count()))
    return float(accuracy)


if __name__ == "__main__":
    main()
