"""Dropout put into functions and taken out of them, in bodies and through optimize."""

from __future__ import annotations

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from zoo_keras import import_keras

import jaxpress as jp
from helpers import array
from jaxpress import nnops, passes
from jaxpress.capture import PassError, trace
from jaxpress.passes import insert_dropout, remove_dropout

X, W, B = array(3, 4), array(4, 4, seed=1), array(4, seed=2)
KEY = jax.random.key(5)


def dropped(y, i, key=KEY, rate=0.5, **options):
    """What the pass puts at place ``i``."""
    return nnops.dropout(y, jax.random.fold_in(key, i), rate=rate, **options)


def close(got, want):
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)


def inserted(fn, where, *args, **options):
    return insert_dropout(where, 0.5, **options)(trace(fn)(*args)).validate()


def test_after_layers_with_their_bias_each_with_a_key_of_its_own() -> None:
    def model(x):
        return jnp.tanh(x @ W + B) @ W

    def want(x):
        return dropped(jnp.tanh(dropped(x @ W + B, 0)) @ W, 1)

    graph = inserted(model, "dense", X)
    assert graph.count()["dropout"] == 2
    close(graph(X, dropout_key=KEY), want(X))
    got = jax.grad(lambda x: graph(x, dropout_key=KEY).sum())(X)
    close(got, jax.grad(lambda x: want(x).sum())(X))
    fast = jp.optimize(model, [insert_dropout("dense", 0.5), "default"])
    close(fast(X, dropout_key=KEY), want(X))
    assert not np.array_equal(fast(X, dropout_key=KEY), fast(X, dropout_key=jax.random.key(6)))


def test_after_ops_scopes_and_predicates() -> None:
    def model(x):
        with jax.named_scope("one"):
            x = x @ W
        # An op's name too, but of one that is made of others, of which no node is left.
        with jax.named_scope("multi_head_attention"):
            return nnops.gelu(x) @ W

    for where, want in (
        ("gelu", lambda x: dropped(nnops.gelu(x @ W), 0) @ W),
        ("multi_head_attention", lambda x: dropped(nnops.gelu(x @ W) @ W, 0)),
        ("multi_head_*", lambda x: dropped(nnops.gelu(x @ W) @ W, 0)),
        (lambda node: node.scope == "one", lambda x: nnops.gelu(dropped(x @ W, 0)) @ W),
        (["gelu", "one"], lambda x: dropped(nnops.gelu(dropped(x @ W, 0)), 1) @ W),
    ):
        close(inserted(model, where, X)(X, dropout_key=KEY), want(X))
    graph = inserted(model, "gelu", X, broadcast_dims=0, argument="key")
    close(graph(X, key=KEY), dropped(nnops.gelu(X @ W), 0, broadcast_dims=0) @ W)


def test_an_op_that_is_made_of_others_is_dropped_once() -> None:
    w, out, x = array(6, 2, 3), array(2, 3, 6), array(2, 5, 6)

    def model(x):
        return jax.jit(nnops.multi_head_attention)(x, None, None, w, w, w, out)

    whole, ids = "multi_head_attention", lambda node: node.op == "multi_head_attention"
    for where in (whole, ids, [whole, "gelu"]):
        graph = inserted(model, where, x)
        assert graph.count()["dropout"] == 1 and "dot_product_attention" in graph.count()
        close(jax.jit(graph)(x, dropout_key=KEY), dropped(model(x), 0))
    graph = inserted(model, [whole, "dense"], x)
    assert graph.count()["dropout"] == 5
    keys = {str(node.inputs[1]) for node in graph.find("random_fold_in")}
    assert len(keys) == 5  # each place draws by itself
    with pytest.raises(PassError, match=r"layers are in \['multi_head_attention'"):
        inserted(model, "nowhere", x)

    def stack(x):
        return jax.lax.scan(lambda x, _: (model(x), None), x, None, length=2)[0]

    assert inserted(stack, whole, x).count()["dropout"] == 1
    image, kernels = array(1, 5, 5, 3), (array(3, 3, 1, 3), array(1, 1, 3, 4))
    graph = inserted(lambda x: nnops.separable_conv(x, *kernels), "separable_conv", image)
    close(graph(image, dropout_key=KEY), dropped(nnops.separable_conv(image, *kernels), 0))


def test_each_turn_of_a_scan_draws_anew() -> None:
    def layer(x, w):
        return jnp.sin(x @ w), None

    stacked = jnp.stack([W, W.T, W + 1])

    def want(x):
        for w, key in zip(stacked, jax.random.split(jax.random.fold_in(KEY, 0), 3), strict=True):
            x = jnp.sin(dropped(x @ w, 0, key))
        return x

    graph = inserted(lambda ws, x: jax.lax.scan(layer, x, ws)[0], "dense", stacked, X)
    close(graph(stacked, X, dropout_key=KEY), want(X))


def test_in_branches_and_remat() -> None:
    def branches(p, x):
        return jax.lax.cond(p > 0, lambda x: jnp.sin(x @ W), lambda x: x, x)

    graph = inserted(branches, "dense", jnp.float32(1), X)
    inner = jax.random.fold_in(KEY, 0)
    close(graph(1.0, X, dropout_key=KEY), jnp.sin(dropped(X @ W, 0, inner)))
    close(graph(-1.0, X, dropout_key=KEY), X)

    graph = inserted(jax.checkpoint(lambda x: jnp.sin(x @ W)), "dense", X)
    got = jax.grad(lambda x: graph(x, dropout_key=KEY).sum())(X)
    close(got, jax.grad(lambda x: jnp.sin(dropped(x @ W, 0, inner)).sum())(X))


def test_what_cannot_be_dropped() -> None:
    def loop(x):
        return jax.lax.while_loop(lambda c: c[0, 0] < 0, lambda c: c @ W, x)

    with pytest.raises(PassError, match="a while takes no key"):
        inserted(loop, "dense", X)
    with pytest.raises(PassError, match="nothing is chosen by 'gelu'"):
        inserted(lambda x: x @ W, "gelu", X)
    with pytest.raises(PassError, match="where is None"):
        insert_dropout(None, 0.5)
    with pytest.raises(PassError, match=r"rate is 1\.5"):
        insert_dropout("dense", 1.5)
    with pytest.raises(PassError, match="has an argument 'dropout_key' already"):
        inserted(lambda x, dropout_key: x @ W + dropout_key, "dense", X, 1.0)


def test_what_is_differentiated_already_is_not_dropped() -> None:
    def loss(w, x):
        return jnp.sum(jnp.tanh(jax.nn.relu(x @ w)))

    w, x = array(3, 4), array(2, 3)
    drop = insert_dropout("relu", 0.5)
    for fn in (
        jax.grad(loss),
        jax.checkpoint(jax.grad(loss)),
        lambda w, x: jax.jvp(loss, *[(w, x)] * 2),
    ):
        with pytest.raises(PassError, match="is differentiated in this function already"):
            drop(trace(fn)(w, x))
    with pytest.raises(PassError, match=r"nothing is chosen .*jax\.grad\(jaxpress\.optimize"):
        insert_dropout("gelu", 0.5)(trace(jax.grad(lambda x: jnp.sum(nnops.gelu(x))))(x))
    noisy = jp.optimize(loss, [drop, "default"])
    assert jax.grad(noisy)(w, x, dropout_key=jax.random.key(0)).shape == w.shape


def test_what_is_put_in_can_be_taken_out() -> None:
    def model(x):
        return jnp.tanh(x @ W + B)

    graph = inserted(model, "dense", X)
    again = passes.cleanup(remove_dropout()(graph))
    assert "dropout" not in again.count() and not again.find("random_fold_in")
    close(again(X, dropout_key=KEY), model(X))


def test_dropout_that_is_written_out_is_taken_out() -> None:
    layer = nn.Dropout(0.5, deterministic=False)

    def model(x, key):
        return jnp.sin(layer.apply({}, x, rngs={"dropout": key}))

    for fn, args in (
        (model, (X, KEY)),
        (jax.vmap(model), (X, jax.random.split(KEY, 3))),
        (lambda x, k: jax.lax.scan(lambda c, k: (model(c, k), None), x, k)[0], (X, KEY[None])),
    ):
        fast = jp.optimize(fn, [remove_dropout(), "default"])
        assert not fast.graph(*args).find(lambda n: n.op.startswith("random_bits"))
        close(fast(*args), jnp.sin(X))
    one = jax.vmap(lambda x, k: nnops.dropout(x, k, rate=0.5), in_axes=(None, 0))
    keys = jax.random.split(KEY, 2)
    close(remove_dropout()(trace(one)(X, keys))(X, keys), jnp.stack([X, X]))


@pytest.mark.parametrize(("layer", "op"), [("LSTM", "lstm"), ("GRU", "gru")])
def test_recurrent_dropout_of_keras_is_taken_out(layer, op) -> None:
    kind = getattr(import_keras().layers, layer)
    made = kind(4, dropout=0.2, recurrent_dropout=0.3)
    made.build((2, 3, 4))
    weights, seeds = (
        [v.value for v in some] for some in (made.trainable_variables, made.non_trainable_variables)
    )
    x = array(2, 3, 4)

    def model(x, seeds, training=True):
        return made.stateless_call(weights, seeds, x, training=training)[0]

    fast = jp.optimize(model, [remove_dropout(), "default"])
    ops = fast.graph(x, seeds).count()
    assert ops[op] == 1 and not ops["scan"] and not ops["random_bits"]
    close(fast(x, seeds), model(x, seeds, training=False))


def test_what_still_draws_is_noted() -> None:
    def model(x, key):
        noise, drop = jax.random.split(key)
        x = nnops.dropout(x, drop, rate=0.5)
        return x * (1 + jax.random.normal(noise, x.shape))

    (note,) = jp.optimize(model, [remove_dropout(), "default"]).report(X, KEY).notes
    assert note.startswith("remove_dropout: random numbers of shape (3, 4) are still drawn")
    assert "test_dropout.py" in note
    quiet = jp.optimize(lambda x, key: nnops.dropout(x, key, rate=0.5), [remove_dropout()])
    assert not quiet.report(X, KEY).notes


def test_some_dropout_stays() -> None:
    def model(x, key):
        with jax.named_scope("keep"):
            x = nnops.dropout(x, key, rate=0.5)
        return nnops.dropout(x, key, rate=0.25)

    graph = remove_dropout(lambda node: node.scope != "keep")(trace(model)(X, KEY))
    assert [n.params["rate"] for n in graph.find("dropout")] == [0.5]
    plain = trace(lambda x: x @ W)(X)
    assert "dropout" not in remove_dropout()(plain).count()


@pytest.mark.parametrize("mapped", [None, (0, 0), (None, 0)])
def test_that_of_attention_is_taken_out(mapped) -> None:
    def model(x, key, rate=0.5):
        return nnops.dot_product_attention(x, x, x, dropout_key=key, dropout_rate=rate)

    x, keys, fn, want = array(2, 3, 2, 4), KEY, model, functools.partial(model, rate=0.0)
    if mapped is not None:
        fn, want = (jax.vmap(f, mapped) for f in (fn, want))
        x = x if mapped[0] is None else jnp.stack([x, 2 * x])
        keys = jax.random.split(KEY, 2)
    graph = remove_dropout()(trace(fn)(x, keys)).validate()
    (node,) = graph.find("dot_product_attention")
    assert node.params["operands"] == ("query", "key", "value")
    close(*(jax.jit(f)(x, keys) for f in (graph, want)))
    (kept,) = remove_dropout("elsewhere")(trace(fn)(x, keys)).find("dot_product_attention")
    assert "dropout_key" in kept.params["operands"]
