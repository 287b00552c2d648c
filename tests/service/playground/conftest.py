"""A service with the page, a tab that shows it, and its modules in Node."""

import json
import shutil
import subprocess

import httpx
import pytest

from service.http.playground import DIRECTORY
from tests.support.browsers import Watched, chromium
from tests.support.playground import NODE
from tests.support.servers import fresh

WAIT_MS = 30_000
VIEW = {"width": 1280, "height": 900}


@pytest.fixture(scope="module")
def service_url(session, tmp_path_factory):
    """The base URL of a service with the page and an entity store."""
    directory = tmp_path_factory.mktemp("playground-state")
    with fresh(session, playground=True, state=f"lmdb://{directory}") as url:
        yield url


@pytest.fixture(scope="module")
def browser():
    """One browser for the tests of a module, which wait as long as a busy machine may take."""
    from playwright.sync_api import expect

    expect.set_options(timeout=WAIT_MS)
    with chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def ranked(service_url):
    """A function that returns the ids of the slate of a request, as text."""
    with httpx.Client(base_url=service_url, timeout=60) as client:

        def ranking(request):
            response = client.post("/rerank", json=request).raise_for_status().json()
            return [str(entry["id"]) for entry in response["slate"]]

        yield ranking


@pytest.fixture(scope="module")
def context(browser, service_url):
    """The profile of most tabs, which keeps the files of the page."""
    context = browser.new_context(viewport=VIEW, reduced_motion="reduce")
    context.grant_permissions(["clipboard-read", "clipboard-write"], origin=service_url)
    with context:
        yield context


@pytest.fixture
def opened(browser, context, service_url):
    """A function that opens the page in a tab of its own, ranked once; options: of a new profile.

    On the way out, no tab may have logged an error or called another host, but Chromium logs each
    refusal: `refusals` has the statuses that a test expects.
    """
    tabs, contexts = [], []

    def opening(fragment="", refusals=(), **options):
        if options:
            contexts.append(browser.new_context(reduced_motion="reduce", **options))
        tabs.append(Watched(contexts[-1] if options else context, refusals))
        page = tabs[-1].page
        page.set_default_timeout(WAIT_MS)
        page.goto(f"{service_url}/playground{fragment}")
        page.locator("#ranked > li").first.wait_for()
        return page

    yield opening
    problems = [(tab.errors, tab.hosts() - {service_url.removeprefix("http://")}) for tab in tabs]
    for each in (*(tab.page for tab in tabs), *contexts):
        each.close()
    assert [each for each in problems if each != ([], set())] == []


@pytest.fixture(scope="module")
def modules(tmp_path_factory):
    """A copy of the modules that Node takes for such, whatever its version."""
    if not NODE:
        pytest.skip("no Node, which runs the modules")
    directory = tmp_path_factory.mktemp("modules")
    for name in ("requests.js", "measures.js", "service.js", "search.js", "reasons.js"):
        shutil.copy(DIRECTORY / name, directory / name)
    (directory / "package.json").write_text('{"type": "module"}')
    return directory


@pytest.fixture(scope="module")
def evaluate(modules):
    """Return the JSON of an expression over the modules.

    `data` is the value of the test, and `respond` the code of a function that maps a list and the
    number of its call, from 1, to its response; `sent` then has the lists of each call.
    """

    def run(expression, data=None, respond="() => null"):
        program = (
            'import * as r from "./requests.js"; import * as m from "./measures.js";'
            'import * as s from "./service.js"; import * as f from "./search.js";'
            'import * as w from "./reasons.js";'
            "globalThis.sessionStorage = { getItem: () => null }; const sent = [];"
            "globalThis.fetch = async (url, { body }) => {"
            "  const { requests } = JSON.parse(body); sent.push(requests);"
            f"  const responses = requests.map((list) => ({respond})(list, sent.length));"
            "  return { ok: true, text: async () => JSON.stringify({ responses }) }; };"
            f"const data = {json.dumps(data)};"
            f"console.log(JSON.stringify(await ({expression})) ?? null);"
        )
        done = subprocess.run(
            [NODE, "--input-type=module", "--eval", program],
            cwd=modules, capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return run
