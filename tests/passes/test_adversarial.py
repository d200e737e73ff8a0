"""Functions made to mislead the rules: whatever a pipeline does, they stay what they are."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import lax
from jax.experimental import io_callback

import jaxpress as jp
from helpers import CHW, array, assert_close, conv, positive
from jaxpress.capture import trace
from jaxpress.passes import default, inference
from jaxpress.verification import verify

# Every axis is as long as the channels: only the axis itself tells them apart.
C = 4
X, Y, W, V = array(C, C, C, C), array(C, C), array(3, 3, C, C), array(3, 3, C, C, seed=9)
MEAN, VAR, SCALE, BIAS = array(C, seed=1), positive(C), array(C, seed=2), array(C, seed=3)
M = array(C, C, seed=5)
PIPELINES = (default, inference)


def norm(x: Any, mean: Any = MEAN, var: Any = VAR) -> Any:
    return (x - mean) * lax.rsqrt(var + 1e-3) * SCALE + BIAS


def along(v: Any, axis: int) -> Any:
    return v.reshape([C if i == axis else 1 for i in range(4)])


def relu(x: Any) -> Any:
    """Not relu, whatever it is called."""
    return jnp.maximum(x, 0.1)


@jax.custom_jvp
def gelu(x: Any) -> Any:
    """relu's value with a derivative of its own."""
    return jnp.maximum(x, 0.0)


@gelu.defjvp
def _gelu_jvp(primals: Any, tangents: Any) -> Any:
    return gelu(*primals), 0.5 * tangents[0]


jitted_relu = jax.jit(lambda x: x - 1.0)
jitted_relu.__wrapped__.__name__ = "relu"


def statistics_of_data(x: Any) -> Any:
    y = conv(x, W)
    return norm(y, y.mean((0, 1, 2)), y.var((0, 1, 2)))


def shared_convolution(x: Any) -> Any:
    y = conv(x, W)
    return norm(y), y * 2.0, jax.nn.relu(y)


def shared_behind_the_norm(x: Any) -> Any:
    y = norm(conv(x, W))
    return jax.nn.relu(y) + conv(y, V)


def one_of_its_outputs(x: Any) -> Any:
    y = conv(x, W)
    z = norm(y)
    return {"conv": y, "norm": z, "twice": (z, z), "input": x}


def aliased_weights(x: Any) -> Any:
    y = norm(conv(x, W))
    z = conv(jax.nn.relu(y), W) * SCALE
    return z + x @ W[0, 0], (W * 2.0).sum()


def weights_that_are_data_too(x: Any) -> Any:
    y = norm(conv(x, W))
    return conv(y, y[:3, :3])


def another_dtype_in_the_middle(x: Any) -> Any:
    y = conv(x, W).astype("bfloat16").astype("float32")
    return norm(y), (x.astype("int32").astype("float32") @ M) * SCALE


def whole_numbers(x: Any) -> Any:
    n = jnp.round(4 * x).astype("int32")
    k = jnp.array([2, 3, -4, 5])
    y = n @ jnp.round(4 * M).astype("int32")
    return (y * 6) // 4, (y // k) * k, (n // 2) * 2, n % 3 + lax.div(n, jnp.int32(3)), y * k // k


def branches_of_one_scale(x: Any) -> Any:
    y = x * VAR
    return conv(y, W, padding="VALID").sum() + (y @ M).sum(), y.max()


def padded_shift(x: Any) -> Any:
    return conv(x - MEAN, W), conv(jnp.pad(x + BIAS, ((0, 0), (1, 1), (1, 1), (0, 0))), V)


def pooled_shift(x: Any) -> Any:
    y = lax.reduce_window(conv(x, W), 0.0, lax.add, (1, 3, 3, 1), (1, 1, 1, 1), "SAME") / 9.0
    z = lax.reduce_window(conv(x, W), -jnp.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")
    return y + BIAS, z * SCALE, norm(z)


def padded_for_the_maximum(x: Any) -> Any:
    y = jnp.pad(conv(x, W), ((0, 0), (1, 1), (1, 1), (0, 0)))
    return lax.reduce_window(y, -jnp.inf, lax.max, (1, 3, 3, 1), (1, 2, 2, 1), "VALID")


def residual_of_itself(x: Any) -> Any:
    y = conv(x, W)
    return y + y, y * y, y - y, jax.nn.relu(y) + y


def residual_that_broadcasts(x: Any) -> Any:
    return conv(x, W) + x[:1], conv(x, W) + Y, Y @ M + M[:, :1], conv(x, W) + along(BIAS, 1)


def scaled_by_its_own_mean(x: Any) -> Any:
    y = conv(x, W)
    return y * y.mean(), y / jnp.linalg.norm(y, axis=-1, keepdims=True), (Y @ M) * (Y @ M).sum()


def powers_and_reciprocals(x: Any) -> Any:
    y = x @ M
    return SCALE / y, VAR**y, y**2 * SCALE, 1.0 / (y * VAR)


def special_values(x: Any) -> Any:
    y = x @ M
    return y * 0.0, y - y, y / y, y + 0.0, jnp.where(y > 0, jnp.inf, y) * SCALE


def functions_that_lie_about_their_names(x: Any) -> Any:
    return relu(conv(x, W)), gelu(conv(x, V) + BIAS), jitted_relu(x @ M)


def turned_around(x: Any) -> Any:
    y = conv(jnp.transpose(x, (0, 3, 1, 2)), jnp.transpose(W, (3, 2, 0, 1)), CHW)
    return norm(y), norm(jnp.transpose(y, (0, 2, 3, 1))), norm(jnp.swapaxes(y, 1, 3))


def reshaped_into_other_channels(x: Any) -> Any:
    y = conv(x, W)
    return (
        norm(y.reshape(C, C, C * C, 1).reshape(C, C, C, C).swapaxes(1, 2)),
        y.reshape(C * C, C * C)[:, :C] * SCALE,
        y.reshape(C, C * C, C).swapaxes(1, 2) * jnp.tile(SCALE, C),
        y[..., ::-1] * SCALE,
        jnp.roll(y, 1, -1) + BIAS,
    )


def gathered(x: Any) -> Any:
    y = (x @ M)[..., jnp.array([0, 0, 3, 1])]
    return y * SCALE + BIAS


FUNCTIONS = [
    statistics_of_data, shared_convolution, shared_behind_the_norm, one_of_its_outputs,
    aliased_weights, weights_that_are_data_too, another_dtype_in_the_middle, whole_numbers,
    branches_of_one_scale, padded_shift, pooled_shift, padded_for_the_maximum, residual_of_itself,
    residual_that_broadcasts, scaled_by_its_own_mean, powers_and_reciprocals, special_values,
    functions_that_lie_about_their_names, turned_around, reshaped_into_other_channels, gathered,
]  # fmt: skip


def finite(tree: Any) -> Any:
    return jax.tree.map(lambda v: jnp.nan_to_num(v, nan=7.0, posinf=8.0, neginf=-8.0), tree)


def outcome(fn: Any, x: Any) -> Any:
    """Values and gradients, what is not finite shown by a mark in its place."""
    out, back = jax.vjp(fn, x)
    weights = jax.tree.map(
        lambda v: (
            jnp.cos(jnp.arange(v.size)).reshape(v.shape).astype(v.dtype)
            if jnp.issubdtype(v.dtype, jnp.floating)
            else np.zeros(v.shape, jax.dtypes.float0)
        ),
        out,
    )
    return finite(out), finite(back(weights))


@pytest.mark.parametrize("fn", FUNCTIONS, ids=lambda fn: fn.__name__)
def test_values_and_gradients_are_unchanged(fn) -> None:
    graph = trace(fn)(X)
    programs = [fn, *(pipeline.run(graph, check=True)[0] for pipeline in PIPELINES)]
    want, *others = jax.jit(lambda: [outcome(f, X) for f in programs])()
    for got in others:
        assert_close(got, want)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_an_axis_that_only_looks_like_the_channels(axis) -> None:
    def fn(x):
        y = conv(x, W)
        m, v, g, b = (along(p, axis) for p in (MEAN, VAR, SCALE, BIAS))
        z = (y - m) * lax.rsqrt(v + 1e-3) * g + b
        return jax.nn.relu(z), conv(x * v, W), (x * v) @ M, conv(x - m, W, padding="VALID")

    graph = trace(fn)(X)
    for pipeline in PIPELINES:
        new = pipeline.run(graph, check=True)[0]
        assert_close(jax.jit(new)(X), jax.jit(fn)(X))


@pytest.mark.parametrize("how", ["ordered", "unordered", "print"])
def test_effects_between_producer_and_consumer(how, capfd) -> None:
    seen: list[float] = []

    def note(v):
        seen.append(float(np.asarray(v).ravel()[0]))
        return np.float32(len(seen))

    def fn(x):
        y = conv(x, W)
        if how == "print":
            jax.debug.print("value {}", y[0, 0, 0, 0], ordered=True)
            n = 1.0
        else:
            n = io_callback(
                note, jax.ShapeDtypeStruct((), jnp.float32), y, ordered=how == "ordered"
            )
        z = norm(y)
        if how == "ordered":
            n += io_callback(note, jax.ShapeDtypeStruct((), jnp.float32), z, ordered=True)
        return jax.nn.relu(z) * n

    runs = []
    for f in (fn, *(p.run(trace(fn)(X), check=True)[0] for p in PIPELINES)):
        seen.clear()
        out = jax.block_until_ready(jax.jit(f)(X))
        jax.effects_barrier()
        runs.append((list(seen), capfd.readouterr().out, out))
    (want_seen, want_text, want), *others = runs
    assert want_seen or want_text
    for got_seen, text, got in others:
        np.testing.assert_allclose(got_seen, want_seen, rtol=1e-5)
        assert text.count("value") == want_text.count("value")
        assert_close(got, want)


def test_writes_to_a_reference_between_producer_and_consumer() -> None:
    def fn(x):
        ref = jax.new_ref(jnp.zeros_like(x))
        y = conv(x, W)
        ref[...] = y
        z = norm(ref[...])
        ref[...] = jax.nn.relu(z)
        return ref[...] + y

    graph = trace(fn)(X)
    for pipeline in PIPELINES:
        new = pipeline.run(graph, check=True)[0]
        assert_close(jax.jit(new)(X), jax.jit(fn)(X))


def init() -> dict[str, Any]:
    return {"w": W, "scale": SCALE, "bias": BIAS, "m": M, "b": BIAS}


def network(p: Any, x: Any, training: bool) -> Any:
    y = conv(x, p["w"])
    mean, var = (y.mean((0, 1, 2)), y.var((0, 1, 2))) if training else (MEAN, VAR)
    y = jax.nn.relu((y - mean) * lax.rsqrt(var + 1e-3) * p["scale"] + p["bias"] + x)
    return y.mean((1, 2)) @ p["m"] + p["b"]


@pytest.mark.parametrize("training", [True, False])
def test_a_whole_training_step(training) -> None:
    """The gradient, the optimiser's state and the new weights of several steps."""
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-2))
    labels = jnp.array([0, 3, 1, 2])

    def loss(p, x):
        scores = network(p, x, training)
        return optax.softmax_cross_entropy_with_integer_labels(scores, labels).mean()

    def step(p, state, x):
        value, grads = jax.value_and_grad(loss)(p, x)
        updates, state = optimizer.update(grads, state, p)
        return optax.apply_updates(p, updates), state, value

    params = init()
    state = optimizer.init(params)
    fast = jp.optimize(step)
    plain = jax.jit(step)
    want, got = (params, state), (params, state)
    for i in range(2):
        *want, a = plain(*want, X + i)
        *got, b = fast(*got, X + i)
        np.testing.assert_allclose(b, a, rtol=1e-5)
    assert_close(got, want, 1e-4)


def test_gradients_of_the_optimised_function_with_declared_weights() -> None:
    def fn(p, x):
        return network(p, x, training=False)

    fast = jp.optimize(fn, weight_argnums=(0,))
    assert not {"batch_norm", "rsqrt"} & set(fast.graph(init(), X).count())
    want, got = (
        jax.jit(jax.grad(lambda p, x, f=f: jnp.sum(jnp.sin(f(p, x))), (0, 1)))(init(), X)
        for f in (fn, fast)
    )
    assert_close(got, want)
    tangents = (jax.tree.map(jnp.ones_like, init()), X)
    want, got = (jax.jvp(f, (init(), X), tangents) for f in (fn, fast))
    assert_close(got, want)


def test_the_check_would_see_a_wrong_rule() -> None:
    """The suite's own net: a shift that is folded through padding is caught."""

    def wrong(x):
        return conv(x, W) - jnp.einsum("hwio,i->o", W, MEAN)

    with pytest.raises(jp.VerificationError):
        verify(lambda x: conv(x - MEAN, W), wrong)(X)
