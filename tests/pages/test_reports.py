"""Pages of reports: one file each, and links that lead somewhere."""

import base64
import hashlib
import json
import re
from html.parser import HTMLParser

import pytest

from pages.figures import save
from pages.page import ASSETS, is_numeric, slug
from pages.reports import UnknownReportError, report_names, write_index, write_reports


class Elements(HTMLParser):
    """Collects tags with their attributes."""

    def __init__(self, text):
        super().__init__()
        self.tags = []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))


def draw(report, path):
    from matplotlib.figure import Figure

    figure = Figure()
    figure.subplots().plot(report["values"])
    save(figure, path)


DRAWINGS = {"plot.png": ("data.json", draw)}


@pytest.fixture
def reports(tmp_path):
    root = tmp_path / "docs" / "reports"
    (root / "deep").mkdir(parents=True)
    (root / "a.md").write_text(
        "# A\n\n[b](deep/b.md#x) [c](../c.md) [d](https://example.org/) [e](#a)\n\n"
        "![Plot](plot.png)\n\n![Other](other.png)\n"
    )
    (root / "deep" / "b.md").write_text("# B\n\n[a](../a.md)\n\n![Plot](plot.png)\n")
    (root.parent / "c.md").write_text("# C\n")
    (root / "data.json").write_text(json.dumps({"values": [1, 2]}))
    for image in ("plot.png", "other.png", "deep/plot.png"):
        (root / image).write_bytes(b"png")
    return root


def test_a_plot_is_svg_where_its_json_lies_and_else_the_committed_image(reports, tmp_path):
    names = report_names(reports)
    assert names == ["a", "deep/b"]
    first, second = write_reports(reports, names, tmp_path / "pages", DRAWINGS)
    assert (first.read_text().count("<svg"), first.read_text().count("<img")) == (1, 1)
    assert (second.read_text().count("<svg"), second.read_text().count("<img")) == (0, 1)


def test_links_between_reports_lead_to_pages_and_others_to_their_files(reports, tmp_path):
    pages = tmp_path / "pages"
    first, second = write_reports(reports, report_names(reports), pages, {})
    links = [a["href"] for tag, a in Elements(first.read_text()).tags if tag == "a"]
    assert links == [
        "#content", "deep/b.html#x", "../docs/c.md", "https://example.org/", "#a",
    ]  # fmt: skip
    assert '<a href="../a.html">' in second.read_text()
    assert (pages / links[1].partition("#")[0]).is_file()
    assert (pages / links[2]).is_file()


def test_a_page_loads_nothing_and_runs_only_the_script_of_its_policy(reports, tmp_path):
    (path,) = write_reports(reports, ["a"], tmp_path, DRAWINGS)
    text = path.read_text()
    tags = Elements(text).tags
    sources = [a["src"] for _, a in tags if "src" in a]
    sources += [a["href"] for tag, a in tags if tag == "link"]
    assert all(source.startswith("data:") for source in sources)
    assert "@import" not in text
    assert not [name for _, a in tags for name in a if name.startswith("on")]
    (policy,) = (a["content"] for tag, a in tags if a.get("http-equiv"))
    (script,) = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert policy.startswith("default-src 'none'; ")
    assert f"script-src 'sha256-{digest}';" in policy


def test_the_index_links_every_page_by_its_title(reports, tmp_path):
    path = write_index(reports, report_names(reports), tmp_path)
    assert '<td><a href="deep/b.html">deep/b</a></td><td>B</td>' in path.read_text()


def test_an_unknown_report_is_refused_with_the_names_that_there_are(reports, tmp_path):
    with pytest.raises(UnknownReportError, match=r"no report 'z'; it has a, deep/b"):
        write_reports(reports, ["a", "z"], tmp_path / "pages", {})
    assert not (tmp_path / "pages").exists()


@pytest.mark.parametrize(
    ("cells", "numeric"),
    [
        (["1", "-2.5 [-3, -2]", "−1", "+0.1", "< 0.001", "1,000", "3..4", "none", "-", ""], True),
        (["1", "two"], False),
        (["e5", "1"], False),
        (["-", "none"], False),
        ([], False),
    ],
)
def test_a_column_is_numeric_if_every_present_cell_begins_with_a_number(cells, numeric):
    assert is_numeric(cells) is numeric


def test_repeated_headings_get_ids_of_their_own():
    assert slug("A, b & c!") == "a-b--c"
    assert slug("A", {"a", "a-1"}) == "a-2"


def test_light_and_dark_have_the_same_colours_by_name():
    blocks = re.findall(r":root \{(.*?)\}", (ASSETS / "style.css").read_text(), re.DOTALL)[:2]
    names = [set(re.findall(r"(--[a-z]+):", block)) for block in blocks]
    assert names[0] == names[1] >= {"--surface", "--text"}
