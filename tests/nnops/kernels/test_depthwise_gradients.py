"""The transposes that the kernel depthwise_shifted brings, against those of conv's reference."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxpress as jp
from jaxpress import nnops
from jaxpress.nnops.kernels import batch_parts

CONV = nnops.ops["conv"]
CASES = [
    (((6, 8, 7, 4), (5, 5, 1, 4)), {}),
    (((4, 9, 8, 3), (4, 3, 1, 3)), {"strides": (2, 3), "padding": ((2, 0), (-1, 3))}),
    (((2, 12, 11, 2), (5, 4, 1, 2)), {"dilation": (1, 2), "strides": 2, "padding": "VALID"}),
    (((4, 3, 8, 7), (3, 1, 5, 5)), {"dimension_numbers": ("NCHW", "OIHW", "NCHW"), "strides": 2}),
    (((8, 3, 6, 7), (4, 6, 1, 4)), {"dimension_numbers": ("HNCW", "WOIH", "CNWH")}),
    (((6, 5, 5, 2), (4, 3, 1, 4)), {}),  # two features a channel: only the kernel's has a form
    (((3, 20, 3), (11, 1, 3)), {"padding": "CAUSAL"}),
    (((4, 5, 6, 3), (3, 3, 1, 3)), {"strides": 2, "transposed": True}),
    (((0, 5, 5, 2), (5, 5, 1, 2)), {}),
    (((2, 3, 3, 2), (5, 5, 1, 2)), {"padding": "VALID"}),  # no position at all
]


def _with(kernel, params, operands):
    eqn = jax.make_jaxpr(lambda *a: nnops.conv(*a, **params))(*operands).eqns[-1]
    return lambda *a: CONV.rebind(
        dict(zip(CONV.names, a, strict=False)), **{**eqn.params, "kernel": kernel}
    )


def _pull_back(kernel, params):
    def run(g, *operands):
        return jax.vjp(_with(kernel, params, operands), *operands)[1](g)

    return jax.jit(run)


def _operands(shapes, params, dtype=jnp.float32):
    numbers = params.get("dimension_numbers", ("N" + "." * (len(shapes[0]) - 2) + "C",))
    params = {**params, "groups": shapes[0][numbers[0].index("C")]}
    rng = np.random.default_rng(0)
    arrays = [jnp.asarray(rng.normal(size=s), dtype) for s in shapes]
    y = jax.eval_shape(_with("reference", params, arrays), *arrays)
    return params, (jnp.asarray(rng.normal(size=y.shape), y.dtype), *arrays)


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    monkeypatch.setattr(batch_parts, "CHUNK", 150)


@pytest.mark.parametrize("shapes, params", CASES)
def test_gradients_are_those_of_the_reference(shapes, params):
    params, operands = _operands(shapes, params)
    want = _pull_back("reference", params)(*operands)
    got = _pull_back("depthwise_shifted", params)(*operands)
    for g, w in zip(got, want, strict=True):
        assert g.shape == w.shape and g.dtype == w.dtype
        np.testing.assert_allclose(g, w, rtol=1e-5, atol=1e-5)


def test_a_large_batch_is_worked_on_in_parts(monkeypatch):
    params, operands = _operands(*CASES[0])

    def scans():
        return jp.trace(_pull_back("depthwise_shifted", params))(*operands).count()["scan"]

    assert scans() == 1
    monkeypatch.setattr(batch_parts, "CHUNK", 1 << 19)
    assert scans() == 0


def test_halves_are_summed_in_float32():
    params, operands = _operands(*CASES[0], dtype=jnp.bfloat16)
    exact = [o.astype(jnp.float32) for o in operands]
    want = _pull_back("reference", params)(*exact)
    got = _pull_back("depthwise_shifted", params)(*operands)
    for g, w in zip(got, want, strict=True):
        assert g.dtype == jnp.bfloat16
        # One rounding of the exact sum, half a unit in the last of eight bits.
        np.testing.assert_allclose(g.astype(jnp.float32), w, rtol=2**-8, atol=1e-5)


def _second(loss):
    return jax.grad(lambda x, w: jnp.sum(jax.grad(loss)(x, w) ** 2), (0, 1))


def _mapped_input(loss):
    return lambda x, w: jax.vmap(jax.grad(loss, (0, 1)), (0, None))(jnp.stack([x, 2 * x]), w)


def _mapped_kernel(loss):
    return lambda x, w: jax.vmap(jax.grad(loss, (0, 1)), (None, 0))(x, jnp.stack([w, 2 * w]))


@pytest.mark.parametrize("transform", [_second, _mapped_input, _mapped_kernel])
def test_behaves_under_transformations(transform):
    params, (_, x, w) = _operands(*CASES[1])

    def run(kernel):
        conv = _with(kernel, params, (x, w))
        return jax.jit(transform(lambda x, w: jnp.sum(jnp.sin(conv(x, w)))))(x, w)

    for got, want in zip(run("depthwise_shifted"), run("reference"), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)
