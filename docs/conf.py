"""How Sphinx builds the documentation: `pip install '.[docs]' && sphinx-build -W docs build/docs`. It needs no network.

The guide is the Markdown of this folder, the project's own files and the notebooks; the reference comes from the
docstrings of the installed package.
"""
import sys
from pathlib import Path

import cnn

sys.path.insert(0, str(Path(__file__).parent / "site"))

project, author = "cnn", "The cnn developers"
release = cnn.__version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "mathml", "pages", "plain_docstrings"]
exclude_patterns = ["site"]
html_theme, html_title, html_show_copyright, html_copy_source = "furo", "cnn", False, False
html_math_renderer, html_static_path, html_css_files = "mathml", ["site/static"], ["wide.css"]

myst_enable_extensions = ["dollarmath"]
myst_fence_as_directive = ["math"]
myst_heading_anchors = 3

autodoc_default_options = {"members": True, "member-order": "bysource"}
autodoc_inherit_docstrings = False
autodoc_preserve_defaults = True
autodoc_typehints_format = "short"
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 88
suppress_warnings = ["ref.python"]      # Linear and Sequential are layers, and schedules, too
default_role = "code"
smartquotes = False
toc_object_entries_show_parents = "hide"
