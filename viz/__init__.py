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
from jaxpress.viz.table import OpRow, op_rows, op_table

__all__ = [
    "NotRenderable",
    "OpRow",
    "OptionError",
    "OutputError",
    "RenderError",
    "RendererNotFound",
    "UnknownFormat",
    "op_rows",
    "op_table",
    "render",
]
