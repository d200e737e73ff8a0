"""A target for the command line: a small network with batch norm, and an input."""

import jax
import jax.numpy as jnp
from jax import lax


def network(params, x):
    for layer in params:
        x = lax.conv_general_dilated(
            x, layer["w"], (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        x = (x - layer["mean"]) * lax.rsqrt(layer["var"] + 1e-5) * layer["scale"] + layer["shift"]
        x = jax.nn.relu(x)
    return jax.nn.softmax(x.mean((1, 2)))


def target():
    keys = jax.random.split(jax.random.key(0), 3)
    params = [
        {
            "w": jax.random.normal(key, (3, 3, n_in, n_out)) / (3 * n_in**0.5),
            "mean": jnp.full(n_out, 0.1),
            "var": jnp.full(n_out, 0.5),
            "scale": jnp.full(n_out, 1.5),
            "shift": jnp.full(n_out, 0.2),
        }
        for key, n_in, n_out in zip(keys, (3, 16, 32), (16, 32, 64), strict=True)
    ]
    return network, (params, jnp.ones((1, 32, 32, 3)))
