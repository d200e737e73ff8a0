"""What `verify` accepts, what it refuses, and what it says."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxpress as jp
from helpers import array
from jaxpress.verification import tolerance_of

X = jnp.linspace(-2.0, 3.0, 12).reshape(3, 4)


def refused(fn, fast, *args, **options):
    with pytest.raises(jp.VerificationError) as caught:
        jp.verify(fn, fast, **options)(*args)
    return caught.value


def test_rounding_passes_and_is_reported():
    result = jp.verify(jnp.sum, lambda x: jnp.sum(x[::-1]))(X)
    assert result.passed
    assert result.reference == "float64"
    assert 0 <= result.error <= tolerance_of(jnp.float32)
    assert "float32[]" in str(result)
    assert "ok" in str(result)


def test_an_error_above_the_tolerance_is_named_with_its_output():
    error = refused(lambda x: {"a": x, "b": x * 2}, lambda x: {"a": x, "b": x * 2.001}, X)
    good, bad = error.result.outputs
    assert good.passed
    assert not bad.passed
    assert "b" in bad.path
    assert bad.error == pytest.approx(5e-4, rel=1e-2)
    assert "above" in bad.problem
    assert bad.problem in str(error)


def test_the_tolerance_can_be_given():
    wrong = lambda x: x * 1.001  # noqa: E731
    assert jp.verify(lambda x: x, wrong, tolerance=1e-2)(X).passed
    refused(lambda x: x, wrong, X, tolerance=1e-4)


def test_a_small_entry_may_not_hide_behind_a_large_one_of_another_output():
    fn = lambda x: (x * 1e6, x)  # noqa: E731
    error = refused(fn, lambda x: (x * 1e6, x + 0.01), X)
    assert [o.passed for o in error.result.outputs] == [True, False]


def test_ill_conditioned_functions_are_judged_by_their_own_error():
    # The rounding of a large angle is an error of 1e-3 in its cosine, whoever computes it.
    fn = lambda x: jnp.cos(x * 1e4)  # noqa: E731
    result = jp.verify(fn, lambda x: jnp.cos(1e4 * x))(X)
    assert result.original_error > tolerance_of(jnp.float32)
    refused(fn, lambda x: jnp.cos(x * 1e4 + 0.1), X)


def test_nan_and_infinity_must_stay_where_they_are():
    x = jnp.array([1.0, np.nan, np.inf, -np.inf])
    assert jp.verify(lambda x: x * 2, lambda x: x + x)(x).passed
    for value in (0.0, np.inf):
        error = refused(lambda x: x, lambda x, v=value: jnp.where(jnp.isnan(x), v, x), x)
        assert "NaN or infinity" in str(error)
    refused(lambda x: x, lambda x: jnp.abs(x), x)


def test_integers_and_booleans_must_be_equal():
    x = jnp.arange(5)
    assert jp.verify(lambda x: x // 2, lambda x: x >> 1)(x).passed
    assert "not equal" in str(refused(lambda x: x // 2, lambda x: (x + 1) // 2, x))
    refused(lambda x: x > 2, lambda x: x >= 2, x)


def test_shape_dtype_and_structure_must_be_the_same():
    assert "instead of float32[3, 4]" in str(refused(lambda x: x, lambda x: x[:1], X))
    assert "bfloat16" in str(refused(lambda x: x, lambda x: x.astype("bfloat16"), X))
    assert "structures differ" in str(refused(lambda x: (x, x), lambda x: [x, x], X))


def test_zero_sized_scalar_and_complex_outputs():
    fn = lambda x: (x[:0], x.sum(), x.astype("complex64") * 1j)  # noqa: E731
    assert jp.verify(fn, jax.jit(fn))(X).passed
    refused(lambda x: x * 1j, lambda x: x * 1.01j, X)


def test_gradients_are_compared_on_request():
    # relu and its value-equal lookalike, whose derivative at 0 is another.
    fn, other = jax.nn.relu, lambda x: jnp.maximum(x, 0.0)
    x = jnp.array([-1.0, 0.0, 1.0])
    assert jp.verify(fn, other)(x).passed
    error = refused(fn, other, x, gradients=True)
    assert [o.path.startswith("gradient of") for o in error.result.outputs] == [False, True]


def test_gradients_of_every_floating_input():
    fn = lambda p, n, x: p["w"] * x * n  # noqa: E731
    stops = lambda p, n, x: jax.lax.stop_gradient(p["w"]) * x * n  # noqa: E731
    error = refused(fn, stops, {"w": X}, 2, X, gradients=True)
    assert sum(not o.passed for o in error.result.outputs) == 1


def test_random_keys_are_compared_by_their_data():
    key = jax.random.key(0)
    assert jp.verify(jax.random.fold_in, jax.random.fold_in)(key, 1).passed
    refused(lambda k: jax.random.fold_in(k, 1), lambda k: jax.random.fold_in(k, 2), key)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_low_precision(dtype):
    x = X.astype(dtype)
    assert jp.verify(lambda x: x * x + 1, lambda x: 1 + x * x)(x).passed
    refused(lambda x: x * x, lambda x: x * x * 1.5, x)


def test_tolerances_follow_the_dtype():
    assert tolerance_of("int32") == 0
    assert tolerance_of("complex64") == tolerance_of("float32")
    assert tolerance_of("float64") < tolerance_of("float32") < tolerance_of("float16")
    assert tolerance_of(jnp.float8_e4m3fn) == 2 * float(jnp.finfo(jnp.float8_e4m3fn).eps)


def test_numbers_of_python_and_arrays_of_numpy_are_what_jax_makes_of_them() -> None:
    for x in (2, 2.0, True, np.ones(3)):
        assert jp.verify(lambda x: x, lambda x: x)(x).passed


def attention(p, x):
    """The keys' bias shifts each row of logits by one number: its gradient is zero."""
    q, k, v = (x @ p[f"w{n}"] + p[f"b{n}"] for n in "qkv")
    return jax.nn.softmax(q @ k.T / 3.0) @ v


def attention_weights():
    weights = {f"w{n}": array(8, 8, seed=i) / 3 for i, n in enumerate("qkv")}
    return weights | {f"b{n}": array(8, seed=i + 9) for i, n in enumerate("qkv")}


@pytest.mark.parametrize("seed", range(3))
def test_a_gradient_that_is_zero_is_measured_by_what_cancels(seed):
    p, x = attention_weights(), array(5, 8, seed=20 + seed)

    def other(p, x):
        return attention({**p, "bk": p["bk"] * 3.0}, x)  # noise of another size

    result = jp.verify(attention, other, gradients=True)(p, x)
    (zero,) = [o for o in result.outputs if "gradient" in o.path and "[0]" in o.path]
    assert zero.original_error < 1e-5 and zero.error < 1e-5


def test_a_gradient_that_should_be_zero_and_is_not_is_an_error():
    def other(p, x):
        b = p["bk"]
        return attention(p, x) + (b - jax.lax.stop_gradient(b)).sum() * 1e-3

    error = refused(attention, other, attention_weights(), array(5, 8, seed=20), gradients=True)
    assert [o.path for o in error.result.outputs if not o.passed] == ["gradient of result[0]"]


def test_a_small_gradient_is_still_measured_by_itself():
    fn = lambda x, y: x * 1e6 + y * 1e-8  # noqa: E731
    other = lambda x, y: x * 1e6 + y * 1.01e-8  # noqa: E731
    x = jnp.ones(3)
    assert jp.verify(fn, jax.jit(fn), gradients=True)(x, x).passed
    error = refused(fn, other, x, x, gradients=True)
    assert [o.passed for o in error.result.outputs] == [True, True, False]


def test_what_cannot_run_in_float64_is_said():
    def fn(x):
        return x * 2

    with pytest.MonkeyPatch.context() as patch:

        def fail(*_):
            raise NotImplementedError("only in float32")

        patch.setattr("jaxpress.passes.comparison.evaluate_in_float64", fail)
        with pytest.warns(UserWarning, match="fn cannot be run in float64 .*only in float32"):
            result = jp.verify(fn, jax.jit(fn))(X)
        with pytest.warns(UserWarning):
            both = jp.verify(jnp.sin, jnp.sin, gradients=True)(X)
        with pytest.warns(UserWarning):
            assert not jp.bisect(fn, X)
    assert result.passed and result.reference == both.reference == "jax.jit"
    assert "only in float32" in result.note and "only in float32" in str(result)


def test_a_function_that_is_another_at_each_trace_cannot_be_compared():
    numbers = itertools.count(1)
    fn = lambda x: x * next(numbers)  # noqa: E731
    with pytest.raises(jp.VerificationError, match="other values each time it is traced"):
        jp.verify(fn, jp.optimize(fn))(X)


def test_a_comparison_that_says_little_says_so():
    step = lambda x: jnp.where(x + 1e8 == 1e8, 1.0, 2.0)  # noqa: E731
    x = jnp.ones(())  # lost beside 1e8 in float32 alone
    result = jp.verify(step, jax.jit(step))(x)
    assert result.original_error > 0.1 and "jax.jit itself is far off in result" in str(result)
    low = jp.verify(lambda x: x * x, jax.jit(lambda x: x * x))(X.astype("bfloat16"))
    assert not low.note
