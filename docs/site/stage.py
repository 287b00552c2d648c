"""Arrange the Markdown of the repository as the source of a site, with its navigation.

Pages keep their text. Links between them lead to the pages of the site, links to other files to
copies of these, and links to directories to pages with their files.
"""

from __future__ import annotations

import posixpath
import re
import shutil
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

INDEX = "docs/README.md"
# Pages outside of docs/ -> their names on the site.
ELSEWHERE = {
    "README.md": "start.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "reporting.md",
    "client/README.md": "packages/client.md",
    "data/README.md": "packages/data.md",
    "native/README.md": "packages/native.md",
}
LINK = re.compile(r"(?<=\]\()(?!https?:|mailto:|#)([^)#\s]+)((?:#[^)\s]+)?)(?=\))")
# A link to a page of the host of the repository, which a site elsewhere cannot have.
HOSTED = re.compile(r"\[[^]]+\]: (\.\./)+(compare|releases)/")
FENCE = re.compile(r"^\s*(```|~~~)")
SECTION = re.compile(r"^## (.+)$", re.MULTILINE)
# Suffix of a file in a directory's page -> language of its text there; others are downloads.
SHOWN_AS = {".py": "python", ".mjs": "javascript", ".java": "java"}
REFERENCE = ("http-api", "client-api")  # pages that the build writes
CLIENT_API = """# API of the Python client

[client.md](client.md) explains its use; this page is made from the docstrings.

```{eval-rst}
.. currentmodule:: rerank_client

"""


@dataclass
class Site:
    """The source of a site.

    Args:
        root: The checkout.
        source: Directory that gets the pages; it must not exist.
    """

    root: Path
    source: Path
    texts: dict[str, str] = field(default_factory=dict)  # page -> its Markdown
    directories: set[str] = field(default_factory=set)  # linked directories of the checkout

    def pages(self) -> dict[str, str]:
        """Return the page of every Markdown file, by their paths in checkout and site."""
        documents = sorted((self.root / "docs").rglob("*.md"))
        names = [path.relative_to(self.root).as_posix() for path in documents]
        return {name: page_name(name) for name in [*names, *ELSEWHERE]}

    def write(self, http_api: str, client_names: list[str]) -> None:
        """Write all pages and copy the files that they link.

        Args:
            http_api: Markdown of the page about the HTTP API.
            client_names: Public names of the client, for its reference.

        Raises ValueError for a link to a missing file.
        """
        for document, page in self.pages().items():
            text = (self.root / document).read_text("utf-8")
            self.texts[page] = self.rewrite(text, document)
        self.texts["http-api.md"] = http_api
        self.texts["client-api.md"] = client_reference(client_names)
        for directory in sorted(self.directories):
            self.texts[directory_page(directory)] = self.list_directory(directory)
        self.add_navigation()
        for page, text in self.texts.items():
            path = self.source / page
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, "utf-8")

    def rewrite(self, text: str, document: str) -> str:
        """Return Markdown whose links lead to places of the site; code stays as it is."""
        lines, fenced = [], False
        for line in text.splitlines(keepends=True):
            if FENCE.match(line):
                fenced = not fenced
            elif HOSTED.match(line):
                continue
            elif not fenced:
                line = LINK.sub(lambda match: self.address(document, match), line)
            lines.append(line)
        return "".join(lines)

    def address(self, document: str, match: re.Match[str]) -> str:
        """Return the address of a link on the site. Raises ValueError for a missing target."""
        target = posixpath.normpath(posixpath.join(posixpath.dirname(document), match[1]))
        path = self.root / target
        if path.is_dir():
            self.directories.add(target)
            place = directory_page(target)
        elif not path.is_file():
            raise ValueError(f"{document}: {match[1]} is no file of the checkout")
        elif target in ELSEWHERE or (target.startswith("docs/") and target.endswith(".md")):
            place = page_name(target)
        else:
            place = self.copy(target)
        return posixpath.relpath(place, posixpath.dirname(page_name(document))) + match[2]

    def copy(self, file: str) -> str:
        """Copy a file of the checkout, and return its place on the site.

        Markdown that is no page gets another suffix, so that it stays a download.
        """
        place = file.removeprefix("docs/") if file.startswith("docs/") else f"files/{file}"
        place += ".txt" if place.endswith(".md") else ""
        path = self.source / place
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(self.root / file, path)
        return place

    def list_directory(self, directory: str) -> str:
        """Return a page with the files of a directory: programs as text, others as downloads."""
        lines = [f"# Files of {directory}\n"]
        for path in sorted((self.root / directory).iterdir()):
            name = f"{directory}/{path.name}"
            if path.suffix in SHOWN_AS:
                text = path.read_text("utf-8").rstrip()
                lines.append(f"## {path.name}\n\n```{SHOWN_AS[path.suffix]}\n{text}\n```\n")
            elif path.is_file():
                place = page_name(name) if path.suffix == ".md" else self.copy(name)
                here = posixpath.dirname(directory_page(directory))
                lines.append(f"- [{path.name}]({posixpath.relpath(place, here)})")
        return "\n".join(lines) + "\n"

    def add_navigation(self) -> None:
        """Give every section of the index a page, and every page a place in the navigation."""
        sections = sections_of(self.texts["index.md"])
        sections["Reference"] = [f"{name}.md" for name in REFERENCE]
        decisions = linked_pages(self.texts["decisions/index.md"], "decisions")
        placed = {page for pages in sections.values() for page in pages} | {*decisions}
        for page in sorted(set(self.texts) - placed - {"index.md", "start.md"}):
            measured = page.startswith(("reports/", "files/docs/reports"))
            sections["Measurements" if measured else "Work on the code"].append(page)
        self.texts["decisions/index.md"] += toctree(decisions, "decisions")
        for title, pages in sections.items():
            self.texts[section_page(title)] = f"# {title}\n" + toctree(pages, hidden=False)
        self.texts["index.md"] += toctree(["start.md", *map(section_page, sections)])


def page_name(document: str) -> str:
    """Return the place on the site of a Markdown file of the checkout."""
    if document in ELSEWHERE:
        return ELSEWHERE[document]
    path = PurePosixPath(document.removeprefix("docs/"))
    return str(path.with_name("index.md") if path.name == "README.md" else path)


def directory_page(directory: str) -> str:
    """Return the place on the site of the page about a directory."""
    return f"files/{directory}.md"


def section_page(title: str) -> str:
    """Return the place on the site of a section of the index."""
    return title.lower().replace(" ", "-") + ".md"


def sections_of(index: str) -> dict[str, list[str]]:
    """Return the pages that each section of the index links, in order."""
    parts = SECTION.split(index)[1:]
    return {
        title: linked_pages(text, "") for title, text in zip(parts[::2], parts[1::2], strict=True)
    }


def linked_pages(text: str, directory: str) -> list[str]:
    """Return the pages that Markdown links, each once and in order."""
    joined = (posixpath.join(directory, match[1]) for match in LINK.finditer(text))
    pages = (posixpath.normpath(address) for address in joined if address.endswith(".md"))
    return list(dict.fromkeys(pages))


def toctree(pages: list[str], directory: str = "", hidden: bool = True) -> str:
    """Return the directive that puts pages below the page that has it."""
    names = [posixpath.relpath(page.removesuffix(".md"), directory or ".") for page in pages]
    names = [f"Start <{name}>" if name == "start" else name for name in names]
    options = ":hidden:\n" if hidden else ":maxdepth: 1\n"
    return "\n```{toctree}\n" + options + "\n" + "\n".join(names) + "\n```\n"


def client_reference(names: list[str]) -> str:
    """Return the page about the public names of the client: classes with their methods."""
    entries = [
        f".. autoclass:: {name}\n   :members:\n   :inherited-members: Exception, tuple\n"
        for name in names
    ]
    return CLIENT_API + "\n".join(entries) + "```\n"
