"""Masks on weights: the same as masking by hand, wherever the weights are."""

from __future__ import annotations

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import recurrent_frameworks
from jax import lax
from sklearn.datasets import load_digits
from small_cnn import PARAMS, X, model

import jaxpress as jp
from helpers import array, assert_close, conv
from jaxpress import nnops
from jaxpress.capture import PassError, trace
from jaxpress.passes import (
    default,
    fold_constants,
    insert_weight_masks,
    magnitude_mask,
    maskable_weights,
)


def by_hand(fn, keep):
    return lambda p, x: fn({k: w * keep(k, w).astype(w.dtype) for k, w in p.items()}, x)


def masked(fn, pipeline, *args, **options):
    """The graph of ``fn`` after the pass, and after the rest of ``default``."""
    graph = insert_weight_masks(**options)(trace(fn)(*args)).validate()
    return graph, pipeline.run(graph, check=True)[0]


def test_a_pruned_cnn_on_digits_predicts_what_masking_by_hand_does() -> None:
    digits = load_digits()
    images = jnp.asarray(digits.images[..., None] / 16.0, jnp.float32)
    labels = jnp.asarray(digits.target)
    train, test = slice(0, 500), slice(500, None)
    keys = jax.random.split(jax.random.key(0), 3)
    init = jax.nn.initializers.he_normal()
    params = {
        "c1": init(keys[0], (3, 3, 1, 8)), "c2": init(keys[1], (3, 3, 8, 16)),
        "w": init(keys[2], (64, 10)), "b": jnp.zeros(10),
    }  # fmt: skip

    def logits(p, x):
        x = jax.nn.relu(conv(x, p["c1"], strides=(2, 2)))
        x = jax.nn.relu(conv(x, p["c2"], strides=(2, 2)))
        return x.reshape(x.shape[0], -1) @ p["w"] + p["b"]

    def loss(p):
        scores = logits(p, images[train])
        return optax.softmax_cross_entropy_with_integer_labels(scores, labels[train]).mean()

    optimizer = optax.adam(2e-2)

    @jax.jit
    def step(carry, _):
        p, state = carry
        updates, state = optimizer.update(jax.grad(loss)(p), state)
        return (optax.apply_updates(p, updates), state), None

    (params, _), _ = jax.jit(lambda c: lax.scan(step, c, None, 40))(
        (params, optimizer.init(params))
    )
    dense_accuracy = (logits(params, images[test]).argmax(1) == labels[test]).mean()
    assert dense_accuracy > 0.85  # it has learnt something that can be lost

    def mask(w):  # of 90%, as everybody writes it
        limit = np.sort(np.abs(w).ravel())[round(0.9 * w.size) - 1]
        return w * (np.abs(w) > limit)

    by_hand = {k: mask(np.asarray(w)) if w.ndim > 1 else w for k, w in params.items()}
    want = jax.jit(logits)(by_hand, images[test])
    fast = jp.optimize(logits, [insert_weight_masks(sparsity=0.9), "default"], weight_argnums=(0,))
    got = fast(params, images[test])
    np.testing.assert_array_equal(got.argmax(1), want.argmax(1))
    assert_close(got, want)
    accuracy = (got.argmax(1) == labels[test]).mean()
    assert accuracy == (want.argmax(1) == labels[test]).mean() < dense_accuracy
    # Nothing of the masks is left for each call.
    assert not {"sort", "mul", "ge"} & set(fast.graph(params, images[test]).count())


@pytest.mark.parametrize("structure", ["unstructured", "channel", (2, 4)])
def test_each_layer_by_its_own_magnitudes(structure) -> None:
    params = {**PARAMS, "conv": array(3, 3, 4, 8)}
    x = array(2, 6, 6, 4)
    axes = {"conv": {"input_axis": 2, "output_axes": 3}}

    def keep(name, w):
        options = axes.get(name, {"input_axis": 0, "output_axes": 1})
        return magnitude_mask(w, 0.5, structure, **options)

    graph, new = masked(model, default, params, x, sparsity=0.5, structure=structure)
    assert new.count()["mul"] >= 3
    assert_close(jax.jit(graph)(params, x), by_hand(model, keep)(params, x))
    want = jax.grad(lambda p: jnp.sum(by_hand(model, keep)(p, x) ** 2))(params)
    got = jax.grad(lambda p: jnp.sum(new(p, x) ** 2))(params)
    assert_close(got, want)


def test_all_layers_together() -> None:
    together = np.concatenate([np.abs(w).ravel() for w in PARAMS.values()])
    limit = np.sort(together)[round(0.8 * together.size) - 1]
    graph, _ = masked(model, default, PARAMS, X, sparsity=0.8, scope="global")
    want = by_hand(model, lambda _, w: jnp.abs(w) > limit)
    assert_close(jax.jit(graph)(PARAMS, X), want(PARAMS, X))


def masks_for(shapes):
    return {
        name: jax.random.bernoulli(jax.random.key(i), 0.5, s.shape)
        for i, (name, s) in enumerate(shapes.items())
    }


def test_masks_by_name_as_constants() -> None:
    shapes = maskable_weights(trace(model)(PARAMS, X))
    assert list(shapes) == ["p['conv']", "p['hidden']", "p['out']"]
    masks = masks_for(shapes)
    del masks["p['out']"]

    def keep(name, w):
        return masks.get(f"p['{name}']", jnp.ones(w.shape))

    graph, _ = masked(model, default, PARAMS, X, masks=masks)
    assert_close(jax.jit(graph)(PARAMS, X), by_hand(model, keep)(PARAMS, X))
    graph, _ = masked(model, default, PARAMS, X, masks=lambda name, aval: masks.get(name))
    assert_close(jax.jit(graph)(PARAMS, X), by_hand(model, keep)(PARAMS, X))


@pytest.mark.parametrize("dtype", ["bool", "float32"])
def test_masks_as_a_new_argument(dtype) -> None:
    masks = {
        k: m.astype(dtype) for k, m in masks_for(maskable_weights(trace(model)(PARAMS, X))).items()
    }
    fast = jp.optimize(
        model, [insert_weight_masks(argument="masks", mask_dtype=dtype), "default"],
        weight_argnums=(0,),
    )  # fmt: skip
    want = by_hand(model, lambda name, w: masks[f"p['{name}']"])(PARAMS, X)
    assert_close(fast(PARAMS, X, masks=masks), want)
    assert "mul" not in fast.graph(PARAMS, X, masks=masks).count()
    ones = jax.tree.map(jnp.ones_like, masks)
    assert_close(fast(PARAMS, X, masks=ones), model(PARAMS, X))


def test_training_with_fixed_masks_leaves_what_is_masked_alone() -> None:
    masks = masks_for(maskable_weights(trace(model)(PARAMS, X)))
    fast = jp.optimize(model, [insert_weight_masks(masks=masks), "default"])
    grads = jax.jit(jax.grad(lambda p: jnp.sum(fast(p, X) ** 2)))(PARAMS)
    for name, g in grads.items():
        assert not g[~masks[f"p['{name}']"]].any() and g[masks[f"p['{name}']"]].any()


@pytest.mark.parametrize(
    ("where", "names"),
    [
        (None, ["p['conv']", "p['hidden']", "p['out']"]),
        ("dense", ["p['hidden']", "p['out']"]),
        ("conv", ["p['conv']"]),
        ("p?'o*", ["p['out']"]),
        ("*/last", ["p['out']"]),
        (["conv", "*/last"], ["p['conv']", "p['out']"]),
        (lambda node: node.output.shape[-1] == 12, ["p['hidden']"]),
    ],
)
def test_which_weights(where, names) -> None:
    def scoped(p, x):
        with jax.named_scope("net"):
            y = jax.nn.relu(conv(x, p["conv"])).reshape(x.shape[0], -1)
            with jax.named_scope("hidden"):
                y = jax.nn.relu(y @ p["hidden"])
            with jax.named_scope("last"):
                return y @ p["out"]

    assert list(maskable_weights(trace(scoped)(PARAMS, X), where)) == names


def test_weights_that_are_closed_over_are_called_by_their_scope() -> None:
    def fn(x):
        with jax.named_scope("net/out"):
            return (x @ PARAMS["hidden"]) @ PARAMS["out"]

    x = array(2, 288)
    names = maskable_weights(trace(fn)(x))
    assert list(names) == ["net/out/w", "net/out/w#2"]
    masks = masks_for(names)
    fast = jp.optimize(fn, [insert_weight_masks(masks=masks), "default"])
    want = x @ (PARAMS["hidden"] * masks["net/out/w"]) @ (PARAMS["out"] * masks["net/out/w#2"])
    assert_close(fast(x), want)
    # With no activation between, the two known products are one.
    assert fast.graph(x).count() == {"dense": 1}


def test_embeddings_tied_and_turned_weights() -> None:
    p = {"table": array(7, 6), "w": array(2, 3, 6)}
    ids = jnp.array([[1, 2, 6]])

    def fn(p, ids):
        h = nnops.embedding(ids, p["table"])
        h = nnops.einsum_dense(h, p["w"], equation="btd,hkd->bthk").reshape(1, 3, 6)
        return nnops.attend(h.astype("bfloat16"), p["table"].astype("bfloat16")), h @ p["table"].T

    shapes = maskable_weights(trace(fn)(p, ids))
    assert list(shapes) == ["p['table']", "p['w']"]
    masks = masks_for(shapes)
    graph, _ = masked(fn, default, p, ids, masks=masks)
    want = fn({"table": p["table"] * masks["p['table']"], "w": p["w"] * masks["p['w']"]}, ids)
    assert_close(jax.jit(graph)(p, ids), jax.tree.map(jnp.asarray, want), 2e-2)
    table = {"p['table']": masks["p['table']"]}
    only, _ = masked(fn, default, p, ids, masks=table, where="embedding")
    assert only.count()["mul"] == 1


LAYERS = {"w": array(3, 6, 6), "s": array(6, 6, seed=4)}


@pytest.mark.parametrize("remat", [False, True])
def test_layers_under_scan(remat) -> None:
    def layer(h, w):
        return jnp.tanh(h @ w) @ LAYERS["s"], None

    def fn(w, x):
        return lax.scan(jax.checkpoint(layer) if remat else layer, x, w)[0]

    w, x = LAYERS["w"], array(2, 6)
    shapes = maskable_weights(trace(fn)(w, x))
    assert {v.shape for v in shapes.values()} == {(3, 6, 6), (6, 6)}
    masks = masks_for(shapes)
    (shared,) = (m for m in masks.values() if m.ndim == 2)

    def want(w, x):
        for i in range(3):
            x = jnp.tanh(x @ (w[i] * masks["w"][i])) @ (LAYERS["s"] * shared)
        return x

    graph, _ = masked(fn, default, w, x, masks=masks)
    assert_close(jax.jit(graph)(w, x), want(w, x))
    fast = jp.optimize(fn, [insert_weight_masks(masks=masks), "default"], weight_argnums=(0,))
    assert "mul" not in fast.graph(w, x).count()
    assert_close(fast(w, x), want(w, x))

    each = jp.optimize(fn, [insert_weight_masks(sparsity=0.5), "default"], weight_argnums=(0,))
    y = x
    for i in range(3):
        s = LAYERS["s"] * magnitude_mask(LAYERS["s"], 0.5)
        y = jnp.tanh(y @ (w[i] * magnitude_mask(w[i], 0.5))) @ s
    assert_close(each(w, x), y)
    assert not {"sort", "mul"} & set(each.graph(w, x).count())

    limit = jnp.sort(jnp.abs(jnp.concatenate([w.ravel(), LAYERS["s"].ravel()])))[71]
    together = insert_weight_masks(sparsity=0.5, scope="global")(trace(fn)(w, x)).validate()
    y = x
    for i in range(3):
        s = LAYERS["s"] * (jnp.abs(LAYERS["s"]) > limit)
        y = jnp.tanh(y @ (w[i] * (jnp.abs(w[i]) > limit))) @ s
    assert_close(jax.jit(together)(w, x), y)


def test_branches_and_while_loops() -> None:
    w = LAYERS["w"]

    def fn(p, w, x):
        y = lax.cond(p, lambda x: x @ w[0], lambda x: x @ w[1].T, x)
        return lax.fori_loop(0, 2, lambda i, h: jnp.tanh(h @ w[2]), y)

    x = array(2, 6)
    masks = masks_for(maskable_weights(trace(fn)(True, w, x)))
    graph, _ = masked(fn, default, True, w, x, masks=masks)
    for p in (True, False):
        assert_close(jax.jit(graph)(p, w, x), fn(p, w * masks["w"], x))


def test_a_scan_that_prints_takes_masks_of_its_own_only() -> None:
    def fn(w, x):
        def layer(h, row):
            jax.debug.callback(lambda _: None, h)
            return h @ row, None

        return lax.scan(layer, x, w)[0]

    w, x = LAYERS["w"], array(2, 6)
    graph, _ = masked(fn, default, w, x, sparsity=0.5)
    want = x
    for i in range(3):
        want = want @ (w[i] * magnitude_mask(w[i], 0.5))
    assert_close(jax.jit(graph)(w, x), want)
    with pytest.raises(PassError, match="effects"):
        masked(fn, default, w, x, masks={"w": jnp.ones(w.shape)})


def test_vmap_and_a_symbolic_batch() -> None:
    graph, _ = masked(model, default, PARAMS, X, sparsity=0.5)
    many = jnp.stack([X, -X])
    got = jax.vmap(graph, (None, 0))(PARAMS, many)
    assert_close(got, jnp.stack([graph(PARAMS, X), graph(PARAMS, -X)]))
    (n,) = jax.export.symbolic_shape("n")
    shape = jax.ShapeDtypeStruct((n, 6), jnp.float32)
    new = fold_constants(insert_weight_masks(sparsity=0.5)(trace(lambda x: x @ LAYERS["s"])(shape)))
    assert new.count() == {"dense": 1}


def test_the_record_and_a_choice_for_each_node() -> None:
    record = []
    chosen = insert_weight_masks(sparsity=lambda node: 0.5 if node.op == "conv" else None)
    graph = chosen(trace(model)(PARAMS, X), record)
    assert [r.before[0].op for r in record] == ["conv"]
    assert record[0].numerics == "approximate"
    want = by_hand(model, lambda k, w: magnitude_mask(w, 0.5) if k == "conv" else jnp.ones(w.shape))
    assert_close(jax.jit(graph)(PARAMS, X), want(PARAMS, X))


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({}, "one of"),
        ({"sparsity": 0.5, "argument": "m"}, "one of"),
        ({"sparsity": 2.0}, "fraction"),
        ({"sparsity": 0.5, "scope": "model"}, "scope"),
        ({"sparsity": 0.5, "scope": "global", "structure": "channel"}, "global"),
        ({"masks": {}, "scope": "global"}, "global"),
        ({"sparsity": 0.5, "structure": "2:0"}, "structure"),
        ({"sparsity": 0.5, "where": 3}, "where"),
    ],
)
def test_options_that_contradict_each_other(options, what) -> None:
    with pytest.raises(PassError, match=what):
        insert_weight_masks(**options)


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"sparsity": 0.5, "where": "lstm"}, r"p\['conv'\]"),
        ({"masks": {"q": jnp.ones(3)}}, r"p\['conv'\]"),
        ({"masks": {"p['conv']": jnp.ones(3)}}, "shape"),
        ({"sparsity": 0.5, "structure": (2, 5)}, "2:5"),
        ({"argument": "x"}, "choose another name"),
    ],
)
def test_what_does_not_fit_the_graph(options, what) -> None:
    with pytest.raises(PassError, match=what):
        insert_weight_masks(**options)(trace(model)(PARAMS, X))


def test_integer_weights_are_left_alone() -> None:
    w = jnp.arange(12).reshape(3, 4)
    with pytest.raises(PassError, match="there are none"):
        insert_weight_masks(sparsity=0.5)(trace(lambda x: x @ w)(jnp.ones((2, 3), int)))


ROWS = array(2, 4)


def recurrent_of(library):
    """A recurrent layer as a function of its weights, and these."""
    if library == "haiku":  # one array, of which slices multiply x and the state
        fn, args = recurrent_frameworks.haiku(lambda: hk.LSTM(recurrent_frameworks.H))
    elif library == "linen":  # an array for each gate
        fn, args = recurrent_frameworks.linen("GRUCell")
    else:
        params = {"w": array(4, 9), "u": array(3, 9)}
        return lambda p, x: nnops.gru_cell(x, x[:, :3], p["w"], p["u"]), params, ROWS
    # Given as arguments.
    return fn.func, fn.args[0], args[0]


@pytest.mark.parametrize("library", ["haiku", "linen", "nnops"])
def test_recurrent_weights_in_all_their_parts(library) -> None:
    fn, params, x = recurrent_of(library)
    graph = trace(fn)(params, x)
    names = [v.name for v in graph.inputs][: len(jax.tree.leaves(params))]
    shapes = maskable_weights(graph)
    leaves, tree = jax.tree.flatten(params)
    assert set(shapes) == {n for n, v in zip(names, leaves, strict=True) if v.ndim == 2}
    masks = {name: array(*v.shape, seed=3) > 0 for name, v in shapes.items()}

    def by_hand(params, x):
        leaves = jax.tree.leaves(params)
        pairs = zip(names, leaves, strict=True)
        return fn(tree.unflatten([v * masks[n] if n in masks else v for n, v in pairs]), x)

    given = jp.optimize(fn, [insert_weight_masks(argument="masks"), "default"], weight_argnums=0)
    constant = jp.optimize(fn, [insert_weight_masks(masks=masks), "training"])
    for f in (lambda p, x: given(p, x, masks=masks), constant):

        def outcome(f):
            loss = lambda p: sum(jnp.sum(jnp.sin(y)) for y in jax.tree.leaves(f(p, x)))  # noqa: E731
            return jax.jit(jax.value_and_grad(loss))(params)

        assert_close(outcome(f), outcome(by_hand))
    counts = given.graph(params, x, masks=masks).count()
    assert not {"mul", "dot_general", "dense"} & set(counts)


def test_masks_for_some_parts_of_a_joined_weight() -> None:
    def fn(p, x):
        return x @ jnp.concatenate([p["q"], p["k"]], 1)

    params = {"q": array(4, 3), "k": array(4, 3, seed=1)}
    mask = array(4, 3, seed=2) > 0
    masked = jp.optimize(fn, [insert_weight_masks(masks={"p['k']": mask})])
    want = fn(params | {"k": params["k"] * mask}, ROWS)
    assert_close(masked(params, ROWS), want)
    with pytest.raises(PassError, match="joins to its w"):
        jp.optimize(fn, [insert_weight_masks("p['k'*", sparsity=0.5)])(params, ROWS)
    whole = jp.optimize(fn, [insert_weight_masks(sparsity=0.5, structure="channel"), "default"])
    assert np.sum(np.any(np.asarray(whole(params, ROWS)) != 0, 0)) == 3
