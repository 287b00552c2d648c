"""The documentation as a site: its navigation, links and OpenAPI page, without the generator."""

import re
import shutil
import subprocess

import pytest

from docs.site import __main__ as build
from docs.site.check import problems
from docs.site.openapi import document, operations, render, type_of
from docs.site.stage import Site
from rerank_client import __all__ as client_names
from tests.support.bundles import BUNDLE, ROOT

TOCTREE = re.compile(r"```\{toctree\}\n(?::\w+:.*\n)*\n(.*?)\n```", re.DOTALL)
LINK = re.compile(r"\]\((?!https?:|mailto:|#)([^)#\s]+)")


@pytest.fixture(scope="module")
def openapi():
    return document(BUNDLE)


@pytest.fixture(scope="module")
def site(tmp_path_factory, openapi):
    source = tmp_path_factory.mktemp("site") / "source"
    source.mkdir()
    (source / "openapi.json").write_text("{}")
    staged = Site(ROOT, source)
    staged.write(render(openapi, "openapi.json"), list(client_names))
    return staged


def below(page, text):
    """Return the pages of the trees of contents on a page."""
    for entries in TOCTREE.findall(text):
        for name in entries.replace("Start <start>", "start").split():
            yield f"{page.parent / name}.md"


def test_every_page_has_one_place_in_the_navigation(site):
    pages = list(site.source.rglob("*.md"))
    places = [
        (site.source / name).resolve()
        for page in pages
        for name in below(page.resolve(), page.read_text("utf-8"))
    ]
    assert len(places) == len(set(places))
    assert set(places) == {path.resolve() for path in pages} - {site.source / "index.md"}
    assert len(pages) > 60


def test_every_document_of_the_repository_is_a_page(site):
    for name in ("README.md", "docs/client.md", "docs/decisions/README.md", "CHANGELOG.md"):
        page = site.source / site.pages()[name]
        assert page.read_text("utf-8").startswith("# ")


def test_every_link_of_the_site_leads_to_a_file_of_it(site):
    missing = []
    for page in site.source.rglob("*.md"):
        text = re.sub(r"^```.*?^```", "", page.read_text("utf-8"), flags=re.DOTALL | re.MULTILINE)
        missing += [
            f"{page.name}: {target}"
            for target in LINK.findall(text)
            if not (page.parent / target).is_file()
        ]
    assert missing == []


def test_a_link_to_a_missing_file_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"docs/a.md: b.md is no file of the checkout"):
        Site(tmp_path, tmp_path / "source").rewrite("[b](b.md)\n", "docs/a.md")


def test_links_in_code_stay_as_they_are(tmp_path):
    text = "```md\n[b](b.md)\n```\n"
    assert Site(tmp_path, tmp_path / "source").rewrite(text, "docs/a.md") == text


def test_the_page_of_the_http_api_has_every_operation_field_and_schema(site, openapi):
    text = (site.source / "http-api.md").read_text("utf-8")
    listed = list(operations(openapi["paths"]))
    assert {"/rerank", "/users", "/feedback"} <= {entry["path"] for entry in listed}
    for entry in listed:
        assert f"\n## {entry['method']} {entry['path']}\n" in text
    for name, schema in openapi["components"]["schemas"].items():
        assert f"\n### {name}\n" in text
        for field in schema.get("properties", ()):
            assert f"\n| `{field}` | " in text
    for target in set(re.findall(r"\]\(#([^)]+)\)", text)):
        assert re.search(rf"^### {target}$", text, re.MULTILINE | re.IGNORECASE)


def test_an_operation_below_v1_is_named_at_its_route(openapi):
    paths = {entry["path"]: entry["alias"] for entry in operations(openapi["paths"])}
    assert paths["/rerank"] == "/v1/rerank"
    assert not [path for path in paths if path.startswith("/v1/")]


def test_a_type_is_said_in_words_with_links():
    schema = {"anyOf": [{"type": "array", "items": {"$ref": "#/x/Item"}}, {"type": "null"}]}
    assert type_of(schema) == "list of [Item](#item) or null"
    assert type_of({"type": "object", "additionalProperties": {"type": "number"}}) == (
        "map to number"
    )


def write(directory, **pages):
    for name, text in pages.items():
        (directory / f"{name}.html").write_text(text)
    return directory


def test_a_site_whose_pages_link_each_other_has_no_problem(tmp_path):
    write(tmp_path, index='<a href="a.html#x">a</a>', a='<p id="x"><a href="#x">x</a></p>')
    assert list(problems(tmp_path)) == []


@pytest.mark.parametrize(
    ("markup", "problem"),
    [
        ('<script src="https://cdn.example/x.js"></script>', "index.html: loads https://cdn"),
        ('<link rel="stylesheet" href="//cdn.example/x.css">', "index.html: loads //cdn"),
        ('<a href="b.html">b</a>', "index.html: b.html does not exist"),
        ('<a href="a.html#y">a</a>', "index.html: a.html#y has no such heading"),
        ("", "a.html: no page of the site leads to it"),
    ],
)
def test_a_broken_or_external_address_is_a_problem(tmp_path, markup, problem):
    write(tmp_path, index=f"{markup}{markup and '<a href=a.html>a</a>'}", a='<p id="x">')
    (line,) = problems(tmp_path)
    assert line.startswith(problem)


def test_a_style_sheet_with_a_font_from_elsewhere_is_a_problem(tmp_path):
    write(tmp_path, index="")
    (tmp_path / "a.css").write_text("@font-face { src: url(https://fonts.example/a.woff2) }")
    assert list(problems(tmp_path)) == ["a.css: loads https://fonts.example/a.woff2"]


def test_the_list_of_versions_has_the_development_version_and_then_the_latest(tmp_path):
    for name in ("0.9.0", "0.10.0", "development"):
        (tmp_path / name).mkdir()
        write(tmp_path / name, index="")
    names = re.findall(r'<li><a href="([^/]+)/index.html">', build.list_versions(tmp_path))
    assert names == ["development", "0.10.0", "0.9.0"]


def deletions(monkeypatch):
    """Return the directories that a build deletes; nothing is deleted or built."""
    deleted: list = []
    failed = subprocess.CompletedProcess[str]([], 1)
    monkeypatch.setattr(build, "write_source", lambda source: None)
    monkeypatch.setattr(shutil, "rmtree", lambda path, **_: deleted.append(path))
    monkeypatch.setattr(subprocess, "run", lambda command, **_: failed)
    return deleted


@pytest.mark.parametrize("version", ["", ".", "..", "../../..", "/", "a/b", "-x", "1.0\n", "ä"])
def test_a_version_that_is_no_name_of_a_directory_deletes_nothing(
    tmp_path, monkeypatch, capsys, version
):
    deleted = deletions(monkeypatch)
    assert build.build(build.Build(version, tmp_path)) == 2
    assert "--version: must begin with a letter or digit" in capsys.readouterr().err
    assert deleted == []


@pytest.mark.parametrize("version", ["development", "0.2.0", "1.0.0-rc.1+local_2"])
def test_a_build_deletes_the_site_of_its_version_alone(tmp_path, monkeypatch, version):
    deleted = deletions(monkeypatch)
    assert build.build(build.Build(version, tmp_path)) == 1
    assert deleted == [tmp_path.resolve() / version]


def pins_of(name):
    """Return the versions of a file of pins by the normalised names of the packages."""
    lines = (ROOT / name).read_text("utf-8").splitlines()
    pins = [line for line in lines if not line.startswith("#")]
    assert all(re.fullmatch(r"[A-Za-z0-9_.-]+==[\w.]+", line) for line in pins)
    pairs = (line.split("==") for line in pins)
    return {re.sub(r"[-_.]+", "-", package).lower(): version for package, version in pairs}


def test_every_package_of_the_generator_is_pinned_as_elsewhere():
    of_generator, elsewhere = pins_of("docs/site/requirements.txt"), pins_of("constraints.txt")
    assert {"sphinx", "myst-parser"} <= of_generator.keys()
    shared = of_generator.keys() & elsewhere.keys()
    assert len(shared) > 10
    # The generator takes no later docutils; elsewhere it renders the README for an index.
    assert {name for name in shared if of_generator[name] != elsewhere[name]} == {"docutils"}
