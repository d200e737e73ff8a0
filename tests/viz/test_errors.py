import pytest

from jaxpress.capture.errors import JaxpressError
from jaxpress.viz import errors


@pytest.mark.parametrize("name", errors.__all__)
def test_every_error_is_jaxpress_own(name: str) -> None:
    assert issubclass(getattr(errors, name), JaxpressError)


def test_they_are_also_what_people_expect_to_catch() -> None:
    assert issubclass(errors.OutputError, OSError)
    assert issubclass(errors.UnknownFormat, ValueError)
    assert issubclass(errors.OptionError, ValueError)
    assert issubclass(errors.RendererNotFound, ImportError)
    assert issubclass(errors.NotRenderable, TypeError)


def test_a_missing_renderer_says_what_to_install_and_what_works_without() -> None:
    text = str(errors.RendererNotFound(".svg"))
    assert 'pip install "jaxpress[graphviz]"' in text
    assert ".svg" in text
    assert ".dot" in text


def test_an_unknown_format_lists_the_known_ones() -> None:
    text = str(errors.UnknownFormat(".gif", (".svg", ".dot")))
    assert "'.gif'" in text
    assert ".svg, .dot" in text
    assert "no suffix" in str(errors.UnknownFormat("", (".svg",)))
