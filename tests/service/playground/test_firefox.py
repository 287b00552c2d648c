"""The page /playground in Firefox: it ranks, shows the steps, and logs no error.

Playwright drives a Firefox of its own only, so this test speaks WebDriver BiDi with Debian's.
"""

import contextlib
import itertools
import json
import re
import shutil
import subprocess
import time
from urllib.parse import urlsplit

import httpx
import pytest

from tests.support.servers import fresh

FIREFOX = next(filter(None, map(shutil.which, ("firefox-esr", "firefox"))), None)
websocket = pytest.importorskip("websocket", reason="no websocket-client, which drives Firefox")
START_S = 60.0
# The ids of the slate once the page has ranked and shows the states of the first position.
LOOK = """
(async () => {
  const ready = () => document.querySelector("#ranked > li") !== null
    && document.querySelector("#thinking svg") !== null;
  for (let tries = 0; !ready() && tries < 600; tries++)
    await new Promise((resolve) => setTimeout(resolve, 50));
  return JSON.stringify({
    slate: [...document.querySelectorAll("#ranked > li")].map((item) => item.dataset.id),
    request: document.querySelector("#json").value,
    states: document.querySelectorAll("#thinking svg").length,
  });
})()
"""

pytestmark = pytest.mark.skipif(FIREFOX is None, reason="no Firefox (Debian: firefox-esr)")


class Tab:
    """A tab of Firefox: `call` sends a command, `events` are those that came meanwhile."""

    def __init__(self, address):
        self._socket = websocket.create_connection(
            f"{address}/session", timeout=START_S, suppress_origin=True
        )
        self._numbers, self.events = itertools.count(), []

    def call(self, method, **parameters):
        number = next(self._numbers)
        self._socket.send(json.dumps({"id": number, "method": method, "params": parameters}))
        while True:
            message = json.loads(self._socket.recv())
            if message.get("id") == number:
                assert message["type"] == "success", message
                return message["result"]
            self.events.append(message)

    def close(self):
        self._socket.close()


@contextlib.contextmanager
def firefox(profile):
    """Yield a tab of a browser without a window."""
    assert FIREFOX is not None
    command = [FIREFOX, "--headless", "--no-remote", "--profile", str(profile),
               "--remote-debugging-port", "0"]  # fmt: skip
    log = profile / "log"
    with log.open("wb") as file:
        process = subprocess.Popen(command, stdout=file, stderr=file)
    try:
        tab = Tab(address_in(log, process))
        try:
            tab.call("session.new", capabilities={})
            yield tab
        finally:
            tab.close()
    finally:
        process.kill()
        process.wait()


def address_in(log, process):
    """Return the address that the browser prints once it can be driven."""
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline and process.poll() is None:
        if match := re.search(r"WebDriver BiDi listening on (ws://\S+)", log.read_text("utf-8")):
            return match[1]
        time.sleep(0.05)
    raise AssertionError(log.read_text("utf-8"))


def test_firefox_shows_the_slate_of_the_service_and_its_steps(session, tmp_path):
    profile = tmp_path / "profile"
    profile.mkdir()
    with fresh(session, playground=True) as url, firefox(profile) as tab:
        events = ["log.entryAdded", "network.beforeRequestSent"]
        tab.call("session.subscribe", events=events)
        (context,) = (each["context"] for each in tab.call("browsingContext.getTree")["contexts"])
        page = f"{url}/playground"
        tab.call("browsingContext.navigate", context=context, url=page, wait="complete")
        evaluated = tab.call(
            "script.evaluate", expression=LOOK, target={"context": context}, awaitPromise=True
        )
        page_state = json.loads(evaluated["result"]["value"])
        request = json.loads(page_state["request"])
        response = httpx.post(f"{url}/rerank", json=request, timeout=60).raise_for_status().json()
    assert page_state["slate"] == [entry["id"] for entry in response["slate"]]
    assert page_state["states"] >= len(page_state["slate"])
    logged = [each["params"] for each in tab.events if each["method"] == events[0]]
    assert [each for each in logged if each["level"] in ("error", "warn")] == []
    called = [
        each["params"]["request"]["url"] for each in tab.events if each["method"] == events[1]
    ]
    assert {urlsplit(each).netloc for each in called if not each.startswith("data:")} == {
        urlsplit(url).netloc
    }
