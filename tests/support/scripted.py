"""A server that responds or misbehaves by script, and the bytes of its responses."""

from __future__ import annotations

import contextlib
import json
import socket
import socketserver
import struct
import threading

PATIENT_MS = 30_000  # a machine of two shared cores stalls now and then
# Ways for a scripted server to misbehave.
HANG, RESET, TRICKLE, CUT = "hang", "reset", "trickle", "cut"


def reply(status=200, body=b"{}", **headers):
    """Return the bytes of a response that closes its connection."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    lines = [f"HTTP/1.1 {status} X", f"Content-Length: {len(content)}", "Connection: close"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode() + content


def response_to(body, request_id="r", degraded=None):
    """Return the JSON of a service that reverses the list."""
    ids = [candidate["id"] for candidate in body["candidates"]]
    entry = dict.fromkeys(("logprob", "entropy", "entropy_after"), -1.5)
    return {
        "request_id": request_id,
        "model": {"name": "turn", "version": "7", "variant": "active"},
        "slate": [
            {"id": item, "position": i, "initial_position": len(ids) - 1 - i, **entry,
             "reasoning_steps": 2}
            for i, item in enumerate(ids[::-1])
        ],
        "reasoning": {"steps_used": 2 * len(ids), "budget": 30, "budget_per_position": 3,
                      "budget_asked": 3, "entropy_threshold": 2.5},
        "utility": None,
        "unknown_candidates": 1,
        "latency_ms": {"total": 2.0, "inference": 1.0},
        "degraded": degraded,
    }  # fmt: skip


class Scripted(socketserver.ThreadingTCPServer):
    """Send the n-th reply to the n-th request, and the last reply to all later ones.

    A reply is bytes, a function of the body and id of the request, or one of the ways to misbehave.
    """

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, replies):
        super().__init__(("127.0.0.1", 0), Handler)
        self.replies, self.requests, self.closing = replies, [], threading.Event()
        self.url = f"http://127.0.0.1:{self.server_address[1]}"


class Handler(socketserver.StreamRequestHandler):
    server: Scripted

    def handle(self):
        if not self.rfile.readline():
            return
        headers = {}
        while line := self.rfile.readline().strip():
            name, _, value = line.decode().partition(": ")
            headers[name.lower()] = value
        body = json.loads(self.rfile.read(int(headers["content-length"])))
        count = len(self.server.requests)
        self.server.requests.append((headers, body))
        action = self.server.replies[min(count, len(self.server.replies) - 1)]
        if action == HANG:
            self.server.closing.wait(10)
        elif action == RESET:
            linger = struct.pack("ii", 1, 0)  # close with RST
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        elif action == CUT:
            self.wfile.write(reply(body=b" " * 100)[:-50])
        elif action == TRICKLE:
            self.wfile.write(reply(body=b" " * 1000)[:-1000])
            with contextlib.suppress(OSError):
                while not self.server.closing.wait(0.02):
                    self.wfile.write(b" ")
        else:
            request_id = headers.get("x-request-id")
            self.wfile.write(action if isinstance(action, bytes) else action(body, request_id))


@contextlib.contextmanager
def scripted(*replies):
    server = Scripted(replies)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.closing.set()
        server.shutdown()
        thread.join()
        server.server_close()
