"""Node and Java programs against a live service: those in examples/, and what a new user tries."""

import contextlib
import json
import shutil
import socket
import subprocess
import threading
import time
from pathlib import Path

import pytest

from rerank_client import Client
from tests.support.scripted import HANG, PATIENT_MS, RESET, TRICKLE, reply, scripted
from tests.support.stub_servers import unused_url

EXAMPLES = Path(__file__).parents[2] / "examples"
BIG = 2**53 + 1  # a double cannot hold it
LISTS: tuple[tuple[list[str | int], int], ...] = (
    (["1036", "10", "1042", "47", "50"], 3),
    ([260, 1196, BIG, 1210], 4),
)
INITIAL = "".join(" ".join(map(str, ids[:size])) + "\n" for ids, size in LISTS)
# `fetch` opens a second connection for a call that follows at once on another.
CONNECTIONS = {"node": 2, "java": 1}
CALLS = 6
PROGRAMS: dict[str, list[str | Path]] = {
    "node": [EXAMPLES / "rank.mjs"],
    "java": ["-XX:TieredStopAtLevel=1", EXAMPLES / "Rank.java"],
}
NODE_POST = """
const body = JSON.parse(process.argv[2]);
const { gzipSync } = await import("node:zlib");
const zipped = process.argv[3] === "gzip";
const headers = { "Content-Type": "application/json" };
if (zipped) headers["Content-Encoding"] = "gzip";
const text = JSON.stringify(body);
for (let i = 0; i < CALLS; i++) {
  const response = await fetch(process.argv[1], {
    method: "POST", headers, body: zipped ? gzipSync(text) : text,
  });
  console.log(response.status + " " + (await response.text()));
}
"""
JAVA_POST = """
import java.io.ByteArrayOutputStream;
import java.net.URI;
import java.net.http.*;
import java.util.zip.GZIPOutputStream;

public class Post {
    public static void main(String[] arguments) throws Exception {
        var buffer = new ByteArrayOutputStream();
        var request = HttpRequest.newBuilder(URI.create(arguments[0]));
        request.header("Content-Type", "application/json");
        if (arguments[2].equals("gzip")) {
            request.header("Content-Encoding", "gzip");
            try (var zip = new GZIPOutputStream(buffer)) { zip.write(arguments[1].getBytes()); }
        } else {
            buffer.write(arguments[1].getBytes());
        }
        request.POST(HttpRequest.BodyPublishers.ofByteArray(buffer.toByteArray()));
        var client = HttpClient.newHttpClient();
        for (int i = 0; i < CALLS; i++) {
            var response = client.send(request.build(), HttpResponse.BodyHandlers.ofString());
            System.out.println(response.statusCode() + " " + response.body());
        }
    }
}
"""


@pytest.fixture(params=PROGRAMS)
def runtime(request):
    if shutil.which(request.param) is None:
        pytest.skip(f"{request.param} is not installed")
    return request.param


def run(runtime, *arguments):
    command = [runtime, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def post(runtime, directory, url, body, encoding="plain"):
    """Send a body CALLS times with the defaults of the runtime; return each status and its JSON."""
    arguments = [f"{url}/rerank", json.dumps(body), encoding]
    if runtime == "node":
        done = run(
            runtime,
            "--input-type=module",
            "-e",
            NODE_POST.replace("CALLS", str(CALLS)),
            "--",
            *arguments,
        )
    else:
        source = directory / "Post.java"
        source.write_text(JAVA_POST.replace("CALLS", str(CALLS)), encoding="utf-8")
        done = run(runtime, "-XX:TieredStopAtLevel=1", source, *arguments)
    assert done.returncode == 0, done.stderr
    lines = [line.partition(" ") for line in done.stdout.splitlines()]
    return [(int(status), json.loads(text)) for status, _, text in lines]


@contextlib.contextmanager
def counted(url):
    """Yield the URL of a forwarder to `url`, and the list of the connections it accepted."""
    host, port = url.removeprefix("http://").split(":")
    listener = socket.create_server(("127.0.0.1", 0))
    accepted: list[socket.socket] = []
    forwarded: list[socket.socket] = []

    def pump(source, target):
        with contextlib.suppress(OSError):
            while chunk := source.recv(65536):
                target.sendall(chunk)
        with contextlib.suppress(OSError):
            target.shutdown(socket.SHUT_RDWR)

    def accept():
        with contextlib.suppress(OSError):
            while True:
                near = listener.accept()[0]
                accepted.append(near)
                far = socket.create_connection((host, int(port)))
                forwarded.append(far)
                for pair in ((near, far), (far, near)):
                    threads.append(threading.Thread(target=pump, args=pair))
                    threads[-1].start()

    threads = [threading.Thread(target=accept)]
    threads[0].start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}", accepted
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        for connection in (*accepted, *forwarded):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        for thread in threads:
            thread.join(30)
        for connection in (listener, *accepted, *forwarded):
            connection.close()


def test_an_example_sends_an_integer_beyond_a_double_exactly(runtime):
    with scripted(reply(503, Retry_After="1")) as server:
        run(runtime, *PROGRAMS[runtime], server.url)
    # Node's JSON has no form for a BigInt; its text is the same id.
    big = str(BIG) if runtime == "node" else BIG
    assert [body["candidates"] for _, body in server.requests] == [
        LISTS[0][0],
        [260, 1196, big, 1210],
    ]


def test_integer_ids_come_back_as_the_runtime_sent_them(runtime, url, tmp_path):
    big = str(BIG) if runtime == "node" else BIG
    candidates = [260, big, -5, "1196"]
    body = {"candidates": candidates, "constraints": {"pinned": {str(BIG): 0}, "blocked": ["260"]}}
    with counted(url) as (forwarder, connections):
        responses = post(runtime, tmp_path, forwarder, body)
        assert len(connections) <= CONNECTIONS[runtime]
    assert [status for status, _ in responses] == [200] * CALLS
    for _, response in responses:
        ids = [entry["id"] for entry in response["slate"]]
        assert ids[0] == big
        assert sorted(map(repr, ids)) == sorted(map(repr, candidates[1:]))


def test_an_example_gets_the_slates_of_the_python_client_and_keeps_its_connection(runtime, url):
    with Client(url, timeout_ms=PATIENT_MS) as client:
        slates = [client.rerank(ids, slate_size=size).ids for ids, size in LISTS]
    with counted(url) as (forwarder, connections):
        done = run(runtime, *PROGRAMS[runtime], forwarder)
        assert (done.stderr, done.returncode) == ("", 0)
        assert len(connections) <= CONNECTIONS[runtime]
    assert done.stdout == "".join(f"{' '.join(map(str, ids))}\n" for ids in slates)


def test_an_example_falls_back_when_nothing_listens(runtime):
    with unused_url() as down:
        done = run(runtime, *PROGRAMS[runtime], down)
    assert (done.stdout, done.returncode) == (INITIAL, 0)
    assert done.stderr.count("fallback: ") == 2


@pytest.mark.parametrize("act", [HANG, TRICKLE])
def test_an_example_falls_back_at_the_deadline(runtime, act):
    with scripted(act) as server:
        began = time.monotonic()
        done = run(runtime, *PROGRAMS[runtime], server.url)
        assert (done.stdout, done.returncode) == (INITIAL, 0)
        assert done.stderr.count("fallback: ") == 2
        assert len(server.requests) == 2
        assert 2.1 <= time.monotonic() - began < 9  # two deadlines; the server hangs for 10 s
        assert server.requests[0][0]["x-request-timeout-ms"] == "1000"


@pytest.mark.parametrize("act", [RESET, reply(500, b"<html>"), reply(503, Retry_After="1")])
def test_an_example_falls_back_after_a_failure_of_the_service(runtime, act):
    with scripted(act) as server:
        done = run(runtime, *PROGRAMS[runtime], server.url)
    assert (done.stdout, done.returncode) == (INITIAL, 0)
    assert done.stderr.count("fallback: ") == 2


def test_an_example_ends_with_the_refusal_and_does_not_fall_back(runtime):
    for act in (reply(422, {"code": "invalid_request"}), reply(403, b"<html>no entry</html>")):
        with scripted(act) as server:
            done = run(runtime, *PROGRAMS[runtime], server.url)
        assert done.stdout == ""
        assert done.returncode == 1
        assert any(text in done.stderr for text in ('422: {"code"', "403: <html>no entry</html>"))


def test_a_compressed_body_is_refused_with_415_and_the_remedy(runtime, url, tmp_path):
    with counted(url) as (forwarder, connections):
        responses = post(runtime, tmp_path, forwarder, {"candidates": ["1", "32"]}, "gzip")
        assert len(connections) <= CONNECTIONS[runtime]  # a refusal keeps the connection
    assert [status for status, _ in responses] == [415] * CALLS
    assert responses[0][1]["detail"] == (
        "header Content-Encoding: send the body uncompressed, got 'gzip'"
    )


def test_a_null_for_an_option_is_accepted_with_the_defaults_of_the_runtime(runtime, url, tmp_path):
    options = dict.fromkeys(("user", "slate_size", "reasoning", "constraints", "model"))
    with counted(url) as (forwarder, connections):
        responses = post(runtime, tmp_path, forwarder, {"candidates": ["1", "32"], **options})
        assert len(connections) <= CONNECTIONS[runtime]
    assert [status for status, _ in responses] == [200] * CALLS
    assert {entry["id"] for entry in responses[0][1]["slate"]} == {"1", "32"}
