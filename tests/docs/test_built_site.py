"""The built site in Chromium, where `make docs` has been run: it passes axe and loads nothing."""

import functools
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest

from tests.support.browsers import Watched, chromium, require_chromium, serious_problems
from tests.support.bundles import ROOT

SITE = ROOT / "build" / "docs" / "site"
if not (SITE / "development" / "index.html").is_file():
    pytest.skip("no site: make docs builds it", allow_module_level=True)
require_chromium()


class Quiet(SimpleHTTPRequestHandler):
    """Serves files without a line for each."""

    def log_message(self, *arguments):
        """Log nothing."""


@pytest.fixture(scope="module")
def url():
    handler = functools.partial(Quiet, directory=SITE)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join(10)


@pytest.fixture(scope="module")
def browser():
    with chromium() as started:
        yield started


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(
    "path",
    ["index.html", "development/index.html", "development/reports/budget.html",
     "development/search.html?q=diversity"],
)  # fmt: skip
def test_a_page_loads_only_from_its_server_and_has_no_serious_problem(browser, url, path, scheme):
    context = browser.new_context(color_scheme=scheme)
    tab = Watched(context)
    tab.page.goto(f"{url}/{path}", wait_until="networkidle")
    assert tab.errors == []
    assert {f"http://{host}" for host in tab.hosts()} == {url}
    assert serious_problems(tab.page) == []  # loads style sheets again
    context.close()


def test_the_search_finds_a_setting_of_the_service(browser, url):
    context = browser.new_context()
    page = context.new_page()
    page.goto(f"{url}/development/search.html?q=RERANK_STATE_TIMEOUT_MS")
    result = page.locator("ul.search li a", has_text="The service").first
    result.wait_for()
    assert "service.html" in result.get_attribute("href")
    context.close()
