"""What is the same on all devices of a ``shard_map`` hides no pattern there."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest
from jax import lax
from rule_functions import MESH

import jaxpress as jp
from helpers import array, positive
from jaxpress.testing import assert_equivalent

X, W, B, SCALE = array(4, 6), array(6, 6), array(6, seed=1), positive(6)
SPEC = jax.sharding.PartitionSpec


def block(x, w, b, scale):
    y = x @ w + b
    away = y - y.mean(-1, keepdims=True)
    y = away * lax.rsqrt((away**2).mean(-1, keepdims=True) + 1e-5) * scale + b
    y = jax.nn.softmax(jax.nn.gelu(y) @ w)
    return y, lax.psum(y.sum(), "i")


def on_devices(check):
    return jax.shard_map(block, mesh=MESH, in_specs=(SPEC("i"), SPEC(), SPEC(), SPEC()),
                         out_specs=(SPEC("i"), SPEC()), check_vma=check)  # fmt: skip


def test_what_is_found_does_not_depend_on_whether_types_are_checked() -> None:
    ops = ("dense", "layer_norm", "gelu", "softmax", "pvary")
    args = X, W, B, SCALE
    with_types, without = (
        jp.passes.inference(jp.trace(on_devices(check))(*args)).count() for check in (True, False)
    )
    assert [with_types[op] for op in ops] == [without[op] for op in ops] == [2, 1, 1, 1, 0]


def test_values_and_gradients_stay() -> None:
    fn = on_devices(True)
    assert_equivalent(fn, jp.optimize(fn), X, W, B, SCALE, vmap=False)


def test_what_nothing_else_makes_vary_stays() -> None:
    def fn(x, w):
        once = lax.pcast(w, "i", to="varying")
        return lax.scan(lambda c, y: (c + y, None), once, x)[0]

    run = jax.shard_map(fn, mesh=MESH, in_specs=(SPEC("i"), SPEC()), out_specs=SPEC("i"))
    args = array(3, 4), array(4)
    graph = jp.passes.cleanup(jp.trace(run)(*args))
    assert graph.count()["pvary"] == 1
    assert jnp.allclose(graph(*args), run(*args), rtol=1e-6)


@pytest.mark.parametrize(
    "name", ["relu", "relu6", "softplus", "log_sigmoid", "hard_silu", "mish", "elu", "silu"]
)
def test_activations_have_their_names_and_derivatives(name) -> None:
    act = getattr(jax.nn, name)
    run = lambda x: jax.shard_map(act, mesh=MESH, in_specs=SPEC("i"), out_specs=SPEC("i"))(x)  # noqa: E731
    graph = jp.optimize(run).graph(X)
    assert graph.count() == {"shard_map": 1, name: 1}
    assert_equivalent(run, jp.optimize(run), X, vmap=False)


def test_a_derivative_of_its_own_stays() -> None:
    clipped = jax.custom_jvp(lambda x: jnp.maximum(x, 0))
    clipped.defjvp(lambda x, t: (clipped(*x), jnp.where(x[0] > 0, 2 * t[0], 0)))
    run = lambda x: jax.shard_map(clipped, mesh=MESH, in_specs=SPEC("i"), out_specs=SPEC("i"))(x)  # noqa: E731
    assert jp.optimize(run).graph(X).count()["custom_jvp_call"] == 1
    assert_equivalent(run, jp.optimize(run), X, vmap=False)
