"""A target for the command line: a small MobileNet with batch norm, and an image."""

import jax
from jax import lax


def conv(layer, x, stride=1, groups=1):
    """A convolution, batch norm and relu."""
    numbers = ("NHWC", "HWIO", "NHWC")
    x = lax.conv_general_dilated(
        x,
        layer["w"],
        (stride, stride),
        "SAME",
        dimension_numbers=numbers,
        feature_group_count=groups,
    )
    x = (x - layer["mean"]) * lax.rsqrt(layer["var"] + 1e-5) * layer["scale"] + layer["shift"]
    return jax.nn.relu(x)


def network(params, x):
    x = conv(params["stem"], x, stride=2)
    for depthwise, pointwise in params["blocks"]:
        x = conv(depthwise, x, stride=2, groups=x.shape[-1])
        x = conv(pointwise, x)
    return jax.nn.softmax(x.mean((1, 2)))


def layer(key, *shape):
    for_w, *for_norm = jax.random.split(key, 5)
    mean, var, scale, shift = (jax.random.uniform(k, shape[-1:], minval=0.5) for k in for_norm)
    w = jax.random.normal(for_w, shape) / (shape[0] * shape[2] ** 0.5)
    return {"w": w, "mean": mean, "var": var, "scale": scale, "shift": shift}


def target():
    keys = iter(jax.random.split(jax.random.key(0), 7))
    blocks = [
        (layer(next(keys), 3, 3, 1, n), layer(next(keys), 1, 1, n, 2 * n)) for n in (32, 64, 128)
    ]
    params = {"stem": layer(next(keys), 3, 3, 3, 32), "blocks": blocks}
    return network, (params, jax.random.normal(jax.random.key(1), (1, 128, 128, 3)))
