"""From pytrees to flat inputs, and back."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxpress.capture import ArgumentError, trace
from jaxpress.capture.signature import Signature

TREES = st.recursive(
    st.integers(0, 9) | st.none(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text("abc", min_size=1), inner, max_size=3)
        | st.tuples(inner, inner)
    ),
    max_leaves=8,
)


def signature_of(args: Any, kwargs: Any, out: Any, **more: Any) -> Signature:
    dynamic = tuple(a for i, a in enumerate(args) if i not in more.get("static_args", {}))
    n = len(jax.tree.leaves((dynamic, kwargs)))
    return Signature(
        function="f",
        in_tree=jax.tree.structure((dynamic, kwargs)),
        out_tree=jax.tree.structure(out),
        arg_names=tuple(f"x{i}" for i in range(n)),
        result_paths=tuple(f"y{i}" for i in range(len(jax.tree.leaves(out)))),
        **more,
    )


@given(st.lists(TREES, max_size=3), st.dictionaries(st.text("abc", min_size=1), TREES, max_size=2))
def test_flattening_and_unflattening(args: list[Any], kwargs: dict[str, Any]) -> None:
    signature = signature_of(tuple(args), kwargs, (args, kwargs))
    flat = signature.flatten(tuple(args), kwargs)
    assert flat == jax.tree.leaves((args, kwargs))
    assert signature.unflatten(flat) == (args, kwargs)


@given(TREES, TREES)
def test_another_structure_is_refused(one: Any, other: Any) -> None:
    signature = signature_of((one,), {}, 0)
    if jax.tree.structure(one) == jax.tree.structure(other):
        assert signature.flatten((other,), {}) == jax.tree.leaves(other)
    else:
        with pytest.raises(ArgumentError, match="pass the same pytrees"):
            signature.flatten((other,), {})


def test_static_arguments_are_left_out_and_compared() -> None:
    signature = signature_of((1, "a", 2), {}, 0, static_args={1: "a"}, static_kwargs={"k": True})
    assert signature.flatten((3, "a", 4), {"k": True}) == [3, 4]
    assert signature.flatten((3, "a", 4), {}) == [3, 4]
    with pytest.raises(ArgumentError, match="static argument 1 = 'a', and called with 'b'"):
        signature.flatten((3, "b", 4), {})
    with pytest.raises(ArgumentError, match="static k=True, and called with False"):
        signature.flatten((3, "a", 4), {"k": False})


def test_extra_outputs_come_in_the_order_of_their_names() -> None:
    signature = signature_of((), {}, {"out": 0}).with_extra_outputs(("z", "a"))
    assert signature.unflatten([1, 2, 3]) == ({"out": 1}, {"a": 2, "z": 3})
    assert signature.result_paths == ("y0", "extra['a']", "extra['z']")


@pytest.mark.parametrize(
    ("args", "kwargs"),
    [((), {}), ((1.0, 2.0, 3.0), {}), ((1.0,), {"y": 2.0}), (([1.0], 2.0), {})],
)
def test_a_graph_says_which_structure_it_wants(args: Any, kwargs: Any) -> None:
    with pytest.raises(ArgumentError, match="fn was traced with arguments of structure"):

        def fn(x, y):
            return x + y

        trace(fn)(1.0, 2.0)(*args, **kwargs)


def test_custom_nodes_survive() -> None:

    jax.tree_util.register_pytree_node(
        Both := type("Both", (tuple,), {}), lambda b: (tuple(b), None), lambda _, b: Both(b)
    )
    graph = trace(lambda b: Both([b[1] * 2, b[0]]))(Both([jnp.ones(2), 3.0]))
    out = graph(Both([jnp.ones(2), 4.0]))
    assert type(out) is Both
    assert float(out[0]) == 8.0
