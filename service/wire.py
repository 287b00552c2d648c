"""How uvicorn serves the application, and what it answers itself before there is a request."""

from __future__ import annotations

import uuid

import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from service.errors import problem_of


class Protocol(HttpToolsProtocol):
    """Refuses what is not HTTP with a problem, like everything else that is refused."""

    def send_400_response(self, msg: str) -> None:
        """Answer 400 `bad_http` and close the connection: where the next request begins is lost."""
        request_id = uuid.uuid4().hex
        headers = {"X-Request-ID": request_id, "Connection": "close"}
        answer = problem_of(400, "bad_http", msg, request_id, headers=headers)
        lines = [b"%b: %b\r\n" % pair for pair in answer.raw_headers]
        self.transport.write(b"".join([STATUS_LINE[400], *lines, b"\r\n", bytes(answer.body)]))
        self.transport.close()


def config(app: FastAPI, log_level: str) -> uvicorn.Config:
    """Of the server. No WebSockets, whose handshake another library would refuse in its own way."""
    return uvicorn.Config(
        app,
        http=Protocol,
        ws="none",
        log_level=log_level,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=10,
    )
