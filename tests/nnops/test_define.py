"""What `define` promises of any op: it works wherever a plain JAX function does."""

import functools
import os
import subprocess
import sys

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import checkify

from jaxpress import nnops


@pytest.fixture
def define():
    """`nnops.define`, whose ops are gone after the test."""
    made = []

    def make(name, *args, **kwargs):
        made.append(name)
        return nnops.define(name, *args, **kwargs)

    yield make
    for name in made:
        nnops.ops.pop(name, None)


def _affine(x, s, t=None, *, power):
    y = x**power * s
    return y if t is None else y + t


@pytest.fixture
def affine(define):
    """An op with an optional operand, a parameter, a kernel, and every general rule."""
    kernel = nnops.Kernel(
        "repeated",
        lambda x, s, t=None, *, power: (
            jnp.prod(jnp.stack([x] * power), 0) * s + (0 if t is None else t)
        ),
        lambda params, operands: params["power"] > 1 and operands["x"].ndim > 0,
    )
    op = define(
        "affine",
        _affine,
        operands=("x", "s"),
        optional=("t",),
        defaults={"power": 2},
        kernels=[kernel],
    )
    return op


def _draw(rng, shape):
    return rng.uniform(0.5, 2.0, size=shape)


@pytest.mark.parametrize("kernel", ["reference", "repeated"])
def test_every_transformation_with_the_general_rules(affine, agree, kernel):
    agree(
        lambda x, s, t: affine.rebind({"x": x, "s": s, "t": t}, power=3, kernel=kernel),
        lambda x, s, t: _affine(x, s, t, power=3),
        (2, 3),
        (2, 3),
        (2, 3),
        draw=_draw,
        batch=kernel == "reference",
    )


def test_parameters_read_well_and_vmap_keeps_a_record(affine):
    f = lambda x, s: affine.rebind({"x": x, "s": s})  # noqa: E731
    (eqn,) = jax.make_jaxpr(f)(jnp.ones(3), jnp.ones(3)).eqns
    assert eqn.primitive is affine.primitive
    assert eqn.params == {"power": 2, "kernel": "reference", "operands": ("x", "s")}
    g = jax.vmap(jax.vmap(f, (0, None)), (None, 1))
    (eqn,) = jax.make_jaxpr(g)(jnp.ones((4, 3)), jnp.ones((3, 5))).eqns
    assert eqn.params["mapped"] == ((0, None), (None, 1))
    assert eqn.outvars[0].aval.shape == (5, 4, 3)


def test_several_results(define):
    op = define("pair", lambda x: (x * 2, jnp.sin(x), x.astype(jnp.int32)), multiple_results=True)
    f = lambda x: op.rebind({"x": x})  # noqa: E731
    plain = lambda x: (x * 2, jnp.sin(x), x.astype(jnp.int32))  # noqa: E731
    x, dx = jnp.array([0.5, 2.0]), jnp.array([1.0, -1.0])
    for fn in (lambda f: f(x), lambda f: jax.vmap(f)(x), lambda f: jax.jit(f)(x)):
        for got, want in zip(fn(f), fn(plain), strict=True):
            np.testing.assert_array_equal(got, want)
    for got, want in zip(jax.jvp(f, (x,), (dx,))[1], jax.jvp(plain, (x,), (dx,))[1], strict=True):
        assert got.dtype == want.dtype
        np.testing.assert_array_equal(got, want)
    # Only the second result has a cotangent.
    np.testing.assert_allclose(jax.grad(lambda x: f(x)[1].sum())(x), np.cos(x), rtol=1e-6)


def test_linear_ops_are_transposed(define):
    op = define("halves", lambda x: (x + jnp.flip(x), x * 3), linear=True, multiple_results=True)
    f = lambda x: tuple(op.rebind({"x": x}))  # noqa: E731
    plain = lambda x: (x + jnp.flip(x), x * 3)  # noqa: E731
    x, ct = jnp.arange(3.0), (jnp.array([1.0, 2.0, 5.0]), jnp.array([1.0, 0.0, 2.0]))
    (got,), (want,) = (jax.linear_transpose(g, x)(ct) for g in (f, plain))
    np.testing.assert_array_equal(got, want)
    # Zero cotangents of some results, and of all.
    np.testing.assert_array_equal(jax.grad(lambda x: f(x)[0][0])(x), [1.0, 0.0, 1.0])
    np.testing.assert_array_equal(jax.grad(lambda x: 0.0 * x[0])(f(x)[0]), [0.0, 0.0, 0.0])


def test_the_name_is_taken(define):
    define("twice", lambda x: 2 * x)
    with pytest.raises(nnops.OpError, match="defined already"):
        nnops.define("twice", lambda x: 2 * x)


def test_the_name_reaches_the_compiled_program(affine):
    f = lambda x: affine.rebind({"x": x, "s": x})  # noqa: E731
    text = jax.jit(f).lower(jnp.ones(3)).compile().as_text()
    assert "/affine/" in text


def test_kernels_are_used_and_checked(affine):
    x = jnp.ones(3)
    f = lambda k, p: affine.rebind({"x": x, "s": x}, kernel=k, power=p)  # noqa: E731
    lowered = jax.jit(lambda: f("repeated", 3)).lower().as_text()
    assert "concatenate" in lowered
    assert "concatenate" not in jax.jit(lambda: f("reference", 3)).lower().as_text()
    with pytest.raises(nnops.OpError, match=r"kernel 'repeated' does not apply.*\n.*\n.*reference"):
        f("repeated", 1)
    with pytest.raises(nnops.OpError, match="kernel 'fast' does not apply"):
        f("fast", 2)


def test_x64_and_promotion_modes_do_not_share_types(define):
    op = define("widen", lambda x: x + jnp.zeros(3))
    f = lambda x: op.rebind({"x": x})  # noqa: E731
    x = np.arange(3, dtype=np.int32)
    assert jax.eval_shape(f, x).dtype == jnp.float32
    with jax.enable_x64(True):
        assert jax.eval_shape(f, x).dtype == jnp.float64
        assert f(x).dtype == jax.jit(f)(x).dtype == jnp.float64
    with jax.numpy_dtype_promotion("strict"), pytest.raises(Exception, match="strict"):
        jax.eval_shape(f, x)
    assert f(x).dtype == jnp.float32


def _loss(w, x):
    y = nnops.dense(x, w, jnp.ones(w.shape[1]), activation="silu")
    return jnp.sum(nnops.softmax(y) ** 2)


def _plain_loss(w, x):
    return jnp.sum(jax.nn.softmax(jax.nn.silu(x @ w + 1.0)) ** 2)


W = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
X = np.random.default_rng(1).normal(size=(8, 4)).astype(np.float32)


def _same(got, want):
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)


def test_shard_map_and_its_gradient():
    mesh = jax.make_mesh((1,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    spec = jax.sharding.PartitionSpec

    @functools.partial(jax.shard_map, mesh=mesh, in_specs=(spec(), spec("data")), out_specs=spec())
    def total(w, x):
        return jax.lax.psum(_loss(w, x), "data")

    _same(total(W, X), _plain_loss(W, X))
    _same(jax.jit(jax.grad(total))(W, X), jax.grad(_plain_loss)(W, X))
    _same(jax.grad(total, 1)(W, X), jax.grad(_plain_loss, 1)(W, X))


@pytest.mark.parametrize("kind", [jax.sharding.AxisType.Auto, jax.sharding.AxisType.Explicit])
def test_sharded_jit(kind):
    mesh = jax.make_mesh((1,), ("data",), axis_types=(kind,))
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    with jax.set_mesh(mesh):
        x = jax.device_put(X, sharding)
        y = jax.jit(lambda x: nnops.dense(x, W, activation="relu"))(x)
        assert y.sharding.is_equivalent_to(sharding, 2)
        _same(y, jax.nn.relu(X @ W))
        _same(jax.jit(jax.grad(_loss))(W, x), jax.grad(_plain_loss)(W, X))


@pytest.mark.parametrize("platforms", [None, ("cpu", "cuda", "tpu")])
def test_export_with_a_symbolic_batch(platforms):
    (n,) = jax.export.symbolic_shape("n")

    def f(w, x):
        return jax.value_and_grad(_loss)(w, x)

    exported = jax.export.export(jax.jit(f), platforms=platforms)(
        jax.ShapeDtypeStruct(W.shape, W.dtype), jax.ShapeDtypeStruct((n, 4), X.dtype)
    )
    exported = jax.export.deserialize(exported.serialize(vjp_order=1))
    for got, want in zip(
        jax.tree.leaves(exported.call(W, X)),
        jax.tree.leaves(jax.value_and_grad(_plain_loss)(W, X)),
        strict=True,
    ):
        _same(got, want)


def test_checkify():
    checks = checkify.user_checks | checkify.float_checks
    error, got = jax.jit(checkify.checkify(_loss, errors=checks))(W, X)
    error.throw()
    _same(got, _plain_loss(W, X))
    error, _ = jax.jit(checkify.checkify(_loss, errors=checks))(W * jnp.nan, X)
    assert "nan generated by primitive: dot_general" in error.get()


def test_remat_policy_sees_the_op():
    seen = []

    def policy(prim, *_, **__):
        seen.append(prim.name)
        return prim.name == "dense"

    f = jax.checkpoint(_loss, policy=policy)
    _same(jax.jit(jax.grad(f))(W, X), jax.grad(_plain_loss)(W, X))
    assert "dense" in seen


def test_donation_and_disabled_jit():
    f = jax.jit(lambda x: nnops.relu(x), donate_argnums=0)
    _same(f(jnp.asarray(X)), jax.nn.relu(X))
    with jax.disable_jit():
        _same(_loss(W, X), _plain_loss(W, X))


def test_while_and_cond():
    def f(x):
        y = jax.lax.fori_loop(0, 3, lambda i, v: nnops.dense(v, W @ W.T, activation="tanh"), x)
        return jax.lax.cond(y.sum() > 0, nnops.relu, nnops.silu, y)

    want = X
    for _ in range(3):
        want = np.tanh(want @ (W @ W.T))
    want = jax.nn.relu(want) if want.sum() > 0 else jax.nn.silu(want)
    _same(jax.jit(f)(X), want)


_ON_EIGHT_DEVICES = """
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
from jaxpress import nnops

def ours(x, w, b):
    return nnops.softmax(nnops.dense(x, w, b, activation="gelu"))

def plain(x, w, b):
    return jax.nn.softmax(jax.nn.gelu(x @ w + b))

def grad(f):
    return jax.grad(lambda *a: jnp.sum(f(*a) ** 2), (0, 1, 2))

rng = np.random.default_rng(0)
operands = [rng.normal(size=s).astype(np.float32) for s in ((8, 4), (4, 6), (6,))]
layouts = [P("d"), P(), P()], [P("d"), P(None, "m"), P("m")]
for kind in (AxisType.Auto, AxisType.Explicit):
    mesh = jax.make_mesh((4, 2), ("d", "m"), axis_types=(kind, kind))
    with jax.set_mesh(mesh):
        for specs in layouts:
            given = [jax.device_put(v, NamedSharding(mesh, s)) for v, s in zip(operands, specs)]
            for f in (lambda f: f, grad, lambda f: jax.vmap(f, (0, None, None))):
                got, want = (jax.jit(f(g))(*given) for g in (ours, plain))
                for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
                    np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
                    assert a.sharding.is_equivalent_to(b.sharding, a.ndim)
    if kind == AxisType.Auto:
        def total(x, w, b):
            return jax.lax.psum(jnp.sum(ours(x, w, b) ** 2), "d")
        specs = (P("d"), P(), P())
        total = jax.shard_map(total, mesh=mesh, in_specs=specs, out_specs=P())
        got = jax.jit(jax.grad(total, (0, 1, 2)))(*operands)
        for a, b in zip(got, grad(plain)(*operands), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
print("done")
"""


def test_on_several_devices():
    # A process of its own: the number of devices is fixed when JAX starts.
    flags = "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0"
    env = {**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, "-c", _ON_EIGHT_DEVICES], env=env, capture_output=True, text=True
    )
    assert done.stdout.strip() == "done", done.stderr
