"""Sphinx: myst pages, API from docstrings. `make docs` builds with warnings as errors."""

import bftembed

project = "bftembed"
author = "The bftembed developers"
copyright = "2026, the bftembed developers"
release = bftembed.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
source_suffix = {".md": "markdown"}
exclude_patterns = ["_build"]
myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3

html_theme = "furo"
html_title = "bftembed"
html_static_path = ["_static"]

autodoc_typehints = "none"
autodoc_member_order = "bysource"
autodoc_default_options = {"members": True}
napoleon_google_docstring = False
napoleon_use_rtype = False
napoleon_use_ivar = True

# Names of parameters in single backticks, such as `out`, are also those of fields of several classes.
suppress_warnings = ["ref.python"]
