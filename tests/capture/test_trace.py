"""Python functions of every kind become graphs."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from programs import PROGRAMS, Pair, f32

from jaxpress.capture import ArgumentError, TraceError, trace
from jaxpress.capture.trace import function_name


def names(values: Any) -> list[str]:
    return [v.name for v in values]


def test_nothing_is_computed() -> None:
    ran = []

    def fn(x):
        jax.debug.callback(lambda v: ran.append(v), x)
        return jax.pure_callback(lambda v: ran.append(v), jax.ShapeDtypeStruct((), x.dtype), x)

    trace(fn)(jax.ShapeDtypeStruct((), jnp.float32))
    jax.effects_barrier()
    assert not ran


def test_shapes_stand_for_arrays() -> None:
    params = {"w": jax.ShapeDtypeStruct((3, 4), jnp.bfloat16), "b": None}
    graph = trace(lambda params, x: x @ params["w"])(
        params, jax.ShapeDtypeStruct((2, 3), "bfloat16")
    )
    assert [(v.shape, v.dtype) for v in graph.outputs] == [((2, 4), jnp.bfloat16)]
    assert (
        graph({"w": jnp.ones((3, 4), "bfloat16"), "b": None}, jnp.ones((2, 3), "bfloat16"))[0, 0]
        == 3
    )


def test_arguments_keep_their_names() -> None:
    def fn(params, *rest, scale=1.0, **more):
        return params["w"].first * scale, rest[0], more["z"]

    graph = trace(fn)({"w": Pair(f32(2), None)}, f32(3), scale=2.0, z=f32(1))
    assert names(graph.inputs) == ["params['w'].first", "rest[0]", "scale", "more['z']"]
    assert graph.signature is not None
    assert graph.signature.result_paths == ("result[0]", "result[1]", "result[2]")
    assert graph.name == "fn"


def test_pytrees_go_in_and_come_out() -> None:
    fn, (x,) = PROGRAMS["pytrees"]()
    out = trace(fn)(x)(2.0)
    assert isinstance(out["z"], Pair)
    assert jax.tree.structure(out) == jax.tree.structure(fn(2.0))
    assert float(out["m"]["n"]) == 4.0


@pytest.mark.parametrize(
    ("fn", "expected"),
    [
        (jnp.sin, "sin"),
        (lambda x: x, "<lambda>"),
        (functools.partial(functools.partial(jnp.add, 1.0)), "add"),
        (np.ndarray.sum, "sum"),
        (type("Model", (), {"__call__": lambda self, x: x})(), "Model"),
        (jax.jit(jnp.cos), "cos"),
    ],
)
def test_any_callable_has_a_name(fn: Any, expected: str) -> None:
    assert function_name(fn) == expected


def test_methods_and_callable_objects() -> None:
    class Model:
        def __init__(self):
            self.w = f32(3)

        def __call__(self, x):
            return x * self.w

        def loss(self, x):
            return self(x).sum()

    model = Model()
    assert names(trace(model)(f32(3)).constants) == ["const0"]
    assert float(trace(model.loss)(f32(3))(f32(3))) == float(model.loss(f32(3)))


# Static arguments.


def branchy(x, mode, *, scale=1):
    return (jnp.sin(x) if mode == "sin" else jnp.cos(x)) * scale


@pytest.mark.parametrize(
    ("static", "args", "kwargs"),
    [
        ({"static_argnums": 1, "static_argnames": "scale"}, ("sin",), {"scale": 3}),
        ({"static_argnums": (1,)}, ("sin",), {"scale": 3}),
        ({"static_argnums": -1}, ("sin",), {"scale": 3}),
        ({"static_argnums": 1}, (), {"mode": "sin", "scale": 3}),
        ({"static_argnames": "mode"}, ("sin",), {"scale": 3}),
        ({"static_argnames": ("mode", "scale")}, (), {"mode": "sin", "scale": 3}),
    ],
)
def test_static_arguments_by_place_or_by_name(static: Any, args: Any, kwargs: Any) -> None:
    graph = trace(branchy, **static)(f32(3), *args, **kwargs)
    np.testing.assert_array_equal(graph(f32(3), *args, **kwargs), jnp.sin(f32(3)) * 3)
    wrong = [("cos",) if args else (), {**kwargs, "mode": "cos"} if "mode" in kwargs else kwargs]
    with pytest.raises(ArgumentError, match="static"):
        graph(f32(3), *wrong[0], **wrong[1])


def test_static_arguments_are_no_inputs() -> None:
    graph = trace(branchy, static_argnums=1)(f32(3), "sin")
    assert names(graph.inputs) == ["x"]
    assert not graph.find("cos")


# What a function closes over.


def test_an_array_closed_over_twice_is_one_constant() -> None:
    w = f32(3)
    graph = trace(lambda x: x * w + w)(f32(3))
    assert len(graph.constants) == 1
    assert graph.constant_value(graph.constants[0]) is w


def test_equal_arrays_that_are_not_the_same_stay_apart() -> None:
    w, v = f32(3), f32(3)
    assert len(trace(lambda x: x * w + v)(f32(3)).constants) == 2


@pytest.mark.parametrize("make", [np.asarray, jnp.asarray])
def test_numpy_and_jax_arrays_are_not_copied(make: Any) -> None:
    w = make(np.arange(3, dtype=np.float32))
    graph = trace(lambda x: lax.mul(x, w) + w)(f32(3))
    (constant,) = graph.constants
    held = graph.constant_value(constant)
    assert held is w or np.shares_memory(held, w)  # JAX wraps NumPy's
    np.testing.assert_array_equal(jax.jit(graph)(f32(3)), jax.jit(lambda x: x * w + w)(f32(3)))


def test_constants_of_nested_bodies() -> None:
    w, v = np.arange(3, dtype=np.float32), f32(3)

    def fn(x):
        inner = jax.jit(lambda y: y * w)
        return jax.jit(lambda y: inner(y) + v)(x), lax.scan(lambda c, _: (c * v, c), x, None, 2)[0]

    graph = trace(fn)(f32(3))
    (outer,) = graph.nodes[0].subgraphs
    (inner,) = outer.nodes[0].subgraphs
    held = [body.constant_value(body.constants[0]) for body in (outer, inner)]
    assert held[0] is v
    assert np.shares_memory(held[1], w)
    # What a loop's body closes over is an operand of the loop.
    assert graph.constant_value(graph.constants[0]) is v
    np.testing.assert_array_equal(graph(f32(3))[0], fn(f32(3))[0])


def test_random_keys_closed_over() -> None:
    key = jax.random.key(7)
    graph = trace(lambda x: x + jax.random.normal(key, (3,)))(f32(3))
    assert str(graph.constants[0].dtype) == "key<fry>"
    np.testing.assert_array_equal(graph(f32(3)), f32(3) + jax.random.normal(key, (3,)))


def test_tracers_closed_over() -> None:
    def outer(w, x):
        graph = trace(lambda y: jnp.sin(y) * w)(x)
        assert len(graph.constants) == 1
        return graph(x).sum()

    w, x = f32(3), f32(3)
    np.testing.assert_array_equal(
        jax.jit(outer)(w, x), jax.jit(lambda w, x: (jnp.sin(x) * w).sum())(w, x)
    )
    np.testing.assert_array_equal(jax.grad(outer)(w, x), jnp.sin(x))
    np.testing.assert_array_equal(jax.vmap(outer, (0, None))(jnp.eye(3), x), jnp.sin(x))


def test_tracing_traced_arguments() -> None:
    seen = []

    @jax.jit
    def fn(x):
        seen.append(trace(jnp.sin)(x))
        return seen[0](x)

    np.testing.assert_array_equal(fn(f32(3)), jax.jit(jnp.sin)(f32(3)))
    # The graph holds no tracer, and can be used afterwards.
    np.testing.assert_array_equal(seen[0](f32(3)), jnp.sin(f32(3)))


def test_weak_types_are_kept() -> None:
    graph = trace(lambda x, h: h * x)(2.0, jnp.ones(2, jnp.bfloat16))
    assert graph.inputs[0].aval.weak_type
    assert graph.outputs[0].dtype == jnp.bfloat16


# Errors.


def branch_on_data(x):
    return x if x > 0 else -x


@pytest.mark.parametrize(
    "fn",
    [
        branch_on_data,
        lambda x: jnp.ones(int(x)),
        lambda x: np.sin(x),
        lambda x: jnp.arange(3.0)[: int(x)],
        lambda x: jnp.arange(3)[jnp.arange(3) > x],
        lambda x: [1, 2, 3][x.astype(int)],
    ],
)
def test_a_function_that_needs_values_says_how_to_mend_it(fn: Any) -> None:
    with pytest.raises(TraceError, match="static_argnums") as caught:
        trace(fn)(1.0)
    assert str(caught.value).startswith(f"{fn.__name__} cannot be traced: ")
    assert caught.value.__cause__ is not None
    assert isinstance(caught.value, TypeError)


def test_the_functions_own_errors_pass_through() -> None:
    def fn(x):
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        trace(fn)(1.0)
    with pytest.raises(TypeError, match="dot_general"):
        trace(jnp.dot)(f32(2), f32(3))


def test_what_is_no_function_is_refused() -> None:
    with pytest.raises(ArgumentError, match="takes a function, got int: 3"):
        trace(3)  # type: ignore[arg-type]
