"""Recurrent cells and loops written by hand, to hold the named ops against."""

import jax
import jax.numpy as jnp
import numpy as np
from conftest import assert_close

sigmoid = jax.nn.sigmoid


def lstm_step(x, state, w_ih, w_hh, b, act=jnp.tanh, gate=sigmoid):
    """``(h, c)`` after one step."""
    h, c = state
    i, f, g, o = jnp.split(x @ w_ih + h @ w_hh + b, 4, axis=-1)
    c = gate(f) * c + gate(i) * act(g)
    return gate(o) * act(c), c


def gru_step(x, state, w_ih, w_hh, b, b_hh, act=jnp.tanh, gate=sigmoid, reset_after=True):
    """``(h,)`` after one step."""
    (h,) = state
    x_r, x_z, x_n = jnp.split(x @ w_ih + b, 3, axis=-1)
    w_r, w_z, w_n = jnp.split(w_hh, 3, axis=-1)
    b_r, b_z, b_n = jnp.split(b_hh, 3)
    r = gate(x_r + h @ w_r + b_r)
    z = gate(x_z + h @ w_z + b_z)
    n = act(x_n + (r * (h @ w_n + b_n) if reset_after else (r * h) @ w_n + b_n))
    return ((1 - z) * n + z * h,)


def rnn_step(x, state, w_ih, w_hh, b, act=jnp.tanh):
    """``(h,)`` after one step."""
    return (act(x @ w_ih + state[0] @ w_hh + b),)


def run(step, x, state, *weights, mask=None, reverse=False, hold=False, **options):
    """``(y, state)``: the cell over a sequence (..., time, features), one step after the other."""
    steps = range(x.shape[-2])
    ys = {}
    for t in reversed(steps) if reverse else steps:
        new = step(x[..., t, :], state, *weights, **options)
        y = new[0]
        if mask is not None:
            on = mask[..., t, None]
            new = tuple(jnp.where(on, a, b) for a, b in zip(new, state, strict=True))
            y = new[0] if hold else jnp.where(on, y, 0)
        state, ys[t] = new, y
    return jnp.stack([ys[t] for t in steps], axis=-2), state


def draw(*shapes, dtype=np.float64, seed=0):
    """Normal numbers, the same in every run."""
    rng = np.random.default_rng(seed)
    return [jnp.asarray(rng.normal(size=s), dtype) for s in shapes]


def assert_same_function(f, g, args, rtol=1e-12):
    """Equal results and gradients, in float64."""

    def everything(fn):
        def loss(*a):
            outs = jax.tree.leaves(fn(*a))
            return sum(jnp.sum(jnp.sin(v) * (i + 1)) for i, v in enumerate(outs)), outs

        return jax.value_and_grad(loss, tuple(range(len(args))), has_aux=True)(*args)

    got, want = jax.jit(lambda: (everything(f), everything(g)))()
    assert_close(got, want, rtol)
