"""Graph -> picture (SVG, DOT, PNG, PDF, HTML), table, JSON."""

from jaxpress.viz.errors import (
    NotRenderable,
    OptionError,
    OutputError,
    RendererNotFound,
    RenderError,
    UnknownFormat,
)
from jaxpress.viz.render import render

__all__ = [
    "NotRenderable",
    "OptionError",
    "OutputError",
    "RenderError",
    "RendererNotFound",
    "UnknownFormat",
    "render",
]
