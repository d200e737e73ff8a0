"""Results' types that ops work out by themselves are those that a trace of the reference gives."""

import itertools

import jax
import jax.numpy as jnp
import pytest
from jax import lax

from jaxpress import nnops


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("padding", [((0, 0), (0, 0)), ((1, 2), (0, 3)), ((-1, 2), (0, 0))])
@pytest.mark.parametrize("numbers", [("NHWC", "HWIO", "NHWC"), ("NCHW", "OIHW", "NHWC")])
def test_conv(numbers, padding, transposed):
    for size, taps, stride, dilation, groups in itertools.product(
        [1, 5, 8], [1, 3], [1, 2, 3], [1, 2], [1, 2]
    ):
        x = {"N": 2, "C": 4, "H": size, "W": 7}
        w = {"O": 6, "I": 4 // groups, "H": taps, "W": 2}
        x, w = (
            jax.ShapeDtypeStruct([of[c] for c in spec], jnp.bfloat16)
            for of, spec in zip((x, w), numbers, strict=False)
        )
        strides, ones = (stride, 1), (1, 1)

        def plain(x, w, strides=strides, ones=ones, dilation=dilation, groups=groups):
            return lax.conv_general_dilated(
                x,
                w,
                ones if transposed else strides,
                padding,
                strides if transposed else ones,
                (dilation, 1),
                numbers,
                groups,
            )

        def ours(x, w, strides=strides, dilation=dilation, groups=groups):
            return nnops.conv(
                x,
                w,
                strides=strides,
                padding=padding,
                dilation=(dilation, 1),
                groups=groups,
                dimension_numbers=numbers,
                transposed=transposed,
            )

        try:
            expected = jax.eval_shape(plain, x, w)
        except ValueError:  # more cut off than there is
            with pytest.raises(ValueError):
                jax.eval_shape(ours, x, w)
            continue
        got = jax.eval_shape(ours, x, w)
        assert (got.shape, got.dtype) == (expected.shape, expected.dtype)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int32", "bool"])
@pytest.mark.parametrize("keepdims", [False, True])
@pytest.mark.parametrize("axis", [-1, (1, 2), (-2, 0)])
def test_global_pools(axis, keepdims, dtype):
    x = jax.ShapeDtypeStruct((2, 3, 4), dtype)
    for ours, plain in ((nnops.global_avg_pool, jnp.mean), (nnops.global_max_pool, jnp.max)):
        got = jax.eval_shape(lambda x, f=ours: f(x, axis, keepdims=keepdims), x)
        expected = jax.eval_shape(lambda x, f=plain: f(x, axis, keepdims=keepdims), x)
        assert (got.shape, got.dtype) == (expected.shape, expected.dtype)


@pytest.mark.parametrize("dtype", ["float32", "float16", "int32", "complex64"])
@pytest.mark.parametrize("name", ["softmax", "log_softmax"])
def test_softmax(name, dtype):
    x = jax.ShapeDtypeStruct((2, 3), dtype)
    expected = jax.eval_shape(getattr(jax.nn, name), x)
    got = jax.eval_shape(getattr(nnops, name), x)
    assert (got.shape, got.dtype) == (expected.shape, expected.dtype)
