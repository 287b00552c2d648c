"""The page /playground over HTTP: setting, keys, headers, and the files that it names."""

import base64
import json
import re

import httpx
import pytest

from service.http.playground import DIRECTORY, MEDIA_TYPES
from service.settings import Settings
from tests.support.bodies import problem_of
from tests.support.servers import fresh

KEY = "an-api-key-of-32-characters-xxxx"
FILES = sorted(path.name for path in DIRECTORY.iterdir() if path.name != "index.html")


@pytest.fixture(scope="module")
def page(session):
    """A client of a service with the page and without keys."""
    with (
        fresh(session, playground=True) as url,
        httpx.Client(base_url=url, timeout=30) as client,
    ):
        yield client


def basic(user, key):
    return "Basic " + base64.b64encode(f"{user}:{key}".encode()).decode()


def test_the_page_is_off_unless_a_setting_asks_for_it(client):
    assert problem_of(client.get("/playground"), 404)["code"] == "not_found"
    assert problem_of(client.get("/playground/playground.js"), 404)["code"] == "not_found"


def test_a_browser_may_run_no_inline_code_and_load_nothing_from_elsewhere(page):
    for path in ("/playground", *(f"/playground/{name}" for name in FILES)):
        policy = page.get(path).headers["content-security-policy"]
        directives = dict(part.strip().split(" ", 1) for part in policy.split(";"))
        assert directives["default-src"] == "'none'"
        assert directives["require-trusted-types-for"] == "'script'"
        sources = {source for text in directives.values() for source in text.split()}
        assert sources <= {"'none'", "'self'", "'script'"}


def test_the_page_has_no_inline_script_style_or_listener():
    text = (DIRECTORY / "index.html").read_text("utf-8")
    assert re.findall(r"<script(?![^>]*\bsrc=)[^>]*>|<style|\sstyle=|\son\w+=", text) == []
    assert re.findall(r"<script(?![^>]*\bsrc=)[^>]*>|<style|\sstyle=|\son\w+=", '<a onclick="x">')


def test_every_reference_of_page_style_and_modules_leads_to_a_file_of_the_service(page):
    text = (DIRECTORY / "index.html").read_text("utf-8")
    references = re.findall(r'(?:src|href)="(/[^"]*)"', text)
    for name in FILES:
        if name.endswith(".js"):
            module = (DIRECTORY / name).read_text("utf-8")
            imports = re.findall(r'from "\./([\w.]+)"', module)
            references += [f"/playground/{name}" for name in imports]
    assert {"/playground/playground.js", "/playground/dom.js", "/docs"} <= set(references)
    for reference in set(references):
        assert page.get(reference).status_code == 200, reference


def test_no_file_of_the_page_names_another_host():
    namespaces = {"http://www.w3.org/2000/svg"}
    for path in DIRECTORY.iterdir():
        hosts = set(re.findall(r"\w+://[^\s\"'`<>)]+", path.read_text("utf-8")))
        assert hosts <= namespaces, path.name


@pytest.mark.parametrize("name", FILES)
def test_a_file_has_its_type_and_is_sent_once(page, name):
    first = page.get(f"/playground/{name}")
    assert first.headers["content-type"] == MEDIA_TYPES[f".{name.rpartition('.')[2]}"]
    assert first.content == (DIRECTORY / name).read_bytes()
    tag = {"If-None-Match": first.headers["etag"]}
    again = page.get(f"/playground/{name}", headers=tag)
    assert (again.status_code, again.content) == (304, b"")
    assert page.get(f"/playground/{name}", headers={"If-None-Match": '"x"'}).status_code == 200


def test_head_and_a_slash_at_the_end_work_as_for_other_pages(page):
    assert page.head("/playground").headers["content-type"] == MEDIA_TYPES[".html"]
    assert page.get("/playground/").content == page.get("/playground").content
    assert problem_of(page.post("/playground"), 405)["code"] == "method_not_allowed"
    assert page.get("/playground/../settings.py").status_code == 404


def test_the_page_is_no_part_of_the_contract(page):
    assert not [path for path in page.get("/openapi.json").json()["paths"] if "play" in path]


@pytest.mark.parametrize("path", ["/playground", "/playground/playground.js"])
def test_page_and_files_need_a_key_where_there_are_keys(session, tmp_path, path):
    keys = tmp_path / "keys"
    keys.write_text(f"shop:{KEY}\n")
    with fresh(session, playground=True, api_keys_file=keys) as url:
        for wrong in (
            None,
            "Basic",
            "Basic *",
            basic("x", "wrong"),
            f"Bearer {KEY}x",
            basic(KEY, ""),
        ):
            headers = {} if wrong is None else {"Authorization": wrong}
            response = httpx.get(url + path, headers=headers)
            assert problem_of(response, 401)["code"] == "unauthorized"
            assert response.headers["www-authenticate"].startswith("Basic ")
            assert KEY not in response.text
        for right in (basic("", KEY), basic("anyone", KEY), f"Bearer {KEY}"):
            assert httpx.get(url + path, headers={"Authorization": right}).status_code == 200


def test_a_password_of_the_page_ranks_nothing(session, tmp_path):
    keys = tmp_path / "keys"
    keys.write_text(f"shop:{KEY}\n")
    with fresh(session, playground=True, api_keys_file=keys) as url:
        headers = {"Authorization": basic("anyone", KEY)}  # a browser sends it without being asked
        response = httpx.post(f"{url}/rerank", json={"candidates": ["1"]}, headers=headers)
        assert problem_of(response, 401)["code"] == "unauthorized"


def test_the_page_has_the_graphs_of_steps_preloaded_unless_the_settings_say_otherwise():
    assert Settings(playground=True).preload_steps
    assert not Settings(playground=True, preload_steps=False).preload_steps
    assert not Settings(playground=True, max_traces=0).preload_steps  # no list may have steps
    assert not Settings().preload_steps


def test_every_sample_is_ranked_in_full(page):
    samples = json.loads((DIRECTORY / "samples.json").read_text("utf-8"))
    assert len({sample["name"] for sample in samples}) == len(samples) >= 6
    for sample in samples:
        response = page.post("/rerank", json=sample["request"]).raise_for_status().json()
        assert response["degraded"] is None, sample["name"]


def test_the_sample_whose_name_says_so_is_changed_by_reasoning(page):
    samples = json.loads((DIRECTORY / "samples.json").read_text("utf-8"))

    def slate(request, **reasoning):
        body = {**request, "reasoning": reasoning}
        return [e["id"] for e in page.post("/rerank", json=body).raise_for_status().json()["slate"]]

    requests = {sample["name"]: sample["request"] for sample in samples}
    (changed,) = [requests[name] for name in requests if "reasoning changes" in name]
    assert slate(changed) != slate(changed, budget=0)
    still = requests["Twelve movies, diversity and a boost"]
    assert slate(still) == slate(still, budget=0)
