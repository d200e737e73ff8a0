"""When prepared weights are used again, and when they are made anew."""

import gc
import threading
import weakref

import jax.numpy as jnp
import numpy as np
import pytest

from jaxpress.weights import PreparedWeights


@pytest.fixture
def made():
    return []


@pytest.fixture
def prepared(made):
    def prepare(weights):
        made.append(1)
        return [np.asarray(w) + 1 for w in weights]

    return PreparedWeights(prepare)


def test_the_same_jax_array_is_known_by_identity(prepared, made):
    w = jnp.arange(3.0)
    assert prepared([w]) is prepared([w])
    prepared([jnp.arange(3.0)])
    assert len(made) == 2


@pytest.mark.parametrize(
    "change",
    [
        lambda w: w.astype(np.float64),
        lambda w: w.reshape(3, 1),
        lambda w: np.array([0.0, 1.0, 3.0], np.float32),
        lambda w: np.array([-0.0, 1.0, 2.0], np.float32),
        lambda w: jnp.asarray(w),
    ],
    ids=["dtype", "shape", "value", "sign of zero", "jax array"],
)
def test_numpy_arrays_are_known_by_their_bytes(prepared, made, change):
    w = np.arange(3, dtype=np.float32)
    assert prepared([w]) is prepared([w.copy()])
    prepared([change(w)])
    assert len(made) == 2


def test_a_numpy_array_that_changed_in_place_is_another(prepared):
    w = np.arange(3.0)
    prepared([w])
    w[0] = 7
    np.testing.assert_array_equal(prepared([w])[0], [8, 2, 3])


def test_nan_is_the_same_nan(prepared, made):
    w = np.array([np.nan])
    prepared([w])
    prepared([w])
    assert len(made) == 1


@pytest.mark.parametrize("other", [1, True, 2.0])
def test_numbers_are_known_by_type_and_value(prepared, made, other):
    assert prepared([1.0]) is prepared([1.0])
    prepared([other])
    assert len(made) == 2


def test_another_number_of_weights(prepared):
    w = jnp.ones(2)
    assert len(prepared([w])) == 1
    assert len(prepared([w, w])) == 2


def test_what_was_prepared_goes_with_the_weights(prepared):
    w = jnp.ones(2)
    out = weakref.ref(prepared([w])[0])
    assert out() is not None
    del w
    gc.collect()
    assert out() is None


def test_old_ones_go_before_new_ones_are_made():
    alive = []

    def prepare(weights):
        gc.collect()
        alive.append([r() is not None for r in refs])
        out = np.asarray(weights[0]) * 2
        refs.append(weakref.ref(out))
        return [out]

    refs = []
    prepared = PreparedWeights(prepare)
    prepared([np.zeros(3)])
    prepared([np.ones(3)])
    assert alive == [[], [False]]


def test_a_failure_leaves_nothing_half_prepared(made):
    def prepare(weights):
        made.append(1)
        if len(made) == 2:
            raise RuntimeError("no memory")
        return list(weights)

    prepared = PreparedWeights(prepare)
    prepared([1.0])
    with pytest.raises(RuntimeError):
        prepared([2.0])
    assert prepared([2.0]) == [2.0]
    assert len(made) == 3


def test_threads_with_weights_of_their_own_get_their_own(prepared):
    wrong = []

    def work(value):
        w = np.full(4, float(value))
        for _ in range(200):
            if prepared([w])[0][0] != value + 1:
                wrong.append(value)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not wrong
