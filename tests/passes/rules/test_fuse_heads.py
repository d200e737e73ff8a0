"""Heads that are written one by one become one attention; what each has of its own is kept."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest

from helpers import array, assert_optimizes, quick_compiles, rules_of
from jaxpress.capture import trace
from jaxpress.passes import default, inference

N, D, H, T = 3, 6, 2, 4
X, MEMORY = array(2, T, D), array(2, 5, D, seed=1)
WEIGHTS = {n: [array(D, H, seed=10 * i + j) for j in range(N)] for i, n in enumerate("qkv")}
BIASES, SCALE = [array(H, seed=i) for i in range(N)], array(H, seed=8)
OUT, WIDE, SLOPES = array(D, D, seed=5), array(D, 3 * D, seed=6), (0.5, 0.25, 0.125)
COS, SIN, POSITIONS = array(T, H, seed=3), array(T, H, seed=4), jnp.arange(T)
CAUSAL = jnp.tril(jnp.ones((T, T), bool))


@pytest.fixture(autouse=True)
def compiled_quickly():
    with quick_compiles():
        yield


def project(x, i, memory=None):
    memory = x if memory is None else memory
    return (m @ WEIGHTS[n][i] for n, m in zip("qkv", (x, memory, memory), strict=True))


def head(q, k, v, change=lambda s: s):
    return jax.nn.softmax(change(q @ jnp.swapaxes(k, -1, -2) * H**-0.5), -1) @ v


def normalised(x):
    return x * jax.lax.rsqrt(jnp.mean(x * x, -1, keepdims=True) + 1e-6) * SCALE


def turned(x):
    a, b = jnp.split(x, 2, -1)
    return x * COS + jnp.concatenate([-b, a], -1) * SIN


def masked(s):
    return jnp.where(CAUSAL, s, -1e9)


def with_biases(x, i):
    return head(*(y + BIASES[i] for y in project(x, i)), masked)


def of_one_product(x, i):
    q, k, v = jnp.split((x @ WIDE)[..., 3 * H * i : 3 * H * (i + 1)], 3, -1)
    return head(q, k, v)


def pieces_of_three(x, i):
    at = slice(H * i, H * (i + 1))
    return head(*((x @ w)[..., at] for w in (OUT, OUT + 1, OUT - 1)))


def shared_keys(x, i):
    (q, *_), (_, k, v) = project(x, i), project(x, 0)
    return head(q, k, v)


def turned_and_normalised(x, i):
    q, k, v = project(x, i)
    return head(turned(normalised(q)), turned(normalised(k)), v)


def with_slopes(x, i):
    far = jnp.abs(POSITIONS[:, None] - POSITIONS)
    return head(*project(x, i), lambda s: s - SLOPES[i] * far)


def join(heads):
    return jnp.concatenate(heads, -1) @ OUT


def stack(heads):
    return jnp.stack(heads, -2).reshape(X.shape) @ OUT


def stack_in_front(heads):
    return jnp.stack(heads, 1).swapaxes(1, 2).reshape(X.shape) @ OUT


def add(heads):
    return X + sum(h @ OUT[H * i : H * (i + 1)] for i, h in enumerate(heads))


@pytest.mark.parametrize(
    ("one", "together", "more"),
    [
        (with_biases, join, {}),
        (of_one_product, join, {}),
        (pieces_of_three, stack, {}),
        (shared_keys, join, {}),
        (turned_and_normalised, join, {"rms_norm": 2, "rotary_embedding": 2}),
        (with_slopes, stack_in_front, {}),
        (with_biases, add, {}),
        (lambda x, i: head(*project(x, i, MEMORY)), stack, {"dense": 2}),
    ],
)
def test_one_attention_with_all_heads(one, together, more) -> None:
    fn = lambda x: together([one(x, i) for i in range(N)])  # noqa: E731
    new = assert_optimizes(default, fn, X, absent=("concatenate", "stack", "transpose"))
    count = new.count()
    assert {k: count[k] for k in ("dot_product_attention", "dense", *more)} == {
        "dot_product_attention": 1, "dense": 2, **more,
    }  # fmt: skip
    assert new.find("dot_product_attention")[0].inputs[0].shape == (2, T, N, H)


def test_heads_that_share_keys_in_groups() -> None:
    def fn(x):
        heads = []
        for i in range(4):
            k, v = (x @ WEIGHTS[n][i // 2] for n in "kv")
            heads.append(head(x @ (WEIGHTS["q"][0] + i), k, v))
        return jnp.concatenate(heads, -1)

    new = assert_optimizes(inference, fn, X, absent=("concatenate",))
    (node,) = new.find("dot_product_attention")
    assert [v.shape[-2] for v in node.inputs] == [4, 2, 2]


@pytest.mark.parametrize(
    "fn",
    [
        # A scale, an input or a norm of each head's own; a part that is no head.
        lambda x: join([head(*project(jnp.sin(x * (i + 1)), i)) for i in range(N)]),
        lambda x: join([head(*project(x, i), lambda s, i=i: s * (i + 1)) for i in range(N)]),
        lambda x: jnp.concatenate([head(*project(x, i)) for i in range(N)] + [x], -1),
        lambda x: jnp.concatenate([head(*project(x, i)) for i in range(N)], 0),
        # What one head gives is a result too.
        lambda x: (join(h := [head(*project(x, i)) for i in range(N)]), h[0]),
        # No pieces at equal distances.
        lambda x: join([head(*(x[..., a : a + 2] for _ in "qkv")) for a in (0, 1, 4)]),
    ],
)
def test_what_stays(fn) -> None:
    _, report = default.run(trace(fn)(X))
    assert "fuse_heads" not in rules_of(report)
    assert rules_of(report)["raise_attention"] == N


def test_weights_that_are_data_are_not_joined() -> None:
    def fn(weights, x):
        return jnp.concatenate(
            [head(*(x @ weights[n][i] for n in "qkv")) for i in range(N)], -1
        )  # fmt: skip

    new, report = default.run(trace(fn)(WEIGHTS, X))
    assert "fuse_heads" not in rules_of(report) and new.count()["dot_product_attention"] == N
