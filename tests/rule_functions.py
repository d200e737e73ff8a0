"""What the examples of rules are made of: their form, arrays and functions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from helpers import array, positive
from jaxpress import nnops
from jaxpress.nnops import activation_entries


class Case(NamedTuple):
    """Where a rule applies, and where it must not.

    Attributes:
      fn: a function in whose graph it applies.
      args: its arguments.
      lookalike: a function to which it must not apply.
      lookalike_args: its arguments; ``args`` if left out.
      tidied: whether the rule is meant for a graph that is tidied already.
      gradients: whether ``fn`` has any.
    """

    fn: Callable[..., Any]
    args: tuple[Any, ...]
    lookalike: Callable[..., Any]
    lookalike_args: tuple[Any, ...] | None = None
    tidied: bool = False
    gradients: bool = True


X, Y = array(3, 4), array(3, 4, seed=1)
N = jnp.arange(12).reshape(3, 4)
P = N % 2 == 0
MESH = jax.make_mesh((1,), ("i",), axis_types=(jax.sharding.AxisType.Auto,))
W, V, B, C = array(4, 5), array(5, 6), array(5), positive(5)
IMAGE, K, KB, KS = array(2, 6, 6, 3), array(3, 3, 3, 4), array(4), positive(4)
POINT, KERNEL = array(1, 1, 3, 4), array(3, 3, 4, 5)
TABLE, IDS = array(7, 4), jnp.asarray([[0, 3], [6, 1]])
normal_cdf = jax.scipy.stats.norm.cdf
Q = tuple(array(2, 5, 2, 4, seed=i) for i in range(3))


def plain(name: str, **params: Any) -> Callable[..., Any]:
    """A named op's own definition, in which the op does not occur."""
    reference = nnops.registry()[name].reference
    return lambda *arrays: reference(*arrays, **params)


def activation(name: str) -> Callable[[Any], Any]:
    entry = activation_entries()[name]
    return lambda x: entry.reference(x, **entry.defaults)


def shared(fn: Callable[..., Any], inner: Callable[..., Any]) -> Callable[..., Any]:
    """``fn`` where something else needs an inner value too; both give tuples."""
    return lambda *args: (fn(*args), inner(*args))


def norm(x, over=lambda var: lax.rsqrt(var + 1e-5)):
    return (x - x.mean(-1, keepdims=True)) * over(x.var(-1, keepdims=True))


@jax.jit
def minus(a, b):
    return a - b


@jax.jit
def to_float(x, n):
    return x * lax.convert_element_type(n, jnp.float32)


def softmax_of(x, shift):
    e = jnp.exp(x - shift)
    return e / e.sum(-1, keepdims=True)


def attention(q, k, v, after=lambda p: p):
    logits = jnp.einsum("btnh,bsnh->bnts", q, k) / 2.0
    return jnp.einsum("bnts,bsnh->btnh", after(jax.nn.softmax(logits, -1)), v)


def lstm_step(carry, x, wi, wh, b, squash=jax.nn.sigmoid):
    h, c = carry
    i, f, g, o = jnp.split(x @ wi + h @ wh + b, 4, axis=-1)
    c = squash(f) * c + squash(i) * jnp.tanh(g)
    h = squash(o) * jnp.tanh(c)
    return (h, c), h


def gru_step(h, x, wi, wh, b, squash=jax.nn.sigmoid):
    ir, iz, i_n = jnp.split(x @ wi + b, 3, axis=-1)
    hr, hz, hn = jnp.split(h @ wh, 3, axis=-1)
    r, z = squash(ir + hr), squash(iz + hz)
    return (1 - z) * jnp.tanh(i_n + r * hn) + z * h


def scanned(step):
    def run(xs, carry, *weights):
        return lax.scan(lambda c, x: step(c, x, *weights), carry, xs)

    return run


def relu_like(z):
    return jnp.clip(z / 4 + 0.5, 0, 1)


def turned(x, cos, sin, sign=1):
    a, b = jnp.split(x, 2, -1)
    other = b * cos + a * sin if sign > 0 else b * cos - a * sin
    return jnp.concatenate([a * cos - b * sin, other], -1)


ANGLES = array(5, 1, 4, seed=7), array(5, 1, 4, seed=8)
STEPS, H = array(4, 2, 3), array(2, 5)
LSTM = (array(3, 20), array(5, 20), array(20))
GRU = (array(3, 15), array(5, 15), array(15))
RNN = (array(3, 5), array(5, 5), array(5))


def dense_of(x, *rest, **options):
    return nnops.dense(x, W, *rest, **options)


def image_conv(x, *rest, **options):
    return nnops.conv(x, K, *rest, **options)


def varying(x: Any) -> Any:
    """A value that is the same on all devices, taken for one that differs."""
    return lax.pcast(x, "i", to="varying")


def on_a_mesh(fn: Callable[..., Any]) -> Callable[..., Any]:
    """``fn`` under ``shard_map``: of x, which is split, and of an array that is not."""
    spec = jax.sharding.PartitionSpec
    run = jax.shard_map(fn, mesh=MESH, in_specs=(spec("i"), spec()), out_specs=spec("i"))
    return lambda x: run(x, Y)
