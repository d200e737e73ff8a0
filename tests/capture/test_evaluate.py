"""A graph is the function that it was captured from, under every transformation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jaxprs import difference, rebuild, same_bits
from programs import PROGRAMS, f32

from jaxpress.capture import ArgumentError, Graph, GraphError, trace
from jaxpress.capture.evaluate import last_uses

# JAX prints a body that both branches share only once; rebuilt, it is two equal ones. And when an
# equation with a derivative rule is bound again, JAX turns what its function closes over into
# arguments, and does not print their number any more.
PRINTED_APART = {"cond_of_one_body_twice", "gradient_of_custom_derivatives"}


@pytest.mark.parametrize("name", PROGRAMS)
def test_lowering_gives_the_same_jaxpr(name: str) -> None:
    fn, args = PROGRAMS[name]()
    original = jax.make_jaxpr(fn)(*args)
    graph = trace(fn)(*args)
    for mode in (graph, rebuild(graph)):
        lowered = mode.to_jaxpr()
        assert not difference(original, lowered)
        if mode is graph or name not in PRINTED_APART:
            assert str(original) == str(lowered)


def test_difference_sees_every_kind_of_change() -> None:
    """The comparison above is only worth something if it can fail."""
    x = jnp.ones(3)
    w = jnp.arange(3.0)

    def base(x, y):
        with jax.named_scope("a"):
            return jnp.sin(x) * 2.0, lax.scan(lambda c, _: (c + y, c), x, None, length=2)

    def scoped(x, y):
        with jax.named_scope("b"):
            return jnp.sin(x) * 2.0, lax.scan(lambda c, _: (c + y, c), x, None, length=2)

    others = {
        "op": lambda x, y: (jnp.cos(x) * 2.0, base(x, y)[1]),
        "literal": lambda x, y: (jnp.sin(x) * 3.0, base(x, y)[1]),
        "operand": lambda x, y: (jnp.sin(y) * 2.0, base(x, y)[1]),
        "param": lambda x, y: (base(x, y)[0], lax.scan(lambda c, _: (c + y, c), x, None, length=3)),
        "body": lambda x, y: (base(x, y)[0], lax.scan(lambda c, _: (c - y, c), x, None, length=2)),
        "more": lambda x, y: (jnp.sin(x) * 2.0 + 1, base(x, y)[1]),
        "scope": scoped,
        "source line and names": lambda x, y: base(x, y),
        "output": lambda x, y: base(x, y)[::-1],
    }
    want = jax.make_jaxpr(base)(x, x)
    assert not difference(want, jax.make_jaxpr(base)(x, x))
    for what, fn in others.items():
        assert difference(want, jax.make_jaxpr(fn)(x, x)), what
    assert difference(want, jax.make_jaxpr(base)(x, jnp.float32(1)))
    weak, strong = jax.make_jaxpr(jnp.sin)(1.0), jax.make_jaxpr(jnp.sin)(jnp.float32(1))
    assert difference(weak, strong)
    closing = [jax.make_jaxpr(lambda x, w=w: x + w)(x) for w in (w, w + 1)]
    assert difference(*closing)
    printing = [
        jax.make_jaxpr(lambda x, o=o: jax.debug.print("{}", x, ordered=o))(x) for o in (0, 1)
    ]
    assert difference(*printing)


TRANSFORMS: dict[str, Callable[[Callable[..., Any], tuple[Any, ...]], Any]] = {}


def transform(fn: Callable[..., Any]) -> Callable[..., Any]:
    TRANSFORMS[fn.__name__] = fn
    return fn


def is_float(x: Any) -> bool:
    return jnp.issubdtype(jax.typeof(x).dtype, jnp.floating)


def total(fn: Callable[..., Any]) -> Callable[..., Any]:
    def loss(*args: Any) -> Any:
        floats = [jnp.asarray(x) for x in jax.tree.leaves(fn(*args)) if is_float(x)]
        return sum((x.astype(jnp.float32).sum() for x in floats), start=jnp.float32(0))

    return loss


@transform
def jit(fn, args):
    return fn, args


@transform
def grad(fn, args):
    leaves, tree = jax.tree.flatten(args)
    places = [i for i, leaf in enumerate(leaves) if is_float(leaf)]

    def of_floats(*floats):
        full = list(leaves)
        for i, x in zip(places, floats, strict=True):
            full[i] = x
        return total(fn)(*jax.tree.unflatten(tree, full))

    return jax.grad(of_floats, tuple(range(len(places)))), [leaves[i] for i in places]


@transform
def jvp_of_grad(fn, args):
    gradient, floats = grad(fn, args)
    return lambda *x: jax.jvp(gradient, x, x), floats


@transform
def vmap(fn, args):
    return jax.vmap(fn), jax.tree.map(lambda x: jnp.stack([x, x]), args)


@transform
def scan(fn, args):
    return lambda *a: lax.scan(lambda c, _: (c, fn(*a)), 0.0, None, length=2), args


@transform
def remat(fn, args):
    return jax.checkpoint(fn), args


@pytest.mark.parametrize("name", [name for name in PROGRAMS if PROGRAMS[name]()[1]])
def test_transformations_give_the_same_program(name: str) -> None:
    """Traced anew under each, the graph gives XLA what the function gives it.

    Where the function cannot be transformed so, the graph cannot either. Where equations come in
    another order (JAX numbers what a loop closes over by first use), the results are compared.
    """
    fn, args = PROGRAMS[name]()
    graph = trace(fn)(*args)
    for kind, apply in TRANSFORMS.items():
        want = attempt(*apply(fn, args))
        for mode in (graph, rebuild(graph)):
            got = attempt(*apply(mode, args))
            if isinstance(want, Exception):
                assert type(got) is type(want), kind
            elif isinstance(got, Exception):
                raise got
            elif want.as_text() != got.as_text():
                arrays = jax.tree.leaves(list(apply(fn, args)[1]))
                same_bits(run(want, arrays), run(got, arrays))


def attempt(fn: Callable[..., Any], args: Any) -> Any:
    def program(*flat: Any) -> Any:
        return fn(*jax.tree.unflatten(tree, flat))

    flat, tree = jax.tree.flatten(tuple(args))
    try:
        return jax.jit(program).lower(*flat)
    except Exception as error:
        return error


def run(lowered: Any, args: list[Any]) -> Any:
    quick = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
    return lowered.compile(compiler_options=quick)(*args)


@pytest.mark.parametrize(
    "name", ["weak_types", "random_keys", "odd_outputs", "pytrees", "nothing_at_all", "shared_jit"]
)
def test_eager_results_are_the_same_to_the_bit(name: str) -> None:
    fn, args = PROGRAMS[name]()
    same_bits(fn(*args), trace(fn)(*args)(*args))
    same_bits(jax.jit(fn)(*args), jax.jit(rebuild(trace(fn)(*args)))(*args))


# Bodies with arrays of their own.

BODIES = {
    "jit": jax.jit(lambda x: x * 2),
    "scan": lambda x: lax.scan(lambda c, _: (c * 2, c + 3), x, None, length=2),
    "cond": lambda x: lax.cond(x[0] > 0, lambda c: c * 2, lambda c: c * 3, x),
    "while": lambda x: lax.while_loop(lambda c: c.sum() < 30, lambda c: c * 2, x),
    "custom_jvp_call": jax.nn.relu,
    "remat2": jax.checkpoint(lambda x: jnp.sin(x * 2)),
}


def with_bodies_that_add(graph: Graph, array: Any) -> Graph:
    """The graph, with ``array`` added to the first float vector that each body computes."""
    (node,) = [node for node in graph.nodes if node.subgraphs]
    bodies = []
    for body in node.subgraphs:
        with body.edit() as editor:
            for inner in body.nodes:
                if inner.outputs[0].shape == array.shape:
                    editor.insert_after(inner.outputs[0], lambda y: y + array)
                    break
        bodies.append(editor.graph)
    with graph.edit() as editor:
        editor.exchange(node, node.with_subgraphs(bodies))
    return editor.graph


@pytest.mark.parametrize("kind", BODIES)
def test_a_body_may_gain_a_constant(kind: str) -> None:
    x, array = 1 + jnp.arange(3.0), jnp.array([0.5, 1.0, 2.0])
    graph = with_bodies_that_add(trace(BODIES[kind])(x), array)
    if kind == "remat2":
        with pytest.raises(GraphError, match=r"remat2 .*gained array constants"):
            graph(x)
        return
    want = {
        "jit": lambda x: x * 2 + array,
        "scan": lambda x: lax.scan(lambda c, _: (c * 2 + array, c + 3), x, None, length=2),
        "cond": lambda x: x * 2 + array,
        "while": lambda x: lax.while_loop(lambda c: c.sum() < 30, lambda c: c * 2 + array, x),
        "custom_jvp_call": lambda x: x + array,
    }[kind]
    same_bits(want(x), graph(x))
    same_bits(jax.jit(want)(x), jax.jit(graph)(x))
    if kind != "custom_jvp_call":  # differentiated, its rule takes the place of its body
        same_bits(jax.jvp(want, (x,), (x,)), jax.jvp(graph, (x,), (x,)))
    same_bits(jax.vmap(want)(x[None]), jax.vmap(graph)(x[None]))


# Arguments.


def test_a_body_is_called_with_flat_arrays() -> None:
    fn, (x,) = PROGRAMS["shared_jit"]()
    (body,) = trace(fn)(x).nodes[0].subgraphs
    same_bits([jnp.sin(x) * 2], body(x))
    with pytest.raises(ArgumentError, match="is a body"):
        body(x=x)
    with pytest.raises(ArgumentError, match="takes 1 flat inputs, got 2"):
        body(x, x)


@pytest.mark.parametrize("wrong", [f32(2), f32(1, 3), np.arange(3), 1.0])
def test_an_argument_of_another_type_is_refused(wrong: Any) -> None:
    graph = trace(lambda first, second: first + second["w"])(f32(3), {"w": f32(3)})
    with pytest.raises(ArgumentError, match=r"argument second\['w'\] of <lambda>.*f32\[3\]"):
        graph(f32(3), {"w": wrong})


def test_numpy_arrays_and_numbers_are_taken_as_jax_takes_them() -> None:
    graph = trace(jnp.multiply)(f32(3), 2)
    same_bits(jnp.multiply(f32(3), 5), graph(np.arange(3) * 0 + np.asarray(f32(3)), 5))
    assert graph(f32(3), np.int32(5)).dtype == jnp.float32


def test_last_uses() -> None:
    graph = trace(lambda x, y: (jnp.sin(x) + x, x * 2))(1.0, 2.0)
    x, y = graph.inputs
    sin, add, mul = graph.nodes
    assert last_uses(graph) == [[], [sin.output], [x]]
    assert y not in {v for dying in last_uses(graph) for v in dying}
    assert not {add.output, mul.output} & {v for dying in last_uses(graph) for v in dying}
