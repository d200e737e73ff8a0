"""Which weights are kept, against torch's own pruning rules written out in NumPy."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from helpers import array
from jaxpress.capture import PassError
from jaxpress.passes import magnitude_mask

W = array(3, 3, 8, 6)


@pytest.mark.parametrize("sparsity", [0.0, 0.1, 0.5, 0.9, 1.0])
def test_the_smallest_go(sparsity) -> None:
    mask = np.asarray(magnitude_mask(W, sparsity))
    assert mask.dtype == bool and mask.shape == W.shape
    assert (~mask).sum() == round(sparsity * W.size)
    kept, gone = np.abs(W)[mask], np.abs(W)[~mask]
    assert gone.max(initial=0.0) <= kept.min(initial=np.inf)


def test_of_equal_weights_just_as_many_go() -> None:
    assert magnitude_mask(jnp.ones(10), 0.3).sum() == 7
    assert magnitude_mask(jnp.zeros((0, 3)), 0.5).shape == (0, 3)


@pytest.mark.parametrize("structure", [(2, 4), "2:4", [1, 8]])
@pytest.mark.parametrize("axis", [2, -2])
def test_some_of_each_few_along_the_input_axis(structure, axis) -> None:
    n, m = (int(k) for k in (structure.split(":") if isinstance(structure, str) else structure))
    mask = np.asarray(magnitude_mask(W, structure=structure, input_axis=axis))
    groups = np.moveaxis(mask, axis, -1).reshape(-1, m)
    assert (groups.sum(1) == n).all()
    sizes = np.moveaxis(np.abs(W), axis, -1).reshape(-1, m)
    np.testing.assert_array_equal(groups, sizes >= np.sort(sizes, 1)[:, [m - n]])


def test_whole_features() -> None:
    mask = np.asarray(magnitude_mask(W, 0.5, "channel", output_axes=3))
    norms = np.sqrt((np.asarray(W) ** 2).sum((0, 1, 2)))
    np.testing.assert_array_equal(mask.all((0, 1, 2)), norms > np.sort(norms)[2])
    np.testing.assert_array_equal(mask.any((0, 1, 2)), mask.all((0, 1, 2)))
    several = magnitude_mask(W, 0.25, "channel", output_axes=(2, 3))
    assert (several.all((0, 1)).sum(), several.any((0, 1)).sum()) == (36, 36)


def test_no_gradient_goes_through_the_choice() -> None:
    grad = jax.grad(lambda w: jnp.sum(w * magnitude_mask(w, 0.5)))(W)
    np.testing.assert_array_equal(grad, magnitude_mask(W, 0.5).astype("float32"))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_low_precision_and_jit(dtype) -> None:
    w = W.astype(dtype)
    mask = jax.jit(lambda w: magnitude_mask(w, 0.5, "channel"))(w)
    np.testing.assert_array_equal(mask, magnitude_mask(w, 0.5, "channel"))


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"sparsity": 1.5}, "fraction"),
        ({"sparsity": -0.1}, "fraction"),
        ({"sparsity": float("nan")}, "fraction"),
        ({"sparsity": "half"}, "fraction"),
        ({"structure": "rows"}, "structure"),
        ({"structure": (4, 2)}, "structure"),
        ({"structure": (0, 2)}, "structure"),
        ({"structure": "2:3:4"}, "structure"),
        ({"structure": (2, 5), "input_axis": 2}, "has 8"),
    ],
)
def test_what_is_refused(options, what) -> None:
    with pytest.raises(PassError, match=what):
        magnitude_mask(W, **options)
