"""A named op costs what its plain reference function costs, as XLA counts it, and says its name."""

import jax
import pytest

from samples import SAMPLES, as_list, loss, plain

COUNTED = ("flops", "transcendentals", "bytes accessed")

# The derivatives of these cost more, up to so many times. XLA merges what an op computes with what
# its derivative computes again, unless it has rewritten one of the two by then (a root of the
# variance, which one of the two shares with nobody), or they are loops.
ROOT, LOOP = 1.15, 1.7
MORE = {
    **dict.fromkeys(("batch_norm", "batch_norm_train", "layer_norm", "rms_norm"), ROOT),
    **dict.fromkeys(("group_norm", "instance_norm", "standardize", "weight_standardize"), ROOT),
    "squareplus": 1.35,  # it is not much more than a root
    **dict.fromkeys(("lstm", "gru", "rnn", "ctc_loss"), LOOP),
}


def _costs(stage):
    found = stage.cost_analysis()
    return {what: found.get(what, 0.0) for what in COUNTED}


def _lowered(f, sample, args):
    yield jax.jit(f).lower(*args)
    reals = [args[i] for i in sample.floats()]
    if reals:
        total = jax.value_and_grad(loss(f, sample, args), range(len(reals)))
        yield jax.jit(total).lower(*reals)


@pytest.mark.parametrize("name", SAMPLES)
def test_costs_nothing(name):
    sample = SAMPLES[name]
    args = sample.arrays()
    ours = as_list(sample.call)
    for got, want in zip(*(_lowered(f, sample, args) for f in (ours, plain(ours))), strict=True):
        # Before XLA's passes, equal programs have equal costs; only else do they have to compile.
        if _costs(got) == _costs(want):
            continue
        got, want = _costs(got.compile()), _costs(want.compile())
        limit = MORE.get(name, 1)
        more = {k: f"{got[k]:g} > {want[k]:g}" for k in COUNTED if got[k] > limit * want[k]}
        assert not more


@pytest.mark.parametrize("name", SAMPLES)
def test_the_compiled_program_names_it(name):
    sample = SAMPLES[name]
    args = sample.arrays()
    for lowered in _lowered(as_list(sample.call), sample, args):
        assert f"/{name}" in lowered.as_text(debug_info=True)
