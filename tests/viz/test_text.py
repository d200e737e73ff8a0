import html
import xml.etree.ElementTree as ET

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from drawings import NASTY

from jaxpress.capture import trace
from jaxpress.viz.text import array_text, clean, count_text, literal_text, param_text, shape_text


@pytest.mark.parametrize("name", NASTY)
def test_clean_gives_one_printable_line_that_xml_can_hold(name: str) -> None:
    text = clean(name, 200)
    assert text.isprintable()
    assert ET.fromstring(f"<a>{html.escape(text)}</a>").text == text


def test_clean_shows_what_it_cannot_print() -> None:
    assert clean("a\nb\tc") == "a\\nb\\tc"
    assert clean("\x07\ud800\u2028") == "\\x07\\ud800\\u2028"
    assert clean("naïve 形 🎉") == "naïve 形 🎉"


def test_clean_cuts_long_names() -> None:
    assert clean("x" * 60) == "x" * 60
    assert clean("x" * 61) == "x" * 59 + "…"


def test_shapes() -> None:
    assert shape_text((2, 3)) == "2×3"
    assert shape_text(()) == "scalar"
    rows = jax.export.symbolic_shape("batch, 4")
    assert shape_text(rows) == "batch×4"


def test_arrays_name_their_dtype_unless_it_is_the_usual_one() -> None:
    graph = trace(lambda a, b, k: (a, b, k))(
        jnp.ones((2, 3)), jnp.ones(4, jnp.bfloat16), jax.random.key(0)
    )
    a, b, key = graph.inputs
    assert array_text(a, "f32") == "2×3"
    assert array_text(a) == "2×3 f32"
    assert array_text(b, "f32") == "4 bf16"
    assert array_text(key, "f32") == "scalar key<fry>"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.5, "0.5"),
        (np.float32(1e-5), "1e-05"),
        (np.float32(0.1), "0.1"),
        (-np.inf, "-inf"),
        (True, "True"),
        (np.int32(7), "7"),
        (2.0, "2"),
    ],
)
def test_literals(value: object, text: str) -> None:
    assert literal_text(value) == text


def test_a_literal_of_a_graph_is_written_as_its_number() -> None:
    graph = trace(lambda x: jax.lax.fori_loop(0, 3, lambda i, x: x + 1, x))(1)
    literals = {literal_text(v) for node in graph.walk() for v in node.inputs if hasattr(v, "val")}
    assert "1" in literals
    assert all(len(text) <= 3 for text in literals)


@pytest.mark.parametrize(
    ("n", "text"),
    [(0, "0"), (12, "12"), (999, "999"), (999.6, "1k"), (25_600_000, "25.6M"), (2e18, "2000P")],
)
def test_counts(n: float, text: str) -> None:
    assert count_text(n) == text


def test_parameters_are_the_same_in_every_run() -> None:
    class Thing:
        pass

    thing = Thing()
    assert "0x" in repr(thing)
    assert param_text(thing) == param_text(Thing())
    assert param_text((1, "a")) == "(1, a)"
    assert param_text(lambda x: x) == "<lambda>"
    assert param_text(jax.make_jaxpr(jnp.sin)(1.0)) == "(body)"
    assert len(param_text("y" * 500)) == 120


def test_a_callable_with_a_text_of_its_own_is_shown_by_it() -> None:
    from jaxpress.nnops.activation_spec import to_activation

    assert param_text(to_activation("relu6", "test")) == "relu6"
