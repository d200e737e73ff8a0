"""The helper behind the activations."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpress import nnops
from jaxpress.nnops.elementwise import apply, elementwise


@pytest.fixture
def cube():
    op = elementwise("cube", lambda x, *, scale: scale * x**3, {"scale": 1.0})
    yield op
    del nnops.ops["cube"]


def test_parameters_are_normalised_on_every_way_in(cube):
    x = jnp.arange(3.0)
    for f in (
        lambda x: apply(cube, x, scale=np.float32(2)),
        lambda x: cube.rebind({"x": x}, scale=2),
    ):
        (eqn,) = jax.make_jaxpr(f)(x).eqns
        assert eqn.params == {"scale": 2.0}
        assert type(eqn.params["scale"]) is float
        np.testing.assert_array_equal(f(x), 2 * x**3)


def test_vmap_leaves_the_axis_where_it_was(cube):
    f = jax.vmap(lambda x: apply(cube, x), in_axes=2, out_axes=2)
    jaxpr = jax.make_jaxpr(f)(jnp.ones((2, 3, 4)))
    assert [e.primitive.name for e in jaxpr.eqns] == ["cube"]


def test_anything_array_like_is_taken(cube):
    assert apply(cube, [1, 2]).tolist() == [1, 8]
    with pytest.raises(nnops.OpTypeError, match="cube: scale is 'wide'"):
        apply(cube, 1.0, scale="wide")
