"""What all recurrent ops share: parameters, vmap, lengths, precision."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from recurrent_plain import draw

from jaxpress import nnops

B, T, F, H = 2, 3, 3, 2
SHAPES = ((B, T, F), (B, H), (B, H), (F, 4 * H), (H, 4 * H), (4 * H,))


def eqns(f, *args):
    return jax.make_jaxpr(f)(*args).eqns


def test_vmap_over_data_is_a_batch_dimension():
    x, h, c, *w = draw(*SHAPES, dtype=np.float32)
    (eqn,) = eqns(jax.vmap(lambda x, h, c: nnops.lstm(x, h, c, *w)), x, h, c)
    assert eqn.primitive is nnops.ops["lstm"].primitive and "mapped" not in eqn.params
    (eqn,) = eqns(jax.vmap(lambda x, h, c: nnops.lstm_cell(x, h, c, *w)), x[:, 0], h, c)
    assert eqn.primitive is nnops.ops["lstm_cell"].primitive and "mapped" not in eqn.params


@pytest.mark.parametrize("which", [1, 4])
def test_vmap_over_states_alone_or_weights_keeps_the_op(which):
    args = draw(*SHAPES, dtype=np.float32)
    axes = [None] * len(args)
    axes[which] = 0
    args[which] = jnp.stack([args[which], 2 * args[which]])
    (eqn,) = eqns(jax.vmap(nnops.lstm, axes), *args)
    assert eqn.primitive is nnops.ops["lstm"].primitive
    # The input projection is not repeated for each entry.
    assert eqn.params["mapped"] and eqn.invars[0].aval.shape == (B, T, F)


def test_lengths_may_be_traced_and_mapped():
    x, h, c, *w = draw(*SHAPES, dtype=np.float32)
    lengths = jnp.array([3, 1])
    f = lambda x, h, c, n: nnops.lstm(x, h, c, *w, lengths=n)  # noqa: E731
    got = jax.jit(jax.vmap(f))(x, h, c, lengths)
    want = f(x, h, c, lengths)
    assert jax.tree.all(jax.tree.map(lambda a, b: jnp.allclose(a, b, atol=1e-6), got, want))


def test_lengths_beyond_the_time_axis_are_the_whole_of_it():
    x, h, c, *w = draw(*SHAPES, dtype=np.float32)
    got = nnops.lstm(x, h, c, *w, lengths=jnp.array([9, 3]))[0]
    np.testing.assert_array_equal(got, nnops.lstm(x, h, c, *w, lengths=jnp.array([3, 3]))[0])
    np.testing.assert_array_equal(nnops.lstm(x, h, c, *w, lengths=jnp.array([0, -1]))[1][0], h)


def test_precision_is_that_of_the_call():
    args = draw(*SHAPES, dtype=np.float32)
    (eqn,) = eqns(lambda *a: nnops.lstm(*a, precision="highest"), *args)
    assert eqn.params["precision"] == (jax.lax.Precision.HIGHEST,) * 2
    with jax.default_matmul_precision("float32"):
        (eqn,) = eqns(nnops.lstm, *args)
    assert eqn.params["precision"] == (jax.lax.Precision.HIGHEST,) * 2


@pytest.mark.parametrize(
    "options, message",
    [
        ({"masked_output": "last"}, "masked_output is 'last'"),
        ({"unroll": 0}, "unroll is 0"),
        ({"unroll": True}, "unroll is True"),
        ({"activation": "tahn"}, "no activation is named 'tahn'"),
    ],
)
def test_bad_options(options, message):
    args = draw(*SHAPES, dtype=np.float32)
    with pytest.raises(nnops.OpError, match=message):
        nnops.lstm(*args, **options)
