"""Gates become glu, swiglu and geglu; other products stay."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from helpers import array, rewritten
from jaxpress import passes
from jaxpress.testing import assert_equivalent

X, Y = array(3, 8), array(3, 8, seed=1)

GLU = {
    "jax.nn": jax.nn.glu,
    "split": lambda x: (lambda a, b: jax.nn.sigmoid(b) * a)(*jnp.split(x, 2, -1)),
    "slices": lambda x: x[..., :4] * jax.nn.sigmoid(x[..., 4:]),
    "first axis": lambda x: jax.nn.glu(x.T, 0),
}
GATED = {
    "swiglu": [
        lambda a, b: jax.nn.silu(a) * b,
        lambda a, b: b * jax.nn.silu(a),
        lambda a, b: a * jax.nn.sigmoid(a) * b,
    ],
    "geglu": [
        lambda a, b: jax.nn.gelu(a) * b,
        lambda a, b: b * jax.nn.gelu(a, approximate=False),
        lambda a, b: 0.5 * a * (1 + jnp.tanh(0.7978845608 * (a + 0.044715 * a**3))) * b,
    ],
}


@pytest.mark.parametrize("name", GLU)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_halves_and_a_sigmoid(name, dtype) -> None:
    x = X.astype(dtype)
    for pipeline in (passes.default, passes.inference):
        new = rewritten(pipeline, GLU[name], x)[0]
        assert set(new.count()) <= {"glu", "transpose"} and new.count()["glu"] == 1
    np.testing.assert_array_equal(jax.jit(new)(x), jax.jit(GLU[name])(x))
    if dtype == "float32":
        assert_equivalent(GLU[name], new, x, vmap=False)
        many = rewritten(passes.default, jax.vmap(GLU[name]), jnp.stack([x, x]))[0]
        assert many.count()["glu"] == 1


@pytest.mark.parametrize("op, i", [(op, i) for op in GATED for i in range(3)])
def test_products_with_silu_and_gelu(op, i) -> None:
    fn = GATED[op][i]
    new = rewritten(passes.default, fn, X, Y)[0]
    assert new.count() == {op: 1}
    assert new.nodes[0].inputs == new.inputs  # the gate first
    assert_equivalent(fn, new, X, Y, vmap=False)
    many = rewritten(passes.default, jax.vmap(fn, in_axes=1), X, Y)[0]
    assert many.count()[op] == 1


@pytest.mark.parametrize(
    "fn",
    [
        lambda x: x[..., 4:] * jax.nn.sigmoid(x[..., :4]),  # the first half gates
        lambda x: x[..., :4] * jax.nn.sigmoid(x[..., 2:6]),
        lambda x: x[..., :3] * jax.nn.sigmoid(x[..., 3:6]),
        lambda x: x[..., ::2] * jax.nn.sigmoid(x[..., 1::2]),
        lambda x: x[..., :4] * jax.nn.sigmoid(-x[..., 4:]),
        lambda x: (lambda a, b, c: a * jax.nn.sigmoid(b))(*jnp.split(x, [2, 4], -1)),
        lambda x: x[..., :4] * jax.nn.sigmoid(Y[..., 4:]),
        lambda x: jax.nn.silu(x) * 2.0,
        lambda x: jax.nn.silu(x) * x,
        lambda x: jax.nn.silu(x) * Y[:1],
        lambda x: jax.nn.silu(x) * jax.nn.sigmoid(Y),  # squeeze and excitation
        lambda x: jax.nn.silu(x) + Y,
    ],
)
def test_lookalikes_stay(fn) -> None:
    new = rewritten(passes.default, fn, X)[0]
    assert not {"glu", "swiglu", "geglu"} & set(new.count())
    np.testing.assert_allclose(new(X), jax.jit(fn)(X), rtol=1e-6)


def test_a_gate_with_another_user_is_kept() -> None:
    def swi(a, b):
        s = jax.nn.silu(a)
        return s * b, s

    assert rewritten(passes.default, swi, X, Y)[0].count() == {"silu": 1, "mul": 1}

    def glu(x):
        a, b = jnp.split(x, 2, -1)
        return a * jax.nn.sigmoid(b), a

    assert "glu" not in rewritten(passes.default, glu, X)[0].count()
