"""Small functions that between them use every kind of equation that JAX can make.

``PROGRAMS`` maps a name to ``make() -> (function, arguments)``. What is bound to a device count or
leaves something behind is kept in the tests that need it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

PROGRAMS: dict[str, Callable[[], tuple[Callable[..., Any], tuple[Any, ...]]]] = {}


class Pair(NamedTuple):
    first: Any
    second: Any


def f32(*shape: int) -> jax.Array:
    """An array of distinct, moderate numbers."""
    n = int(np.prod(shape))
    return jnp.asarray(np.sin(np.arange(1, n + 1, dtype=np.float32)).reshape(shape))


def program(*args: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Enter a function into the list; an argument that is a ``Lazy`` is made when asked for."""

    def enter(fn: Callable[..., Any]) -> Callable[..., Any]:
        def make() -> tuple[Callable[..., Any], tuple[Any, ...]]:
            return fn, tuple(a.make() if isinstance(a, Lazy) else a for a in args)

        PROGRAMS[fn.__name__] = make
        return fn

    return enter


class Lazy(NamedTuple):
    """An argument to be made later: importing this module must not wake a device."""

    make: Callable[[], Any]


def array(*shape: int, dtype: Any = None) -> Lazy:
    return Lazy(lambda: f32(*shape) if dtype is None else (f32(*shape) * 9).astype(dtype))


# Calls.


@jax.jit
def inner(x: jax.Array) -> jax.Array:
    return jnp.sin(x) * 2


@program(array(3))
def shared_jit(x):
    return inner(inner(x)) + inner(x)


@program(array(3))
def jit_closing_over_an_array(x):
    w = np.arange(3.0, dtype=np.float32)
    return jax.jit(lambda y: y * w)(x) + jax.jit(lambda y: y - w)(x)


@program(array(4))
def deep_jit(x):
    fn = jnp.cos
    for _ in range(20):
        fn = jax.jit(lambda y, fn=fn: fn(fn(y)))
    return jax.jit(lambda y: y + 1)(x) if x.ndim != 1 else fn_of_depth(3)(x)


def fn_of_depth(depth: int) -> Callable[[jax.Array], jax.Array]:
    """A function whose bodies are shared: ``2**depth`` uses of one cosine."""
    fn: Any = jnp.cos
    for _ in range(depth):
        fn = jax.jit(lambda y, fn=fn: fn(fn(y)))
    return fn


@program(array(2, 3))
def jit_with_static_and_donated(x):
    fn = jax.jit(lambda y, n: y * n, static_argnums=1, donate_argnums=0)
    return fn(x, 3)


@program(array(3))
def named_scopes(x):
    with jax.named_scope("outer"):
        x = jnp.tanh(x)
        with jax.named_scope("inner"):
            x = jax.jit(jnp.exp)(x)
    return jax.named_call(jnp.sin, name="called")(x)


# Control flow.


@program(array(3), array(5, 3))
def scan_with_constants(c, xs):
    w = jnp.full((3,), 2.0)
    table = np.arange(3.0, dtype=np.float32)

    def step(carry, x):
        new = jnp.tanh(carry * w + x * c + table)
        return new, (new.sum(), x)

    return lax.scan(step, c, xs, unroll=2)


@program(array(3))
def scan_reversed_without_inputs(c):
    return lax.scan(lambda carry, _: (carry * 0.5, carry), c, None, length=4, reverse=True)


@program(array(3))
def nested_scan(c):
    def outer(carry, _):
        inner, ys = lax.scan(lambda a, _: (jnp.sin(a), a), carry, None, length=2)
        return inner, ys

    return lax.scan(outer, c, None, length=3)


@program(array(3), 10)
def while_with_constants(x, n):
    limit = x.sum() * 0 + n

    def keep_going(state):
        i, _ = state
        return i < limit

    return lax.while_loop(keep_going, lambda s: (s[0] + 1, s[1] * x), (0, x))


@program(array(3))
def loops(x):
    x = lax.fori_loop(0, 3, lambda i, y: y + i, x)
    return lax.map(lambda y: y * 2, x), lax.associative_scan(jnp.add, x)


@program(array(3), True)
def cond_with_closures(x, flag):
    w = jnp.arange(3.0)
    return lax.cond(flag, lambda y: y * w, lambda y: y - x, x)


@program(array(3), 2)
def switch(x, i):
    return lax.switch(i, [jnp.sin, jnp.cos, lambda y: y, lambda y: y * 2], x)


@program(array(3), True)
def cond_of_one_body_twice(x, flag):
    return lax.cond(flag, inner, inner, x)


# Derivative rules, and derivatives.


@jax.custom_jvp
def clipped(x):
    return jnp.clip(x, -0.5, 0.5)


@clipped.defjvp
def _clipped_jvp(primals, tangents):
    return clipped(*primals), 0.5 * tangents[0]


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def straight_through(x, levels):
    return jnp.round(x * levels) / levels


straight_through.defvjp(
    lambda x, levels: (straight_through(x, levels), x.shape),
    lambda levels, shape, g: (jnp.broadcast_to(g * levels, shape),),
)


@jax.custom_vjp
def scaled_gradient(x, s):
    return x * s


scaled_gradient.defvjp(
    lambda x, s: (x * s, (x, s)), lambda res, g: (g * res[1] * 2, (g * res[0]).sum())
)


@program(array(3))
def custom_derivatives(x):
    y = straight_through(clipped(x), 4) + scaled_gradient(x, 2.0)
    return lax.scan(lambda c, _: (jax.nn.relu(clipped(c)), c), y, None, length=2)


@program(array(3))
def gradient_of_custom_derivatives(x):
    return jax.grad(lambda y: custom_derivatives(y)[0].sum() + jax.nn.silu(y).sum())(x)


@program(array(4), array(4, 4))
def remat(x, w):
    policy = jax.checkpoint_policies.dots_saveable
    block = jax.checkpoint(lambda y: jnp.sin(w @ jnp.tanh(y)), policy=policy)
    return jax.value_and_grad(lambda y: block(block(y)).sum())(x), jax.checkpoint(jnp.sin)(x)


@program(array(3, 4), array(5, 3), array(3))
def training_step(w, x, y):
    def loss(w):
        return jnp.mean((jax.nn.relu(x @ w).sum(1)[:3] - y) ** 2)

    value, g = jax.value_and_grad(loss)(w)
    return w - 0.1 * g, value


@program(array(3))
def second_derivatives(x):
    return jax.hessian(lambda y: jnp.sum(jax.nn.gelu(y)))(x), jax.jacfwd(jnp.cumsum)(x)


@program(array(2, 3))
def mapped(x):
    return jax.vmap(lambda row: jnp.sort(row) + jax.nn.softmax(row))(x)


@program(array(4, 4), array(4))
def linear_solves(a, b):
    a = a @ a.T + 3 * jnp.eye(4)
    return jnp.linalg.solve(a, b), jax.scipy.linalg.cho_solve((jnp.linalg.cholesky(a), True), b)


@program(array(3))
def custom_batching(x):
    @jax.custom_batching.custom_vmap
    def fn(y):
        return jnp.sin(y)

    @fn.def_vmap
    def rule(size, in_batched, y):
        return jnp.cos(y), in_batched[0]

    return fn(x)


@program(array(3))
def composite(x):
    return lax.composite(lambda y: jnp.exp(y) + 1, "test.exp_plus_one")(x)


# Types.


@program(2.0, 3, True, array(3, dtype=jnp.bfloat16))
def weak_types(x, n, flag, h):
    return x * n, h * x, jnp.where(flag, n, x), h + n, x


@program(array(3), Lazy(lambda: jnp.arange(3)), Lazy(lambda: np.arange(6, dtype=np.int8)))
def many_dtypes(x, i, j):
    z = x + 1j
    return jnp.abs(z), i // 2, j << 1, x > 0, jnp.fft.fft(z), z.astype(jnp.complex64).real


@program(Lazy(lambda: jax.random.key(0)), Lazy(lambda: jax.random.PRNGKey(1)))
def random_keys(key, old):
    first, second = jax.random.split(key)
    drawn = jax.random.normal(jax.random.fold_in(first, 3), (2,))
    keys = lax.scan(lambda k, _: (jax.random.split(k, 1)[0], k), second, None, length=2)
    return drawn, keys, jax.random.uniform(old, (2,)), jax.random.key_data(key)


@program(1.0)
def pytrees(x):
    return {"z": Pair(x, [x + 1, None]), "a": (), "m": {"n": x * 2}}


@program(Lazy(lambda: {"b": f32(2), "a": [f32(3), None]}), Lazy(lambda: Pair(f32(2), ())))
def nested_arguments(params, pair):
    return params["b"] + pair.first, params["a"][0].sum()


@program(array(3), array(3))
def odd_outputs(x, unused):
    y = x + 1
    return y, x, y, 1.0, jnp.float32(2), np.int32(3), None


@program()
def no_arguments():
    return jnp.arange(3) + 1


@program()
def nothing_at_all():
    return ()


# Operations with structure in their parameters.


@program(array(2, 8, 8, 4), array(3, 3, 2, 6))
def convolution(x, w):
    numbers = ("NHWC", "HWIO", "NHWC")
    y = lax.conv_general_dilated(
        x, w, (2, 1), "SAME", rhs_dilation=(1, 2), dimension_numbers=numbers, feature_group_count=2
    )
    y = lax.reduce_window(y, -jnp.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")
    return lax.conv_transpose(y, jnp.ones((2, 2, 6, 3)), (2, 2), "SAME", dimension_numbers=numbers)


@program(array(4, 5), array(2, 5, 3))
def contractions(a, b):
    return jnp.einsum("ij,kjl->kil", a, b), lax.dot(a, b[0], precision="highest")


@program(array(6), array(3, 4))
def indexing(x, m):
    y = x.at[jnp.array([0, 2])].add(1.0).at[3].set(0.0)[::2]
    z = lax.dynamic_update_slice(m, m[:1] * 2, (1, 0))
    found = jnp.searchsorted(x, jnp.array([0.0, 0.5])), jnp.nonzero(m, size=3)
    return y, z, found, jnp.take_along_axis(m, jnp.argsort(m, 1), 1), lax.top_k(m, 2)


@program(array(3, 4))
def reductions(x):
    y = lax.reduce(x, jnp.float32(1), lambda a, b: a * b, (1,))
    return y, jnp.argmax(x, 1), jnp.cumsum(x, 0), jnp.median(x), jnp.any(x > 0), x.std()


# Effects.


@program(array(3))
def mutable_references(x):
    ref = jax.new_ref(x)
    ref[0] = 5.0
    ref[...] += x

    def step(i, _):
        ref[i] = ref[i] * 2
        return _

    lax.fori_loop(0, 3, step, None)
    return jax.freeze(ref)


@program(array(3))
def printing(x):
    jax.debug.print("x={x}", x=x, ordered=True)
    y = jax.pure_callback(np.sin, jax.ShapeDtypeStruct((3,), jnp.float32), x)
    jax.debug.callback(lambda v: None, y)
    return lax.cond(y[0] > 0, lambda v: (jax.debug.print("in {v}", v=v), v)[1], lambda v: v, y)


@program(array(3))
def barriers(x):
    x, y = lax.optimization_barrier((x, x + 1))
    return lax.stop_gradient(x) + y, lax.reduce_precision(x, 8, 7)
