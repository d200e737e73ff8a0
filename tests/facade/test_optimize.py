"""``optimize``: a function in, the same function out, under every transformation."""

from __future__ import annotations

import gc
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import jaxpress as jp
from helpers import array
from jaxpress.capture import Graph
from jaxpress.weights import PreparedWeights

W1, W2 = array(3, 4), array(4, 3, seed=2)
X = array(2, 3, seed=3)


def net(x):
    return jax.nn.relu(x @ W1 + 1.0) @ W2


def param_net(params, x):
    return jax.nn.relu((x @ params["w"]) * params["s"] + params["b"])


def parameters(seed: int = 0) -> dict[str, jax.Array]:
    return {"w": array(3, 4, seed=seed), "s": array(4, seed=seed), "b": array(4, seed=seed + 1)}


def close(a: Any, b: Any) -> None:
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=2e-5, atol=1e-6), a, b)


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Counts how often weights are prepared."""
    counted: list[int] = []
    prepare = PreparedWeights.__call__

    def count(self: PreparedWeights, weights: list[Any]) -> list[Any]:
        inner = self._prepare

        def counting(given: list[Any]) -> list[Any]:
            counted.append(1)
            return inner(given)

        self._prepare = counting
        try:
            return prepare(self, weights)
        finally:
            self._prepare = inner

    monkeypatch.setattr(PreparedWeights, "__call__", count)
    return counted


# Transformations.

TRANSFORMED = {
    "plain": lambda f: f,
    "jit": jax.jit,
    "grad": lambda f: jax.grad(lambda x: f(x).sum()),
    "jit of grad": lambda f: jax.jit(jax.grad(lambda x: f(x).sum())),
    "grad of jit": lambda f: jax.grad(lambda x: jax.jit(f)(x).sum()),
    "hessian": lambda f: jax.hessian(lambda x: (f(x) ** 2).sum()),
    "jvp": lambda f: lambda x: jax.jvp(f, (x,), (x * 0.5,)),
    "vmap": lambda f: lambda x: jax.vmap(f)(jnp.stack([x, 2 * x])),
    "jit of vmap": lambda f: lambda x: jax.jit(jax.vmap(f))(jnp.stack([x, 2 * x])),
    "scan": lambda f: lambda x: lax.scan(lambda c, _: (f(c), f(c).sum()), x, None, length=3),
    "cond": lambda f: lambda x: lax.cond(x.sum() > 0, f, lambda y: y, x),
    "remat": jax.checkpoint,
    "optimize": jp.optimize,
}


@pytest.mark.parametrize("how", TRANSFORMED)
def test_under(how: str) -> None:
    transform = TRANSFORMED[how]
    close(transform(jp.optimize(net))(X), transform(net)(X))


def test_inlined_under_jit() -> None:
    fast = jp.optimize(net)
    text = str(jax.make_jaxpr(fast)(X))
    assert text.count("dense[") == 2 and "jit[" not in text


def test_export() -> None:
    shape = jax.ShapeDtypeStruct(jax.export.symbolic_shape("batch, 3"), jnp.float32)
    fast = jp.optimize(net)
    for exported in (fast.export(shape), jax.export.export(jax.jit(fast))(shape)):
        close(exported.call(array(7, 3)), net(array(7, 3)))


def test_lower() -> None:
    lowered = jp.optimize(net).lower(X)
    assert isinstance(lowered, jax.stages.Lowered)
    close(lowered.compile()(X), net(X))


def test_shard_map() -> None:
    mesh = jax.make_mesh((1,), ("i",), axis_types=(jax.sharding.AxisType.Auto,))
    spec = jax.sharding.PartitionSpec("i")
    wrap = lambda f: jax.shard_map(f, mesh=mesh, in_specs=spec, out_specs=spec)  # noqa: E731
    close(wrap(jp.optimize(net))(X), net(X))
    for check_vma, left in ((False, {"shard_map": 1, "dense": 2}), (True, {"shard_map": 1})):
        mapped = jax.shard_map(net, mesh=mesh, in_specs=spec, out_specs=spec, check_vma=check_vma)
        outside = jp.optimize(mapped)  # the rules go into its body
        assert left.items() <= outside.graph(X).count().items()
        close(outside(X), net(X))
        close(jax.grad(lambda x: outside(x).sum())(X), jax.grad(lambda x: net(x).sum())(X))  # noqa: B023


@pytest.mark.parametrize("how", ["grad", "jit", "vmap"])
def test_closed_over_tracers(how: str) -> None:
    def outer(make, w, x):
        return make(lambda y: jax.nn.relu(y @ w + 1.0).sum())(x)

    def run(make):
        match how:
            case "grad":
                return jax.grad(lambda w: outer(make, w, X))(W1)
            case "jit":
                return jax.jit(lambda w: outer(make, w, X))(W1)
            case _:
                return jax.vmap(lambda w: outer(make, w, X))(jnp.stack([W1, 2 * W1]))

    close(run(jp.optimize), run(lambda f: f))


def test_one_optimized_function_closes_over_other_tracers_each_time() -> None:
    holder: list[Any] = []
    fast = jp.optimize(lambda x: x @ holder[-1])

    def loss(w):
        holder.append(w)
        return fast(X).sum()

    close(jax.grad(loss)(W1), jax.grad(lambda w: (X @ w).sum())(W1))
    close(jax.grad(loss)(2 * W1), jax.grad(lambda w: (X @ w).sum())(W1))


# Weights.


def test_same_weights_are_prepared_once(runs: list[int]) -> None:
    traces = []

    def fn(params, x):
        traces.append(1)
        return param_net(params, x)

    fast = jp.optimize(fn, weight_argnums=(0,))
    first, second = parameters(0), parameters(5)
    for params, prepared in ((first, 1), (first, 1), (second, 2), (second, 2), (first, 3)):
        close(fast(params, X), param_net(params, X))
        assert len(runs) == prepared
    assert len(traces) == 1


def test_a_new_pytree_of_the_same_arrays_is_the_same_weights(runs: list[int]) -> None:
    fast, params = jp.optimize(param_net, weight_argnums=0), parameters()
    fast(params, X)
    fast(dict(params), X)
    fast(x=X, params=params)
    fast(x=X, params=params)
    # By keyword it is another structure, with a program of its own.
    assert len(runs) == 2


def test_numpy_weights_may_change_in_place() -> None:
    fast = jp.optimize(param_net, weight_argnums=0)
    params = {k: np.array(v) for k, v in parameters().items()}
    close(fast(params, X), param_net(params, X))
    params["w"] *= 2
    params["s"][1] = 0
    close(fast(params, X), param_net(params, X))


def test_weights_are_held_weakly(runs: list[int]) -> None:
    fast, params = jp.optimize(param_net, weight_argnums=0), parameters()
    fast(params, X)
    (program,) = fast._programs.values()
    assert program.weights._last
    del params
    gc.collect()
    assert not program.weights._last


def test_prepared_weights_are_arguments_of_the_program() -> None:
    big = array(400, 400)
    fast = jp.optimize(lambda x: jax.nn.relu((x @ big) * 2.0))
    x = array(2, 400)
    fast(x)
    (program,) = fast._programs.values()
    prepared = program.prepared([x])
    text = program.compiled.lower(program.constants, prepared, [x]).as_text()
    assert "dense<" not in text.replace("dense<2.0", "").replace("dense<0.0", "")
    assert prepared[0].shape == (400, 400)


def test_what_depends_on_nothing_is_compiled_with_the_rest(caplog: Any) -> None:
    """An interpolation's weights are made of ramps; one by one they would be 40 programs."""

    def fn(x: Any) -> Any:
        return jax.image.resize(x, (1, 6, 7, 3), "bilinear") + net(X).sum()

    x = array(1, 3, 5, 3)
    with jax.log_compiles(), caplog.at_level("WARNING"):
        y = jp.optimize(fn)(x)
        fast = [r for r in caplog.messages if "Finished XLA compilation" in r]
        caplog.clear()
        jp.verify(fn, lambda x: y)(x)
        checked = [r for r in caplog.messages if "Finished XLA compilation" in r]
    assert 1 <= len(fast) <= 3 and 1 <= len(checked) <= 3, (fast, checked)


def test_gradients_with_respect_to_weights() -> None:
    fast, params = jp.optimize(param_net, weight_argnums=0), parameters()
    loss = lambda f: lambda p: (f(p, X) ** 2).sum()  # noqa: E731
    close(jax.grad(loss(fast))(params), jax.grad(loss(param_net))(params))
    close(jax.jit(jax.grad(loss(fast)))(params), jax.grad(loss(param_net))(params))


def test_without_declared_weights_nothing_is_folded() -> None:
    graph = jp.optimize(param_net).graph(parameters(), X)
    assert graph.prologue is None and graph.count()["mul"] == 1


# Signatures.


class Pair(NamedTuple):
    a: Any
    b: Any


def test_pytrees() -> None:
    def fn(pair, extra=None, *, flag=None):
        return {"sum": Pair(pair.a + 1, None), "rest": [pair.b * 2, extra]}

    fast = jp.optimize(fn)
    for args, kwargs in (((Pair(X, X),), {}), ((Pair(X, X), X), {}), ((Pair(X, X),), {"flag": X})):
        expected, got = fn(*args, **kwargs), fast(*args, **kwargs)
        assert jax.tree.structure(expected) == jax.tree.structure(got)
        close(expected, got)


def test_static_arguments() -> None:
    def fn(x, n, mode="up"):
        return x * n if mode == "up" else x / n

    fast = jp.optimize(fn, static_argnums=1, static_argnames="mode")
    close(fast(X, 2), X * 2)
    close(fast(X, 3, mode="down"), X / 3)
    assert len(fast._programs) == 2
    close(jp.optimize(fn, static_argnames=("n", "mode"))(X, 3, "down"), X / 3)


@pytest.mark.parametrize(
    "args",
    [
        (np.float32(2.0),),
        (2.0,),
        (3,),
        (True,),
        (jnp.zeros((0, 3)),),
        (jnp.arange(4),),
        (jnp.ones(3, jnp.bfloat16),),
        (jnp.ones(2) + 1j,),
    ],
)
def test_inputs_of_every_kind(args: tuple[Any, ...]) -> None:
    fn = lambda x: (x + x, jnp.sum(x))  # noqa: E731
    expected, got = jax.jit(fn)(*args), jp.optimize(fn)(*args)
    for a, b in zip(expected, got, strict=True):
        assert a.dtype == b.dtype and a.weak_type == b.weak_type
        np.testing.assert_array_equal(a, b)


def test_other_shapes_are_traced_anew() -> None:
    fast = jp.optimize(net)
    for n in (1, 2, 1, 5):
        assert fast(array(n, 3)).shape == (n, 3)
    assert len(fast._programs) == 3


def test_functions_without_work() -> None:
    assert float(jp.optimize(lambda: 2.0)()) == 2.0
    close(jp.optimize(lambda x: (x, W1))(X), (X, W1))
    close(jp.optimize(lambda: jnp.tanh(W1))(), jnp.tanh(W1))


def test_random_numbers_are_the_same() -> None:
    fn = lambda key: jax.random.normal(key, (5,)) + jax.random.uniform(jax.random.key(1))  # noqa: E731
    close(jp.optimize(fn)(jax.random.key(7)), fn(jax.random.key(7)))


def test_effects_keep_their_order(capfd: pytest.CaptureFixture[str]) -> None:
    def fn(x):
        jax.debug.print("first {}", x.sum(), ordered=True)
        y = jnp.tanh(x)
        jax.debug.print("second {}", y.sum(), ordered=True)
        return y

    jax.block_until_ready(jp.optimize(fn)(X))
    jax.effects_barrier()
    out = capfd.readouterr().out
    assert out.index("first") < out.index("second")


def test_x64() -> None:
    with jax.enable_x64(True):
        x = jnp.ones((2, 3), jnp.float64)
        fast = jp.optimize(lambda x: jax.nn.gelu(x @ jnp.ones((3, 4))))
        assert fast(x).dtype == jnp.float64
        (node,) = fast.graph(x).find("dense")
        assert str(node.params["activation"]).startswith("gelu")
    assert jp.optimize(net)(X).dtype == jnp.float32


# Choices and mistakes.


@pytest.mark.parametrize(
    "passes",
    [None, "default", "inference", "cleanup", ["inline", "dce"], jp.passes.default[:4], []],
)
def test_passes(passes: Any) -> None:
    close(jp.optimize(net, passes=passes)(X), net(X))


def test_a_function_of_graphs_is_a_pass() -> None:
    seen: list[Graph] = []
    fast = jp.optimize(net, passes=[lambda graph: seen.append(graph) or graph])
    close(fast(X), net(X))
    assert len(seen) == 1


def test_kernels() -> None:
    x, w = array(1, 8, 8, 4), array(3, 3, 1, 4)

    def fn(x):
        return lax.conv_general_dilated(
            x, w, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"), feature_group_count=4
        )

    for kernels, expected in (
        ("reference", "reference"),
        ({"conv": "depthwise_shifted"}, "depthwise_shifted"),
        ({"conv": ("pointwise_dot", "depthwise_shifted")}, "depthwise_shifted"),
    ):
        fast = jp.optimize(fn, kernels=kernels)
        (node,) = fast.graph(x).find("conv")
        assert node.params["kernel"] == expected
        close(fast(x), fn(x))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"passes": "fastest"}, "fastest"),
        ({"passes": ["inline", "nonsense"]}, "nonsense"),
        ({"kernels": {"conv": "magic"}}, "magic"),
        ({"kernels": {"convolve": "reference"}}, "convolve"),
        ({"kernels": 3}, "kernels"),
    ],
)
def test_unknown_names_are_refused_at_once(options: dict[str, Any], message: str) -> None:
    with pytest.raises(jp.PassError, match=message):
        jp.optimize(net, **options)


def test_what_is_no_function() -> None:
    with pytest.raises(jp.ArgumentError, match="positions of arguments"):
        jp.optimize(net, weight_argnums="x")  # type: ignore[arg-type]
    with pytest.raises(jp.ArgumentError, match="takes a function"):
        jp.optimize(3)  # type: ignore[arg-type]


def test_an_untraceable_function_is_named() -> None:
    def branches(x):
        return x if x.sum() > 0 else -x

    with pytest.raises(jp.TraceError, match=r"branches cannot be traced[\s\S]*lax.cond"):
        jp.optimize(branches)(X)


def test_verify_finds_a_broken_pass() -> None:
    def break_it(graph: Graph) -> Graph:
        with graph.edit() as editor:
            editor.insert_after(graph.outputs[0], lambda y: y * 1.001)
        return editor.graph

    broken = jp.optimize(net, passes=[break_it], verify=True)
    for _ in range(2):  # a second call is no better than the first
        with pytest.raises(jp.VerificationError, match="above"):
            broken(X)
    close(jp.optimize(net, verify=True)(X), net(X))


def test_models_need_not_be_hashable() -> None:
    class Model:
        __hash__ = None  # type: ignore[assignment]

        def __call__(self, x):
            return net(x)

    fast = jp.optimize(Model())
    close(fast(X), net(X))
    assert fast.__name__ == "Model"
    jp.verify(Model(), fast)(X)
