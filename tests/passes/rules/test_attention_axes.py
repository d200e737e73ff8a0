"""Which axes of attention's products are batch, heads, queries and keys."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxpress as jp
from helpers import array
from jaxpress.capture import trace
from jaxpress.capture.edit import Editor
from jaxpress.passes import inline
from jaxpress.passes.pattern import State
from jaxpress.passes.rules.attention_axes import product_of, roles_of, weighted_of
from jaxpress.passes.rules.attention_bands import Band

B, T, S, N, K, G, H = 2, 3, 5, 7, 11, 13, 17
# As many positions as heads: no shape tells them apart.
M = 4
SIZES = {"b": B, "t": T, "s": S, "n": N, "k": K, "g": G, "h": H, "x": 1}


def shaped(letters):
    return jax.ShapeDtypeStruct(tuple(SIZES[c] for c in letters), jnp.float32)


def product(equation, swap=False):
    """The product of an einsum's operands, its softmax along the keys; letters of its axes."""
    q, k = equation.split("->")[0].split(",")
    graph = inline(trace(lambda q, k: jnp.einsum(equation, q, k))(shaped(q), shaped(k)))
    (node,) = graph.find("dot_general")
    letters = {v: c for c, v in SIZES.items()}
    result = [letters[d] for d in node.output.shape]
    state = State(Editor(graph), explain=True)
    return state, product_of(state, node, (result.index("s"),)), result


@pytest.mark.parametrize(
    "equation, lead, queries, shared, grouped",
    [
        ("btnh,bsnh->bnts", "b", "t", "n", ""),
        ("bnth,bnsh->bnts", "b", "t", "n", ""),
        ("bsnh,btnh->bnst", "b", "t", "n", ""),
        ("tnh,snh->nts", "", "t", "n", ""),
        ("bth,bsh->bts", "b", "t", "", ""),
        ("th,sh->ts", "", "t", "", ""),
        ("btkgh,bskh->bkgts", "b", "t", "k", "g"),
        ("bkgth,bksh->bkgts", "b", "t", "k", "g"),
        ("btgh,bsh->bgts", "b", "t", "", "g"),
        ("bxkgh,bskh->bkgxs", "b", "x", "k", "g"),
        ("btkxh,bskh->bkxts", "b", "t", "k", "x"),
        ("btgknh,bsnh->bntgks", "b", "tgk", "n", ""),
        ("tnh,bsnh->bnts", "b", "t", "n", ""),
        ("nth,bsnh->bnts", "b", "t", "n", ""),
    ],
)
def test_axes_have_their_usual_roles(equation, lead, queries, shared, grouped) -> None:
    state, found, letters = product(equation)
    roles = roles_of(state, found, [])
    named = lambda axis: "" if axis is None else letters[axis]  # noqa: E731
    assert "".join(map(named, roles.lead)) == lead
    assert "".join(map(named, roles.queries)) == queries
    assert (named(roles.shared), named(roles.grouped)) == (shared, grouped)
    assert [letters[a] for a in roles.keys] == ["s"]


def test_positions_in_a_mask_tell_queries_from_groups() -> None:
    state, found, letters = product("btgh,bsh->bgts")
    band = Band(letters.index("g"), None, 0)
    roles = roles_of(state, found, [band])
    assert [letters[a] for a in roles.queries] == ["g"] and letters[roles.grouped] == "t"


def test_products_that_are_not_of_queries_and_keys() -> None:
    state, found, _ = product("btnh,bsnh->bts")
    assert found is None  # it contracts heads as well
    state, found, letters = product("btnh,bsnh->bnts")
    (node,) = (n for n in state.view.nodes() if n.op == "dot_general")
    assert product_of(state, node, (letters.index("b"),)) is None
    assert product_of(state, node, (None,)) is None
    # A softmax along an axis of queries and one of keys.
    assert product_of(state, node, (letters.index("t"), letters.index("s"))) is None


@pytest.mark.parametrize(
    "equation, fits",
    [
        ("bnts,bsnh->btnh", True),
        ("bnts,bnsh->bnth", True),
        ("bnts,btsh->bnth", False),
        ("bnts,bnth->bnsh", False),
        ("bnts,snh->btnh", False),
        ("bnts,bsnhk->btnhk", False),
    ],
)
def test_values_are_summed_along_keys_alone(equation, fits) -> None:
    v = equation.split(",")[1].split("->")[0]

    def fn(q, k, v):
        w = jnp.einsum("btnh,bsnh->bnts", q, k)
        return jnp.einsum(equation, w, v)

    graph = inline(trace(fn)(shaped("btnh"), shaped("bsnh"), shaped(v)))
    first, root = graph.find("dot_general")
    state = State(Editor(graph), explain=True)
    found = product_of(state, first, (3,))
    side = 0 if root.inputs[0].shape == (B, N, T, S) else 1
    weighted = weighted_of(state, root, side, (0, 1, 2, 3), found)
    assert (weighted is not None) == fits
    if weighted is not None:
        assert (
            weighted.value is graph.inputs[2] and weighted.value.shape[weighted.axes.index(3)] == S
        )
        assert sorted(weighted.result) == [-1, 0, 1, 2]


# Of two inputs with features last, nothing tells which one is the weights.
@pytest.mark.parametrize("out", ["bthk", "bhtk"])
@pytest.mark.parametrize(
    "weights, known", [("dhk", True), ("hdk", True), ("hkd", True), ("hdk", False)]
)
def test_projections_with_their_heads_anywhere(weights, out, known) -> None:
    """No transpose is left, whether heads are the first axis of weights or stand in the middle."""
    sizes = {"d": 6, "h": M, "k": 3}
    own = [array(*(sizes[c] for c in weights), seed=i) for i in range(3)] + [array(M, 3, 6)]

    def fn(x, ws):
        q, k, v = (jnp.einsum(f"btd,{weights}->{out}", x, w) for w in ws[:3])
        keys = out.replace("t", "s")
        p = jax.nn.softmax(jnp.einsum(f"{out},{keys}->bhts", q, k) * 3**-0.5)
        return jnp.einsum(f"{out},hkd->btd", jnp.einsum(f"bhts,{keys}->{out}", p, v), ws[3])

    x = array(2, M, 6)
    fast = jp.optimize((lambda x: fn(x, own)) if known else fn)
    args = (x,) if known else (x, own)
    graph = fast.graph(*args)
    (node,) = graph.find("dot_product_attention")
    assert node.inputs[0].shape == (2, M, M, 3)
    moved = [n for n in graph.find("transpose") if n.output.ndim == 4]
    assert not moved, graph
    np.testing.assert_allclose(fast(*args), fn(x, own), rtol=1e-4, atol=1e-4)
