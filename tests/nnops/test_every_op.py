"""Every named op, whatever it is, under every transformation, in every dtype, and under its name.

The plain reference function of an op is what it must agree with; that the references are right is
for the tests of each op, and for docs/ops.md. The calls are in samples.py.
"""

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import checkify

import jaxpress as jp
from jaxpress import nnops
from samples import EXAMPLES, SAMPLES, as_list, is_real, loss, plain, with_reals

NAMES = sorted(nnops.registry())

# What an op may be off by in float16, relative to its largest result. (docs/ops.md measures it in
# float32 and bfloat16.)
HALF = 5e-3


def test_every_op_has_a_sample():
    assert set(NAMES) == set(SAMPLES), "add a call to tests/nnops/samples.py"


@pytest.mark.parametrize("name", SAMPLES)
def test_a_sample_is_one_call_of_its_op(name):
    sample = SAMPLES[name]
    eqns = jax.make_jaxpr(sample.call)(*sample.arrays()).eqns
    assert [e.primitive.name for e in eqns if e.primitive.name in nnops.ops] == [name]


def _stacked(args, i, axis):
    """The operands, that at ``i`` in two versions along ``axis``, and the axes that say so."""
    other = jnp.flip(args[i]) if args[i].ndim else args[i]
    axes = [None] * len(args)
    axes[i] = axis
    return [jnp.stack([a, other], axis) if j == i else a for j, a in enumerate(args)], axes


def _stacked_but(args, i):
    """The operands, all but that at ``i`` in two versions in front, and the axes that say so."""
    pairs = [_stacked(args, j, 0)[0][j] for j in range(len(args))]
    axes = [None if j == i else 0 for j in range(len(args))]
    return [args[i] if j == i else v for j, v in enumerate(pairs)], axes


def _everything(f, sample, args):
    """Values, derivatives of two orders, a loop, and ``vmap`` over each operand and the others."""
    out = {"value": f(*args), "scan": jax.lax.scan(lambda c, _: (c, f(*args)), 0, None, 2)[1]}
    reals = [args[i] for i in sample.floats()]
    if reals:
        tangents = [jnp.cos(v) for v in reals]
        total = loss(f, sample, args)
        out["jvp"] = jax.jvp(with_reals(f, sample, args), reals, tangents)
        out["grad"] = jax.grad(total, range(len(reals)))(*reals)
        out["second"] = jax.jvp(jax.grad(total, range(len(reals))), reals, tangents)[1]
        out["linearize"] = jax.linearize(with_reals(f, sample, args), *reals)[1](*tangents)
        out["remat"] = jax.grad(jax.checkpoint(total), range(len(reals)))(*reals)
    for i in range(len(args)):
        mapped, axes = _stacked(args, i, 0)
        out[f"vmap {i}"] = jax.vmap(f, axes)(*mapped)
    for i in range(len(args)) if len(args) > 1 else ():
        # All operands but one, and outside of that this one.
        others, inner = _stacked_but(args, i)
        more, outer = _stacked(others, i, -1)
        out[f"vmap of vmap {i}"] = jax.vmap(jax.vmap(f, inner), outer)(*more)
    return out


@pytest.mark.parametrize("name", SAMPLES)
def test_agrees_with_its_reference(name):
    with jax.enable_x64(True):
        sample = SAMPLES[name]
        args = sample.arrays(jnp.float64)
        ours = as_list(sample.call)
        both = jax.jit(lambda *a: [_everything(f, sample, a) for f in (ours, plain(ours))])
        got, want = both(*args)
    assert got.keys() == want.keys()
    for what in got:
        for g, w in zip(*map(jax.tree.leaves, (got[what], want[what])), strict=True):
            assert (g.dtype, g.shape) == (w.dtype, w.shape)
            np.testing.assert_allclose(g, w, rtol=1e-9, atol=1e-9, err_msg=what)


def _under(f, sample, args):
    """The sample's call under each transformation that must keep the op's name."""
    yield "itself", f, args
    yield "jit", jax.jit(f), args
    yield "remat", jax.checkpoint(f), args
    yield "cond", lambda *a: jax.lax.cond(jnp.sum(a[0]) == 0, f, f, *a), args
    yield "scan", lambda *a: jax.lax.scan(lambda c, _: (c, f(*a)), 0, None, length=2), args
    for i in range(len(args)):
        mapped, axes = _stacked(args, i, 0)
        yield f"vmap {i}", jax.vmap(f, axes), mapped
        more, outer = _stacked(mapped, (i + 1) % len(args), -1)
        yield f"vmap of vmap {i}", jax.vmap(jax.vmap(f, axes), outer), more
    if sample.floats():
        total = loss(f, sample, args)
        reals = [args[i] for i in sample.floats()]
        yield "grad", lambda *r: jax.value_and_grad(total, range(len(r)))(*r), reals
        yield "linearize", lambda *r: jax.linearize(total, *r)[0], reals
        yield "hessian", jax.hessian(total), reals
        yield "grad of remat", jax.grad(jax.checkpoint(total)), reals
        yield "grad of scan", jax.grad(lambda *r: jax.lax.scan(
            lambda c, _: (c + total(*r), None), 0.0, None, length=2)[0]), reals  # fmt: skip


@pytest.mark.parametrize("name", SAMPLES)
def test_keeps_its_name(name):
    sample = SAMPLES[name]
    f = as_list(sample.call)
    lost = [
        what
        for what, g, args in _under(f, sample, sample.arrays())
        if not jp.trace(g)(*args).count()[name]
    ]
    assert lost == []


@pytest.mark.parametrize("name", SAMPLES)
def test_precision_zero_size_and_nan(name):
    sample = SAMPLES[name]
    f = as_list(sample.call)

    def everything(*args):
        out = {d: f(*_cast(args, d)) for d in ("float64", "float16")}
        out["empty"] = f(*(a[:0] if i in sample.batched else a for i, a in enumerate(args)))
        if is_real(args[0]):
            out["nan"] = f(args[0].at[0].set(jnp.nan), *args[1:])
        return out

    with jax.enable_x64(True):
        # Numbers that each dtype can hold, so that the results alone are rounded.
        args = _cast(_cast(sample.arrays(jnp.float64), "bfloat16"), "float64")
        got = jax.jit(everything)(*args)
        for dtype in ("float32", "bfloat16", "float16"):
            out = jax.eval_shape(f, *_cast(args, dtype))
            _check_dtypes(out, got["float64"], dtype if sample.keeps_dtype else None)
    for g, w in zip(got["float16"], got["float64"], strict=True):
        g, w = np.asarray(g, np.float64), np.asarray(w, np.float64)
        np.testing.assert_allclose(g, w, rtol=0, atol=HALF * max(1, abs(w).max(initial=0)))
    if not sample.mixes:
        assert {g.shape[0] for g in got["empty"]} == {0}
        for g, w in zip(got.get("nan", got["float64"]), got["float64"], strict=True):
            np.testing.assert_array_equal(g[1:], w[1:])  # examples know nothing of each other
    if "nan" in got and sample.sees_nan:
        assert any(np.isnan(g).any() for g in got["nan"])


def _check_dtypes(got, wide, dtype):
    for g, w in zip(got, wide, strict=True):
        assert g.shape == w.shape
        if dtype is not None:
            assert g.dtype == (dtype if is_real(w) else w.dtype)


def _cast(args, dtype):
    return [a.astype(dtype) if is_real(a) else a for a in args]


@pytest.mark.parametrize("name", SAMPLES)
def test_exports_with_a_symbolic_batch(name):
    sample = SAMPLES[name]
    args = sample.arrays()
    (n,) = jax.export.symbolic_shape("n")
    shapes = [
        jax.ShapeDtypeStruct((n, *a.shape[1:]) if i in sample.batched else a.shape, a.dtype)
        for i, a in enumerate(args)
    ]
    f = as_list(sample.call)
    exported = jax.export.export(jax.jit(f))(*shapes)
    want = jax.eval_shape(f, *args)
    got = [tuple(EXAMPLES if d is n or d == n else d for d in a.shape) for a in exported.out_avals]
    assert got == [w.shape for w in want]
    if sample.floats():
        reals = [shapes[i] for i in sample.floats()]
        others = {i: a for i, a in enumerate(shapes) if i not in sample.floats()}

        def grad(reals, others):
            full = [others.get(i) for i in range(len(args))]
            return jax.grad(lambda r: loss(f, sample, full)(*r))(reals)

        assert len(jax.export.export(jax.jit(grad))(reals, others).out_avals) == len(reals)


@pytest.mark.parametrize("name", SAMPLES)
def test_checkify_checks_what_it_checks_of_the_reference(name):
    sample = SAMPLES[name]
    args = sample.arrays()
    ours = as_list(sample.call)
    by_user, got, want = (
        jp.trace(checkify.checkify(f, errors=errors))(*args).count()
        for f, errors in [
            (ours, checkify.user_checks),
            (ours, checkify.all_checks),
            (plain(ours), checkify.all_checks),
        ]
    )
    assert by_user[name] == 1
    assert not got[name] and got == want
