"""prelu against Flax, Equinox, Keras' formula and torch, slopes of every shape."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpress import nnops

X = jnp.asarray([[-2.0, -0.0, 0.0, 3.0], [jnp.inf, -1.0, jnp.nan, -jnp.inf]])


def keras_form(x, slope):
    return jax.nn.relu(x) - slope * jax.nn.relu(-x)


def test_is_flax_and_equinox():
    eqx = pytest.importorskip("equinox")
    slope = jnp.float32(0.2)
    linen = nn.PReLU(negative_slope_init=0.2)
    variables = linen.init(jax.random.key(0), X)
    np.testing.assert_array_equal(nnops.prelu(X, slope), linen.apply(variables, X))
    np.testing.assert_array_equal(nnops.prelu(X, slope), eqx.nn.PReLU(0.2)(X))
    slopes = jnp.asarray([0.1, 0.2, 0.3, 0.4])
    np.testing.assert_array_equal(nnops.prelu(X, slopes), eqx.nn.PReLU(slopes)(X))


def test_is_torch_with_channels_first():
    torch = pytest.importorskip("torch")
    x, slope = np.linspace(-1, 1, 24, dtype="float32").reshape(2, 3, 4), np.float32([0.1, 0.5, 2])
    want = torch.nn.functional.prelu(torch.tensor(x), torch.tensor(slope)).numpy()
    np.testing.assert_array_equal(nnops.prelu(x, slope, axis=1), want)


@pytest.mark.parametrize(
    "slope, at_zero", [((), 1.0), ((4,), 1.0), ((3, 1), 0.0), ((3, 4), 0.0), ((1, 4), "slope")]
)
def test_behaves_under_every_transformation(agree, slope, at_zero):
    plain = keras_form if at_zero == 0 else lambda x, a: jnp.where(x >= 0, x, a * x)
    agree(lambda x, a: nnops.prelu(x, a, derivative_at_zero=at_zero), plain, (3, 4), slope)


@pytest.mark.parametrize("at_zero, there", [(0.0, 0.0), (1.0, 1.0), ("slope", 0.25)])
def test_derivative_at_zero(at_zero, there):
    f = jax.grad(lambda x: nnops.prelu(x, 0.25, derivative_at_zero=at_zero))
    assert [float(f(x)) for x in (-1.0, 0.0, 1.0)] == [0.25, there, 1.0]
    torch = pytest.importorskip("torch")
    x = torch.zeros((), requires_grad=True)
    torch.nn.functional.prelu(x, torch.tensor([0.25])).backward()
    assert x.grad == 0.25  # as "slope" has it


def test_all_forms_have_the_same_values():
    x = X.at[1].set(jnp.asarray([jnp.inf, -1.0, jnp.nan, -2.0]))
    a, b, c = (nnops.prelu(x, 0.5, derivative_at_zero=d) for d in (0.0, 1.0, "slope"))
    np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(b, c)


def test_vmap_keeps_one_equation():
    for axes, shapes in (((0, None), ((5, 2), ())), ((None, 0), ((2,), (5,)))):
        fn = jax.vmap(nnops.prelu, in_axes=axes)
        eqn = jax.make_jaxpr(fn)(*map(jnp.ones, shapes)).eqns[-1]
        assert eqn.primitive is nnops.ops["prelu"].primitive
        assert eqn.params == {"derivative_at_zero": 1.0}


def test_dtypes_promote_and_stay():
    assert nnops.prelu(jnp.ones(2, "bfloat16"), jnp.ones((), "bfloat16")).dtype == "bfloat16"
    assert nnops.prelu(jnp.ones(2, "bfloat16"), 0.1).dtype == "bfloat16"
    assert nnops.prelu(jnp.ones(2, "bfloat16"), jnp.ones(2)).dtype == "float32"


@pytest.mark.parametrize("shape", [(3,), (2,), (4, 4), (1, 2, 4)])
def test_slopes_that_do_not_fit(shape):
    with pytest.raises(nnops.OpError, match="prelu: slope has shape"):
        nnops.prelu(X, jnp.ones(shape))


def test_other_bad_arguments():
    with pytest.raises(nnops.OpError, match="axis is 2"):
        nnops.prelu(X, jnp.ones(4), axis=2)
    with pytest.raises(nnops.OpError, match=r"derivative_at_zero is 0\.5"):
        nnops.prelu(X, 0.1, derivative_at_zero=0.5)
