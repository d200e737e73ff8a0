"""NaN, infinities, extreme logits and zeros in each operand, against what somebody else wrote."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import ORACLES

from samples import SAMPLES, as_list, is_real

EXTREMES = (np.nan, np.inf, -np.inf, 1e4, -1e4, 0.0)

# Where the oracle gives NaN and the op does not: for (value or gradient, operand) of one entry.
BETTER = {
    # Infinite labels, which mean nothing, times a logit of any sign.
    ("binary_cross_entropy", "value", 1),
    # 0 log 0 is 0, and so is its derivative.
    ("kl_divergence", "gradient", 1),
    # A class that is impossible is not in the sum.
    *(("ctc_loss", what, 0) for what in ("value", "gradient")),
    # What masked steps would have given is not multiplied with 0.
    *(("lstm", "gradient", i) for i in (3, 4, 5)),
    *(("rnn", "gradient", i) for i in (2, 3, 4)),
    # Complex products mix the parts of a pair.
    *(("rotary_embedding", "gradient", i) for i in (0, 1, 2)),
}


def _cases(sample):
    """All operands for each extreme in each real operand's first entry, stacked."""
    args = sample.arrays(jnp.float64)
    for i in sample.floats():
        for value in EXTREMES:
            changed = args[i].at[(0,) * args[i].ndim].set(value)
            yield i, [changed if j == i else a for j, a in enumerate(args)]


def _value_and_gradient(f, sample, args):
    def total(reals):
        full = list(args)
        for i, value in zip(sample.floats(), reals, strict=True):
            full[i] = value
        outs = [o for o in f(*full) if is_real(o)]
        # Weights without a pattern: what cancels out shows nothing.
        return sum(jnp.sum(o * jnp.cos(jnp.arange(o.size)).reshape(o.shape)) for o in outs)

    return {"value": f(*args), "gradient": jax.grad(total)([args[i] for i in sample.floats()])}


def _all(side, stacked):
    return {
        name: jax.lax.map(
            lambda args, name=name: _value_and_gradient(side[name], SAMPLES[name], args), operands
        )
        for name, operands in stacked.items()
    }


def _both():
    """What is tried, and what the ops and the oracles make of it; one program each for all."""
    cases = {n: list(_cases(s)) for n, s in SAMPLES.items() if s.floats()}
    stacked = {
        n: [jnp.stack(column) for column in zip(*(args for _, args in found), strict=True)]
        for n, found in cases.items()
    }
    sides = ({n: as_list(s.call) for n, s in SAMPLES.items()},
             {n: as_list(f) for n, (_, f) in ORACLES.items()})  # fmt: skip
    got, want = (jax.jit(lambda s, side=side: _all(side, s))(stacked) for side in sides)
    return cases, got, want


@pytest.mark.slow
def test_extremes():
    """In float64, so that only another formula can tell the two apart."""
    with jax.enable_x64(True):
        cases, got, want = _both()
    wrong = set()
    for name, found in cases.items():
        for what in ("value", "gradient"):
            leaves = zip(*map(jax.tree.leaves, (got[name][what], want[name][what])), strict=True)
            for g, w in leaves:
                for k, (i, _) in enumerate(found):
                    if not _agree(g[k], w[k], (name, what, i) in BETTER):
                        wrong.add((name, what, i, EXTREMES[k % len(EXTREMES)]))
    assert wrong == set()


def _agree(got, want, better):
    got, want = np.asarray(got, np.float64), np.asarray(want, np.float64)
    if better:
        got, want = (np.where(np.isnan(want), np.nan, v) for v in (got, want))
    scale = np.abs(want[np.isfinite(want)]).max(initial=1)
    return np.allclose(got, want, rtol=1e-9, atol=1e-9 * scale, equal_nan=True)
