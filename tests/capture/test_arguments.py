"""What a function is asked to be called with: mistakes are named with the argument."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxpress as jp
from jaxpress.capture.arguments import types_text

X = np.ones((2, 3), np.float32)
SHAPE = jax.ShapeDtypeStruct((2, 3), "float32")


def net(x: Any, n: int = 2) -> Any:
    return jnp.tanh(x) * n


def plain(x: Any) -> Any:
    return jnp.tanh(x)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: jp.trace(plain)("text"), r"args\[0\] of plain is a str, 'text', and no array"),
        (lambda: jp.trace(plain)(x={"k": object()}), r"kwargs\['x'\]\['k'\] of plain is a object"),
        (lambda: jp.optimize(plain)([X, "text"]), r"args\[0\]\[1\] of plain is a str"),
        (lambda: jp.optimize(plain)(SHAPE), "plain was called with a jax.ShapeDtypeStruct"),
        (lambda: jp.trace(plain)(X)("text"), "argument x of plain is 'text', which is no array"),
        (lambda: jp.trace(net, static_argnums=2), "static_argnums has 2, but net takes 2 pos"),
        (lambda: jp.trace(net, static_argnums="n"), "static_argnums is 'n'; give positions of"),
        (lambda: jp.trace(net, static_argnames=1), "static_argnames is 1; give names of"),
        (
            lambda: jp.optimize(net, static_argnames="m"),
            "has 'm', and the arguments of net are x, n",
        ),
        (lambda: jp.optimize(net, weight_argnums=5), "weight_argnums has 5, but net takes 2 pos"),
        (lambda: jp.optimize(net, weight_argnums=(0, -3)), "weight_argnums has -3, but net"),
        (lambda: jp.optimize(net, weight_argnums=None), "positions of arguments, such as 0"),  # type: ignore[arg-type]
        (lambda: jp.verify(plain, 3), "verify takes two functions; the other is 3"),  # type: ignore[arg-type]
        (lambda: jp.verify(None, plain), "the original is None"),  # type: ignore[arg-type]
        (lambda: jp.verify(plain, plain, tolerance=-1.0), "tolerance is -1.0; give a number"),
        (lambda: jp.bisect(plain, X, tolerance="a"), "tolerance is 'a'; give a number"),  # type: ignore[arg-type]
        (lambda: jp.verify(plain, plain)(SHAPE), "a comparison needs values, and ShapeDtype"),
        (lambda: jp.bisect(plain, SHAPE), "a comparison needs values"),
        (lambda: jax.jit(jp.verify(plain, plain))(X), "compare outside of jit"),
    ],
)
def test_a_mistake_is_named(make: Any, said: str) -> None:
    with pytest.raises(jp.ArgumentError, match=said):
        make()


def test_what_may_be_right_is_not_refused() -> None:
    assert jp.trace(lambda *args: -args[2], static_argnums=3)(1, 2, 3, "a").count() == {"neg": 1}
    assert jp.trace(lambda x, **kw: -x, static_argnames="any")(X, any="a").count() == {"neg": 1}

    @functools.wraps(plain)
    def with_weights(w: Any, x: Any) -> Any:
        return plain(x) * w

    assert jp.optimize(with_weights, weight_argnums=(0, 1))(2.0, X).shape == (2, 3)
    assert jp.optimize(jp.optimize(jax.jit(net)), weight_argnums=0)(X).shape == (2, 3)
    assert jp.optimize(jnp.var, static_argnames="axis")(X, axis=0).shape == (3,)


def test_an_error_of_the_function_itself_says_what_it_was_traced_for() -> None:
    with pytest.raises(TypeError, match="contracting") as caught:
        jp.optimize(lambda x: x @ jnp.ones((7, 7)))(X)
    assert "tracing <lambda> for arguments (f32[2,3])" in "".join(caught.value.__notes__)


def test_types_text() -> None:
    assert types_text([X, 1, "a", SHAPE]) == "(f32[2,3], int, str, f32[2,3])"
    assert types_text([1] * 9).endswith(", ...)")
