"""Check a built site: it loads nothing from elsewhere, and every page can be reached."""

from __future__ import annotations

import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

LOADED = {"script": "src", "img": "src", "iframe": "src", "source": "src", "link": "href"}
ELSEWHERE = re.compile(r"(https?:)?//")
IN_STYLES = re.compile(r"""(?:url\(|@import)\s*["']?((?:https?:)?//[^"')]+)""")
SEPARATE = ("genindex.html", "py-modindex.html", "search.html")  # reached from the header


class Page(HTMLParser):
    """The addresses that a page loads and links, and its ids."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.links: list[str] = []
        self.ids: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Collect the addresses of a tag."""
        values = {name: value or "" for name, value in attrs}
        if LOADED.get(tag) in values:
            self.loads.append(values[LOADED[tag]])
        if tag == "a" and "href" in values:
            self.links.append(values["href"])
        if "id" in values:
            self.ids.add(values["id"])


def problems(site: Path) -> Iterator[str]:
    """Yield one line for each broken or external address, and for each page without a way to it.

    Args:
        site: Directory of a built site, whose first page is index.html.
    """
    pages = {
        path: Page(path.read_text("utf-8"))
        for path in sorted(site.rglob("*.html"))
        if path.relative_to(site).parts[0] != "_static"  # templates of the theme
    }
    reached, waiting = {site / "index.html"}, [site / "index.html"]
    for path, page in pages.items():
        name = path.relative_to(site)
        yield from (f"{name}: loads {a}" for a in page.loads if ELSEWHERE.match(a))
        for address in (*page.loads, *page.links):
            yield from (f"{name}: {text}" for text in broken(address, path, pages, site))
    while waiting:
        path = waiting.pop()
        for address in pages[path].links if path in pages else ():
            target = target_of(address, path)
            if target in pages and target not in reached:
                reached.add(target)
                waiting.append(target)
    for path in pages.keys() - reached:
        if path.name not in SEPARATE:
            yield f"{path.relative_to(site)}: no page of the site leads to it"
    for path in sorted(site.rglob("*.css")):
        for match in IN_STYLES.finditer(path.read_text("utf-8")):
            yield f"{path.relative_to(site)}: loads {match[1]}"


def broken(address: str, path: Path, pages: dict[Path, Page], site: Path) -> Iterator[str]:
    """Yield the reason why a local address leads nowhere, if it does not."""
    parts = urlsplit(address)
    if parts.scheme or parts.netloc:
        return
    target = target_of(address, path)
    if target is None or not target.is_relative_to(site):
        return  # the list of versions beside the site
    if not target.is_file():
        yield f"{address} does not exist"
    elif parts.fragment and target in pages and unquote(parts.fragment) not in pages[target].ids:
        yield f"{address} has no such heading"


def target_of(address: str, path: Path) -> Path | None:
    """Return the file of a local address on a page, and None for an address elsewhere."""
    parts = urlsplit(address)
    if parts.scheme or parts.netloc:
        return None
    if not parts.path:
        return path
    target = (path.parent / unquote(parts.path)).resolve()
    return target / "index.html" if target.is_dir() else target
