"""Activations that are products, in every order of their factors; lookalikes stay."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from helpers import rewritten
from jaxpress import nnops, passes
from jaxpress.capture import trace
from jaxpress.capture.edit import Editor
from jaxpress.passes.rules.raise_product import call_of
from jaxpress.testing import assert_equivalent

X = jnp.array([-7.0, -3.0, -1.5, -1.0, -1e-3, 0.0, 1e-3, 0.5, 1.0, 2.5, 3.5])
C = float(np.sqrt(2 / np.pi))
R = float(np.sqrt(0.5))

FOUND = {
    "sigmoid": [
        lambda x: 1 / (1 + jnp.exp(-x)),
        lambda x: 1.0 / (jnp.exp(-x) + 1.0),
        lambda x: 0.5 * (1 + jnp.tanh(x / 2)),
        lambda x: 0.5 * jnp.tanh(0.5 * x) + 0.5,
    ],
    "silu": [
        lambda x: jax.nn.sigmoid(x) * x,
        lambda x: x / (1 + jnp.exp(-x)),
        lambda x: x * (1 / (1 + jnp.exp(-x))),
        lambda x: x * 1.0 / (1 + jnp.exp(x * -1.0)),
    ],
    "quick_gelu": [
        lambda x: x * jax.nn.sigmoid(1.702 * x),
        lambda x: jax.nn.sigmoid(x * 1.702) * x,
        lambda x: x / (1 + jnp.exp(-1.702 * x)),
    ],
    "gelu": [
        lambda x: 0.5 * x * (1 + jnp.tanh(C * (x + 0.044715 * x**3))),
        lambda x: x * 0.5 * (1.0 + jnp.tanh(0.7978845608 * (x + 0.044715 * x * x * x))),
        lambda x: 0.5 * x * (1 + jnp.tanh(x * 0.7978845608 * (1 + 0.044715 * x * x))),
        lambda x: 0.5 * (x * (1 + jnp.tanh(C * x * (1 + 0.044715 * jnp.square(x))))),
        lambda x: (1 + jnp.tanh(C * (x + 0.044715 * jnp.power(x, 3.0)))) * x / 2,
        lambda x: x * (0.5 + 0.5 * jnp.tanh(jnp.sqrt(2 / jnp.pi) * (x + 0.044715 * x**3))),
        jax.jit(lambda x: 0.5 * x * (1 + jnp.tanh(jnp.sqrt(2 / jnp.pi) * (x + 0.044715 * x**3)))),
    ],
    "gelu exact": [
        lambda x: 0.5 * x * (1 + lax.erf(x / float(np.sqrt(2)))),
        lambda x: x * 0.5 * (1.0 + lax.erf(x * R)),
        lambda x: x * (1 + jax.scipy.special.erf(x / jnp.sqrt(2.0))) / 2,
        lambda x: 0.5 * x * lax.erfc(-x * R),
        lambda x: x * lax.erfc(-x / 1.4142135) * 0.5,
    ],
    "hard_sigmoid": [lambda x: jax.nn.relu6(x + 3) * (1 / 6), lambda x: jax.nn.relu6(3 + x) / 6],
    "hard_silu": [
        lambda x: x * jax.nn.relu6(x + 3) / 6,
        lambda x: x * (jax.nn.relu6(x + 3.0) * (1 / 6)),
        lambda x: jax.nn.relu6(x + 3) / 6 * x,
        lambda x: x * jax.nn.hard_sigmoid(x),
    ],
    "mish": [
        lambda x: x * jnp.tanh(jax.nn.softplus(x)),
        lambda x: jnp.tanh(jnp.logaddexp(0.0, x)) * x,
    ],
    "selu": [
        lambda x: 1.0507009873554805 * jnp.where(x > 0, x, 1.6732632423543772 * jnp.expm1(x)),
        lambda x: 1.05070098 * jax.nn.elu(x, 1.67326324),
    ],
}
CLIPS = {
    "hard_silu": [lambda x: x * jnp.clip(x + 3, 0, 6) / 6, lambda x: jnp.clip(3 + x, 0, 6) * x / 6],
    "hard_sigmoid": [
        lambda x: jnp.clip(x + 3, 0, 6) / 6,
        lambda x: jnp.clip((x + 3) / 6, 0, 1),
        lambda x: jnp.clip(x / 6 + 0.5, 0, 1),
        lambda x: jnp.clip(0.5 + 0.16666667 * x, 0, 1),
    ],
}


def cases(table):
    return [(name, i) for name, fns in table.items() for i in range(len(fns))]


@pytest.mark.parametrize("name, i", cases(FOUND))
def test_every_order_is_found_in_both_pipelines(name, i) -> None:
    fn, op = FOUND[name][i], name.split()[0]
    for pipeline in (passes.default, passes.inference):
        new = rewritten(pipeline, fn, X)[0]
        assert new.count() == {op: 1}
    if op == "gelu":
        assert new.nodes[0].params["approximate"] == (name == "gelu")
    assert_equivalent(fn, new, X, vmap=False)


@pytest.mark.parametrize("name, i", cases(CLIPS))
def test_clips_are_found_where_nobody_differentiates(name, i) -> None:
    fn = CLIPS[name][i]
    assert name not in rewritten(passes.default, fn, X)[0].count()
    new = rewritten(passes.inference, fn, X)[0]
    assert new.count() == {name: 1}
    assert_equivalent(fn, new, X, vmap=False, gradients=False)


SOME = ["silu", "quick_gelu", "gelu", "gelu exact", "hard_silu", "mish"]


@pytest.mark.parametrize("name", SOME)
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_in_low_precision(name, dtype) -> None:
    x = X.astype(dtype)
    new = rewritten(passes.default, FOUND[name][0], x)[0]
    assert new.count() == {name.split()[0]: 1}
    got, want = (np.asarray(jax.jit(f)(x), "float32") for f in (new, FOUND[name][0]))
    eps = float(jnp.finfo(dtype).eps)
    np.testing.assert_allclose(got, want, rtol=4 * eps, atol=2 * eps)


@pytest.mark.parametrize("name", SOME)
def test_under_vmap_in_bodies_and_of_every_shape(name) -> None:
    fn, op = FOUND[name][0], name.split()[0]
    many = jnp.stack([X, X[::-1]])
    for f, x in (
        (jax.vmap(fn), many),
        (jax.checkpoint(fn), X),
        (lambda x: lax.scan(lambda c, _: (fn(c), None), x, None, length=2)[0], X),
        (fn, jnp.float32(0.5)),
        (fn, jnp.zeros((0, 3))),
    ):
        new = rewritten(passes.default, f, x)[0]
        assert new.count()[op] == 1, new
    np.testing.assert_allclose(new(x), f(x))


def test_specials_stay_what_they_are() -> None:
    x = jnp.array([-jnp.inf, -200.0, 200.0, jnp.inf, jnp.nan, -0.0])
    for name, i in cases(FOUND):
        fn = FOUND[name][i]
        new = rewritten(passes.default, fn, x)[0]
        got, want = (np.asarray(jax.jit(f)(x)) for f in (new, fn))
        # 0 times infinity is NaN in one order and not in the other; what was a number stays one.
        numbers = ~np.isnan(want)
        np.testing.assert_allclose(got[numbers], want[numbers], atol=1e-30, err_msg=f"{name} {i}")
        assert np.isnan(got[4])


@pytest.mark.parametrize(
    "fn",
    [
        lambda x: 2 / (1 + jnp.exp(-x)),
        lambda x: 1 / (1 + jnp.exp(x)),
        lambda x: 1 / (1.1 + jnp.exp(-x)),
        lambda x: 1 / (1 - jnp.exp(-x)),
        lambda x: x / (1 + jnp.exp(-2 * x)),
        lambda x: x * (1 + jnp.tanh(C * (x + 0.044715 * x**3))),
        lambda x: 0.5 * x * (1 - jnp.tanh(C * (x + 0.044715 * x**3))),
        lambda x: 0.5 * x * (1 + jnp.tanh(C * (x + 0.0447 * x**3))),
        lambda x: 0.5 * x * (1 + jnp.tanh(C * (x + 0.044715 * x**2))),
        lambda x: 0.5 * x * (1 + jnp.tanh(0.8 * (x + 0.044715 * x**3))),
        lambda x: 0.5 * x * (1 + lax.erf(x)),
        lambda x: 0.5 * x * (1 + lax.erf(-x * R)),
        lambda x: 0.5 * x * lax.erfc(x * R),
        lambda x: 0.5 * (1 + lax.erf(x * R)),
        lambda x: 0.5 * (1 + jnp.tanh(x)),
        lambda x: jax.nn.relu6(x + 2) / 6,
        lambda x: x * jax.nn.relu6(2 * x + 3) / 6,
        lambda x: x * jnp.tanh(jax.nn.softplus(2 * x)),
        lambda x: 1.05 * jax.nn.elu(x, 1.6732632),
        lambda x: x * jax.nn.sigmoid(jnp.sin(x)),
    ],
)
def test_lookalikes_stay(fn) -> None:
    new, rules = rewritten(passes.default, fn, X)
    assert not {r for r in rules if "product" in r or r == "raise_tanh_sigmoid"}
    assert_equivalent(fn, new, X, vmap=False)


def test_an_inner_value_with_another_user_is_kept() -> None:
    def fn(x):
        t = jnp.tanh(C * (x + 0.044715 * x**3))
        return 0.5 * x * (1 + t), t

    assert "gelu" not in rewritten(passes.default, fn, X)[0].count()


def test_another_variable_is_no_gate_of_it() -> None:
    def fn(x, y):
        return 0.5 * x * (1 + lax.erf(y * R)), x / (1 + jnp.exp(-y))

    assert not {"gelu", "silu"} & set(rewritten(passes.default, fn, X, X + 1)[0].count())


def test_integers_and_complex_numbers_stay() -> None:
    for x in (jnp.arange(3), X + 1j):
        assert (
            "silu" not in rewritten(passes.default, lambda x: x / (1 + jnp.exp(-x)), x)[0].count()
        )


def test_calls_of_activations() -> None:
    def own(x):
        f = jax.custom_jvp(lambda x: jnp.maximum(x, 0))
        f.defjvps(lambda g, ans, x: g)
        return f(x)

    def fn(x):
        return jax.nn.relu(x), jax.nn.relu6(x), jax.nn.softplus(x), nnops.silu(x), own(x), x * 2

    graph = passes.cleanup(trace(fn)(X))
    view = Editor(graph)
    found = [call_of(view, v) for v in graph.outputs]
    names = [f[0] if f else None for f in found]
    assert names == ["relu", "relu6", "softplus", "silu", None, None]
    assert all(f[1] is graph.inputs[0] for f in found if f)
