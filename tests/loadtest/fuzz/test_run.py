"""The fuzzer passes the service and reports a server that is wrong on purpose."""

import contextlib
import http.server
import json
import subprocess
import sys
import threading
from typing import Any, ClassVar

import pytest

from loadtest.fuzz.bundle import Bundle
from loadtest.fuzz.findings import Findings
from loadtest.fuzz.run import send_and_check
from service.engine.session import Session
from tests.support.bundles import BUNDLE, ROOT
from tests.support.servers import application


def test_the_service_keeps_its_contract(tmp_path):
    out = tmp_path / "fuzz.json"
    done = subprocess.run(
        [sys.executable, "-m", "loadtest", "fuzz", "--requests", "300", "--out", str(out)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    outcome = json.loads(out.read_text(encoding="utf-8"))
    requests, checks = outcome["requests"], outcome["checks"]
    assert (sum(requests.values()), requests["document"]) == (300, 150)
    assert sum(outcome["manners"].values()) == sum(outcome["statuses"].values()) == 300
    assert {"200", "400", "422"} <= outcome["statuses"].keys()
    assert checks["candidates"]["made"] > 20
    assert checks["twins"]["made"] > 2
    assert outcome["commit"].startswith(head_commit())
    assert [name for name, check in checks.items() if check["failed"]] == []


def head_commit():
    command = ["git", "rev-parse", "HEAD"]
    return subprocess.check_output(command, cwd=ROOT, text=True).strip()


class Wrong(http.server.BaseHTTPRequestHandler):
    """Repeat the first candidate of a readable body; fail with an HTML page for other bodies."""

    protocol_version = "HTTP/1.1"
    document: ClassVar[dict[str, Any]] = {}
    info: ClassVar[dict[str, Any]] = {}

    def do_GET(self):
        self.answer(200, {"/openapi.json": self.document, "/info": self.info}.get(self.path, {}))

    def do_POST(self):
        content = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        try:
            first = json.loads(content)["candidates"][0]["id"]
        except (ValueError, LookupError, TypeError):
            self.answer(500, "<pre>Traceback (most recent call last)</pre>", "text/html")
            return
        entry = {"id": first, "initial_position": 0, "logprob": -1.0, "entropy": 1.0}
        more = {"entropy_after": 1.0, "reasoning_steps": 0}
        stages = ("total", "parse", "features", "queue", "inference", "respond")
        self.answer(200, {
            "request_id": "1",
            "model": {"name": "wrong", "version": "1", "variant": "active"},
            "slate": [{**entry, **more, "position": position} for position in range(2)],
            "reasoning": {"steps_used": 1, "budget": 6, "budget_per_position": 3,
                          "budget_asked": 3, "entropy_threshold": 0.0},
            "utility": None,
            "unknown_candidates": 0,
            "latency_ms": dict.fromkeys(stages, 0.0),
            "degraded": None,
        })  # fmt: skip

    def answer(self, status, content, kind="application/json"):
        body = content.encode() if isinstance(content, str) else json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def wrong():
    """Yield the URL of a server that publishes the service's document and breaks it."""
    Wrong.document = application(Session.load(BUNDLE)).openapi()
    Wrong.info = {"slate_length": 10, "budget_per_position": 3}
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Wrong)
    with contextlib.closing(server.socket):
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


def look(error):
    return lambda: [("alive", error)]


def test_the_mistakes_of_a_wrong_server_are_reported(wrong):
    findings = Findings()
    send_and_check(wrong, Bundle.read(BUNDLE), 200, 0, look(None), findings)
    assert {"no_server_error", "problem", "candidates", "steps"} <= findings.failed.keys()
    errors = {(example["check"], example["wrong"]) for example in findings.examples}
    assert ("no_server_error", "status 500") in errors
    assert ("problem", "content type text/html") in errors
    assert any("an id is repeated" in text for check, text in errors if check == "candidates")


def test_the_end_of_the_service_is_reported_and_ends_the_run(wrong):
    findings = Findings()
    send_and_check(wrong, Bundle.read(BUNDLE), 200, 0, look("the process has ended"), findings)
    assert findings.failed["alive"] == 1
    assert findings.sent.total() < 200
