"""Ops called outside of any trace."""

import gc
import inspect
import sys
import weakref
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpress import nnops
from jaxpress.nnops import eager, errors
from jaxpress.nnops.eager import eagerly_jitted
from samples import SAMPLES

# Public functions that are no op, read their operands' values, call several ops in turn, or decide
# whether there is anything to be done before one is called.
OTHERS = {
    *("activation_entries", "activation_names", "to_activation", "composites", "define"),
    *("registry", "trainable", "recurrent_from", "recurrent_to", "init_kv_cache", "identity"),
    *("kv_cache_attention", "pack_sequences", "pad_sequences", "unpack_sequences"),
    *(
        "sequence_mask",
        "dropout",
        "drop_path",
        "stochastic_depth",
        "bidirectional",
        "recurrent_layers",
    ),
}
FUNCTIONS = {n: getattr(nnops, n) for n in nnops.__all__ if inspect.isfunction(getattr(nnops, n))}


def _python_run_by(call):
    """Files and names of the functions in Python that a call runs, but for those of this file."""
    seen = set()

    def watch(frame, event, _):
        if event == "call" and frame.f_code.co_filename != __file__:
            seen.add((frame.f_code.co_filename, frame.f_code.co_name))

    before = sys.getprofile()
    sys.setprofile(watch)
    try:
        call()
    finally:
        sys.setprofile(before)
    return seen


def _runs_the_op(call):
    folder = eager.__file__.removesuffix("eager.py")
    return {
        (file, name)
        for file, name in _python_run_by(call)
        if file.startswith(folder) and not file.startswith((eager.__file__, errors.__file__))
    }


def test_every_public_op_is_dispatched_as_a_whole():
    assert {n for n, f in FUNCTIONS.items() if not hasattr(f, "eagerly_jitted")} == OTHERS


@pytest.mark.parametrize("name", SAMPLES)
def test_a_second_call_runs_no_python_of_the_op(name):
    sample = SAMPLES[name]
    arrays = sample.arrays()
    as_numpy = [np.asarray(a) if not jnp.issubdtype(a.dtype, jax.dtypes.prng_key) else a
                for a in arrays]  # fmt: skip
    for args in (arrays, as_numpy):
        call = lambda args=args: sample.call(*args)  # noqa: E731
        call()
        # They decide whether there is anything to be done.
        deciding = {"sequence_mask", "dropout", "stochastic_depth", "_draws"}
        assert {n for _, n in _runs_the_op(call)} <= deciding


X = jnp.ones((1, 4, 4, 2))
V = jnp.ones(2)
RELU = nnops.to_activation("relu")
DENSE = nnops.Dense(jnp.ones((2, 2)), V, activation="relu")


@pytest.mark.parametrize(
    "call",
    [
        lambda: nnops.max_pool(X, (2, 2), (2, 2)),
        lambda: nnops.avg_pool(X, [2, 2], 2, [(1, 1), (0, 0)], count_include_pad=False),
        lambda: nnops.conv(x=X, w=jnp.ones((1, 1, 2, 2)), b=None, padding=[(0, 1), (0, 0)]),
        lambda: nnops.dense(X, jnp.ones((2, 2)), None, X, activation=("celu", {"alpha": 2.0})),
        lambda: nnops.dense(X, jnp.ones((2, 2)), activation=RELU),
        lambda: nnops.logsumexp(X, -1, b=X, where=X > 0),
        lambda: nnops.layer_norm(X, None, V, axis=[-1], dtype=jnp.bfloat16),
        lambda: nnops.rnn(X[0], None, jnp.ones((2, 2)), jnp.ones((2, 2)), lengths=np.arange(4)),
        lambda: nnops.multi_head_attention(
            X[0], None, None, *[jnp.ones((2, 1, 2))] * 3, jnp.ones((1, 2, 2)), scale=0.5, mask=None
        ),
        lambda: nnops.dropout(X, jax.random.PRNGKey(0), rate=0.5, broadcast_dims=[0]),
        lambda: nnops.softmax_cross_entropy(X, X, weights=X[..., 0], reduction="mean"),
        lambda: nnops.one_hot(np.int32(1), 3),
        lambda: DENSE(X),
        lambda: nnops.sequence_mask(jnp.arange(3), 3),
        lambda: nnops.combine_masks(X > 0, None, X > 1),
    ],
)
def test_every_way_to_give_operands_and_settings_is_worked_out_once(call):
    want = call()
    call()
    ran = _runs_the_op(call)
    assert {n for _, n in ran} <= {"sequence_mask", "dropout", "_draws", "__call__"}
    with jax.disable_jit():
        for a, b in zip(jax.tree.leaves(call()), jax.tree.leaves(want), strict=True):
            assert (a.dtype, a.weak_type) == (b.dtype, b.weak_type)
            np.testing.assert_allclose(a.astype("float32"), b.astype("float32"), rtol=1e-6)


def test_a_kind_of_call_is_worked_out_once():
    runs = []

    @eagerly_jitted
    def twice(x, *, times: float = 2):
        runs.append(times)
        return x * times

    x = jnp.ones(3)
    for times in (2, 2, 2.0, 2.0):
        assert twice(x, times=times).tolist() == [2, 2, 2]
    assert list(map(type, runs)) == [int, float]
    # An array where a setting belongs is for the function itself to judge.
    twice(x, times=jnp.ones(3))
    twice(x, times=jnp.ones(3))
    assert len(runs) == 4


def test_a_number_is_an_operand_and_no_part_of_the_program():
    runs = []

    @eagerly_jitted
    def add(x: Any, y: Any, *, weights: Any = None, times: float = 1.0):
        runs.append(None)
        return x + y

    x = jnp.ones(3)
    for args, kwargs in [
        ((2.0, x), {}),
        ((x, 2), {}),
        ((1j, x), {}),
        ((x, x), {"weights": 2.0}),
    ]:
        before = len(runs)
        add(*args, **kwargs), add(*args, **kwargs)
        assert len(runs) == before + 2


def test_what_outlived_its_trace_or_cannot_be_a_setting_is_left_to_the_function():
    kept = []

    @eagerly_jitted
    def given(x: Any, setting: str = ""):
        return setting

    for setting in (object(), {1}, [object()], jnp.ones(3), np.float32(1)):
        assert given(jnp.ones(3), setting) is setting
    jax.make_jaxpr(lambda x: kept.append(x) or x)(1.0)
    assert eagerly_jitted(lambda x: x is kept[0])(kept[0]) is True


class _NoHash(int):
    __hash__ = None


IMAGE, FILTER = jnp.ones((1, 4, 4, 2)), jnp.ones((1, 1, 2, 2))
HEADS = (jnp.ones((1, 3, 2)), None, None, *[jnp.ones((2, 1, 2))] * 3, jnp.ones((1, 2, 2)))


@pytest.mark.parametrize(
    "call",
    [
        lambda: nnops.conv(IMAGE, FILTER, strides=_NoHash(2)),
        lambda: nnops.conv(IMAGE, FILTER, strides=np.int64(2)),
        lambda: nnops.conv(IMAGE, FILTER, padding=np.str_("SAME")),
        lambda: nnops.conv(
            IMAGE,
            FILTER,
            dimension_numbers=jax.lax.ConvDimensionNumbers(
                [0, 3, 1, 2], [3, 2, 0, 1], [0, 3, 1, 2]
            ),
        ),
        lambda: nnops.multi_head_attention(
            *HEADS, dropout_rate=np.float32(0.5), dropout_key=jax.random.key(0)
        ),
        lambda: nnops.dense(V[None], jnp.ones((2, 2)), preferred_element_type=float),
    ],
)
def test_settings_that_jit_does_not_take_are_left_to_the_function(call):
    got = (call(), call())
    with jax.disable_jit():
        for y in got:
            np.testing.assert_allclose(y, call(), rtol=1e-6)


def test_a_setting_that_jit_took_for_an_operand_is_tried_once():
    runs = []

    @eagerly_jitted
    def at_least(x: Any, *, bound: Any = 0):
        runs.append(None)
        return x if bound < 3 else -x

    x = jnp.ones(2)
    for bound in (np.int64(2), np.int64(4)):
        assert at_least(x, bound=bound).tolist() == [1.0 if bound < 3 else -1.0] * 2
    assert len(runs) == 3  # the one that met a tracer too


def test_settings_that_are_equal_and_not_the_same():
    runs = []

    @eagerly_jitted
    def given(x: Any, *, setting: Any = None):
        runs.append(repr(setting))
        return x

    slopes = [
        nnops.Activation("leaky_relu", (("negative_slope", v),)) for v in (0.0, -0.0, 0, False)
    ]
    values = [
        (1,),
        (True,),
        [1],
        ([1], ""),
        ((1,), ""),
        (1, (2,)),
        (1, (True,)),
        (1, (0.0,)),
        (1, (-0.0,)),
        {"a": 1},
        {"a": True},
        *slopes,
    ]
    for value in values * 2:
        given(X, setting=value)
    assert runs == [repr(v) for v in values]


def test_zero_is_told_apart_from_minus_zero():
    runs = []

    @eagerly_jitted
    def given(x: Any, setting: float = 1.0):
        runs.append(repr(setting))
        return x

    for value in (0.0, -0.0, 0.0, -0.0):
        given(X, value)
    assert runs == ["0.0", "-0.0"]


def test_signatures_and_their_errors_are_the_functions_own():
    def op(x: Any, y: Any = None, *, several: int = 3):
        return x

    fast = eagerly_jitted(op)
    assert inspect.signature(fast) == inspect.signature(op)
    for args, kwargs in [((), {}), ((X, X, X), {}), ((X,), {"none": 1})]:
        with pytest.raises(TypeError) as want:
            op(*args, **kwargs)
        with pytest.raises(TypeError) as got:
            fast(*args, **kwargs)
        assert str(got.value) == str(want.value)
    with pytest.raises(TypeError, match="named parameters"):
        eagerly_jitted(lambda x, **options: x)


def test_arrays_of_a_call_are_not_kept():
    @eagerly_jitted
    def first(x: Any, y: Any = None, *, times: int = 1):
        return x

    x = jnp.ones(3)
    first(x, x, times=2)
    kept = weakref.ref(x)
    del x
    gc.collect()
    assert kept() is None


def test_nan_is_one_setting():
    runs = []

    @eagerly_jitted
    def filled(x: Any, fill: float = 0.0, *, several: tuple[float, ...] = ()):
        runs.append(None)
        return x + fill

    for _ in range(3):
        assert np.isnan(filled(V, float("nan"), several=(float("nan"),))).all()
    assert len(runs) == 1


def test_the_plans_of_calls_are_no_more_than_a_program_makes(monkeypatch):
    monkeypatch.setattr(eager, "_MOST_PLANS", 2)
    planned = []
    monkeypatch.setattr(eager, "_is_setting", lambda value, kind: planned.append(value))
    first = eagerly_jitted(lambda *several: several[0])
    for n in (1, 2, 2, 1, 3, 1):
        assert first(*[V] * n).tolist() == V.tolist()
    assert len(planned) == 1 + 2 + 3 + 1  # the third kind of call made room for itself


def test_a_graph_holds_the_op_and_no_jit_around_it():
    for name, sample in SAMPLES.items():
        arrays = sample.arrays()
        sample.call(*arrays)
        jaxpr = jax.make_jaxpr(lambda call=sample.call, arrays=arrays: call(*arrays))()
        assert name in [e.primitive.name for e in jaxpr.eqns]
        assert not {"jit", "pjit"} & {e.primitive.name for e in jaxpr.eqns} - {name}, name


def test_errors_are_the_same():
    wrong = [
        (nnops.dense, (jnp.ones((2, 3)), jnp.ones((3, 4)), jnp.ones(3)), {}),
        (nnops.max_pool, (X, (9, 9, 9)), {}),
        (nnops.dropout, (X, None), {"rate": 0.5}),
        (nnops.leaky_relu, (X, "steep"), {}),
        (nnops.softmax, (X, 7), {}),
        (nnops.softmax, (), {}),
        (nnops.relu, (X,), {"slope": 1}),
    ]
    for f, args, kwargs in wrong:
        with pytest.raises((nnops.OpError, TypeError)) as got:
            f(*args, **kwargs)
        with pytest.raises(type(got.value)) as want:
            errors.explained(inspect.unwrap(f))(*args, **kwargs)
        assert (type(got.value), str(got.value)) == (type(want.value), str(want.value))
