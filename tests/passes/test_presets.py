"""The presets: what they promise, by name, sliced and extended, and settled after one run."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxpress as jp
from helpers import array, assert_close, conv, positive
from jaxpress import passes
from jaxpress.capture import PassError, trace
from jaxpress.passes import Pipeline, Rule, any_value, cleanup, default, inference, op, training
from jaxpress.passes.presets import passes_by_name, pipeline_of

X, W, M = array(2, 6, 6, 3), array(3, 3, 3, 4), array(4, 5)
MEAN, VAR = array(4), positive(4)
PRESETS = {p.name: p for p in (cleanup, default, training, inference)}


def model(x):
    y = (conv(x, W) - MEAN) / jnp.sqrt(VAR + 1e-3)
    y = jnp.maximum(y, 0.0)
    return jax.nn.softmax(y.mean((1, 2)) @ M + 1.0)


@pytest.mark.parametrize("name", PRESETS)
def test_each_keeps_the_function_and_settles(name) -> None:
    graph = trace(model)(X)
    new, _ = PRESETS[name].run(graph, check=True)
    assert_close(jax.jit(new)(X), model(X))
    again, report = PRESETS[name].run(new, check=True)
    assert not report.rewrites and again.count() == new.count()


def test_cleanup_names_no_ops_and_keeps_every_bit() -> None:
    graph = trace(model)(X)
    new = cleanup(graph)
    np.testing.assert_array_equal(jax.jit(new)(X), jax.jit(graph)(X))
    assert not {"conv", "dense", "softmax", "batch_norm"} & set(new.count())


def test_training_folds_nothing_into_weights() -> None:
    report = training.run(trace(model)(X))[1]
    assert not {"fold_batch_norm", "fold_scale", "fold_shift"} & {r.rule for r in report.rewrites}
    assert "fold_batch_norm" in {r.rule for r in default.run(trace(model)(X))[1].rewrites}


@pytest.mark.parametrize("name", ["default", "training", "inference"])
def test_an_activation_that_is_written_twice_is_one(name) -> None:
    """Each has a derivative rule of its own, so that only the named ops are seen to be equal."""

    def fn(x):
        y = conv(x, W)
        return conv(jax.nn.relu(y), array(1, 1, 4, 2)), conv(jax.nn.relu(y), array(1, 1, 4, 3))

    new, _ = PRESETS[name].run(trace(fn)(X), check=True)
    joined = name != "training"
    assert not new.find("relu") and len(new.find("conv")) == (2 if joined else 3)
    assert not PRESETS[name].run(new)[1].rewrites
    assert_close(jax.jit(new)(X), fn(X))


def test_only_inference_takes_a_maximum_for_relu() -> None:
    """At zero, where the derivatives differ."""
    fn = lambda x: jnp.maximum(x, 0.0)  # noqa: E731
    graph = trace(fn)(X)
    assert inference(graph).find("relu")
    for preset in (default, training, cleanup):
        new = preset(graph)
        assert not new.find("relu")
        assert jax.grad(lambda x, g=new: g(x).sum())(jnp.zeros_like(X)).ravel()[0] == 0.5


@pytest.mark.parametrize("name", PRESETS)
def test_by_name(name) -> None:
    assert passes_by_name(name) == PRESETS[name].passes
    assert [p.name for p in pipeline_of(name)] == [p.name for p in PRESETS[name]]
    assert getattr(passes, name) is PRESETS[name]
    fast = jp.optimize(model, name)
    assert_close(fast(X), model(X))


def test_what_optimize_takes() -> None:
    rule = Rule("twice_negated", op("neg", op("neg", any_value("x"))), lambda x: x)
    assert pipeline_of(None) is default and pipeline_of(default) is default
    for given, names in (
        ("simplify", ["simplify"]),
        (["inline", passes.cse], ["inline", "cse"]),
        (["cleanup", rule], ["inline", "simplify", "cse", "dce", "twice_negated"]),
        (rule, ["twice_negated"]),
        (rule + rule, ["rewrite"]),
        ([], []),
    ):
        assert [p.name for p in pipeline_of(given)] == names
    for wrong in ("fastest", ["cleanup", "fastest"], 3, [3]):
        with pytest.raises(PassError):
            pipeline_of(wrong)


def test_every_pass_can_be_named_and_is_public() -> None:
    for preset in PRESETS.values():
        for one in preset:
            assert passes_by_name(one.name) == (one,) and one.summary
            assert getattr(passes, one.name) is one


@pytest.mark.parametrize("name", ["default", "inference"])
def test_a_rule_or_pass_that_is_left_out_is_really_off(name) -> None:
    graph = trace(model)(X)
    full = {r.rule for r in PRESETS[name].run(graph)[1].rewrites}
    for rule in sorted(full - {r.rule for r in PRESETS[name]["select_kernels"].rules}):
        try:
            less = PRESETS[name].without(rule)
        except PassError:
            continue  # a kernel, which select_kernels chose
        new, report = less.run(graph, check=True)
        assert rule not in {r.rule for r in report.rewrites}
        assert new.outputs[0].shape == (2, 5)
    less = PRESETS[name].without("fold_batch_norm")
    assert "fold_batch_norm" not in {r.rule for r in less.run(graph)[1].rewrites}


def test_slices_and_sums_are_pipelines() -> None:
    half = default[: [p.name for p in default].index("fold_batch_norm")]
    assert isinstance(half, Pipeline) and half(trace(model)(X)).find("batch_norm")
    longer = half + default["fuse_activation"]
    assert [p.name for p in longer][-1] == "fuse_activation"
