"""Chromium, driven by Playwright, for tests of pages that the service serves."""

import contextlib
import shutil
from pathlib import Path
from urllib.parse import urlsplit

import pytest

VIOLATIONS = {"resultTypes": ["violations"]}
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)


def require_chromium():
    """Skip the tests of a module where browser or driver are not installed."""
    pytest.importorskip("playwright.sync_api", reason="no Playwright, which drives the browser")
    if CHROMIUM is None:
        pytest.skip("no Chromium: .ci/setup installs it", allow_module_level=True)


@contextlib.contextmanager
def chromium():
    """Yield a browser without a window, which has no sandbox because tests may run as root."""
    from playwright.sync_api import sync_playwright

    arguments = ["--disable-dev-shm-usage", "--disable-gpu", "--force-color-profile=srgb"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=arguments)
        try:
            yield browser
        finally:
            browser.close()


class Watched:
    """A tab, with everything that it logged as an error and every host that it called.

    page      of Playwright
    errors    texts of console errors, of exceptions, and of violations of the policy
    requests  URLs
    """

    def __init__(self, context, refusals=()):
        """Open a tab; refusals: statuses of responses that are no errors."""
        self._refusals = [f"status of {status} " for status in refusals]
        self.errors: list[str] = []
        self.requests: list[str] = []
        self.page = context.new_page()
        self.page.on("console", self._log)
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))

    def _log(self, message):
        expected = any(text in message.text for text in self._refusals)
        if message.type in ("error", "warning") and not expected:
            self.errors.append(message.text)

    def hosts(self):
        """Return host and port of every request over a network."""
        return {urlsplit(url).netloc for url in self.requests if not url.startswith("data:")}


def axe_source():
    """Return the accessibility checker axe-core, which a package brings."""
    from importlib.util import find_spec

    spec = find_spec("axe_playwright_python")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    return (Path(spec.submodule_search_locations[0]) / "axe.min.js").read_text("utf-8")


def serious_problems(page, rules=None):
    """Return what axe-core calls serious or critical by all or some rules, a line each."""
    if not page.evaluate("'axe' in window"):
        page.evaluate(axe_source())
    only = {} if rules is None else {"runOnly": rules}
    result = page.evaluate("(options) => axe.run(document, options)", {**only, **VIOLATIONS})
    return [
        f"{problem['id']}: {node['target']} {node['failureSummary']}"
        for problem in result["violations"]
        if problem["impact"] in ("serious", "critical")
        for node in problem["nodes"]
    ]
