"""Stale reads are counted, and failed lookups are not taken for them."""

import asyncio
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar

import pytest
from tqdm import tqdm

from loadtest.scenarios import Catalogue
from loadtest.server import ServerError
from loadtest.state.calls import connected
from loadtest.state.visibility import try_pair
from tests.support.bundles import BUNDLE


class Store(BaseHTTPRequestHandler):
    """Acknowledges every event; each read sees all but the last `behind` events of a user."""

    protocol_version = "HTTP/1.1"
    behind, status = 0, "hit"
    counts: ClassVar[dict[str, int]] = {}

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path == "/feedback":
            user = body["events"][0]["user"]
            self.counts[user] = self.counts.get(user, 0) + 1
            answer = {"accepted": 1, "duplicates": 0, "refused": []}
        else:
            history = self.counts[body["user"]["id"]] - self.behind
            answer = {"state": {"user": self.status, "history": history}}
        content = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *arguments):
        """Print nothing."""


@pytest.fixture
def url():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Store)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def stale_reads(url, tries=8, answers=5):
    async def run():
        async with connected(url, url) as (writer, reader):
            bar = tqdm(disable=None)
            return await try_pair((writer, reader), Catalogue.of(BUNDLE), tries, answers, bar)

    return asyncio.run(run())


def test_reads_that_see_every_event_are_not_stale_and_later_ones_are(url, monkeypatch):
    assert stale_reads(url) == 0
    monkeypatch.setattr(Store, "behind", 1)
    assert stale_reads(url) == 8


def test_a_lookup_without_a_response_ends_the_measurement(url, monkeypatch):
    monkeypatch.setattr(Store, "status", "unavailable")
    with pytest.raises(ServerError, match="no response"):
        stale_reads(url)
