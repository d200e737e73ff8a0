"""The derivative rule of the recurrent ops where others do not reach: mapped, partly zero."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import assert_close
from recurrent_plain import draw, gru_step, run

from jaxpress import nnops

B, T, F, H = 2, 3, 3, 2
SHAPES = ((B, T, F), (B, H), (F, 3 * H), (H, 3 * H), (3 * H,), (3 * H,))


def losses(**options):
    ours = lambda *a: jnp.sum(jnp.sin(nnops.gru(*a, **options)[0]))  # noqa: E731
    plain = lambda x, h, *w: jnp.sum(jnp.sin(run(gru_step, x, (h,), *w, **options)[0]))  # noqa: E731
    return ours, plain


@pytest.mark.parametrize("after", [True, False])
def test_each_operand_alone(after):
    with jax.enable_x64(True):
        args = draw(*SHAPES)
        ours, plain = losses(reset_after=after)
        got, want = jax.jit(
            lambda: [[jax.grad(f, i)(*args) for i in range(len(args))] for f in (ours, plain)]
        )()
        assert_close(got, want, 1e-12)


def test_of_an_op_that_is_mapped_over_weights():
    with jax.enable_x64(True):
        args = draw(*SHAPES)
        args[3] = jnp.stack([args[3], -args[3]])
        axes = (None, None, None, 0, None, None)

        def grads(f):
            return jax.grad(lambda *a: jax.vmap(f, axes)(*a).sum(), (0, 3, 5))(*args)

        got, want = jax.jit(lambda: [grads(f) for f in losses()])()
        assert_close(got, want, 1e-12)
        jaxpr = jax.make_jaxpr(lambda: grads(losses()[0]))()
        ops = [e.primitive.name for e in jaxpr.eqns]
        assert ops.count("gru") == 1 and ops.count("scan") == 1


def test_integer_operands_have_no_tangent():
    x, h, *w = draw(*SHAPES, dtype=np.float32)
    x = jnp.round(x).astype(jnp.int32)
    dx = np.zeros(x.shape, jax.dtypes.float0)
    y, dy = jax.jvp(lambda x: nnops.gru(x, h, *w)[0], (x,), (dx,))
    np.testing.assert_array_equal(dy, jnp.zeros_like(y))
