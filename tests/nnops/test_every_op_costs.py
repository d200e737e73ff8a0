"""A named op costs what its plain reference function costs, as XLA counts it, and says its name."""

import jax
import jax.numpy as jnp
import pytest

from jaxpress import nnops
from samples import SAMPLES, as_list, loss, plain

COUNTED = ("flops", "transcendentals", "bytes accessed")

# Their derivatives are written by hand, and do outside of the loop what the plain ones do in it.
# XLA counts a loop's body once, however often it runs, so they have a test of their own.
LOOPS = ("lstm", "gru", "rnn")


def _costs(stage):
    found = stage.cost_analysis()
    return {what: found.get(what, 0.0) for what in COUNTED}


def _lowered(f, sample, args, derivative=True):
    yield jax.jit(f).lower(*args)
    reals = [args[i] for i in sample.floats()]
    if reals and derivative:
        total = jax.value_and_grad(loss(f, sample, args), range(len(reals)))
        yield jax.jit(total).lower(*reals)


@pytest.mark.parametrize("name", SAMPLES)
def test_costs_nothing(name):
    sample = SAMPLES[name]
    args = sample.arrays()
    ours = as_list(sample.call)
    both = (_lowered(f, sample, args, name not in LOOPS) for f in (ours, plain(ours)))
    for got, want in zip(*both, strict=True):
        # Before XLA's passes, equal programs have equal costs; only else do they have to compile.
        if _costs(got) == _costs(want):
            continue
        got, want = _costs(got.compile()), _costs(want.compile())
        more = {k: f"{got[k]:g} > {want[k]:g}" for k in COUNTED if got[k] > want[k]}
        assert not more


@pytest.mark.parametrize("name", LOOPS)
def test_a_loop_costs_nothing_under_grad(name):
    steps, batch, hidden, gates = 16, 4, 64, {"lstm": 4, "gru": 3, "rnn": 1}[name]
    shapes = [(batch, steps, hidden), *[(batch, hidden)] * (2 if name == "lstm" else 1)]
    shapes += [(hidden, gates * hidden)] * 2 + [(gates * hidden,)]
    args = [jnp.full(shape, 0.1) for shape in shapes]

    def compiled(unroll, wrap):
        f = wrap(lambda *a: jax.tree.leaves(getattr(nnops, name)(*a, unroll=unroll)))
        total = jax.value_and_grad(lambda *a: jnp.sum(jnp.sin(f(*a)[0])), range(len(args)))
        return jax.jit(total).lower(*args).compile()

    def cost(wrap):
        one, two = compiled(1, wrap), compiled(2, wrap)
        once = {k: _costs(two)[k] - _costs(one)[k] for k in COUNTED}
        total = {k: _costs(one)[k] + (steps - 1) * once[k] for k in COUNTED}
        return total, one.memory_analysis().temp_size_in_bytes

    (got, memory), (want, most) = cost(lambda f: f), cost(plain)
    assert got["flops"] <= want["flops"]
    # tanh(c) is computed again rather than kept, which saves memory.
    assert got["transcendentals"] <= want["transcendentals"] * (8 / 7 if name == "lstm" else 1)
    assert memory < 0.8 * most


@pytest.mark.parametrize("name", SAMPLES)
def test_the_compiled_program_names_it(name):
    sample = SAMPLES[name]
    args = sample.arrays()
    for lowered in _lowered(as_list(sample.call), sample, args):
        assert f"/{name}" in lowered.as_text(debug_info=True)
