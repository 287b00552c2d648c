"""Render report pages from the templates of this package, and record how a report was made."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Any

import jinja2
import torch

from model.data.intervals import format_interval
from model.learning.state import current_commit


def short_commit(commit: str) -> str:
    """Shorten a commit's 40 digits to seven; keep the suffix of a tree that differs from it."""
    digits, dash, suffix = commit.partition("-")
    return digits[:7] + dash + suffix


def provenance(command_line: str) -> dict[str, str]:
    """Return the command, commit and machine that figures come from, for a report's JSON."""
    cores = os.cpu_count()
    versions = f"Python {platform.python_version()}, torch {torch.__version__.split('+')[0]}"
    return {
        "command": command_line,
        "commit": current_commit(),
        "machine": f"{platform.machine()}, {cores} cores, {versions}",
    }


def render(template: str, **values: Any) -> str:
    """Fill a template of `templates/`. Raises jinja2.UndefinedError for a missing value."""
    return TEMPLATES.get_template(template).render(**values)


TEMPLATES = jinja2.Environment(
    loader=jinja2.FileSystemLoader(Path(__file__).with_name("templates")),
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
    autoescape=False,  # Markdown
)
TEMPLATES.filters["interval"] = format_interval
TEMPLATES.filters["short"] = short_commit
