"""Build the documentation as a site: `make docs`.

The site of a version lies in OUT/VERSION, those of other versions stay, and OUT/index.html lists
all of them. Nothing is downloaded.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import tyro
from markupsafe import escape

from docs.site.check import problems
from docs.site.openapi import document, render
from docs.site.stage import Site
from pages.page import page

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "client"))
DEVELOPMENT = "development"  # version of a site that is not of a release
VERSION = re.compile(r"[0-9A-Za-z][\w.+-]*", re.ASCII)


@dataclass(frozen=True)
class Build:
    """Build the documentation as a site, and check it."""

    version: str = DEVELOPMENT
    """Version of the site, such as 0.2.0."""
    out: Path = ROOT / "build/docs/site"
    """Directory of the sites of all versions."""


def build(options: Build) -> int:
    """Build, check and list.

    1: Sphinx has a warning, or the site a broken or external address. 2: the version is no name of
    a directory below `out`, which is emptied first.
    """
    if not VERSION.fullmatch(options.version):
        rule = "must begin with a letter or digit, then letters, digits and . _ + -"
        print(f"--version: {rule}, got {options.version!r}", file=sys.stderr)
        return 2
    source = ROOT / "build/docs/source"
    write_source(source)
    site = options.out.resolve() / options.version
    shutil.rmtree(site, ignore_errors=True)
    command = [
        sys.executable, "-m", "sphinx", "--builder", "html", "--fail-on-warning", "--keep-going",
        "--quiet", "--fresh-env", "--conf-dir", str(ROOT / "docs/site"),
        "--doctree-dir", str(ROOT / "build/docs/doctrees"), str(source), str(site),
    ]  # fmt: skip
    built = subprocess.run(command, env={**os.environ, "DOCS_VERSION": options.version}, cwd=ROOT)
    if built.returncode:
        return 1
    lines = sorted(problems(site))
    print(*lines, sep="\n", end="\n" if lines else "", file=sys.stderr)
    (options.out / "index.html").write_text(list_versions(options.out), "utf-8")
    print(site / "index.html")
    return 1 if lines else 0


def write_source(source: Path) -> None:
    """Write the pages of the site, with the OpenAPI document of the committed bundle."""
    from rerank_client import __all__ as client_names

    shutil.rmtree(source, ignore_errors=True)
    source.mkdir(parents=True)
    openapi = document(ROOT / "bundles/ranklens/1")
    (source / "openapi.json").write_text(json.dumps(openapi, indent=1) + "\n", "utf-8")
    Site(ROOT, source).write(render(openapi, "openapi.json"), list(client_names))


def list_versions(out: Path) -> str:
    """Return a page with the versions whose sites lie below a directory, the latest first."""
    versions = [path.parent.name for path in out.glob("*/index.html")]
    versions.sort(key=version_key, reverse=True)
    names = map(escape, versions)
    lines = (f'<li><a href="{name}/index.html">{name}</a></li>' for name in names)
    return page("Versions of the documentation", "<ul>\n" + "\n".join(lines) + "\n</ul>\n")


def version_key(name: str) -> tuple[int, ...]:
    """Order versions by their numbers; one without numbers, the development version, is first."""
    numbers = name.split(".")
    return tuple(map(int, numbers)) if all(map(str.isdigit, numbers)) else (sys.maxsize,)


if __name__ == "__main__":
    sys.exit(build(tyro.cli(Build, prog="python -m docs.site")))
