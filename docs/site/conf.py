"""Settings of Sphinx for the documentation; `docs.site` sets the version in the environment."""

import os
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "client"))

project = "EGLR re-ranking service"
version = release = os.environ["DOCS_VERSION"]
html_title = f"{project}, {version}"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]

myst_heading_anchors = 4
suppress_warnings = ["misc.highlighting_failure"]  # JSON with dots, as in the pages
smartquotes = False
default_role = "code"  # docstrings mark code with one backquote
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
napoleon_numpy_docstring = False

html_theme = "pydata_sphinx_theme"
html_static_path = [str(ROOT / "pages" / "assets" / "tables.js"), str(ROOT / "docs/site/site.css")]
html_js_files = [("tables.js", {"defer": "defer"})]
html_css_files = ["site.css"]
html_favicon = str(ROOT / "docs" / "site" / "icon.svg")
html_copy_source = False
html_show_sourcelink = False
html_show_sphinx = False
html_context = {"default_mode": "auto"}  # light or dark, as the reader's system
html_theme_options = {
    "logo": {"text": "EGLR re-ranking"},
    "header_links_before_dropdown": 7,
    "navbar_align": "left",
    "navbar_end": ["version", "theme-switcher"],
    "footer_start": [],
    "footer_end": [],
    "secondary_sidebar_items": ["page-toc"],
    "show_prev_next": False,
}
templates_path = [str(ROOT / "docs" / "site" / "templates")]
