"""The model zoo: each model builds, computes something that depends on its input, is counted."""

import jax
import numpy as np
import pytest

import zoo

# Large enough for every stride, small enough to compile and run in a second.
SMALL = {"cnn": 32, "mlp": 16, "transformer": 8}
HEAVY = 64


def small_size(name):
    return SMALL.get(name.split("_", 1)[1], HEAVY)


@pytest.mark.parametrize("name", list(zoo.MODELS))
def test_model(name):
    """One test for each model: building it costs most, and parallel workers share nothing."""
    if not zoo.available(name):
        pytest.skip(f"{zoo.MODELS[name][1]} is not installed")
    model = zoo.build(name, size=small_size(name))
    assert model.name == name and model.framework == zoo.MODELS[name][0]
    check_that_it_computes_something(model)
    check_closure_and_parameters_give_the_same_function(model)
    check_that_layers_are_counted(model)
    check_that_no_weight_is_trivial(model)


def check_that_it_computes_something(model):
    (x,) = model.args
    run = jax.jit(model.param_fn)  # one compilation serves all three runs
    y = np.asarray(run(model.weights, x))
    assert x.dtype == y.dtype == np.float32
    assert x.shape[0] == y.shape[0] == 1
    assert np.isfinite(y).all()
    assert y.std() > 1e-4 and np.abs(y).max() < 100.0
    other = np.asarray(run(model.weights, jax.numpy.flip(x, axis=-1)))
    assert np.abs(other - y).max() > 1e-2 * np.abs(y).max()
    halved = jax.tree.map(lambda w: w / 2 if w.dtype == np.float32 else w, model.weights)
    assert not np.array_equal(np.asarray(run(halved, x)), y)


def check_closure_and_parameters_give_the_same_function(model):
    closed = jax.make_jaxpr(model.fn)(*model.args)
    opened = jax.make_jaxpr(model.param_fn)(model.weights, *model.args)
    assert closed.out_avals == opened.out_avals
    kinds = ("conv_general_dilated", "dot_general", "rsqrt", "max", "logistic")
    for kind in kinds:
        counts = [str(jaxpr).count(f" {kind}") for jaxpr in (closed, opened)]
        assert counts[0] == counts[1], kind
    held = sum(int(np.size(c)) for c in closed.consts)
    assert 0 < held <= model.n_weights * 1.01 + 10


def check_that_layers_are_counted(model):
    assert model.n_dense > 0 and sum(model.activations.values()) > 0
    convolutional = not model.name.endswith(("mlp", "transformer"))
    assert (model.n_conv > 0) == (model.n_batch_norm > 0) == convolutional
    text = str(jax.make_jaxpr(model.fn)(*model.args))
    assert text.count("= conv_general_dilated[") == model.n_conv


def check_that_no_weight_is_trivial(model):
    """No bias, statistic, scale or shift is left at the 0 or 1 that hides a wrong fold."""
    vectors = [np.squeeze(w) for w in jax.tree.leaves(model.weights) if w.dtype == np.float32]
    vectors = [v for v in vectors if v.ndim == 1 and v.size > 1]
    assert len(vectors) >= max(1, 4 * model.n_batch_norm)
    assert all(len(np.unique(v)) > v.size // 2 for v in vectors)


def test_two_builds_are_equal_and_seeds_differ():
    one, two, other = (zoo.build("jax_mlp", size=8, seed=seed) for seed in (0, 0, 1))
    for a, b, c in zip(*(jax.tree.leaves(m.weights) for m in (one, two, other)), strict=True):
        assert np.array_equal(a, b) and not np.array_equal(a, c)


def test_names_and_errors():
    assert zoo.names("keras") == [name for name in zoo.MODELS if name.startswith("keras")]
    assert set(zoo.names()) == set(zoo.MODELS)
    with pytest.raises(ValueError, match="no model 'alexnet'"):
        zoo.build("alexnet")
