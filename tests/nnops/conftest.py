"""What the tests of named ops share: an op must behave as its plain function, everywhere."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from helpers import quick_compiles


@pytest.fixture(autouse=True)
def compiled_quickly():
    with quick_compiles():
        yield


def assert_close(got, want, rtol=1e-12):
    """Equal structures, shapes and dtypes; values within ``rtol`` of the largest."""
    assert jax.tree.structure(got) == jax.tree.structure(want)
    for g, w in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        assert g.dtype == w.dtype
        assert g.shape == w.shape
        g, w = np.asarray(g), np.asarray(w)
        if not jnp.issubdtype(g.dtype, jnp.inexact):
            np.testing.assert_array_equal(g, w)
            continue
        wide = np.complex128 if np.iscomplexobj(g) else np.float64
        g, w = g.astype(wide), w.astype(wide)
        finite = np.abs(w[np.isfinite(w)])
        np.testing.assert_allclose(g, w, rtol=rtol, atol=rtol * max(1.0, finite.max(initial=0.0)))


def _derivatives(f, args, tangents):
    """First and second derivatives in every way that JAX has to take them."""

    def loss(*a):
        return jnp.sum(jnp.sin(f(*a)))

    argnums = tuple(range(len(args)))
    grad = jax.grad(loss, argnums)
    value, push = jax.linearize(f, *args)
    return {
        "jvp": jax.jvp(f, args, tangents),
        "linearize": (value, push(*tangents)),
        "grad": grad(*args),
        "hvp": jax.jvp(grad, args, tangents)[1],
        "remat": jax.grad(jax.checkpoint(loss), argnums)(*args),
        "each": [jax.grad(loss, i)(*args) for i in argnums],
    }


def _mixed(args, i, axis=0):
    """The operands, the one at ``i`` stacked along ``axis``, and the axes that say so."""
    args, axes = list(args), [None] * len(args)
    args[i] = jnp.stack([args[i], 2 * args[i], args[i] - 1], axis)
    axes[i] = axis
    return args, tuple(axes)


def _batched(f, args):
    """vmap over all operands, each alone, and each inside of another."""
    last = [jnp.stack([a, 2 * a, a - 1], -1) for a in args]
    out = {"all": jax.vmap(f, in_axes=-1, out_axes=1)(*last)}
    for i in range(len(args)):
        mixed, axes = _mixed(args, i)
        out[f"only {i}"] = jax.vmap(f, in_axes=axes)(*mixed)
        twice, more = _mixed(mixed, (i + 1) % len(args), axis=-1)
        out[f"nested {i}"] = jax.vmap(jax.vmap(f, in_axes=axes), in_axes=more)(*twice)
    return out


def _batched_grad(f, args):
    def loss(*a):
        return jnp.sum(jnp.cos(f(*a)))

    argnums = tuple(range(len(args)))
    stacked = [jnp.stack([a, 2 * a]) for a in args]
    out = {"all": jax.vmap(jax.grad(loss, argnums))(*stacked)}
    for i in argnums:
        mixed, axes = _mixed(args, i)
        out[f"grad of vmap {i}"] = jax.grad(
            lambda *a, axes=axes: jnp.sum(jnp.cos(jax.vmap(f, in_axes=axes)(*a))), argnums
        )(*mixed)
    return out


def _control_flow(f, args):
    def step(carry, _):
        out = f(*carry)
        return tuple(c + 0.1 * jnp.mean(out) for c in carry), out

    return jax.lax.scan(step, tuple(args), None, length=2)


@pytest.fixture
def agree():
    """``agree(f, plain, *shapes)``: both are one function, under every transformation.

    In float64, so that only a wrong formula can tell them apart.
    """

    def check(f, plain, *shapes, batch=True, seed=0, draw=None, rtol=1e-11):
        with jax.enable_x64(True):
            rng = np.random.default_rng(seed)
            draw = draw or (lambda rng, shape: rng.normal(size=shape))
            args = tuple(jnp.asarray(draw(rng, s), jnp.float64) for s in shapes)
            tangents = tuple(jnp.asarray(rng.normal(size=s), jnp.float64) for s in shapes)
            assert_close(f(*args), plain(*args), rtol)

            def everything(fn, *args):
                out = {"value": fn(*args), "scan": _control_flow(fn, args)}
                out["derivatives"] = _derivatives(fn, args, tangents)
                if batch:
                    out["vmap"] = _batched(fn, args)
                    out["vmap grad"] = _batched_grad(fn, args)
                return out

            got = jax.jit(functools.partial(everything, f))(*args)
            want = jax.jit(functools.partial(everything, plain))(*args)
            assert_close(got, want, rtol)

    return check
