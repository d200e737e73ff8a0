"""How Sphinx builds these pages: `sphinx-build -W docs site`."""

import jaxpress

project = "jaxpress"
author = "The jaxpress authors"
release = jaxpress.__version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
exclude_patterns = ["_build"]
root_doc = "index"
html_theme = "alabaster"
html_title = f"jaxpress {release}"
html_theme_options = {
    "description": "See the graph of a JAX model, make it fast, change it.",
    "fixed_sidebar": True,
    "page_width": "70em",
}
myst_heading_anchors = 3
autodoc_member_order = "bysource"
autodoc_typehints = "none"  # signatures have them; docstrings say shapes and units
autodoc_default_options = {"members": True, "show-inheritance": False}
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True  # a field of a NamedTuple is a member too, and would be listed twice
