"""Rules that ops have by default; `test_define` and `agree` run them all on values."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.interpreters import ad

from jaxpress import nnops
from jaxpress.nnops.transforms import is_zero, zero_like


def test_zero_like_is_symbolic_and_of_the_tangent_type():
    zero = zero_like(jnp.arange(3))
    assert is_zero(zero)
    assert not is_zero(jnp.zeros(3))
    assert zero.aval.dtype == jax.dtypes.float0
    assert ad.instantiate_zeros(zero_like(jnp.ones(3))).dtype == jnp.float32


def test_operands_without_tangent_are_left_out():
    # Only x has a tangent, so nothing may be computed in the direction of the statistics.
    mean, var = jnp.ones(3), jnp.ones(3)
    f = lambda x: nnops.batch_norm(x, mean, var)  # noqa: E731
    push = jax.make_jaxpr(lambda dx: jax.linearize(f, jnp.ones((2, 3)))[1](dx))(jnp.ones((2, 3)))
    names = [e.primitive.name for e in push.eqns]
    assert names.count("batch_norm") == 1
    assert names[-1] == "mul"


def test_integer_operands_have_float0_tangents():
    x = jnp.arange(4)
    y, dy = jax.jvp(nnops.relu, (x,), (np.zeros(4, jax.dtypes.float0),))
    assert dy.dtype == jax.dtypes.float0
    np.testing.assert_array_equal(y, x)


def test_linear_ops_push_tangents_through_themselves():
    x = jnp.ones((1, 4, 4, 2))
    jaxpr = jax.make_jaxpr(lambda x, dx: jax.jvp(lambda x: nnops.avg_pool(x, 2), (x,), (dx,)))(x, x)
    assert [e.primitive.name for e in jaxpr.eqns] == ["avg_pool", "avg_pool"]
