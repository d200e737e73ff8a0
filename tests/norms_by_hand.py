"""What the tests of norms share: data, a few spellings, and what must hold of a raised one."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from jax import lax

import jaxpress as jp
from helpers import array, assert_close, rewritten
from jaxpress import passes
from jaxpress.capture import trace
from jaxpress.passes.rules.raise_norm import RAISE_NORM

# Several sizes are equal: no shape tells the axes apart.
X = array(2, 4, 4, 8)
G, B = array(8, seed=1), array(8, seed=2)
G4, B4 = array(4, seed=3), array(4, seed=4)
EPS = 1e-5
TIDY = passes.cleanup[:3]
RULES = TIDY + RAISE_NORM + passes.dce
LAST = {"axis": -1, "keepdims": True}


def mean(x):
    return jnp.mean(x, **LAST)


def inlined(fn, *args):
    """``fn`` without calls, as rules see it."""
    graph, _ = TIDY.run(trace(fn)(*args))
    return lambda *a: graph(*a)


def applied(fn, *args):
    """The graph after the rule, and how often it applied."""
    new, rules = rewritten(RULES, fn, *args)
    return new, rules.count("raise_norm")


def raised(fn, *args):
    """The graph after the rule, checked against the function, and the named ops in it."""
    new, n = applied(fn, *args)
    assert_close(jax.jit(new)(*args), jax.jit(fn)(*args))
    ops = [n for n in new.walk() if n.op in jp.nnops.registry()]
    assert n == len(ops), f"applied {n} times in\n{new}"
    return new, ops


def check(fn, *args, op, **params):
    """One named op is all that computes, with these parameters."""
    new, (node,) = raised(fn, *args)
    assert node.op == op, f"{node.op} in\n{new}"
    for name, want in params.items():
        assert node.params[name] == want, f"{name} is {node.params[name]}"
    full = max(math.prod(v.shape) for v in node.inputs)
    # What is left besides rearranges data, or works on parameters.
    moves = ("reshape", "broadcast_in_dim", "transpose", "convert_element_type", "squeeze")
    rest = [n for n in new.nodes if n is not node and n.op not in moves]
    assert all(math.prod(n.output.shape) < full for n in rest), f"{rest} is left in\n{new}"
    return node


def two_passes(x, g, b):
    m = mean(x)
    return (x - m) * lax.rsqrt(jnp.mean((x - m) ** 2, **LAST) + EPS) * g + b


def by_jnp_var(x, g, b):
    return (x - mean(x)) / jnp.sqrt(x.var(**LAST) + EPS) * g + b


def fast_variance(x, g, b):
    m = mean(x)
    v = jnp.maximum(0.0, jnp.mean(x * x, **LAST) - m * m)
    return (x - m) * (lax.rsqrt(v + EPS) * g) + b


def rms(x, g, b):
    return x * lax.rsqrt(jnp.mean(x**2, **LAST) + EPS) * g


def rms_gemma(x, g, b):
    return x * lax.rsqrt(jnp.mean(jnp.square(x), **LAST) + EPS) * (1 + g)


def over(axes, scale=None, bias=None):
    def fn(x):
        m = x.mean(axes, keepdims=True)
        y = (x - m) * lax.rsqrt(x.var(axes, keepdims=True) + EPS)
        y = y if scale is None else y * scale
        return y if bias is None else y + bias

    return fn


def at(v, axis):
    return v.reshape([-1 if i == axis else 1 for i in range(4)])
