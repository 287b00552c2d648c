"""Render report pages from the templates of this package."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jinja2

TEMPLATES = jinja2.Environment(
    loader=jinja2.FileSystemLoader(Path(__file__).with_name("templates")),
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
    autoescape=False,  # Markdown
)


def render(template: str, **values: Any) -> str:
    """Fill a template of `templates/`. Raises jinja2.UndefinedError for a missing value."""
    return TEMPLATES.get_template(template).render(**values)
