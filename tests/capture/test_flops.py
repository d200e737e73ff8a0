"""How many operations each kind of node takes, against XLA's own count and by hand."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import export, lax
from programs import f32

from jaxpress.capture import Value, trace
from jaxpress.capture.flops import has_rule, is_symbolic, known, nbytes, own_flops, size

SMALL = st.integers(1, 4)


def flops(fn: Any, *args: Any) -> int:
    return trace(fn)(*args).cost().flops


def xla_flops(fn: Any, *args: Any) -> float:
    """XLA's count, before it optimises anything."""
    analysis = jax.jit(fn).lower(*args).cost_analysis()
    return analysis.get("flops", 0.0)


@settings(max_examples=20, deadline=None)
@given(SMALL, SMALL, SMALL, SMALL)
def test_products_cost_what_xla_says(b: int, m: int, k: int, n: int) -> None:
    x, y = f32(b, m, k), f32(b, k, n)
    assert flops(jnp.matmul, x, y) == xla_flops(jnp.matmul, x, y) == 2 * b * m * k * n


@settings(max_examples=20, deadline=None)
@given(
    st.sampled_from([1, 2, 4]), SMALL, st.integers(1, 3), st.integers(1, 2), st.sampled_from("gb")
)
def test_convolutions_cost_what_xla_says(
    groups: int, batch: int, window: int, stride: int, kind: str
) -> None:
    """XLA leaves out taps on the padding, so that there is none here."""
    if kind == "b":
        x, w = f32(4 * batch, 7, 6, 4), f32(window, 1, 4, 4)
        more = {"batch_group_count": groups}
    else:
        x, w = f32(batch, 7, 6, 4), f32(window, 1, 4 // groups, 8)
        more = {"feature_group_count": groups}

    def fn(x, w):
        numbers = ("NHWC", "HWIO", "NHWC")
        return lax.conv_general_dilated(
            x, w, (stride, 1), "VALID", dimension_numbers=numbers, **more
        )

    out = jax.eval_shape(fn, x, w).size
    assert flops(fn, x, w) == 2 * out * window * w.shape[2]
    if kind == "g":  # XLA's own count of batch groups is of something else
        assert flops(fn, x, w) == xla_flops(fn, x, w)


def test_padding_counts_and_a_dilated_inputs_zeros_do_not() -> None:
    x, w = f32(1, 8, 8, 2), f32(3, 3, 2, 4)

    def same(x, w):
        return lax.conv(jnp.moveaxis(x, -1, 1), jnp.moveaxis(w, (3, 2), (0, 1)), (1, 1), "SAME")

    def transposed(x, w):
        return lax.conv_transpose(x, w, (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))

    assert flops(same, x, w) == 2 * 8 * 8 * 4 * 9 * 2
    # Four times as many results, each with a quarter of the taps.
    assert flops(transposed, x, w) == 2 * 8 * 8 * 4 * 9 * 2


@pytest.mark.parametrize("op", ["sin", "exp", "negative", "isfinite", "abs", "floor"])
def test_elementwise_functions_cost_one_an_element(op: str) -> None:
    assert flops(getattr(jnp, op), f32(3, 5)) == 15


COSTS: dict[str, tuple[Any, tuple[Any, ...], int]] = {
    "add": (lambda x, y: x + y, ((3, 5), (3, 5)), 15),
    "broadcast": (
        lambda x, y: lax.add(x, lax.broadcast_in_dim(y, (3, 5), (1,))),
        ((3, 5), (5,)),
        15,
    ),
    "select": (lambda x: lax.select(x > 0, x, -x), ((6,),), 18),
    "power": (lambda x: x**3, ((6,),), 6),
    "reduce": (lambda x: (x.sum(1), x.max(), jnp.argmin(x, 0)), ((3, 5),), 45),
    "reduce by hand": (lambda x: lax.reduce(x, 0.0, lambda a, b: a + 2 * b, (0,)), ((3, 5),), 30),
    "cumulative": (lambda x: jnp.cumsum(x, 1) + lax.cumlogsumexp(x), ((3, 5),), 45),
    "pool": (lambda x: lax.reduce_window(x, 0.0, lax.add, (2, 2), (1, 1), "VALID"), ((3, 5),), 32),
    "sort": (jnp.sort, ((3, 8),), 3 * 8 * 3),
    "sort one": (jnp.sort, ((1,),), 1),
    "top_k": (lambda x: lax.top_k(x, 4), ((3, 8),), 48),
    "fft": (lambda x: jnp.fft.fft(x + 0j), ((2, 8),), 2 * 5 * 8 * 3 + 16),
    "rfft": (jnp.fft.rfft, ((2, 8),), 5 * 8 * 3),
    "irfft": (lambda x: lax.fft(lax.complex(x, x), "irfft", (8,)), ((2, 5),), 5 * 8 * 3 + 10),
    "movement": (lambda x: x.reshape(5, 3).T[::2, 1:].astype(int), ((3, 5),), 0),
    "gather": (lambda x: x[jnp.arange(2)], ((3, 5),), 6),
    "scatter": (lambda x: lax.dynamic_update_slice(x, x[:2], (1,)), ((5,),), 0),
    "scatter-add": (lambda x: x.at[1:3].add(1.0), ((5,),), 2),
    "scan": (lambda x: lax.scan(lambda c, y: (c * y, c), 1.0, x)[0], ((7,),), 7),
    "cond": (lambda x: lax.cond(True, jnp.sin, lambda y: y * y + y, x), ((5,),), 10),
    "remat": (jax.checkpoint(jnp.sin), ((5,),), 5),
    "custom_jvp": (jax.nn.relu, ((5,),), 5),
    "jit": (jax.jit(jax.jit(jnp.sin)), ((5,),), 5),
}


@pytest.mark.parametrize("what", COSTS)
def test_costs_by_hand(what: str) -> None:
    fn, shapes, expected = COSTS[what]
    cost = trace(fn)(*(f32(*shape) for shape in shapes)).cost()
    assert cost.flops == expected
    assert not any("not counted" in note for note in cost.notes)


@pytest.mark.parametrize(
    ("fn", "op", "expected"),
    [
        (jnp.linalg.cholesky, "cholesky", 6**3 / 3),
        (jax.scipy.linalg.lu_factor, "lu", 6**3 * 2 / 3),
        (lambda a: jax.scipy.linalg.solve_triangular(a, a[:, 0]), "triangular_solve", 6 * 6),
        (jnp.linalg.svd, "svd", 21 * 6**3),
        (jax.vmap(jnp.linalg.eigvalsh), "eigh", 9 * 6 * 3**3),
    ],
)
def test_factorisations_cost_their_leading_term(fn: Any, op: str, expected: float) -> None:
    x = f32(6, 6) if op != "eigh" else f32(6, 3, 3)
    assert trace(fn)(x).cost().flops_by_op[op] == expected


def test_sizes() -> None:
    n, m = export.symbolic_shape("n, m")
    value = Value("x", jax.core.ShapedArray((n, 3, 4, m), jnp.bfloat16))
    assert is_symbolic(value) and size(value) == 12 and nbytes(value) == 24
    assert (known(5), known(n), known(n * 2 + 1)) == (5, 1, 1)
    plain = Value("y", jax.typeof(f32(3, 0)))
    assert not is_symbolic(plain) and nbytes(plain) == 0
    assert nbytes(Value("k", jax.typeof(jax.random.key(0)))) == 8
    assert nbytes(Value("r", jax.typeof(jax.new_ref(f32(3))))) == 12
    assert nbytes(Value("t", jax.typeof(lax.create_token()))) == 0
    mul = trace(lambda x: x * 2.0)(f32(3)).nodes[0]
    assert [nbytes(v) for v in mul.inputs] == [12, 0]


def test_there_is_no_rule_for_what_is_not_elementwise() -> None:
    spec = jax.ShapeDtypeStruct((3,), jnp.float32)
    (call,) = trace(lambda x: jax.pure_callback(lambda v: v, spec, x))(f32(3)).nodes
    assert own_flops(call) is None
    assert has_rule("dot_general") and has_rule("reshape") and not has_rule("jit")
