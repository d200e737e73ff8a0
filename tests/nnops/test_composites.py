"""Named ops as stablehlo.composite, where that was asked for."""

import re

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpress import nnops
from jaxpress.nnops.composites import attribute
from samples import SAMPLES, as_list

X, W, B = (np.random.default_rng(0).normal(size=s).astype(np.float32) for s in ((2, 3), (3, 4), 4))


def _dense(x, w, b):
    return nnops.dense(x, w, b, activation=("leaky_relu", {"negative_slope": 0.5}))


def _names(text):
    return re.findall(r'stablehlo\.composite "([\w.]+)"', text)


@pytest.mark.parametrize("name", SAMPLES)
def test_every_op_is_one(name):
    f = as_list(SAMPLES[name].call)
    with nnops.composites():
        text = jax.jit(f).lower(*SAMPLES[name].arrays()).as_text()
    first, *others = _names(text)
    assert first == f"jaxpress.{name}"
    assert bool(others) == nnops.registry()[name].made_of_ops


def test_attributes_are_the_parameters():
    with nnops.composites("mine"):
        text = jax.jit(_dense).lower(X, W, B).as_text()
    assert _names(text) == ["mine.dense"]
    assert 'activation = "leaky_relu(negative_slope=0.5)"' in text
    assert 'operands = ["x", "w", "b"]' in text
    assert "preferred_element_type" not in text  # None
    with nnops.composites():
        text = jax.jit(lambda x: nnops.softmax(x, (0, 1))).lower(X).as_text()
        assert "axis = [-2, -1]" in text
        text = jax.jit(jax.vmap(_dense, (None, 0, None))).lower(X, W[None], B).as_text()
        assert 'mapped = [["None", 0, "None"]]' in text


def test_attribute():
    assert attribute((1, 2.5, "a", (True, None))) == (1, 2.5, "a", (True, "None"))
    assert attribute(np.dtype("float32")) == "float32"


def test_only_while_it_was_asked_for():
    f = jax.jit(lambda *a: jax.lax.scan(lambda c, _: (c, _dense(*a)), 0, None, length=2)[1])
    for _ in range(2):
        assert _names(f.lower(X, W, B).as_text()) == []
        with nnops.composites():
            assert _names(f.lower(X, W, B).as_text()) == ["jaxpress.dense"]
            np.testing.assert_allclose(f(X, W, B)[0], _dense(X, W, B), rtol=1e-6)
    with pytest.raises(RuntimeError), nnops.composites():
        raise RuntimeError
    assert _names(f.lower(X, W, B).as_text()) == []


@pytest.mark.parametrize("platforms", [None, ("cpu", "tpu", "cuda")])
def test_exported_modules_keep_the_names_and_run(platforms):
    def f(x, w, b):
        return jax.value_and_grad(lambda x: nnops.softmax(_dense(x, w, b))[0, 0])(x)

    with nnops.composites():
        exported = jax.export.export(jax.jit(f), platforms=platforms)(X, W, B)
    assert {"jaxpress.dense", "jaxpress.softmax"} <= set(_names(exported.mlir_module()))
    loaded = jax.export.deserialize(exported.serialize())
    for got, want in zip(loaded.call(X, W, B), f(X, W, B), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)


def test_several_results_and_keys():
    def f(x, key):
        y, (h, _) = nnops.lstm(x, None, None, jnp.ones((3, 8)), jnp.ones((2, 8)))
        return nnops.dropout(y, key, rate=0.5), h

    x, key = jnp.ones((4, 3)), jax.random.key(0)
    with nnops.composites():
        lowered = jax.jit(f).lower(x, key)
        assert _names(lowered.as_text()) == ["jaxpress.lstm", "jaxpress.dropout"]
        got = lowered.compile()(x, key)
    for g, w in zip(got, f(x, key), strict=True):
        np.testing.assert_allclose(g, w, rtol=1e-6)


def test_symbolic_sizes_lower_as_ever():
    shapes = (jax.ShapeDtypeStruct(jax.export.symbolic_shape("n, 3"), X.dtype), W, B)
    with nnops.composites():
        exported = jax.export.export(jax.jit(_dense))(*shapes)
    assert _names(exported.mlir_module()) == []
    np.testing.assert_allclose(exported.call(X, W, B), _dense(X, W, B), rtol=1e-6)
