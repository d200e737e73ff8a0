"""Graphs that several tests draw."""

import itertools

import jax
import jax.numpy as jnp
import pytest
from drawings import stack_of
from jax import lax

from jaxpress.capture import Graph, trace


@pytest.fixture
def mlp() -> Graph:
    def mlp(params, x):
        for w, b in params[:-1]:
            x = jax.nn.relu(x @ w + b)
        w, b = params[-1]
        return x @ w + b

    sizes = [8, 16, 4]
    params = [(jnp.ones((m, n)), jnp.ones(n)) for m, n in itertools.pairwise(sizes)]
    return trace(mlp)(params, jnp.ones((2, 8)))


@pytest.fixture
def rnn() -> Graph:
    def rnn(params, xs, h):
        def step(h, x):
            h = jnp.tanh(x @ params["w_ih"] + h @ params["w_hh"])
            return h, h * 2.0

        return lax.scan(step, h, xs)

    params = {"w_ih": jnp.ones((3, 5)), "w_hh": jnp.ones((5, 5))}
    return trace(rnn)(params, jnp.ones((7, 2, 3)), jnp.ones((2, 5)))


@pytest.fixture
def stack() -> Graph:
    return stack_of(30)
