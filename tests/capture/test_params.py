"""Parameters as short text."""

from __future__ import annotations

import enum
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax import lax
from programs import PROGRAMS, f32

from jaxpress import nnops
from jaxpress.capture import trace
from jaxpress.capture.params import one_line, param_texts, short


class Kind(enum.IntEnum):
    ONE = 1


class Numbers(NamedTuple):
    a: tuple[int, ...]
    b: Any


def texts(fn: Any, *args: Any) -> dict[str, str]:
    return param_texts(trace(fn)(*args).nodes[0])


NUMBERS = ("NHWC", "HWIO", "NHWC")


def conv(**params: Any) -> dict[str, str]:
    def fn(x, w):
        given = {"window_strides": (1, 1), "padding": "VALID", **params}
        return lax.conv_general_dilated(x, w, dimension_numbers=NUMBERS, **given)

    return texts(fn, f32(1, 8, 8, 2), f32(3, 3, 2 // params.get("feature_group_count", 1), 4))


def test_what_nobody_asked_for_is_left_out() -> None:
    assert conv() == {"layout": "NHWC,HWIO,NHWC"}
    assert conv(window_strides=(2, 1), padding=[(1, 1), (0, 0)], feature_group_count=2) == {
        "feature_group_count": "2",
        "layout": "NHWC,HWIO,NHWC",
        "padding": "((1, 1), (0, 0))",
        "window_strides": "(2, 1)",
    }
    assert conv(rhs_dilation=(2, 2))["rhs_dilation"] == "(2, 2)"
    assert texts(jnp.sin, 1.0) == {}
    assert texts(lambda x: x.astype(int), 1.0) == {}
    assert texts(lambda x: lax.pad(x, 0.0, [(0, 0, 0)]), f32(3)) == {}
    assert texts(lambda x: lax.reshape(x, (3, 1)), f32(3)) == {}
    assert texts(lambda x: lax.reshape(x, (3, 1), (1, 0)), f32(1, 3)) == {"dimensions": "(1, 0)"}


def test_a_named_op_shows_a_layout_that_is_not_the_usual_one() -> None:
    x, w = f32(1, 8, 8, 2), f32(3, 3, 2, 4)
    assert texts(lambda x, w: nnops.conv(x, w, padding="VALID"), x, w) == {}
    first = ("NCHW", "HWIO", "NCHW")
    found = texts(lambda x, w: nnops.conv(x, w, dimension_numbers=first), f32(1, 2, 8, 8), w)
    assert found == {
        "dimension_numbers": "(NCHW, HWIO, NCHW)",
        "padding": "((1, 1), (1, 1))",
    }


@pytest.mark.parametrize(
    ("spec", "shapes", "layout"),
    [
        (("NCW", "OIW", "NCW"), ((1, 2, 8), (4, 2, 3)), "NCW,OIW,NCW"),
        (("NDHWC", "DHWIO", "NCDHW"), ((1, 8, 8, 8, 2), (3, 3, 3, 2, 4)), "NDHWC,DHWIO,NCDHW"),
        (("NC", "OI", "NC"), ((1, 2), (4, 2)), "NC,OI,NC"),
    ],
)
def test_layouts_are_letters(spec: Any, shapes: Any, layout: str) -> None:
    def fn(x, w):
        strides = (1,) * (x.ndim - 2)
        return lax.conv_general_dilated(x, w, strides, "SAME", dimension_numbers=spec)

    assert texts(fn, *(f32(*s) for s in shapes))["layout"] == layout


def test_contractions() -> None:
    assert texts(jnp.dot, f32(2, 3), f32(3)) == {"contract": "((1,), (0,))"}
    batched = texts(lambda a, b: jnp.einsum("bij,bjk->bik", a, b), f32(2, 3, 4), f32(2, 4, 5))
    assert batched == {"batch": "((0,), (0,))", "contract": "((2,), (1,))"}
    precise = texts(lambda a: lax.dot(a, a, precision="highest"), f32(2))
    assert precise["precision"] == "(HIGHEST, HIGHEST)"
    wide = texts(
        lambda a: lax.dot(a, a, preferred_element_type="float32"), f32(2).astype("bfloat16")
    )
    assert "preferred_element_type" not in wide


def test_calls_and_loops() -> None:
    def scanned(x):
        return lax.scan(lambda c, y: (c + y * x.sum(), c), 0.0, x, reverse=True)

    node = trace(scanned)(f32(3)).find("scan")[0]
    assert param_texts(node) == {"carry": "1", "consts": "1", "length": "3", "reverse": "True"}
    assert texts(jax.jit(lambda x: x + 1), f32(3)) == {"name": "<lambda>"}
    assert texts(jax.jit(jnp.sin, donate_argnums=0), f32(3))["donated_invars"] == "(True,)"
    assert texts(lambda x: lax.cond(x > 0, jnp.sin, jnp.cos, x), 1.0) == {}
    node = trace(lambda x: lax.cond(x > 0, jnp.sin, jnp.cos, x))(1.0).find("cond")[0]
    assert param_texts(node) == {}


@pytest.mark.parametrize("name", PROGRAMS)
def test_texts_are_short_and_ordered(name: str) -> None:
    fn, args = PROGRAMS[name]()
    for node in trace(fn)(*args).walk():
        found = param_texts(node)
        assert list(found) == sorted(found)
        for text in found.values():
            assert text.isprintable() and len(text) <= 60 and "0x" not in text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("relu6", "relu6"),
        ((1,), "(1,)"),
        ([(1, 2), ()], "((1, 2), ())"),
        (Numbers((1, 2), None), "Numbers(a=(1, 2), b=None)"),
        (frozenset({"y", "x"}), "{x, y}"),
        ({"b": 1, "a": (2,)}, "{b: 1, a: (2,)}"),
        (np.dtype("float32"), "f32"),
        (np.float32(0.5), "0.5"),
        (np.arange(3), "i64[3]"),
        (Kind.ONE, "ONE"),
        (lax.Precision.HIGHEST, "HIGHEST"),
        (jnp.sin, "sin"),
        (functools.partial(max, 1), "functools.partial(<built-in function max>, 1)"),
        (object(), "<object>"),
    ],
)
def test_short(value: Any, text: str) -> None:
    assert short(value) == text


@given(st.text(), st.none() | st.integers(3, 20))
def test_one_line(text: str, limit: int | None) -> None:
    line = one_line(text, limit)
    assert line.isprintable()
    assert limit is None or len(line) <= limit
    if text.isprintable() and (limit is None or len(text) <= limit):
        assert line == text
