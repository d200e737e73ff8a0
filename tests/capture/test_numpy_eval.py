"""Small graphs run by NumPy give what XLA gives."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import lax
from programs import f32

import jaxpress as jp
from jaxpress import nnops
from jaxpress.capture import trace
from jaxpress.capture.evaluate import evaluate
from jaxpress.capture.numpy_eval import _ANY_OPS, _FLOAT_OPS, evaluate_with_numpy, split_for_numpy
from jaxpress.capture.template import inline_calls

SPECIAL = [0.0, -0.0, 1.0, -2.5, 1e-42, 3e38, np.inf, -np.inf, np.nan, 0.1]

UNARY: dict[str, Any] = {
    "neg": lax.neg,
    "abs": lax.abs,
    "sqrt": lax.sqrt,
    "rsqrt": lax.rsqrt,
    "square": lax.square,
    "exp": lax.exp,
    "log": lax.log,
    "copy": lambda x: lax.copy_p.bind(x),
    "integer_pow": lambda x: lax.integer_pow(x, 3),
    "integer_pow below zero": lambda x: lax.integer_pow(x, -2),
    "reshape": lambda x: lax.reshape(x, (5, 2)),
    "expand_dims": lambda x: lax.expand_dims(x, (0,)),
    "squeeze": lambda x: lax.squeeze(lax.broadcast_in_dim(x, (1, 10, 3), (1,)), (0,)),
    "broadcast_in_dim": lambda x: lax.broadcast_in_dim(x, (2, 10, 3), (1,)),
    "transpose": lambda x: lax.transpose(lax.reshape(x, (5, 2)), (1, 0)),
    "concatenate": lambda x: lax.concatenate([x, x[:3], x], 0),
    "rev": lambda x: lax.rev(lax.reshape(x, (5, 2)), (0, 1)),
    "slice": lambda x: lax.slice(lax.reshape(x, (5, 2)), (1, 0), (5, 1), (3, 1)),
    "iota": lambda x: lax.broadcasted_iota(x.dtype, (3, 4, 2), 1),
    "not": lambda x: ~(x > 0),
    "convert_element_type": lambda x: lax.convert_element_type(x, jnp.bfloat16),
}
BINARY: dict[str, Any] = {
    name: getattr(lax, name)
    for name in ("add", "sub", "mul", "div", "max", "min", "eq", "ne", "lt", "le", "gt", "ge")
}
BINARY["pow"] = lax.pow
BINARY["and"] = lambda a, b: (a > 0) & (b > 0)
BINARY["or"] = lambda a, b: (a > 0) | (b > 0)
BINARY["select_n"] = lambda a, b: lax.select_n(a > b, a, b)


# XLA on the CPU flushes numbers below 1.2e-38 to zero in some of its functions; for weights these
# are nothing.
def usual(x: np.ndarray) -> np.ndarray:
    return np.where(np.abs(x) < 1e-37, np.copysign(0.0, x), x)


def check(fn: Any, *args: Any, rtol: float = 0.0) -> None:
    graph = inline_calls(trace(fn)(*args))
    assert not split_for_numpy(graph)[0].nodes, graph
    constants = list(graph.constant_values.values())
    for got, want in zip(
        evaluate_with_numpy(graph, list(args), constants),
        jax.tree.leaves(jax.jit(fn)(*args)),
        strict=True,
    ):
        assert isinstance(got, jax.Array) and got.dtype == want.dtype and got.shape == want.shape
        wide = [np.asarray(x).astype(np.float64) for x in (got, want)]
        wide = [usual(x) for x in wide]
        finite = np.abs(wide[1][np.isfinite(wide[1])])
        # What cancels is wrong by the rounding of what it was made of; XLA fuses a product and a
        # sum into one rounding.
        atol = rtol * min(1.0, finite.max(initial=0.0))
        np.testing.assert_allclose(*wide, rtol=rtol, atol=atol)


@pytest.mark.parametrize("dtype", [np.float32, jnp.bfloat16])
@pytest.mark.parametrize("name", UNARY)
def test_functions_of_one_array(name: str, dtype: Any) -> None:
    x = usual(np.array(SPECIAL)).astype(dtype)
    eps = float(jnp.finfo(dtype).eps)
    exact = {"neg", "abs", "copy", "square", "convert_element_type"} | {
        k for k in UNARY if not k.startswith(("sqrt", "rsqrt", "exp", "log", "integer_pow"))
    }
    check(UNARY[name], x, rtol=0 if name in exact and dtype is np.float32 else 4 * eps)


@pytest.mark.parametrize("dtype", [np.float32, jnp.bfloat16])
@pytest.mark.parametrize("name", BINARY)
def test_functions_of_two_arrays(name: str, dtype: Any) -> None:
    x, y = (usual(v).astype(dtype) for v in np.meshgrid(SPECIAL, SPECIAL))
    rough = 4 * float(jnp.finfo(dtype).eps)
    check(
        BINARY[name], x, y, rtol=rough if name in ("pow", "div") or dtype is not np.float32 else 0
    )


def test_every_operation_is_tested() -> None:
    known = {name.partition(" ")[0] for name in (*UNARY, *BINARY)}
    assert set(_FLOAT_OPS) | set(_ANY_OPS) == known | {"add_any", "reduce_sum", "dot_general"}


@pytest.mark.parametrize("dtype", [np.float32, jnp.bfloat16])
@pytest.mark.parametrize(
    "fn",
    [
        lambda x, y: (x.sum(), x.sum((0, 2)), x.sum(1, keepdims=True), x[:0].sum(0)),
        lambda x, y: jnp.einsum("abc,cd->abd", x, y),
        lambda x, y: jnp.einsum("abc,da->bcd", x, y.reshape(5, 2)),
        lambda x, y: jnp.einsum("abc,ab->ca", x, y[:2, :3]),
        lambda x, y: lax.dot_general(x, x, (((0, 2), (0, 2)), ((), ()))),
        lambda x, y: lax.dot_general(x[:0], y[:, :1], (((2,), (0,)), ((), ()))),
        lambda x, y: lax.dot_general(x[..., :0], y[:0], (((2,), (0,)), ((), ()))),
        lambda x, y: lax.dot(y, y.reshape(5, 2), preferred_element_type=jnp.float32),
    ],
)
def test_sums_and_products(fn: Any, dtype: Any) -> None:
    # Above zero, so that nothing cancels.
    x, y = (jnp.abs(f32(*shape)).astype(dtype) for shape in ((2, 3, 2), (2, 5)))
    check(fn, x, y, rtol=4 * float(jnp.finfo(dtype).eps))


@settings(max_examples=30, deadline=None)
@given(st.lists(st.sampled_from(["add", "mul", "sub", "max", "neg", "square", "abs"]), max_size=8))
def test_any_chain(ops: list[str]) -> None:
    def fn(x, y):
        for op in ops:
            x = BINARY[op](x, y) if op in BINARY else UNARY[op](x)
        return x * 0.5, y

    check(fn, f32(3, 4), f32(3, 4), rtol=1e-6)


def test_folding_a_batch_norm() -> None:
    def fold(w, scale, bias, mean, var):
        s = scale * lax.rsqrt(var + 1e-3)
        return w * s, bias - mean * s

    args = (f32(3, 3, 4, 8), f32(8), f32(8), f32(8), jnp.abs(f32(8)))
    check(fold, *args, rtol=1e-6)


def test_constants_literals_and_inputs_may_be_results() -> None:
    w = f32(3)
    graph = trace(lambda x: (w, x, 2.0, x + w))(f32(3))
    out = evaluate_with_numpy(graph, [f32(3)], [w])
    np.testing.assert_array_equal(out[0], w)
    np.testing.assert_array_equal(out[3], w + w)
    assert float(out[2]) == 2.0 and out[2].dtype == jnp.float32


REFUSED = {
    "another operation": lambda x: jnp.sin(x),
    "an order of dimensions": lambda x: lax.reshape(x, (4, 3), (1, 0)),
    "integers, whose division rounds towards zero": lambda x: lax.div(x.astype(int), 2),
    "a float that no integer can hold": lambda x: x.astype(jnp.int8),
    "a sum of integers": lambda x: x.astype(bool).astype(int).sum(),
    "a large product": lambda x: jnp.ones((1024, 512)) @ jnp.ones((512, 512)) + x[0, 0],
    "many cases": lambda x: lax.select_n(jnp.int32(1), x, x, x),
    "random bits": lambda x: x + jax.random.normal(jax.random.key(0), x.shape),
    "an effect": lambda x: (jax.debug.print("{}", x), x)[1],
    "a body": lambda x: lax.fori_loop(0, 2, lambda i, y: y * 2, x),
    "several results": lambda x: lax.top_k(x, 2)[0],
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_numpy_does_otherwise_is_refused(what: str) -> None:
    assert split_for_numpy(inline_calls(trace(REFUSED[what])(f32(3, 4))))[0].nodes


def test_what_has_to_be_compiled_comes_first_and_takes_along_what_it_is_made_of() -> None:
    def fn(x: Any, y: Any) -> Any:
        half = x * 0.5
        top, _ = lax.top_k(half + y, 2)
        return top, jnp.exp(y) + half, top.sum() * y

    args = [f32(5), f32(5)]
    graph = inline_calls(trace(fn)(*args))
    first, rest = split_for_numpy(graph)
    assert [node.op for node in first.nodes] == ["mul", "add", "top_k"]
    assert sorted(node.op for node in rest.nodes) == ["add", "exp", "mul", "reduce_sum"]
    handed = evaluate(first, args, [])
    assert len(handed) == 2
    for got, want in zip(evaluate_with_numpy(rest, [*args, *handed], []), fn(*args), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-6)


def test_one_operation_that_is_compiled_costs_the_others_no_precision() -> None:
    """A row looked up beside a bias: a sum of many numbers of one sign, one after the other."""
    rng = np.random.default_rng(0)
    w = jnp.asarray(rng.uniform(0.5, 1, (4096, 3)), jnp.float32)
    table, mean = jnp.asarray(rng.uniform(0, 1, (9, 3)), jnp.float32), jnp.float32(0.3)

    def fn(x: Any) -> Any:
        rows = jnp.sort(table, 0)[jnp.arange(1)]
        return jax.nn.relu(nnops.dense(x - mean, w) + rows)

    fast = jp.optimize(fn)
    x = jnp.zeros((1, 4096))
    assert set(fast.graph(x).count()) == {"dense"}
    assert jp.verify(fn, fast)(x).error < 2e-7


def test_what_rules_make_of_weights_is_rounded_once() -> None:
    rng = np.random.default_rng(0)
    w, scale, var = (rng.uniform(0.5, 2, n).astype("float32") for n in ((64, 32), 32, 32))

    def normalized(x: Any) -> Any:
        y = nnops.dense(x, w)
        return nnops.batch_norm(y, jnp.zeros(32), var, scale, jnp.zeros(32), epsilon=1e-3)

    fast = jp.optimize(normalized)
    folded = fast.graph(jnp.ones((1, 64)))
    assert folded.count() == {"dense": 1}
    # Rows of the identity read the folded kernel out.
    eye = jnp.eye(64)
    wide = [np.asarray(a, np.float64) for a in (w, scale, var)]
    want = (wide[0] * (wide[1] / np.sqrt(wide[2] + np.float32(1e-3)))).astype(np.float32)
    np.testing.assert_array_equal(fast(eye), want)


def test_what_the_user_wrote_is_rounded_at_every_step() -> None:
    """Adding a large number and taking it away again rounds; such code means what it says."""
    w = np.linspace(0.0, 3.0, 7, dtype="float32")

    def rounding(x: Any) -> Any:
        large = lax.full((7,), 2.0**23, jnp.float32)
        return x @ jnp.outer((w + large) - large, jnp.ones(2))

    got = jp.optimize(rounding)(jnp.eye(7))
    np.testing.assert_array_equal(got, np.outer(np.round(w), np.ones(2)))
